"""Markets that choose their auditors: whoever adds, drops, reorders or passes over a candidate is seen."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from tests.unit.verify.world import Node, World

from stannary.formats import canonical, digest, instants, predicates, receipt, statement
from stannary.formats.digest import Digest
from stannary.formats.jobspec import JobKind
from stannary.formats.predicates import Absence, Answer, Awaited, Role, Verdict
from stannary.rules.draw import Selection
from stannary.verify.receipt import verify_receipt
from stannary.verify.report import Report, Severity

SMALL: dict[str, Any] = {"rounds": 1, "lanes": 2}


def judged(world: World, data: bytes | None = None) -> Report:
    """Verify the world's receipt with its market pinned."""
    return verify_receipt(world.receipt() if data is None else data, world.trust(), world.now)


def found(report: Report) -> set[str]:
    """Return the ids of the findings that weigh."""
    return {item.id for item in report.findings if item.severity is not Severity.NOTICE}


def notices(report: Report, finding: str) -> list[str]:
    """Return what the notices of one id observed."""
    return [item.observed for item in report.findings if item.id == finding and item.severity is Severity.NOTICE]


def bent(kind: str, change: Callable[[Any], Any], **more: Any) -> World:
    """Return a small world whose statements of one kind are changed."""
    world = World(**{**SMALL, **more})
    world.bend[kind] = change
    return world


class FriendlyMarket(World):
    """Draws from a list it made when it knew the beacon: its friend n4 alone."""

    index_of_second = 0  # the draw the second list says it is for

    def __init__(self, **more: Any) -> None:
        super().__init__(**{**SMALL, **more})
        self.friends: tuple[predicates.Candidate, ...] = ()
        self.bend["draw"] = self._rank_friends

    def play(self) -> World:
        """Play on; every draw ranks the friend alone."""
        friend = self.nodes["n4"]
        self.ranked_instead = (predicates.Candidate(friend.id, friend.operator, friend.engine_class),)
        return super().play()

    def _rank_friends(self, said: predicates.Draw) -> predicates.Draw:
        index = said.index + self.index_of_second
        late = predicates.Candidates(self.job_id, index, self.ranked_instead, (), self.time(self.now))
        return replace(said, candidates=digest.from_raw(self.log("late", late, self.market_key).leaf()))

    def log(self, kind: str, predicate: Any, key: Any) -> Any:
        """Log the second list under its true kind."""
        return super().log("candidates" if kind == "late" else kind, predicate, key)


def test_a_friend_added_after_the_reveal_is_seen() -> None:
    """Two lists of candidates for one draw are refused: a market may not choose between them."""
    report = judged(FriendlyMarketForReceipt().play())
    assert report.exit_code == 3
    assert any("two lists of candidates" in item.observed for item in report.findings)


class FriendlyMarketForReceipt(FriendlyMarket):
    """The same, who composes its receipt without looking at its own case."""

    def receipt(self, **more: Any) -> bytes:
        """Borrow the honest receipt's predicate and name the bent evidence in it."""
        honest = World(**SMALL).play()
        said = receipt.read(canonical.decode(honest.receipt())).receipt
        stated = statement.read(said.payload, "receipt", predicates.Receipt).predicate
        leaves = tuple(digest.from_raw(envelope.leaf()) for _, envelope in self.entries)
        return self.assemble(replace(stated, evidence=leaves), ())


def test_a_list_for_another_draw_is_not_the_reveals() -> None:
    """A list slipped in under another number is not the one the buyer's reveal names."""
    world = FriendlyMarket()
    world.index_of_second = 1
    world.open()
    world.run_lanes(0)
    friend = world.nodes["n4"]
    world.ranked_instead = (predicates.Candidate(friend.id, friend.operator, friend.engine_class),)
    world.audit()
    world.close()
    report = judged(world, world.receipt(status="failed", reason="x"))
    assert "draw.candidates" in found(report)
    assert report.exit_code == 3


def test_candidates_fixed_after_the_checkpoint_are_late() -> None:
    """Even where the buyer signed for them, candidates logged behind the beacon's checkpoint are refused."""

    class Late(World):
        def audit(self) -> None:
            """Take the checkpoint first, fix the candidates then."""
            fix, self._fix_candidates = self._fix_candidates, self._nothing  # type: ignore[method-assign]
            self.late = fix
            super().audit()

        def _nothing(self, number: int) -> tuple[predicates.Candidates, Digest]:
            listed = predicates.Candidates(
                self.job_id,
                number,
                tuple(
                    predicates.Candidate(node.id, node.operator, node.engine_class)
                    for node in sorted(self.nodes.values(), key=lambda node: node.id)
                ),
                (),
                self.time(self.now),
            )
            self.pending = listed
            envelope = statement.sign("candidates", listed, (), self.market_key)
            return listed, digest.from_raw(envelope.leaf())

        def log(self, kind: str, predicate: Any, key: Any) -> Any:
            """Log the list just before the reveal, which the checkpoint does not cover."""
            if kind == "reveal":
                super().log("candidates", self.pending, self.market_key)
            return super().log(kind, predicate, key)

    assert "candidates.late" in found(judged(Late(**SMALL).play()))


