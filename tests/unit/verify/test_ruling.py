"""Rulings on bonds that a simulated day disputes: what is true has no fault, and each lie is named, by both verifiers.

The accused are a liar, a liar that never answered for its work, a false accuser, and an honest worker and an honest
auditor whom two convicted by telling the same lie.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property

import pytest
from tests.second_verifier import appeal as second
from tests.second_verifier.evidence import Case as SecondCase
from tests.second_verifier.evidence import File, Findings, Pins
from tests.second_verifier.values import read_json
from tests.simulator.day import Day
from tests.simulator.toys import LATER, Toy
from tests.unit.jobs.course import days
from tests.unit.jobs.course.test_our_code import day, receipt_of
from tests.unit.verify.world import CLASS

from stannary.errors import Refuted
from stannary.formats import digest, predicates, record
from stannary.formats.digest import Digest
from stannary.formats.ids import NodeId
from stannary.formats.predicates import (
    Answer,
    Appeal,
    Candidate,
    Receipt,
    Role,
    Ruling,
    RulingOutcome,
    SettlementLine,
    Spent,
    Used,
)
from stannary.jobs.course import actions
from stannary.rules import appeal, blame
from stannary.rules.appeal import Sentence
from stannary.verify import recomputation
from stannary.verify.case import Case
from stannary.verify.ruling import DisputedBond, Heard, Papers, faults

LEAF = digest.digest(b"appeal")
ROOT = digest.digest(b"checkpoint")
WHEN = "2026-09-22T00:00:00Z"
FORFEITED, RELEASED = RulingOutcome.FORFEITED, RulingOutcome.RELEASED
FRESH = ("xylem", "yarrow", "zinnia")  # operators without a part in the job
TWICE = Candidate(NodeId("n-00000000000f"), FRESH[-1], CLASS)  # another node of one of them
CHEAP = 50_000  # what the first hearer asks; whoever is accused asks more
WORK_MS = (4_000, 3_000, 5_000)  # what hearing it took each
NONE: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Trial:
    """A day, and one of the bonds it disputes."""

    day: Day
    case: Case
    receipt: Receipt
    dispute: DisputedBond
    data: bytes

    @cached_property
    def opened(self) -> Appeal:
        """The appeal about it."""
        fresh = [Candidate(NodeId(f"n-{at:012x}"), operator, CLASS) for at, operator in enumerate(FRESH)]
        leaf = digest.digest(b"receipt")
        return Appeal(self.case.job_id, self.dispute.task, self.dispute.node, leaf, (*fresh, TWICE), WHEN)

    @property
    def accused(self) -> str:
        """The name of who is accused."""
        return self.day.party(self.dispute.node).name

    def papers(self, *words: str, opened: Appeal | None = None, leaf: Digest = LEAF, root: Digest = ROOT) -> Papers:
        """Return what hearers in rank say: the truth for an empty word, else a lie of that word."""
        made = opened if opened is not None else self.opened
        chance = appeal.randomness(leaf, root)
        ranked = appeal.hearers(made, self.dispute.unit, chance)
        ask, question = self.dispute.case.ask(self.case.contributions[self.dispute.task]), self.dispute.question
        assignment = self.case.assignments[self.dispute.task].predicate
        heard = []
        for at, (hearer, word) in enumerate(zip(ranked, words, strict=False)):
            toy = Toy(word, hearer.operator, manner=frozenset({"accuses"}) if word else NONE, word=word)
            said = toy.audit(assignment, question.step, bytes.fromhex(question.salt), self.day._sight())
            answer = Answer(
                job=self.case.job_id, audit=appeal.name(chance, self.dispute.task, hearer.node),
                task=self.dispute.task, role=Role.AUDITOR, node=hearer.node, blind="00" * 32, answer=said.answer,
                root=predicates.result_root(said.outputs, said.ended), outputs=said.outputs,
                spent=Spent(0, 0, 0, 0, 0), answered_at=WHEN, used=Used(WORK_MS[at % 3], 0, WORK_MS[at % 3]),
            )  # fmt: skip
            paper = replace(
                self.case.credential(self.dispute.node), node=hearer.node, operator=hearer.operator,
                ask_usd_micros_per_hour=ask if at else CHEAP,
            )  # fmt: skip
            heard.append(Heard(answer, paper, digest.digest(hearer.node.encode())))
        return Papers(made, leaf, tuple(heard))

    def ruling(
        self, papers: Papers, made: Sentence, reason: str = "two-of-three", *, left: int = 10**7, added: int = 0
    ) -> Ruling:
        """Return the ruling of a sentence, where every loser's bond still holds so much."""
        taken = self.dispute.taken(made, dict.fromkeys(made.losers, left))
        due = self.dispute.due([(item.answer, item.credential) for item in papers.heard], made)
        lines = appeal.lines(taken, due, self.dispute.redo, added)
        return Ruling(
            self.case.job_id, self.dispute.task, self.dispute.node, LEAF, 100, ROOT, made.outcome, reason,
            tuple(item.leaf for item in papers.heard), lines, WHEN,
        )  # fmt: skip

    def decided(self, papers: Papers) -> Ruling:
        """Return the ruling its hearers' answers come to."""
        made = self.dispute.sentence([item.answer for item in papers.heard])
        assert made is not None
        return self.ruling(papers, made)

    def faults(self, papers: Papers, said: Ruling) -> set[str]:
        """Return what both verifiers find; they must find the same."""
        pins = Pins(self.day.vkey, (self.day.witness_vkey,), ())
        file = File(read_json(self.data), [pins], 2**40, Findings(), has_floors=False)
        told = [
            second.Given(
                record.to_json(item.answer),
                item.credential.operator,
                item.credential.engine_class,
                item.credential.ask_usd_micros_per_hour,
                item.leaf,
            )
            for item in papers.heard
        ]
        theirs = second.judge(
            SecondCase(file.open_evidence()),
            (self.dispute.task, self.dispute.node),
            (papers.appeal_leaf, record.to_json(papers.appeal)),
            told,
            record.to_json(said),
            record.to_json(self.receipt),
        )
        ours = faults(self.dispute, papers, said)
        assert len(ours) == len(set(ours))
        assert set(ours) == theirs
        return theirs


