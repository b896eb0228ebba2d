"""What a node does with a task: the honest way, in a sandboxed worker.

`Work` is the border between the agent (sessions, leases, journal, money) and the computing. Whoever
wants a node that behaves otherwise passes another `Work`; the agent neither knows nor asks.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from stannary.errors import FormatError, JobFailed
from stannary.formats import bounds, commitments, ended, jobspec, predicates, record
from stannary.formats.canonical import Json
from stannary.formats.digest import PREFIX, Digest
from stannary.formats.ids import TaskId
from stannary.formats.predicates import Assignment, Output, Used
from stannary.rules import ending, kinds
from stannary.run.holding import Holding, worker_of
from stannary.run.worker_process import NOT_MEASURED, Reply, TakeProgress

SALT_BYTES = 32  # as an audit's
MAX_LEFT_OUT_LINES = 8  # a worker may report anything; the log says so much of it


@dataclass(frozen=True, slots=True)
class TaskInHand:
    """A task with its job, inputs in place."""

    holding: Holding
    assignment: Assignment
    progress: TakeProgress
    unfetched: Mapping[TaskId, Output] = field(default_factory=dict)  # contributions of a size no delta has

    @property
    def wall_s(self) -> float:
        """How long the task may take: what the job asked for. A step takes what it takes (rules/pace.py)."""
        return float(self.holding.spec.resources.wall_s)

    @property
    def is_program(self) -> bool:
        """Whether the worker runs a program and ends with it; else it has loaded a recipe, and remembers states."""
        return not kinds.of(self.holding.spec).loads_recipe


@dataclass(frozen=True, slots=True)
class Result:
    """What a task brought: outputs in the outbox, and measures."""

    outputs: tuple[Output, ...]
    metrics: dict[str, str]
    num_steps: int
    used: Used  # what the sandbox measured
    left_out: tuple[str, ...] = ()  # what the worker reported and the node may not sign, a line each
    ended: str | None = None  # how its program ended, where that is part of the result

    @property
    def root(self) -> Digest:
        """Return the root of the result."""
        return predicates.result_root(self.outputs, self.ended)


@dataclass(frozen=True, slots=True)
class Brought:
    """What a task of this node's own brought, as its journal has it."""

    outputs: tuple[Output, ...]
    ended: str | None = None


@dataclass(frozen=True, slots=True)
class Recomputed:
    """An answer to an audit question."""

    answer: str
    outputs: tuple[Output, ...]
    used: Used = NOT_MEASURED  # of the recomputation; an answer from memory takes nothing
    ended: str | None = None

    @property
    def root(self) -> Digest:
        """Return the root of the result that was found."""
        return predicates.result_root(self.outputs, self.ended)


class Work(Protocol):
    """Doing tasks and answering for them."""

    def do(self, task: TaskInHand) -> Result:
        """Do a task and leave its outputs in the outbox."""
        ...

    def audit(self, task: TaskInHand, step: int, salt: str) -> Recomputed:
        """Recompute somebody's task without knowing what he found."""
        ...

    def answer(self, task: TaskInHand, contributed: Brought | None, step: int, salt: str) -> Recomputed:
        """Answer for a task of this node's own; `contributed` is None where the journal lost it."""
        ...


