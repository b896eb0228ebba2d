"""Fetched collateral on disk: a folder with one file an artifact, or one file with all of them.

    DIR/<64 hex>.json      one item, named by the SHA-256 of its kind and name
    FILE.json              the same items in one list, to hand on

Each artifact is durable when `put` returns: a fetch that is killed keeps what it had. What is kept here is
trusted as little as what evidence carries.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from stannary import files
from stannary.certify.collateral.items import MAX_BUNDLE_BYTES, MAX_ITEMS, parse, to_bytes
from stannary.errors import FormatError, LimitExceeded, NotFound

if TYPE_CHECKING:
    from pathlib import Path

    from stannary.certify.collateral.items import Item


class CollateralStore:
    """Items at a path: a file if it is one or is called *.json, a folder otherwise."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._is_file = path.is_file() or (path.suffix == ".json" and not path.is_dir())

    def load(self, *, must_exist: bool = True) -> dict[tuple[str, str], Item]:
        """Read every item."""
        if not self._path.exists():
            if not must_exist:
                return {}
            raise NotFound(
                "no collateral there",
                why=str(self._path),
                hint=f"stannary certify collateral fetch evidence.json -o {self._path}",
            )
        places = [self._path] if self._is_file else sorted(self._path.glob("*.json"))
        if len(places) > MAX_ITEMS:
            raise LimitExceeded("too many items of collateral", why=f"{len(places):,} files, limit {MAX_ITEMS}")
        found: dict[tuple[str, str], Item] = {}
        for place in places:
            found |= _read(place)
        return found

    def put(self, item: Item) -> None:
        """Keep an item, in place of an older one of its name."""
        if self._is_file:
            items = {**self.load(must_exist=False), item.key: item}
            files.replace(self._path, to_bytes(items.values()))
        else:
            name = hashlib.sha256("\0".join(item.key).encode("utf-8")).hexdigest()
            files.replace(self._path / f"{name}.json", to_bytes((item,)))


def _read(place: Path) -> dict[tuple[str, str], Item]:
    try:
        with place.open("rb") as stream:
            data = stream.read(MAX_BUNDLE_BYTES + 1)
    except OSError as err:
        raise NotFound("collateral cannot be read", why=f"{place}: {err.strerror}", hint="check the path") from err
    try:
        return parse(data)
    except FormatError as err:
        raise FormatError(
            "collateral does not read", why=f"{place}: {err}", hint=f"delete {place} and fetch it again"
        ) from err
