"""`python -m stannary.replay DIRECTORY [ROOT]`: compute units of a verified receipt again, in a sandbox.

    DIRECTORY/plan.json    verify/recomputation.py's ReplayPlan, written by whoever verified the receipt
    DIRECTORY/blobs/       what the units are computed from and what they gave, one file per digest
    ROOT                   the unpacked root file system the job names; without one: this machine's own system
    stdout                 one JSON line per event: {"say"}, {"task", "step", "steps"}, {"found": {...}}

Rules:
1. The recipe is the buyer's code, and whoever verifies need not trust the buyer: it runs in the same sandbox and worker
   as on a node, without a network. Where no sandbox works, nothing is run.
2. The worker sees the job's files and the inputs of this unit and of those before it in the log, never what the unit
   must give: a result cannot be copied from where it lies.
3. A unit of this machine's engine class and system (run/visible.py) must give the same bits, and a drawn one the logged
   answer. One of another system may; one of another class is compared by tolerance where bench measured one
   (audit/compare.py), or is `unchecked`.
4. What goes wrong on this machine (memory, time, a missing blob) is `unchecked`, never `different`.
"""

from __future__ import annotations

import ctypes
import json
import os
import secrets
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from stannary import files, workdir
from stannary.border.blobs import Blobs
from stannary.errors import EnvironmentProblem, NotFound, StannaryError, UsageError
from stannary.formats import canonical, ids, jobspec, record
from stannary.formats.canonical import Json
from stannary.formats.digest import Digest
from stannary.rules import kinds
from stannary.rules.kinds import DELTA, TASKS
from stannary.rules.systems import root_name
from stannary.run import visible
from stannary.run.engine_class import measure_engine_class, measure_in_root
from stannary.run.environment import Environments, environment_digest
from stannary.run.holding import BrokenOff, Holding, Prepared, make_workplace, prepare
from stannary.run.sandbox import choice
from stannary.run.sandbox.process import Sandbox
from stannary.run.sandbox.system import python_of
from stannary.run.work import Recomputed, SandboxedWork, TaskInHand
from stannary.run.worker_process import Worker, outbox_path
from stannary.verify.recomputation import Found, Outcome, ReplayPlan, Unit

PLAN_FILE = "plan.json"
MAX_PLAN_BYTES = 64 * 1024 * 1024
SALT_BYTES = 32
_PR_SET_PDEATHSIG = 1

Send = Callable[[dict[str, Json]], None]


