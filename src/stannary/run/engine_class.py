"""The engine class of this machine: what decides the bits of its training (train/engine.py), measured apart, and the
name of what a job can see of its system: visible.py's, or that of the root file system its jobs run in.

In a root it is measured there, in a sandbox, by the interpreter and the library the root brings. A root without torch
serves commands only; its class says so.
"""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from stannary.border.variables import KERNEL_VARIABLES, PINNED_ENVIRONMENT
from stannary.errors import EnvironmentProblem
from stannary.formats.digest import Digest
from stannary.rules.systems import COMMANDS, root_name
from stannary.run.sandbox import system as systems
from stannary.run.sandbox.contract import Command, Limits, own_path
from stannary.run.sandbox.process import Sandbox
from stannary.run.visible import visible_name

ENGINE_TIMEOUT_S = 300.0
MEASURE_LIMITS = Limits(memory_bytes=4 * 1024**3, cpu_millis=16_000)  # torch and its probe with 16 threads
NO_LIBRARY = f"{COMMANDS}t0.000000000000"  # of a root without torch
MEASURE = (
    "import importlib.util, runpy; "
    "runpy.run_module('stannary.train.engine', run_name='__main__') if importlib.util.find_spec('torch') "
    f"else print('{NO_LIBRARY}')"
)


def measure_engine_class(kernel: dict[str, str]) -> str:
    """Return the engine class of this machine's own system under a kernel choice, measured in a process of its own."""
    chosen = _chosen(kernel)
    environment = {**PINNED_ENVIRONMENT, **own_path(), **chosen}
    argv = [sys.executable, "-P", "-m", "stannary.train.engine"]
    system = ThreadPoolExecutor(1).submit(visible_name)  # a second or two, beside the seconds that torch takes to load
    try:
        done = subprocess.run(  # noqa: S603 - our own module
            argv, env=environment, capture_output=True, text=True, timeout=ENGINE_TIMEOUT_S, check=False
        )
    except subprocess.TimeoutExpired as err:
        raise EnvironmentProblem("the engine class cannot be measured", why=str(err)) from err
    measured = done.stdout.strip()
    if done.returncode != 0 or not measured:
        last = done.stderr.strip().rpartition("\n")[2]
        raise EnvironmentProblem(
            "the engine class cannot be measured", why=last[:300], hint="pip install 'stannary[agent,train]'"
        )
    return f"{measured}.{system.result()}"


def measure_in_root(root: Path, named: Digest, kernel: dict[str, str], sandbox: Sandbox) -> str:
    """Return the engine class of this machine in an unpacked root.

    Raises:
        EnvironmentProblem: nothing can be measured there.
    """
    system = systems.of(root)
    argv = (system.interpreter, "-P", "-c", MEASURE)
    environment = {**PINNED_ENVIRONMENT, **system.path(), **_chosen(kernel)}
    command = Command(argv, environment, limits=MEASURE_LIMITS, root=root)
    with sandbox.start(command) as running:
        running.kill_after(ENGINE_TIMEOUT_S)
        out, err = running.popen.communicate()
        code = running.wait(0)
    measured = out.decode(errors="replace").strip()
    if code != 0 or not measured:
        last = err.decode(errors="replace").strip().rpartition("\n")[2]
        raise EnvironmentProblem(
            "the engine class cannot be measured in the market's root file system",
            why=last[:300] or f"exit code {code}",
            hint="ask the market's operator: stannary market root build FILE --wheels LIST",
        )
    return f"{measured}.{root_name(named)}"


def _chosen(kernel: dict[str, str]) -> dict[str, str]:
    return {name: kernel[name] for name in KERNEL_VARIABLES if name in kernel}
