"""Which store an address leads to; each kind is imported only when it is asked for (obstore is slow to load)."""

from __future__ import annotations

import urllib.parse
from pathlib import Path

from stannary.errors import UsageError
from stannary.seal.stores.source import Source, Store


def connect(location: str) -> Source:
    """Return the source behind a folder path, `http(s)://` or `s3://` URL."""
    scheme = urllib.parse.urlsplit(location).scheme
    if scheme in {"http", "https"}:
        from stannary.seal.stores.http import HttpSource

        return HttpSource(location)
    return connect_store(location)


def connect_store(location: str) -> Store:
    """Return the store behind a folder path or `s3://` URL."""
    parts = urllib.parse.urlsplit(location)
    if parts.scheme == "s3":
        from stannary.seal.stores.s3 import S3Store

        return S3Store(location)
    if parts.scheme in {"", "file"}:
        from stannary.seal.stores.directory import DirectoryStore

        return DirectoryStore(Path(urllib.parse.unquote(parts.path)) if parts.scheme else Path(location))
    if parts.scheme in {"http", "https"}:
        raise UsageError(
            "a web address can be read and not written",
            why=f"{location!r:.100}",
            hint="seal to DIR or s3://BUCKET/PREFIX",
        )
    raise UsageError(
        "this address is neither a folder nor a bucket",
        why=f"{location!r:.100}",
        hint="DIR or s3://BUCKET/PREFIX; to read also http(s)://",
    )
