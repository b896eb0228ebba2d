"""Honest nodes whose machines compute differently: four kernel classes, none convicted, their distances tolerable.

Each node is a process of its own whose environment makes torch, MKL and oneDNN take other code paths: prover and
auditors of one class share no memory and no cache.
"""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest
from tests.simulator import fleet, kernel
from tests.simulator.day import Day
from tests.simulator.fleet import SimulatedNode
from tests.simulator.parties import Sight
from tests.simulator.test_day import OPERATORS, proven

from stannary.audit import compare
from stannary.audit.compare import Agreement
from stannary.formats.ids import TaskKind
from stannary.train import checkpoint

pytestmark = pytest.mark.slow

CLASSES = {
    "aten-avx2": {"ATEN_CPU_CAPABILITY": "avx2"},
    "aten-default": {"ATEN_CPU_CAPABILITY": "default"},
    "mkl-compatible": {"MKL_CBWR": "COMPATIBLE"},
    "onednn-avx2": {"ONEDNN_MAX_CPU_ISA": "AVX2"},
}
MACHINES = 2  # processes of a class; its lanes and auditors are spread over them
ROUNDS, LANES = 5, 16  # 80 rounds a class, 320 in all
JOB = kernel.settings(ROUNDS, LANES)


@pytest.fixture(scope="module")
def machines() -> Iterator[dict[str, list[kernel.ForeignKernel]]]:
    """Start every machine at once."""
    started = {
        name: [kernel.ForeignKernel(JOB, variables) for _ in range(MACHINES)] for name, variables in CLASSES.items()
    }
    try:
        yield {name: [machine.wait() for machine in held] for name, held in started.items()}
    finally:
        for held in started.values():
            for machine in held:
                machine.close()


def spread(machines: list[kernel.ForeignKernel]) -> list[SimulatedNode]:
    """Return nodes of one class; neighbours, and so most provers and auditors, compute on different machines."""
    return [
        SimulatedNode(
            f"n{at}",
            OPERATORS[at % len(OPERATORS)],
            engine_class=machines[0].engine_class,
            ask=100_000,
            kernel=machines[at % MACHINES],
        )
        for at in range(LANES + 1)
    ]


@pytest.fixture(scope="module")
def days(machines: dict[str, list[kernel.ForeignKernel]]) -> dict[str, Day]:
    """Live one fully audited day in each class."""
    return {name: Day(seed=8, fleet=spread(held), settings=JOB).live() for name, held in machines.items()}


def test_no_honest_node_of_any_class_is_convicted(days: dict[str, Day]) -> None:
    """Over more than three hundred rounds in four classes every audit agrees bit for bit, and receipts verify."""
    audited = 0
    for lived in days.values():
        assert lived.convicted == set()
        kinds = {task: lived.assignments[task].kind for task in lived.verdicts}
        assert set(lived.verdicts.values()) == {"verified"}
        audited += sum(kind is TaskKind.ROUND for kind in kinds.values())
        proven(lived)
    assert audited >= 300
    assert len({lived.node_of(0).engine_class for lived in days.values()}) == len(CLASSES)


def test_distance_between_classes_is_within_tolerance(days: dict[str, Day]) -> None:
    """One round of every class compared across classes agrees within the measured tolerance; a cheat does not."""
    results = {name: _first_delta(lived) for name, lived in days.items()}
    assert len({checkpoint.encode(delta) for delta in results.values()}) > 1, "all classes compute the same bits"
    job = kernel.Kernel(JOB, kernel.Symbols())
    assignment = days["aten-avx2"].assignments[_first_task(days["aten-avx2"])]
    liar = fleet.SkippedSteps("liar", "mica", kernel=job)
    nothing = Sight({}.__getitem__, lambda _: None, lambda _: None, random.Random(0))
    cheat = checkpoint.decode(liar.false(assignment, nothing).outputs["delta"]).tensors
    for first, left in results.items():
        for second, right in results.items():
            pair = (days[first].node_of(0).engine_class, days[second].node_of(0).engine_class)
            tolerance = compare.find_tolerance(pair, JOB.training.optimizer, assignment.num_steps)
            assert tolerance is not None
            found = compare.compare(left, right, same_class=first == second, tolerance=tolerance)
            assert found in {Agreement.EQUAL, Agreement.WITHIN}, (first, second)
            assert first != second or found is Agreement.EQUAL
        found = compare.compare(cheat, left, same_class=False, tolerance=tolerance)
        assert found is Agreement.DIFFERENT


def _first_task(lived: Day):
    return next(task for task, item in lived.assignments.items() if (item.kind, item.lane) == (TaskKind.ROUND, 0))


def _first_delta(lived: Day):
    outputs = lived.contributions[_first_task(lived)][1].outputs
    return checkpoint.decode(lived.blobs[outputs[0].digest]).tensors
