"""What metrics sum: how long batches and steps took, jobs by kind and status, and the memory that workers use."""

import sqlalchemy as sa
from alembic import op

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "tallies",
        sa.Column("subject_id", sa.String(length=40), nullable=False),
        sa.Column("what", sa.String(length=20), nullable=False),
        sa.Column("bucket", sa.Integer(), nullable=False),
        sa.Column("n", sa.BigInteger(), nullable=False),
        sa.Column("seconds", sa.Double(), nullable=False),
        sa.Column("tokens", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("subject_id", "what", "bucket"),
    )
    op.create_index("ix_jobs_kind_status", "jobs", ["kind", "status"])
    op.add_column("workers", sa.Column("memory_used_bytes", sa.BigInteger(), nullable=True))


def downgrade() -> None:
    op.drop_column("workers", "memory_used_bytes")
    op.drop_index("ix_jobs_kind_status", "jobs")
    op.drop_table("tallies")
