"""Appeals: who hears, what two of three come to, who loses by it, and that all money of a ruling is accounted for."""

from __future__ import annotations

import hashlib
import itertools
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.rules.test_verdict import JOB, TASK, answer

from stannary.formats import digest
from stannary.formats.ids import NodeId, TaskId
from stannary.formats.predicates import Appeal, Candidate, Drawable, RulingOutcome, SettlementLine
from stannary.rules import appeal
from stannary.rules.appeal import Due, Sentence, TakenBond

LEAF, ROOT = digest.digest(b"appeal"), digest.digest(b"checkpoint")
VOICES = ["xx", "xy", "yx", "yy", "zz"]  # what root, and what answer
ACCUSERS = (NodeId("q"), NodeId("o"))
UNIT = Drawable(TASK, NodeId("p"), "P", "c", 1, 0)
CANDIDATES = tuple(Candidate(NodeId(node), node[0].upper(), "c") for node in ("a", "a2", "b", "d", "e", "p2"))
AMOUNTS = st.integers(0, 1_000)
TAKEN = st.lists(st.builds(TakenBond, st.sampled_from([NodeId("n-1"), NodeId("n-2")]), st.just("oak"), AMOUNTS))
DUE = st.lists(st.builds(Due, st.just("elm"), st.just("t/q1"), st.sampled_from(["appeal", "cleared"]), AMOUNTS))


def made(*candidates: Candidate) -> Appeal:
    """Return an appeal that these may hear."""
    return Appeal(JOB, TASK, NodeId("p"), digest.digest(b"receipt"), candidates, "2026-01-01T00:00:00Z")


def sentence(accused: str, *heard: str, is_root_only: bool = False) -> Sentence | None:
    """Return what voices of a, b and c come to about that of p, whom o and q contradict."""
    said = [answer(node, voice) for node, voice in zip("abc", heard, strict=False)]
    return appeal.sentence(answer("p", accused), ACCUSERS, said, is_root_only=is_root_only)


def test_whom_an_appeal_takes_follows_from_its_leaf_and_a_later_root() -> None:
    """The hash is the one the format names; another leaf, another root, or the two exchanged draw others."""
    parts = (b"stannary appeal v1", digest.raw(ROOT), digest.raw(LEAF))
    written = b"".join(len(part).to_bytes(8, "big") + part for part in parts)
    assert appeal.randomness(LEAF, ROOT) == hashlib.sha256(written).digest()
    drawn = {appeal.randomness(*pair) for pair in itertools.product((LEAF, ROOT), repeat=2)}
    assert len(drawn) == 4


def test_one_node_hears_for_each_operator_that_had_no_part() -> None:
    """Of the unit's class, never of the accused's operator, in an order that the list's order does not change."""
    foreign = Candidate(NodeId("f"), "F", "other-class")
    firsts = set()
    for seed in range(64):
        chance = appeal.randomness(LEAF, digest.digest(b"%d" % seed))
        ranked = appeal.hearers(made(*CANDIDATES, foreign), UNIT, chance)
        assert sorted(item.operator for item in ranked) == ["A", "B", "D", "E"]
        assert ranked == appeal.hearers(made(foreign, *reversed(CANDIDATES)), UNIT, chance)
        firsts.add(ranked[0].operator)
    assert firsts == {"A", "B", "D", "E"}  # the root decides, no place in the list does
    assert appeal.hearers(made(), UNIT, bytes(32)) == ()


def test_a_hearers_audit_is_an_audit_of_the_unit_with_a_name_of_its_own() -> None:
    """Named as auditors' are, so that nobody who is asked can tell it is an appeal; each draw names anew."""
    chances = [appeal.randomness(LEAF, root) for root in (ROOT, LEAF)]
    tasks = [TASK, TaskId("j-0123456789ab/r0/l1/a0")]
    names = [appeal.name(*asked) for asked in itertools.product(chances, tasks, ("a", "b"))]
    assert len(set(names)) == 8
    parts = (b"stannary draw audit name v1", chances[0], TASK.encode(), b"a")
    written = b"".join(len(part).to_bytes(8, "big") + part for part in parts)
    assert names[0] == f"{TASK}/q{hashlib.sha256(written).hexdigest()[:16]}"


