"""Signed notes: checkpoints of the log, their signatures and witness cosignatures.

Formats: C2SP signed-note, tlog-checkpoint and tlog-cosignature (Ed25519, `cosignature/v1`).

Rules (docs/receipt.md R3.3 to R3.7):
1. A note is its text, an empty line, and signature lines `— <name> <base64(key hash ‖ signature)>`.
   Keys are spelled `name+<8 hex of key hash>+<base64(type ‖ public key)>`; the key hash is
   SHA-256(name ‖ LF ‖ type ‖ public key), first four bytes. Type 0x01 signs as the log, type 0x04 as
   a witness: the same bytes never serve as both.
2. A log signature covers the text. A cosignature covers `cosignature/v1`, its time, and the text, so
   a witness vouches for "I saw this, consistent with all I saw before, at that time".
3. Checkpoints have three lines: origin, size, root. Extension lines are refused: we write none, and
   what nobody understands nobody has checked.
4. The log's signature comes first, then the cosignatures sorted by name, one each: one spelling for one note.
   A signature line that no key at hand checks is legal in C2SP; `unchecked_signatures` names them,
   and receipts refuse them (everything covered or absent).

Keys come from the caller. Which keys are trusted is left to verify/trust.py.
"""

from __future__ import annotations

import functools
import hashlib
import itertools
import re
from collections.abc import Iterable, Sequence
from enum import IntEnum

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from stannary.errors import FormatError, LimitExceeded, Refuted
from stannary.formats import ed25519
from stannary.formats.digest import SIZE_BYTES
from stannary.formats.dsse import SIGNATURE_BYTES, decode_base64, encode_base64, public_bytes
from stannary.formats.lean import dataclass

MAX_NOTE_BYTES = 64 * 1024  # three lines and MAX_SIGNATURES signatures stay below 8 KiB; C2SP allows 1 MiB
MAX_SIGNATURES = 16  # the log and fifteen witnesses
MAX_NAME_CHARS = 200
KEY_HASH_BYTES = 4
TIMESTAMP_BYTES = 8
KEPT_KEYS = 256  # parsed ones; a verifier meets one log and its witnesses
KEPT_NOTES = 4  # parsed ones: each check of one note reads it again
MAX_TREE_SIZE = 2**53 - 1  # sizes travel in JSON too (RFC 7493 section 2.2)

_DASH = "— "
_NAME = re.compile(r"[^\s+\x00-\x1f\x7f]+")
_SIZE = re.compile(r"0|[1-9][0-9]{0,15}")


class KeyType(IntEnum):
    """The signature algorithm byte of a verifier key."""

    LOG = 0x01
    WITNESS = 0x04


@dataclass(frozen=True, slots=True)
class VerifierKey:
    """A name and the public key that signs under it."""

    name: str
    kind: KeyType
    public: bytes

    @property
    def key_hash(self) -> bytes:
        """Return the four bytes that tag this key's signatures."""
        return _key_hash(self.name, self.kind, self.public)

    def __str__(self) -> str:
        encoded = encode_base64(bytes([self.kind]) + self.public)
        return f"{self.name}+{self.key_hash.hex()}+{encoded}"


@dataclass(frozen=True, slots=True)
class NoteSignature:
    """One signature line: who claims to have signed, with which key, and the bytes."""

    name: str
    key_hash: bytes
    signature: bytes

    def line(self) -> str:
        """Return the line as it stands in a note, newline included."""
        return f"{_DASH}{self.name} {encode_base64(self.key_hash + self.signature)}\n"


