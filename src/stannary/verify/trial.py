"""The trial of a job's work: whether draws, audits and verdicts followed the rules (docs/audits.md).

Rules (docs/receipt.md R8 to R10):
1. Each reveal is the next value of the buyer's chain, logged after the checkpoint it names; each draw uses one
   reveal, its checkpoint and its candidates, and is logged after the reveal.
2. A draw takes *every* commitment the checkpoint covers that no earlier draw took (one whose node never opened it
   may be missing): a task held back for a luckier beacon is a task not audited. Its figures are those in evidence.
3. The candidates of a draw stand in the log before the checkpoint its beacon is made of, by the buyer's own word in
   the reveal: a market that knows the beacon can add, drop and reorder nobody. They stand in node order, each with a
   credential that says the same and passes the job's masks, so nobody is ranked twice, invented or let in; whoever
   the job has placed or heard work of is listed or left out for a stated reason.
4. Only ranked auditors answer, in rank order, each under the name of its own audit. Who was passed over is judged in
   silence.py.
5. Commitments of an audit are logged before any of its answers is opened, after the draw; each answer opens its own.
6. Each logged verdict is what judge() says of the answers logged before it. A drawn contribution has one.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from stannary.errors import StannaryError
from stannary.formats import beacon, commitments, instants, predicates
from stannary.formats.digest import Digest
from stannary.formats.ids import NodeId, TaskId
from stannary.formats.predicates import Answer, Candidate, Candidates, Commitment, Draw, Drawable, Reveal, Role
from stannary.formats.quantity import PPM
from stannary.rules import blame, first, stake, use
from stannary.rules.draw import Selection
from stannary.rules.use import DrawnUse, StepRates
from stannary.verify import watching
from stannary.verify.case import Case, Logged
from stannary.verify.conclusion import decide, is_run
from stannary.verify.report import Findings


def check(case: Case, roots: dict[int, Digest], selections: dict[TaskId, Selection], findings: Findings) -> None:
    """Add a finding for every draw, audit and verdict that breaks a rule.

    Args:
        case: the job's statements.
        roots: size -> root of every checkpoint the log has signed in this receipt.
        selections: what the beacons selected (conclusion.selections_of).
        findings: collects.
    """
    _check_candidates(case, findings)
    _check_reveals(case, roots, findings)
    reveals = {item.leaf: item for item in case.reveals}
    waiting = _Waiting(case)
    for number, item in enumerate(case.draws):
        findings.expect("draw.number", f"draw {item.predicate.index}", item.predicate.index, number)
        _check_draw(case, item, reveals[item.predicate.reveal], waiting, findings)  # or there were no selections
    for task, answers in case.answers_of.items():
        selection = selections.get(task)
        if selection is None or not selection.drawn:
            findings.refute("audit.undrawn", task, "answers to an audit nobody drew")
            continue
        _check_audits(case, task, selection, answers, findings)
        for answer in answers:
            _check_answer(case, answer, case.draws[selection.number].index, findings)
    _check_verdicts(case, selections, findings)


def _check_reveals(case: Case, roots: dict[int, Digest], findings: Findings) -> None:  # R8.2, R8.3
    order = case.job.predicate
    previous = order.beacon_tip
    for number, item in enumerate(case.reveals):
        reveal = item.predicate
        name = f"reveal {reveal.index}"
        findings.expect("reveal.index", name, reveal.index, number)
        if number >= order.beacon_length:
            findings.refute("reveal.length", name, number, f"a chain of {order.beacon_length}")
        try:
            beacon.check(previous, reveal.value)
        except StannaryError as err:
            findings.refute("reveal.chain", name, str(err), "the next value of the buyer's chain")
        previous = reveal.value
        findings.expect("reveal.checkpoint", name, reveal.checkpoint_root, roots.get(reveal.checkpoint_size))
        if item.index < reveal.checkpoint_size:
            findings.refute("reveal.order", name, item.index, f"logged after checkpoint {reveal.checkpoint_size}")
        listed = case.candidates.get(reveal.candidates)
        if listed is None:
            findings.refute("reveal.candidates", name, reveal.candidates, "candidates in evidence")
            continue
        findings.expect("reveal.candidates", name, listed.predicate.index, reveal.index)
        if listed.index >= reveal.checkpoint_size:
            why = f"fixed before checkpoint {reveal.checkpoint_size}, which makes the beacon"
            findings.refute("candidates.late", name, f"candidates at log index {listed.index}", why)


class _HandedIn:
    """The work of what was handed in, as draws go on (R8.13)."""

    def __init__(self, case: Case) -> None:
        self._case = case
        made = sorted(case.contributions.items(), key=lambda item: item[1].index, reverse=True)
        self._left = [(item.index, case.opened[task]) for task, item in made if task in case.opened]
        self._rates = StepRates()

    def until(self, index: int) -> StepRates:
        """Return it of all that stands below `index` in the log, or below one asked for before."""
        case = self._case
        while self._left and self._left[-1][0] < index:
            _, made = self._left.pop()
            took = _use(case, made)
            is_first = first.is_first(case.spec, case.job_id, made.predicate.task)
            self._rates.add(took.kind, took.work_us(case.spec.resources), took.num_steps, is_first=is_first)
        return self._rates


class _Waiting:
    """The commitments no draw has taken yet, as checkpoints come to cover them (R8.7)."""

    def __init__(self, case: Case) -> None:
        self._commitments = case.commitments  # in log order
        self._next = 0
        self.held: dict[int, Logged[Commitment]] = {}
        self.handed_in = _HandedIn(case)

    def cover(self, size: int) -> None:
        """Add every commitment below `size`."""
        while self._next < len(self._commitments) and self._commitments[self._next].index < size:
            item = self._commitments[self._next]
            self.held[item.index] = item
            self._next += 1


def _check_draw(case: Case, item: Logged[Draw], reveal: Logged[Reveal], waiting: _Waiting, findings: Findings) -> None:
    draw = item.predicate
    name = f"draw {draw.index}"
    observed = (draw.index, draw.checkpoint_size, draw.checkpoint_root)
    expected = (reveal.predicate.index, reveal.predicate.checkpoint_size, reveal.predicate.checkpoint_root)
    findings.expect("draw.checkpoint", name, observed, expected)
    findings.expect("draw.candidates", name, draw.candidates, reveal.predicate.candidates)
    findings.expect("draw.order", name, item.index > reveal.index, True)
    listed = [entry.commitment_index for entry in draw.drawable]
    if any(first >= second for first, second in itertools.pairwise(listed)):
        findings.refute("draw.drawable", name, listed, "commitments in log order, once each")
    waiting.cover(draw.checkpoint_size)
    found = [(entry, waiting.held.pop(entry.commitment_index, None)) for entry in draw.drawable]
    far = _far_out(case, [made for _, made in found if made is not None], waiting.handed_in)
    watched = watching.of_draw(case, draw)
    for entry, made in found:
        if made is None:
            findings.refute("draw.drawable", name, f"{entry.task} at {entry.commitment_index}", "a new commitment")
            continue
        is_watched = made.index in watched
        expected_entry = _drawable(case, made, is_far=made.index in far, is_watched=is_watched)
        findings.expect("draw.drawable", name, entry, expected_entry)
    for held in waiting.held.values():
        if _is_opened(case, held.predicate):
            findings.refute("draw.held-back", name, held.predicate.task, "every commitment of the checkpoint")
    waiting.held.clear()


def _far_out(case: Case, listed: Sequence[Logged[Commitment]], handed_in: _HandedIn) -> frozenset[int]:  # R8.13
    """Return the log indexes of commitments to work far beyond that of others, of their draw or handed in before."""
    known = [item for item in listed if item.predicate.task in case.assignments]
    before = handed_in.until(min((item.index for item in known), default=0))
    far = use.far_out([_use(case, item) for item in known], before, case.spec.resources)
    return frozenset(item.index for item, is_far in zip(known, far, strict=True) if is_far)


def _use(case: Case, made: Logged[Commitment]) -> DrawnUse:
    said = made.predicate
    assignment = case.assignments[said.task].predicate
    return DrawnUse(assignment.kind, assignment.num_steps, said.used, case.grade_at(said.node, made.index))


def _drawable(case: Case, made: Logged[Commitment], *, is_far: bool, is_watched: bool) -> Drawable:  # R8.6
    commitment = made.predicate
    held = case.credential_at(commitment.node, made.index)
    assignment = case.assignments.get(commitment.task)
    steps = assignment.predicate.num_steps if assignment is not None else 0
    held_steps = 0 if is_watched else stake.held_steps(case.handed_in, commitment.node, made.index)
    rate = stake.unit_ppm(case.spec, steps, held_steps)  # R8.12
    return Drawable(
        commitment.task, commitment.node, held.operator, held.engine_class, steps, made.index, PPM if is_far else rate
    )


def _is_opened(case: Case, commitment: Commitment) -> bool:
    contribution = case.contributions.get(commitment.task)
    if contribution is None:
        return False
    opened = contribution.predicate
    return (opened.node, opened.epoch) == (commitment.node, commitment.epoch)


def _check_candidates(case: Case, findings: Findings) -> None:  # R8.4
    known = {node for item in case.placements for node in item.predicate.chosen}
    made = sorted(case.contributions.values(), key=lambda item: item.index, reverse=True)
    for number, item in enumerate(sorted(case.candidates.values(), key=lambda item: item.index)):
        said = item.predicate
        name = f"candidates of draw {said.index}"
        findings.expect("candidates.index", name, said.index, number)
        _check_listed(case, name, item, findings)
        while made and made[-1].index < item.index:
            known.add(made.pop().predicate.node)
        listed = {*(entry.node for entry in said.candidates), *(entry.node for entry in said.left_out)}
        unlisted = sorted(known - listed)
        if unlisted:
            findings.refute("candidates.unlisted", name, ", ".join(unlisted), "listed, or left out for a reason")


def _check_listed(case: Case, name: str, made: Logged[Candidates], findings: Findings) -> None:  # R8.4
    said = made.predicate
    nodes = [item.node for item in said.candidates]
    left_out = [item.node for item in said.left_out]
    if nodes != sorted(set(nodes)) or left_out != sorted(set(left_out) - set(nodes)):
        findings.refute("candidates.order", name, [*nodes, *left_out], "in node order, once each")
    if said.watch is not None and not watching.may_be(case, said.watch):
        findings.refute(
            "candidates.watch", name, said.watch.nodes, "nodes in order, where units have rates of their own"
        )
    for item in said.candidates:
        if item.node not in case.credentials:
            findings.refute("candidates.unknown", name, item.node, "a node with a credential in evidence")
            continue
        held = case.credential_at(item.node, made.index)
        findings.expect("candidates.unknown", name, item, Candidate(item.node, held.operator, held.engine_class))
        reason = case.why_no_judge(item.node, made.index)
        if reason:
            findings.refute("candidates.ineligible", name, f"{item.node}: {reason}", "a node that may audit")
        if not case.has_good_credential(item.node, made.index, instants.parse(said.fixed_at)):
            expected = f"a credential valid at {said.fixed_at}"
            findings.refute("candidates.expired", name, item.node, expected)


def _check_audits(
    case: Case, task: TaskId, selection: Selection, answers: Sequence[Logged[Answer]], findings: Findings
) -> None:
    """Check who answered: the prover once, auditors in rank order, each under the name of its own audit (R9.7)."""
    prover = case.contributions[task].predicate.node
    ranked: list[NodeId] = [item.node for item in selection.auditors]
    expected_rank = 0
    num_provers = 0
    for item in answers:
        answer = item.predicate
        if answer.role is Role.PROVER:
            num_provers += 1
            findings.expect("audit.prover", answer.audit, answer.node, prover)
            if answer.audit not in (*selection.audits, selection.alone):
                findings.refute("audit.name", answer.audit, answer.node, "an audit the beacon names")
            continue
        if is_run(selection, answer):
            mine = selection.runs[ranked.index(answer.node)] if answer.node in ranked else ()
            if answer.audit not in mine:
                findings.refute("audit.name", answer.node, answer.audit, "a run of its own")
            continue
        if answer.node not in ranked[expected_rank:]:
            findings.refute("audit.auditor", answer.audit, answer.node, f"one of {', '.join(ranked[expected_rank:])}")
            continue
        rank = ranked.index(answer.node)
        findings.expect("audit.name", answer.node, answer.audit, selection.audits[rank])
        expected_rank = rank + 1
    if num_provers > 1:
        findings.refute("audit.prover", task, f"{num_provers} answers of its prover", "one")


def _check_answer(case: Case, item: Logged[Answer], drawn_at: int, findings: Findings) -> None:  # R9.8, R9.9
    answer = item.predicate
    own = case.answer_commitments.get((answer.audit, answer.node, answer.role))
    if own is None:
        findings.refute("answer.commitment", answer.audit, f"{answer.node} never committed", "a commitment before")
        return
    others = list(case.commitment_indexes_of[answer.audit])
    if answer.role is Role.AUDITOR:  # whoever's audit the prover answered in
        others += case.prover_commitment_indexes_of.get(answer.task, ())
    if not drawn_at < min(others) or not max(others) < item.index:
        findings.refute("answer.order", answer.audit, f"{others} and {item.index}", "draw, commitments, then answers")
    try:
        opened = commitments.answer_commitment_hash(answer.node, answer.blind, answer.answer, answer.root)
    except StannaryError as err:  # blind or answer that is not hex
        opened = f"cannot be opened: {err}"
    findings.expect("answer.opening", answer.audit, own.predicate.commitment, opened)
    if answer.role is Role.AUDITOR:
        findings.expect("answer.root", answer.audit, answer.root, predicates.result_root(answer.outputs, answer.ended))
    is_due = case.edition.pays_by_use and answer.role is Role.AUDITOR
    findings.expect("answer.used", answer.audit, answer.used is not None, is_due)
    findings.expect("answer.ended", answer.audit, case.says_ending(answer), True)


def _check_verdicts(case: Case, selections: dict[TaskId, Selection], findings: Findings) -> None:  # R10.5, R10.6
    for item in case.verdicts:
        said = item.predicate
        contribution = case.contributions[said.task]
        findings.expect("verdict.node", said.task, said.node, contribution.predicate.node)
        findings.expect("verdict.order", said.task, item.index > contribution.index, True)
        decision = decide(case, said.task, selections.get(said.task), before=item.index)
        odd = None if blame.convicts(case.spec) else decision.odd
        observed = (said.verdict, said.reason, tuple(sorted(said.refuted)), said.odd)
        expected = (decision.verdict, decision.reason.value, tuple(sorted(decision.refuted)), odd)
        findings.expect("verdict.mismatch", said.task, observed, expected)
    for task, selection in selections.items():
        if selection.drawn and task not in case.verdicts_of:
            findings.below_policy("verdict.missing", task, "drawn, never judged", "a verdict")
            continue
        # answers logged after the last verdict (a canary's, or an inconvenient one) must have been judged too
        if selection.drawn:
            last = case.verdicts_of[task][-1].predicate
            decision = decide(case, task, selection)
            stated = (last.verdict, {*last.refuted, *(last.odd or ())})
            if stated != (decision.verdict, {*decision.refuted, *decision.odd}):
                findings.refute("verdict.outdated", task, last.verdict, decision.verdict)
