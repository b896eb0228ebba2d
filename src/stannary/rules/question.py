"""Whether a program can be recomputed at all: the question, asked of operators who had no part in the job.

Rules (docs/receipt.md R10.10 to R10.13; docs/audits.md), for code in which nobody can be convicted (rules/blame.py):
1. Two operators who stand alone in a job, or three different answers to one unit, strike nobody yet: they *open the
   question*. At the first check (rules/first.py) the first answer that differs does, where two could be asked. Whoever
   an answer has struck opens none again, and a job holds escrow for `MAX_QUESTIONS`: behind so many
   another one ends as by rule 6.
2. Asked are two *outsiders*, the next in rank of the same draw whose operators had no part in the job: placed on none
   of it, no work of theirs handed in, no answer of theirs committed to. Who is silent is replaced by the next.
3. Each runs the unit twice, in fresh processes, under audit names of their own: no run can tell which it is.
4. One run differs from another: the program is `not-reproducible`, and the job ends so. Units that another operator
   reproduced are paid, no other unit is; nobody is struck, and the strikes before are taken back.
5. All four are the same: whoever answered otherwise to that unit is odd, however many they are. It is no shelter to
   have an accomplice answer something else.
6. Fewer than two outsiders answer, and none is left to ask: the unit is unpaid, and the job ends `unverified`.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import field, replace

from stannary.formats import ended
from stannary.formats.ids import NodeId
from stannary.formats.jobspec import JobSpec, Verification
from stannary.formats.lean import dataclass
from stannary.formats.predicates import Verdict
from stannary.rules import blame, verdict
from stannary.rules.draw import RUNS
from stannary.rules.price import QUESTIONS_IN_ESCROW
from stannary.rules.reasons import Reason
from stannary.rules.verdict import Decision, HandedIn, Opinion, bitwise

OUTSIDERS = 2  # who are asked
MAX_QUESTIONS = QUESTIONS_IN_ESCROW
LEAST_ODD = 2  # operators
LEAST_ANSWERS = 3  # to one unit, all different
MAX_NAMES = 4  # of outputs that are named; the receipt's evidence has all
SHOWN_CHARS = 19  # of a digest
ENDING = frozenset({Reason.NOT_REPRODUCIBLE, Reason.NO_OUTSIDER})
"""Reasons of a verdict that end the job: behind them nobody is struck."""
_BY_ANOTHER = frozenset({Reason.AGREED, Reason.CONTESTED, Reason.REPRODUCED})


@dataclass(frozen=True, slots=True)
class Past:
    """What the verdicts of a job say so far."""

    odd: frozenset[str] = frozenset()  # operators who stood alone since it was answered last
    num_answered: int = 0  # how often four runs agreed
    is_over: bool = False  # the program cannot be judged any more: nobody is struck


def may_open(spec: JobSpec) -> bool:
    """Tell whether the question may be asked of a job."""
    return spec.trust.verify is not Verification.NONE and not blame.convicts(spec)


def past(said: Iterable[tuple[str, Iterable[NodeId]]], operators: Mapping[NodeId, str]) -> Past:
    """Return what reason and odd nodes of the verdicts before, in log order, come to."""
    odd: set[str] = set()
    num_answered, is_over = 0, False
    for reason, nodes in said:
        odd.update(operators[node] for node in nodes)
        is_over = is_over or reason in ENDING
        if reason == Reason.REPRODUCED:
            num_answered += 1
            odd.clear()
    return Past(frozenset(odd), num_answered, is_over)


@dataclass(frozen=True, slots=True)
class Hearing:
    """All that was said about one drawn task."""

    contribution: HandedIn
    prover: Opinion | None  # None if it stayed silent past its deadline
    auditors: Sequence[Opinion]  # in audit-number order
    runs: Sequence[Opinion]  # of outsiders
    operators: Mapping[NodeId, str]  # of every node named
    late: bool = False  # the last draw added the task
    untaken: bool = False  # an auditor had no room for it, and its prover is not said to be silent
    spare: Mapping[str, int] = field(default_factory=dict)  # of a first unit: who could be asked behind each in rank

    @property
    def others(self) -> list[Opinion]:
        """The auditors that are heard."""
        heard = verdict.independent(self.contribution, self.auditors, self.operators)
        return [item for item in heard if not ended.is_cut(item.ended)]

    @property
    def num_different(self) -> int:
        """The number of different answers; what a prover handed in, and does not answer for, is known by its root."""
        root, answers = self.contribution.root, {(item.root, item.answer) for item in self.others}
        if self.prover is not None and self.prover.root == root:
            return len(answers | {(root, self.prover.answer)})
        return len(answers) + all(item.root != root for item in self.others)

    @property
    def num_spare(self) -> int:
        """How many outsiders could be asked behind the first whose answer to a first unit differs."""
        root = self.contribution.root
        answers_for = self.prover if self.prover is not None and self.prover.root == root else None

        def is_other(item: Opinion) -> bool:
            if self.prover is None:
                return item.root != root
            return answers_for is None or not bitwise(answers_for, item)

        return next((self.spare.get(item.node, 0) for item in self.others if is_other(item)), 0)

    def has_found(self, run: Opinion) -> bool:
        """Tell whether the prover found what a run found."""
        return run.root == self.contribution.root and (self.prover is None or bitwise(self.prover, run))


def judge(spec: JobSpec, told: Hearing, before: Past, *, exhausted: bool = False) -> Decision:
    """Judge one drawn task of a job, whatever its code.

    Args:
        spec: the job's.
        told: all that was said about the task.
        before: the verdicts of the job so far.
        exhausted: nobody more can be asked, so an open matter closes as `unverified`.
    """
    heard = told.contribution, told.prover, told.auditors, told.operators
    if told.untaken:
        made = verdict.judge_untaken(*heard, late=told.late)
    else:
        made = verdict.judge(*heard, exhausted=exhausted, late=told.late)
    made = blame.decided(spec, made)
    if ended.is_cut(told.contribution.ended):  # what is compared with nothing opens no question, and takes no bond
        return replace(made, verdict=_unblamed(made), refuted=()) if blame.convicts(spec) else made
    if blame.convicts(spec):
        return made
    if before.is_over:
        return replace(made, odd=())
    if not _is_opened(made, told, before):
        return made
    if before.num_answered >= MAX_QUESTIONS:
        return Decision(Verdict.UNVERIFIED, Reason.NO_OUTSIDER)
    return _answered(told, exhausted=exhausted)


def _unblamed(made: Decision) -> Verdict:
    return Verdict.UNVERIFIED if made.verdict is Verdict.REFUTED else made.verdict


def _is_opened(made: Decision, told: Hearing, before: Past) -> bool:
    if before.num_answered == 0 and told.num_spare >= OUTSIDERS:
        return True
    odd = before.odd | {told.operators[node] for node in made.odd}
    return (bool(made.odd) and len(odd) >= LEAST_ODD) or told.num_different >= LEAST_ANSWERS


def _answered(told: Hearing, *, exhausted: bool) -> Decision:
    twice = [pair for pair in _by_node(told.runs) if len(pair) == len(RUNS)]
    found = [run for pair in twice for run in pair if not ended.is_cut(run.ended)]
    if any(not bitwise(found[0], run) for run in found):
        return Decision(Verdict.UNVERIFIED, Reason.NOT_REPRODUCIBLE)
    if len(twice) < OUTSIDERS:
        if exhausted:
            return Decision(Verdict.UNVERIFIED, Reason.NO_OUTSIDER)
        return Decision(Verdict.PENDING, Reason.OPENED, need_outsider=True)
    if len(found) < OUTSIDERS * len(RUNS):  # what a clock cut short tells nothing of the program
        return Decision(Verdict.UNVERIFIED, Reason.NO_OUTSIDER)
    is_right = told.has_found(found[0])
    odd = [] if is_right else [NodeId(told.contribution.node or "")]
    odd += [NodeId(item.node) for item in told.others if not bitwise(item, found[0])]
    is_verified = is_right and (told.prover is not None or told.late)
    return Decision(Verdict.VERIFIED if is_verified else Verdict.UNVERIFIED, Reason.REPRODUCED, odd=tuple(odd))


@dataclass(frozen=True, slots=True)
class Ran:
    """What one run of an outsider found."""

    node: str
    outputs: Mapping[str, str]  # name -> digest


def why_different(runs: Sequence[Ran]) -> str:
    """Say which outputs differ between which runs, and what that points to; of runs that are not all the same.

    What a market can tell is names and digests of what each run handed in, and on which machine it ran.
    """
    pairs = list(itertools.combinations(runs, 2))
    of_one = [pair for pair in pairs if pair[0].node == pair[1].node]
    of_two = [pair for pair in pairs if pair not in of_one]
    parted = next((pair for pair in (*of_one, *of_two) if pair[0].outputs != pair[1].outputs), None)
    if parted is None:
        return "the state in mid-run differs between runs whose outputs are the same: it depends on time or chance"
    one, other = parted
    names = sorted(name for name in {*one.outputs, *other.outputs} if one.outputs.get(name) != other.outputs.get(name))
    digests = " and ".join(run.outputs.get(names[0], "nothing")[:SHOWN_CHARS] for run in parted)
    listed = ", ".join(names[:MAX_NAMES]) + (f" and {len(names) - MAX_NAMES} more" if len(names) > MAX_NAMES else "")
    if one.node == other.node:
        where = f"between two runs at {one.node}, each in a fresh process"
        cause = "the time, chance (a seed that is not set), or threads that race"
    else:
        where = f"between {one.node} and {other.node}, and at each of them not"
        cause = "the machine: a path, a name, its processor or how many it has"
    return f"{listed} differs {where}; first {names[0]}: {digests}. Likely it depends on {cause}"


def is_irreproducible(decisions: Iterable[Decision]) -> bool:
    """Tell whether a job's program is not reproducible, by the decisions on its units."""
    return any(made.reason is Reason.NOT_REPRODUCIBLE for made in decisions)


def taken_back(made: Decision) -> Decision:
    """Return a decision as it counts where the program is not reproducible (rule 4)."""
    by_another = made.reason in _BY_ANOTHER and (made.verdict is Verdict.VERIFIED or made.reason is Reason.CONTESTED)
    return replace(made, verdict=Verdict.VERIFIED if by_another else Verdict.UNVERIFIED, odd=())


def _by_node(runs: Iterable[Opinion]) -> list[list[Opinion]]:
    found: dict[str, list[Opinion]] = {}
    for run in runs:
        found.setdefault(run.node, []).append(run)
    return list(found.values())
