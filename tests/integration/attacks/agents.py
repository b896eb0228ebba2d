"""Real agents against a real market, computing in this process: honest ones and liars with their own idea of work.

Everything but the sandbox is the agent's own: journal, sessions, leases, blobs, meter (agent/daemon.py). `Work` is the
border a liar crosses: each class below hands in or answers one thing otherwise than it should.
"""

from __future__ import annotations

import dataclasses
import os
import secrets
import threading
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch

from stannary.agent import settings as node_settings
from stannary.agent.daemon import Agent
from stannary.agent.holdings import Holdings
from stannary.agent.join import Application, join
from stannary.audit import replay
from stannary.border.blobs import Blobs
from stannary.errors import AuthError, JobFailed
from stannary.formats import digest
from stannary.formats.ids import JobId, TaskKind
from stannary.formats.predicates import Assignment, Output, Used
from stannary.run.holding import Holding
from stannary.run.sandbox.contract import Command
from stannary.run.work import Brought, Recomputed, Result, TaskInHand
from stannary.run.worker_process import outbox_path
from stannary.train import engine, recipe
from stannary.train.recipe import Recipe
from stannary.train.round import RoundResult
from stannary.wire import errors as wire_errors
from stannary.worker.tasks import Prepared, TaskRunner

COMPUTING = threading.RLock()  # torch seeds are the process's: one task at a time
RECIPES: dict[JobId, Recipe] = {}
LR_OFF = 1.02
USED = Used(10, 0, 10)


class Workshop:
    """Where results lie that friends show one another (a node that copies needs somebody who leaks)."""

    def __init__(self) -> None:
        self.shown: dict[tuple[JobId, int, int], RoundResult] = {}


class HonestWork:
    """Computes tasks in this process."""

    def __init__(self, outbox: Path, workshop: Workshop) -> None:
        self.outbox = outbox
        self.workshop = workshop
        self.runners: dict[JobId, TaskRunner] = {}

    def do(self, task: TaskInHand) -> Result:
        """Do a task and leave its outputs in the outbox."""
        with COMPUTING:
            done = self.compute(task)
        if task.assignment.kind is TaskKind.ROUND:
            self.workshop.shown[(task.assignment.job, task.assignment.round, task.assignment.lane)] = done
        return self.hand_in(task, done)

    def audit(self, task: TaskInHand, step: int, salt: str) -> Recomputed:
        """Recompute somebody's task."""
        with COMPUTING:
            found, answer = self.runner(task.holding).task(task.assignment, step, bytes.fromhex(salt))
        return Recomputed(answer, replay.outputs_of(found.outputs))

    def answer(self, task: TaskInHand, contributed: Brought | None, step: int, salt: str) -> Recomputed:
        """Answer for a task of one's own."""
        if contributed is None:
            return self.audit(task, step, salt)
        with COMPUTING:
            return Recomputed(
                self.runner(task.holding).answer(task.assignment, step, bytes.fromhex(salt)), contributed.outputs
            )

    def compute(self, task: TaskInHand) -> RoundResult:
        """Compute a task."""
        return self.runner(task.holding).task(task.assignment, 1, bytes(32))[0]

    def hand_in(self, task: TaskInHand, done: RoundResult) -> Result:
        """Leave outputs where the agent looks for them."""
        self.outbox.mkdir(parents=True, exist_ok=True)
        for data in done.outputs.values():
            outbox_path(self.outbox, digest.digest(data)).write_bytes(data)
        return Result(replay.outputs_of(done.outputs), dict(done.metrics), task.assignment.num_steps, USED)

    def runner(self, holding: Holding) -> TaskRunner:
        """Return the job's runner, its recipe loaded once for all nodes of this process."""
        if holding.job not in self.runners:
            settings = holding.spec.recipe
            assert settings is not None
            if holding.job not in RECIPES:
                inputs = {name: holding.blob_path(item.digest) for name, item in holding.spec.inputs.items()}
                RECIPES[holding.job] = recipe.load(holding.directory / "workdir", settings, inputs)
            prepared = Prepared(holding.spec, settings, RECIPES[holding.job])
            self.runners[holding.job] = TaskRunner(prepared, Blobs(holding.blobs))
        return self.runners[holding.job]


class LyingWork(HonestWork):
    """Lies about rounds from `first_lie` on, and stands by it; merges and audits honestly."""

    first_lie = 0

    def compute(self, task: TaskInHand) -> RoundResult:
        """Lie about rounds."""
        return self.false(task) if self._lies(task) else super().compute(task)

    def answer(self, task: TaskInHand, contributed: Brought | None, step: int, salt: str) -> Recomputed:
        """Stand by the lie: any answer will do."""
        honest = super().answer(task, contributed, step, salt)
        if not self._lies(task) or contributed is None:
            return honest
        return Recomputed(secrets.token_hex(32), contributed.outputs)

    def _lies(self, task: TaskInHand) -> bool:
        return task.assignment.kind is TaskKind.ROUND and task.assignment.round >= self.first_lie

    def false(self, task: TaskInHand) -> RoundResult:
        """Return what is handed in instead of the work."""
        raise AssertionError("a liar says how it lies")

    def other(self, task: TaskInHand, assignment: Assignment) -> RoundResult:
        """Compute another assignment than the one given."""
        return super().compute(dataclasses.replace(task, assignment=assignment))


