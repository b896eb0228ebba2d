"""Money over any course of disputes: all of it is somewhere, nobody owes, and nobody has more for having accused."""

from __future__ import annotations

from collections import defaultdict

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.unit.verify.test_ruling import GUILTY, INNOCENT, Trial, trial

from stannary.formats.ids import NodeId
from stannary.formats.predicates import Role, RulingOutcome
from stannary.rules import appeal, blame, use
from stannary.rules.appeal import Sentence
from stannary.settle import escrow, ledger
from stannary.verify.conclusion import conclude

WORDS = st.lists(st.sampled_from(["", "x", "alone"]), max_size=3)  # the truth, the accused's lie, a lie of one's own
BY_MARKET = st.sampled_from([True, False, None])  # where no two agree: it makes what was claimed, or not, or cannot
DISPUTE = st.tuples(st.sampled_from([*GUILTY, *INNOCENT]), WORDS, BY_MARKET)
MANY = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def ruled(it: Trial, words: list[str], by_market: bool | None) -> tuple[Sentence, list[appeal.Due]]:
    """Return what a dispute comes to, and what is owed."""
    heard = [(item.answer, item.credential) for item in it.papers(*words).heard]
    made = it.dispute.sentence([answer for answer, _ in heard])
    if made is None and by_market is None:
        made = Sentence(RulingOutcome.RELEASED, ())
    elif made is None:
        made = appeal.judged(it.dispute.node, it.dispute.accusers, agrees=bool(by_market))
    return made, it.dispute.due(heard, made)


@MANY
@given(course=st.lists(DISPUTE, min_size=1, max_size=6), bond=st.integers(0, 10**6), insured=st.integers(0, 10**4))
def test_money_is_conserved_and_accusing_earns_nothing(
    course: list[tuple[str, list[str], bool | None]], bond: int, insured: int
) -> None:
    """Jobs dispute the same operators' bonds one after another, however each ends, however little is left of them."""
    held: dict[str, int] = defaultdict(int, {ledger.INSURANCE: insured})
    operators = {node.operator for who, *_ in course for node in trial(who).day.fleet.values()}
    for operator in operators:
        held[ledger.operator_bond(operator)] = bond
    held[ledger.WORLD] = -sum(held.values())
    for number, (who, words, by_market) in enumerate(course):
        it = trial(who)
        made, due = ruled(it, words, by_market)
        left = {node: held[ledger.operator_bond(it.case.operators[node])] for node in made.losers}
        left = {node: min(it.case.bond(node), there) for node, there in left.items()}
        redo = it.dispute.redo if made.losers else 0
        lines = it.dispute.lines(made, due, redo, left, held[ledger.INSURANCE])
        entry = escrow.rule(f"j-{number:012}", it.dispute.node, "bob", lines)
        gained: dict[str, int] = defaultdict(int)
        for posting in entry.postings if entry is not None else ():
            held[posting.account] += posting.usd_micros
            gained[posting.account] += posting.usd_micros
        assert sum(held.values()) == 0
        assert min(amount for account, amount in held.items() if account != ledger.WORLD) >= 0
        check_nobody_gains(it, made, gained, left)
        assert gained[ledger.buyer_available("bob")] <= paid_for_redo(it)


def check_nobody_gains(it: Trial, made: Sentence, gained: dict[str, int], left: dict[NodeId, int]) -> None:
    """Hold a ruling to what each may have by it."""
    case, dispute = it.case, it.dispute
    accused = case.operators[dispute.node]
    costs = conclude(case, status=it.receipt.status, reason=it.receipt.reason).costs
    for operator in dispute.involved - {accused}:  # those who accused it among them
        assert gained[ledger.operator_available(operator)] == 0
        assert gained[ledger.operator_bond(operator)] <= 0
    own = [item for item in case.answers_of[dispute.task] if item.predicate.node == dispute.node]
    most = max([costs.of_work(case.contributions[dispute.task]), *map(costs.of_audit, own)])
    assert gained[ledger.operator_available(accused)] <= (most if made.losers and made.losers != (dispute.node,) else 0)
    agreed = case.ask(case.contributions[dispute.task])
    for node in made.losers:
        lost = -gained[ledger.operator_bond(case.operators[node])]
        prices = [costs.of_work(item) for item in case.contributions.values() if item.predicate.node == node]
        prices += [costs.of_audit(item) for item in case.answers.values() if item.predicate.node == node]
        assert lost == min(left[node], blame.CAP_PRICES * max(prices))
        said = [item.predicate for item in case.answers_of[dispute.task] if item.predicate.node == node]
        judged = [answer for answer in said if answer.role is Role.AUDITOR]
        paid = 0
        for answer in judged:
            gets = sum(line.usd_micros for line in it.receipt.settlement if line.task == answer.audit)
            work_us = use.work_us(answer.used, case.spec.resources) if answer.used is not None else 0
            assert gets <= use.price_of(work_us, agreed)  # from escrow, never above the accused's own price
            paid += gets
        if node != dispute.node and left[node] >= max(prices):
            assert paid - lost <= 0  # to accuse falsely is a loss


def paid_for_redo(it: Trial) -> int:
    """Return what the buyer paid for work done again."""
    return sum(line.usd_micros for line in it.receipt.settlement if line.reason == "redo")