@cache
def trial(who: str) -> Trial:
    """Return the trial of somebody."""
    lies, mute, accuses = frozenset({"lies"}), frozenset({"lies", "silent-prover"}), frozenset({"accuses"})
    fleet = {
        "liar": [lies, NONE, NONE],
        "late liar": [frozenset({LATER}), NONE, NONE],
        "mute liar": [mute, NONE, NONE],
        "accuser": [accuses, NONE, NONE],
        "mere auditor": [NONE, NONE, NONE, NONE, accuses],
        "worker": [accuses, accuses, NONE],
        "auditor": [lies, accuses, NONE],
    }[who]
    for seed in range(60):
        lived = day([*fleet, NONE, NONE][:5], seed)
        for node in lived.fleet.values():
            assert isinstance(node, Toy)
            node.word = "x"
        lived.live()
        case = lived.case()
        for found in (item for item in lived.market.taken if isinstance(item, actions.Dispute)):
            party, worked = lived.party(found.node), [item.predicate.node for item in case.contributions.values()]
            assert isinstance(party, Toy)
            is_own = case.contributions[found.task].predicate.node == found.node
            fits = (party.is_liar, is_own) == (who not in INNOCENT, who in ("liar", "late liar", "mute liar", "worker"))
            if fits and (who != "mere auditor" or found.node not in worked):
                receipt = receipt_of(lived)
                return Trial(lived, case, receipt, DisputedBond(case, receipt, found.task, found.node), lived.receipt())
    raise AssertionError(f"no day accuses a {who}")


def amounts(said: Ruling) -> list[tuple[str, str, int]]:
    """Return whose money goes why, and how much."""
    return [(line.account, line.reason, line.usd_micros) for line in said.lines]


