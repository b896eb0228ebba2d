"""Unpack wheels inside the sandbox and hand every file out as a frame.

    python -m stannary.worker.unpack WHEELS REPLIES_FD       frames: {"file": path, "mode": n} with bytes, {"ok": true}

What a wheel claims is a stranger's: sizes, names and compression are met here, without network and
within a job's memory, and what reaches the node's disk is counted by environment.py before it does.

Rules (PEP 427; the layout of `pip install --target`):
1. The root and `*.data/{purelib,platlib,data}` become the root of the environment, `*.data/scripts` its
   `bin`; headers are left out. Nothing is compiled and nothing of a wheel is run.
2. Console entry points become scripts in `bin`. Scripts name the interpreter by its path inside a
   sandbox, the same on every node.
"""

from __future__ import annotations

import configparser
import os
import re
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from stannary.border import frames
from stannary.border.paths import INTERPRETER
from stannary.errors import FormatError
from stannary.formats.workdir import MODE_EXECUTABLE, MODE_FILE

MAX_ENTRY_POINTS_BYTES = 1024 * 1024
SHEBANG = f"#!{INTERPRETER}/bin/python\n".encode()

_ENTRY = re.compile(r"(?P<module>[\w.]+)\s*:\s*(?P<object>[\w.]+)\s*(\[.*\])?")
_SCRIPT_NAME = re.compile(r"[\w.-]{1,100}")
_SCRIPT = """import sys
from {module} import {first}
if __name__ == "__main__":
    sys.exit({object}())
"""


def main(wheels: Path, replies: BinaryIO) -> None:
    """Unpack every wheel in a directory, in name order; what cannot be read is said with the wheel's name."""
    path = wheels
    try:
        for path in sorted(wheels.glob("*.whl")):
            with zipfile.ZipFile(path) as wheel:
                for name, mode, size, parts in _files(wheel):
                    frames.write_parts(replies, {"file": name, "mode": mode}, size, parts)
    except Exception as err:  # noqa: BLE001  # process edge: zipfile and its decompressors raise a dozen kinds of error
        # at a stranger's bytes (a method it lacks, a password, a torn stream), and document three of them.
        frames.write(replies, {"ok": False, "message": f"{path.name}: {str(err) or type(err).__name__}"[:1000]})
    else:
        frames.write(replies, {"ok": True})


def _files(wheel: zipfile.ZipFile) -> Iterator[tuple[str, int, int, Iterator[bytes]]]:
    """Yield (path in the environment, mode, size, bytes) of every file of a wheel."""
    for info in wheel.infolist():
        target, is_script = _target(info.filename)
        if info.is_dir() or target is None:
            continue
        executable = is_script or bool(info.external_attr >> 16 & 0o111)
        mode = MODE_EXECUTABLE if executable else MODE_FILE
        with wheel.open(info) as file:
            head = file.readline(200) if is_script else b""
            shown = SHEBANG if head.startswith(b"#!python") and head.endswith(b"\n") else head
            size = info.file_size - len(head) + len(shown)
            yield target, mode, size, _after(shown, iter(lambda: file.read(frames.CHUNK_BYTES), b""))
        if re.fullmatch(r"[^/]+\.dist-info/entry_points\.txt", info.filename):
            yield from _entry_points(wheel, info)


def _target(name: str) -> tuple[str | None, bool]:
    """Return where a member of a wheel goes, None where it goes nowhere, and whether it is a script."""
    top, _, rest = name.partition("/")
    if not top.endswith(".data"):
        return name, False
    scheme, _, inner = rest.partition("/")
    if scheme == "scripts":
        return f"bin/{inner}", True
    return (inner, False) if scheme in ("purelib", "platlib", "data") else (None, False)


def _entry_points(wheel: zipfile.ZipFile, info: zipfile.ZipInfo) -> Iterator[tuple[str, int, int, Iterator[bytes]]]:
    if info.file_size > MAX_ENTRY_POINTS_BYTES:
        raise FormatError("entry points are too long", why=f"{info.file_size:,} bytes")
    read = configparser.ConfigParser(delimiters=("=",), interpolation=None, strict=False)
    read.optionxform = str  # type: ignore[assignment,method-assign]  # names of scripts keep their case
    try:
        read.read_string(wheel.read(info).decode("utf-8", errors="replace"))
    except configparser.Error as err:
        raise FormatError("entry points cannot be read", why=str(err)) from err
    for section in ("console_scripts", "gui_scripts"):
        for name, value in read.items(section) if read.has_section(section) else ():
            match = _ENTRY.fullmatch(value.strip())
            if match is None or _SCRIPT_NAME.fullmatch(name) is None:
                continue  # as pip: a name no file can have is no script
            named = match["object"]
            text = _SCRIPT.format(module=match["module"], first=named.partition(".")[0], object=named)
            data = SHEBANG + text.encode()
            yield f"bin/{name}", MODE_EXECUTABLE, len(data), iter((data,))


def _after(first: bytes, rest: Iterator[bytes]) -> Iterator[bytes]:
    if first:
        yield first
    yield from rest


if __name__ == "__main__":
    with os.fdopen(int(sys.argv[2]), "wb") as opened:
        main(Path(sys.argv[1]), opened)
