"""What a scan found that training cannot do with a model's experts and routers."""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("models", sa.Column("refuses", sa.JSON(), nullable=False, server_default="{}"))


def downgrade() -> None:
    op.drop_column("models", "refuses")