def test_reordered_candidates_are_refused() -> None:
    """A list that is not in node order is refused: its order is nobody's to choose."""
    report = judged(bent("candidates", lambda said: replace(said, candidates=said.candidates[::-1])).play())
    assert found(report) == {"candidates.order"}


def test_a_rank_the_beacon_does_not_give_is_refused() -> None:
    """A market that asks the second in rank first is contradicted by the beacon, over the list it fixed."""
    world = World(**SMALL)
    world.skips, world.says_silences = {first_ranked(World(**SMALL).play())}, False
    assert "audit.skipped" in found(judged(world.play()))


def first_ranked(world: World) -> str:
    """Return the auditor of the first task that was audited."""
    answers = [item.predicate for item in world.case().answers.values()]
    auditor = next(item.node for item in answers if item.role is Role.AUDITOR)
    return next(name for name, node in world.nodes.items() if node.id == auditor)


def test_a_candidate_list_left_out_is_refused() -> None:
    """A draw whose candidates are not in evidence proves nothing about its auditors."""

    class Without(FriendlyMarketForReceipt):
        def __init__(self) -> None:
            super().__init__()
            self.bend = {"candidates": lambda said: None}

        def play(self) -> World:
            """Play honestly but for the missing list."""
            return World.play(self)

    report = judged(Without().play())
    assert report.exit_code == 3
    assert any("candidates" in item.observed for item in report.findings)


def test_a_receipt_of_version_1_is_below_policy() -> None:
    """A receipt of the format before candidates were fixed has a defined outcome: exit 4, nothing shown."""
    world = World(**SMALL).play()
    members = canonical.decode_object(world.receipt())
    report = judged(world, canonical.encode({**members, "format": "stannary.receipt/v1"}))
    assert (report.exit_code, report.verdict, report.claims) == (4, Verdict.UNVERIFIED, None)
    assert found(report) == {"receipt.version"}


def test_a_node_nobody_lists_is_missed() -> None:
    """A node that works in the job and is neither candidate nor left out for a reason is missed."""
    world = World(**SMALL)
    gone = world.nodes["n1"].id

    def drop(said: predicates.Candidates) -> predicates.Candidates:
        return replace(said, candidates=tuple(item for item in said.candidates if item.node != gone))

    world.bend["candidates"] = drop
    assert "candidates.unlisted" in found(judged(world.play()))

    def excuse(said: predicates.Candidates) -> predicates.Candidates:
        return replace(drop(said), left_out=(predicates.Rejection(gone, "not heard from"),))

    assert found(judged(bent("candidates", excuse).play())) == set()


# --- silence ---


def test_a_signed_silence_is_a_notice() -> None:
    """An auditor who really was silent, by the market's signed word, costs a notice and nothing more."""
    name = first_ranked(World(**SMALL).play())
    world = World(**SMALL)
    world.skips = {name}
    report = judged(world.play())
    assert found(report) == set()
    assert notices(report, "audit.silent")


def test_a_market_that_steers_to_its_friend_is_counted() -> None:
    """A market that calls everybody silent but its friend is below policy, however well it signs that."""
    world = World(rounds=2, lanes=3)
    world.skips = {"n0", "n1", "n2", "n3", "n5"}
    report = judged(world.play())
    assert report.exit_code == 4
    assert found(report) >= {"silence.many"}


def test_an_answer_disproves_a_silence() -> None:
    """A silence of a party whose commitment stands in the log before it refutes the market."""
    world = World(**SMALL)

    def slander(said: predicates.Answer) -> predicates.Answer:
        if said.role is Role.AUDITOR and not slandered:
            slandered.append(said)
            node = next(item for item in world.nodes.values() if item.id == said.node)
            false = predicates.Silence(
                job=said.job, audit=said.audit, task=said.task, role=said.role, node=node.id, draw=world.draw,
                awaited=Awaited.COMMITMENT, reason=Absence.LOST, asked_at=world.time(world.now),
                deadline_at=world.time(world.now + 60), ended_at=world.time(world.now),
            )  # fmt: skip
            world.log("silence", false, world.market_key)
        return said

    slandered: list[predicates.Answer] = []
    world.bend["answer"] = slander
    assert found(judged(world.play())) == {"silence.false"}


def silenced(change: Callable[[predicates.Silence], predicates.Silence]) -> set[str]:
    """Return the findings where one auditor was silent and the market says so otherwise than it was."""
    world = World(**SMALL)
    world.skips = {first_ranked(World(**SMALL).play())}
    world.bend["silence"] = change
    return found(judged(world.play()))


