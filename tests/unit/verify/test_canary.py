"""Canaries of suspended nodes: what answers come to, who is paid, and every word of the statement bent (R19)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from tests.second_verifier import canary as second
from tests.second_verifier.canary import GivenCanary

from stannary.formats import beacon, digest, jobspec, record
from stannary.formats.ids import JobId, KeyId, NodeId, TaskId
from stannary.formats.predicates import (
    Answer,
    Attestation,
    Canary,
    CanaryOutcome,
    Credential,
    Job,
    NodeKind,
    Role,
    Spent,
    Tier,
    Used,
)
from stannary.rules import canary as rule
from stannary.rules.reasons import Reason
from stannary.verify import canary
from stannary.verify.canary import CanaryPapers, HeardCanary

JOB, NONCE = JobId("j-0123456789ab"), bytes(range(32))
AT = "2026-01-01T00:00:00Z"
SPEC = rule.spec_of(NONCE, digest.digest(b"code"), None)
UNIT = rule.assignment_of(JOB, SPEC)
NODE = NodeId("n-suspended")
PRICE = 10  # of ten milliseconds at $3.60 an hour
PASSED, FAILED = CanaryOutcome.PASSED, CanaryOutcome.FAILED
UNANSWERED, UNCHECKED = CanaryOutcome.UNANSWERED, CanaryOutcome.UNCHECKED


def order(**changes: Any) -> Job:
    """Return what the market ordered."""
    made = Job(
        jobspec.to_canonical(SPEC), KeyId("market"), "buyer", beacon.tip(NONCE, 1), rule.CHAIN_LENGTH, "0" * 32, AT
    )
    return replace(made, **changes)


def heard(node: str, operator: str, found: str, **changes: Any) -> HeardCanary:
    """Return an answer of somebody who was asked."""
    answer = Answer(
        job=JOB, audit=rule.audit_of(NONCE, UNIT.task, node), task=UNIT.task, role=Role.AUDITOR, node=NodeId(node),
        blind="0" * 64, answer=digest.raw(digest.digest(found.encode())).hex(), root=digest.digest(found.encode()),
        outputs=(), spent=Spent(0, 10, 0, 0, 0), answered_at=AT, used=changes.pop("used", Used(10, 0, 0)),
    )  # fmt: skip
    paper = Credential(
        node=NodeId(node), key="", operator=operator, jurisdiction="none", terms=digest.digest(b"terms"),
        kind=NodeKind.MACHINE, members=(), tier=Tier.T0, attestation=Attestation.SOFTWARE, ear_status="none",
        engine_class="class", cpus=1, memory_bytes=1, ask_usd_micros_per_hour=3_600_000, bond_usd_micros=0,
        join=digest.digest(b"join"), issued_at=AT, expires_at=AT,
    )  # fmt: skip
    return HeardCanary(replace(answer, **changes), digest.digest(node.encode()), (paper,))


def said_of(answers: list[HeardCanary], outcome: CanaryOutcome, reason: str, gave: int | None = None) -> Canary:
    """Return the market's word, with the lines that follow; `gave` is what insurance held, None for enough."""
    owed = canary.due(answers, canary.agreeing(answers, NODE, outcome, reason), SPEC)
    lines = rule.lines(owed, sum(rule.prices(owed)) if gave is None else gave)
    leaves = tuple(item.leaf for item in answers)
    return Canary(JOB, UNIT.task, NODE, NONCE.hex(), outcome, reason, leaves, lines, AT)


def faults(answers: list[HeardCanary], said: Canary, ordered: Job | None = None) -> set[str]:
    """Return what both verifiers find."""
    made = order() if ordered is None else ordered
    found = set(canary.faults(CanaryPapers(JOB, made, UNIT, tuple(answers)), said))
    given = [
        GivenCanary(record.to_json(item.answer), item.leaf, item.operator, [item.ask_usd_micros_per_hour])
        for item in answers
    ]
    by_other = second.judge(JOB, record.to_json(made), record.to_json(UNIT), given, record.to_json(said))
    assert by_other == found, "two verifiers, one word"
    return found


