"""The draw: which work is audited, at which inner step, and by whom.

Rules (docs/receipt.md R8):
1. beacon = H(value, checkpoint root), where `value` is the next link of the buyer's hash chain and the checkpoint
   covers the commitments it judges. The market knows the commitments but not the value; the buyer knows the value
   but cannot change it; the node committed before either was joined: nobody steers.
2. Values are revealed in chain order, each once, for one checkpoint (formats/beacon.py checks the chain), and for one
   list of candidates, which that checkpoint covers: who may be ranked is fixed before the ranking can be known.
3. Everything a draw selects is a function of (beacon, task): whether the task is audited, the inner step both sides
   must answer for (1 to num_steps), the audit salt, and the order of the auditors.
4. Auditors belong to another operator than the prover and to its engine class, at most one node per operator,
   the smallest H(beacon, task, node) first. The next in rank serves when one is silent or another opinion is needed.
5. `canary`: when prover and auditor agree, the task goes, as if new, to the next in rank too: his answer is known.
6. From rules 3 on the merge of the last round is always drawn, and a draw behind which nothing is left to be done adds
   what is missing (R8.11): one unit of every operator that had none drawn, and as many as the job's assurance needs.
   Which ones, its beacon says: nobody knew before the last work was committed to. Such a *late* unit is asked about as
   if this draw had taken it.
   A round whose recipe broke off is always drawn: its word ends the job.
   Each attempt at the first unit is drawn too, where it is checked first (rules/first.py). Everybody knows that: like a
   last merge it vouches for nothing else, and is none of as many.
   In the buyer's own code each entry names a rate of its own, for what its node has to lose (rules/stake.py, R8.12).
7. An audit's name follows from beacon, task and auditor, of a run (rules/question.py) from its number too. It has no
   order: a first opinion, a second one, a canary and an outsider's run look alike to whoever is asked.

The market draws with these functions, and the verifier draws again (verify/receipt.py).
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Sequence
from dataclasses import replace

from stannary.errors import FormatError
from stannary.formats import digest, ids
from stannary.formats.digest import SIZE_BYTES, Digest
from stannary.formats.ids import AuditId, TaskId
from stannary.formats.jobspec import JobSpec
from stannary.formats.lean import dataclass
from stannary.formats.predicates import Candidate, Draw, Drawable
from stannary.formats.quantity import PPM
from stannary.rules import assurance, edition, first
from stannary.rules.kinds import TASKS
from stannary.rules.shape import shape_of

RUNS = (1, 2)  # of an outsider
CANARY_PPM = 10_000  # 1 %: auditors must not learn that a first opinion always agrees


@dataclass(frozen=True, slots=True)
class Selection:
    """What the beacon says about one task."""

    task: TaskId
    drawn: bool
    step: int
    salt: bytes
    auditors: tuple[Candidate, ...]  # in rank order
    audits: tuple[AuditId, ...]  # the name of each one's audit; the prover answers in the first that is opened
    runs: tuple[tuple[AuditId, ...], ...]  # of each one, the names of his runs as an outsider (rules/question.py)
    alone: AuditId  # the name of an audit that nobody is left to make: the prover is asked all the same
    canary: bool
    number: int = 0  # of the draw that asks, from 0
    is_late: bool = False  # a draw before that one had taken the task and passed over it


@dataclass(frozen=True, slots=True)
class Taken:
    """An entry of a draw, and what is selected for it."""

    entry: Drawable
    selection: Selection


class Draws:
    """The draws of one job, taken in order (R8.9, R8.11)."""

    def __init__(self, spec: JobSpec, broken_off: Container[TaskId] = ()) -> None:
        """Begin before the first draw; `broken_off`: rounds that must be drawn (rules/ending.py)."""
        self._spec, self._broken_off = spec, broken_off
        self._adds = edition.of(spec).adds_missing
        self._entries: dict[TaskId, Drawable] = {}  # the last of each task
        self._newest: dict[str, TaskId] = {}  # unit -> the task of it that was listed last
        self._drawn: set[TaskId] = set()
        self._last: frozenset[str] = frozenset()
        self._first = ""
        self._num = 0

    def note(self, draw: Draw, randomness: bytes) -> None:
        """Take a draw of which only what it drew is wanted, by the draws behind it."""
        self._draw(draw, randomness)

    def take(
        self, draw: Draw, candidates: Sequence[Candidate], randomness: bytes
    ) -> tuple[tuple[Taken, ...], tuple[Taken, ...]]:
        """Return what a draw selects for its own entries, in their order, and for late ones (rule 6)."""
        number, late = self._num, self._draw(draw, randomness)

        def taken(entries: Sequence[Drawable], *, is_late: bool) -> tuple[Taken, ...]:
            found = []
            for entry in entries:
                selection = _select(entry, candidates, randomness, audit_ppm=0, canary_ppm=CANARY_PPM)
                is_drawn = entry.task in self._drawn
                found.append(Taken(entry, replace(selection, drawn=is_drawn, number=number, is_late=is_late)))
            return tuple(found)

        return taken(draw.drawable, is_late=False), taken(late, is_late=True)

    def _draw(self, draw: Draw, randomness: bytes) -> tuple[Drawable, ...]:
        """Note what a draw draws; return the entries of earlier ones among it."""
        self._num += 1
        self._last = shape_of(self._spec).last_units(draw.job) if self._adds else frozenset()
        self._first = first.unit(self._spec, draw.job)
        for entry in draw.drawable:
            unit = ids.unit_of(entry.task)
            self._entries[entry.task] = entry
            self._newest[unit] = entry.task
            rate = self._spec.trust.audit_ppm if entry.audit_ppm is None else entry.audit_ppm
            beneath = _chosen(_hash("audit", randomness, entry.task), rate)
            is_drawn = beneath or self._is_foreseen(entry.task) or entry.task in self._broken_off
            (self._drawn.add if is_drawn else self._drawn.discard)(entry.task)
        if not self._adds or not self._last <= self._newest.keys():
            return ()
        added = self._missing(randomness)
        self._drawn |= added
        own = {entry.task for entry in draw.drawable}
        return tuple(self._entries[task] for task in sorted(added - own))

    def _is_foreseen(self, task: TaskId) -> bool:
        return self._is_last_merge(task) or ids.unit_of(task) == self._first

    def _is_last_merge(self, task: TaskId) -> bool:
        return ids.unit_of(task) in self._last and TASKS[ids.place_of(task)[0]].is_merge

    def _missing(self, randomness: bytes) -> set[TaskId]:
        """Return what the last draw adds: of the undrawn the first by their hashes (R8.11)."""
        order = sorted(self._entries.keys() - self._drawn, key=lambda task: (_hash("audit", randomness, task), task))
        added: set[TaskId] = set()
        # everybody knows that a last merge or a first unit is drawn: it vouches for nothing else its operator did
        known = {self._entries[task].operator for task in self._drawn if not self._is_foreseen(task)}
        for task in order:
            if self._entries[task].operator not in known:
                known.add(self._entries[task].operator)
                added.add(task)
        standing, trust = set(self._newest.values()), self._spec.trust
        wanted = assurance.needed(trust.assurance, len(standing), trust.detection_ppm) if trust.assurance else 0
        counted = {task for task in standing & (self._drawn | added) if ids.unit_of(task) != self._first}
        short = max(wanted - len(counted), 0)
        return added | set([task for task in order if task in standing - added][:short])


def is_extra(entry: Drawable, own_ppm: int, randomness: bytes) -> bool:
    """Tell whether an entry is drawn at its rate, and would not be at `own_ppm` (R14.13)."""
    value = _hash("audit", randomness, entry.task)
    return _chosen(value, entry.audit_ppm or 0) and not _chosen(value, own_ppm)


def beacon(value: str, checkpoint_root: Digest) -> bytes:
    """Return the randomness that `value`, revealed for this checkpoint, makes (R8.8)."""
    raw_value = digest.raw(Digest(digest.PREFIX + value))
    return digest.hash_parts("stannary beacon v1", raw_value, digest.raw(checkpoint_root))


def select(
    draw: Draw,
    candidates: Sequence[Candidate],
    randomness: bytes,
    audit_ppm: int,
    canary_ppm: int = CANARY_PPM,
) -> tuple[Selection, ...]:
    """Return what `randomness` (the beacon) selects among the draw's tasks, in their order (R8.9).

    Args:
        draw: the tasks.
        candidates: those of the statement the draw names.
        randomness: the beacon.
        audit_ppm: how many tasks in a million are audited.
        canary_ppm: how many of those whose answer is known are asked about once more.
    """
    return tuple(
        _select(item, candidates, randomness, audit_ppm=audit_ppm, canary_ppm=canary_ppm) for item in draw.drawable
    )


def question(randomness: bytes, task: TaskId, num_steps: int) -> tuple[int, bytes]:
    """Return the inner step a task is asked about, from 1 on, and the audit salt (R8.9)."""
    # 256 bits modulo a step count: the bias is below 2**-200
    step = 1 + int.from_bytes(_hash("step", randomness, task), "big") % num_steps
    return step, _hash("salt", randomness, task)


def audit_name(randomness: bytes, task: TaskId, auditor: str = "") -> AuditId:
    """Return the name of the audit that `auditor` makes of a task (rule 6); without one, of nobody's (R8.9)."""
    return ids.audit_id(task, _hash("audit name", randomness, task, auditor.encode()))


