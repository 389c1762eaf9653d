"""Many workers: numbers beyond 2^31 where PostgreSQL needs to be told, priorities, and how often work was begun.

A model of 30 billion parameters and a GPU of 80 GB do not fit the four bytes that PostgreSQL gives an integer.
"""

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None

WIDE = {"models": "n_parameters", "workers": "memory_bytes"}


def _width(of: sa.types.TypeEngine, to: sa.types.TypeEngine) -> None:
    for table, column in WIDE.items():
        with op.batch_alter_table(table, schema=None) as batch_op:
            batch_op.alter_column(column, existing_type=of, type_=to, existing_nullable=True)


def upgrade() -> None:
    _width(sa.Integer(), sa.BigInteger())
    op.add_column("jobs", sa.Column("priority", sa.Integer(), nullable=False, server_default="100"))
    op.create_table(
        "attempts",
        sa.Column("work", sa.String(length=100), nullable=False),
        sa.Column("mark", sa.String(length=80), nullable=False),
        sa.Column("n", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("work"),
    )


def downgrade() -> None:
    op.drop_table("attempts")
    op.drop_column("jobs", "priority")
    _width(sa.BigInteger(), sa.Integer())
