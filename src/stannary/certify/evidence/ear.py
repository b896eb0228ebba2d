"""EAR tokens (draft-ietf-rats-ear-04): attestation results of other verifiers, as JWTs.

Rules: the key is the caller's, and the header's algorithm must be the one that fits it (no `none`,
no confusion between HMAC and keys); a key carried or named in the header decides nothing. Both spellings of
member names are read (`ear_status` and `ear.status`), one is written; a token outside its `exp`, `nbf` and
`iat` (RFC 7519 section 4.1) is refused at a given time. An EAR tells what its verifier believed: the tier of
a machine is never taken from one.
"""

from __future__ import annotations

import base64
import binascii
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import TYPE_CHECKING, TypeAlias

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519

from stannary.certify.evidence.collateral import CollateralKey
from stannary.certify.evidence.verifier import limit
from stannary.certify.outcomes import Appraisal, Examination, Step
from stannary.certify.pki import keys
from stannary.certify.remedies import Code
from stannary.errors import FormatError, UnsupportedFormat
from stannary.formats import canonical
from stannary.formats.ed25519 import load as load_ed25519

if TYPE_CHECKING:
    from stannary.certify.evidence.basis import Basis
    from stannary.formats.canonical import Json

MAX_TOKEN_BYTES = 1 << 20
MAX_KEYS = 64  # of a JWK Set: each costs a signature check
_Key: TypeAlias = "ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey"
_SEGMENTS = re.compile(rb"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+")
_CURVES: dict[str, tuple[str, ec.EllipticCurve, hashes.HashAlgorithm]] = {
    "P-256": ("ES256", ec.SECP256R1(), hashes.SHA256()),
    "P-384": ("ES384", ec.SECP384R1(), hashes.SHA384()),
    "P-521": ("ES512", ec.SECP521R1(), hashes.SHA512()),
}
_MIN_TIME, _MAX_TIME = 0, 1 << 36
_FRACTION = re.compile(r"\d{1,11}(\.\d{1,20})?([eE]\+?\d)?")
_EMBEDDED = frozenset({"crit", "b64"})  # what changes how the rest is read (RFC 7515 4.1.11, RFC 7797)


class EarStatus(StrEnum):
    """Trust tiers of AR4SI, in the spelling of EAR."""

    NONE = "none"
    AFFIRMING = "affirming"
    WARNING = "warning"
    CONTRAINDICATED = "contraindicated"


@dataclass(frozen=True, slots=True)
class EarToken:
    """A parsed token: what is signed, by which algorithm, and the claims inside."""

    signed: bytes
    signature: bytes
    algorithm: str
    claims: dict[str, Json]
    submods: dict[str, EarStatus]

    def time(self, name: str) -> datetime | None:
        """Return a numeric date claim."""
        value = self.claims.get(name)
        if value is None:
            return None
        if isinstance(value, str) and _FRACTION.fullmatch(value) is not None:
            value = int(float(value))  # NumericDate may have a fraction; whole seconds decide
        if isinstance(value, bool) or not isinstance(value, int) or not _MIN_TIME <= value < _MAX_TIME:
            raise FormatError(f"EAR {name} is not a time", why=f"{value!r:.40}")
        return datetime.fromtimestamp(value, UTC)


class EarVerifier:
    """Verifier of `ear` tokens under a JWK that the caller trusts: it comes as collateral."""

    kind = "ear"
    places = frozenset[str]()

    def parse(self, blob: bytes) -> EarToken:
        """Read a compact JWT."""
        return parse_token(blob)

    def collateral_keys(self, parsed: EarToken) -> tuple[CollateralKey, ...]:
        """Name the verifier's key."""
        return (CollateralKey("ear-jwk", str(parsed.claims.get("iss", ""))),)

    def appraise(self, parsed: EarToken, basis: Basis) -> Appraisal:
        """Check signature, time and nonce of a token."""
        exam = Examination(self.kind)
        exam.claims["submods"] = {name: status.value for name, status in parsed.submods.items()}
        exam.claims["eat_profile"] = parsed.claims.get("eat_profile", "")
        _check_signature(exam, parsed, basis.collateral.jwk)
        _check_time(exam, parsed, basis.now)
        _check_nonce(exam, parsed, basis.bound)
        return exam.close()


