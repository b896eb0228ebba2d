"""The question of a buyer's own program: when it opens, what four runs come to, and that nobody finds shelter in it."""

from __future__ import annotations

import dataclasses
import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.integration.train.small_job import command_spec, train_spec
from tests.unit.rules.test_verdict import OPERATORS as KNOWN
from tests.unit.rules.test_verdict import answer, contribution

from stannary.formats import digest, ended
from stannary.formats.ids import NodeId
from stannary.formats.predicates import Candidate, Draw, Drawable, Verdict
from stannary.rules import blame, draw, question, verdict
from stannary.rules.question import Hearing, Past
from stannary.rules.reasons import Reason

OPERATORS = {**KNOWN, **{NodeId(node): node.upper() for node in ("e", "f", "g")}}
OWN = dataclasses.replace(command_spec("true"), rules=3)
VOICES = ["xx", "yy", "zz"]
FRESH = Past()


def told(prover, auditors, runs=(), *, contributed=None, late=False):
    """A hearing in which `runs` are those of e and f, twice each, as far as they go."""
    heard = [answer(node, voice) for node, voice in zip("abc", auditors, strict=False) if voice]
    ran = [answer(node, voice) for node, voice in zip("eeff", runs, strict=False)]
    said = answer("p", prover) if prover else None
    return Hearing(contribution(contributed or (prover or "x")[0]), said, heard, ran, OPERATORS, late)


def judge(*args, before=FRESH, exhausted=False, spec=OWN, **options):
    return question.judge(spec, told(*args, **options), before, exhausted=exhausted)


def ordinary(prover, *auditors, exhausted=False):
    made = told(prover, auditors)
    judged = verdict.judge(made.contribution, made.prover, made.auditors, OPERATORS, exhausted=exhausted)
    return blame.decided(OWN, judged)


def test_every_small_hearing_opens_where_the_rule_says_and_is_judged_as_before_elsewhere():
    """Three different answers, or an odd one beside another operator's: nothing else opens the question."""
    silent = [None, *VOICES]
    for prover, *auditors in itertools.product(silent, repeat=4):
        for before in (FRESH, Past(odd=frozenset({"A"})), Past(odd=frozenset({"P", "Q"}))):
            made = judge(prover, auditors, before=before)
            base = ordinary(prover, *auditors)
            different = len({prover or "xx", *filter(None, auditors)})
            second = bool(base.odd) and len(before.odd | {OPERATORS[node] for node in base.odd}) >= 2
            assert made.need_outsider is (different >= 3 or second), (prover, auditors, before)
            if not made.need_outsider:
                assert made == base


def test_four_runs_that_differ_anywhere_blame_nobody():
    """Over all runs: one that differs from another, and the program is not reproducible."""
    for runs in itertools.product(VOICES, repeat=4):
        made = judge("xx", ["yy", "zz"], runs)
        if len(set(runs)) > 1:
            assert made == verdict.Decision(Verdict.UNVERIFIED, Reason.NOT_REPRODUCIBLE)


@pytest.mark.parametrize("lied", [None, "xx", "yy", "zz"])
def test_whoever_answered_otherwise_is_odd_however_many_they_are(lied):
    """Four runs agree: prover and auditors are right or odd; an accomplice's third answer shelters none."""
    for auditors in itertools.product(VOICES, repeat=3):
        if len({lied or "xx", *auditors}) < 3:
            continue
        for found in VOICES:
            made = judge(lied, auditors, [found] * 4)
            wrong = {node for node, voice in zip("abc", auditors, strict=True) if voice != found}
            wrong |= {"p"} if (lied or "xx") != found else set()
            assert set(made.odd) == wrong
            assert made.reason is Reason.REPRODUCED
            assert made.verdict is (Verdict.VERIFIED if lied == found else Verdict.UNVERIFIED)
            assert made.refuted == ()


def test_a_late_unit_of_a_silent_prover_is_verified_by_four_runs_that_find_it():
    """As by one auditor elsewhere: its node may be gone for good."""
    assert judge(None, ["yy", "zz"], ["xx"] * 4, late=True).verdict is Verdict.VERIFIED
    assert judge(None, ["yy", "zz"], ["xx"] * 4).verdict is Verdict.UNVERIFIED


@pytest.mark.parametrize("runs", [[], ["xx"], ["xx", "xx"], ["xx", "xx", "xx"]])
def test_fewer_than_four_runs_that_agree_answer_nothing(runs):
    """One operator alone is heard on; where nobody is left, the unit is unverified and nobody is struck."""
    assert judge("xx", ["yy", "zz"], runs).need_outsider
    closed = judge("xx", ["yy", "zz"], runs, exhausted=True)
    assert closed == verdict.Decision(Verdict.UNVERIFIED, Reason.NO_OUTSIDER)


@pytest.mark.parametrize("cut", [(0,), (3,), (1, 2), (0, 1, 2, 3)])
def test_a_run_that_a_clock_cut_tells_nothing_of_the_program(cut):
    """What it left differs and proves nothing: the unit is unverified, and neither program nor node is blamed."""
    made = told("xx", ["yy", "zz"], ["xx"] * 4)
    runs = [
        dataclasses.replace(run, root=digest.digest(b"partial"), ended=ended.WALL_LIMIT) if at in cut else run
        for at, run in enumerate(made.runs)
    ]
    judged = question.judge(OWN, dataclasses.replace(made, runs=runs), FRESH)
    assert judged == verdict.Decision(Verdict.UNVERIFIED, Reason.NO_OUTSIDER)


