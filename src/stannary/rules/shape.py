"""The shape of a job: how many rounds and lanes it has, the steps of each task, and the agreed time of a step.

Rules (docs/receipt.md R7, R12.4):
- All of it follows from the signed spec. The market plans and holds escrow by it, a node computes by it, the verifier
  recomputes it: nobody is told.
- What differs between kinds of job is in rules/kinds.py.
- A round has `inner_steps` steps a lane (the last listed value repeats); a merge has one step for each contribution it
  admits, at most one a lane.
"""

from __future__ import annotations

from collections.abc import Iterator

from stannary.formats import beacon, ids
from stannary.formats.ids import JobId, TaskKind
from stannary.formats.jobspec import JobSpec
from stannary.formats.lean import dataclass
from stannary.rules import kinds
from stannary.rules.kinds import KindRules

SPARE_VALUES = 16  # beacon values beyond one a task, for what is done again
CHAIN_VALUES_PER_ROUND = 8  # a reveal costs one value: a few per round, and re-merges


@dataclass(frozen=True, slots=True)
class Shape:
    """One job's rounds, lanes and steps."""

    kind: KindRules
    num_rounds: int
    inner_steps: tuple[int, ...]  # of each round's lanes
    step_ms: int  # the reference time of one inner step: what is paid, where that is agreed
    num_lanes: int  # tasks beside one another
    wall_s: int  # the most any task may take
    is_agreed: bool = True  # whether the spec says how long a step takes; else it takes what was measured

    @property
    def num_units(self) -> int:
        """Tasks that limits reckon with: the lanes of each round and one more, its merge."""
        return self.num_rounds * (self.num_lanes + 1)

    @property
    def num_tasks(self) -> int:
        """Tasks that are to be done, if nothing is done twice."""
        return self.num_rounds * (self.num_lanes + (1 if self.kind.merge is not None else 0))

    def last_units(self, job: JobId) -> frozenset[str]:
        """Return the units behind which none follows, by name: the last merge, or all lanes where there is none."""
        last = self.num_rounds - 1
        if self.kind.merge is not None:
            return frozenset({ids.unit_of(ids.task_id(self.kind.merge, job, last, 0))})
        lanes = range(self.num_lanes)
        return frozenset(ids.unit_of(ids.task_id(self.kind.lane, job, last, lane)) for lane in lanes)

    def num_steps(self, kind: TaskKind, round_index: int) -> int:
        """Return the inner steps of a round's tasks (merges: at most, all lanes admitted)."""
        return self.num_lanes if kind is self.kind.merge else num_steps(self.inner_steps, round_index)

    def first_step(self, round_index: int) -> int:
        """Return the global index of a round's first inner step."""
        return first_step(self.inner_steps, round_index)

    def all_steps(self) -> Iterator[int]:
        """Yield the steps of each task that is to be done, if nothing is done twice."""
        for index in range(self.num_rounds):
            yield from [self.num_steps(self.kind.lane, index)] * self.num_lanes
            if self.kind.merge is not None:
                yield self.num_steps(self.kind.merge, index)

    def agreed_s(self, num_steps: int) -> float:
        """Return the time agreed for a task: no party of an audit is given less."""
        return num_steps * self.step_ms / 1000

    @property
    def longest_steps(self) -> int:
        """The most steps of any task."""
        merging = self.num_lanes if self.kind.merge is not None else 0
        return max(merging, *self.inner_steps[: self.num_rounds])

    def step_s(self, measured_s: float) -> float:
        """Return the time to expect of a step: what was measured, up to the job's wall limit.

        It is at least what is agreed. Where nothing is, it is all that a task may take until something was measured.
        """
        most_s = self.wall_s / self.longest_steps
        if self.is_agreed:
            return max(self.step_ms / 1000, min(measured_s, most_s))
        return min(measured_s, most_s) if measured_s > 0 else most_s

    @property
    def least_beacon_values(self) -> int:
        """The shortest chain of beacon values a job is taken with: one for each task may be asked for."""
        return min(self.num_units + SPARE_VALUES, beacon.LENGTH)

    @property
    def beacon_values(self) -> int:
        """The length of the chain its buyer makes."""
        return max(beacon.LENGTH, CHAIN_VALUES_PER_ROUND * self.num_rounds)


def shape_of(spec: JobSpec) -> Shape:
    """Return the shape of a job."""
    kind = kinds.of(spec)
    num_rounds, inner_steps, agreed_ms = kind.schedule(spec)
    step_ms = kinds.LEAST_STEP_MS if agreed_ms is None else agreed_ms
    return Shape(kind, num_rounds, inner_steps, step_ms, spec.num_nodes, spec.resources.wall_s, agreed_ms is not None)


def num_steps(inner_steps: tuple[int, ...], round_index: int) -> int:
    """Return the steps of a lane in a round; the last listed value repeats."""
    return inner_steps[min(round_index, len(inner_steps) - 1)]


def first_step(inner_steps: tuple[int, ...], round_index: int) -> int:
    """Return the global index of a round's first inner step."""
    listed = inner_steps[:round_index]
    return sum(listed) + (round_index - len(listed)) * inner_steps[-1]
