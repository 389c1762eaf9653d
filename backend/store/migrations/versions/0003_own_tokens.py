"""Which tokens of a prompt are its own, where those of the chat template are left out."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("batch_samples", sa.Column("own", sa.LargeBinary(), nullable=True))


def downgrade() -> None:
    op.drop_column("batch_samples", "own")
