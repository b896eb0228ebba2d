"""EAR tokens in both spellings, by every accepted key, at every time: the outcome and its code."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from tests.unit.certify import world

from stannary.certify.evidence.basis import Basis
from stannary.certify.evidence.collateral import Collateral
from stannary.certify.evidence.ear import EarVerifier, read_jwk
from stannary.certify.evidence.verifier import examine
from stannary.certify.rules import Rules
from stannary.errors import FormatError

NOW_S = int(world.NOW.timestamp())
DASHED = {"eat_profile": "tag:test", "iat": NOW_S, "submods": {"cpu": {"ear_status": "affirming"}}}
DOTTED = {"eat_profile": "tag:test", "iat": NOW_S, "submods": {"cpu0": {"ear.status": "contraindicated"}}}
CURVES = {
    "ES256": ("P-256", ec.SECP256R1(), hashes.SHA256()),
    "ES384": ("P-384", ec.SECP384R1(), hashes.SHA384()),
    "ES512": ("P-521", ec.SECP521R1(), hashes.SHA512()),
}


def _text(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


class Signer:
    """A verifier's key under one algorithm."""

    def __init__(self, algorithm: str) -> None:
        self.algorithm = algorithm
        self.key = (
            Ed25519PrivateKey.generate() if algorithm == "EdDSA" else ec.generate_private_key(CURVES[algorithm][1])
        )

    @property
    def jwk(self) -> dict[str, object]:
        """Its public key."""
        public = self.key.public_key()
        if self.algorithm == "EdDSA":
            return {"kty": "OKP", "crv": "Ed25519", "x": _text(public.public_bytes_raw())}
        point, size = public.public_numbers(), (public.key_size + 7) // 8
        x, y = (_text(value.to_bytes(size, "big")) for value in (point.x, point.y))
        return {"kty": "EC", "crv": CURVES[self.algorithm][0], "x": x, "y": y}

    def sign(self, message: bytes) -> bytes:
        """A JOSE signature."""
        if self.algorithm == "EdDSA":
            return self.key.sign(message)
        return world.raw_signature(self.key, message, CURVES[self.algorithm][2])

    def token(self, claims: object, sign=None, **header: object) -> bytes:
        """A compact JWT."""
        head = {"typ": "JWT", "alg": self.algorithm, **header}
        body = claims if isinstance(claims, bytes) else json.dumps(claims).encode()
        signed = f"{_text(json.dumps(head).encode())}.{_text(body)}".encode()
        return signed + b"." + _text((sign or self.sign)(signed)).encode()


EDDSA, ES256 = Signer("EdDSA"), Signer("ES256")


def _outcome(token: bytes, jwk: dict[str, object] | None, *, bound=None, now=world.NOW) -> str:
    return examine(
        EarVerifier(), token, Basis(bound=bound, collateral=Collateral(jwk=jwk), now=now, rules=Rules())
    ).outcome


@pytest.mark.parametrize("algorithm", ["ES256", "ES384", "ES512", "EdDSA"])
@pytest.mark.parametrize("claims", [DASHED, DOTTED], ids=["ear_status", "ear.status"])
def test_both_spellings_by_every_key(algorithm, claims):
    """Either spelling verifies under its key and not under another of the same kind."""
    signer, other = Signer(algorithm), Signer(algorithm)
    assert _outcome(signer.token(claims), signer.jwk) == "valid"
    assert _outcome(signer.token(claims), other.jwk) == "refuse:signature-invalid"


@pytest.mark.parametrize(
    "submodule",
    [
        {"ear_status": 2}, {"ear.status": 96}, {"ear.status": "none"}, {"ear_status": "warning"},
        {"ear_status": "affirming", "ear_trustworthiness_vector": {"hardware": -1}, "later": None},
    ],
)  # fmt: skip
def test_statuses_in_words_and_numbers(submodule):
    """Drafts wrote numbers; words and numbers both read, beside members nobody knows."""
    assert _outcome(EDDSA.token({**DASHED, "submods": {"cpu": submodule}}), EDDSA.jwk) == "valid"


@pytest.mark.parametrize(
    "changes",
    [
        {"submods": {}}, {"submods": []}, {"submods": {"cpu": "affirming"}}, {"submods": {"cpu": {}}},
        {"submods": {"cpu": {"ear_status": "trusted"}}}, {"submods": {"cpu": {"ear_status": 3}}},
        {"submods": {"cpu": {"ear_status": True}}}, {"eat_profile": 7},
        {"submods": {"cpu": {"ear_status": "affirming", "ear.status": "contraindicated"}}},
        {"exp": "tomorrow"}, {"exp": -1}, {"exp": 1 << 60}, {"nbf": True}, {"exp": "1e999"},
    ],
)  # fmt: skip
def test_claims_that_are_no_result_are_malformed(changes):
    """No submodules, unknown or doubled statuses and times that are none are malformed, signed or not."""
    assert _outcome(EDDSA.token({**DASHED, **changes}), EDDSA.jwk) == "refuse:malformed"


