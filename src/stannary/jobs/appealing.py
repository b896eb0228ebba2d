"""The hearing of an appeal, decided: whom to offer it, whose answer to open, when it is over. Pure.

Rules (docs/audits.md, Appeals):
- Three at a time are offered it, in rank order. It is taken when its node has room, and its deadline counts from there;
  who is busy is waited for until the window is over, since whoever keeps it busy would else choose who hears.
- Who took it and hands back or stays silent makes room for the next, and so does who is lost or may not work any more.
- The window counts what passed while the market listened, whatever its clock was set to and however often it started.
  When it is over nobody is offered anything, and who took it keeps its time.
- Nobody opens his answer while another may still commit to one.
- When nothing is awaited any more, what was opened decides (rules/appeal.py).
"""

from __future__ import annotations

from collections.abc import Container, Sequence
from dataclasses import dataclass

from stannary.formats.canonical import Json
from stannary.jobs.course.state import AnswerRow, AuditOutcome, AuditRow, LeaseRow
from stannary.jobs.states import DisputeStage, LeaseState
from stannary.rules.appeal import HEARERS


@dataclass(frozen=True, slots=True)
class DisputeRow:
    """One bond in dispute."""

    job: str
    node: str
    task: str
    bond_usd_micros: int
    stage: DisputeStage
    opened_at_ms: int
    appeal: str | None = None
    checkpoint: str | None = None
    begun_at_ms: int | None = None
    ruling: str | None = None
    lines: list[dict[str, Json]] | None = None
    listened_s: int = 0  # of the window of its hearing, as noted last
    num_replays: int = 0  # begun by the market, this one too


@dataclass(frozen=True, slots=True)
class AskedHearer:
    """One who was offered a hearing, and what became of it."""

    audit: AuditRow
    lease: LeaseRow | None = None  # once it was taken
    given: AnswerRow | None = None  # committed to, and perhaps opened
    opening: LeaseRow | None = None  # the lease of its opening, once it was asked for

    @property
    def node(self) -> str:
        """Who."""
        return self.audit.auditor or ""

    @property
    def is_offered(self) -> bool:
        """Whether it waits for its node to take it."""
        return self.lease is None and self.audit.outcome is AuditOutcome.OPEN

    @property
    def is_awaited(self) -> bool:
        """Whether its node may still commit to an answer."""
        return self.given is None and (self.is_offered or self.is_held)

    @property
    def is_held(self) -> bool:
        """Whether its node has it in hand."""
        return self.lease is not None and self.lease.state is LeaseState.GRANTED


@dataclass(frozen=True, slots=True)
class HearingStep:
    """What a hearing does next; `is_over` where nothing is awaited."""

    close: tuple[tuple[str, AuditOutcome], ...] = ()  # audits that are waited for no longer
    offer: tuple[str, ...] = ()  # nodes
    open: tuple[str, ...] = ()  # nodes that are to open their answers
    is_over: bool = False


def step(ranked: Sequence[str], asked: Sequence[AskedHearer], *, out: Container[str], is_late: bool) -> HearingStep:
    """Return what a hearing does next; nothing while it waits.

    Args:
        ranked: who may hear it, first in rank first.
        asked: those who were offered it.
        out: nodes that are lost or may not work any more.
        is_late: its window is over.
    """
    over = [(item, _why_over(item, out, is_late=is_late)) for item in asked]
    close = tuple((item.audit.audit, why) for item, why in over if why is not None)
    if close:
        return HearingStep(close=close)
    num_hearing = sum(item.is_awaited or item.given is not None for item in asked)
    known = {item.node for item in asked}
    rest = [node for node in ranked if node not in known and node not in out]
    if num_hearing < HEARERS and rest and not is_late:
        return HearingStep(offer=tuple(rest[: HEARERS - num_hearing]))
    if any(item.is_awaited for item in asked):
        return HearingStep()
    unopened = [item for item in asked if item.given is not None and item.given.answer_leaf is None]
    fresh = tuple(item.node for item in unopened if item.opening is None)
    if fresh:
        return HearingStep(open=fresh)
    waits = any(item.opening is not None and item.opening.state is LeaseState.GRANTED for item in unopened)
    return HearingStep(is_over=not waits)


def _why_over(item: AskedHearer, out: Container[str], *, is_late: bool) -> AuditOutcome | None:
    """Return as what an audit is closed of which no answer comes, None where one may, or is there."""
    if item.audit.outcome is not AuditOutcome.OPEN or item.given is not None or item.is_held:
        return None
    if item.lease is not None:
        return AuditOutcome.SILENT
    if item.node in out:
        return AuditOutcome.DROPPED
    return AuditOutcome.UNTAKEN if is_late else None
