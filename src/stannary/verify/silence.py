"""Silence: whether those who were passed over were asked, had their time, and by whose word they did not answer.

Rules (docs/receipt.md R11):
1. A rank is passed over by a signed and logged `silence` of it before the next auditor commits, or because its node
   was convicted in this job before. The same holds for every rank left when a question closes with nobody to ask, for
   the auditor of a canary who is not heard, and for a prover without an answer. A skip without a word refutes.
2. A silence names a party the draw asks and the draw itself. It was asked after the draw's checkpoint was witnessed,
   and had, where its deadline is the reason, at least the time the signed spec agrees for the task, and what who did
   it said that it took; the statement is not older than what it says.
3. A silence is false, and refutes, where the party's own statement stands in the log before it.
4. From rules 3 on an auditor is asked to take an audit when it has room, and its time counts from there. Had it none
   for three times the task's agreed time, that closes the question (`not-taken`): nobody may be asked in its place.
   Who was neither lost nor revoked, and never took it, is not silent.
5. Silences are counted. One is a notice. A market that steers towards its one friend among m operators passes over
   half of all it asks where m = 3, and more where m is larger; a dead node among them comes first in 1 / m of the
   cases. From half on (and at least LEAST_MANY), or with more than MAX_OF_TASK about one task, the receipt is below
   policy.

What is left to the market: whether it really delivered the question. Rules 2 and 5 bound what it can make of that.
"""

from __future__ import annotations

from collections.abc import Mapping

from stannary.formats import instants
from stannary.formats.ids import NodeId, TaskId
from stannary.formats.predicates import Absence, Awaited, Role, Silence, Verdict
from stannary.formats.quantity import PPM
from stannary.rules import pace, question
from stannary.rules.clocks import CLOCK_SKEW_S
from stannary.rules.draw import Selection
from stannary.rules.verdict import Decision
from stannary.verify import conclusion
from stannary.verify.case import Case, Logged
from stannary.verify.conclusion import is_run, spare_of
from stannary.verify.course import Witnessed
from stannary.verify.report import Findings

MANY_PPM = 500_000  # of the auditors asked
LEAST_MANY = 4  # below this a share says nothing
MAX_OF_TASK = 2
ROUNDING_S = 1  # times are whole seconds


def check(case: Case, selections: Mapping[TaskId, Selection], witnessed: Witnessed, findings: Findings) -> None:
    """Add a finding for every rank passed over without a word, and for every word that does not hold."""
    for item in case.silences.values():
        _check_statement(case, item, selections.get(item.predicate.task), witnessed, findings)
    for task, selection in selections.items():
        if selection.drawn:
            _Passing(case, task, selection, findings).check()
    _count(case, findings)


def _check_statement(
    case: Case, item: Logged[Silence], selection: Selection | None, witnessed: Witnessed, findings: Findings
) -> None:  # R11.2, R11.4
    said = item.predicate
    name = f"silence of {said.node} in {said.audit}"
    if selection is None or not selection.drawn:
        findings.refute("silence.undrawn", name, said.task, "a task the beacon drew")
        return
    if said.role is Role.AUDITOR:
        asked = {(each.node, audit) for each, audit in zip(selection.auditors, selection.audits, strict=True)}
        asked |= {
            (each.node, run) for each, runs in zip(selection.auditors, selection.runs, strict=True) for run in runs
        }
    else:
        prover = case.contributions[said.task].predicate.node
        asked = {(prover, audit) for audit in (*selection.audits, selection.alone)}
    if (said.node, said.audit) not in asked:
        findings.refute("silence.party", name, said.role, "a party the draw asks")
    drawn = case.draws[selection.number]
    findings.expect("silence.draw", name, (said.draw, item.index > drawn.index), (drawn.leaf, True))
    _check_times(case, item, drawn.index, witnessed, findings)
    key = (said.audit, said.node, said.role)
    committed, answered = case.answer_commitments.get(key), case.answers.get(key)
    own = committed if said.awaited is Awaited.COMMITMENT else answered
    if own is not None and own.index < item.index:
        findings.refute("silence.false", name, f"its {own.kind} is at log index {own.index}", "no such silence")
    if said.awaited is Awaited.ANSWER and (committed is None or committed.index > item.index):
        findings.refute("silence.awaited", name, "no commitment to open", "asked to commit first")


