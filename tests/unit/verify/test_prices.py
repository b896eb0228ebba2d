"""Pay follows measured use: what each side of a unit is paid in a job of rules 3, said by both verifiers."""

from __future__ import annotations

from typing import Any

import pytest
from tests.second_verifier.comparison import verify_both
from tests.unit.verify.test_words import LOW_PPM, World

from stannary.formats import ids
from stannary.formats.jobspec import JobKind, Verification
from stannary.formats.predicates import Assurance, SettlementLine
from stannary.verify.report import Report

STEP_MS = 4_000
ASK = 360_000  # of every node here: 100 micro-dollars a second


def played(meters: dict[str, int] | None = None, **changes: Any) -> World:
    """Play a job whose steps take four seconds; `meters` say which nodes' readings are how many per cent of that."""
    world = World(**{"is_ours": False, "assurance": Assurance.FULL, "rounds": 1, "lanes": 3, **changes})
    world.step_ms = STEP_MS
    for name, percent in (meters or {}).items():
        world.nodes[name].meter_percent = percent
    world.play()
    return world


def judged(world: World) -> Report:
    report = verify_both(world.receipt(), world.trust(), world.now)
    assert not [item for item in report.findings if item.id.startswith(("receipt.", "commitment.", "answer."))]
    return report


def lines(world: World) -> list[SettlementLine]:
    report = judged(world)
    assert report.claims is not None, report.findings
    return list(report.claims.receipt.settlement)


def test_both_sides_are_paid_for_what_the_unit_took() -> None:
    """Three steps of four seconds at 100 micro-dollars a second: to each who did the round, and who recomputed it."""
    made = lines(played())
    rounds = [line for line in made if "/l" in line.task]
    assert {line.usd_micros for line in rounds} == {1_200}
    assert {line.reason for line in rounds} == {"work", "audit"}
    assert not [item.id for item in judged(played()).findings if item.id == "use.apart"]


@pytest.mark.parametrize("inflator", ["n0", "n1", "n2", "n3", "n4", "n5"])
def test_an_inflated_meter_gains_nothing(inflator: str) -> None:
    """Whoever says twice what a unit took, prover or auditor, is paid as for the truth, and so are the others."""
    inflated = played({inflator: 200})
    for line in lines(inflated):
        if line.account.startswith("operator:") and "/l" in line.task:
            assert line.usd_micros == 1_200
    worked = {item.node for _, item in inflated.contributions.values()}
    told = {item.id for item in judged(inflated).findings}
    assert "use.apart" in told or inflated.nodes[inflator].id not in worked


def test_a_low_meter_costs_both_sides() -> None:
    """The lower reading counts: whoever says half is paid half, and so is who recomputed that unit."""
    halved = [line.usd_micros for line in lines(played({"n1": 50})) if "/r0/l0/" in line.task]
    assert halved == [600, 600]


def test_what_was_not_recomputed_is_paid_up_to_the_audited_median() -> None:
    """Few of the units are drawn, one of each operator; an inflator is paid for none of his as he says."""
    changes: dict[str, Any] = {"assurance": Assurance.SAMPLED, "audit_ppm": LOW_PPM, "rounds": 4, "lanes": 2}
    inflated = played({"n1": 120}, is_ours=True, **changes)
    work = {line.task: line.usd_micros for line in lines(inflated) if line.reason in ("work", "merge")}
    assert len(inflated.verdicts) < len(work) == 12
    for task, usd_micros in work.items():
        assert usd_micros == 400 * inflated.assignments[ids.parse_task(task)].num_steps


def test_what_stands_out_is_always_recomputed() -> None:
    """In jobs that draw next to nothing by chance, every unit said to have taken twice as long is drawn, and cut."""
    changes: dict[str, Any] = {"assurance": Assurance.SAMPLED, "audit_ppm": LOW_PPM, "rounds": 3, "lanes": 3}
    world = played({"n1": 200}, is_ours=True, **changes)
    own = {
        task for task, (_, made) in world.contributions.items() if made.node == world.nodes["n1"].id and "/l" in task
    }
    assert len(own) == 3
    assert own <= world.verdicts.keys() and len(world.verdicts) < len(world.contributions)
    assert "use.apart" in {item.id for item in judged(world).findings}


def test_unasked_work_is_paid_its_own_reading() -> None:
    """Without a second side the node's own word counts, whatever another lane took."""
    changes: dict[str, Any] = {"kind": JobKind.COMMAND, "lanes": 2, "verify": Verification.NONE, "audit_ppm": 0}
    made = lines(played({"n1": 200, "n2": 2_000}, **changes))
    assert [line.usd_micros for line in made if line.reason == "work"] == [800, 8_000]
