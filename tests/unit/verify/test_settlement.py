"""Money: conservation, who pays for what, and the six parts of time."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stannary.formats.ids import AuditId, JobId, NodeId, TaskId
from stannary.formats.predicates import Reading, Spent, Verdict
from stannary.verify.settlement import WHOLE, AuditWork, Bond, PayableWork, settle, time_split

NODES = [NodeId(name) for name in ("n-a", "n-b", "n-c")]


def work(name="t", node="n-a", price=100, verdict=Verdict.VERIFIED, **options):
    return PayableWork(TaskId(name), NodeId(node), f"op {node}", price, verdict, **options)


def audit(name="t/q0", node="n-b", price=10, **options):
    return AuditWork(AuditId(name), NodeId(node), f"op {node}", price, **options)


def amounts(settled):
    return [(line.account, line.reason, line.usd_micros) for line in settled.lines]


def test_verified_work_and_audits_are_paid_and_the_rest_goes_back():
    """Work, merge and audit lines, then the refund."""
    settled = settle(1000, [work(), work("m", merge=True)], [audit()])
    assert amounts(settled) == [
        ("operator:op n-a", "work", 100), ("operator:op n-a", "merge", 100), ("operator:op n-b", "audit", 10),
        ("buyer", "refund", 790),
    ]  # fmt: skip
    assert (settled.paid_usd_micros, settled.refunded_usd_micros) == (210, 790)


def test_the_convicted_pays_for_what_it_caused():
    """Redone work and the audits that exposed the liar come from its bond, the rest goes to insurance."""
    liar = NodeId("n-a")
    settled = settle(
        1000,
        [work(verdict=Verdict.REFUTED), work("u", "n-c", redone=True, caused_by=liar), work("v", "n-c")],
        [audit(caused_by=liar), audit("t/q1", "n-c", 10, caused_by=liar)],
        [Bond(liar, "op n-a", 500)],
    )
    assert amounts(settled) == [
        ("operator:op n-a", "withheld", 0), ("operator:op n-c", "work", 100), ("operator:op n-c", "redo", 100),
        ("operator:op n-b", "audit", 10), ("operator:op n-c", "audit", 10), ("bond:op n-a", "forfeit", -500),
        ("insurance", "forfeit", 380), ("buyer", "refund", 900),
    ]  # fmt: skip


def test_what_a_strike_takes_pays_for_what_has_to_be_done_again():
    """As far as it reaches, and for what the struck node's own work made useless; the rest stays with insurance."""
    void = [work("u1", "n-x", 100, is_void=True), work("u2", "n-x", 60, is_void=True)]
    redone = [
        work("r1", "n-b", 120, redone=True, caused_by=NodeId("n-x")),
        work("r2", "n-c", 30, redone=True, caused_by=NodeId("n-y")),
        work("r3", "n-b", 70, redone=True, caused_by=NodeId("n-x")),
    ]
    made = settle(1_000, [*void, *redone], [])
    lines = [(line.account, line.task, line.usd_micros) for line in made.lines if line.account == "insurance"]
    assert lines == [
        ("insurance", "u1", 100),
        ("insurance", "u2", 60),
        ("insurance", "r1", -120),
        ("insurance", "r3", -40),
    ]
    paid = {line.task: line.usd_micros for line in made.lines if line.reason == "redo" and line.account != "insurance"}
    assert paid == {"r1": 120, "r2": 30, "r3": 70}
    assert made.refunded_usd_micros == 1_000 - 160 - 30 - 30
    kept = settle(1_000, [*void, *redone[:1]], [])
    assert sum(line.usd_micros for line in kept.lines if line.account == "insurance") == 40


def test_a_bond_too_small_is_topped_up_from_escrow():
    """Honest redone work is paid whole even if the liar's bond is not enough."""
    settled = settle(1000, [work(redone=True, caused_by=NodeId("n-b"))], [], [Bond(NodeId("n-b"), "b", 30)])
    assert ("operator:op n-a", "redo", 100) in amounts(settled)
    assert settled.refunded_usd_micros == 930