def run_name(randomness: bytes, task: TaskId, outsider: str, run: int) -> AuditId:
    """Return the name of a run, 1 or 2, by which an outsider answers the question (R8.9)."""
    return ids.audit_id(task, _hash("run name", randomness, task, outsider.encode(), b"%d" % run))


def rank(task: Drawable, candidates: Iterable[Candidate], randomness: bytes) -> tuple[Candidate, ...]:
    """Return those who may audit `task`, in the order they are asked (R8.9)."""
    eligible = [
        item for item in candidates if item.operator != task.operator and item.engine_class == task.engine_class
    ]
    eligible.sort(key=lambda item: (_hash("auditor", randomness, task.task, item.node.encode()), item.node))
    first_of: dict[str, Candidate] = {}
    for item in eligible:
        first_of.setdefault(item.operator, item)
    return tuple(first_of.values())


def _select(
    task: Drawable, candidates: Iterable[Candidate], randomness: bytes, *, audit_ppm: int, canary_ppm: int
) -> Selection:
    if task.num_steps < 1:
        raise FormatError("a task without steps cannot be drawn", why=str(task.task))
    step, salt = question(randomness, task.task, task.num_steps)
    auditors = rank(task, candidates, randomness)
    return Selection(
        task=task.task,
        drawn=_chosen(_hash("audit", randomness, task.task), audit_ppm),
        step=step,
        salt=salt,
        auditors=auditors,
        audits=tuple(audit_name(randomness, task.task, item.node) for item in auditors),
        runs=tuple(tuple(run_name(randomness, task.task, item.node, run) for run in RUNS) for item in auditors),
        alone=audit_name(randomness, task.task),
        canary=_chosen(_hash("canary", randomness, task.task), canary_ppm),
    )


def _chosen(value: bytes, ppm: int) -> bool:
    """Return whether the value, read as a fraction of 2**256, lies below ppm / 1,000,000 (exact integers; R8.9)."""
    return int.from_bytes(value, "big") * PPM < ppm << (8 * SIZE_BYTES)


def _hash(label: str, randomness: bytes, task: TaskId, *more: bytes) -> bytes:
    return digest.hash_parts(f"stannary draw {label} v1", randomness, task.encode(), *more)
