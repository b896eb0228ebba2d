"""A job's events as sentences: one for every kind the market writes, so that no screen shows a code or a bare id.

A kind is either worth a line that stays (`Weight.LINE`), or it is shown until the next one comes (`STATUS`). Phases of
the job are not here: follow.py times them. What a newer market says and this table does not know is shown in the
market's own words.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from enum import Enum
from typing import TYPE_CHECKING, NamedTuple

from stannary.cli.output import cell
from stannary.errors import FormatError
from stannary.formats import ids
from stannary.formats.quantity import dollars
from stannary.rules.kinds import TASKS
from stannary.rules.reasons import Reason

if TYPE_CHECKING:
    from stannary.wire.buyer import Event  # `verify` tells tasks in these words, and needs no schema library for it

MAX_MESSAGE = 300
# One word for machines, the same for people: why a lease ended, a task was dropped, a verdict is what it is.
REASONS: Mapping[str, str] = {
    Reason.RELEASED: "it was asked to stop or drains",
    Reason.DEADLINE: "its time was over",
    Reason.NODE_LOST: "no sign of life of it",
    Reason.NODE_REVOKED: "it may not work here any more",
    Reason.NODE_CONVICTED: "the node was convicted",
    Reason.NODE_STRUCK: "the node stood alone with a result",
    Reason.LATE: "it came too late for its round",
    Reason.SUPERSEDED: "what it started from does not count any more",
    Reason.JUDGED: "the verdict is reached already",
    Reason.OUTVOTED: "two others agreed on something else than its answer",
    Reason.AGREED: "others computed the same",
    Reason.NOT_AUDITED: "its auditor had no room for it, so nobody computed it again",
    Reason.CONTRADICTED: "two others computed it again and got the same, which is something else",
    Reason.MISMATCH: "another computed something else",
    Reason.NO_AGREEMENT: "no two recomputations agree",
    Reason.CONTESTED: "two recomputations stand against two",
    Reason.PROVER_SILENT: "its node did not answer the audit",
    Reason.NO_AUDITOR: "nobody who was asked computed it again",
    Reason.TOO_FEW: "fewer than three operators could hear it",
    Reason.TWO_STORIES: "it signed two statements that contradict one another",
    Reason.TWO_OF_THREE: "two operators who had no part in the job agree",
    Reason.REPLAYED: "the market computed it again itself",
    Reason.UNHEARD: "nobody could compute it again",
    Reason.AWAITED: "an auditor is awaited",
    Reason.OPENED: "two operators who had no part in the job are asked whether the program can be computed again",
    Reason.REPRODUCED: "two operators who had no part in the job ran it twice each, and all four runs agree",
    Reason.NOT_REPRODUCIBLE: "the program gives another result when it runs again",
    Reason.NO_OUTSIDER: "nobody without a part in the job could tell whether the program can be computed again",
    Reason.NOT_DRAWN: "it was not drawn for an audit",
    Reason.CUT: "a limit cut its program, so there is nothing to compare",
    Reason.NOT_ASKED: "no verification was asked for",
    Reason.BUYER_SILENT: "the buyer's broker did not reveal its value in time",
    Reason.CANCELLED: "the job was cancelled",
    Reason.NO_CAPACITY: "no node that could do it is there",
    Reason.USELESS: "it was tried as often as may be",
    Reason.EXHAUSTED: "the buyer's chain has no value left to draw with",
    Reason.STALLED: "nothing of the job moved for long",
    Reason.MARKET_FAULT: "the market could not go on with the job",
}


class Weight(Enum):
    """How long an event stays on the screen."""

    LINE = "line"
    STATUS = "status"


class Told(NamedTuple):
    """How one kind is told: a label for a line that stays, and the sentence."""

    sentence: str
    label: str = ""

    @property
    def weight(self) -> Weight:
        """A label is there for what stays."""
        return Weight.LINE if self.label else Weight.STATUS


# {unit} {node} {message} {why} {cost} come from the event; {message} is the market's.
KINDS: Mapping[str, Told] = {
    "job.queued": Told("the job waits for its turn"),
    "job.placing": Told("nodes are chosen"),
    "job.attesting": Told("the nodes' evidence is checked"),
    "job.starting": Told("the nodes get ready"),
    "job.running": Told("the nodes work"),
    "job.recovering": Told("work that was lost is done again"),
    "job.verifying": Told("the last audits are awaited"),
    "job.cancelling": Told("the job is being ended: {message}"),
    "job.succeeded": Told("the job has succeeded"),
    "job.failed": Told("the job has failed: {message}"),
    "job.cancelled": Told("the job was cancelled"),
    "verdict.pending": Told("no verdict yet"),
    "verdict.verified": Told("the result is verified"),
    "verdict.sampled": Told("the result was checked by sample"),
    "verdict.attested": Told("the result is attested"),
    "verdict.unverified": Told("the result is not verified"),
    "verdict.not-reproducible": Told("the program gives another result each time"),
    "verdict.refuted": Told("the result is refuted"),
    "settlement.held": Told("the money is held"),
    "settlement.released": Told("the money is paid out: {message}"),
    "settlement.refunded": Told("the money went back to you"),
    "task.planned": Told("{unit} waits for a node"),
    "task.leased": Told("{unit} goes to {node}"),
    "task.committed": Told("{node} has finished {unit} and committed to its result"),
    "task.contributed": Told("{node} has handed in {unit}"),
    "task.drawn": Told("{unit} was drawn: others compute it again"),
    "task.passed": Told("{unit} was not drawn for an audit"),
    "task.verified": Told("{unit} was computed again and holds"),
    "task.unverified": Told("{unit} could not be verified: {why}", "unverified"),
    "task.refuted": Told("{unit} by {node} is wrong: {why}"),
    "task.superseded": Told("{unit} is done again: {why}", "redone"),
    "task.abandoned": Told("{unit} is left out: {why}"),
    "lease.granted": Told("{node} is asked for {unit}"),
    "lease.completed": Told("{node} is done with {unit}"),
    "lease.expired": Told("{node} did not finish {unit}: {why}; it goes to another", "lost"),
    "lease.released": Told("{node} gave {unit} back: {why}"),
    "lease.revoked": Told("{node} need not finish {unit}: {why}"),
    "node.live": Told("{node} is back"),
    "node.suspect": Told("{node} has been silent for a while; it gets no new work"),
    "node.lost": Told("{node} is gone: no sign of life; its work goes to others", "lost"),
    "node.left": Told("{node} has left the market; its work goes to others", "left"),
    "node.convicted": Told("{node} for {unit}: {why}. {cost}", "CONVICTED"),
    "node.struck": Told(
        "{node} for {unit}: {why}. It is not paid for that, nor for its last units of this job, and keeps its bond",
        "strike",
    ),
    "bond.disputed": Told("{message}", "disputed"),
    "bond.hearing": Told("{message}"),
    "bond.replaying": Told("{message}"),
    "bond.forfeited": Told("{message}", "forfeited"),
    "bond.released": Told("{message}", "released"),
    "node.suspended": Told("{node} gets nothing new in buyers' own code for at most ten minutes", "suspended"),
    "node.restored": Told("{node} found what others found in code of this package: it gets all work again", "restored"),
    "canary.asked": Told("{message}"),
    "canary.passed": Told("{message}"),
    "canary.failed": Told("{message}"),
    "canary.unanswered": Told("{message}"),
    "canary.unchecked": Told("{message}"),
    "strike.taken-back": Told("the strike against {node} is taken back: the program is not reproducible"),
    "question.opened": Told(
        "answers about {unit} differ: two operators who had no part in the job run it twice each", "differs"
    ),
    "question.closed": Told("{message}", "answered"),
    "check.begun": Told(
        "first check: {unit} is computed again by another operator before anything else begins", "check"
    ),
    "check.ended": Told("first check of {unit} is over, {why}: the rest begins", "check"),
    "results.gone": Told("{message}"),
    "beacon.requested": Told("your broker is asked for the value that draws audits"),
    "beacon.revealed": Told("your broker has revealed the value that draws audits"),
    "draw.made": Told("the audits of this round are drawn"),
    "audit.opened": Told("{node} is drawn to compute {unit} again"),
    "audit.open": Told("{node} is drawn to compute {unit} again"),
    "audit.agreed": Told("{node} computed {unit} again and agrees"),
    "audit.disagreed": Told("{node} computed {unit} again and got something else: one more is asked", "differs"),
    "audit.unanswered": Told("{node} computed {unit} again and got the same; who handed it in is silent"),
    "audit.silent": Told("{node} was asked to compute {unit} again and did not answer; the next one is asked"),
    "audit.untaken": Told("{node} had no room to compute {unit} again in all the time it was waited for"),
    "audit.dropped": Told("the audit of {unit} by {node} is not needed any more"),
}


def weight(event: Event) -> Weight:
    """Return how long an event stays."""
    told = KINDS.get(event.type)
    # A lease that failed for a reason of its node is worth knowing; one handed back in order is not.
    if event.type == "lease.released" and not _is_orderly(event):
        return Weight.LINE
    return told.weight if told is not None else Weight.STATUS


def label(event: Event) -> str:
    """Return the word before a line that stays."""
    told = KINDS.get(event.type)
    return (told.label if told is not None else "") or "handed back"


def sentence(event: Event) -> str:
    """Return an event as one sentence; a node is named with its operator where that is known."""
    told = KINDS.get(event.type)
    message = cell(event.message, MAX_MESSAGE)
    if told is None:
        return message or cell(event.type.replace(".", " "))
    node = (event.node or "a node") + (f" ({cell(event.operator, 40)})" if event.operator else "")
    why = message if event.type == "lease.released" and not _is_orderly(event) else _why(event)
    # Not str.format: braces in a message are the market's own.
    words = {"{unit}": unit(event.task), "{node}": node, "{message}": message, "{why}": why, "{cost}": _cost(event)}
    return re.sub(r"\{[a-z]+\}", lambda found: words[found[0]], told.sentence)


def unit(task: str | None) -> str:
    """Return a task as people say it: `lane 1 of round 3 (r2/l1/a0)`."""
    try:
        kind, index, lane = ids.place_of(task or "")
    except FormatError:
        return cell(task or "its work")
    return f"{TASKS[kind].words.format(index + 1, lane)} ({(task or '').partition('/')[2]})"


def round_merged(event: Event) -> int | None:
    """Return the number of the round, from 1, whose merge this event hands in."""
    if event.type != "task.contributed" or event.task is None:
        return None
    kind, index, _ = ids.place_of(event.task)
    return index + 1 if TASKS[kind].is_merge else None


def _is_orderly(event: Event) -> bool:
    return event.data.get("reason") in (Reason.RELEASED, None)


def _cost(event: Event) -> str:
    """Say what a conviction takes."""
    bond = event.data.get("bond_usd_micros")
    lost = f" and loses its bond of {dollars(bond)}" if isinstance(bond, int) and bond > 0 else ""
    return f"It is not paid for that{lost}"


def _why(event: Event) -> str:
    reason = str(event.data.get("reason", ""))
    return REASONS.get(reason, cell(reason.replace("-", " "), 60) or "no reason given")