@pytest.mark.parametrize(
    ("times", "outcome"),
    [
        ({"exp": NOW_S + 1}, "valid"),
        ({"exp": NOW_S}, "refuse:chain-invalid"),  # RFC 7519 section 4.1.4: on or after it, not accepted
        ({"nbf": NOW_S}, "valid"),
        ({"nbf": NOW_S + 1}, "refuse:chain-invalid"),
        ({"iat": NOW_S + 1}, "refuse:chain-invalid"),
        ({"nbf": 0, "iat": NOW_S + 1}, "refuse:chain-invalid"),
        ({"iat": NOW_S - 0.5, "exp": NOW_S + 0.5 + 1}, "valid"),
        ({"exp": NOW_S - 0.5}, "refuse:chain-invalid"),
    ],
)
def test_times_decide_at_a_given_moment(times, outcome):
    """Expiry, not-before and issue time decide at the evaluation time; without one they are not judged."""
    token = EDDSA.token({**DASHED, **times})
    assert _outcome(token, EDDSA.jwk) == outcome
    assert _outcome(token, EDDSA.jwk, now=None) == "valid"


def test_nonce_is_one_of_the_tokens():
    """One nonce, or one of several, is ours; another, none, or the raw bytes are not."""
    ours, other = b"n" * 32, b"m" * 32
    expected = {
        _text(ours): "valid", _text(other): "refuse:nonce-mismatch", "n" * 32: "refuse:nonce-mismatch",
    }  # fmt: skip
    for value, outcome in expected.items():
        assert _outcome(EDDSA.token({**DASHED, "eat_nonce": value}), EDDSA.jwk, bound=ours) == outcome
    several = EDDSA.token({**DASHED, "eat_nonce": [_text(other), _text(ours)]})
    assert _outcome(several, EDDSA.jwk, bound=ours) == "valid"
    assert _outcome(several, EDDSA.jwk, bound=b"k" * 32) == "refuse:nonce-mismatch"
    assert _outcome(EDDSA.token(DASHED), EDDSA.jwk, bound=ours) == "refuse:nonce-mismatch"


def test_numbers_of_other_verifiers_do_not_spoil_a_token():
    """Claims may hold fractions, 64-bit integers and nulls: they are read as what they are, and never written again."""
    evidence = {"policy": (1 << 64) - 1, "load": 0.25, "missing": None, "deep": [{"a": 1e300}]}
    claims = {**DOTTED, "submods": {"cpu0": {"ear.status": "none", "ear.veraison.annotated-evidence": evidence}}}
    assert _outcome(ES256.token(claims), ES256.jwk) == "valid"


def test_algorithm_is_the_keys():
    """`none`, HMAC over the public key, another curve's name and RSA are refused whatever the header says."""
    public = ES256.key.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
    spki = ES256.key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    for algorithm in ("none", "None", "nOnE", "HS256", "RS256", "PS256", "ES256K", ""):
        for secret in (public, spki, b""):
            forged = ES256.token(
                DASHED, lambda data, s=secret: hmac.new(s or b"\0", data, hashlib.sha256).digest(), alg=algorithm
            )
            assert _outcome(forged, ES256.jwk) == "refuse:unsupported"
    for algorithm in ("ES384", "ES512", "EdDSA"):
        assert _outcome(ES256.token(DASHED, alg=algorithm), ES256.jwk) == "refuse:signature-invalid"
    assert _outcome(ES256.token(DASHED, alg=["ES256"]), ES256.jwk) == "refuse:unsupported"
    assert _outcome(EDDSA.token(DASHED, alg="Ed25519"), EDDSA.jwk) == "valid"  # RFC 9864's name of the same


@pytest.mark.parametrize(
    "header",
    [
        {"jwk": Signer("ES256").jwk}, {"kid": "../../etc/passwd"}, {"kid": "other"}, {"jku": "https://evil.example/k"},
        {"x5c": ["AAAA"]}, {"x5u": "https://evil.example/c"},
    ],
)  # fmt: skip
def test_keys_named_or_carried_in_the_header_decide_nothing(header):
    """A key id, an address or a key inside the token neither helps a stranger nor harms the owner."""
    assert _outcome(ES256.token(DASHED, **header), ES256.jwk) == "valid"
    assert _outcome(Signer("ES256").token(DASHED, **header), ES256.jwk) == "refuse:signature-invalid"


@pytest.mark.parametrize("header", [{"crit": ["exp"]}, {"crit": []}, {"b64": False}, {"b64": True}])
def test_headers_that_change_the_reading_are_unsupported(header):
    """Critical members and unencoded payloads are not read in any other way than their own."""
    assert _outcome(ES256.token(DASHED, **header), ES256.jwk) == "refuse:unsupported"