def price(work_ms: int, ask: int) -> int:
    """Return what so much work of one processor costs, rounded up."""
    return -(-work_ms * ask // 3_600_000)


GUILTY, INNOCENT = ("liar", "mute liar", "accuser"), ("worker", "auditor")


@pytest.mark.parametrize("who", GUILTY)
@pytest.mark.parametrize("words", [("", "", ""), ("", "", "alone"), ("one", "", ""), ("", "")])
def test_who_lied_loses_where_two_hear_the_truth(who: str, words: Sequence[str]) -> None:
    """Whoever else was heard, the accused alone pays, and each hearer of the camp is paid for the least work in it."""
    it = trial(who)
    papers = it.papers(*words)
    said = it.decided(papers)
    assert it.faults(papers, said) == set()
    assert said.outcome is FORFEITED
    assert [line.task for line in said.lines if line.account.startswith("bond:")] == [it.dispute.node]
    ask, camp = it.case.ask(it.case.contributions[it.dispute.task]), [at for at, word in enumerate(words) if not word]
    least = min(WORK_MS[at] for at in camp)
    paid = [amount for _, reason, amount in amounts(said) if reason == "appeal"]
    assert paid == [price(least, ask if at else CHEAP) for at in camp]
    assert sum(line.usd_micros for line in said.lines) == 0


@pytest.mark.parametrize("who", INNOCENT)
def test_who_was_right_is_cleared_and_its_accusers_lose(who: str) -> None:
    """Two who hear the truth release its bond, both accusers pay, and it gets what was withheld from it."""
    it = trial(who)
    papers = it.papers("", "", "alone")
    said = it.decided(papers)
    assert it.faults(papers, said) == set()
    assert said.outcome is RELEASED
    losers = [line.task for line in said.lines if line.account.startswith("bond:")]
    liars = {node.id for node in it.day.fleet.values() if isinstance(node, Toy) and node.is_liar}
    assert losers == sorted(it.dispute.accusers)
    assert set(losers) == liars
    (cleared,) = [line for line in said.lines if line.reason == "cleared"]
    operator = it.day.party(it.dispute.node).operator
    assert cleared.account == f"operator:{operator}"
    assert cleared.usd_micros > 0
    own = [a.audit for a in (x.predicate for x in it.case.answers.values()) if a.node == it.dispute.node]
    assert (cleared.task in own) is (who == "auditor")
    assert (cleared.task == it.dispute.task) is (who == "worker")


def test_hearers_who_lie_as_the_accused_release_it() -> None:
    """The camp is compared with the claim: with the whole of it, or by root where the accused never answered."""
    for who in GUILTY:
        it = trial(who)
        papers = it.papers("x", "x", "")
        said = it.decided(papers)
        assert it.faults(papers, said) == set()
        assert said.outcome is RELEASED
    assert trial("mute liar").dispute.claim.answer is None
    assert trial("liar").dispute.claim.answer is not None


@pytest.mark.parametrize("who", ["liar", "worker"])
@pytest.mark.parametrize("agrees", [True, False])
@pytest.mark.parametrize("words", [(), ("",), ("", "one", "two")])
def test_where_no_two_agree_the_market_computes_it(who: str, agrees: bool, words: Sequence[str]) -> None:
    """Either outcome holds for what was replayed, no hearer is paid, and nobody may call it a vote."""
    it = trial(who)
    papers = it.papers(*words)
    made = appeal.judged(it.dispute.node, it.dispute.accusers, agrees=agrees)
    said = it.ruling(papers, made, "replayed")
    assert it.faults(papers, said) == set()
    assert not [line for line in said.lines if line.reason == "appeal"]
    assert it.faults(papers, replace(said, reason="two-of-three")) == {"ruling.reason"}


def test_where_nobody_can_compute_it_nobody_loses() -> None:
    """An unheard bond is released, without a line; to take it all the same is two faults."""
    it = trial("liar")
    papers = it.papers()
    said = it.ruling(papers, Sentence(RELEASED, ()), "unheard")
    assert said.lines == ()
    assert it.faults(papers, said) == set()
    taken = it.ruling(papers, Sentence(FORFEITED, (it.dispute.node,)), "unheard")
    assert it.faults(papers, taken) == {"ruling.outcome", "ruling.lines"}
    stories = it.ruling(papers, Sentence(FORFEITED, (it.dispute.node,)), "two-statements")
    assert "ruling.reason" in it.faults(papers, stories)  # it has told one


def test_what_was_done_again_goes_back_to_the_buyer() -> None:
    """Of a liar's bond the buyer gets what redoing cost him, at its ask at most."""
    it = trial("late liar")
    redone = [line for line in it.receipt.settlement if line.reason == "redo"]
    mine = it.case.ask(it.case.contributions[it.dispute.task])
    asks = {node.operator: node.ask for node in it.day.fleet.values()}
    back = sum(line.usd_micros * mine // asks[line.account.partition(":")[2]] for line in redone)
    assert 0 < back < sum(line.usd_micros for line in redone)
    assert ("buyer", "redo", back) in amounts(it.decided(it.papers("", "", "")))


def test_a_bond_other_jobs_had_taken_of_is_filled_up_by_insurance() -> None:
    """Where a bond is short of what hearers are owed, insurance adds that and no more, or hearers get less."""
    it = trial("liar")
    papers = it.papers("", "", "")
    made = it.dispute.sentence([item.answer for item in papers.heard])
    assert made is not None
    owed = sum(item.usd_micros for item in it.dispute.due([(x.answer, x.credential) for x in papers.heard], made))
    for left, added, expected in (
        (10, owed - 10, set()),
        (10, 0, set()),
        (0, 7, set()),
        (10, owed - 9, {"ruling.lines"}),
        (10, -1, {"ruling.lines"}),
    ):
        said = it.ruling(papers, made, left=left, added=added)
        assert it.faults(papers, said) == expected, (left, added)


def test_a_job_takes_so_many_prices_of_a_bond() -> None:
    """What is taken is the cap, by the dearest of a node's work: a micro-dollar more is no ruling of this job."""
    it = trial("liar")
    papers = it.papers("", "", "")
    said = it.decided(papers)
    most = it.dispute.most(it.dispute.node)
    assert 0 < most < 10_000_000
    assert most % blame.CAP_PRICES == 0
    first, *middle, last = said.lines
    assert -first.usd_micros == most
    assert (last.account, last.reason) == ("insurance", "forfeit")
    more = (
        replace(first, usd_micros=first.usd_micros - 1),
        *middle,
        replace(last, usd_micros=last.usd_micros + 1),
    )
    less = (
        replace(first, usd_micros=first.usd_micros + 1),
        *middle,
        replace(last, usd_micros=last.usd_micros - 1),
    )
    assert it.faults(papers, replace(said, lines=more)) == {"ruling.lines"}
    assert it.faults(papers, replace(said, lines=less)) == set()


def test_who_only_audited_loses_by_the_price_of_its_audits() -> None:
    """A node that worked at nothing is no cheaper to catch: the dearest of its answers counts as work would."""
    it = trial("mere auditor")
    node = it.dispute.node
    assert all(item.predicate.node != node for item in it.case.contributions.values())
    audits = [item for item in it.case.answers.values() if item.predicate.node == node]
    dearest = max(days.price_on(it.day, it.case, item) for item in audits)
    papers = it.papers("", "", "")
    said = it.decided(papers)
    assert it.faults(papers, said) == set()
    assert -said.lines[0].usd_micros == blame.CAP_PRICES * dearest > 0


def _line(said: Ruling, at: int, **change: object) -> Ruling:
    lines = list(said.lines)
    lines[at] = replace(lines[at], **change)  # type: ignore[arg-type]
    return replace(said, lines=tuple(lines))


LIES: dict[str, tuple[Callable[[Trial, Ruling], Ruling], set[str]]] = {
    "another amount for a hearer": (lambda _, said: _line(said, 1, usd_micros=1), {"ruling.lines"}),
    "another account": (lambda _, said: _line(said, 1, account="operator:market"), {"ruling.lines"}),
    "the buyer gets the rest": (lambda _, said: _line(said, -1, account="buyer"), {"ruling.lines"}),
    "a bond is given to": (
        lambda _, said: _line(said, 0, usd_micros=-said.lines[0].usd_micros),
        {"ruling.lines"},
    ),
    "lines in another order": (lambda _, said: replace(said, lines=said.lines[::-1]), {"ruling.lines"}),
    "no lines": (lambda _, said: replace(said, lines=()), {"ruling.lines"}),
    "a line too many": (
        lambda _, said: replace(said, lines=(*said.lines, SettlementLine("buyer", "", "redo", 0))),
        {"ruling.lines"},
    ),
    "another pays": (lambda it, said: _line(said, 0, task=it.day.fleet["n2"].id), {"ruling.lines"}),
    "the other outcome": (lambda _, said: replace(said, outcome=RELEASED), {"ruling.outcome"}),
    "a made-up reason": (lambda _, said: replace(said, reason="said-so"), {"ruling.reason"}),
    "replayed though two agree": (
        lambda _, said: replace(said, reason="replayed"),
        {"ruling.reason", "ruling.lines"},
    ),
    "unheard though two agree": (
        lambda _, said: replace(said, reason="unheard"),
        {"ruling.reason", "ruling.outcome", "ruling.lines"},
    ),
    "another job": (lambda _, said: replace(said, job="j-000000000000"), {"appeal.dispute"}),
    "another task": (lambda _, said: replace(said, task=f"{said.task}9"), {"appeal.dispute"}),
    "another node": (lambda it, said: replace(said, node=it.day.fleet["n2"].id), {"appeal.dispute"}),
    "another checkpoint": (
        lambda _, said: replace(said, checkpoint_root=digest.digest(b"chosen")),
        {"appeal.heard"},
    ),
    "an answer less": (lambda _, said: replace(said, heard=said.heard[:-1]), {"appeal.heard"}),
    "answers in another order": (lambda _, said: replace(said, heard=said.heard[::-1]), {"appeal.heard"}),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_ruling_that_lies_is_found_out(lie: str) -> None:
    """One word of an honest ruling changed: the faults are those of this word, and no others."""
    it = trial("liar")
    papers = it.papers("", "", "")
    change, expected = LIES[lie]
    assert it.faults(papers, change(it, it.decided(papers))) == expected


def test_a_ruling_names_the_appeal_it_ends() -> None:
    """Another appeal's leaf draws other hearers, and is another dispute's."""
    it = trial("liar")
    papers = it.papers("", "", "")
    said = it.decided(papers)
    assert it.faults(papers, replace(said, appeal=digest.digest(b"another"))) == {"appeal.dispute"}
    other = replace(papers, appeal=replace(papers.appeal, node=it.day.fleet["n2"].id))
    assert it.faults(other, said) == {"appeal.dispute"}


def test_a_bond_no_verdict_convicts_is_not_in_dispute() -> None:
    """An honest auditor's bond cannot be ruled on, however well the ruling is put together."""
    it = trial("liar")
    innocent = next(node for node in it.dispute.accusers)
    other = replace(it, dispute=replace(it.dispute, node=innocent))
    papers = other.papers("", "", "")
    assert "appeal.dispute" in other.faults(papers, other.decided(papers))


def test_who_said_nothing_of_a_unit_has_no_claim() -> None:
    """A dispute about a node that neither did the unit nor answered about it is about nothing."""
    it = trial("liar")
    heard = {item.predicate.node for item in it.case.answers_of[it.dispute.task]}
    silent = next(node.id for node in it.day.fleet.values() if node.id not in heard)
    with pytest.raises(Refuted, match="about nothing"):
        _ = replace(it.dispute, node=silent).claim


def test_who_had_a_part_may_not_hear() -> None:
    """Candidates are in node order, once each, and of no operator that was placed, worked or answered."""
    it = trial("liar")
    listed = it.opened.candidates
    part = Candidate(NodeId("n-zzzzzzzzzzzz"), it.day.fleet["n4"].operator, CLASS)
    for candidates in ((*listed, part), listed[::-1], (*listed, listed[-1])):
        papers = it.papers("", "", "", opened=replace(it.opened, candidates=candidates))
        assert it.faults(papers, it.decided(papers)) == {"appeal.candidates"}
    assert it.dispute.involved == {node.operator for node in it.day.fleet.values()}


def test_who_is_not_asked_is_not_heard() -> None:
    """An operator's second node, another audit, another role, or one node twice: no such answer counts as heard."""
    it = trial("liar")
    honest = it.papers("", "", "")
    chance, one = appeal.randomness(LEAF, ROOT), honest.heard[-1]
    operators = {item.node: item.operator for item in it.opened.candidates}
    ranked = {item.node for item in appeal.hearers(it.opened, it.dispute.unit, chance)}
    (other,) = {item.node for item in it.opened.candidates} - ranked
    out_of_turn = replace(one.answer, node=other, audit=appeal.name(chance, it.dispute.task, other))
    for answer in (
        out_of_turn,
        replace(one.answer, audit=appeal.name(chance, it.dispute.task, other)),
        replace(one.answer, role=Role.PROVER),
        replace(one.answer, job="j-000000000000"),
        replace(one.answer, task=f"{one.answer.task}9"),
        honest.heard[0].answer,
    ):
        paper = replace(one.credential, operator=operators[answer.node])
        papers = replace(honest, heard=(*honest.heard[:-1], replace(one, answer=answer, credential=paper)))
        assert it.faults(papers, it.decided(papers)) == {"appeal.heard"}


@pytest.mark.parametrize("other", [{"operator": "own"}, {"engine_class": f"{CLASS}-b"}])
def test_a_hearer_is_who_the_list_says(other: dict[str, str]) -> None:
    """A market that lists nodes of one operator under three names is held to their credentials."""
    it = trial("liar")
    honest = it.papers("", "", "")
    one = honest.heard[0]
    papers = replace(honest, heard=(replace(one, credential=replace(one.credential, **other)), *honest.heard[1:]))
    assert "appeal.candidates" in it.faults(papers, it.decided(papers))


def test_no_more_than_three_are_heard() -> None:
    """A market that asks four cannot look for the two it likes."""
    it = trial("liar")
    more = (*it.opened.candidates, Candidate(NodeId("n-0000000000ff"), "umber", CLASS))
    papers = it.papers("", "", "x", "x", opened=replace(it.opened, candidates=more))
    assert len(papers.heard) == 4
    assert it.faults(papers, it.decided(papers)) == {"appeal.heard"}
    three = replace(papers, heard=papers.heard[:3])
    assert it.faults(three, it.decided(three)) == set()


def test_of_fewer_than_three_nobody_is_heard() -> None:
    """Two who could hear are not asked: their answers decide nothing, however well they agree."""
    it = trial("liar")
    few = replace(it.opened, candidates=it.opened.candidates[:2])
    papers = it.papers("", "", opened=few)
    assert len(papers.heard) == 2
    assert it.faults(papers, it.decided(papers)) == {"appeal.heard"}
    unheard = replace(papers, heard=())
    made = Sentence(FORFEITED, (it.dispute.node,))
    assert it.faults(unheard, it.ruling(unheard, made, "replayed")) == set()


@pytest.mark.parametrize("who", [*GUILTY, *INNOCENT])
def test_what_is_replayed_is_the_claim(who: str) -> None:
    """Whoever computes the unit again compares with what the accused said of it, answer included where it gave one."""
    it = trial(who)
    unit, contribution = it.dispute.to_replay(), it.case.contributions[it.dispute.task].predicate
    assert predicates.result_root(unit.outputs, None) == unit.root == it.dispute.claim.root
    assert (unit.root == contribution.root) is (who not in ("accuser", "auditor"))
    assert (unit.question is None) is (who == "mute liar")
    if unit.question is not None:
        assert (unit.question.answer, unit.question) == (it.dispute.claim.answer, it.dispute.question)
    assert unit.blobs == recomputation.unit_of(it.case, it.dispute.task).blobs