def read_jwk(data: bytes) -> dict[str, Json]:
    """Read a JWK or a JWK Set; members that others add to keys may be numbers of any kind."""
    jwk = canonical.decode_foreign(data)
    if not isinstance(jwk, dict):
        raise FormatError("not a JWK or JWK Set", why=f"top level is {type(jwk).__name__}")
    return jwk


def parse_token(blob: bytes) -> EarToken:
    """Read a compact JWT whose claims are an EAR."""
    token = limit(blob, "EAR token", MAX_TOKEN_BYTES).strip()
    if _SEGMENTS.fullmatch(token) is None:
        raise FormatError("not a compact JWT")
    head, body, tail = token.split(b".")
    header = canonical.decode_object(_unbase64(head))
    algorithm = header.get("alg")
    if not isinstance(algorithm, str) or _EMBEDDED & set(header):
        raise UnsupportedFormat("JWT header names no algorithm or critical members", why=f"{header!r:.80}")
    if algorithm not in {"ES256", "ES384", "ES512", "EdDSA", "Ed25519"}:
        raise UnsupportedFormat("JWT algorithm is not accepted", why=algorithm[:40])
    claims = canonical.decode_foreign(_unbase64(body))
    if not isinstance(claims, dict):
        raise FormatError("EAR claims are not an object")
    return EarToken(
        signed=head + b"." + body,
        signature=_unbase64(tail),
        algorithm=algorithm,
        claims=claims,
        submods=read_submods(claims),
    )


def read_submods(claims: dict[str, Json]) -> dict[str, EarStatus]:
    """Return the status of every submodule; an EAR without submodules is not one."""
    if not isinstance(claims.get("eat_profile"), str):
        raise FormatError("EAR has no eat_profile")
    listed = claims.get("submods")
    if not isinstance(listed, dict) or not listed:
        raise FormatError("EAR has no submods")
    found: dict[str, EarStatus] = {}
    for name, appraisal in listed.items():
        if not isinstance(appraisal, dict):
            raise FormatError("EAR appraisal is not an object", why=name[:60])
        given = [appraisal[item] for item in ("ear_status", "ear.status") if item in appraisal]
        if len(given) != 1:
            raise FormatError("EAR appraisal has no status, or two", why=name[:60])
        found[name] = _status(given[0])
    return found


def _status(value: Json) -> EarStatus:
    # Drafts before -02 wrote AR4SI's numbers: 0 none, 2 affirming, 32 warning, 96 contraindicated.
    numbers = {0: EarStatus.NONE, 2: EarStatus.AFFIRMING, 32: EarStatus.WARNING, 96: EarStatus.CONTRAINDICATED}
    if isinstance(value, int) and not isinstance(value, bool) and value in numbers:
        return numbers[value]
    if isinstance(value, str) and value in set(EarStatus):
        return EarStatus(value)
    raise FormatError("EAR status is not known", why=f"{value!r:.40}")


def _check_signature(exam: Examination, parsed: EarToken, jwk: dict[str, Json] | None) -> None:
    if jwk is None:
        exam.refuse("key", Step.CHAIN, Code.COLLATERAL_MISSING, observed="no verifier key given")
        return
    try:
        candidates = _usable(jwk)
    except FormatError as err:
        exam.refuse("key", Step.CHAIN, Code.COLLATERAL_INVALID, observed=err, expected="a JWK of the verifier")
        return
    exam.require(
        "signature",
        any(_signed(parsed, key, algorithm) for key, algorithm in candidates),
        Step.SIGNATURE,
        Code.SIGNATURE_INVALID,
        observed=f"{parsed.algorithm} signature is not by this key",
    )


def _usable(jwk: dict[str, Json]) -> list[tuple[_Key, str]]:
    """Load a JWK, or of a JWK Set every key that can be used: others are passed over (RFC 7517 section 5)."""
    if "keys" not in jwk:
        return [_load(jwk)]
    listed = jwk["keys"]
    if not isinstance(listed, list) or not 1 <= len(listed) <= MAX_KEYS:
        raise FormatError("JWK Set holds no keys or too many", why=f"limit {MAX_KEYS}")
    found: list[tuple[_Key, str]] = []
    why = "no key is an object"
    for item in listed:
        try:
            found += [_load(item)] if isinstance(item, dict) else []
        except FormatError as err:
            why = str(err)
    if not found:
        raise FormatError("JWK Set holds no key that can be used", why=why)
    return found


