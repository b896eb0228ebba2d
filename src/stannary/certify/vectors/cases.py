"""Vector cases as a manifest lists them, and the files they name.

The manifest is `version` and `cases[]`, each `id kind evidence now expect` and members by kind; paths
are relative to it and may not leave its folder. What each kind reads is in `kinds.py` and
docs/certify.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import PurePath
from typing import TYPE_CHECKING

from stannary.certify.moments import parse_moment
from stannary.certify.pki import certificates
from stannary.errors import FormatError, NotFound, SpecError, UnsupportedFormat
from stannary.formats import canonical

if TYPE_CHECKING:
    from datetime import datetime
    from pathlib import Path

    from stannary.formats.canonical import Json

MAX_FILE_BYTES = 11 * 1024 * 1024  # one MiB above the evidence limit, so that the limit itself is reached
MAX_MANIFEST_BYTES = 4 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Case:
    """One case with its files' folder."""

    folder: Path
    members: dict[str, Json]

    def text(self, name: str, default: str | None = None) -> str:
        """Return a text member."""
        value = self.members.get(name, default)
        if not isinstance(value, str):
            raise SpecError("manifest case lacks a member", why=f"{name} in {self.members.get('id')!r:.60}")
        return value

    def paths(self, name: str) -> list[str]:
        """Return a member that is a path or a list of paths, empty if there is none."""
        value = self.members.get(name, [])
        listed = value if isinstance(value, list) else [value]
        found = [item for item in listed if isinstance(item, str)]
        if len(found) != len(listed):
            raise SpecError("manifest path is not text", why=name)
        return found

    def file(self, path: str) -> bytes:
        """Read a file of the case."""
        # A link inside the folder is its owner's choice; the manifest may be a stranger's and names only what is in it.
        if PurePath(path).is_absolute() or ".." in PurePath(path).parts or "\0" in path:
            raise SpecError("manifest path leaves its folder", why=f"{path!r:.120}")
        try:
            with (self.folder / path).open("rb") as stream:
                return stream.read(MAX_FILE_BYTES)
        except OSError as err:
            raise NotFound("vector file cannot be read", why=f"{path[:120]}: {err.strerror}") from err

    def part(self, name: str) -> bytes | None:
        """Read the file a member names, where the case has it."""
        return self.file(self.text(name)) if name in self.members else None

    def evidence(self) -> bytes:
        """Read the evidence file."""
        return self.file(self.text("evidence"))

    def bundle(self, *names: str) -> tuple[certificates.Certificate, ...]:
        """Read certificates from the files that members name, a path or a list of paths."""
        return tuple(
            item for name in names for path in self.paths(name) for item in certificates.load_bundle(self.file(path))
        )

    def now(self, override: datetime | None) -> datetime | None:
        """Return the evaluation time; an override replaces it only where the case has one."""
        text = self.text("now", "-")
        if text == "-":
            return None
        try:
            return override or parse_moment(text)
        except FormatError as err:
            raise SpecError("manifest case has no evaluation time", why=str(err)) from err

    def bound(self) -> bytes | None:
        """Return the bytes the evidence must bind, where the case says so."""
        if "nonce" not in self.members:
            return None
        try:
            return bytes.fromhex(self.text("nonce"))
        except ValueError as err:
            raise SpecError("manifest case's nonce is not hex", why=str(err)) from err


def load(folder: Path) -> tuple[Case, ...]:
    """Read a manifest, `folder` being its folder or its own path."""
    path = folder / "manifest.json" if folder.is_dir() else folder
    try:
        data = path.read_bytes()
    except OSError as err:
        raise NotFound(
            "no vectors manifest", why=f"{path}: {err.strerror}", hint="stannary certify vectors DIR"
        ) from err
    manifest = canonical.decode_object(data, max_bytes=MAX_MANIFEST_BYTES)
    if manifest.get("version") != 1:
        raise UnsupportedFormat("vectors manifest version is not known", why=f"{manifest.get('version')!r:.40}")
    listed = manifest.get("cases")
    if not isinstance(listed, list) or not listed:
        raise FormatError("vectors manifest holds no cases")
    if not all(isinstance(item, dict) for item in listed):
        raise FormatError("vectors manifest case is not an object")
    return tuple(Case(path.parent, item) for item in listed if isinstance(item, dict))
