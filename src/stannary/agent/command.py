"""Commands inside the sandbox: run the spec's line, collect the outputs it declares.

The line is the buyer's and goes to `/bin/sh`: that is what he asked for, and the border around it is
the sandbox, not quoting. It runs in a writable copy of the work directory and sees
`STANNARY_INPUT_<NAME>` (path of each input), the spec's `envs`, PATH, HOME and TMPDIR, no more.

Outputs are regular files below that directory that match the spec's patterns; a link is not
followed, so that a job cannot hand in what it only points at.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from stannary.errors import LimitExceeded, NotFound
from stannary.formats import jobspec

MAX_OUTPUT_FILES = 1_024


@dataclass(frozen=True, slots=True)
class CommandResult:
    """How a command ended and which files it left."""

    exit_code: int
    directory: Path
    outputs: tuple[str, ...]  # relative paths, sorted


def run_command(spec: jobspec.JobSpec, workdir: Path, inputs: Mapping[str, Path]) -> CommandResult:
    """Run the command of a spec; its stdout and stderr are this process's, hence the job log.

    Raises:
        NotFound: the command ended well and a declared output is missing.
        LimitExceeded: more or larger outputs than the spec's disk allows.
    """
    directory = Path(tempfile.mkdtemp(prefix="run-"))
    shutil.copytree(workdir, directory, dirs_exist_ok=True)
    for parent, _, _ in os.walk(directory):
        Path(parent).chmod(0o700)  # the original is mounted read-only and may have been listed so
    ended = subprocess.run(  # noqa: S603  # the sandbox is the border, see above
        ["/bin/sh", "-c", spec.run or ":"],
        cwd=directory,
        env=_environment(spec, inputs, directory),
        stdin=subprocess.DEVNULL,
        check=False,
    )
    if ended.returncode != 0:
        return CommandResult(ended.returncode, directory, ())
    return CommandResult(0, directory, tuple(_collect(spec, directory)))


def _environment(spec: jobspec.JobSpec, inputs: Mapping[str, Path], directory: Path) -> dict[str, str]:
    python = str(Path(sys.executable).parent)
    own = {
        "PATH": os.pathsep.join([python, os.environ.get("PATH", "/usr/bin:/bin")]),
        "HOME": str(directory),
        "TMPDIR": tempfile.gettempdir(),
        "OMP_NUM_THREADS": "1",
        "PYTHONHASHSEED": "0",  # two runs are compared byte for byte
        **{f"STANNARY_INPUT_{name.upper().replace('-', '_')}": str(path) for name, path in inputs.items()},
    }
    return {**own, **{name: str(value) for name, value in spec.envs.items()}}


def _collect(spec: jobspec.JobSpec, directory: Path) -> Iterator[str]:
    found: set[str] = set()
    for pattern in spec.outputs:
        files = [file for file in directory.glob(pattern) if file.is_file() and not _passes_link(file, directory)]
        if not files:
            raise NotFound(
                "command left no such output", why=pattern, hint="outputs are relative to the work directory"
            )
        found.update(str(file.relative_to(directory)) for file in files)
    if len(found) > MAX_OUTPUT_FILES:
        raise LimitExceeded("too many outputs", why=f"{len(found):,}, limit {MAX_OUTPUT_FILES:,}")
    total = sum((directory / name).stat().st_size for name in found)
    if total > spec.resources.disk_bytes:
        raise LimitExceeded("outputs too large", why=f"{total:,} bytes, resources.disk {spec.resources.disk_bytes:,}")
    yield from sorted(found)


def _passes_link(file: Path, directory: Path) -> bool:
    steps = [file, *file.parents]
    return any(step.is_symlink() for step in steps[: steps.index(directory)])