def _load(jwk: dict[str, Json]) -> tuple[_Key, str]:
    """Load a key and the one algorithm it signs with."""
    kind, curve = jwk.get("kty"), jwk.get("crv")
    operations = jwk.get("key_ops", ["verify"])
    if jwk.get("use", "sig") != "sig" or not isinstance(operations, list) or "verify" not in operations:
        raise FormatError("JWK is not for signatures", why=f"{jwk.get('use')!r:.20} {operations!r:.40}")
    if kind == "EC" and isinstance(curve, str) and curve in _CURVES:
        algorithm, named, _ = _CURVES[curve]
        key: _Key = keys.from_point(named, _text_bytes(jwk.get("x")), _text_bytes(jwk.get("y")))
    elif kind == "OKP" and curve == "Ed25519":
        algorithm, raw = "EdDSA", _text_bytes(jwk.get("x"))
        key = load_ed25519(raw)
    else:
        raise UnsupportedFormat("JWK of this kind is not accepted", why=f"{kind!r:.20} {curve!r:.20}")
    if _same_algorithm(str(jwk.get("alg", algorithm))) != algorithm:
        raise FormatError("JWK names another algorithm than its curve's", why=f"{jwk['alg']!r:.20}")
    return key, algorithm


def _same_algorithm(name: str) -> str:
    return "EdDSA" if name == "Ed25519" else name  # RFC 9864 names the curve in it


def _signed(parsed: EarToken, key: _Key, algorithm: str) -> bool:
    if _same_algorithm(parsed.algorithm) != algorithm:
        return False
    if isinstance(key, ed25519.Ed25519PublicKey):
        return keys.verify_ed25519(key, parsed.signature, parsed.signed)
    half = (key.curve.key_size + 7) // 8
    if len(parsed.signature) != 2 * half:
        return False
    digest = next(digest for name, _, digest in _CURVES.values() if name == algorithm)
    return keys.verify_ecdsa_raw(key, parsed.signature[:half], parsed.signature[half:], parsed.signed, digest)


def _check_time(exam: Examination, parsed: EarToken, now: datetime | None) -> None:
    if now is None:
        exam.waive("time", "no evaluation time given")
        return
    starts = [moment for moment in (parsed.time("nbf"), parsed.time("iat")) if moment is not None]
    start, end = max(starts, default=None), parsed.time("exp")
    inside = (start is None or start <= now) and (end is None or now < end)
    exam.require(
        "time", inside, Step.CHAIN, Code.CHAIN_INVALID, observed=f"token is for {start} .. {end}", expected=str(now)
    )


def _check_nonce(exam: Examination, parsed: EarToken, bound: bytes | None) -> None:
    if bound is None:
        exam.waive("nonce", "no challenge given; freshness is not shown")
        return
    value = parsed.claims.get("eat_nonce")
    given = value if isinstance(value, list) else [value]  # one, or several of several parties (RFC 9711 section 4.1)
    exam.require(
        "nonce",
        base64.urlsafe_b64encode(bound).rstrip(b"=").decode("ascii") in given,
        Step.NONCE,
        Code.NONCE_MISMATCH,
        observed=f"{value!r:.100}",
        expected=bound.hex(),
    )


def _text_bytes(value: Json) -> bytes:
    if not isinstance(value, str) or not value.isascii():
        raise FormatError("JWK member is not text")
    return _unbase64(value.encode("ascii"))


def _unbase64(segment: bytes) -> bytes:
    """Decode unpadded base64url, canonical only."""
    try:
        data = base64.b64decode(segment + b"=" * (-len(segment) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError) as err:
        raise FormatError("JWT segment is not base64url", why=str(err)) from err
    if base64.urlsafe_b64encode(data).rstrip(b"=") != segment:
        raise FormatError("JWT segment is not canonical base64url")
    return data
