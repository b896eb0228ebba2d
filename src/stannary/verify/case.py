"""The case: all logged statements of one job, typed and indexed, so that they can be judged together.

Rules (docs/receipt.md R6.20 to R6.24):
1. A case is made of statements and their log indexes alone; whether their signatures and proofs hold is
   checked before (receipt.py) or known (the market reads its own log).
2. One job, one placement; per task one assignment; per draw one list of candidates; per audit and party one silence. A
   second word of the market's is refused: whoever may choose among two could show each reader another.
3. Of a node's statements the log index decides: per task one contribution counts, per task, node and epoch one
   commitment, per audit and party one answer and its commitment, and none that comes after the silence of its party.
   A later one is void: it is listed, and counts for nothing. A node that says two things harms nobody's receipt.
4. Every statement names this job; statements of another job are refused. Joins and credentials belong to no job.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Generic, TypeVar, cast

from stannary.errors import FormatError, Refuted
from stannary.formats import digest, ids, instants, jobspec, predicates, statement
from stannary.formats.digest import Digest
from stannary.formats.dsse import Envelope
from stannary.formats.ids import AuditId, JobId, NodeId, TaskId
from stannary.formats.lean import dataclass
from stannary.formats.predicates import (
    Absence,
    Answer,
    AnswerCommitment,
    Assignment,
    Awaited,
    Candidates,
    Commitment,
    Contribution,
    Credential,
    Draw,
    Drawable,
    Job,
    Join,
    Placement,
    Reading,
    Reveal,
    Role,
    Silence,
    Stopped,
    TaskVerdict,
)
from stannary.formats.shown import ShownPower
from stannary.rules import assurance, clocks, edition, ending, grade, masks, papers, stories
from stannary.rules.shape import Shape, shape_of
from stannary.rules.stake import UnitDone

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

    from stannary.formats.jobspec import JobSpec

P = TypeVar("P", bound="DataclassInstance")
P_co = TypeVar("P_co", bound="DataclassInstance", covariant=True)

KINDS: dict[str, type[DataclassInstance]] = {
    "join": Join,
    "credential": Credential,
    "power": ShownPower,
    "job": Job,
    "placement": Placement,
    "assignment": Assignment,
    "commitment": Commitment,
    "contribution": Contribution,
    "candidates": Candidates,
    "reveal": Reveal,
    "draw": Draw,
    "answer-commitment": AnswerCommitment,
    "answer": Answer,
    "silence": Silence,
    "stopped": Stopped,
    "verdict": TaskVerdict,
    "reading": Reading,
}
OF_NO_JOB = frozenset({"join", "credential", "power"})


@dataclass(frozen=True, slots=True)
class Logged(Generic[P_co]):
    """A statement, its place in the log and its leaf."""

    index: int
    leaf: Digest
    payload: bytes
    kind: str
    predicate: P_co


def read(index: int, envelope: Envelope, leaf: Digest | None = None) -> Logged[DataclassInstance]:
    """Read one envelope's statement, whatever its kind; signatures are not looked at (rule 1).

    Raises:
        FormatError: not a statement we know, or not canonical.
    """
    parsed = statement.read_any(envelope.payload, KINDS)
    leaf = digest.from_raw(envelope.leaf()) if leaf is None else leaf
    return Logged(index, leaf, envelope.payload, parsed.kind, parsed.predicate)


class Case:
    """All statements of one job in log order."""

    def __init__(self, statements: Iterable[Logged[DataclassInstance]]) -> None:
        """Index the statements.

        Raises:
            Refuted: rules 2 and 4.
            FormatError, SpecError: the job's spec does not parse.
        """
        self.statements = tuple(sorted(statements, key=lambda item: item.index))
        self.void = _void(self.statements)
        late = {item.index for item in self.void}
        self._counting = [item for item in self.statements if item.index not in late]
        jobs = self._of(Job)
        if len(jobs) != 1:
            raise Refuted("evidence must hold one job", why=f"{len(jobs)} job statements")
        self.job = jobs[0]
        self.job_digest = digest.digest(self.job.payload)
        self.job_id: JobId = ids.job_id(self.job_digest)
        self._check_one_job()
        self.spec: JobSpec = jobspec.from_canonical(self.job.predicate.spec)
        assurance.check_rate(self.spec)
        self.edition = edition.of(self.spec)
        self.joins = self._of(Join)
        self.powers = self._of(ShownPower)
        self.credentials = _grouped(self._of(Credential))
        self.placements = self._of(Placement)
        self.assignments = _by_task(self._of(Assignment))
        self.commitments = self._of(Commitment)
        self.contributions = _by_task(self._of(Contribution))
        self.candidates = self._by_draw()
        self.reveals = self._of(Reveal)
        self.draws = self._of(Draw)
        self.answer_commitments = self._by_party("answer-commitment", AnswerCommitment)
        self.answers = self._by_party("answer", Answer)
        self.silences = self._by_party("silence", Silence)
        self.stopped = self._of(Stopped)
        self.verdicts = self._of(TaskVerdict)
        self.readings = self._of(Reading)
        self._check_known()

    @cached_property
    def told_two(self) -> frozenset[tuple[TaskId, NodeId]]:
        """Return who contradicted itself, and about which task; what is void counts as evidence here (R18.8)."""
        return stories.tellers(item.predicate for item in self.statements)

    @cached_property
    def answers_of(self) -> dict[TaskId, tuple[Logged[Answer], ...]]:
        """Return each task's opened answers in log order: the next in rank is asked when the one before is heard."""
        listed: dict[TaskId, list[Logged[Answer]]] = {}
        for item in self.answers.values():
            listed.setdefault(item.predicate.task, []).append(item)
        return {task: tuple(sorted(items, key=lambda item: item.index)) for task, items in listed.items()}

    def is_untaken(self, task: TaskId, before: int | None = None) -> bool:
        """Tell whether an auditor is said to have had no room for a task, and its prover not to be silent (R10.4)."""
        if not self.edition.audits_are_taken:
            return False
        said = [item.predicate for item in self.silences_of.get(task, ()) if before is None or item.index < before]
        untaken = any(item.reason is Absence.NOT_TAKEN and item.role is Role.AUDITOR for item in said)
        return untaken and all(item.role is not Role.PROVER for item in said)

    @cached_property
    def silences_of(self) -> dict[TaskId, list[Logged[Silence]]]:
        """Return the silences about each task in log order."""
        listed: dict[TaskId, list[Logged[Silence]]] = {}
        for item in sorted(self.silences.values(), key=lambda item: item.index):
            listed.setdefault(item.predicate.task, []).append(item)
        return listed

    @cached_property
    def commitments_of(self) -> dict[TaskId, list[Logged[Commitment]]]:
        """Return each task's commitments in log order; one for each node that finished it."""
        listed: dict[TaskId, list[Logged[Commitment]]] = {}
        for item in self.commitments:
            listed.setdefault(item.predicate.task, []).append(item)
        return listed

    @cached_property
    def opened(self) -> dict[TaskId, Logged[Commitment]]:
        """Return the commitment that each task's contribution opens: of the same node, in the same epoch."""
        found: dict[TaskId, Logged[Commitment]] = {}
        for task, item in self.contributions.items():
            party = (item.predicate.node, item.predicate.epoch)
            for made in self.commitments_of.get(task, ()):
                if (made.predicate.node, made.predicate.epoch) == party:
                    found[task] = made
        return found

    @cached_property
    def commitment_indexes_of(self) -> dict[AuditId, list[int]]:
        """Return the log indexes of each audit's answer commitments."""
        listed: dict[AuditId, list[int]] = {}
        for (audit, _, _), item in self.answer_commitments.items():
            listed.setdefault(audit, []).append(item.index)
        return listed

    @cached_property
    def prover_commitment_indexes_of(self) -> dict[TaskId, list[int]]:
        """Return the log indexes of the answer commitments of each task's prover, in whoever's audit."""
        listed: dict[TaskId, list[int]] = {}
        for (_, _, role), item in self.answer_commitments.items():
            if role is Role.PROVER:
                listed.setdefault(item.predicate.task, []).append(item.index)
        return listed

    @cached_property
    def verdicts_of(self) -> dict[TaskId, tuple[Logged[TaskVerdict], ...]]:
        """Return each task's verdicts in log order; the last one counts."""
        listed: dict[TaskId, list[Logged[TaskVerdict]]] = {}
        for item in self.verdicts:
            listed.setdefault(item.predicate.task, []).append(item)
        return {task: tuple(items) for task, items in listed.items()}

    def is_taken(self, entry: Drawable) -> bool:
        """Tell whether an entry of a draw is of the work that was handed in, not of an epoch before that gave up."""
        made = self.opened.get(entry.task)
        return made is not None and (made.index, made.predicate.node) == (entry.commitment_index, entry.node)

    @cached_property
    def handed_in(self) -> tuple[UnitDone, ...]:
        """Return what nodes handed in: what stands behind their later units (R8.12)."""
        return tuple(
            UnitDone(item.predicate.node, item.index, self.assignments[task].predicate.num_steps)
            for task, item in self.contributions.items()
        )

    @cached_property
    def operators(self) -> dict[NodeId, str]:
        """Return the operator of every node with a credential here."""
        return {node: held[-1].predicate.operator for node, held in self.credentials.items()}

    def credential(self, node: NodeId) -> Credential:
        """Return the last credential of a node.

        Raises:
            Refuted: there is none, so nothing this node did can be placed.
        """
        held = self.credentials.get(node)
        if not held:
            raise Refuted("a node without a credential", why=node)
        return held[-1].predicate

    def credential_at(self, node: NodeId, index: int) -> Credential:
        """Return the credential that counts for what a node said at a log index (R6.24).

        Raises:
            Refuted: the node has none.
        """
        last = self.credential(node)
        return papers.in_force(self.credentials[node], index).predicate if self.edition.holds_to_joins else last

    def committed_at(self, item: Logged[Contribution] | Logged[Answer]) -> int:
        """Return the log index at which a node bound itself to a result: that of the commitment it opens (R6.24)."""
        said = item.predicate
        made: Logged[Commitment] | Logged[AnswerCommitment] | None
        if isinstance(said, Answer):
            made = self.answer_commitments.get((said.audit, said.node, said.role))
        else:
            made = self.opened.get(said.task)
        return made.index if made is not None else item.index

    def ask(self, item: Logged[Contribution] | Logged[Answer]) -> int:
        """Return the ask by which who did or audited a task is paid (R6.24)."""
        return self.ask_at(item.predicate.node, self.committed_at(item))

    def ask_at(self, node: NodeId, index: int) -> int:
        """Return the ask by which a node is paid for what it did by a log index (R6.24)."""
        if not self.edition.holds_to_joins:
            return self.credential(node).ask_usd_micros_per_hour
        since = self.placements[0].index if self.placements else self.job.index
        return papers.lowest_ask(self.credentials[node], since, index)

    def grade(self, item: Logged[Contribution] | Logged[Answer]) -> int:
        """Return the grade by which what a contribution or an answer took is reckoned (R6.25)."""
        return self.grade_at(item.predicate.node, self.committed_at(item))

    def grade_at(self, node: NodeId, index: int) -> int:
        """Return the grade of a node's work at a log index (R6.25)."""
        return grade.in_price(self.credential_at(node, index))

    def bond(self, node: NodeId) -> int:
        """Return what of a node's bond counts in this job, in micro-dollars (R6.24)."""
        if not self.edition.holds_to_joins:
            return self.credential(node).bond_usd_micros
        return self._bonds.get(node, 0)

    @cached_property
    def _bonds(self) -> dict[NodeId, int]:
        """Return the least bond that counts under any credential by which a node worked or audited."""
        joins = {item.leaf: item.predicate for item in self.joins}
        found: dict[NodeId, int] = {}
        said: list[Logged[Contribution] | Logged[Answer]] = [*self.contributions.values(), *self.answers.values()]
        for item in said:
            node = item.predicate.node
            held = self.credential_at(node, self.committed_at(item))
            bond = papers.bond_that_counts(held, joins.get(held.join))
            found[node] = min(bond, found.get(node, bond))
        return found

    def says_ending(self, said: Contribution | Answer) -> bool:
        """Return whether a result of a task says how its program ended, where that is part of it only (R9.11)."""
        return ending.fits(self.spec, self.assignments[said.task].predicate.kind, said.ended, len(said.outputs))

    @cached_property
    def broken_off(self) -> set[TaskId]:
        """Return the rounds that their recipe broke off (R9.13)."""
        made = self.contributions.values()
        kinds = {item.predicate.task: self.assignments[item.predicate.task].predicate.kind for item in made}
        return {
            item.predicate.task
            for item in made
            if ending.has_broken_off(kinds[item.predicate.task], item.predicate.ended)
        }

    def why_unfit(self, node: NodeId, since: int, until: int) -> str:
        """Return the mask that barred a node from work at every moment between two log indexes, empty if none did."""
        return _why_at(self._refusals.get(node, ()), since, until)

    def why_no_judge(self, node: NodeId, at: int) -> str:
        """Return the mask that barred a node from auditing at a log index; empty if none did (R12.19)."""
        return _why_at(self._refusals_of_auditors.get(node, ()), at, at)

    def has_good_credential(self, node: NodeId, below: int, at: int) -> bool:
        """Tell whether a credential of a node, logged below an index, was good at a time in seconds (R12.13)."""
        return any(
            clocks.is_within(at, instants.parse(held.predicate.issued_at), instants.parse(held.predicate.expires_at))
            for held in self.credentials.get(node, ())
            if held.index < below
        )

    @cached_property
    def _refusals(self) -> dict[NodeId, list[tuple[int, str]]]:
        return self._refused(masks.required_by(self.spec))

    @cached_property
    def _refusals_of_auditors(self) -> dict[NodeId, list[tuple[int, str]]]:
        return self._refused(masks.required_by(self.spec).of_auditors)

    def _refused(self, wanted: masks.Requirement) -> dict[NodeId, list[tuple[int, str]]]:
        """Return log index and failed mask of each node's credentials, under rules 2 with the ask of the last."""
        refused: dict[NodeId, list[tuple[int, str]]] = {}
        for node, held in self.credentials.items():
            offered = [(item.index, item.predicate) for item in held]
            if not self.edition.holds_to_joins:
                ask = held[-1].predicate.ask_usd_micros_per_hour
                offered = [(index, replace(offer, ask_usd_micros_per_hour=ask)) for index, offer in offered]
            refused[node] = [(index, masks.why_not(offer, wanted)) for index, offer in offered]
        return refused

    @cached_property
    def attempts(self) -> dict[TaskId, list[TaskId]]:
        """Return the assigned tasks of each unit, first attempt first."""
        listed: dict[TaskId, list[TaskId]] = {}
        for task, item in self.assignments.items():
            listed.setdefault(unit_of(item.predicate), []).append(task)
        return {unit: sorted(tasks, key=ids.attempt_of) for unit, tasks in listed.items()}

    def is_superseded(self, task: TaskId) -> bool:
        """Return whether a later attempt at the same unit was assigned (R14.3)."""
        return self.attempts[unit_of(self.assignments[task].predicate)][-1] != task

    @property
    def shape(self) -> Shape:
        """The job's rounds, lanes and steps."""
        return shape_of(self.spec)

    def _of(self, cls: type[P]) -> tuple[Logged[P], ...]:
        return tuple(cast("Logged[P]", item) for item in self._counting if isinstance(item.predicate, cls))

    def _by_party(self, kind: str, cls: type[P]) -> dict[tuple[AuditId, NodeId, Role], Logged[P]]:  # R6.21
        found: dict[tuple[AuditId, NodeId, Role], Logged[P]] = {}
        for item in self._of(cls):
            said = cast("Answer | AnswerCommitment | Silence", item.predicate)
            key = (said.audit, said.node, said.role)
            if key in found:
                raise Refuted(f"two {kind} statements of one party", why=f"{said.audit} by {said.node}")
            found[key] = item
        return found

    def _by_draw(self) -> dict[Digest, Logged[Candidates]]:  # R6.21
        of_draw: dict[int, Logged[Candidates]] = {}
        for item in self._of(Candidates):
            if of_draw.setdefault(item.predicate.index, item) is not item:
                raise Refuted("two lists of candidates for one draw", why=f"draw {item.predicate.index}")
        return {item.leaf: item for item in of_draw.values()}

    def _check_one_job(self) -> None:  # R6.20
        for item in self.statements:
            if item.kind not in OF_NO_JOB and item is not self.job and _job_of(item.predicate) != self.job_id:
                raise Refuted("a statement of another job", why=f"{item.kind} at log index {item.index}")

    def _committed(self) -> Iterable[AnswerCommitment]:
        return (item.predicate for item in self.answer_commitments.values())

    def _check_known(self) -> None:
        """Refuse what names a task, an audit or a node this case knows nothing about (R6.23)."""
        for task, item in self.contributions.items():
            if task not in self.assignments:
                raise Refuted("a contribution without its assignment", why=task)
            self.credential(item.predicate.node)
        answers: list[Answer | AnswerCommitment | Silence] = [item.predicate for item in self.answers.values()]
        answers.extend(item.predicate for item in self.silences.values())
        for said in (*answers, *self._committed()):
            if said.task not in self.contributions or not _is_audit(said):
                raise Refuted("an answer to no audit of this job", why=f"{said.audit!r:.80}")
            self.credential(said.node)
        for verdict in self.verdicts:
            if verdict.predicate.task not in self.contributions:
                raise Refuted("a verdict on no contribution of this job", why=verdict.predicate.task)
        for reading in self.readings:
            self.credential(reading.predicate.node)
        for stop in self.stopped:
            if stop.predicate.task not in self.assignments:
                raise Refuted("a stop of no task of this job", why=stop.predicate.task)
            self.credential(stop.predicate.node)


