"""A small world for the store's tests: names, makers of rows, and their order."""

from __future__ import annotations

import hashlib
from typing import Any

from sqlalchemy.engine import Connection

from stannary.formats.ids import LeaseType, TaskKind
from stannary.formats.predicates import NodeKind, Tier
from stannary.jobs.course.state import Grant, LeaseRow
from stannary.settle import escrow
from stannary.store import accounts, jobs, ledger, nodes, tasks
from stannary.store.leases import Fence
from stannary.store.transitions import Cause

JOB = "j-000000000001"
TASK = f"{JOB}/r0/l0/a0"
NODES = {"n-1": "ann", "n-2": "bob", "n-3": "bob"}
DEPOSIT = 1_000_000


def cause(reason: str = "test", at_ms: int = 1_000) -> Cause:
    return Cause(at_ms, reason)


def submission(number: int = 1, **changes: Any) -> jobs.Submission:
    hexed = hashlib.sha256(str(number).encode()).hexdigest()
    members: dict[str, Any] = {
        "job": f"j-{number:012x}",
        "buyer": "buyer",
        "idempotency_key": f"key-{number}",
        "payload_digest": f"sha256:{hexed}",
        "job_digest": f"sha256:{hexed}",
        "leaf": f"sha256:{hexed}",
        "name": "hello",
        "kind": "train",
        "verification": "replay",
        "envelope": b"{}",
        "escrow_usd_micros": 100,
        "submitted_at_ms": number,
    }
    return jobs.Submission(**{**members, **changes})


def new_task(task: str = TASK, *, lane: int = 0, attempt: int = 0) -> tasks.NewTask:
    return tasks.NewTask(task, JOB, TaskKind.ROUND, 0, lane, attempt, 3, "{}", "sha256:" + "0" * 64)


def node(name: str, operator: str) -> nodes.NodeRow:
    return nodes.NodeRow(
        node=name,
        key=f"key of {name}",
        operator=operator,
        kind=NodeKind.MACHINE,
        jurisdiction="EU",
        terms="terms",
        tier=Tier.T0,
        engine_class="cpu-a",
        cpus=2,
        memory_bytes=2**30,
        ask_usd_micros_per_hour=1_000,
        join_leaf="leaf",
        joined_at_ms=0,
    )


def furnish(connection: Connection) -> None:
    fund(connection)
    for name, operator in NODES.items():
        accounts.add_operator(connection, operator, at_ms=0)
        nodes.add(connection, node(name, operator))
    (answer,) = jobs.submit(connection, [submission()])
    assert answer == jobs.Submitted(JOB, created=True)
    tasks.plan(connection, new_task(), at_ms=1)


def fund(connection: Connection) -> None:
    accounts.add_buyer(connection, "buyer", at_ms=0)
    ledger.post(connection, escrow.deposit("first", "buyer", DEPOSIT), at_ms=0)


def work(lease: str, holder: str, *, task: str = TASK, deadline_at_ms: int = 10_000) -> Grant:
    return Grant(lease, LeaseType.WORK, task, holder, deadline_at_ms, price_usd_micros=7)


def fence(lease: LeaseRow) -> Fence:
    return Fence(lease.lease, lease.node, lease.epoch)