@pytest.mark.parametrize("is_root_only", [False, True])
def test_two_of_three_decide_and_nobody_else_does(is_root_only: bool) -> None:
    """Over all voices: who two find the same as is right, root and answer; by root alone where it never answered."""
    for num_heard in range(appeal.HEARERS + 1):
        for accused, *heard in itertools.product(VOICES, repeat=num_heard + 1):
            found = [voice for voice, count in Counter(heard).items() if count >= 2]
            ruled = sentence(accused, *heard, is_root_only=is_root_only)
            if not found:
                assert ruled is None
                continue
            is_right = found[0][0] == accused[0] if is_root_only else found[0] == accused
            assert ruled is not None
            assert ruled.outcome is (RulingOutcome.RELEASED if is_right else RulingOutcome.FORFEITED)
            assert ruled.losers == (("o", "q") if is_right else ("p",))
            assert ruled.agreeing == tuple(node for node, voice in zip("abc", heard, strict=False) if voice == found[0])


def test_who_never_answered_is_judged_by_its_root_alone() -> None:
    """The same two clear a silent node's root that convict an answer made up beside it."""
    silent = sentence("x?", "xx", "xx", is_root_only=True)
    spoken = sentence("x?", "xx", "xx")
    assert silent == Sentence(RulingOutcome.RELEASED, (NodeId("o"), NodeId("q")), (NodeId("a"), NodeId("b")))
    assert spoken == Sentence(RulingOutcome.FORFEITED, (NodeId("p"),), (NodeId("a"), NodeId("b")))


def test_hearers_who_share_only_a_root_do_not_agree() -> None:
    """A right root beside a wrong answer was copied: it makes no majority, also where only the root is compared."""
    assert sentence("xx", "xx", "xy", is_root_only=True) is None


@pytest.mark.parametrize(("agrees", "losers"), [(True, ("o", "q")), (False, ("p",))])
def test_a_unit_computed_again_names_the_losers_in_node_order(agrees: bool, losers: tuple[str, ...]) -> None:
    """Where the market computes, no hearer's answer is what the finding rests on."""
    ruled = appeal.judged(NodeId("p"), ACCUSERS, agrees=agrees)
    assert (ruled.losers, ruled.agreeing) == (losers, ())
    assert ruled.outcome is (RulingOutcome.RELEASED if agrees else RulingOutcome.FORFEITED)


@pytest.mark.parametrize(
    ("taken", "due", "short"), [([], [], 0), ([], [5, 7], 12), ([4], [5, 7], 8), ([4, 8], [5, 7], 0), ([20], [5], 0)]
)
def test_insurance_may_add_what_bonds_lack(taken: list[int], due: list[int], short: int) -> None:
    """All bonds together against all that is owed, and never less than nothing."""
    bonds = [TakenBond(NodeId("n-1"), "oak", amount) for amount in taken]
    assert appeal.short_of(bonds, [Due("elm", "t/q1", "appeal", amount) for amount in due]) == short


HEARD = [Due("elm", "t/q1", "appeal", 10), Due("ash", "t/q2", "appeal", 20)]
CLEARED = Due("fir", "t", "cleared", 50)


def bond(usd_micros: int) -> list[TakenBond]:
    """Return what is taken of one bond."""
    return [TakenBond(NodeId("n-1"), "oak", usd_micros)]


