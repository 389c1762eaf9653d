"""Runs whose removal has begun say so, as prompt sets do: nobody finds them, and they cannot be restored."""

import sqlalchemy as sa
from alembic import op

revision = "0017"
down_revision = "0016"
branch_labels = None
depends_on = None

_RUNS = ("analyses", "statistics", "comparisons", "contexts", "trainings", "evaluations", "studies")


def upgrade() -> None:
    for table in _RUNS:
        op.add_column(table, sa.Column("purged", sa.Boolean(), nullable=False, server_default=sa.false()))


def downgrade() -> None:
    for table in _RUNS:
        op.drop_column(table, "purged")
