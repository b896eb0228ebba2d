"""The course of a job: what a market or a node may not state about placement, tasks, merges, draws and order."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from stannary.formats.digest import digest, from_raw
from stannary.formats.ids import NodeId, TaskId, TaskKind
from stannary.formats.predicates import Candidate, Role, Verdict
from stannary.formats.receipt import EarlierCheckpoint
from stannary.verify.receipt import verify_receipt
from stannary.verify.report import Severity

from .world import START, World

STRANGER = NodeId("n-ffffffffffff")
DAY_S = 86_400


def judged(world: World) -> set[str]:
    """Return the findings that refute a world's receipt."""
    report = verify_receipt(world.receipt(), world.trust(), world.now)
    return {item.id for item in report.findings if item.severity is Severity.REFUTED}


def bent(kind: str, change: Callable[[Any], Any], **options: Any) -> World:
    """Play a world in which every statement of a kind is changed before it is signed."""
    world = World(**options)
    world.bend[kind] = change
    return world.play()


def merging(change: Callable[[Any], dict[str, Any]], round_index: int = 0) -> Callable[[Any], Any]:
    """Change the assignment of one merge."""

    def bend(item: Any) -> Any:
        if item.kind is not TaskKind.MERGE or item.round != round_index:
            return item
        return replace(item, **change(item))

    return bend


@pytest.mark.parametrize(
    ("change", "finding"),
    [
        (lambda item: {"admitted": (item.admitted[0], *item.admitted)}, "merge.lane-twice"),
        (lambda item: {"admitted": (replace(item.admitted[0], weight_ppm=0), *item.admitted[1:])}, "merge.admitted"),
        (
            lambda item: {"admitted": (replace(item.admitted[0], task=TaskId(f"{item.job}/r0/l0/a7")),)},
            "merge.admitted",
        ),
        (lambda item: {"admitted": ()}, "merge.order"),
    ],
    ids=["a lane twice", "no weight", "unknown work", "nothing"],
)
def test_a_merge_takes_each_lane_of_its_round_once(change: Callable[[Any], dict[str, Any]], finding: str) -> None:
    """What a merge admits is work in evidence, one contribution a lane, each with a weight."""
    assert finding in judged(bent("assignment", merging(change), rounds=1))


def test_a_merge_continues_the_one_before() -> None:
    """Weights of nobody's merge are no base for the next round."""
    change = merging(lambda _: {"theta": digest(b"elsewhere")}, round_index=1)
    assert "merge.base" in judged(bent("assignment", change))


def test_a_merge_waits_for_the_audits_of_the_round_before() -> None:
    """W = 1: a merge assigned while the round before it is still being audited is refused."""
    world = World()
    world.open()
    for round_index in range(2):
        world.run_lanes(round_index)
        world.merge(round_index)
    world.audit()
    world.close()
    assert "merge.window" in judged(world)


def costly(item: Any) -> Any:
    return replace(item, work_usd_micros=900_000, audit_usd_micros=900_000, escrow_usd_micros=1_800_000)


def test_a_placement_stays_within_the_budget() -> None:
    """More escrow than the buyer's budget is refused, however it adds up."""
    assert "placement.budget" in judged(bent("placement", costly, rounds=1))


def test_a_placement_chooses_nodes_that_have_joined() -> None:
    """A node without a credential cannot be chosen."""

    def bend(item: Any) -> Any:
        return replace(item, chosen=(STRANGER, *item.chosen[1:]))

    assert "credential.missing" in judged(bent("placement", bend, rounds=1))


def late(world: World, kind: str, predicate: Any, key: Any) -> World:
    """Have the market log one more statement just before the receipt."""

    def bend(said: Any) -> Any:
        leaf = from_raw(world.log(kind, predicate, key).leaf())
        return replace(said, evidence=(*said.evidence, leaf))

    world.bend["receipt"] = bend
    return world


def test_a_job_is_placed_once() -> None:
    """A second placement could name another price."""
    world = World(rounds=1)
    placements: list[Any] = []
    world.bend["placement"] = lambda item: placements.append(item) or item
    world.play()
    assert "placement.twice" in judged(late(world, "placement", placements[0], world.market_key))


def test_work_is_not_dated_before_the_log_that_led_to_it() -> None:
    """A node that dates its merge days before the checkpoint it follows is refused."""

    def bend(item: Any) -> Any:
        return replace(item, finished_at=world.time(START - 3 * DAY_S)) if "/merge/" in item.task else item

    world = World(rounds=1)
    world.bend["contribution"] = bend
    assert "time.past" in judged(world.play())


