"""DSSE envelopes and digests: every signed bit counts, and so does every unsigned one."""

import base64

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from stannary.errors import FormatError, LimitExceeded, Refuted, StannaryError
from stannary.formats import digest, dsse
from stannary.formats.ids import KeyId

KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
OTHER = Ed25519PrivateKey.from_private_bytes(bytes(32))
PUBLIC = dsse.public_bytes(KEY)
ENVELOPE = dsse.sign(b'{"a":1}', KEY)


def test_the_pae_of_the_specification():
    """The example of the DSSE protocol document."""
    assert dsse.pae("http://example.com/HelloWorld", b"hello world") == (
        b"DSSEv1 29 http://example.com/HelloWorld 11 hello world"
    )


def test_an_envelope_verifies_and_survives_its_json():
    """Signing, writing, reading and verifying gives the payload back."""
    read = dsse.from_bytes(ENVELOPE.to_bytes())
    assert read == ENVELOPE
    assert dsse.verify(read, PUBLIC) == b'{"a":1}'
    assert digest.from_raw(read.leaf()) == digest.digest(read.pae())


@given(st.data())
def test_any_flipped_bit_is_refused(data):
    """Payload, type, key id and signature: no bit is free."""
    part = data.draw(st.sampled_from(["payload", "payload_type", "keyid", "sig"]))
    text = {
        "payload": ENVELOPE.payload,
        "payload_type": ENVELOPE.payload_type.encode(),
        "keyid": ENVELOPE.signatures[0].keyid.encode(),
        "sig": ENVELOPE.signatures[0].sig,
    }
    raw = bytearray(text[part])
    raw[data.draw(st.integers(0, len(raw) - 1))] ^= 1 << data.draw(st.integers(0, 6))
    text[part] = bytes(raw)
    signature = dsse.Signature(KeyId(text["keyid"].decode()), text["sig"])
    with pytest.raises(Refuted):
        dsse.verify(dsse.Envelope(text["payload"], text["payload_type"].decode(), (signature,)), PUBLIC)


def test_another_key_and_another_number_of_signatures_are_refused():
    """One signature, by the key the caller names."""
    with pytest.raises(Refuted):
        dsse.verify(ENVELOPE, dsse.public_bytes(OTHER))
    with pytest.raises(Refuted):
        dsse.verify(dsse.sign(b"{}", KEY, OTHER), PUBLIC)
    with pytest.raises(Refuted):
        dsse.verify(dsse.sign(b"{}", KEY, payload_type="text/plain"), PUBLIC)


def test_unknown_members_and_limits_are_refused():
    """Everything is covered or absent."""
    members = ENVELOPE.to_json()
    (signature,) = members["signatures"]
    for changed in (
        {**members, "x": 1},
        {"payload": ""},
        {**members, "payloadType": 1},
        {**members, "signatures": []},
        {**members, "signatures": [signature] * 5},
        {**members, "signatures": [{**signature, "x": 1}]},
        {**members, "signatures": [{**signature, "sig": "AAAA"}]},
        {**members, "signatures": [{**signature, "keyid": 1}]},
        [],
    ):
        with pytest.raises(FormatError):
            dsse.parse(changed)
    with pytest.raises(LimitExceeded):
        dsse.sign(bytes(dsse.MAX_PAYLOAD_BYTES + 1), KEY)


@given(st.binary(max_size=40), st.data())
def test_base64_has_one_spelling(raw, data):
    """Canonical base64 is read; any other text that decodes to the same bytes is refused."""
    text = dsse.encode_base64(raw)
    assert text == base64.b64encode(raw).decode()
    assert dsse.decode_base64(text, "x") == raw
    position = data.draw(st.integers(0, len(text)))
    for changed in (text[:position] + "\n" + text[position:], text + "=", text.rstrip("="), "-" + text):
        if changed != text:
            with pytest.raises(FormatError):
                dsse.decode_base64(changed, "x")


@pytest.mark.parametrize("text", ["AB==", "AAB=", "é", 5, None, "A", "====", "AA=A"])
def test_spare_bits_and_other_types_are_refused(text):
    """Bits the decoder would drop, and what is no text, are refused."""
    with pytest.raises(FormatError):
        dsse.decode_base64(text, "x")


def test_digests_have_one_spelling():
    """Lower case, prefixed, 64 digits; raw values are 32 bytes."""
    spelled = digest.digest(b"x")
    assert digest.from_raw(digest.raw(spelled)) == spelled == digest.parse(spelled)
    for wrong in (spelled.upper(), spelled[7:], spelled + "0", spelled + "\n", "", None, 3):
        with pytest.raises(FormatError):
            digest.parse(wrong)
    with pytest.raises(FormatError):
        digest.from_raw(b"short")


@given(st.lists(st.binary(max_size=5), max_size=4), st.lists(st.binary(max_size=5), max_size=4))
def test_no_two_part_lists_collide(first, second):
    """Length prefixes keep ("ab", "c") apart from ("a", "bc"); the label keeps purposes apart."""
    assert (digest.hash_parts("l", *first) == digest.hash_parts("l", *second)) == (first == second)
    assert digest.hash_parts("l", *first) != digest.hash_parts("m", *first)


def test_public_keys_have_a_size():
    """A key id of anything but 32 bytes is refused."""
    with pytest.raises(StannaryError):
        dsse.key_id(b"short")


def test_a_payload_beyond_the_largest_statement_is_not_read():
    """What is too large to be signed here is refused when somebody else has signed it, too."""
    payload = base64.b64encode(bytes(dsse.MAX_PAYLOAD_BYTES + 3)).decode()
    with pytest.raises(LimitExceeded, match="DSSE payload too large"):
        dsse.parse({**dsse.sign(b"{}", KEY).to_json(), "payload": payload})
