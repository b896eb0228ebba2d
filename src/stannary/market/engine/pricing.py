"""What a task costs a job, who is convicted in it, and what that costs a node."""

from __future__ import annotations

from typing import cast

from sqlalchemy.engine import Connection

from stannary.formats import dsse, statement
from stannary.formats.predicates import Credential
from stannary.market.engine.frame import JobFrame
from stannary.rules.price import price_of
from stannary.store import jobs, nodes


def task_price(frame: JobFrame, num_steps: int, ask_usd_micros_per_hour: int) -> int:
    """Return the price of a task for a node that asks so much."""
    return price_of(num_steps, frame.shape.step_ms, ask_usd_micros_per_hour)


def convicted(connection: Connection, job: str) -> frozenset[str]:
    """Return the nodes convicted in this job: they get no more of it."""
    listed = cast("list[str]", jobs.get(connection, job).progress.get("convicted", []))
    return frozenset(listed)


def bond(connection: Connection, node: str) -> int:
    """Return the bond a node joined with, in micro-dollars."""
    held = nodes.credential_of(connection, node)
    if held is None:
        return 0
    payload = dsse.from_bytes(held.envelope).payload
    return statement.read(payload, "credential", Credential).predicate.bond_usd_micros