@pytest.mark.parametrize(("on_completion", "paid"), [(False, 0), (True, 100)])
def test_unverified_work_is_paid_only_where_agreed(on_completion, paid):
    """`verify: none` pays on completion; a silent prover is not paid."""
    settled = settle(1000, [work(verdict=Verdict.UNVERIFIED, on_completion=on_completion)], [])
    assert settled.paid_usd_micros == paid
    assert not settle(1000, [work(verdict=Verdict.REFUTED, on_completion=True)], []).paid_usd_micros


def test_a_convicted_auditor_is_not_paid_for_its_answer():
    """Its line says withheld."""
    assert ("operator:op n-b", "withheld", 0) in amounts(settle(9, [], [audit(refuted=True)]))


works = st.builds(
    work, name=st.text(max_size=3), node=st.sampled_from(NODES), price=st.integers(0, 1000),
    verdict=st.sampled_from(Verdict), merge=st.booleans(), on_completion=st.booleans(), redone=st.booleans(),
    caused_by=st.none() | st.sampled_from(NODES), is_void=st.booleans(),
)  # fmt: skip
audits = st.builds(
    audit, node=st.sampled_from(NODES), price=st.integers(0, 100), refuted=st.booleans(),
    caused_by=st.none() | st.sampled_from(NODES),
)  # fmt: skip
bonds = st.lists(st.sampled_from(NODES), unique=True).flatmap(
    lambda nodes: st.tuples(*(st.builds(Bond, st.just(node), st.just("x"), st.integers(0, 5000)) for node in nodes))
)


@given(st.integers(0, 5000), st.lists(works, max_size=12), st.lists(audits, max_size=12), bonds)
def test_money_is_conserved(escrow, work_done, audits_done, forfeited):
    """Whatever happens: lines sum to the escrow, only bonds and insurance pay, it no more than it got."""
    settled = settle(escrow, work_done, audits_done, forfeited)
    assert sum(line.usd_micros for line in settled.lines) == escrow
    assert settled.paid_usd_micros + settled.refunded_usd_micros == escrow
    assert all(line.usd_micros <= 0 for line in settled.lines if line.account.startswith("bond:"))
    assert all(line.usd_micros >= 0 for line in settled.lines if line.account.startswith(("operator:", "buyer")))
    assert sum(line.usd_micros for line in settled.lines if line.account == "insurance") >= 0
    due = sum(item.price_usd_micros for item in (*work_done, *audits_done))
    assert sum(line.usd_micros for line in settled.lines if line.account.startswith("operator:")) <= due
    refuted = [item for item in work_done if item.verdict is Verdict.REFUTED]
    assert sum(line.reason == "withheld" for line in settled.lines) >= len(refuted)


def reading(node, seq, start=0, compute=0, link=0, idle=0, audit_ms=0):
    return Reading(JobId("j"), NodeId(node), seq, "", Spent(start, compute, link, idle, audit_ms), "")


def test_the_last_reading_of_each_node_counts():
    """Readings are cumulative; compute beyond the useful is churn."""
    split = time_split({NodeId("a"): 60}, [reading("a", 2, 10, 80, 5, 5, 0), reading("a", 1, 1, 1, 1, 1, 1)])
    assert (split.useful, split.start, split.link, split.idle, split.audit, split.churn) == (
        6000,
        1000,
        500,
        500,
        0,
        2000,
    )


def test_churn_is_counted_node_by_node():
    """A node that signed no reading for its useful work does not hide another's lost compute."""
    split = time_split({NodeId("a"): 50, NodeId("b"): 50}, [reading("a", 0, compute=100), reading("b", 0, compute=10)])
    assert (split.useful, split.churn) == (6667, 3333)


@given(st.integers(0, 10**9), st.lists(st.tuples(*[st.integers(0, 10**9)] * 5), max_size=6))
def test_six_parts_sum_to_the_whole(useful, spent):
    """Rounded by largest remainder the parts always sum to exactly 100.00 per cent."""
    split = time_split({NodeId("0"): useful}, [reading(str(index), 1, *item) for index, item in enumerate(spent)])
    parts = (split.useful, split.start, split.link, split.idle, split.audit, split.churn)
    assert sum(parts) == WHOLE
    assert min(parts) >= 0
