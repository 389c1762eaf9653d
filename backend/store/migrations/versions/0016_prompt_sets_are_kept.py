"""Prompt sets take tags and notes, and are deleted with undo; one that is deleted for good says so."""

import sqlalchemy as sa
from alembic import op

revision = "0016"
down_revision = "0015"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("datasets", sa.Column("tags", sa.JSON(), nullable=False, server_default="[]"))
    op.add_column("datasets", sa.Column("notes", sa.Text(), nullable=False, server_default=""))
    op.add_column("datasets", sa.Column("purged", sa.Boolean(), nullable=False, server_default=sa.false()))
    op.execute("UPDATE datasets SET purged = TRUE WHERE deleted_at IS NOT NULL")  # until now, that was for good
    op.create_index("ix_datasets_created_at", "datasets", ["created_at"])
    op.create_index("ix_datasets_status", "datasets", ["status"])


def downgrade() -> None:
    op.drop_index("ix_datasets_status", "datasets")
    op.drop_index("ix_datasets_created_at", "datasets")
    for name in ("tags", "notes", "purged"):
        op.drop_column("datasets", name)