@dataclass(frozen=True, slots=True)
class Note:
    """Text that is signed, and the signatures."""

    text: str
    signatures: tuple[NoteSignature, ...]

    def to_text(self) -> str:
        """Return the whole note."""
        return self.text + "\n" + "".join(item.line() for item in self.signatures)


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The state of a log: the root of its first `size` leaves."""

    origin: str
    size: int
    root: bytes

    def to_text(self) -> str:
        """Return the three lines that are signed."""
        return f"{self.origin}\n{self.size}\n{encode_base64(self.root)}\n"


def format_vkey(name: str, public_key: bytes, kind: KeyType = KeyType.LOG) -> str:
    """Spell a verifier key."""
    return str(VerifierKey(_checked_name(name), kind, ed25519.check(public_key)))


@functools.lru_cache(maxsize=KEPT_KEYS)
def parse_vkey(text: str) -> VerifierKey:
    """Read a verifier key; its hash must be that of its name and key."""
    parts = text.split("+", 2)
    if len(parts) != 3:
        raise FormatError("not a verifier key", why=f"{text!r:.120}, expected name+hash+base64")
    name, key_hash, encoded = parts
    data = decode_base64(encoded, "verifier key")
    if len(data) != 1 + ed25519.PUBLIC_KEY_BYTES or data[0] not in set(KeyType):
        raise FormatError("unknown kind of verifier key", why=f"{len(data)} bytes, type {data[:1].hex()}")
    key = VerifierKey(_checked_name(name), KeyType(data[0]), ed25519.check(data[1:]))
    if key.key_hash.hex() != key_hash:
        raise FormatError("verifier key does not match its hash", why=f"{key_hash:.16}, computed {key.key_hash.hex()}")
    return key


def sign_checkpoint(origin: str, size: int, root: bytes, key: Ed25519PrivateKey) -> str:
    """Return the note of a checkpoint, signed by the log alone."""
    text = Checkpoint(_checked_name(origin), size, root).to_text()
    signature = NoteSignature(origin, _key_hash(origin, KeyType.LOG, public_bytes(key)), key.sign(text.encode()))
    return Note(text, (signature,)).to_text()


def parse(note: str | bytes) -> Note:
    """Read a note without judging its signatures.

    Raises:
        FormatError: not a signed note, or not the one spelling of it (rule 4).
        LimitExceeded: more than MAX_NOTE_BYTES or MAX_SIGNATURES.
    """
    return _parse(_decoded(note))


@functools.lru_cache(maxsize=KEPT_NOTES)
def _parse(content: str) -> Note:
    head, separator, tail = content.rpartition("\n\n")
    if not separator or not tail.endswith("\n") or not head:
        raise FormatError("not a signed note", why="no empty line before the signatures")
    lines = tail[:-1].split("\n")
    if len(lines) > MAX_SIGNATURES:
        raise LimitExceeded("too many signatures on a note", why=f"{len(lines)}, limit {MAX_SIGNATURES}")
    signatures = tuple(_parse_line(line) for line in lines)
    witnesses = [item.name for item in signatures[1:]]
    if any(first >= second for first, second in itertools.pairwise(witnesses)):
        raise FormatError("note signatures are not in order", why="cosignatures are sorted by name, one each")
    return Note(head + "\n", signatures)


def parse_checkpoint(text: str) -> Checkpoint:
    """Read the signed text of a checkpoint (rule 3)."""
    lines = text.split("\n")
    if len(lines) != 4 or lines[3] != "":
        raise FormatError("not a checkpoint", why=f"{max(len(lines) - 1, 0)} lines, expected origin, size, root")
    origin, size, encoded = lines[:3]
    if _SIZE.fullmatch(size) is None or int(size) > MAX_TREE_SIZE:
        raise FormatError("checkpoint size is not a number", why=f"{size!r:.40}")
    root = decode_base64(encoded, "checkpoint root")
    if len(root) != SIZE_BYTES:
        raise FormatError("checkpoint root is not a hash", why=f"{len(root)} bytes")
    return Checkpoint(_checked_name(origin), int(size), root)


def verify_checkpoint(note: str | bytes, vkey: str | VerifierKey) -> Checkpoint:
    """Check the log's signature with the caller's key, and return the checkpoint.

    Raises:
        Refuted: another origin, no signature by this key, or one that does not hold.
    """
    key, parsed = _as_key(vkey, KeyType.LOG), parse(note)
    checkpoint = parse_checkpoint(parsed.text)
    if checkpoint.origin != key.name:
        raise Refuted("checkpoint of another log", why=f"origin {checkpoint.origin!r:.80}, expected {key.name!r}")
    signature = parsed.signatures[0]
    if (signature.name, signature.key_hash) != (key.name, key.key_hash):
        raise Refuted("checkpoint is not signed by this log", why=f"first signature by {signature.name!r:.80}")
    _verify(key, signature.signature, parsed.text.encode())
    return checkpoint


def cosign(note: str | bytes, name: str, key: Ed25519PrivateKey, timestamp: int) -> str:
    """Return a witness's cosignature line for the text of `note` (the caller has checked the log's signature)."""
    stamp = timestamp.to_bytes(TIMESTAMP_BYTES, "big")
    signature = key.sign(_cosigned(parse(note).text, timestamp))
    key_hash = _key_hash(_checked_name(name), KeyType.WITNESS, public_bytes(key))
    return NoteSignature(name, key_hash, stamp + signature).line()


def add_cosignatures(note: str | bytes, lines: Iterable[str]) -> str:
    """Return `note` with cosignature lines added, in the order of rule 4; a line by the same witness replaces."""
    parsed = parse(note)
    by_name = {item.name: item for item in parsed.signatures[1:]}
    for line in lines:
        signature = _parse_line(line.removesuffix("\n"))
        by_name[signature.name] = signature
    ordered = tuple(by_name[name] for name in sorted(by_name))
    return Note(parsed.text, (parsed.signatures[0], *ordered)).to_text()


def verify_cosignature(note: str | bytes, vkey: str | VerifierKey) -> int:
    """Check one witness's cosignature and return its time, in POSIX seconds.

    Raises:
        Refuted: this witness has not signed, or its signature does not hold.
    """
    key, parsed = _as_key(vkey, KeyType.WITNESS), parse(note)
    for signature in parsed.signatures[1:]:
        if (signature.name, signature.key_hash) == (key.name, key.key_hash):
            timestamp = int.from_bytes(signature.signature[:TIMESTAMP_BYTES], "big")
            _verify(key, signature.signature[TIMESTAMP_BYTES:], _cosigned(parsed.text, timestamp))
            return timestamp
    raise Refuted("checkpoint is not cosigned by this witness", why=key.name)


def stamped_at(note: str | bytes) -> int:
    """Return the latest time any cosignature line of our own note bears, 0 where there is none; nothing is checked."""
    lines = (item.signature for item in parse(note).signatures[1:] if len(item.signature) > SIGNATURE_BYTES)
    return max((int.from_bytes(line[:TIMESTAMP_BYTES], "big") for line in lines), default=0)


def unchecked_signatures(note: str | bytes, vkeys: Sequence[str | VerifierKey]) -> tuple[str, ...]:
    """Return the names of signature lines that belong to none of `vkeys` (rule 4)."""
    keys = [parse_vkey(item) if isinstance(item, str) else item for item in vkeys]
    known = {(key.name, key.key_hash) for key in keys}
    return tuple(item.name for item in parse(note).signatures if (item.name, item.key_hash) not in known)


def _cosigned(text: str, timestamp: int) -> bytes:
    return f"cosignature/v1\ntime {timestamp}\n{text}".encode()


def _verify(key: VerifierKey, signature: bytes, message: bytes) -> None:
    try:
        ed25519.load(key.public).verify(signature, message)
    except InvalidSignature as err:
        raise Refuted("note signature does not hold", why=f"by {key.name}") from err


def _as_key(vkey: str | VerifierKey, kind: KeyType) -> VerifierKey:
    key = parse_vkey(vkey) if isinstance(vkey, str) else vkey
    if key.kind is not kind:
        raise Refuted("verifier key of the wrong kind", why=f"{key.name}: {key.kind.name}, expected {kind.name}")
    return key


def _decoded(note: str | bytes) -> str:
    if len(note) > MAX_NOTE_BYTES:
        raise LimitExceeded("note too large", why=f"{len(note):,}, limit {MAX_NOTE_BYTES:,}")
    if isinstance(note, str):
        return note
    try:
        return note.decode("utf-8")
    except UnicodeDecodeError as err:
        raise FormatError("not a signed note", why=str(err)) from err


def _parse_line(line: str) -> NoteSignature:
    if not line.startswith(_DASH):
        raise FormatError("not a note signature", why=f"{line!r:.80}")
    name, _, encoded = line[len(_DASH) :].partition(" ")
    data = decode_base64(encoded, "note signature")
    if len(data) not in (KEY_HASH_BYTES + SIGNATURE_BYTES, KEY_HASH_BYTES + TIMESTAMP_BYTES + SIGNATURE_BYTES):
        raise FormatError("not a note signature", why=f"{len(data)} bytes")
    return NoteSignature(_checked_name(name), data[:KEY_HASH_BYTES], data[KEY_HASH_BYTES:])


@functools.lru_cache(maxsize=KEPT_KEYS)
def _key_hash(name: str, kind: KeyType, public_key: bytes) -> bytes:
    return hashlib.sha256(name.encode() + b"\n" + bytes([kind]) + public_key).digest()[:KEY_HASH_BYTES]


def _checked_name(name: str) -> str:
    if len(name) > MAX_NAME_CHARS or _NAME.fullmatch(name) is None:
        raise FormatError("not a key name", why=f"{name!r:.80}; no white space, no plus sign")
    return name
