"""Which beginning of a piece of work may write: what was taken over since may not."""

import sqlalchemy as sa
from alembic import op

revision = "0015"
down_revision = "0014"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("attempts", sa.Column("token", sa.String(40), nullable=False, server_default=""))


def downgrade() -> None:
    op.drop_column("attempts", "token")