def test_key_sets_are_tried_key_by_key():
    """A JWK Set holds the key somewhere; without it the signature is false, and an empty set is no key."""
    strangers = [Signer("ES384").jwk, Signer("EdDSA").jwk, Signer("ES256").jwk]
    token = ES256.token(DASHED)
    assert _outcome(token, {"keys": [*strangers, ES256.jwk]}) == "valid"
    assert _outcome(token, {"keys": strangers}) == "refuse:signature-invalid"
    assert _outcome(token, {"keys": []}) == "refuse:collateral-invalid"
    assert _outcome(token, {"keys": strangers * 30}) == "refuse:collateral-invalid"


def test_keys_of_a_set_that_are_not_understood_are_passed_over():
    """RFC 7517 section 5: keys of other kinds, uses and curves, and damaged ones, do not spoil the set."""
    foreign = [
        {"kty": "RSA", "n": "sXch", "e": "AQAB", "use": "sig", "alg": "RS256"}, {"kty": "oct", "k": "AAAA"}, {}, 7,
        {"kty": "AKP", "alg": "ML-DSA-44", "pub": "AAAA"}, {**EDDSA.jwk, "crv": "Ed448"}, {**ES256.jwk, "x": "!"},
        {"kty": "EC", "crv": "P-256"}, {**ES256.jwk, "x": _text(b"\1" * 32)}, {**EDDSA.jwk, "x": "AAAA"},
    ]  # fmt: skip
    token = ES256.token(DASHED)
    assert _outcome(token, {"keys": [*foreign, ES256.jwk]}) == "valid"
    assert _outcome(token, {"keys": [ES256.jwk, *foreign]}) == "valid"
    assert _outcome(token, {"keys": foreign}) == "refuse:collateral-invalid"
    assert _outcome(token, {"keys": [*foreign, Signer("ES256").jwk]}) == "refuse:signature-invalid"
    numbered = {**foreign[0], "exp": 1.5, "x-weight": 2**70, "nested": {"share": [0.25]}}
    assert _outcome(token, read_jwk(json.dumps({"keys": [numbered, ES256.jwk]}).encode())) == "valid"
    for bad in (b"[]", b"7", b"{", b'{"keys":[],"keys":[]}', b"\xff"):
        with pytest.raises(FormatError):
            read_jwk(bad)
    unusable = [{**ES256.jwk, "use": "enc"}, {**ES256.jwk, "key_ops": ["encrypt"]}, {**ES256.jwk, "alg": "ECDH-ES"}]
    assert _outcome(token, {"keys": unusable}) == "refuse:collateral-invalid"
    assert _outcome(token, {"keys": [*unusable, Signer("ES384").jwk]}) == "refuse:signature-invalid"
    assert _outcome(token, {"keys": [{**ES256.jwk, "key_ops": ["verify"]}]}) == "valid"


def test_keys_that_do_not_load_are_the_callers_fault():
    """A key of another kind, use, algorithm or curve is invalid collateral, not malformed evidence; none is missing."""
    modulus = rsa.generate_private_key(65537, 2048).public_key().public_numbers().n
    off_curve = {**ES256.jwk, "x": _text(b"\1" * 32)}
    for jwk in (
        {}, {"kty": "RSA", "n": _text(modulus.to_bytes(256, "big")), "e": "AQAB"}, {**ES256.jwk, "crv": "P-384"},
        {**ES256.jwk, "use": "enc"}, {**ES256.jwk, "alg": "ES384"}, {**ES256.jwk, "x": "!"}, off_curve,
        {**EDDSA.jwk, "x": "AAAA"}, {**EDDSA.jwk, "crv": "Ed448"}, {"kty": "oct", "k": "AAAA"},
    ):  # fmt: skip
        assert _outcome(ES256.token(DASHED), jwk) == "refuse:collateral-invalid", jwk
    assert _outcome(ES256.token(DASHED), None) == "refuse:collateral-missing"


@pytest.mark.parametrize(
    "token",
    [
        b"", b".", b"..", b"a.b", b"a.b.c.d", b"{}", ES256.token(DASHED) + b".", ES256.token(DASHED) + b"=",
        ES256.token(DASHED).replace(b".", b" .", 1), ES256.token(b"[1]"), ES256.token(b"{"), ES256.token(b'{"a":NaN}'),
        ES256.token(b'{"a":1,"a":2}'), ES256.token(b'{"a":' + b"[" * 40 + b"]" * 40 + b"}"), ES256.token(b"\xff"),
    ],
)  # fmt: skip
def test_what_is_no_token_is_malformed(token):
    """Other segment counts, padding, spaces, arrays, doubled members, NaN and depth 33 do not read."""
    assert _outcome(token, ES256.jwk) == "refuse:malformed"


def test_signature_has_one_encoding():
    """DER, cut, padded and stretched signatures are false; another spelling of the same segment does not read."""

    def stretched(data: bytes) -> bytes:
        return b"\0" + ES256.sign(data)

    def as_der(data: bytes) -> bytes:
        return ES256.key.sign(data, ec.ECDSA(hashes.SHA256()))

    for sign in (stretched, as_der, lambda data: ES256.sign(data)[:-1], lambda _: bytes(64), lambda _: b"\xff" * 64):
        assert _outcome(ES256.token(DASHED, sign), ES256.jwk) == "refuse:signature-invalid"
