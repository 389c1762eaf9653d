"""Runs whose removal has begun say so, as prompt sets do: nobody finds them, and they cannot be restored."""

from datetime import UTC, datetime

import sqlalchemy as sa
from alembic import op

revision = "0017"
down_revision = "0016"
branch_labels = None
depends_on = None

_RUNS = ("analyses", "statistics", "comparisons", "contexts", "trainings", "evaluations", "studies")


def upgrade() -> None:
    now = datetime.now(UTC).isoformat(timespec="microseconds")
    for table in _RUNS:
        op.add_column(table, sa.Column("purged", sa.Boolean(), nullable=False, server_default=sa.false()))
        runs = sa.table(table, sa.column("deleted_at", sa.String()))
        # until now one could be restored for ever, so the days in which it still can be begin here
        op.execute(runs.update().where(runs.c.deleted_at.is_not(None)).values(deleted_at=now))


def downgrade() -> None:
    for table in _RUNS:
        op.drop_column(table, "purged")
