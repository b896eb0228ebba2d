"""Keys that prove nothing: the eight points of small order and every second spelling are nobody's key."""

from __future__ import annotations

import base64

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from stannary.errors import FormatError, StannaryError
from stannary.formats import dsse, ed25519, note
from stannary.formats.note import KeyType, VerifierKey

P = ed25519.PRIME
D = -121665 * pow(121666, -1, P) % P
SQRT_MINUS_1 = pow(2, (P - 1) // 4, P)
IDENTITY = (0, 1)

Point = tuple[int, int]


def add(first: Point, second: Point) -> Point:
    """Add two points of the curve (RFC 8032 section 5.1.4, affine)."""
    (x1, y1), (x2, y2) = first, second
    common = D * x1 * x2 * y1 * y2 % P
    x3 = (x1 * y2 + x2 * y1) * pow(1 + common, -1, P)
    y3 = (y1 * y2 + x1 * x2) * pow(1 - common, -1, P)
    return x3 % P, y3 % P


def point_of(y: int, sign: int) -> Point | None:
    """Recover a point from its y coordinate and the sign of x (RFC 8032 section 5.1.3)."""
    square = (y * y - 1) * pow(D * y * y + 1, -1, P) % P
    x = pow(square, (P + 3) // 8, P)
    if x * x % P != square:
        x = x * SQRT_MINUS_1 % P
    if x * x % P != square:
        return None
    return (x if x & 1 == sign else P - x) % P, y % P


def spelled(y: int, sign: int) -> bytes:
    """Return the 32 bytes of a y coordinate, reduced or not, and a sign."""
    return (y | sign << 255).to_bytes(32, "little")


SMALL_Y = sorted(ed25519.SMALL_ORDER_Y)
CANONICAL = [spelled(y, sign) for y in SMALL_Y for sign in (0, 1)]
SECOND = [spelled(P + y, sign) for y in range(19) for sign in (0, 1)]  # every y of p and more that 255 bits hold


def test_the_list_is_that_of_the_eight_points() -> None:
    """Computed by the curve's own arithmetic: eight points, each the identity when doubled three times, and no more."""
    points = {point for y in SMALL_Y for sign in (0, 1) if (point := point_of(y, sign)) is not None}
    assert len(points) == 8
    for point in points:
        total = point
        for _ in range(3):
            total = add(total, total)
        assert total == IDENTITY


@pytest.mark.parametrize("raw", [*CANONICAL, *SECOND], ids=bytes.hex)
def test_such_a_key_is_refused_everywhere(raw: bytes) -> None:
    """No statement, key id, log key or witness key is made of one, whatever signature comes with it."""
    signed = dsse.sign(b"{}", Ed25519PrivateKey.generate())
    with pytest.raises(FormatError):
        ed25519.check(raw)
    with pytest.raises(StannaryError):
        dsse.key_id(raw)
    with pytest.raises(StannaryError):
        dsse.verify(signed, raw)
    for kind in KeyType:
        with pytest.raises(FormatError):
            note.format_vkey("market.example", raw, kind)
        with pytest.raises(FormatError):
            note.parse_vkey(str(VerifierKey("market.example", kind, raw)))


def test_openssl_would_take_a_signature_nobody_made() -> None:
    """Why the list is needed: under the identity point, R = B and S = 1 is a signature for every message."""
    base_y = 4 * pow(5, -1, P) % P
    forged = spelled(base_y, 0) + (1).to_bytes(32, "little")
    identity = Ed25519PublicKey.from_public_bytes(spelled(1, 0))
    for message in (b"one", b"another"):
        try:
            identity.verify(forged, message)
        except InvalidSignature:
            pytest.skip("this OpenSSL refuses it itself")


def test_honest_keys_are_taken() -> None:
    """Fresh keys pass, in their one spelling."""
    for _ in range(50):
        raw = dsse.public_bytes(Ed25519PrivateKey.generate())
        assert ed25519.check(raw) == raw
        assert base64.b64decode(dsse.encode_base64(raw)) == raw
    with pytest.raises(FormatError, match="31 bytes"):
        ed25519.check(bytes(31))
