"""Days of toys, and what must hold of every one: the promises the core is held to (test_promises.py, test_mutants.py).

A promise that does not hold raises `Broken`. None of them is computed by the core: they are said here a second time,
from the log, the receipt and the lines of the settlement.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from unittest import mock

from tests.simulator.day import Day
from tests.simulator.market import Market
from tests.simulator.toys import FLIPS, Toy

from stannary.formats import ended, predicates
from stannary.formats.ids import LeaseType, TaskId
from stannary.formats.predicates import Answer, Contribution, Role, SettlementLine, Verdict
from stannary.jobs.course import actions, decide, waiting
from stannary.jobs.course.state import JobState, World
from stannary.jobs.states import LeaseState
from stannary.rules import blame, draw, edition, question, stake
from stannary.rules.reasons import Reason
from stannary.verify import conclusion
from stannary.verify.case import Case, Logged
from stannary.verify.receipt import verify_receipt
from stannary.verify.report import Severity

PAID = ("work", "merge", "redo", "audit")
CANARIES_PPM = 500_000  # of the days here: at one in a hundred no test would meet one


class Broken(AssertionError):
    """A promise does not hold."""


def promise(holds: bool, text: str) -> None:
    """Say that something must hold."""
    if not holds:
        raise Broken(text)


@contextmanager
def many_canaries() -> Iterator[None]:
    """Let every second answer that is known be asked for once more, by market and verifier alike."""
    with (
        mock.patch.object(draw.select, "__defaults__", (CANARIES_PPM,)),
        mock.patch.object(draw, "CANARY_PPM", CANARIES_PPM),
    ):
        yield


def live(day: Day) -> Day:
    """Live a day to its end, and hold it to every promise."""
    looked = Market.move

    def move(market: Market, now_ms: int) -> None:
        check_decision(market.state, market.world(now_ms))
        looked(market, now_ms)

    with mock.patch.object(Market, "move", move), many_canaries():
        try:
            day.live()
        except Broken:
            raise
        except AssertionError as err:
            raise Broken(str(err)) from err
        ending = day.market.state.ending
        promise(ending is None or ending.reason != Reason.STALLED, "a stage was left by nothing but the last resort")
        check_convictions(day)
        check_strikes(day)
        check_question(day)
        check_verdicts(day)
        check_receipt(day)
    return day


def check_decision(state: JobState, world: World) -> None:
    """The same state gives the same actions; what is over changes none; who does nothing says what he waits for."""
    draft = decide.course(state, world)
    decided = tuple(draft.actions)
    promise(decided == decide.decide(state, world), "the same state gave other actions")
    otherwise = _put_together_otherwise(state)
    promise(decided == decide.decide(otherwise, world), "the order in which a state was put together decides")
    later = _with_a_stale_epoch(state)
    promise(decided == decide.decide(later, world), "a lease of an epoch before this one decides")
    promise(bool(decided) or bool(waiting.waits(draft)), "a job stands still and waits for nothing")


def _put_together_otherwise(state: JobState) -> JobState:
    return replace(
        state,
        leases=dict(reversed(list(state.leases.items()))),
        answers=dict(reversed(list(state.answers.items()))),
        listed=dict(reversed(list(state.listed.items()))),
        reported=dict(reversed(list(state.reported.items()))),
        audits=dict(reversed(list(state.audits.items()))),
    )


def _with_a_stale_epoch(state: JobState) -> JobState:
    """Return a state in which a holder of every task's epoch before this one is remembered, too."""
    held = [item for item in state.leases.values() if item.type is LeaseType.WORK]
    ended = {
        f"stale-{item.lease}": replace(
            item, lease=f"stale-{item.lease}", epoch=item.epoch - 1, state=LeaseState.EXPIRED, node="n-000000000000"
        )
        for item in held
    }
    return replace(state, leases={**state.leases, **ended})


def check_verdicts(day: Day) -> None:
    """No lie that was drawn is verified, and no honest work that an honest auditor heard is anything else."""
    case = day.case()
    for item in case.verdicts:
        said = item.predicate
        made = case.contributions[said.task].predicate
        prover = day.party(made.node)
        assert isinstance(prover, Toy)
        if FLIPS in prover.manner:
            continue
        assignment = case.assignments[said.task].predicate
        end = day.end_of(assignment, day.end)
        true_root = predicates.result_root(day.handed_in(assignment, prover.honest(assignment).listed, end), end)
        heard = [answer.predicate for answer in case.answers_of.get(said.task, ())]
        honest = [answer for answer in heard if answer.role is Role.AUDITOR and _is_honest_auditor(day, answer.node)]
        if made.root != true_root:
            is_unheard = said.reason == Reason.NOT_AUDITED and not honest
            promise(said.verdict is not Verdict.VERIFIED or is_unheard, f"a lie was verified: {said.task}")
            if len(honest) >= 2 and blame.convicts(case.spec) and not ended.is_cut(made.ended):
                promise(said.verdict is Verdict.REFUTED, f"two found {said.task} wrong, and it is {said.verdict}")
        elif any(answer.role is Role.PROVER for answer in heard) and honest and said.reason not in question.ENDING:
            is_right = said.verdict is Verdict.VERIFIED or (ended.is_cut(made.ended) and said.reason == Reason.CUT)
            promise(is_right, f"honest work was confirmed and is {said.verdict}: {said.task}")


