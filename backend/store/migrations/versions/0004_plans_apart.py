"""Plans in a table of their own.

The row of an analysis is written with every batch that lands, and SQLite writes a row whole: with a plan of 10,000
batches inside (5 MB) that cost 6 ms a batch.
"""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "analysis_plans",
        sa.Column("analysis_id", sa.String(length=40), nullable=False),
        sa.Column("plan", sa.LargeBinary(), nullable=False),
        sa.ForeignKeyConstraint(["analysis_id"], ["analyses.id"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("analysis_id"),
    )
    op.execute("INSERT INTO analysis_plans (analysis_id, plan) SELECT id, plan FROM analyses")
    op.drop_column("analyses", "plan")


def downgrade() -> None:
    op.add_column("analyses", sa.Column("plan", sa.LargeBinary(), nullable=True))
    op.execute(
        "UPDATE analyses SET plan = (SELECT plan FROM analysis_plans WHERE analysis_plans.analysis_id = analyses.id)"
    )
    with op.batch_alter_table("analyses", schema=None) as batch_op:
        batch_op.alter_column("plan", existing_type=sa.LargeBinary(), nullable=False)
    op.drop_table("analysis_plans")
