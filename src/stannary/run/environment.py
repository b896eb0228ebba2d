"""A job's environment: a hash-pinned requirements list, installed outside the sandbox, mounted read-only.

Rules:
1. A list holds locked lines and nothing else (formats/requirements.py).
2. Only wheels are installed and dependencies are not resolved: no code of anybody runs at installation,
   and what is installed is exactly what was signed.
3. Environments are kept by the digest of list and interpreter, and appear by rename: one is whole or
   absent, and two jobs with the same list share it.
4. Installing is a phase of its own whose lines go to the job's log, so that it is never mistaken for a
   slow start.

Where wheels come from (an index, a directory) is the operator's setting, never the job's.
"""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from stannary.errors import EnvironmentProblem
from stannary.formats import digest, requirements
from stannary.formats.digest import Digest

INSTALL_TIMEOUT_S = 1800.0  # two gigabytes of wheels over a thin link
COMPLETE = ".stannary-complete"
TAIL_LINES = 20

# What the operator's own environment may tell the installer; nothing of a job's.
PASSED_ON = ("PATH", "HOME", "PIP_INDEX_URL", "PIP_FIND_LINKS", "PIP_NO_INDEX", "PIP_CERT", "PIP_CONFIG_FILE",
             "UV_INDEX_URL", "UV_FIND_LINKS", "UV_CACHE_DIR", "SSL_CERT_FILE", "HTTPS_PROXY", "NO_PROXY")  # fmt: skip

Tell = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Source:
    """Where the operator lets wheels come from."""

    find_links: str = ""
    index_url: str = ""
    no_index: bool = False

    def options(self) -> list[str]:
        """Return the installer's options."""
        options = ["--no-index"] if self.no_index else []
        options += ["--find-links", self.find_links] if self.find_links else []
        return options + (["--index-url", self.index_url] if self.index_url else [])


@dataclass(frozen=True, slots=True)
class Environments:
    """The installed environments of one node."""

    root: Path
    source: Source = Source()

    def prepare(self, listing: bytes, tell: Tell) -> Path:
        """Return the directory of an installed list, installing it first where it is not yet here.

        Args:
            listing: the bytes of the list, as the job names them by digest.
            tell: gets each line the installer prints.

        Raises:
            SpecError: a list that breaks rule 1.
            EnvironmentProblem: the installer failed; the reason is its last lines.
        """
        lines = requirements.locked(listing)
        place = self.root / _key(listing)
        if (place / COMPLETE).exists():
            tell(f"environment {place.name[:12]} is here already")
            return place
        self.root.mkdir(mode=0o755, parents=True, exist_ok=True)
        fresh = Path(tempfile.mkdtemp(prefix=".installing-", dir=self.root))
        try:
            self._install(lines, fresh, tell)
            (fresh / COMPLETE).write_text(digest.digest(listing) + "\n")
            fresh.chmod(0o755)
            _move(fresh, place)
        except OSError as err:
            raise EnvironmentProblem("cannot install the environment", why=str(err), hint="free disk space") from err
        finally:
            shutil.rmtree(fresh, ignore_errors=True)
        return place

    def _install(self, lines: list[str], target: Path, tell: Tell) -> None:
        tell(f"installing {len(lines)} packages")
        with tempfile.NamedTemporaryFile("w", suffix=".txt") as written:
            written.write("\n".join(lines) + "\n")
            written.flush()
            rules = ["--require-hashes", "--no-deps", "--only-binary", ":all:", "--target", str(target)]
            _run([*_installer(), *rules, *self.source.options(), "-r", written.name], tell)


def environment_digest(listing: Digest | None, sandbox: str) -> Digest:
    """Return the digest a contribution names its environment by: interpreter, requirements, sandbox."""
    parts = (interpreter_tag(), listing or "none", sandbox)
    return digest.from_raw(digest.hash_parts("stannary environment v1", *(part.encode() for part in parts)))


def interpreter_tag() -> str:
    """Return what decides which wheels fit: implementation, version, system and machine."""
    return f"{sys.implementation.cache_tag}-{platform.python_version()}-{sys.platform}-{platform.machine()}"


def _key(listing: bytes) -> str:
    parts = (interpreter_tag().encode(), listing)
    return digest.hash_parts("stannary environment directory v1", *parts).hex()


def _installer() -> list[str]:
    """Return pip of this interpreter, or uv, which fills the environments uv makes without pip."""
    if importlib.util.find_spec("pip") is not None:
        options = ["--disable-pip-version-check", "--no-input", "--no-compile", "--progress-bar", "off"]
        return [sys.executable, "-m", "pip", "install", *options]
    uv = shutil.which("uv")
    if uv is None:
        raise EnvironmentProblem(
            "no installer", why="this interpreter has no pip and there is no uv", hint=f"{sys.executable} -m ensurepip"
        )
    return [uv, "pip", "install", "--python", sys.executable]


def _run(argv: list[str], tell: Tell) -> None:
    """Run the installer, telling every line, and raise with its last ones."""
    tail: list[str] = []
    environment = {name: os.environ[name] for name in PASSED_ON if name in os.environ}
    with subprocess.Popen(  # noqa: S603 - our own options and a list of checked lines
        argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=environment, text=True,
        errors="replace",
    ) as installer:  # fmt: skip
        timer = threading.Timer(INSTALL_TIMEOUT_S, installer.kill)
        timer.start()
        try:
            for line in installer.stdout or ():
                tell(line.rstrip()[:2000])
                tail = [*tail, line.rstrip()][-TAIL_LINES:]
        finally:
            timer.cancel()
    if installer.returncode != 0:
        raise EnvironmentProblem(
            "the environment cannot be installed",
            why=" / ".join(tail)[-1500:] or f"the installer ended with {installer.returncode}",
            hint="check the requirements list against what the node's index holds",
        )


def _move(fresh: Path, place: Path) -> None:
    try:
        fresh.rename(place)
    except OSError:
        if not (place / COMPLETE).exists():  # another job of this node was quicker with the same list
            raise
