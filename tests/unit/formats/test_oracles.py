"""Canonical JSON, envelopes and keys beside other people's: rfc8785 and securesystemslib say the same bytes.

Where they differ, they take more than we do, and each difference is a test: fractions and tuples as JSON (rfc8785);
unknown members, loose base64, any payload type and any key id in an envelope (securesystemslib).
"""

import base64
import json

import pytest
import rfc8785
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st
from securesystemslib.dsse import Envelope
from securesystemslib.exceptions import VerificationError
from securesystemslib.signer import CryptoSigner, SSlibKey

from stannary.errors import FormatError, LimitExceeded, Refuted
from stannary.formats import canonical, dsse

KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
PUBLIC = dsse.public_bytes(KEY)

characters = st.characters() | st.sampled_from('"\\/\x00\x08\x1f\x7f\u2028\ud7ff\ue000\uffff\U00010000\U0010ffff')
texts = st.text(characters, max_size=6)  # lone surrogates too
numbers = st.integers() | st.sampled_from([2**53 - 1, 2**53, -(2**53) + 1, -(2**53)])
values = st.recursive(
    st.none() | st.booleans() | numbers | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=12,
)
kinds = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)


@given(values)
def test_canonical_json_is_that_of_rfc8785(value):
    """Every value is spelled in the same bytes or refused by both: integers beyond 2**53 - 1, lone surrogates."""
    try:
        expected = rfc8785.dumps(value)
    except (rfc8785.CanonicalizationError, UnicodeEncodeError):  # the latter for a name: its sort order has no bytes
        with pytest.raises(FormatError):
            canonical.encode(value)
    else:
        assert canonical.encode(value) == expected
        assert canonical.is_canonical(canonical.decode(expected), expected)


@pytest.mark.parametrize("value", [1.5, 1.0, -0.0, 1e300, (1,)])
def test_rfc8785_writes_more_than_is_signed_here(value):
    """RFC 8785 has a spelling for fractions, and its writer one for tuples; neither is ever signed."""
    assert rfc8785.dumps([value])
    with pytest.raises(FormatError):
        canonical.encode([value])


def test_depth_is_limited_here_only():
    """The RFC bounds no depth, and a reader has to: 33 levels are written by rfc8785 and refused here."""
    value = []
    for _ in range(canonical.MAX_DEPTH + 1):
        value = [value]
    assert rfc8785.dumps(value) == b"[" * 34 + b"]" * 34
    with pytest.raises(LimitExceeded):
        canonical.encode(value)


def theirs(key: Ed25519PrivateKey = KEY) -> SSlibKey:
    """Return a public key as securesystemslib has it, under our name for it."""
    return SSlibKey.from_crypto(key.public_key(), keyid=dsse.key_id(dsse.public_bytes(key)))


@given(st.binary(max_size=200), kinds)
def test_our_envelopes_verify_with_securesystemslib(payload, kind):
    """What we sign is what securesystemslib reads: the same encoding, key and signature, through the JSON."""
    ours = dsse.sign(payload, KEY, payload_type=kind)
    read = Envelope.from_dict(json.loads(ours.to_bytes()))
    assert read.pae() == ours.pae()
    assert read.verify([theirs()], 1) == {ours.signatures[0].keyid: theirs()}
    assert canonical.encode(Envelope.from_dict(json.loads(ours.to_bytes())).to_dict()) == ours.to_bytes()


@given(st.binary(max_size=200), kinds)
def test_envelopes_of_securesystemslib_verify_here(payload, kind):
    """What securesystemslib signs with an Ed25519 key is read and believed."""
    made = Envelope(payload, kind, {})
    made.sign(CryptoSigner(KEY, theirs()))
    read = dsse.from_bytes(json.dumps(made.to_dict()).encode())
    assert dsse.verify(read, PUBLIC, payload_type=kind) == payload
    assert read == dsse.sign(payload, KEY, payload_type=kind)  # Ed25519 signs one message in one way


@given(st.data())
def test_a_changed_bit_is_refused_by_both(data):
    """Neither believes an envelope whose payload, type or signature was changed, or that another key signed."""
    made = dsse.sign(b'{"a":1}', KEY)
    parts = {
        "payload": made.payload, "type": made.payload_type.encode(), "sig": made.signatures[0].sig,
        "key": bytes(range(32)),
    }  # fmt: skip
    part = data.draw(st.sampled_from(sorted(parts)))
    raw = bytearray(parts[part])
    raw[data.draw(st.integers(0, len(raw) - 1))] ^= 1 << data.draw(st.integers(0, 6))
    parts[part] = bytes(raw)
    signer = theirs(Ed25519PrivateKey.from_private_bytes(parts["key"]))
    changed = {
        "payload": base64.b64encode(parts["payload"]).decode(),
        "payloadType": parts["type"].decode(),
        "signatures": [{"keyid": signer.keyid, "sig": base64.b64encode(parts["sig"]).decode()}],
    }
    ours = dsse.parse(changed)
    with pytest.raises(VerificationError):
        Envelope.from_dict(changed).verify([signer], 1)
    public = bytes.fromhex(signer.keyval["public"])
    with pytest.raises(Refuted):
        dsse.verify(ours, public, payload_type=ours.payload_type)


def test_securesystemslib_takes_envelopes_that_are_refused_here():
    """Unknown members, loose base64 and a key under any id are free bits: refused, though the signature holds."""
    made = dsse.sign(b'{"a":1}', KEY).to_json()
    (signature,) = made["signatures"]
    loose = made["payload"].replace("Q==", "R==")  # another text for the same bytes
    assert loose != made["payload"]
    named = SSlibKey.from_crypto(KEY.public_key(), keyid="anything")
    for changed, key in (
        ({**made, "note": "not signed"}, theirs()),
        ({**made, "payload": loose}, theirs()),
        ({**made, "signatures": [{**signature, "keyid": "anything"}]}, named),
    ):
        copy = json.loads(json.dumps(changed))
        assert Envelope.from_dict(copy).verify([key], 1)
        with pytest.raises((FormatError, Refuted)):
            dsse.verify(dsse.parse(changed), PUBLIC)
