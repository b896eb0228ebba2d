"""Verdicts: a table of cases, and the same rules proven over every combination of four voices."""

import dataclasses
import itertools

import pytest

from stannary.formats import digest, ended
from stannary.formats.ids import AuditId, JobId, NodeId, TaskId
from stannary.formats.predicates import Answer, Contribution, Role, Spent, Verdict
from stannary.rules.reasons import Reason
from stannary.rules.verdict import bitwise, judge, undrawn

TASK = TaskId("j-0123456789ab/r0/l0/a0")
JOB = JobId("j-0123456789ab")
SPENT = Spent(0, 0, 0, 0, 0)
OPERATORS = {NodeId(node): operator for node, operator in (("p", "P"), ("a", "A"), ("b", "B"), ("c", "C"), ("p2", "P"))}


def answer(node, voice):
    """A voice is two letters: what root and what answer it speaks for."""
    root, said = voice
    role = Role.PROVER if node == "p" else Role.AUDITOR
    return Answer(
        JOB, AuditId(f"{TASK}/q0"), TASK, role, NodeId(node), "00", said, digest.digest(root.encode()), (), SPENT, ""
    )


def contribution(root):
    hashed = digest.digest(root.encode())
    return Contribution(JOB, TASK, 0, NodeId("p"), hashed, "", hashed, (), "c", hashed, "", 1, SPENT, {}, "")


def decide(prover, *auditors, contributed=None, **options):
    heard = [answer(node, voice) for node, voice in zip("abc", auditors, strict=False) if voice]
    said = answer("p", prover) if prover else None
    return judge(contribution(contributed or (prover or "x")[0]), said, heard, OPERATORS, **options)


TABLE = [
    # prover, auditors, verdict, reason, convicted
    ("xx", ["xx"], Verdict.VERIFIED, Reason.AGREED, []),
    ("xx", ["yy", "xx"], Verdict.VERIFIED, Reason.AGREED, ["a"]),
    ("xx", ["xx", "yy"], Verdict.VERIFIED, Reason.AGREED, ["b"]),  # a canary's wrong answer
    ("xx", ["xy", "xx"], Verdict.VERIFIED, Reason.AGREED, ["a"]),  # right root, wrong answer: copied
    ("xx", ["yx", "xx"], Verdict.VERIFIED, Reason.AGREED, ["a"]),  # right answer, wrong root
    ("xx", ["xx", "yy", "zz"], Verdict.VERIFIED, Reason.AGREED, ["b", "c"]),
    ("xx", ["yy"], Verdict.PENDING, Reason.MISMATCH, []),
    ("xx", ["yy", "yy"], Verdict.REFUTED, Reason.CONTRADICTED, ["p"]),
    ("xx", ["xy", "xy"], Verdict.REFUTED, Reason.CONTRADICTED, ["p"]),  # the prover's own answer was made up
    ("xx", ["yy", "zz"], Verdict.PENDING, Reason.MISMATCH, []),  # two who make answers up deny nobody his pay
    ("xx", ["yy", "zz", "zz"], Verdict.REFUTED, Reason.CONTRADICTED, ["p", "a"]),
    ("xx", ["xx", "yy", "yy"], Verdict.UNVERIFIED, Reason.CONTESTED, []),
    ("xx", [], Verdict.PENDING, Reason.AWAITED, []),
    (None, ["xx"], Verdict.UNVERIFIED, Reason.PROVER_SILENT, []),  # its work was right: a pause
    (None, ["xx", "yy", "yy"], Verdict.UNVERIFIED, Reason.PROVER_SILENT, []),
    (None, ["yy"], Verdict.PENDING, Reason.MISMATCH, []),
    (None, ["yy", "yy"], Verdict.REFUTED, Reason.CONTRADICTED, ["p"]),  # silence hides no lie
    (None, ["yy", "zz", "zz"], Verdict.REFUTED, Reason.CONTRADICTED, ["p", "a"]),
    (None, [], Verdict.PENDING, Reason.AWAITED, []),
]


@pytest.mark.parametrize(("prover", "auditors", "verdict", "reason", "convicted"), TABLE)
def test_the_table(prover, auditors, verdict, reason, convicted):
    """Each row is one rule of docs/audits.md."""
    decision = decide(prover, *auditors)
    assert (decision.verdict, decision.reason, list(decision.refuted)) == (verdict, reason, convicted)
    assert decision.need_auditor == (verdict is Verdict.PENDING)


@pytest.mark.parametrize(
    ("auditors", "reason"),
    [([], Reason.NO_AUDITOR), (["yy"], Reason.NO_AGREEMENT), (["yy", "zz"], Reason.NO_AGREEMENT)],
)
def test_an_open_question_closes_as_unverified(auditors, reason):
    """When no further auditor can be had nobody is convicted."""
    decision = decide("xx", *auditors, exhausted=True)
    assert (decision.verdict, decision.reason, decision.refuted) == (Verdict.UNVERIFIED, reason, ())