def _is_honest_auditor(day: Day, node: str) -> bool:
    party = day.party(node)
    assert isinstance(party, Toy)
    return not party.manner & {"accuses", "guesses", FLIPS}


def check_convictions(day: Day) -> None:
    """Nobody is convicted who did not lie, and nobody by one answer alone."""
    innocent = {node.name for node in day.fleet.values() if isinstance(node, Toy) and not node.is_liar}
    promise(not day.convicted & innocent, f"convicted though honest: {sorted(day.convicted & innocent)}")
    case = day.case()
    for said in case.verdicts:
        heard = [item.predicate for item in case.answers_of.get(said.predicate.task, ())]
        for node in said.predicate.refuted:
            others = {case.operators[item.node] for item in heard if item.node != node}
            promise(len(others) >= 2, f"{node} was convicted by {len(others)} others' answers")


def check_strikes(day: Day) -> None:
    """Nobody is struck where one may be convicted; who is stood alone against two who agree, and took part falsely."""
    case = day.case()
    promise(not day.struck or not blame.convicts(case.spec), "struck in code of ours")
    promise(not day.convicted or blame.convicts(case.spec), "convicted in the buyer's own code")
    innocent = {node.name for node in day.fleet.values() if isinstance(node, Toy) and not node.is_liar}
    aimed_at = {node.name for node in day.fleet.values() if isinstance(node, Toy) and FLIPS in node.manner}
    promise(not day.struck & (innocent - aimed_at), f"struck though honest: {sorted(day.struck & innocent)}")
    for said in case.verdicts:
        for node in said.predicate.odd or ():
            heard = [item.predicate for item in case.answers_of[said.predicate.task] if item.predicate.node != node]
            results = Counter((item.root, item.answer) for item in heard)
            promise(max(results.values()) >= 2, f"{node} was struck though no two others agree")
            promise(len({case.operators[item.node] for item in heard}) >= 2, f"{node} was struck by one operator")


def check_question(day: Day) -> None:
    """It is asked twice at most, of two without a part; nobody stays struck where it is not reproducible."""
    case, asked = day.case(), day.market.state.questions
    promise(all(not item.is_open for item in asked), "a question was left open")
    outcomes = [item.outcome for item in asked]
    promise(outcomes.count(Reason.REPRODUCED) <= 2, f"asked too often: {outcomes}")
    promise(all(outcome is Reason.REPRODUCED for outcome in outcomes[:-1]), f"asked again behind an end: {outcomes}")
    selections = conclusion.selections_of(case)
    runs = [
        (item.index, item.predicate)
        for item in case.answers.values()
        if conclusion.is_run(selections[item.predicate.task], item.predicate)
    ]
    for _, run in runs:
        begun = min(item.index for (audit, _, _), item in case.answer_commitments.items() if audit == run.audit)
        before = {item.predicate.node for item in case.contributions.values() if item.index < begun}
        before |= {
            item.predicate.node
            for item in case.answer_commitments.values()
            if item.index < begun and item.predicate.role is Role.AUDITOR and item.predicate.task != run.task
        }
        promise(run.node not in before, f"{run.node} ran {run.task} and had a part in the job")
    for item in asked:
        mine = [run for _, run in runs if run.task == item.task]
        results = {(run.root, run.answer) for run in mine}
        twice = [node for node, number in Counter(run.node for run in mine).items() if number == len(draw.RUNS)]
        if item.outcome is Reason.NOT_REPRODUCIBLE:
            promise(len(results) > 1, "called not reproducible though all runs agree")
            promise(not day.struck, "struck for a program that is not reproducible")
        if item.outcome is Reason.REPRODUCED:
            promise(len({(run.root, run.answer) for run in mine if run.node in twice}) == 1, "four runs that differ")
            promise(len(twice) == 2, f"{len(twice)} gave both runs")