SAME = heard("n-other", "ann", "right")
ENDS = [
    pytest.param([], UNANSWERED, Reason.UNHEARD, [], id="silent"),
    pytest.param([heard(NODE, "eve", "right")], PASSED, Reason.REPLAYED, ["eve"], id="computed: right"),
    pytest.param([heard(NODE, "eve", "wrong")], FAILED, Reason.REPLAYED, [], id="computed: wrong"),
    pytest.param([heard(NODE, "eve", "right"), SAME], PASSED, Reason.AGREED, ["eve", "ann"], id="one agrees"),
    pytest.param(
        [heard(NODE, "eve", "wrong"), SAME, heard("n-third", "bob", "right")], FAILED, Reason.CONTRADICTED,
        ["ann", "bob"], id="two against it",
    ),
    pytest.param(
        [heard(NODE, "eve", "a"), heard("n-other", "ann", "b"), heard("n-third", "bob", "c")], UNCHECKED,
        Reason.NO_AGREEMENT, ["eve", "ann", "bob"], id="three words",
    ),
    pytest.param([heard(NODE, "eve", "a"), SAME], UNCHECKED, Reason.NO_AGREEMENT, ["eve", "ann"], id="two words"),
    pytest.param([heard(NODE, "eve", "right")], UNCHECKED, Reason.UNHEARD, ["eve"], id="nobody to compare with"),
]  # fmt: skip


@pytest.mark.parametrize(("answers", "outcome", "reason", "paid"), ENDS)
def test_what_answers_come_to(
    answers: list[HeardCanary], outcome: CanaryOutcome, reason: Reason, paid: list[str]
) -> None:
    """Who found what counts is paid its price, by insurance; whatever else the market says of it is seen."""
    said = said_of(answers, outcome, reason)
    assert faults(answers, said) == set()
    assert [line.account for line in said.lines if line.usd_micros > 0] == [f"operator:{name}" for name in paid]
    assert {line.usd_micros for line in said.lines if line.usd_micros > 0} <= {PRICE}
    assert sum(line.usd_micros for line in said.lines) == 0
    for other in CanaryOutcome:
        for why in (Reason.REPLAYED, Reason.AGREED, Reason.CONTRADICTED, Reason.NODE_LOST):
            if faults(answers, said_of(answers, other, why)) == set():
                assert _is_another_word_for(answers, other, why, outcome)


def _is_another_word_for(answers: list[HeardCanary], other: CanaryOutcome, why: Reason, outcome: CanaryOutcome) -> bool:
    """Tell what is the market's to say: why nothing was answered, and what it computed where nobody else answered."""
    if other is UNANSWERED:
        return outcome is UNANSWERED and why is not Reason.REPLAYED
    alone = len(answers) == 1
    return (alone and other in (PASSED, FAILED) and why is Reason.REPLAYED) or (other, why) == (
        outcome, {PASSED: Reason.AGREED, FAILED: Reason.CONTRADICTED}.get(outcome),
    )  # fmt: skip


def test_one_operator_is_one_voice() -> None:
    """Two nodes of another operator do not fail a node, nor does a second one of its own pass it."""
    two = [heard(NODE, "eve", "wrong"), SAME, heard("n-second", "ann", "right")]
    assert faults(two, said_of(two, FAILED, Reason.CONTRADICTED)) == {"canary.outcome"}
    own = [heard(NODE, "eve", "wrong"), heard("n-second", "eve", "wrong")]
    assert faults(own, said_of(own, PASSED, Reason.AGREED)) == {"canary.outcome"}
    assert faults(own, said_of(own, UNCHECKED, Reason.UNHEARD)) == set()