@pytest.mark.parametrize(
    ("change", "finding"),
    [
        (lambda said: replace(said, ended_at=said.asked_at), "silence.time"),
        (lambda said: replace(said, asked_at="2026-01-01T00:00:00Z"), "silence.time"),
        (lambda said: replace(said, ended_at="2027-01-01T00:00:00Z"), "silence.time"),
        (lambda said: replace(said, draw=digest.digest(b"another draw")), "silence.draw"),
        (lambda said: replace(said, awaited=Awaited.ANSWER), "silence.awaited"),
        (lambda said: replace(said, role=Role.PROVER), "silence.party"),
        (lambda said: None, "audit.skipped"),
    ],
)
def test_a_silence_says_what_happened(change: Callable[[predicates.Silence], predicates.Silence], finding: str) -> None:
    """Times out of order or out of the witness's, another draw, another party: a forged silence is refused."""
    assert finding in silenced(change)


def test_a_silent_party_had_the_agreed_time() -> None:
    """A deadline shorter than the signed spec agrees for the task makes nobody silent."""
    changes = {
        "as agreed": lambda said: said,
        "too short": lambda said: replace(said, deadline_at=said.asked_at, reason=Absence.HANDED_BACK),
    }
    results = {}
    for name, change in changes.items():
        world = World(kind=JobKind.COMMAND)  # a command's time is its wall limit, 600 s
        world.skips = {first_ranked(World(kind=JobKind.COMMAND).play())}
        world.bend["silence"] = change
        results[name] = found(judged(world.play()))
    assert results == {"as agreed": set(), "too short": {"silence.hasty"}}


@pytest.mark.parametrize(
    ("took_s", "given_s", "is_hasty"), [(9, 30, False), (599, 30, True), (700, 598, True), (700, 600, False)]
)
def test_a_silent_party_had_the_time_that_the_task_took(took_s: int, given_s: int, *, is_hasty: bool) -> None:
    """Where no time of a step is agreed, what its node said that it took is, up to the wall limit of 600 s."""

    def slow() -> World:
        world = World(**SMALL, assurance=predicates.Assurance.FULL)
        world.step_ms = took_s * 1000 // 3
        return world

    def bend(said: predicates.Silence) -> predicates.Silence:
        deadline = world.time(instants.parse(said.asked_at) + given_s)
        return replace(said, taken_at=said.asked_at, deadline_at=deadline)

    world = slow()
    world.skips = {first_ranked(slow().play())}
    world.bend["silence"] = bend
    assert ("silence.hasty" in found(judged(world.play()))) is is_hasty


def test_an_open_question_may_not_be_closed_early() -> None:
    """A market that judges a liar `unverified` with auditors left to ask saves him; the ranks left are missed."""
    world = World(**SMALL, liars={"n1"})
    world.skips, world.says_silences = {"n0", "n2", "n3", "n4", "n5"}, False
    assert "audit.skipped" in found(judged(world.play()))


def test_a_prover_may_not_be_judged_unheard() -> None:
    """A market that calls a prover silent without its signed word denies it its pay; that is refused."""
    world = World(**SMALL, silent={"n2"})
    assert judged(world.play()).exit_code == 0
    mute = World(**SMALL, silent={"n2"})
    mute.bend["silence"] = lambda said: None if said.role is Role.PROVER else said
    assert found(judged(mute.play())) == {"audit.skipped"}


def test_a_canary_may_not_be_saved() -> None:
    """A market that does not ask the canary the beacon chose spares a lazy auditor; that is refused."""
    for seed in range(400):
        world = World(seed=seed).play()
        if world.canaries:
            break
    else:
        raise AssertionError("no canary in 400 jobs")
    sparing = World(seed=world.seed)
    sparing._canary = lambda selection, number, auditor: []  # type: ignore[method-assign]  # the dishonest step
    assert found(judged(sparing.play())) == {"audit.skipped"}


def test_a_canary_may_be_let_go_whose_auditor_was_convicted_meanwhile() -> None:
    """Whoever is asked a canary and convicted of another lie before answering is said to be silent; that is enough."""
    world = World(seed=112, rounds=1, false_accusers={"n4"})  # n4 is asked once more where it has not lied

    def let_go(selection: Selection, number: int, auditor: Node) -> list[Answer]:
        world.canaries.append((selection.task, auditor.name))
        world.say_silent(selection, Role.AUDITOR, auditor, number)
        return []

    world._canary = let_go  # type: ignore[method-assign]  # its lease ended with the conviction
    report = judged(world.play())
    assert [(task.rpartition("/r")[2], asked) for task, asked in world.canaries] == [("0/l2/a0", "n4")]
    assert [said.refuted for said in report.claims.convictions] == [(world.nodes["n4"].id,)]
    assert report.exit_code == 0, found(report)