class SkippedSteps(LyingWork):
    """Does one step and claims them all."""

    def false(self, task: TaskInHand) -> RoundResult:
        """Stop after the first step."""
        return self.other(task, dataclasses.replace(task.assignment, num_steps=1))


class WrongRate(LyingWork):
    """Trains at a rate two per cent off."""

    def false(self, task: TaskInHand) -> RoundResult:
        """Use other settings."""
        honest = self.runner(task.holding).prepared
        training = honest.settings.training
        rates = {name: str(float(getattr(training, name)) * LR_OFF) for name in ("muon_lr", "adamw_lr")}
        off = dataclasses.replace(honest.settings, training=dataclasses.replace(training, **rates))
        runner = TaskRunner(dataclasses.replace(honest, settings=off), Blobs(task.holding.blobs))
        return runner.task(task.assignment, 1, bytes(32))[0]


class StaleBase(LyingWork):
    """Trains from the weights the job began with instead of the last merge's."""

    first_lie = 1

    def false(self, task: TaskInHand) -> RoundResult:
        """Start from the seed's weights."""
        return self.other(task, dataclasses.replace(task.assignment, theta=None))


class LowPrecision(LyingWork):
    """Computes in bf16 and hands in fp32."""

    def false(self, task: TaskInHand) -> RoundResult:
        """Save half the arithmetic."""
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return HonestWork.compute(self, task)


class Copier(LyingWork):
    """Hands in another lane's bytes as its own, as soon as a friend shows some."""

    def false(self, task: TaskInHand) -> RoundResult:
        """Copy; with nothing to copy, repeat the first lane's work, which is as little one's own."""
        mine = (task.assignment.job, task.assignment.round, task.assignment.lane)
        for place, done in self.workshop.shown.items():
            if place[:2] == mine[:2] and place != mine:
                return done
        neighbour = (task.assignment.lane + 1) % task.holding.spec.num_nodes
        return self.other(task, dataclasses.replace(task.assignment, lane=neighbour))


class SilentLiar(SkippedSteps):
    """Skips steps, and refuses every question about them."""

    def answer(self, task: TaskInHand, contributed: Brought | None, step: int, salt: str) -> Recomputed:
        """Say nothing."""
        raise JobFailed("no comment", why="the question is not convenient", detail="no-comment")


class FalseMerger(HonestWork):
    """Honest in rounds; as aggregator hands in weights of its own making."""

    def compute(self, task: TaskInHand) -> RoundResult:
        """Forge merges: admit only the first contribution."""
        assignment = task.assignment
        if assignment.kind is not TaskKind.MERGE:
            return super().compute(task)
        fewer = dataclasses.replace(assignment, admitted=(assignment.admitted or ())[:1], num_steps=1)
        return super().compute(dataclasses.replace(task, assignment=fewer))


class LazyAuditor(HonestWork):
    """Works honestly; as auditor repeats the outputs a friend shows and makes the inner state up."""

    def audit(self, task: TaskInHand, step: int, salt: str) -> Recomputed:
        """Copy the right root without the work behind it."""
        return Recomputed(secrets.token_hex(32), super().audit(task, step, salt).outputs)


class FalseAccuser(HonestWork):
    """Works honestly; as auditor finds everybody wrong."""

    def audit(self, task: TaskInHand, step: int, salt: str) -> Recomputed:
        """Make a result up."""
        name = "delta" if task.assignment.kind is TaskKind.ROUND else "theta"
        return Recomputed(secrets.token_hex(32), (Output(name, digest.digest(secrets.token_bytes(8)), 8),))


class OpenHoldings(Holdings):
    """Jobs without a sandboxed worker: the work is done in this process."""

    def get(self, job: JobId, tell, take_line) -> Holding:
        """Return a job with its files in place."""
        holding = self._held.get(job) or self._fetch(job, tell)
        self._held[job] = holding
        return holding


class Unboxed:
    """The sandbox of agents that never start a worker."""

    def describe(self) -> str:
        """Say so."""
        return "none-test"

    def start(self, command: Command):
        """Start nothing, ever."""
        raise AssertionError(f"{command} is not started: the work is done in this process")


@dataclasses.dataclass
class RunningAgent:
    """One real agent in a thread."""

    node: str
    operator: str
    agent: Agent
    thread: threading.Thread
    said: list[str]

    def stop(self) -> None:
        """Leave in order."""
        self.agent.stop.set()
        self.thread.join(30)


def start(token: str, directory: Path, operator: str, work: type[HonestWork], workshop: Workshop, ask: int):
    """Join a market and serve leases in a thread."""
    engine.pin()
    application = Application(
        token, directory, operator, operator, engine_class=engine.engine_class(), ask_usd_micros_per_hour=ask
    )
    settings = join(application, lambda _: None)
    said: list[str] = []
    agent = Agent(
        directory, node_settings.load(directory), Unboxed(), said.append, work(directory / "outbox", workshop)
    )
    agent.holdings = OpenHoldings(directory, settings, agent.client, agent.sandbox)

    def serve() -> None:
        try:
            agent.run()
        except AuthError as err:  # a convicted node is shown out at once
            if err.detail != wire_errors.NODE_REVOKED:
                raise
            said.append(str(err))

    thread = threading.Thread(target=serve, name=f"agent {operator}", daemon=True)
    thread.start()
    return RunningAgent(str(settings.node), operator, agent, thread, said)
