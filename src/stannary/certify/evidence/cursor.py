"""A bounded reader over binary evidence: every read is checked, nothing may trail."""

from __future__ import annotations

from stannary.errors import FormatError


class Cursor:
    """Reads a structure front to back.

    Args:
        data: the bytes of one structure.
        what: its name, for errors.
    """

    __slots__ = ("_data", "_offset", "_what")

    def __init__(self, data: bytes, what: str) -> None:
        self._data = data
        self._offset = 0
        self._what = what

    @property
    def offset(self) -> int:
        """Bytes read so far."""
        return self._offset

    @property
    def remaining(self) -> int:
        """Bytes not read yet."""
        return len(self._data) - self._offset

    def take(self, count: int) -> bytes:
        """Read `count` bytes."""
        end = self._offset + count
        if count < 0 or end > len(self._data):
            raise FormatError(
                f"{self._what} ends early", why=f"{count:,} bytes wanted at {self._offset:,}, {self.remaining:,} left"
            )
        chunk = self._data[self._offset : end]
        self._offset = end
        return chunk

    def peek(self) -> bytes:
        """Return the next byte without reading it, empty at the end."""
        return self._data[self._offset : self._offset + 1]

    def little(self, num_bytes: int) -> int:
        """Read an unsigned little-endian integer."""
        return int.from_bytes(self.take(num_bytes), "little")

    def big(self, num_bytes: int) -> int:
        """Read an unsigned big-endian integer."""
        return int.from_bytes(self.take(num_bytes), "big")

    def sized_big(self, num_bytes: int = 2) -> bytes:
        """Read a big-endian length and that many bytes (TPM2B)."""
        return self.take(self.big(num_bytes))

    def sized_little(self, num_bytes: int = 4) -> bytes:
        """Read a little-endian length and that many bytes."""
        return self.take(self.little(num_bytes))

    def finish(self) -> None:
        """Refuse trailing bytes."""
        if self.remaining:
            raise FormatError(f"{self._what} has trailing bytes", why=f"{self.remaining:,} bytes")
