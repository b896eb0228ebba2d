"""One Cobblestone-256 message: how every ciphertext of an artifact is made and opened.

Layout (C2SP chunked-encryption): 24-byte salt, 32-byte key commitment, chunks of 16 KiB with a 16-byte
tag each; the last chunk is always shorter than 16 KiB, empty if need be, so a cut is seen.

Rules:
1. A key seals one plaintext, ever. The context names what the message is and how long it is.
2. Plaintexts of shards are padded with zeros to PAD_BYTES, so that lengths in the public head show
   little of shapes. Padding that is not zero is refused: one plaintext has one spelling.
3. Opening hashes and decrypts in one pass. Chunks are released into the destination before the end is
   known, therefore **nothing counts before `finish()` returned**: the whole BLAKE3 was compared with
   the owner's list, and the last tag held.
4. When a tag fails, hashing goes on: bytes that are not the named ones are the mirror's fault
   (`BadBytes`), the named bytes that do not open are the owner's or the key's (`Refuted`).
"""

from __future__ import annotations

from typing import TypeAlias

import blake3
from cryptography.cobblestone import Cobblestone256Decryptor, Cobblestone256Encryptor
from cryptography.exceptions import InvalidTag

from stannary.errors import Refuted
from stannary.seal.head import SealedObject

Buffer: TypeAlias = "bytes | bytearray | memoryview"

KEY_BYTES = 32
CHUNK_BYTES = 16 * 1024
TAG_BYTES = 16
PREFIX_BYTES = 24 + 32
PAD_BYTES = 64 * 1024
SHARD_CONTEXT = b"seal/v1 shard"
MANIFEST_CONTEXT = b"seal/v1 manifest"
GROUP_CONTEXT = b"seal/v1 group"


class BadBytes(Refuted):
    """A mirror served bytes that are not the ones it was asked for by name."""

    def __init__(self, expected: SealedObject, observed: SealedObject) -> None:
        why = f"b3 {observed.blake3}, expected {expected.blake3}"
        if observed.length != expected.length:
            why = f"{observed.length:,} bytes, expected {expected.length:,}"
        super().__init__("these are not the bytes of that name", why=why)
        self.expected = expected
        self.observed = observed


