"""How far an import is, why it failed, and which rows it left out."""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("datasets", sa.Column("stored", sa.Integer(), nullable=False, server_default="0"))
    op.add_column("datasets", sa.Column("error", sa.Text(), nullable=True))
    op.add_column("datasets", sa.Column("left_out", sa.JSON(), nullable=False, server_default="[]"))
    op.execute("UPDATE datasets SET stored = n_rows")


def downgrade() -> None:
    for name in ("stored", "error", "left_out"):
        op.drop_column("datasets", name)