class Replayer:
    """One job's worker and the units it computes again; used from the thread that made it."""

    def __init__(
        self, directory: Path, plan: ReplayPlan, sandbox: Sandbox, send: Send, root: Path | None = None
    ) -> None:
        self._blobs = Blobs(directory / "blobs")
        self._outbox = directory / "outbox"
        self._sandbox = sandbox
        self._send = send
        self._work = SandboxedWork()
        self._engine_class = ""
        spec = jobspec.from_canonical(plan.spec)
        if (spec.root is None) != (root is None):
            raise UsageError(
                "the job's root file system is needed, and no other", why=f"it names {spec.root or 'none'}"
            )
        digests = environment_digest(None, sandbox.describe(), spec.root)
        self._holding = Holding(
            ids.JobId("j-000000000000"), spec, directory / "job", digests, None, plan.submitted_s, root=root
        )
        python = python_of(root) if root is not None else ""
        self._environments = Environments(directory / "environments", sandbox=sandbox, python=python)

    def open(self) -> None:
        """Lay out the job's files and install what its spec names.

        Raises:
            NotFound, FormatError, Refuted: a file of the job is missing or holds other bytes.
            EnvironmentProblem: this machine cannot run it.
        """
        holding = self._holding
        holding.make_directories()
        self._outbox.mkdir(exist_ok=True)
        for item in holding.spec.inputs.values():
            self._bring(item.digest)
        workdir.materialise(holding.spec.workdir, holding.directory / "workdir", self._opened)
        if holding.spec.setup is not None:
            entry = next(entry for entry in holding.spec.workdir if entry.path == holding.spec.setup)
            listing = self._blobs.read(entry.digest)
            holding.packages = self._environments.prepare(listing, self._say, holding.spec.resources.disk_bytes)
        if not kinds.of(holding.spec).loads_recipe:
            self._engine_class = self._measured()

    def _measured(self) -> str:
        spec, root = self._holding.spec, self._holding.root
        if spec.root is None or root is None:
            return measure_engine_class({})
        return measure_in_root(root, spec.root, {}, self._sandbox)

    def _system(self) -> str:
        """Return the name of the system the job sees here, the last part of an engine class."""
        root = self._holding.spec.root
        return root_name(root) if root is not None else visible.visible_name()

    def close(self) -> None:
        """End the worker."""
        self._holding.end_worker()

    def replay(self, unit: Unit) -> Found:
        """Compute one unit again and say how it compares (rules 3 and 4)."""
        try:
            for item in unit.blobs:
                self._bring(item.digest)
            self._start_worker()
            if (
                visible.without_name(self._engine_class) == visible.without_name(unit.engine_class)
                or not kinds.of(self._holding.spec).loads_recipe
            ):
                return self._bitwise(unit)
            return self._by_tolerance(unit)
        except StannaryError as err:
            return self._found(unit, Outcome.UNCHECKED, str(err))

    def _bitwise(self, unit: Unit) -> Found:
        question = unit.question
        step = question.step if question is not None else unit.assignment.num_steps
        salt = question.salt if question is not None else secrets.token_hex(SALT_BYTES)
        made: Recomputed = self._work.audit(self._task(unit), step, salt)
        if made.root != unit.root:
            if not visible.is_of_one(self._engine_class, unit.engine_class):
                return self._incomparable(unit)
            return self._found(unit, Outcome.DIFFERENT, f"computed root {made.root}")
        if question is not None and made.answer != question.answer:
            return self._found(unit, Outcome.DIFFERENT, f"another state after step {step} than was answered for")
        return self._found(unit, Outcome.SAME)

    def _by_tolerance(self, unit: Unit) -> Found:
        from stannary.audit import compare
        from stannary.train import checkpoint

        recipe, classes = jobspec.recipe_of(self._holding.spec), (self._engine_class, unit.engine_class)
        if not TASKS[unit.assignment.kind].trains or recipe.training.threads != 1:
            return self._incomparable(unit)  # tolerances were measured with one thread
        tolerance = compare.find_tolerance(classes, recipe.training.optimizer, unit.assignment.num_steps)
        if tolerance is None or tolerance.threshold is None:
            return self._incomparable(unit)
        claimed_digest = next((item.digest for item in unit.outputs if item.name == DELTA), None)
        if claimed_digest is None:
            return self._found(unit, Outcome.UNCHECKED, "the contribution holds no pseudo-gradient")
        claimed = checkpoint.decode(self._blobs.read(claimed_digest)).tensors
        made = self._work.do(self._task(unit))
        computed = next(item.digest for item in made.outputs if item.name == DELTA)
        replayed = checkpoint.decode(outbox_path(self._outbox, computed).read_bytes()).tensors
        distance = compare.relative_distance(claimed, replayed)
        words = f"distance {distance:.1e} from engine class {unit.engine_class}, tolerance {tolerance.threshold:.1e}"
        agreement = compare.compare(claimed, replayed, same_class=False, tolerance=tolerance)
        same = {compare.Agreement.EQUAL: Outcome.SAME, compare.Agreement.WITHIN: Outcome.WITHIN}
        return self._found(unit, same.get(agreement, Outcome.DIFFERENT), words)

    def _incomparable(self, unit: Unit) -> Found:
        here = f"this machine is of engine class {self._engine_class}, the unit of {unit.engine_class}"
        return self._found(unit, Outcome.UNCHECKED, f"{here}, and no tolerance was measured between them")

    def _found(self, unit: Unit, outcome: Outcome, detail: str = "") -> Found:
        return Found(unit.task, outcome, self._engine_class, detail[:2000])

    def _task(self, unit: Unit) -> TaskInHand:
        def progress(reported: dict[str, Json]) -> None:
            self._send({"task": unit.task, "step": reported.get("step"), "steps": reported.get("steps")})

        return TaskInHand(self._holding, unit.assignment, progress)

    def _start_worker(self) -> None:
        holding = self._holding
        if holding.worker is not None and holding.worker.is_alive():
            return
        self.close()
        workplace = make_workplace(holding, self._outbox, {})
        holding.worker = Worker.start(self._sandbox, workplace, _drop_line)
        try:
            made = prepare(holding.worker, holding.spec)
            holding.broken_off = made if isinstance(made, BrokenOff) else None
            if isinstance(made, Prepared):
                self._engine_class = f"{made.engine_class}.{self._system()}"
        except StannaryError:
            self.close()
            raise

    def _bring(self, named: Digest) -> None:
        target = self._holding.blob_path(named)
        if target.exists():
            return
        try:
            os.link(self._blobs.path(named), target)  # one file system: the directory is ours
            files.show_alike(target, 0o444)  # the job runs as another user
        except FileNotFoundError as err:
            raise NotFound("a blob of the unit is not here", why=named) from err
        except OSError as err:
            raise EnvironmentProblem("cannot lay out the unit's blobs", why=str(err)) from err

    def _opened(self, named: Digest) -> BinaryIO:
        try:
            return self._blobs.path(named).open("rb")
        except FileNotFoundError as err:
            raise NotFound("a file of the job is not here", why=named) from err

    def _say(self, line: str) -> None:
        self._send({"say": line})


def run(directory: Path, send: Send, root: Path | None = None) -> None:
    """Replay the plan in `directory`, in its order, in an unpacked root where the job names one."""
    data = (directory / PLAN_FILE).read_bytes()
    plan = record.from_json(ReplayPlan, canonical.decode_object(data, max_bytes=MAX_PLAN_BYTES), what="plan")
    sandbox = choice.choose("private", lambda line: send({"say": line}))
    send({"say": f"replaying {len(plan.units)} units in {sandbox.describe()}"})
    replayer = Replayer(directory, plan, sandbox, send, root)
    try:
        replayer.open()
        for unit in plan.units:
            send({"found": record.to_json(replayer.replay(unit))})
    finally:
        replayer.close()


def main(arguments: list[str]) -> int:
    """Run as a process; an error is one line too."""
    if len(arguments) not in (1, 2):
        sys.stderr.write(UsageError("one directory is needed", hint="stannary verify --replay").diagnostics() + "\n")
        return UsageError.exit_code
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)  # whoever asked was killed: for nobody
    try:
        run(Path(arguments[0]), _write, Path(arguments[1]) if len(arguments) == 2 else None)
    except StannaryError as err:
        _write({"error": {"code": err.code, "what": err.what, "why": err.why, "hint": err.hint}})
        return err.exit_code
    return 0


def _write(event: dict[str, Json]) -> None:
    sys.stdout.write(json.dumps(event) + "\n")
    sys.stdout.flush()


def _drop_line(_stream: str, _text: str) -> None:
    """Drop what the recipe prints: its log was the nodes' to keep."""


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
