"""A job's order and state, and a moment of the world, for tests of single decisions."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from tests.integration.market.fake_buyer import train_spec

from stannary.errors import NoCapacity, NotFound
from stannary.formats import digest, jobspec
from stannary.formats.ids import JobId, KeyId
from stannary.formats.jobspec import JobSpec
from stannary.formats.predicates import Job, Receipt, SettlementLine, Soundness, Tier, TimeSplit, Verdict
from stannary.jobs.course.state import CosignedCheckpoint, JobOrder, JobState, Node, Timing, World
from stannary.jobs.states import JobStatus

JOB = JobId("j-00000000000a")
NOW_MS = 1_700_000_000_000
ROOT = digest.digest(b"checkpoint")
CLASS = "cpu-a"


def order(spec: JobSpec | None = None) -> JobOrder:
    """Return the job's order; nobody looks at who signed it here."""
    spec = spec if spec is not None else train_spec()
    said = Job(jobspec.to_canonical(spec), KeyId("k"), "", "", 16, "", "2026-11-22T00:00:00Z")
    return JobOrder(JOB, digest.digest(b"job"), "leaf", "buyer", said, spec)


def state(spec: JobSpec | None = None, **changes: Any) -> JobState:
    """Return the job as it was submitted."""
    made = JobState(order(spec), 1, JobStatus.QUEUED, None, NOW_MS, 3_000_000, 0, 0)
    return replace(made, **changes)


def node(name: str, operator: str, **changes: Any) -> Node:
    """Return a node that may do anything."""
    made = Node(name, operator, "DE", "terms", Tier.T0, CLASS, 64, 2**36, 100_000, 1_000_000, 2 * NOW_MS)
    return replace(made, **changes)


def receipt(job: str, *, status: str = "succeeded", reason: str = "complete", paid: int = 60) -> Receipt:
    """Return what the market states of a job whose buyer held 100 micro-dollars."""
    return Receipt(
        job=JobId(job), job_digest=ROOT, status=status, reason=reason, verdict=Verdict.VERIFIED,
        verification="replay", evidence=(), settlement=(SettlementLine("buyer", "", "refund", 100 - paid),),
        escrow_usd_micros=100, paid_usd_micros=paid, refunded_usd_micros=100 - paid,
        soundness=Soundness(1, 1, 1, 10**6, 1, 1, 1, 1, "0", "declared"),
        time_split=TimeSplit(5_000, 1_000, 1_000, 1_000, 1_000, 1_000), engine_classes=(), witness="w",
        attestation="a", started_at="2026-11-22T00:00:00Z", finished_at="2026-11-22T00:00:00Z",
    )  # fmt: skip


class Nodes:
    """A few nodes."""

    def __init__(self, *listed: Node) -> None:
        self._listed = {item.node: item for item in listed}

    def get(self, name: str) -> Node:
        """Return one of them."""
        if name not in self._listed:
            raise NotFound("no such node", why=name)
        return self._listed[name]

    def of_class(self, engine_class: str) -> Iterable[Node]:
        """Return those of one engine class, in node order."""
        return [item for _, item in sorted(self._listed.items()) if item.engine_class == engine_class]


def no_room(order: JobOrder) -> Any:
    """Place nobody."""
    raise NoCapacity("no place for it", why=order.job)


def world(*nodes: Node, **changes: Any) -> World:
    """Return a moment at which all of `nodes` are there."""
    made = World(
        now_ms=NOW_MS,
        timing=Timing(),
        nodes=Nodes(*nodes),
        live=frozenset(item.node for item in nodes),
        answering=frozenset(),
        checkpoint=CosignedCheckpoint("", 0, ROOT),
        place=no_room,
    )
    return replace(made, **changes)