# --- draws and audits ---


def test_a_chain_reveals_no_more_values_than_it_has() -> None:
    """A buyer who signed for one value cannot be drawn by a second."""
    assert "reveal.length" in judged(bent("job", lambda item: replace(item, beacon_length=1), rounds=1))


def test_what_may_be_drawn_is_listed_in_log_order() -> None:
    """Another order of the same tasks would be another draw."""
    change = bent("draw", lambda item: replace(item, drawable=tuple(reversed(item.drawable))), rounds=1)
    assert "draw.drawable" in judged(change)


def test_a_candidate_is_a_node_with_a_credential() -> None:
    """A market may not rank auditors whom it has made up."""

    def bend(item: Any) -> Any:
        invented = Candidate(STRANGER, "nobody", item.candidates[0].engine_class)
        return replace(item, candidates=(*item.candidates, invented))

    world = World(rounds=1)
    ranked = sorted(world.nodes.values(), key=lambda node: node.id)
    world.ranked_instead = tuple(Candidate(node.id, node.operator, node.engine_class) for node in ranked)
    world.bend["candidates"] = bend
    assert "candidates.unknown" in judged(world.play())


def test_a_prover_answers_once() -> None:
    """Two answers of one prover to one task: the market may not choose the better one."""
    world = World(rounds=1)
    answers: list[Any] = []
    world.bend["answer"] = lambda item: answers.append(item) or item
    world.play()
    first = next(item for item in answers if item.role is Role.PROVER)
    node = world._by_id(first.node)
    other = next(item for item in answers if item.task == first.task and item.role is Role.AUDITOR)
    assert "audit.prover" in judged(late(world, "answer", replace(first, audit=f"{first.task}/q{'0' * 16}"), node.key))
    assert other.node != first.node


# --- the receipt and the log around it ---


def test_a_result_that_is_not_whole_is_no_success() -> None:
    """A job whose last round was never merged did not succeed, whatever its market says."""
    world = World()
    world.open()
    world.run_lanes(0)
    world.audit()
    world.merge(0)
    world.audit()
    world.close()
    world.bend["receipt"] = lambda said: replace(said, status="succeeded")
    assert "receipt.status" in judged_as(world, status="failed", reason="round")


def judged_as(world: World, **ending: str) -> set[str]:
    report = verify_receipt(world.receipt(**ending), world.trust(), world.now)
    return {item.id for item in report.findings}


def test_a_receipt_that_convicts_its_own_result_is_refused() -> None:
    """The verdict of a result is never `refuted`: convicted work is not in it."""
    world = World(rounds=1).play()
    world.bend["receipt"] = lambda said: replace(said, verdict=Verdict.REFUTED)
    assert "receipt.verdict" in judged(world)


def test_the_final_checkpoint_is_the_largest() -> None:
    """An earlier checkpoint of the same size is none."""
    world = World(rounds=1).play()

    def bend(file: Any) -> Any:
        _, separator, checkpoint = file.proof.partition("\n\n")
        assert separator
        return replace(file, checkpoints=(*file.checkpoints, EarlierCheckpoint(checkpoint, ())))

    world.bend_file = bend
    assert "checkpoint.order" in judged(world)


def test_a_witness_does_not_go_back_in_time() -> None:
    """A final checkpoint seen before an earlier one is refused."""
    world = World(rounds=1).play()

    def bend(said: Any) -> Any:
        world.now -= 5_000
        return said

    world.bend["receipt"] = bend
    data = world.receipt()
    report = verify_receipt(data, world.trust(), world.now + 10_000)
    assert "checkpoint.time" in {item.id for item in report.findings}


def test_nothing_is_evidence_that_was_logged_after_the_receipt() -> None:
    """A receipt speaks of what was in the log when it was made."""
    world = World(rounds=1).play()
    checkpoint, last = world.checkpoint, world.case().readings[-1].predicate

    def checkpoint_after_one_more() -> str:
        world.checkpoint = checkpoint  # type: ignore[method-assign]
        world.log("reading", last, world._by_id(last.node).key)
        return checkpoint()

    world.checkpoint = checkpoint_after_one_more  # type: ignore[method-assign]
    assert "receipt.order" in judged(world)
