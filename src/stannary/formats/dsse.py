"""DSSE envelopes (Dead Simple Signing Envelope v1.0.2) with Ed25519 keys.

Rules (docs/receipt.md R2):
1. The payload is signed byte for byte: PAE("DSSEv1" SP len(type) SP type SP len(body) SP body).
   Nothing is re-serialised at verification.
2. `keyid` is `ed25519:<hex SHA-256 of the raw 32-byte public key>`; it is not covered by the
   signature, so verification recomputes it from the key used and refuses any other value.
3. An envelope has the members payload, payloadType and signatures, each signature keyid and sig,
   and no others: everything is covered or absent. Base64 must be canonical (RFC 4648 section 3.5).
4. A key that proves nothing about its holder is none (ed25519.py).
5. Keys come from the caller (a pinned store or a checked credential), never from the envelope.

ML-DSA-44 as a second signature is left to a later release.
"""

from __future__ import annotations

import binascii
import hashlib

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from stannary.errors import FormatError, LimitExceeded, Refuted
from stannary.formats import canonical, ed25519
from stannary.formats.canonical import Json
from stannary.formats.ids import KeyId
from stannary.formats.lean import dataclass

STATEMENT_TYPE = "application/vnd.in-toto+json"
MAX_PAYLOAD_BYTES = 4 * 1024 * 1024  # the largest statement is a receipt body of 10,000 units
MAX_SIGNATURES = 4  # node, market, and later their ML-DSA-44 twins
SIGNATURE_BYTES = 64


@dataclass(frozen=True, slots=True)
class Signature:
    """One signature and the id of the key that made it."""

    keyid: KeyId
    sig: bytes


@dataclass(frozen=True, slots=True)
class Envelope:
    """Payload bytes, their media type, and signatures over both."""

    payload: bytes
    payload_type: str
    signatures: tuple[Signature, ...]

    def pae(self) -> bytes:
        """Return the bytes that are signed."""
        return pae(self.payload_type, self.payload)

    def leaf(self) -> bytes:
        """Return the log leaf, SHA-256(PAE): the log shows no price, customer or model."""
        return hashlib.sha256(self.pae()).digest()

    def to_json(self) -> dict[str, Json]:
        """Return the envelope as JSON members."""
        return {
            "payload": encode_base64(self.payload),
            "payloadType": self.payload_type,
            "signatures": [{"keyid": s.keyid, "sig": encode_base64(s.sig)} for s in self.signatures],
        }

    def to_bytes(self) -> bytes:
        """Return the envelope as canonical JSON bytes.

        Spelled out member by member in their order: base64 needs no escapes, and a payload is long.
        """
        signatures = b",".join(
            b'{"keyid":%b,"sig":"%b"}' % (canonical.encode(s.keyid), encode_base64(s.sig).encode())
            for s in self.signatures
        )
        payload, kind = encode_base64(self.payload).encode(), canonical.encode(self.payload_type)
        return b'{"payload":"%b","payloadType":%b,"signatures":[%b]}' % (payload, kind, signatures)


def pae(payload_type: str, payload: bytes) -> bytes:
    """Return the pre-authentication encoding (DSSE protocol.md)."""
    kind = payload_type.encode("utf-8")
    return b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(payload), payload)


def key_id(public_key: bytes) -> KeyId:
    """Return the id of a raw 32-byte Ed25519 public key."""
    return KeyId("ed25519:" + hashlib.sha256(ed25519.check(public_key)).hexdigest())


def public_bytes(key: Ed25519PrivateKey) -> bytes:
    """Return the raw 32-byte public half."""
    return key.public_key().public_bytes_raw()


def sign(payload: bytes, *keys: Ed25519PrivateKey, payload_type: str = STATEMENT_TYPE) -> Envelope:
    """Sign `payload` with every key, in order."""
    if len(payload) > MAX_PAYLOAD_BYTES:
        raise LimitExceeded("payload too large to sign", why=f"{len(payload):,} bytes, limit {MAX_PAYLOAD_BYTES:,}")
    message = pae(payload_type, payload)
    return Envelope(
        payload=payload,
        payload_type=payload_type,
        signatures=tuple(Signature(key_id(public_bytes(key)), key.sign(message)) for key in keys),
    )


