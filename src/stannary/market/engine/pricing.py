"""What a task costs a job, and who is convicted in it."""

from __future__ import annotations

from typing import cast

from sqlalchemy.engine import Connection

from stannary.market.engine.frame import JobFrame
from stannary.store import jobs
from stannary.verify.settlement import price_of


def task_price(frame: JobFrame, num_steps: int, ask_usd_micros_per_hour: int) -> int:
    """Return the price of a task for a node that asks so much."""
    return price_of(num_steps, frame.step_ms, ask_usd_micros_per_hour)


def convicted(connection: Connection, job: str) -> frozenset[str]:
    """Return the nodes convicted in this job: they get no more of it."""
    listed = cast("list[str]", jobs.get(connection, job).progress.get("convicted", []))
    return frozenset(listed)