def _check_times(case: Case, item: Logged[Silence], drawn_at: int, witnessed: Witnessed, findings: Findings) -> None:
    said = item.predicate
    name = f"silence of {said.node} in {said.audit}"
    asked, deadline, ended = (instants.parse(time) for time in (said.asked_at, said.deadline_at, said.ended_at))
    is_timed = said.reason in (Absence.DEADLINE, Absence.NOT_TAKEN)
    if not asked <= min(deadline, ended) or (is_timed and ended < deadline):
        findings.refute("silence.time", name, f"{said.asked_at}, {said.deadline_at}, {said.ended_at}", "in order")
    agreed_s = case.shape.agreed_s(case.assignments[said.task].predicate.num_steps)
    made = case.opened.get(said.task)
    least_s = pace.least_s(agreed_s, made.predicate.used if made is not None else None, case.spec.resources.wall_s)
    begun = asked if said.taken_at is None else instants.parse(said.taken_at)
    if said.reason is Absence.NOT_TAKEN:
        least_s = pace.AUDIT_WAIT_FACTOR * least_s
    if said.awaited is Awaited.COMMITMENT and deadline - begun + ROUNDING_S < least_s:
        findings.refute("silence.hasty", name, f"{deadline - begun} s", f"at least {least_s:.0f} s for this task")
    if not asked <= begun <= ended:
        findings.refute("silence.time", name, f"taken at {said.taken_at}", "between asked and ended")
    _check_taken(case, said, name, findings)
    earliest, latest = witnessed.after(drawn_at), witnessed.before(item.index)
    if earliest is not None and asked < earliest - CLOCK_SKEW_S:
        findings.refute("silence.time", name, f"asked at {said.asked_at}", f"after its draw, {earliest}")
    if latest is not None and ended > latest + CLOCK_SKEW_S:
        findings.refute("silence.time", name, f"ended at {said.ended_at}", f"before its witness saw it, {latest}")


def _check_taken(case: Case, said: Silence, name: str, findings: Findings) -> None:  # R11.10
    if not (case.edition.audits_are_taken and said.role is Role.AUDITOR and said.awaited is Awaited.COMMITMENT):
        if said.taken_at is not None or said.reason is Absence.NOT_TAKEN:
            findings.refute("silence.taken", name, said.taken_at or said.reason, "asked at once")
    elif said.reason is Absence.NOT_TAKEN and said.taken_at is not None:
        findings.refute("silence.taken", name, f"taken at {said.taken_at}", "never taken")
    elif said.reason in (Absence.DEADLINE, Absence.HANDED_BACK) and said.taken_at is None:
        findings.refute("silence.taken", name, said.reason, "taken before it was silent")