def check_receipt(day: Day) -> None:
    """The receipt proves what happened; money is conserved; who did what was asked is paid for it, once."""
    report = verify_receipt(day.receipt(), day.trust(), day.now)
    refuted = [(item.id, item.subject) for item in report.findings if item.severity is Severity.REFUTED]
    promise(not refuted, f"the receipt is refuted: {refuted}")
    assert report.claims is not None
    receipt = report.claims.receipt
    lines = receipt.settlement
    promise(sum(line.usd_micros for line in lines) == receipt.escrow_usd_micros, "money was made or lost")
    payers = {line.account for line in lines if line.usd_micros < 0}
    insured = sum(line.usd_micros for line in lines if line.account == "insurance")
    promise(insured >= 0, "insurance pays for more than strikes of this job brought it")
    owing = {account for account in payers if not account.startswith("bond:") and account != "insurance"}
    promise(not owing, f"who owes nothing pays: {sorted(owing)}")
    paid = Counter(line.task for line in lines if line.account.startswith("operator:") and line.usd_micros)
    promise(not paid or max(paid.values()) == 1, f"paid twice: {paid.most_common(1)}")
    bonds = {line.account.partition(":")[2]: -line.usd_micros for line in lines if line.account.startswith("bond:")}
    lost = {node.operator: node.bond for node in day.fleet.values() if node.name in day.convicted}
    if edition.of(day.spec()).disputes_bonds:
        disputed = {item.node: item.bond_usd_micros for item in day.market.taken if isinstance(item, actions.Dispute)}
        convicted = {node.id: node.bond for node in day.fleet.values() if node.name in day.convicted}
        promise(not bonds, f"a receipt took bonds: {bonds}")
        promise(disputed == convicted, f"in dispute: {disputed}, convicted: {convicted}")
    else:
        promise(bonds == lost, f"bonds lost: {bonds}, convicted: {lost}")
    void = {line.task for line in lines if line.reason == "void"}
    check_void(day, lines, void)
    check_pay(day, {line.task: line.usd_micros for line in lines if line.account.startswith("operator:")}, void)


def check_void(day: Day, lines: Sequence[SettlementLine], void: set[str]) -> None:
    """What a strike takes is the struck node's own, all the units and audits around it, and goes to insurance."""
    case = day.case()
    whose = {task: item.predicate.node for task, item in case.contributions.items()}
    whose |= {item.predicate.audit: item.predicate.node for item in case.answers.values()}
    promise({day.party(whose[task]).name for task in void} <= day.struck, "somebody lost his pay without a strike")
    for line in lines:
        if line.reason == "void" and line.account != "insurance":
            promise(line.usd_micros == 0, f"{line.account} is paid for {line.task}, which is void")
    kept = Counter((whose[line.task], line.reason == "audit") for line in lines if line.reason in PAID)
    for (node, is_audit), number in kept.items():
        lost = sum(whose[task] == node and (task not in case.contributions) == is_audit for task in void)
        struck = day.party(node).name in day.struck
        promise(not struck or lost >= stake.HELD_UNITS, f"{node} was struck, lost {lost} and kept {number}")


def check_pay(day: Day, paid: dict[str, int], void: set[str]) -> None:
    """Verified work and honest audits are paid their price, while the escrow lasts."""
    case = day.case()
    price = {task: price_on(day, case, item) for task, item in case.contributions.items()}
    for said in case.verdicts:
        task = said.predicate.task
        if said.predicate.verdict is Verdict.VERIFIED and task not in void:
            promise(paid.get(task) == price[task] or is_dry(day), f"{task} is verified and paid {paid.get(task)}")
    for item in case.answers.values():
        answer = item.predicate
        is_blamed = day.party(answer.node).name in day.convicted | day.struck
        if answer.role is Role.AUDITOR and not is_blamed:
            due = min([price_on(day, case, item), *_agreed(day, answer.task)])
            got = paid.get(answer.audit, 0)
            promise(got == due or (got < due and is_dry(day)), f"{answer.audit} is paid {got} of {due}")


def _agreed(day: Day, task: TaskId) -> list[int]:
    """Return the price of a unit somebody is convicted for, where that disputes a bond: judging it costs no more."""
    case = day.case()
    convicts = any(item.predicate.refuted for item in case.verdicts if item.predicate.task == task)
    return [price_on(day, case, case.contributions[task])] if convicts and edition.of(day.spec()).disputes_bonds else []


def price_on(day: Day, case: Case, item: Logged[Contribution] | Logged[Answer]) -> int:
    """Return what a task costs: of agreed milliseconds, or of those that everybody's meter shows."""
    step_ms = day.step_ms if case.edition.pays_by_use else case.shape.step_ms
    took_ms = case.assignments[item.predicate.task].predicate.num_steps * step_ms
    return -(-took_ms * case.ask(item) // 3_600_000)


def is_dry(day: Day) -> bool:
    """Tell whether so much was done again that the escrow of the worst case does not reach (docs/audits.md)."""
    attempts = Counter((item.round, item.kind, item.lane) for item in day.market.state.tasks.values())
    audits = Counter(item.task for item in day.market.state.audits.values())
    return max(attempts.values(), default=0) > 1 or max(audits.values(), default=0) > 2