def _why_at(refusals: Iterable[tuple[int, str]], since: int, until: int) -> str:
    known = [(index, reason) for index, reason in refusals if index < until]
    first = max((at for at, (index, _) in enumerate(known) if index < since), default=0)
    reasons = [reason for _, reason in known[first:]]
    return "" if "" in reasons else reasons[-1] if reasons else "no credential"


def unit_of(assignment: Assignment, attempt: int = 0) -> TaskId:
    """Return what a task is an attempt at (R12.2), by the name of its first, or of another attempt."""
    return ids.task_id(assignment.kind, assignment.job, assignment.round, assignment.lane, attempt)


def output(contribution: Contribution, name: str) -> predicates.Output | None:
    """Return a contribution's output of this name."""
    return next((item for item in contribution.outputs if item.name == name), None)


def _is_audit(said: Answer | AnswerCommitment | Silence) -> bool:
    try:
        return ids.task_of(said.audit) == said.task
    except FormatError:
        return False


def _void(statements: Iterable[Logged[DataclassInstance]]) -> tuple[Logged[DataclassInstance], ...]:
    """Return the statements of nodes that came too late to count, in log order (R6.22)."""
    said: set[tuple[object, ...]] = set()
    void = []
    for item in statements:
        key = _key_of(item.predicate)
        if key is None:
            continue
        if isinstance(item.predicate, Silence):
            awaited = AnswerCommitment if item.predicate.awaited is Awaited.COMMITMENT else Answer
            if (awaited, *key) not in said:  # a false silence, which silence.py refutes, closes nobody's mouth
                said.update(((Answer, *key), (AnswerCommitment, *key)))
        elif (type(item.predicate), *key) in said:
            void.append(item)
        else:
            said.add((type(item.predicate), *key))
    return tuple(void)


def _key_of(predicate: object) -> tuple[object, ...] | None:
    """Return what a node may speak about once; None of statements that are no node's."""
    if isinstance(predicate, Commitment):
        return predicate.task, predicate.node, predicate.epoch
    if isinstance(predicate, Contribution):
        return (predicate.task,)
    if isinstance(predicate, Answer | AnswerCommitment | Silence):
        return predicate.audit, predicate.node, predicate.role
    return None


def _job_of(predicate: object) -> object:
    return getattr(predicate, "job", None)


def _grouped(credentials: Iterable[Logged[Credential]]) -> dict[NodeId, list[Logged[Credential]]]:
    found: dict[NodeId, list[Logged[Credential]]] = {}
    for item in credentials:
        found.setdefault(item.predicate.node, []).append(item)
    return found


T = TypeVar("T", Assignment, Contribution)


def _by_task(items: Iterable[Logged[T]]) -> dict[TaskId, Logged[T]]:
    found: dict[TaskId, Logged[T]] = {}
    for item in items:
        task = ids.parse_task(item.predicate.task)
        if task in found:
            raise Refuted(f"two {item.kind} statements of one task", why=task)
        found[task] = item
    return found
