"""What a job can see of this machine's own system, as one short name: only where it is the same are jobs compared.

Two distributions, or two sets of installed packages, make honest programs differ (`. /usr/lib/os-release; echo $ID`),
so the name is the last part of a node's engine class. It covers

- every file, directory and link below /usr and the links of the root that lead there: path, mode, size of a file,
  target of a link; what Python keeps compiled (`__pycache__`) is left out;
- the bytes of os-release, of /etc/ld.so.cache and the links of /etc/alternatives;
- the interpreter's version and the distributions installed beside it, by name and version.

Bytes of other files are not read, and times are not counted: they are of whoever installed. Looking at 100,000 names
takes a second of a processor, so what was found is kept in a file for as long as the package database, os-release and
the first directories are as they were; a look is taken anew after a day.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import stat
import sys
import sysconfig
import time
from collections.abc import Iterator
from pathlib import Path

from stannary import files
from stannary.errors import EnvironmentProblem
from stannary.run.environment import interpreter_tag

NAME_HEX = 12
CACHE_FILE = "visible.json"
CACHED_S = 24 * 3600.0
ROOT_LINKS = ("/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32")
_LEFT_OUT = "__pycache__"
_WHOLE = ("/usr/lib/os-release", "/etc/ld.so.cache")
_PACKAGE_DATABASES = ("/var/lib/dpkg/status", "/var/lib/rpm", "/usr/lib/sysimage/rpm", "/lib/apk/db/installed",
                      "/var/lib/pacman/local")  # fmt: skip
_SITES = sorted({sysconfig.get_path("purelib"), sysconfig.get_path("platlib")})
_MEASURED = re.compile(r".*-t\d+\.[0-9a-f]{12}\.(r?[0-9a-f]{12})")  # or the name of a root (rules/systems.py)


def name_of(engine_class: str) -> str:
    """Return the part of an engine class that names what jobs see, empty in a class of another form."""
    match = _MEASURED.fullmatch(engine_class)
    return match.group(1) if match is not None else ""


def without_name(engine_class: str) -> str:
    """Return the part of an engine class that the kernels of a library make."""
    name = name_of(engine_class)
    return engine_class.removesuffix(f".{name}") if name else engine_class


def visible_name() -> str:
    """Return this machine's name, from the cache where nothing that is looked at has changed."""
    stamps, place, now_s = _stamps(), files.data_dir() / CACHE_FILE, time.time()
    with contextlib.suppress(OSError, ValueError, TypeError, KeyError):  # none yet, or not whole
        kept = json.loads(place.read_bytes())
        if kept["stamps"] == stamps and 0 <= now_s - kept["at_s"] < CACHED_S:
            return str(kept["name"])
    name = look()
    with contextlib.suppress(OSError, EnvironmentProblem):  # a home that cannot be written: looked at again
        files.make_private_dir(place.parent)
        files.replace(place, json.dumps({"stamps": stamps, "at_s": now_s, "name": name}).encode())
    return name


def is_of_one(here: str, there: str) -> bool:
    """Say whether a machine of class `here` must get the bits of class `there`, which may not name its system."""
    return here == there or (without_name(here) == there and not name_of(there))


def look() -> str:
    """Look at everything the name covers and return it."""
    state = hashlib.sha256()
    for line in (*_listed("/usr"), *_listed("/etc/alternatives"), *_whole(), *_interpreter()):
        state.update(line + b"\0")
    return state.hexdigest()[:NAME_HEX]


def _listed(top: str) -> Iterator[bytes]:
    """Yield a line for each name below a directory, in an order of names alone."""
    for parent, folders, names in os.walk(top):
        folders[:] = sorted(name for name in folders if name != _LEFT_OUT)
        for name in sorted([*folders, *names]):
            path = f"{parent}/{name}"
            with contextlib.suppress(OSError):  # gone meanwhile
                yield _line(path, os.lstat(path))
    for path in ROOT_LINKS:
        if top == "/usr" and os.path.lexists(path):
            yield _line(path, os.lstat(path))


def _line(path: str, told: os.stat_result) -> bytes:
    more = ""
    if stat.S_ISREG(told.st_mode):
        more = str(told.st_size)
    elif stat.S_ISLNK(told.st_mode):
        more = str(Path(path).readlink())
    return os.fsencode(f"{told.st_mode:o} {path} {more}")


def _whole() -> Iterator[bytes]:
    for path in _WHOLE:
        with contextlib.suppress(OSError):  # not on every distribution
            yield path.encode() + b" " + hashlib.sha256(Path(path).read_bytes()).digest()


def _interpreter() -> Iterator[bytes]:
    """Yield the interpreter and the distributions a job finds beside it, wherever they lie."""
    yield interpreter_tag().encode()
    found = {path.name for place in _SITES for path in Path(place).glob("*.dist-info")}
    yield from (name.encode() for name in sorted(found))


def _stamps() -> list[list[object]]:
    """Return what changes when packages do: cheap to ask before every job."""
    places = ["/usr", *_PACKAGE_DATABASES, *_WHOLE, *ROOT_LINKS, "/etc/alternatives", *_SITES]
    for top in ("/usr", "/usr/lib", "/usr/local", "/usr/local/lib"):
        with contextlib.suppress(OSError):
            places += sorted(entry.path for entry in os.scandir(top) if entry.is_dir())
    stamps: list[list[object]] = [[interpreter_tag(), sys.executable]]
    for place in places:
        with contextlib.suppress(OSError, ValueError):
            told = os.stat(place)  # noqa: PTH116 - the same call by a shorter way
            stamps.append([place, told.st_dev, told.st_ino, told.st_mtime_ns, told.st_size])
    return stamps
