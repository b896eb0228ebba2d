"""Verdicts: what the answers prove about one task (docs/audits.md; docs/receipt.md R10).

Statistics accuse, exact recomputation convicts:
1. A *recomputation* is the same result root and the same answer for the drawn inner step. The prover's answer must
   stand beside the root it contributed.
2. The prover and one auditor of another operator agree: `verified`.
3. They differ: another auditor, of a third operator, is drawn. Two auditors of different operators who agree with
   one another against the prover: `refuted`, and the prover is convicted.
4. An auditor against whom two parties of different operators agree is convicted itself, also when only the root or
   only the answer differs: a right root with a wrong answer was copied, not computed.
5. All differ: the next auditor in rank is asked, else two who make answers up would keep an honest node from its
   pay. When nobody is left to ask: `unverified`; nobody can be convicted.
6. The prover does not answer: silence is a pause, never a conviction, and its work is `unverified` at best. But it
   hides no lie: two auditors of different operators who agree against the root it signed refute it as by rule 3,
   else whoever lied would fall silent when drawn, and no stake would ever be lost.
   A *late* unit (draw.py rule 6) is asked about when its node may be gone for good: there one auditor of another
   operator who finds the root it signed is enough.
7. An auditor agrees with the prover and two others agree against: two against two cannot be decided, `unverified`.

Blame needs code of ours (rules/blame.py). A buyer's program can look at the clock, the machine or a coin, and then no
number of agreeing recomputations proves that the odd one lied. There (`without_blame`):
8. Nobody is convicted. Whoever would be is *odd*: a strike. What would be refuted is `unverified`: unpaid, and left out
   or done again.

9. An auditor who has no room for an audit is waited for, and nobody else is asked in his place. If he never had, and
   nobody was heard before, the task is `not-audited`: it stands as one that was not drawn does, it is not wrong; the
   figures count it as unheard (verify/worth.py). After a disagreement the question is closed as by rule 5.

10. What a clock or a limit cut (formats/ended.py) is compared with nothing. Of a cut unit one auditor who was cut too
   is enough: it stands as `cut`, paid, and proven by nobody. Two who were not, and agree, contradict a node that says
   its memory ran out; where it says that time did they only leave it unpaid: another machine is faster. No bond is in
   dispute over either. An auditor who
   was cut where the prover was not accuses nobody, and the next is asked; where all are, the unit stands as `cut`.

A task that was not drawn is `verified` in the statistical sense only; verify/soundness.py says how much that is worth.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Protocol

from stannary.formats import ended
from stannary.formats.ids import NodeId
from stannary.formats.lean import dataclass
from stannary.formats.predicates import Verdict
from stannary.rules.reasons import Reason


class HandedIn(Protocol):
    """A result that was handed in: who did, its root, and how its program ended where that is part of it."""

    @property
    def node(self) -> str | None: ...
    @property
    def root(self) -> str | None: ...
    @property
    def ended(self) -> str | None: ...


class Opinion(Protocol):
    """An opened answer: whose, the root it gives, and H(audit salt, state at the drawn step)."""

    @property
    def node(self) -> str: ...
    @property
    def root(self) -> str | None: ...
    @property
    def answer(self) -> str | None: ...
    @property
    def ended(self) -> str | None: ...


Same = Callable[[Opinion, Opinion], bool]


@dataclass(frozen=True, slots=True)
class Decision:
    """The verdict on one task, who is convicted by it, and whether another auditor is needed first."""

    verdict: Verdict
    reason: Reason
    refuted: tuple[NodeId, ...] = ()
    need_auditor: bool = False
    odd: tuple[NodeId, ...] = ()  # rule 8: a strike, no conviction
    need_outsider: bool = False  # two operators without a part in the job are asked first (rules/question.py)


def bitwise(first: Opinion, second: Opinion) -> bool:
    """Return whether two answers are the same recomputation, bit for bit (one engine class)."""
    return first.root == second.root and first.answer == second.answer


def judge(
    contribution: HandedIn,
    prover: Opinion | None,
    auditors: Sequence[Opinion],
    operators: Mapping[NodeId, str],
    *,
    exhausted: bool = False,
    late: bool = False,
    same: Same = bitwise,
) -> Decision:
    """Judge one drawn task from the opened answers (R10.1, R10.2).

    Args:
        contribution: the work that was handed in.
        prover: its node's opened answer, None if it stayed silent past its deadline.
        auditors: opened answers in audit-number order; nobody of the prover's operator is heard, and of each
            operator only the first.
        operators: the operator of every node named.
        exhausted: no further auditor can be had, so an open question closes as `unverified`.
        late: the last draw added the task long after it was done (R10.3).
        same: how two answers are compared; bitwise inside an engine class.
    """
    heard = independent(contribution, auditors, operators)
    if ended.is_cut(contribution.ended):
        return _judge_cut(contribution, prover, heard, exhausted=exhausted, same=same)
    counted = [item for item in heard if not ended.is_cut(item.ended)]
    if prover is None:
        return _judge_silent(contribution, counted, exhausted=exhausted, late=late, same=same)
    made = _judge_heard(contribution, prover, counted, exhausted=exhausted, same=same)
    if made.reason is Reason.NO_AUDITOR and heard and prover.root == contribution.root:
        return Decision(Verdict.UNVERIFIED, Reason.CUT)
    return made


def _judge_heard(
    contribution: HandedIn, prover: Opinion, heard: Sequence[Opinion], *, exhausted: bool, same: Same
) -> Decision:
    """Judge work whose prover answers for it (rules 1 to 5, and 7)."""
    honest_root = prover.root == contribution.root  # else it answers for work it did not hand in
    with_prover = [item for item in heard if honest_root and same(prover, item)]
    against = [item for item in heard if item not in with_prover]
    camp = _largest_camp(against, same)
    if with_prover:
        if len(camp) >= 2:
            return Decision(Verdict.UNVERIFIED, Reason.CONTESTED)
        return Decision(Verdict.VERIFIED, Reason.AGREED, _nodes(against))
    if len(camp) >= 2:
        outvoted = [item for item in against if item not in camp]
        return Decision(Verdict.REFUTED, Reason.CONTRADICTED, (_prover(contribution), *_nodes(outvoted)))
    return _open(heard, exhausted=exhausted)


def _judge_cut(
    contribution: HandedIn, prover: Opinion | None, heard: Sequence[Opinion], *, exhausted: bool, same: Same
) -> Decision:
    """Judge a unit that a clock or a limit cut (rule 10; R10.9)."""
    against = [item for item in heard if not ended.is_cut(item.ended)]
    camp = _largest_camp(against, same)
    if len(against) < len(heard):
        return Decision(Verdict.UNVERIFIED, Reason.PROVER_SILENT if prover is None else Reason.CUT)
    if len(camp) >= 2:
        if contribution.ended == ended.WALL_LIMIT:
            return Decision(Verdict.UNVERIFIED, Reason.CONTRADICTED)
        outvoted = [item for item in against if item not in camp]
        return Decision(Verdict.REFUTED, Reason.CONTRADICTED, (_prover(contribution), *_nodes(outvoted)))
    return _open(heard, exhausted=exhausted)


def without_blame(made: Decision) -> Decision:
    """Return a decision as it is where the code is the buyer's own, by rule 8 (R10.8)."""
    verdict = Verdict.UNVERIFIED if made.verdict is Verdict.REFUTED else made.verdict
    return replace(made, verdict=verdict, refuted=(), odd=made.refuted)