def sealed_length(plain_bytes: int) -> int:
    """Return the length of the message that seals `plain_bytes`."""
    return PREFIX_BYTES + plain_bytes + TAG_BYTES * (plain_bytes // CHUNK_BYTES + 1)


def padded_length(stored_bytes: int) -> int:
    """Return `stored_bytes` rounded up to PAD_BYTES (rule 2)."""
    return -(-stored_bytes // PAD_BYTES) * PAD_BYTES


def context(label: bytes, plain_bytes: int, *names: bytes) -> bytes:
    """Return the context of a message: label, names with their lengths, plaintext length."""
    framed = b"".join(len(name).to_bytes(4, "big") + name for name in names)
    return label + framed + plain_bytes.to_bytes(8, "big")


def generate_key() -> bytes:
    """Return a fresh random key."""
    return Cobblestone256Encryptor.generate_key()


def seal(plain: Buffer, key: bytes, ctx: bytes) -> bytes:
    """Return the message of a small plaintext (manifest, group keys)."""
    encryptor = Cobblestone256Encryptor(key, ctx)
    return encryptor.update(plain) + encryptor.finalize()


def unseal(sealed: Buffer, key: bytes, ctx: bytes, *, what: str) -> bytes:
    """Open a small message whose name was checked already."""
    decryptor = Cobblestone256Decryptor(key, ctx)
    try:
        return decryptor.update(sealed) + decryptor.finalize()
    except InvalidTag as err:
        raise Refuted(
            f"{what} does not open with this key", why="the key, the context or the bytes are others"
        ) from err


def name_of(sealed: Buffer) -> SealedObject:
    """Return the name of ciphertext bytes."""
    return SealedObject(blake3.blake3(sealed).hexdigest(), len(sealed))


def check_name(sealed: Buffer, expected: SealedObject) -> None:
    """Raise BadBytes unless `sealed` is the object of that name."""
    observed = name_of(sealed)
    if observed != expected:
        raise BadBytes(expected, observed)


class ShardSealer:
    """Seals shards into one reused buffer. Not thread safe: one per worker."""

    def __init__(self, max_stored_bytes: int) -> None:
        self._out = memoryview(bytearray(sealed_length(padded_length(max_stored_bytes)) + CHUNK_BYTES))

    def seal(self, stored: memoryview, key: bytes) -> tuple[memoryview, SealedObject]:
        """Seal `stored`, padded. Returns the message, valid until the next call, and its name."""
        padded = padded_length(len(stored))
        encryptor = Cobblestone256Encryptor(key, context(SHARD_CONTEXT, padded))
        position = encryptor.update_into(stored, self._out)
        if padded > len(stored):
            position += encryptor.update_into(bytes(padded - len(stored)), self._out[position:])
        last = encryptor.finalize()
        self._out[position : position + len(last)] = last
        message = self._out[: position + len(last)]
        return message, name_of(message)


class ShardOpener:
    """Opens one shard as its bytes arrive, straight into `into` (exactly the stored length)."""

    def __init__(self, expected: SealedObject, key: bytes, into: memoryview) -> None:
        padded = padded_length(len(into))
        if sealed_length(padded) != expected.length:
            raise Refuted("shard length does not match the manifest", why=f"{expected.length:,} bytes sealed")
        self._expected = expected
        self._into = into
        self._padded = padded
        self._hash = blake3.blake3()
        self._decryptor: Cobblestone256Decryptor | None = Cobblestone256Decryptor(key, context(SHARD_CONTEXT, padded))
        # Whole chunks of the stored bytes go straight to the destination; the chunk that also holds
        # padding, and padding itself, go through a small buffer.
        self._straight = len(into) // CHUNK_BYTES * CHUNK_BYTES
        self._boundary = PREFIX_BYTES + self._straight // CHUNK_BYTES * (CHUNK_BYTES + TAG_BYTES)
        self._fed = 0
        self._written = 0
        self._tail = bytearray()

    def feed(self, piece: memoryview) -> None:
        """Take the next bytes of the message."""
        self._hash.update(piece)
        if self._decryptor is not None:
            try:
                self._decrypt(self._decryptor, piece)
            except InvalidTag:
                self._decryptor = None  # rule 4: keep hashing, decide in finish()
        self._fed += len(piece)

    def finish(self) -> None:
        """Accept the shard, or raise BadBytes or Refuted (rule 3)."""
        observed = SealedObject(self._hash.hexdigest(), self._fed)
        if observed != self._expected:
            raise BadBytes(self._expected, observed)
        try:
            if self._decryptor is None:
                raise InvalidTag
            self._tail += self._decryptor.finalize()
        except InvalidTag as err:
            raise Refuted("shard does not open with its key", why=f"b3 {self._expected.blake3}") from err
        rest = len(self._into) - self._straight
        if self._written != self._straight or len(self._tail) != self._padded - self._straight:
            raise Refuted("shard opens to another length", why=f"b3 {self._expected.blake3}")
        if self._tail.count(0, rest) != len(self._tail) - rest:
            raise Refuted("shard padding is not zero", why=f"b3 {self._expected.blake3}")
        self._into[self._straight :] = self._tail[:rest]

    def _decrypt(self, decryptor: Cobblestone256Decryptor, piece: memoryview) -> None:
        room = max(0, self._boundary - self._fed)
        if room:
            self._written += decryptor.update_into(piece[:room], self._into[self._written : self._straight])
        if len(piece) > room and self._fed + len(piece) <= self._expected.length:
            self._tail += decryptor.update(piece[room:])