def test_one_outsider_who_differs_from_himself_is_enough():
    """Nobody has to wait for the other."""
    assert judge("xx", ["yy", "zz"], ["xx", "yy"]).reason is Reason.NOT_REPRODUCIBLE


def test_the_question_is_asked_as_often_as_the_escrow_holds():
    """Behind so many answers one that would open it ends the job; any other hearing is judged as ever."""
    for number in range(4):
        before = Past(num_answered=number)
        for auditors in itertools.product(VOICES, repeat=3):
            made = judge("xx", auditors, before=before)
            if len({"xx", *auditors}) < 3:
                assert made == ordinary("xx", *auditors)
            elif number < 2:
                assert made.need_outsider
            else:
                assert made == verdict.Decision(Verdict.UNVERIFIED, Reason.NO_OUTSIDER)


def test_nobody_is_struck_in_a_program_that_cannot_be_judged():
    """The job is at its end: what is still heard is paid or not, and that is all."""
    before = Past(is_over=True)
    for auditors in itertools.product(VOICES, repeat=3):
        made = judge("xx", auditors, before=before)
        assert made == dataclasses.replace(ordinary("xx", *auditors), odd=())


def test_our_own_code_is_never_asked_about():
    """There two who agree convict, and who answers a third thing is heard on."""
    spec = train_spec()
    spec = dataclasses.replace(spec, recipe=dataclasses.replace(spec.recipe, entry="builtin:bytegpt"), rules=3)
    for auditors in itertools.product(VOICES, repeat=3):
        made = judge("xx", auditors, before=Past(odd=frozenset({"A", "B"})), spec=spec)
        base = told("xx", auditors)
        assert made == verdict.judge(base.contribution, base.prover, base.auditors, OPERATORS)


@given(
    st.sampled_from([None, *VOICES]),
    st.lists(st.sampled_from(VOICES), max_size=3),
    st.lists(st.sampled_from(VOICES), max_size=4),
    st.frozensets(st.sampled_from("PABC")),
    st.booleans(),
)
def test_no_decision_blames_who_agreed_with_the_four_or_pays_who_did_not(prover, auditors, runs, odd, late):
    """Whatever is said: without four equal runs or two who agree nobody is odd, and nobody is ever convicted."""
    made = judge(prover, auditors, runs, before=Past(odd=odd), exhausted=True, late=late)
    assert made.refuted == ()
    assert not (made.need_outsider or made.need_auditor)
    if made.reason is Reason.REPRODUCED:
        assert len(runs) == 4
        assert len(set(runs)) == 1
    elif made.odd:
        assert made.reason in {Reason.AGREED, Reason.CONTRADICTED}
        assert len(odd | {OPERATORS[node] for node in made.odd}) == 1


def test_the_past_is_what_verdicts_said():
    """Who stood alone since the last answer, how many there were, and whether the job is at its end."""
    said = [("agreed", [NodeId("a")]), (Reason.REPRODUCED, [NodeId("b")]), ("agreed", [NodeId("p")]), ("not-drawn", [])]
    assert question.past(said, OPERATORS) == Past(frozenset({"P"}), 1)
    assert question.past(said[:1], OPERATORS) == Past(frozenset({"A"}))
    assert question.past([(Reason.NO_OUTSIDER, [])], OPERATORS).is_over


def test_where_a_program_is_not_reproducible_only_what_another_reproduced_is_paid():
    """Agreement of another operator counts; the beacon's passing over does not, nor do strikes."""
    made = verdict.Decision(Verdict.UNVERIFIED, Reason.NOT_REPRODUCIBLE)
    assert question.is_irreproducible([verdict.undrawn(), made])
    assert not question.is_irreproducible([verdict.undrawn()])
    assert question.taken_back(verdict.undrawn()).verdict is Verdict.UNVERIFIED
    struck = verdict.Decision(Verdict.VERIFIED, Reason.AGREED, odd=(NodeId("a"),))
    assert question.taken_back(struck) == verdict.Decision(Verdict.VERIFIED, Reason.AGREED)
    contested = verdict.Decision(Verdict.UNVERIFIED, Reason.CONTESTED)
    assert question.taken_back(contested).verdict is Verdict.VERIFIED
    otherwise = verdict.Decision(Verdict.UNVERIFIED, Reason.REPRODUCED, odd=(NodeId("p"),))
    assert question.taken_back(otherwise) == dataclasses.replace(otherwise, odd=())


def test_each_run_has_a_name_of_its_own():
    """Of whoever it is, first or second: none is an ordinary audit's, none tells which it is."""
    randomness = bytes(32)
    task = told("xx", []).contribution.task
    names = [draw.run_name(randomness, task, node, run) for node in "ef" for run in draw.RUNS]
    names += [draw.audit_name(randomness, task, node) for node in "ef"]
    assert len(set(names)) == len(names)
    entry = Drawable(task, NodeId("p"), "P", "c", 1, 0)
    listed = candidates_of("efg")
    made = draw.select(draw_of(entry), listed, randomness, 0)[0]
    for candidate, runs in zip(made.auditors, made.runs, strict=True):
        assert runs == tuple(draw.run_name(randomness, task, candidate.node, run) for run in draw.RUNS)


def candidates_of(nodes):
    """Candidates of one class, each of an operator of its own."""
    return [Candidate(NodeId(node), OPERATORS[NodeId(node)], "c") for node in nodes]


def draw_of(entry):
    """A draw of one task."""
    nothing = digest.digest(b"")
    return Draw(told("xx", []).contribution.job, 0, nothing, 1, nothing, (entry,), nothing)
