"""Days in a recipe of this package under rules 3: a conviction disputes a bond, and the receipt moves none.

Every receipt is judged by the second verifier too.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st
from tests.simulator.day import Day
from tests.simulator.toys import LIES, Toy, recipe
from tests.unit.jobs.course import days
from tests.unit.jobs.course.test_own_code import OPERATORS, TIMING, live

from stannary.formats import digest
from stannary.formats.predicates import Receipt, Role, SettlementLine
from stannary.jobs.course import actions, concluding
from stannary.jobs.course.concluding import Concluded
from stannary.rules import blame
from stannary.verify.receipt import verify_receipt

MANNERS = (*sorted(LIES), "silent-prover", "silent-auditor", "vanishes")
fleets = st.lists(st.frozensets(st.sampled_from(MANNERS), max_size=2), min_size=3, max_size=6)


def day(fleet: Sequence[frozenset[str]], seed: int = 0, *, rounds: int = 2, dear: str = "") -> Day:
    """Return a day of toys in our own code; the node called `dear` asks three times as much."""
    toys = [
        Toy(f"n{at}", OPERATORS[at], ask=100_000 + 7_000 * at, bond=10_000_000, manner=manner)
        for at, manner in enumerate(fleet)
    ]
    toys = [replace(toy, ask=3 * toy.ask) if toy.name == dear else toy for toy in toys]
    ours = replace(recipe(rounds=rounds), entry="builtin:toy", code=digest.digest(b"any code: nothing of it is run"))
    made = Day(seed=seed, fleet=toys, settings=ours, timing=TIMING, rules=3)
    made.credential_s = 10**6  # nodes that vanish with every piece make a day of weeks
    return made


def receipt_of(lived: Day) -> Receipt:
    """Return what the receipt of a day says."""
    report = verify_receipt(lived.receipt(), lived.trust(), lived.now)
    assert report.claims is not None
    return report.claims.receipt


def line_of(lines: Sequence[SettlementLine], task: str) -> SettlementLine:
    """Return the one line about a task or audit."""
    (found,) = [line for line in lines if line.task == task]
    return found


@given(fleets, st.integers(0, 10_000))
@settings(max_examples=settings.default.max_examples // 6, derandomize=True)
def test_whoever_takes_part_the_receipt_moves_no_bond(fleet: list[frozenset[str]], seed: int) -> None:
    """Each conviction disputes one bond, once; both verifiers find the same lines, and none of them takes one."""
    live(day(fleet, seed))


def test_a_conviction_disputes_a_bond_and_its_redo_is_paid_from_escrow() -> None:
    """The liar's unit is unpaid, the audits that found it are paid by the buyer, and the dispute names the unit."""
    lived = live(day([frozenset({"lies"}), *[frozenset[str]()] * 4]))
    assert lived.convicted == {"n0"}
    (found,) = [item for item in lived.market.taken if isinstance(item, actions.Dispute)]
    assert (found.node, found.bond_usd_micros) == (lived.fleet["n0"].id, 10_000_000)
    receipt = receipt_of(lived)
    assert {line.account.partition(":")[0] for line in receipt.settlement} == {"operator", "buyer"}
    assert line_of(receipt.settlement, found.task).reason == "withheld"
    assert receipt.paid_usd_micros == sum(
        line.usd_micros for line in receipt.settlement if line.account.startswith("operator:")
    )


def test_judging_costs_no_more_than_what_is_judged() -> None:
    """An auditor that asks three times the accused's price is paid the accused's for finding him out."""
    for seed in range(20):
        lived = live(day([frozenset({"lies"}), *[frozenset[str]()] * 3], seed, dear="n3"))
        case, dear = lived.case(), lived.fleet["n3"].id
        heard = [item.predicate for item in case.answers.values() if item.predicate.node == dear]
        against = [item for item in heard if item.role is Role.AUDITOR and case.verdicts_of[item.task][-1]]
        against = [item for item in against if case.verdicts_of[item.task][-1].predicate.refuted]
        if against:
            break
    lines = receipt_of(lived).settlement
    agreed = days.price_on(lived, case, case.contributions[against[0].task])
    (answer,) = [item for item in case.answers.values() if item.predicate is against[0]]
    assert line_of(lines, against[0].audit).usd_micros == agreed
    assert days.price_on(lived, case, answer) > 2 * agreed


def test_nobody_is_revoked_before_the_appeal() -> None:
    """What follows from a receipt that convicts pays by its lines and takes no node's right to work for good."""
    lived = days.live(day([frozenset({"lies"}), *[frozenset[str]()] * 4]))
    made = receipt_of(lived)
    state = lived.market.state
    judged = concluding.JudgedJob(
        state.order, state.version, state.status, None, made.verdict, 0, readings=(), num_unlogged=0, receipt=None
    )
    decided = concluding.settle(judged, Concluded(made, (), (lived.fleet["n0"].id,)))
    assert not any(isinstance(item, actions.Revoke) for item in decided)


def test_what_a_conviction_can_take_ends_at_so_many_prices() -> None:
    """A bond of 10,000 prices deters no more than one of `CAP_PRICES`: so much a job can take, and so much is said."""
    lived = days.live(day([frozenset[str]()] * 4))
    case, figures = lived.case(), receipt_of(lived).soundness
    dearest: Counter[str] = Counter()
    for item in case.contributions.values():
        node = item.predicate.node
        dearest[node] = max(dearest[node], days.price_on(lived, case, item))
    assert blame.CAP_PRICES * max(dearest.values()) < 10_000_000
    assert figures.stake_ppm == blame.CAP_PRICES * 1_000_000  # of every node: the first in node order is named
    assert figures.lost_usd_micros == (blame.CAP_PRICES + 1) * dearest[min(dearest)]
