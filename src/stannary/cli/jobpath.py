"""Which job file `stannary run` was given, and what to do where it is none."""

from __future__ import annotations

import os
import shlex
from pathlib import Path

from stannary.errors import SpecError, UsageError

USUAL_NAME = "job.yaml"
YAML_SUFFIXES = (".yaml", ".yml", ".json")  # JSON is YAML
# How a script of this suffix is run by hand; the rest is run as it is.
_RUNNERS = {".py": "python", ".sh": "sh", ".bash": "bash", ".js": "node", ".r": "Rscript", ".pl": "perl"}
_SNIFFED_BYTES = 4096


def find(given: Path | None) -> Path:
    """Return the job file's path.

    Raises:
        UsageError: none was named.
        SpecError: it is not there, a folder or a script; the hint is the next command.
    """
    if given is None:
        hint = f"stannary run {USUAL_NAME}" if Path(USUAL_NAME).is_file() else "stannary run --example hello"
        raise UsageError("name a job file", why="neither a job file nor --example was given", hint=hint)
    if os.path.isdir(given):  # noqa: PTH112  pathlib raises where a folder on the way may not be entered
        inside = given / USUAL_NAME
        hint = f"stannary run {shlex.quote(str(inside))}" if inside.is_file() else _written("python main.py")
        raise SpecError("a folder is no job file", why=f"{given!s:.200}", hint=hint)
    if not os.path.exists(given):  # noqa: PTH110
        raise SpecError("there is no such job file", why=f"{given!s:.200}", hint=_near(given))
    if given.suffix.lower() not in YAML_SUFFIXES and _is_script(given):
        runner = _RUNNERS.get(given.suffix.lower())
        command = f"{runner} {shlex.quote(given.name)}" if runner else f"./{shlex.quote(given.name)}"
        raise SpecError(
            "a script is no job file",
            why=f"{given!s:.200}: a job file is YAML and names the command",
            hint=_written(command),
        )
    return given


def _is_script(path: Path) -> bool:
    if path.suffix.lower() in _RUNNERS or path.suffix.lower() == ".ipynb":
        return True
    try:
        with path.open("rb") as file:
            head = file.read(_SNIFFED_BYTES)
    except OSError:
        return False  # reading it tells better what is wrong
    return head.startswith((b"#!", b"\x7fELF"))


def _near(given: Path) -> str:
    """Return the command for a job file that lies where this one was looked for, else how to write one."""
    try:
        found = sorted(path for suffix in YAML_SUFFIXES[:2] for path in given.parent.glob(f"*{suffix}"))
    except OSError:
        found = []
    return f"stannary run {shlex.quote(str(found[0]))}" if found else _written("python main.py")


def _written(command: str) -> str:
    if os.path.lexists(USUAL_NAME):
        return f"write a job file that says: {shlex.quote(f'run: {command}')}, or: stannary run {USUAL_NAME}"
    return f"echo {shlex.quote(f'run: {command}')} > {USUAL_NAME} && stannary run {USUAL_NAME}"
