"""Who is asked what, and until when: questions at once, an audit when its node has room for it.

Rules:
- Questions have ids made from what they ask, so that asking twice is impossible.
- Who did a task, and whoever is to open an answer, is asked at once: it is answered beside the work in hand.
- An audit is an *offer* to the one node whose rank it is (from rules 3 on; docs/audits.md): no lease until the node
  asks for work and has room. Its deadline counts from there. A node that is busy is waited for, `pace.audit_wait_s`;
  then the task counts as not audited. Nobody behind it in rank is asked: whoever keeps it busy would choose who audits.
- It passes only where the node took it and fell silent or handed it back, is given up as lost, or may not work any
  more.
- While it is asked whether the program can be recomputed (outsiders.py), no audit of another task is offered, nor is
  that time counted: whoever is asked has no other part in the job.
- A node that asks gets audits and work in turn, so that neither waits for more than one of the other; the audit
  offered first comes first.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from stannary.formats import digest, record
from stannary.formats.canonical import Json
from stannary.formats.ids import LeaseType
from stannary.formats.predicates import Absence, Role, Used
from stannary.jobs.course.draft import CourseDraft
from stannary.jobs.course.pace import expected_s
from stannary.jobs.course.state import (
    AskedQuestion,
    AuditOutcome,
    AuditRow,
    Grant,
    JobOrder,
    JobState,
    LeaseRow,
    Task,
    World,
)
from stannary.jobs.states import OPEN_JOB, TaskState
from stannary.rules import edition
from stannary.rules.pace import answer_s, audit_wait_s, least_s


@dataclass(frozen=True, slots=True)
class Party:
    """Who is asked what about an audit."""

    kind: LeaseType
    role: Role
    node: str


@dataclass(frozen=True, slots=True)
class OfferedAudit:
    """An audit that waits for its node."""

    audit: AuditRow
    task: Task

    @property
    def node(self) -> str:
        """Whose rank it is."""
        return self.audit.auditor or ""


def question_id(audit: str, kind: LeaseType, role: Role, node: str) -> str:
    """Return the id of a question's lease."""
    parts = (audit.encode(), kind.value.encode(), role.value.encode(), node.encode())
    return f"{kind.value[0]}-" + digest.hash_parts("stannary question v1", *parts).hex()[:24]


def audit_id(audit: AuditRow) -> str:
    """Return the id of the lease of an audit."""
    return question_id(audit.audit, LeaseType.AUDIT, Role.AUDITOR, audit.auditor or "")


def grant(order: JobOrder, world: World, task: Task, audit: AuditRow, party: Party) -> Grant:
    """Return the lease of a question or an audit, with its time from now on."""
    timing = world.timing
    expected = expected_s(order, world, task.num_steps)
    given_s = answer_s(expected, _least_s(order, task), floor_s=timing.answer_floor_s, factor=timing.answer_factor)
    body: dict[str, Json] = {"role": party.role.value}
    if party.kind is not LeaseType.REVEAL:
        body |= {"salt": audit.salt, "step": audit.step}
    return Grant(
        lease=question_id(audit.audit, party.kind, party.role, party.node),
        type=party.kind,
        task=task.task,
        node=party.node,
        deadline_at_ms=world.now_ms + int(1000 * given_s),
        audit=audit.audit,
        price_usd_micros=audit.price_usd_micros if party.kind is LeaseType.AUDIT else 0,
        body=body,
    )


def offers(state: JobState) -> Iterator[OfferedAudit]:
    """List the audits of a job that wait for their node, those of a job that ends too."""
    if state.status not in OPEN_JOB or not edition.of(state.order.spec).audits_are_taken:
        return
    for audit in state.audits.values():
        task = state.tasks.get(audit.task)
        if task is None or task.state is not TaskState.DRAWN or is_held(audit, state.questions, state.leases):
            continue
        if is_offered(audit, state.leases):
            yield OfferedAudit(audit, task)


def is_offered(audit: AuditRow, leases: Mapping[str, LeaseRow]) -> bool:
    """Tell whether an open audit waits for its node; one that was taken has its lease."""
    return audit.outcome is AuditOutcome.OPEN and audit.auditor is not None and audit_id(audit) not in leases


def is_held(audit: AuditRow, questions: Sequence[AskedQuestion], leases: Mapping[str, LeaseRow]) -> bool:
    """Tell whether an audit waits until the question about another task is answered."""
    asked = questions[-1] if questions and questions[-1].is_open else None
    return (
        asked is not None and asked.task != audit.task and audit.auditor is not None and audit_id(audit) not in leases
    )


def take(order: JobOrder, offer: OfferedAudit, world: World) -> Grant:
    """Return the lease by which a node takes the audit it is offered."""
    return grant(order, world, offer.task, offer.audit, Party(LeaseType.AUDIT, Role.AUDITOR, offer.node))


def is_audits_turn(last: LeaseType | None) -> bool:
    """Tell whether a node that has room and may take an audit or work gets the audit, by what it was given last."""
    return last is not LeaseType.AUDIT


def wait_ms(draft: CourseDraft, task: Task) -> int:
    """Return how long an audit of a task waits for its node, by what the tasks handed in of its job really took.

    Its node may be at another task of this very job: the longest of them counts.
    """
    world = draft.world
    took_ms = [
        world.passed_ms(item.leased_at_ms, item.contributed_at_ms)
        for item in draft.tasks.values()
        if item.leased_at_ms is not None and item.contributed_at_ms is not None
    ]
    floor_s = world.timing.audit_wait_s
    return int(1000 * audit_wait_s(max(took_ms, default=0) / 1000, _least_s(draft.order, task), floor_s=floor_s))


def _least_s(order: JobOrder, task: Task) -> float:
    used = record.from_json(Used, dict(task.used)) if task.used is not None else None
    return least_s(order.shape.agreed_s(task.num_steps), used, order.spec.resources.wall_s)


def why_passed(draft: CourseDraft, offer: OfferedAudit) -> Absence | None:
    """Return why an offered audit is waited for no longer, None while it is."""
    world = draft.world
    if offer.node in draft.out or world.nodes.get(offer.node).why_out(world.now_ms):
        return Absence.REVOKED
    if offer.node in world.gone:
        return Absence.LOST
    held_until_ms = max((asked.closed_at_ms or 0 for asked in draft.questions), default=0)
    waited_ms = world.waited_ms(max(offer.audit.opened_at_ms, held_until_ms))
    return Absence.NOT_TAKEN if waited_ms >= wait_ms(draft, offer.task) else None
