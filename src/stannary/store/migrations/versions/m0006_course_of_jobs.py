"""What a job says of its course, in columns and tables of its own instead of one JSON member for all."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"

COLUMNS = {
    "first_open": "coalesce(json_extract(progress, '$.first_open'), 0)",
    "round": "coalesce(json_extract(progress, '$.round'), 0)",
    "loss": "json_extract(progress, '$.loss')",
    "heldout": "json_extract(progress, '$.heldout')",
    "ending_status": "json_extract(progress, '$.ending.status')",
    "ending_reason": "json_extract(progress, '$.ending.reason')",
    "ending_message": "json_extract(progress, '$.ending.message')",
}


def upgrade() -> None:
    """Add them, move what stands in `progress`, and drop it."""
    for name in ("first_open", "round"):
        op.add_column("jobs", sa.Column(name, sa.Integer(), server_default=sa.text("0"), nullable=False))
    for name in ("loss", "heldout", "ending_status", "ending_reason", "ending_message"):
        op.add_column("jobs", sa.Column(name, sa.Text()))
    op.create_table(
        "job_convictions",
        sa.Column("job", sa.Text(), nullable=False),
        sa.Column("node", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["job"], ["jobs.job"], name="fk_job_convictions_job"),
        sa.ForeignKeyConstraint(["node"], ["nodes.node"], name="fk_job_convictions_node"),
        sa.PrimaryKeyConstraint("job", "node", name="pk_job_convictions"),
    )
    op.create_table(
        "job_reports",
        sa.Column("job", sa.Text(), nullable=False),
        sa.Column("task", sa.Text(), nullable=False),
        sa.Column("operator", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["job"], ["jobs.job"], name="fk_job_reports_job"),
        sa.ForeignKeyConstraint(["task"], ["tasks.task"], name="fk_job_reports_task"),
        sa.PrimaryKeyConstraint("job", "task", "operator", name="pk_job_reports"),
    )
    op.execute("UPDATE jobs SET " + ", ".join(f"{name} = {value}" for name, value in COLUMNS.items()))  # noqa: S608
    op.execute(
        "INSERT INTO job_convictions SELECT jobs.job, said.value "
        "FROM jobs, json_each(jobs.progress, '$.convicted') said"
    )
    op.execute(
        "INSERT INTO job_reports SELECT jobs.job, failed.key, said.value "
        "FROM jobs, json_each(jobs.progress, '$.failures') failed, json_each(failed.value) said"
    )
    op.drop_column("jobs", "progress")