def verify(envelope: Envelope, public_key: bytes, *, payload_type: str = STATEMENT_TYPE) -> bytes:
    """Check that the envelope's only signature is by `public_key`, and return the payload.

    Raises:
        Refuted: another type, key, key id, number of signatures, or a signature that does not hold.
        FormatError: `public_key` is none that may stand for somebody.
    """
    if envelope.payload_type != payload_type:
        raise Refuted("wrong payload type", why=f"{envelope.payload_type!r:.80}, expected {payload_type!r}")
    if len(envelope.signatures) != 1:
        raise Refuted("wrong number of signatures", why=f"{len(envelope.signatures)}, expected 1")
    signature = envelope.signatures[0]
    expected = key_id(public_key)
    if signature.keyid != expected:
        raise Refuted("signed by another key", why=f"{signature.keyid}, expected {expected}")
    try:
        ed25519.load(public_key).verify(signature.sig, envelope.pae())
    except InvalidSignature as err:
        raise Refuted("signature does not hold", why=f"key {expected}") from err
    return envelope.payload


def parse(value: Json) -> Envelope:
    """Read an envelope from JSON members (rule 3).

    Raises:
        FormatError: unknown or missing members, wrong types, base64 that is not canonical.
        LimitExceeded: more than MAX_SIGNATURES or MAX_PAYLOAD_BYTES.
    """
    members = _members(value, {"payload", "payloadType", "signatures"}, "DSSE envelope")
    payload_type, listed = members["payloadType"], members["signatures"]
    if not isinstance(payload_type, str) or not isinstance(listed, list):
        raise FormatError("DSSE envelope member of the wrong type")
    if not 1 <= len(listed) <= MAX_SIGNATURES:
        raise LimitExceeded("DSSE envelope signature count", why=f"{len(listed)}, expected 1 to {MAX_SIGNATURES}")
    payload = decode_base64(members["payload"], "payload")
    if len(payload) > MAX_PAYLOAD_BYTES:
        raise LimitExceeded("DSSE payload too large", why=f"{len(payload):,} bytes, limit {MAX_PAYLOAD_BYTES:,}")
    return Envelope(payload, payload_type, tuple(_parse_signature(item) for item in listed))


def from_bytes(data: bytes) -> Envelope:
    """Read an envelope from JSON bytes."""
    return parse(canonical.decode(data))


def encode_base64(data: bytes) -> str:
    """Return standard base64 with padding (RFC 4648 section 4)."""
    return binascii.b2a_base64(data, newline=False).decode("ascii")


def decode_base64(text: Json, name: str) -> bytes:
    """Decode canonical base64 only, so that no bit of the text is free to change."""
    if not isinstance(text, str):
        raise FormatError(f"{name} is not base64", why=f"a {type(text).__name__}")
    try:
        written = text.encode("ascii")
        data = binascii.a2b_base64(written, strict_mode=True)
    except (binascii.Error, UnicodeEncodeError) as err:
        raise FormatError(f"{name} is not base64", why=str(err)) from err
    # Strict decoding leaves one freedom, the unused bits before the padding: only the last group is written again.
    rest = len(data) % 3
    if len(written) != -(-len(data) // 3) * 4 or (
        rest and binascii.b2a_base64(data[-rest:], newline=False) != written[-4:]
    ):
        raise FormatError(f"{name} is not canonical base64")
    return data


def _parse_signature(value: Json) -> Signature:
    members = _members(value, {"keyid", "sig"}, "DSSE signature")
    keyid = members["keyid"]
    if not isinstance(keyid, str):
        raise FormatError("DSSE keyid is not a string")
    sig = decode_base64(members["sig"], "sig")
    if len(sig) != SIGNATURE_BYTES:
        raise FormatError("not an Ed25519 signature", why=f"{len(sig)} bytes")
    return Signature(KeyId(keyid), sig)


def _members(value: Json, names: set[str], what: str) -> dict[str, Json]:
    if not isinstance(value, dict):
        raise FormatError(f"{what} is not an object", why=f"a {type(value).__name__}")
    if set(value) != names:
        wrong = sorted(set(value) ^ names)
        raise FormatError(f"{what} has missing or unknown members", why=", ".join(wrong)[:200])
    return value
