"""Fetched collateral: items by kind and name, and the file that holds them.

An item holds the bytes a vendor gave, the signer's chain if it came beside them, where and when they were
fetched and until when their issuer says they stand.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from stannary.certify.moments import parse_moment
from stannary.errors import FormatError, LimitExceeded
from stannary.formats import canonical, dsse, record

if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import datetime

PROFILE = "tag:stannary,2026:collateral#1"
MAX_BUNDLE_BYTES = 10 * 1024 * 1024
MAX_ITEMS = 512  # 32 devices with six certificates and two manifests each, and a CPU


@dataclass(frozen=True, slots=True)
class Item:
    """One artifact as its vendor gave it."""

    kind: str
    name: str
    data: bytes
    chain: bytes = b""  # PEM, where the signer's chain comes in a header
    url: str = ""
    fetched_at: str = ""
    next_update: str = ""

    @property
    def key(self) -> tuple[str, str]:
        """What needs find it by."""
        return self.kind, self.name

    def is_fresh(self, now: datetime) -> bool:
        """Whether its issuer says that it still stands; what names no end does not go stale."""
        return not self.next_update or now < parse_moment(self.next_update)


@dataclass(frozen=True, slots=True)
class _Written:
    """An item as JSON members."""

    kind: str
    name: str
    data: str
    chain: str
    url: str
    fetched_at: str
    next_update: str


def to_bytes(items: Iterable[Item]) -> bytes:
    """Write items as one file."""
    written = [
        record.to_json(
            _Written(
                item.kind,
                item.name,
                dsse.encode_base64(item.data),
                dsse.encode_base64(item.chain),
                item.url,
                item.fetched_at,
                item.next_update,
            )
        )
        for item in items
    ]
    return canonical.encode({"profile": PROFILE, "items": [*written]})


def parse(data: bytes) -> dict[tuple[str, str], Item]:
    """Read a file of items."""
    members = canonical.decode_object(data, max_bytes=MAX_BUNDLE_BYTES)
    listed = members.get("items")
    if members.get("profile") != PROFILE or set(members) != {"profile", "items"} or not isinstance(listed, list):
        raise FormatError(
            "not a file of collateral",
            why=f"profile {members.get('profile')!r:.60}",
            hint="make one with: stannary certify collateral fetch EVIDENCE -o collateral.json",
        )
    if len(listed) > MAX_ITEMS:
        raise LimitExceeded("too many items of collateral", why=f"{len(listed):,}, limit {MAX_ITEMS}")
    found = (_item(record.from_json(_Written, value, what="collateral item")) for value in listed)
    return {item.key: item for item in found}


def _item(written: _Written) -> Item:
    for moment in (written.fetched_at, written.next_update):
        if moment:
            parse_moment(moment)
    return Item(
        written.kind,
        written.name,
        dsse.decode_base64(written.data, "collateral"),
        dsse.decode_base64(written.chain, "collateral's chain"),
        written.url,
        written.fetched_at,
        written.next_update,
    )
