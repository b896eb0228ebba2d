"""Wheels made here, of any files."""

from __future__ import annotations

import hashlib
import zipfile
from pathlib import Path


def make_wheel(directory: Path, name: str, files: dict[str, bytes], compression: int = zipfile.ZIP_DEFLATED) -> bytes:
    """Put a wheel of these files into a directory and return the list that pins it."""
    info = f"{name}-1.0.dist-info"
    everything = {
        **files,
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n".encode(),
        f"{info}/WHEEL": b"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    directory.mkdir(exist_ok=True)
    path = directory / f"{name}-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w", compression) as archive:
        for inner, data in everything.items():
            archive.writestr(inner, data)
        archive.writestr(f"{info}/RECORD", "".join(f"{inner},,\n" for inner in everything))
    return f"{name}==1.0 --hash=sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode()