@pytest.mark.parametrize(
    ("usd_micros", "paid"),
    [
        (0, [0, 0, 0]),
        (7, [7, 0, 0]),
        (30, [10, 20, 0]),
        (64, [10, 20, 34]),
        (80, [10, 20, 50]),
        (95, [10, 20, 50, "redo", 15]),
        (120, [10, 20, 50, "redo", 40]),
        (121, [10, 20, 50, "redo", 40, "forfeit", 1]),
    ],
)
def test_a_bond_goes_to_hearers_then_the_cleared_then_the_buyer_then_insurance(
    usd_micros: int, paid: list[int | str]
) -> None:
    """Each has all of his before the next has anything; who is owed something has a line also when it is nothing."""
    taken, *rest = appeal.lines(bond(usd_micros), [*HEARD, CLEARED], 40, 0)
    assert taken == SettlementLine("bond:oak", "n-1", "forfeit", -usd_micros)
    owed, behind = rest[:3], rest[3:]
    assert [(line.account, line.task, line.reason) for line in owed] == [
        ("operator:elm", "t/q1", "appeal"),
        ("operator:ash", "t/q2", "appeal"),
        ("operator:fir", "t", "cleared"),
    ]
    assert all(line.task == "" for line in behind)
    assert {line.account for line in behind if line.reason == "redo"} <= {"buyer"}
    assert {line.account for line in behind if line.reason == "forfeit"} <= {"insurance"}
    told = [part for line in behind for part in (line.reason, line.usd_micros)]
    assert [line.usd_micros for line in owed] + told == paid


def test_what_insurance_adds_stands_behind_the_bonds() -> None:
    """Its line has neither a node nor a task, and is not there where it adds nothing."""
    made_lines = appeal.lines(bond(5), HEARD, 40, 25)
    assert made_lines[1] == SettlementLine("insurance", "", "appeal", -25)
    assert [line.usd_micros for line in made_lines] == [-5, -25, 10, 20]
    assert "insurance" not in {line.account for line in appeal.lines(bond(5), HEARD, 40, 0)}


@given(TAKEN, DUE, AMOUNTS, st.data())
def test_the_lines_of_a_ruling_sum_to_nothing_and_skip_nobody(
    taken: list[TakenBond], due: list[Due], redo: int, data: st.DataObject
) -> None:
    """Whatever is taken and owed: nobody gets more than his, nor anything before all ahead of him have theirs."""
    added = data.draw(st.integers(0, appeal.short_of(taken, due)))
    lines = appeal.lines(taken, due, redo, added)
    assert sum(line.usd_micros for line in lines) == 0
    given_by = len(taken) + bool(added)
    assert all(line.usd_micros <= 0 for line in lines[:given_by])
    got = lines[given_by:]
    owed = [item.usd_micros for item in due]
    if len(got) > len(due) and got[len(due)].account == "buyer":
        owed.append(redo)
    pays_all = [line.usd_micros == amount for line, amount in zip(got, owed, strict=False)]
    for at, (line, amount) in enumerate(zip(got, owed, strict=False)):
        assert 0 <= line.usd_micros <= amount
        assert all(pays_all[:at]) or line.usd_micros == 0
    if got[len(due) :]:
        assert all(pays_all[: len(due)])
    left = got[len(owed) :]
    assert [(line.account, line.reason) for line in left] in ([], [("insurance", "forfeit")])
    if left:
        assert all(pays_all)
        assert redo == 0 or got[len(due)].account == "buyer"


@given(TAKEN, DUE, AMOUNTS)
def test_all_that_insurance_may_add_pays_everybody_and_nobody_else(
    taken: list[TakenBond], due: list[Due], redo: int
) -> None:
    """Hearers and cleared nodes have all of theirs then; neither the buyer nor insurance itself gains by its adding."""
    short = appeal.short_of(taken, due)
    lines = appeal.lines(taken, due, redo, short)
    paid = [line.usd_micros for line in lines if line.account == "operator:elm"]
    assert paid == [item.usd_micros for item in due]
    if short:
        assert {line.account for line in lines if line.usd_micros > 0} <= {"operator:elm"}
        less = appeal.lines(taken, due, redo, short - 1)
        assert sum(line.usd_micros for line in less if line.account == "operator:elm") == sum(paid) - 1
