"""What each training step taught, and the routing consistency of its batch."""

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("training_steps", sa.Column("kind", sa.String(10), nullable=False, server_default="experts"))
    op.add_column("training_steps", sa.Column("consistency_loss", sa.Double(), nullable=True))


def downgrade() -> None:
    for name in ("kind", "consistency_loss"):
        op.drop_column("training_steps", name)
