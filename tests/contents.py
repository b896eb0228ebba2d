"""Bytes in memory as the content of a file, for whoever judges content."""

from __future__ import annotations

from stannary.seal.content.file_bytes import Content


def of_bytes(data: bytes) -> Content:
    """Return bytes as content."""
    return Content(len(data), lambda offset, count: data[offset : offset + count])
