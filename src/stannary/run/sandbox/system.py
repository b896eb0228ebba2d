"""The system a job sees and the interpreter in it: the host's own, or a root file system unpacked on this machine.

Of the host: `/usr`, the old names that lead into it, of /etc nothing but how to find libraries; and this interpreter,
with our own package, at the paths they have outside.

Of a root (run/root/): its SHOWN directories and links in the place of all that, read-only; its own interpreter, and our
package at OWN, the same on every node. Nothing of the host's system is left in sight, so that two nodes of one root
show a job the same bytes whatever their owners have installed.
"""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path

from stannary.border.paths import INTERPRETER, OWN
from stannary.errors import EnvironmentProblem
from stannary.run.sandbox.contract import PACKAGE, Mount, own_path

SHOWN = ("usr", "bin", "sbin", "lib", "lib32", "lib64", "libx32", "etc", "opt", "var")
ROOT_INTERPRETER = "/usr/bin/python3"
INSIDE = Path(__file__).with_name("inside.py")
_HOST_LINKS = ("/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32")
_HOST_FILES = ("/etc/ld.so.cache", "/etc/alternatives")  # where shared libraries and system commands are found


@dataclass(frozen=True, slots=True)
class System:
    """What a sandbox shows beside a job's own mounts."""

    links: dict[str, str]  # path inside -> where it leads
    binds: tuple[str, ...]  # of the host, at the same path inside
    mounts: tuple[Mount, ...]  # shown as a job's own (stage.py)
    finisher: tuple[str, ...]  # interpreter and inside.py, as they are called inside
    interpreter: str  # by which a worker is started
    prefix: str  # where INTERPRETER leads
    variables: dict[str, str]  # how that interpreter finds our package

    def path(self, *more: str) -> dict[str, str]:
        """Return the PYTHONPATH of a process of ours inside, `more` behind our package."""
        path = os.pathsep.join([*self.variables.values(), *filter(None, more)])
        return {"PYTHONPATH": path} if path else {}


def of(root: Path | None) -> System:
    """Return the system of an unpacked root, of the host where there is none.

    Raises:
        EnvironmentProblem: the directory holds no root.
    """
    return _of_host() if root is None else _of_root(root)


def python_of(root: Path) -> str:
    """Return the version of a root's interpreter, as its name says it ("3.11"); empty where there is none."""
    path = root / ROOT_INTERPRETER.lstrip("/")
    return str(path.readlink()).rpartition("/")[2].removeprefix("python") if path.is_symlink() else ""


def interpreter_mounts() -> tuple[Mount, ...]:
    """Return what Python itself needs inside, at the paths it has outside.

    The interpreter's prefixes and our own package, and nothing around them: the directory an editable
    installation lies in may hold anything.
    """
    wanted = (Path(sys.prefix), Path(sys.base_prefix), Path(os.path.realpath(sys.executable)).parent.parent, PACKAGE)
    outside: list[Path] = []
    for path in sorted({path.resolve() for path in wanted}):
        if not any(path.is_relative_to(parent) for parent in (Path("/usr"), *outside)):
            outside.append(path)
    return tuple(Mount(path, str(path)) for path in outside)


def _of_host() -> System:
    paths = [Path(name) for name in _HOST_LINKS]
    directories = [str(path) for path in paths if path.is_dir() and not path.is_symlink()]
    files = [name for name in _HOST_FILES if Path(name).exists()]
    return System(
        links={str(path): str(path.readlink()) for path in paths if path.is_symlink()},
        binds=("/usr", *directories, *files),
        mounts=interpreter_mounts(),
        finisher=(sys.executable, "-I", "-S", str(INSIDE)),
        interpreter=_interpreter(),
        prefix=str(Path(sys.prefix).resolve()),
        variables=own_path(),
    )


def _interpreter() -> str:
    """Return this interpreter's path inside, which does not tell where the node's owner keeps it."""
    own = Path(os.path.realpath(sys.executable))
    for name in ("python3", f"python{sys.version_info.major}.{sys.version_info.minor}"):
        path = Path(sys.prefix, "bin", name)
        if path.exists() and path.resolve() == own:
            return f"{INTERPRETER}/bin/{name}"
    return sys.executable


def _of_root(root: Path) -> System:
    links: dict[str, str] = {}
    mounts: list[Mount] = []
    for name in SHOWN:
        path = root / name
        if path.is_symlink():
            links[f"/{name}"] = str(path.readlink())
        elif path.is_dir():
            mounts.append(Mount(path, f"/{name}"))
    if not (root / "usr").is_dir() or (root / "usr").is_symlink():
        raise EnvironmentProblem("this directory holds no root file system", why=f"{root}: no usr in it")
    inside = f"{OWN}/{PACKAGE.name}/{INSIDE.relative_to(PACKAGE)}"
    return System(
        links=links,
        binds=(),
        mounts=(*mounts, Mount(PACKAGE, f"{OWN}/{PACKAGE.name}")),
        finisher=(ROOT_INTERPRETER, "-I", "-S", inside),
        interpreter=ROOT_INTERPRETER,
        prefix="/usr",
        variables={"PYTHONPATH": OWN},
    )
