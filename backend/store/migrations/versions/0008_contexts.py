"""Experts in context: which experts share their tokens, and which tokens drive an expert."""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

_OF = ("contexts.id",)


def upgrade() -> None:
    op.create_table(
        "contexts",
        sa.Column("analysis_id", sa.String(40), nullable=False),
        sa.Column("engine", sa.String(20), nullable=False),
        sa.Column("scope", sa.String(10), nullable=False),
        sa.Column("params", sa.JSON(), nullable=False),
        sa.Column("next_batch", sa.Integer(), nullable=False),
        sa.Column("result", sa.JSON(), nullable=False),
        sa.Column("id", sa.String(40), nullable=False),
        sa.Column("name", sa.String(200), nullable=False),
        sa.Column("tags", sa.JSON(), nullable=False),
        sa.Column("notes", sa.Text(), nullable=False),
        sa.Column("status", sa.String(16), nullable=False),
        sa.Column("stage", sa.String(40), nullable=False),
        sa.Column("done", sa.Integer(), nullable=False),
        sa.Column("total", sa.Integer(), nullable=False),
        sa.Column("error", sa.Text(), nullable=True),
        sa.Column("environment", sa.JSON(), nullable=False),
        sa.Column("created_at", sa.String(40), nullable=False),
        sa.Column("started_at", sa.String(40), nullable=True),
        sa.Column("finished_at", sa.String(40), nullable=True),
        sa.Column("deleted_at", sa.String(40), nullable=True),
        sa.ForeignKeyConstraint(["analysis_id"], ["analyses.id"]),
        sa.PrimaryKeyConstraint("id"),
    )
    for column in ("analysis_id", "created_at", "status"):
        op.create_index(op.f(f"ix_contexts_{column}"), "contexts", [column], unique=False)
    op.create_table(
        "context_sites",
        sa.Column("context_id", sa.String(40), nullable=False),
        sa.Column("site", sa.Integer(), nullable=False),
        sa.Column("pairs", sa.LargeBinary(), nullable=False),
        sa.ForeignKeyConstraint(["context_id"], _OF, ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("context_id", "site"),
    )
    op.create_table(
        "context_tokens",
        sa.Column("context_id", sa.String(40), nullable=False),
        sa.Column("ids", sa.LargeBinary(), nullable=False),
        sa.Column("occurrences", sa.LargeBinary(), nullable=False),
        sa.Column("texts", sa.JSON(), nullable=False),
        sa.ForeignKeyConstraint(["context_id"], _OF, ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("context_id"),
    )
    op.create_table(
        "context_experts",
        sa.Column("context_id", sa.String(40), nullable=False),
        sa.Column("site", sa.Integer(), nullable=False),
        sa.Column("expert", sa.Integer(), nullable=False),
        sa.Column("hits", sa.LargeBinary(), nullable=False),
        sa.Column("shares", sa.LargeBinary(), nullable=False),
        sa.ForeignKeyConstraint(["context_id"], _OF, ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("context_id", "site", "expert"),
    )


def downgrade() -> None:
    for table in ("context_experts", "context_tokens", "context_sites", "contexts"):
        op.drop_table(table)