def test_insurance_pays_what_it_holds_and_the_last_go_short() -> None:
    """In log order; what nobody measured costs nothing."""
    answers = [heard(NODE, "eve", "right"), SAME]
    short = said_of(answers, PASSED, Reason.AGREED, PRICE + 3)
    assert [line.usd_micros for line in short.lines] == [-PRICE - 3, PRICE, 3]
    assert faults(answers, short) == set()
    empty = said_of(answers, PASSED, Reason.AGREED, 0)
    assert [line.usd_micros for line in empty.lines] == [0, 0]
    assert faults(answers, empty) == set()
    unmeasured = [heard(NODE, "eve", "right", used=None), SAME]
    assert {line.usd_micros for line in said_of(unmeasured, PASSED, Reason.AGREED).lines} == {0}


LIES: dict[str, tuple[Callable[[Canary], Canary], set[str]]] = {
    "another nonce": (lambda said: replace(said, nonce="0" * 64), {"canary.nonce"}),
    "no nonce": (lambda said: replace(said, nonce="xyz"), {"canary.nonce"}),
    "another unit": (lambda said: replace(said, task=TaskId(f"{JOB}/r0/l0/a1")), {"canary.order"}),
    "an answer left out": (lambda said: replace(said, heard=said.heard[:1]), {"canary.heard"}),
    "more than is owed": (
        lambda said: replace(said, lines=tuple(replace(x, usd_micros=7 * x.usd_micros) for x in said.lines)),
        {"canary.lines"},
    ),
    "a line for a friend": (
        lambda said: replace(said, lines=(*said.lines[:-1], replace(said.lines[-1], account="operator:eva"))),
        {"canary.lines"},
    ),
    "insurance takes": (
        lambda said: replace(said, lines=tuple(replace(x, usd_micros=-x.usd_micros) for x in said.lines)),
        {"canary.lines"},
    ),
}


@pytest.mark.parametrize("lie", list(LIES))
def test_a_bent_word_is_seen(lie: str) -> None:
    """By both verifiers, under one name."""
    bend, seen = LIES[lie]
    answers = [heard(NODE, "eve", "right"), SAME]
    assert faults(answers, bend(said_of(answers, PASSED, Reason.AGREED))) == seen


@pytest.mark.parametrize(
    ("changes", "seen"),
    [
        ({"beacon_length": 2}, {"canary.nonce"}),
        ({"beacon_tip": "0" * 64}, {"canary.nonce"}),
        ({"spec": {**jobspec.to_canonical(SPEC), "name": "other"}}, {"canary.order"}),
        ({"spec": {**jobspec.to_canonical(SPEC), "envs": {"A": "b"}}}, {"canary.order"}),
    ],
)
def test_an_order_the_nonce_does_not_give_is_no_canary(changes: dict[str, Any], seen: set[str]) -> None:
    """The market cannot look for an order that a node would fail."""
    answers = [heard(NODE, "eve", "right"), SAME]
    assert faults(answers, said_of(answers, PASSED, Reason.AGREED), order(**changes)) == seen


def test_a_spec_nobody_can_read_is_no_order() -> None:
    """It is a finding, and no failure of the verifier."""
    answers = [heard(NODE, "eve", "right"), SAME]
    papers = CanaryPapers(JOB, order(spec={"name": 1}), UNIT, tuple(answers))
    assert canary.faults(papers, said_of(answers, PASSED, Reason.AGREED)) == ["canary.order"]


@pytest.mark.parametrize("changes", [{"role": Role.PROVER}, {"task": TaskId(f"{JOB}/r0/l0/a1")}, {"audit": "x/qy"}])
def test_who_was_not_asked_is_not_heard(changes: dict[str, Any]) -> None:
    """An answer to another question, or as a prover, is none; nor is one given twice."""
    answers = [heard(NODE, "eve", "right"), replace(SAME, answer=replace(SAME.answer, **changes))]
    assert "canary.heard" in faults(answers, said_of(answers, PASSED, Reason.AGREED))
    twice = [heard(NODE, "eve", "right"), SAME, SAME]
    assert "canary.heard" in faults(twice, said_of(twice, PASSED, Reason.AGREED))