class SandboxedWork:
    """The honest way."""

    def do(self, task: TaskInHand) -> Result:
        """Ask the worker to run the task."""
        reply = self.compute(task)
        num_steps = reply.header.get("num_steps", task.assignment.num_steps)
        if type(num_steps) is not int:
            raise FormatError("the worker reports no number of steps")
        metrics, left_out = _metrics(reply.header.get("metrics"))
        return Result(reply.outputs, metrics, num_steps, reply.used, left_out, _ended(task, reply))

    def audit(self, task: TaskInHand, step: int, salt: str) -> Recomputed:
        """Ask the worker to recompute the task; only digests and the answer leave it."""
        if task.is_program:
            done = self.compute(task)
            return _result_finding(done.outputs, _ended(task, done), salt, done.used)
        reply = self._run(task, step, salt, is_kept=False)
        how = _ended(task, reply)
        if how is not None:
            return _result_finding((), how, salt, reply.used)
        worker_of(task.holding).request({"op": "forget", **_named(task)}, task.wall_s, task.progress)
        return Recomputed(_hex(reply.header), reply.outputs, reply.used)

    def answer(self, task: TaskInHand, contributed: Brought | None, step: int, salt: str) -> Recomputed:
        """Ask the worker for its state; where the journal lost the result, recompute: it is a pure function."""
        if contributed is None:
            return self.audit(task, step, salt)
        if task.is_program or contributed.ended is not None:
            return _result_finding(contributed.outputs, contributed.ended, salt)
        return Recomputed(_hex(self._ask(task, "answer", step, salt).header), contributed.outputs)

    def compute(self, task: TaskInHand) -> Reply:
        """Run the task in the worker, with a question like an auditor's: by it no recipe tells work from an audit."""
        holding = task.holding
        if not task.is_program:
            step = 1 + secrets.randbelow(task.assignment.num_steps)
            return self._run(task, step, secrets.token_hex(SALT_BYTES))
        inputs: dict[str, Json] = {name: item.digest.removeprefix(PREFIX) for name, item in holding.spec.inputs.items()}
        rank = task.assignment.lane
        request: dict[str, Json] = {
            "op": "command",
            "spec": jobspec.to_canonical(holding.spec),
            "inputs": inputs,
            "rank": rank,
            "states_ending": ending.is_stated(holding.spec, task.assignment.kind),
        }
        try:
            worker = worker_of(holding)
            run = worker.run_program if request["states_ending"] else worker.request
            return run(request, task.wall_s, task.progress)
        finally:
            holding.end_worker()  # a worker of a command remembers nothing, and what it started must end with it

    def _run(self, task: TaskInHand, step: int, salt: str, *, is_kept: bool = True) -> Reply:
        """Have a recipe's task done; a round may break off, and its worker ends with it."""
        holding = task.holding
        if not ending.may_break_off(holding.spec, task.assignment.kind):
            if holding.broken_off is not None:
                why = ended.words(holding.broken_off.ended)
                raise JobFailed("the recipe breaks off when it is loaded", why=why, detail="recipe-error")
            return self._ask(task, "task", step, salt, is_kept=is_kept)
        if holding.broken_off is not None:
            return Reply({"ended": holding.broken_off.ended}, (), holding.broken_off.used)
        request: dict[str, Json] = {"op": "task", **_named(task), "step": step, "salt": salt}
        request["states_ending"] = ending.raises_itself(holding.spec)
        reply = worker_of(holding).run_recipe(request, task.wall_s, task.progress, is_kept=is_kept)
        if "ended" in reply.header:
            holding.end_worker()
        return reply

    def _ask(self, task: TaskInHand, operation: str, step: int, salt: str, *, is_kept: bool = True) -> Reply:
        request: dict[str, Json] = {"op": operation, **_named(task), "step": step, "salt": salt}
        return worker_of(task.holding).request(request, task.wall_s, task.progress, is_kept=is_kept)


def _named(task: TaskInHand) -> dict[str, Json]:
    unfetched: dict[str, Json] = {name: record.to_json(item) for name, item in task.unfetched.items()}
    return {"assignment": record.to_json(task.assignment), "unfetched": unfetched}


def _result_finding(outputs: tuple[Output, ...], ended: str | None, salt: str, used: Used = NOT_MEASURED) -> Recomputed:
    """Of a command, and of a recipe that broke off, the state is the result."""
    state = predicates.result_bytes(outputs, ended)
    return Recomputed(commitments.answer_hash(bytes.fromhex(salt), state), outputs, used, ended)


def _ended(task: TaskInHand, reply: Reply) -> str | None:
    """Return how a task's program ended, None where that is no part of its result."""
    spec, kind = task.holding.spec, task.assignment.kind
    if not ending.is_stated(spec, kind) and not ending.may_break_off(spec, kind):
        return None
    said = reply.header.get("ended")
    if said == ended.STOPPED:  # by us: the worker does not say so by itself
        return ended.STOPPED
    if not isinstance(said, str | None) or not ending.fits(spec, kind, said, len(reply.outputs)):
        raise FormatError("the worker does not say how the program ended", why=f"{said!r:.80}")
    return said


def _hex(header: dict[str, Json]) -> str:
    answer = header.get("answer")
    if not isinstance(answer, str) or len(answer) != 64 or any(char not in "0123456789abcdef" for char in answer):
        raise FormatError("the worker gives no answer", why=f"{answer!r:.80}")
    return answer


def _metrics(value: Json) -> tuple[dict[str, str], tuple[str, ...]]:
    """Return what may be signed, and a line for what may not: a loss that became `nan` must not cost the task."""
    kept, left_out = bounds.METRICS.split(value if isinstance(value, dict) else {})
    more = len(left_out) - MAX_LEFT_OUT_LINES
    said = left_out if more <= 0 else [*left_out[:MAX_LEFT_OUT_LINES], f"{more} more metrics are left out"]
    return kept, tuple(said)
