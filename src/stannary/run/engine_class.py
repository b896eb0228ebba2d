"""The engine class of this machine: what decides the bits of its training (train/engine.py), measured apart, and the
name of what a job can see of its system (visible.py)."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

from stannary.border.variables import KERNEL_VARIABLES, PINNED_ENVIRONMENT
from stannary.errors import EnvironmentProblem
from stannary.run.sandbox.contract import own_path
from stannary.run.visible import visible_name

ENGINE_TIMEOUT_S = 300.0


def measure_engine_class(kernel: dict[str, str]) -> str:
    """Return the engine class of this machine under a kernel choice, measured in a process of its own."""
    chosen = {name: kernel[name] for name in KERNEL_VARIABLES if name in kernel}
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