def undrawn() -> Decision:
    """Return the decision on a task the beacon passed over."""
    return Decision(Verdict.VERIFIED, Reason.NOT_DRAWN)


def independent(contribution: HandedIn, auditors: Sequence[Opinion], operators: Mapping[NodeId, str]) -> list[Opinion]:
    """Return the answers that are heard: none of the prover's operator, of each other the first (R10.1)."""
    prover = operators[_prover(contribution)]
    first_of: dict[str, Opinion] = {}
    for item in auditors:
        operator = operators[NodeId(item.node)]
        if operator != prover:
            first_of.setdefault(operator, item)
    return list(first_of.values())


def judge_untaken(
    contribution: HandedIn,
    prover: Opinion | None,
    auditors: Sequence[Opinion],
    operators: Mapping[NodeId, str],
    *,
    late: bool,
) -> Decision:
    """Judge a task an auditor had no room for, whose prover is not said to be silent (rule 9; R10.4)."""
    heard = independent(contribution, auditors, operators)
    if not heard and (prover is None or prover.root == contribution.root):
        return Decision(Verdict.VERIFIED, Reason.NOT_AUDITED)
    return judge(contribution, prover, auditors, operators, exhausted=True, late=late)


def _judge_silent(
    contribution: HandedIn, heard: Sequence[Opinion], *, exhausted: bool, late: bool, same: Same
) -> Decision:
    """Judge signed work whose prover does not answer (rule 6); one auditor who finds its root ends the matter."""
    against = [item for item in heard if item.root != contribution.root]
    camp = _largest_camp(against, same)
    if late and len(against) < len(heard) and len(camp) < 2:
        return Decision(Verdict.VERIFIED, Reason.AGREED)
    if len(against) < len(heard) or (exhausted and len(camp) < 2):
        return Decision(Verdict.UNVERIFIED, Reason.PROVER_SILENT)
    if len(camp) >= 2:
        outvoted = [item for item in against if item not in camp]
        return Decision(Verdict.REFUTED, Reason.CONTRADICTED, (_prover(contribution), *_nodes(outvoted)))
    return Decision(Verdict.PENDING, Reason.MISMATCH if heard else Reason.AWAITED, need_auditor=True)


def _open(heard: Sequence[Opinion], *, exhausted: bool) -> Decision:
    if exhausted:
        return Decision(Verdict.UNVERIFIED, Reason.NO_AGREEMENT if heard else Reason.NO_AUDITOR)
    return Decision(Verdict.PENDING, Reason.MISMATCH if heard else Reason.AWAITED, need_auditor=True)


def _largest_camp(answers: Sequence[Opinion], same: Same) -> list[Opinion]:
    """Return the largest set of answers that agree with one of their number (the first such set on a tie; R10.1)."""
    camps = [[other for other in answers if same(item, other)] for item in answers]
    return max(camps, key=len, default=[])


def _nodes(answers: Sequence[Opinion]) -> tuple[NodeId, ...]:
    return tuple(NodeId(item.node) for item in answers)


def _prover(contribution: HandedIn) -> NodeId:
    return NodeId(contribution.node or "")
