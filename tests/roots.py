"""Root file systems made by hand: small enough for a test, with a Python of this machine and a shell in them."""

from __future__ import annotations

import io
import os
import re
import subprocess
import sys
import tarfile
from collections.abc import Iterator, Mapping
from pathlib import Path

from stannary.formats.digest import PREFIX, Digest, digest

TIME_S = 1_700_000_000
PROGRAMS = ("sh", "cat", "echo", "true", "ls", "uname", "env")
LEFT_OUT = frozenset({"test", "tests", "idlelib", "tkinter", "ensurepip", "lib2to3", "site-packages", "__pycache__",
                      "pydoc_data", "turtledemo", "distutils", "unittest", "asyncio"})  # fmt: skip
OS_RELEASE = b"ID=lode\nNAME=Lode\n"
RELEASE_FILE = "usr/lib/os-release"


def tar_of(members: list[tuple[tarfile.TarInfo, bytes]], format_: int = tarfile.PAX_FORMAT) -> bytes:
    """Return a tar of these members, in this order."""
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w:", format=format_) as archive:
        for member, data in members:
            member.size = len(data) if member.isreg() else 0
            archive.addfile(member, io.BytesIO(data))
    return made.getvalue()


def member(name: str, kind: bytes = tarfile.REGTYPE, mode: int = 0o644, link: str = "") -> tarfile.TarInfo:
    """Return one member's header."""
    found = tarfile.TarInfo(name)
    found.type, found.mode, found.linkname, found.mtime = kind, mode, link, TIME_S
    return found


def small(more: Mapping[str, bytes] | None = None) -> bytes:
    """Return the tar of a root of a few files, in which nothing can run."""
    files = {RELEASE_FILE: OS_RELEASE, "etc/issue": b"lode\n", **(more or {})}
    links = [(member("bin", tarfile.SYMTYPE, link="usr/bin"), b""), (member("usr", tarfile.DIRTYPE, 0o755), b"")]
    return tar_of([*links, *((member(name), data) for name, data in files.items())])


def runnable(files: Mapping[str, bytes] | None = None) -> bytes:
    """Return the tar of a root in which commands run: this Python's own library, a shell, and what they link to."""
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    binary = Path(os.path.realpath(sys.executable))
    library = Path(os.__file__).parent
    found: dict[str, Path] = {f"usr/bin/{version}": binary}
    found |= {f"usr/lib/{version}/{path.relative_to(library)}": path for path in _below(library)}
    for name in PROGRAMS:
        program = next(path for folder in ("/usr/bin", "/bin") if (path := Path(folder, name)).exists())
        found[f"usr/bin/{name}"] = Path(os.path.realpath(program))
    linked = {needed for path in list(found.values()) if _is_binary(path) for needed in _needed(path)}
    members = [(member(f"usr/bin/{name}", tarfile.SYMTYPE, link=version), b"") for name in ("python", "python3")]
    members += [(member(name, tarfile.SYMTYPE, link=f"usr/{name}"), b"") for name in ("bin", "lib", "lib64")]
    for path in sorted(linked):  # where the loader looks without a cache: /lib64, /lib, /usr/lib
        folder = "lib64" if path.name.startswith("ld-linux") else "lib"
        found[f"usr/{folder}/{path.name}"] = Path(os.path.realpath(path))
    members += [(member(name, mode=0o755), path.read_bytes()) for name, path in sorted(found.items())]
    own = {RELEASE_FILE: OS_RELEASE, "etc/passwd": b"job:x:65534:65534::/tmp:/bin/sh\n", **(files or {})}
    return tar_of([*members, *((member(name), data) for name, data in own.items())])


def named(data: bytes) -> Digest:
    """Return the digest of a root's tar."""
    found = digest(data)
    assert found.startswith(PREFIX)
    return found


def _below(library: Path) -> Iterator[Path]:
    for parent, folders, names in os.walk(library):
        folders[:] = [name for name in folders if name not in LEFT_OUT and not name.startswith("config-")]
        yield from (Path(parent, name) for name in names if not name.endswith((".a", ".exe")))


def _is_binary(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(4) == b"\x7fELF"


def _needed(path: Path) -> Iterator[Path]:
    listed = subprocess.run(["ldd", str(path)], capture_output=True, text=True, check=False).stdout
    for line in listed.splitlines():
        match = re.search(r"(?:=> )?(/\S+) \(0x", line)
        if match is not None:
            yield Path(match.group(1))
