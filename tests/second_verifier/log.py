"""The log: section R3."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass

from tests.second_verifier.values import MAX_INT, Malformed, check_key, from_base64, verifies

LOG, WITNESS = 1, 4
NAME = r"[^\s+\x00-\x1f\x7f]{1,200}"


@dataclass(frozen=True)
class Key:
    """R3.3."""

    name: str
    kind: int
    public: bytes

    @property
    def tag(self) -> bytes:
        """Return the bytes that mark its signatures."""
        return hashlib.sha256(self.name.encode() + b"\n" + bytes([self.kind]) + self.public).digest()[:4]


def key(text: str) -> Key:
    """R3.3."""
    match = re.fullmatch(rf"({NAME})\+([0-9a-f]{{8}})\+(.+)", text)
    if match is None:
        raise Malformed("not a verifier key")
    data = from_base64(match[3], 33)
    made = Key(match[1], data[0], check_key(data[1:]))
    if made.kind not in (LOG, WITNESS) or made.tag.hex() != match[2]:
        raise Malformed("not a verifier key")
    return made


@dataclass(frozen=True)
class Note:
    """R3.4 and R3.5."""

    text: str
    lines: tuple[tuple[str, bytes, bytes], ...]  # name, tag, the rest
    origin: str
    size: int
    root: bytes


def signatures(text: str) -> tuple[str, tuple[tuple[str, bytes, bytes], ...]]:
    """R3.4."""
    head, gap, tail = text.rpartition("\n\n")
    if len(text) > 64 * 1024 or not gap or not head or not tail.endswith("\n"):
        raise Malformed("not a note")
    lines = []
    for line in tail[:-1].split("\n"):
        match = re.fullmatch(f"— ({NAME}) (.*)", line)
        data = from_base64(match[2]) if match is not None else b""
        if match is None or len(data) not in (68, 76):
            raise Malformed("not a signature line")
        lines.append((match[1], data[:4], data[4:]))
    names = [name for name, _, _ in lines[1:]]
    if len(lines) > 16 or names != sorted(set(names)):
        raise Malformed("signatures out of order")
    return head + "\n", tuple(lines)


def note(whole: str) -> Note:
    """R3.4 and R3.5."""
    text, lines = signatures(whole)
    match = re.fullmatch(f"({NAME})\n(0|[1-9][0-9]{{0,15}})\n([^\n]*)\n", text)
    if match is None or int(match[2]) > MAX_INT:
        raise Malformed("not a checkpoint")
    return Note(text, lines, match[1], int(match[2]), from_base64(match[3], 32))


def check_log(made: Note, by: Key) -> None:
    """R3.6 and R3.7."""
    name, tag, signature = made.lines[0]
    if not made.origin == name == by.name or tag != by.tag or by.kind != LOG:
        raise Malformed("of another log")
    if not verifies(by.public, signature, made.text.encode()):
        raise Malformed("the log's signature does not hold")


def witnessed(made: Note, by: Key) -> int:
    """R3.6: the time of a cosignature."""
    for name, tag, rest in made.lines[1:]:
        if (name, tag) == (by.name, by.tag):
            at = int.from_bytes(rest[:8], "big")
            if not verifies(by.public, rest[8:], f"cosignature/v1\ntime {at}\n{made.text}".encode()):
                raise Malformed("a cosignature does not hold")
            return at
    raise Malformed("a pinned witness has not signed")


def tlog_proof(text: str) -> tuple[int, list[bytes], str]:
    """R3.8: index, path, note."""
    head, gap, rest = text.partition("\n\n")
    first, *lines = head.split("\n")
    match = re.fullmatch("index (0|[1-9][0-9]{0,15})", lines[0]) if lines else None
    if not gap or first != "c2sp.org/tlog-proof@v1" or match is None or len(lines) > 64:
        raise Malformed("not a tlog-proof")
    return int(match[1]), [from_base64(line, 32) for line in lines[1:]], rest


def node(left: bytes, right: bytes) -> bytes:
    """R3.1."""
    return hashlib.sha256(b"\x01" + left + right).digest()


def check_inclusion(leaf: bytes, index: int, size: int, path: list[bytes], root: bytes) -> None:
    """R3.2, in the words of RFC 9162 section 2.1.3.2."""
    if index >= size:
        raise Malformed("not in the log")
    fn, sn, r = index, size - 1, hashlib.sha256(b"\x00" + leaf).digest()
    for p in path:
        if sn == 0:
            raise Malformed("not in the log")
        if fn & 1 or fn == sn:
            r = node(p, r)
            while not fn & 1 and fn:
                fn, sn = fn >> 1, sn >> 1
        else:
            r = node(r, p)
        fn, sn = fn >> 1, sn >> 1
    if sn or r != root:
        raise Malformed("not in the log")


def check_consistency(first: int, first_root: bytes, second: int, second_root: bytes, path: list[bytes]) -> None:
    """R3.2, in the words of RFC 9162 section 2.1.4.2."""
    if first > second:
        raise Malformed("not consistent")
    if first in (0, second):
        expected = hashlib.sha256(b"").digest() if first == 0 else second_root
        if path or first_root != expected:
            raise Malformed("not consistent")
        return
    hashes = [first_root, *path] if first & (first - 1) == 0 else list(path)
    fn, sn = first - 1, second - 1
    while fn & 1:
        fn, sn = fn >> 1, sn >> 1
    if not hashes:
        raise Malformed("not consistent")
    fr = sr = hashes[0]
    for c in hashes[1:]:
        if sn == 0:
            raise Malformed("not consistent")
        if fn & 1 or fn == sn:
            fr, sr = node(c, fr), node(c, sr)
            while not fn & 1 and fn:
                fn, sn = fn >> 1, sn >> 1
        else:
            sr = node(sr, c)
        fn, sn = fn >> 1, sn >> 1
    if sn or fr != first_root or sr != second_root:
        raise Malformed("not consistent")