@pytest.mark.parametrize("auditors", [[], ["xx"], ["yy"], ["yy", "zz"]])
def test_silence_alone_convicts_nobody(auditors):
    """A prover that does not answer is refuted by two agreeing recomputations only."""
    decision = decide(None, *auditors, exhausted=True)
    assert (decision.verdict, decision.reason, decision.refuted) == (Verdict.UNVERIFIED, Reason.PROVER_SILENT, ())


def test_a_prover_that_answers_for_other_work_is_contradicted():
    """An answer beside another root than the contributed one agrees with nobody."""
    assert decide("xx", "xx", contributed="y").verdict is Verdict.PENDING
    assert decide("xx", "xx", "xx", contributed="y").refuted == ("p",)


def test_nobody_is_heard_for_his_own_operator():
    """An auditor of the prover's operator counts for nothing, neither for nor against."""
    friend = answer("p2", "xx")
    decision = judge(contribution("x"), answer("p", "xx"), [friend], OPERATORS)
    assert decision.need_auditor
    foe = answer("p2", "yy")
    decision = judge(contribution("x"), answer("p", "xx"), [foe, answer("a", "yy")], OPERATORS)
    assert decision.verdict is Verdict.PENDING


def test_two_nodes_of_one_operator_are_one_voice():
    """One operator cannot convict alone with two nodes."""
    operators = {**OPERATORS, NodeId("b"): "A"}
    heard = [answer("a", "yy"), answer("b", "yy")]
    assert judge(contribution("x"), answer("p", "xx"), heard, operators).verdict is Verdict.PENDING


def test_every_combination_keeps_the_promises():
    """Over all voices of a prover and up to three auditors: who is convicted has two agreeing parties against it."""
    voices = [None, "xx", "xy", "yx", "yy"]
    for prover, *auditors in itertools.product(voices, repeat=4):
        decision = decide(prover, *auditors)
        parties = {"p": prover, **dict(zip("abc", auditors, strict=True))}
        spoken = {node: voice for node, voice in parties.items() if voice}
        for node in decision.refuted:
            against = [voice for other, voice in spoken.items() if other != node and voice != spoken.get(node)]
            assert any(against.count(voice) >= 2 for voice in against)
        if prover is None:
            assert decision.verdict is not Verdict.VERIFIED
            assert not decision.refuted or "xx" not in auditors  # who finds the signed root protects it
        if decision.verdict is Verdict.VERIFIED:
            assert prover in auditors
        if decision.verdict is Verdict.REFUTED:
            assert prover is None or prover not in auditors
            assert "p" in decision.refuted


def test_order_of_auditors_changes_no_verdict():
    """The verdict depends on what was said, not on who was asked first."""
    voices = [None, "xx", "xy", "yy"]
    for auditors in itertools.combinations_with_replacement(voices, 3):
        verdicts = {decide("xx", *order).verdict for order in itertools.permutations(auditors)}
        assert len(verdicts) == 1


@pytest.mark.parametrize("num_cut", [1, 2])
def test_where_every_auditor_was_cut_the_unit_stands_as_cut(num_cut):
    """They accuse nobody, nor is it said that there were none; a root that was never handed in stands for nothing."""
    cut = [dataclasses.replace(answer(node, "yy"), ended=ended.OUT_OF_MEMORY) for node in "ab"[:num_cut]]
    for root, reason in (("x", Reason.CUT), ("z", Reason.NO_AUDITOR)):
        asked = contribution(root), answer("p", "xx"), cut, OPERATORS
        assert judge(*asked).need_auditor
        closed = judge(*asked, exhausted=True)
        assert (closed.verdict, closed.reason, closed.refuted) == (Verdict.UNVERIFIED, reason, ())


def test_comparison_can_be_replaced():
    """Across engine classes a tolerance decides what is the same."""
    assert decide("xx", "xy", same=lambda first, second: first.root == second.root).verdict is Verdict.VERIFIED
    assert not bitwise(answer("a", "xy"), answer("b", "xx"))


def test_undrawn_work_is_verified_only_statistically():
    """A task the beacon passed over says so in its reason."""
    assert (undrawn().verdict, undrawn().reason) == (Verdict.VERIFIED, Reason.NOT_DRAWN)


def test_fewer_than_three_operators_convict_nobody():
    """Whatever they answer, however many nodes they have, and whether or not anybody is left to ask."""
    voices = ["xx", "yy", "xy", None]
    for of in itertools.product("PQ", repeat=3):
        operators = {NodeId("p"): "P", **dict(zip(map(NodeId, "abc"), of, strict=True))}
        for prover, *auditors in itertools.product(voices, repeat=4):
            heard = [answer(node, voice) for node, voice in zip("abc", auditors, strict=True) if voice]
            said = answer("p", prover) if prover else None
            for exhausted, late in itertools.product((False, True), repeat=2):
                made = judge(contribution("x"), said, heard, operators, exhausted=exhausted, late=late)
                assert (made.refuted, made.odd) == ((), ())
                assert made.verdict is not Verdict.REFUTED