class _Passing:
    """Who was asked about one task, and who was passed over (R11.6 to R11.8)."""

    def __init__(self, case: Case, task: TaskId, selection: Selection, findings: Findings) -> None:
        self._case = case
        self._task = task
        self._selection = selection
        self._findings = findings
        self._contribution = case.contributions[task].predicate
        answers = case.answers_of.get(task, ())
        self._prover = next((item.predicate for item in answers if item.predicate.role is Role.PROVER), None)
        ranks = {item.node: rank for rank, item in enumerate(selection.auditors)}
        self._heard = {
            ranks[item.predicate.node]: item
            for item in answers
            if item.predicate.role is Role.AUDITOR
            and item.predicate.node in ranks
            and not is_run(selection, item.predicate)
        }
        self._past = conclusion.past_of(case, task)

    def check(self) -> None:
        """Check every rank passed over."""
        last = max(self._heard, default=-1)
        for rank in range(last):
            if rank not in self._heard:
                following = min(later for later in self._heard if later > rank)
                self._expect_word(rank, self._committed_at(following), is_passed=True)
        verdicts = self._case.verdicts_of.get(self._task)
        if not verdicts:  # drawn, never judged: trial.py says so
            return
        judged_at = verdicts[-1].index
        if self._prover is None and not self._is_unaudited(judged_at):
            self._expect_prover_silence(judged_at)
        if self._decision(last).need_auditor:
            for rank in range(last + 1, len(self._selection.auditors)):
                self._expect_word(rank, judged_at)
                if self._is_untaken(rank, judged_at):  # nobody is asked in its place
                    break
        elif self._selection.canary:
            self._check_canary(judged_at)

    def _is_unaudited(self, before: int) -> bool:
        return not self._heard and self._case.is_untaken(self._task, before)

    def _is_untaken(self, rank: int, before: int) -> bool:
        said = self._silence_of(rank, before)
        return said is not None and said.predicate.reason is Absence.NOT_TAKEN

    def _check_canary(self, judged_at: int) -> None:
        """Check that somebody was asked once more after the first agreement (R11.8)."""
        agreed = next((rank for rank in sorted(self._heard) if self._is_agreed(rank)), None)
        if agreed is None or max(self._heard) > agreed:
            return
        for rank in range(agreed + 1, len(self._selection.auditors)):
            if self._silence_of(rank, judged_at) or not self._is_convicted(rank, judged_at):
                self._expect_word(rank, judged_at)
                return

    def _is_agreed(self, rank: int) -> bool:
        decision = self._decision(rank)
        return decision.verdict is Verdict.VERIFIED and not decision.need_auditor

    def _decision(self, last: int) -> Decision:
        """Judge by the answers of ranks up to `last`, while others might still be asked."""
        heard = [self._heard[rank].predicate for rank in sorted(self._heard) if rank <= last]
        late, operators = self._selection.is_late, self._case.operators
        spare = spare_of(self._case, self._selection)
        told = question.Hearing(self._contribution, self._prover, heard, (), operators, late, spare=spare)
        return question.judge(self._case.spec, told, self._past)

    def _committed_at(self, rank: int) -> int:
        answer = self._heard[rank].predicate
        own = self._case.answer_commitments.get((answer.audit, answer.node, answer.role))
        return own.index if own is not None else self._heard[rank].index

    def _silence_of(self, rank: int, before: int) -> Logged[Silence] | None:
        node, audit = self._selection.auditors[rank].node, self._selection.audits[rank]
        said = self._case.silences.get((audit, node, Role.AUDITOR))
        return said if said is not None and said.index < before else None

    def _expect_word(self, rank: int, before: int, *, is_passed: bool = False) -> None:  # R11.6
        """Expect a word of why a rank was not heard; that it had no room lets nobody pass it."""
        node, audit = self._selection.auditors[rank].node, self._selection.audits[rank]
        said = self._silence_of(rank, before)
        if said is not None:
            if is_passed and said.predicate.reason is Absence.NOT_TAKEN:
                self._findings.refute("audit.skipped", audit, f"{node} had no room", "nobody asked in its place")
            self._findings.notice("audit.silent", audit, f"{node} did not answer: {said.predicate.reason}")
        elif not self._is_convicted(rank, before):
            expected = "a signed silence, or a conviction, before the next was asked"
            self._findings.refute("audit.skipped", audit, f"{node} was passed over without a word", expected)

    def _expect_prover_silence(self, before: int) -> None:  # R11.8
        node: NodeId = self._contribution.node
        said = (
            item
            for (_, party, role), item in self._case.silences.items()
            if (party, role, item.predicate.task) == (node, Role.PROVER, self._task)
        )
        if not any(item.index < before for item in said):
            self._findings.refute("audit.skipped", self._task, f"{node} was judged unheard", "a signed silence before")

    def _is_convicted(self, rank: int, before: int) -> bool:
        node = self._selection.auditors[rank].node
        said = [item.predicate for item in self._case.verdicts if item.index < before]
        return any(node in (*item.refuted, *(item.odd or ())) for item in said)


def _count(case: Case, findings: Findings) -> None:  # R11.9
    said = [item.predicate for item in case.silences.values() if item.predicate.role is Role.AUDITOR]
    silent = [item for item in said if item.reason is not Absence.NOT_TAKEN]  # those are in the figures (R15.7)
    heard = sum(item.predicate.role is Role.AUDITOR for item in case.answers.values())
    num_asked = len(silent) + heard
    of_task: dict[TaskId, int] = {}
    for item in silent:
        of_task[item.task] = of_task.get(item.task, 0) + 1
    remedy = "ask those nodes whether they were asked; their logged answers disprove a silence (docs/audits.md)"
    if len(silent) >= LEAST_MANY and len(silent) * PPM >= MANY_PPM * num_asked:
        observed = f"{len(silent)} of {num_asked} auditors asked are said to have been silent"
        findings.below_policy("silence.many", "audits", observed, "fewer than half", remedy)
    for task, number in sorted(of_task.items()):
        if number > MAX_OF_TASK:
            observed = f"{number} auditors are said to have been silent"
            findings.below_policy("silence.many", task, observed, f"at most {MAX_OF_TASK} about one task", remedy)
