"""Nitro documents as their CDDL varies them, signed by a test cloud: the outcome and its code."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from datetime import timedelta

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.certify import world

from stannary.certify.evidence import cbor
from stannary.certify.evidence.basis import Basis
from stannary.certify.evidence.collateral import Collateral
from stannary.certify.evidence.nitro import NitroVerifier
from stannary.certify.evidence.verifier import examine
from stannary.certify.pki.certificates import Anchors
from stannary.certify.rules import Roots, Rules
from stannary.errors import FormatError

ROOT = world.issue("aws.nitro-enclaves", ca=True)
ZONE = world.issue("zonal", ROOT, ca=True)
LEAF = world.issue("i-1-enc2", ZONE)
RULES = Rules(roots=Roots(nitro=Anchors(certificates=(ROOT.certificate,))))
PRESENT_MS = int(world.NOW.timestamp() * 1000)
ES384_HEADER = b"\xa1\x01\x38\x22"


@dataclass(frozen=True)
class Raw:
    """CBOR written as it stands."""

    data: bytes


def _head(major: int, value: int, width: int = 0) -> bytes:
    for code, size in ((24, 1), (25, 2), (26, 4), (27, 8)):
        if value < 24 and not width:
            return bytes([major << 5 | value])
        if (value < 1 << 8 * size and not width) or width == size:
            return bytes([major << 5 | code]) + value.to_bytes(size, "big")
    raise AssertionError(value)


def _encode(value: object) -> bytes:  # noqa: PLR0911  one return a type
    if isinstance(value, Raw):
        return value.data
    if value is None or isinstance(value, bool):
        return {None: b"\xf6", True: b"\xf5", False: b"\xf4"}[value]
    if isinstance(value, int):
        return _head(0, value) if value >= 0 else _head(1, -1 - value)
    if isinstance(value, bytes):
        return _head(2, len(value)) + value
    if isinstance(value, str):
        return _head(3, len(value.encode())) + value.encode()
    if isinstance(value, list):
        return _head(4, len(value)) + b"".join(_encode(item) for item in value)
    assert isinstance(value, dict)
    return _head(5, len(value)) + b"".join(_encode(name) + _encode(item) for name, item in value.items())


def _members(**changes: object) -> dict[object, object]:
    return {
        "module_id": "i-1-enc2", "digest": "SHA384", "timestamp": PRESENT_MS,
        "pcrs": {index: bytes([index + 1]) * 48 for index in range(16)}, "certificate": LEAF.certificate.raw,
        "cabundle": [ROOT.certificate.raw, ZONE.certificate.raw], "public_key": None, "user_data": None, "nonce": None,
        **changes,
    }  # fmt: skip


def _document(
    payload: object, *, header: bytes = ES384_HEADER, tag: bytes = b"", unprotected: object = None, key=LEAF.key
) -> bytes:
    body = payload if isinstance(payload, bytes) else _encode(payload)
    signed = _encode(["Signature1", header, b"", body])
    algorithm = hashes.SHA384() if isinstance(key.curve, ec.SECP384R1) else hashes.SHA256()
    return tag + _encode([header, unprotected or {}, body, world.raw_signature(key, signed, algorithm)])


def _outcome(document: bytes, *, bound=None, now=world.NOW, rules=RULES) -> str:
    return examine(NitroVerifier(), document, Basis(bound=bound, collateral=Collateral(), now=now, rules=rules)).outcome


@pytest.mark.parametrize("tag", [b"", b"\xd2"])
@pytest.mark.parametrize("num_pcrs", [3, 16, 32])
def test_tagged_and_untagged_documents_with_any_registers_are_valid(tag, num_pcrs):
    """COSE_Sign1 with tag 18 or without, binary or base64, with 3, 16 or 32 registers."""
    pcrs = {index: bytes([index + 1]) * 48 for index in range(num_pcrs)}
    document = _document(_members(pcrs=pcrs), tag=tag)
    assert _outcome(document) == "valid"
    assert _outcome(base64.encodebytes(document)) == "valid"
    assert _outcome(document, rules=Rules()) == "refuse:chain-invalid"


@pytest.mark.parametrize("tag", [b"\xd1", b"\xd8\x62", b"\xd2\xd2"])
def test_other_tags_are_not_this_structure(tag):
    """COSE_Mac0, COSE_Sign and doubled tags are not COSE_Sign1."""
    assert _outcome(_document(_members(), tag=tag)) in {"refuse:unsupported", "refuse:malformed"}


@pytest.mark.parametrize("value", [b"", b"\x01" * 1024])
def test_optional_members_may_be_absent_null_or_filled(value):
    """Public key, user data and nonce may be absent, null, empty or full."""
    filled = dict.fromkeys(("public_key", "user_data", "nonce"), value)
    assert _outcome(_document(_members(**filled))) == "valid"
    absent = {name: item for name, item in _members().items() if name not in filled}
    assert _outcome(_document(absent)) == "valid"


@pytest.mark.parametrize("value", ["", 0, False, [], {}, "nonce"])
def test_optional_members_of_another_type_are_malformed(value):
    """An empty text, a zero or an empty list is not an absent nonce."""
    assert _outcome(_document(_members(nonce=value))) == "refuse:malformed"


def test_nonce_is_the_verifiers():
    """A document over another nonce, or over none, is not an answer to ours."""
    document = _document(_members(nonce=b"n" * 32))
    assert _outcome(document, bound=b"n" * 32) == "valid"
    assert _outcome(document, bound=b"m" * 32) == "refuse:nonce-mismatch"
    assert _outcome(_document(_members()), bound=b"n" * 32) == "refuse:nonce-mismatch"


@pytest.mark.parametrize(
    ("header", "outcome"),
    [
        (b"\xa1\x01\x26", "refuse:unsupported"),  # ES256
        (b"\xa1\x01\x38\x23", "refuse:unsupported"),  # ES512
        (b"\xa0", "refuse:unsupported"),
        (b"", "refuse:malformed"),
        (b"\x01", "refuse:malformed"),
        (b"\xa2\x01\x38\x22\x02\x81\x18\x63", "refuse:unsupported"),  # a critical header nobody knows
        (b"\xa2\x01\x38\x22\x01\x26", "refuse:malformed"),  # two algorithms
        (b"\xa2\x01\x38\x22\x04\x41\x01", "valid"),  # a key id says nothing
    ],
)
def test_signed_header_names_one_algorithm(header, outcome):
    """Another algorithm, none, two, or critical headers are refused, signed as they are."""
    assert _outcome(_document(_members(), header=header)) == outcome


def test_nothing_rides_along_unsigned():
    """An unprotected header is refused, empty or not its own map."""
    for unprotected in ({1: -35}, {4: b"kid"}, [], b"x"):
        if unprotected:
            assert _outcome(_document(_members(), unprotected=unprotected)) == "refuse:malformed"


@pytest.mark.parametrize(
    ("changes", "outcome"),
    [
        ({"digest": "SHA512"}, "refuse:unsupported"),
        ({"digest": "SHA256"}, "refuse:unsupported"),
        ({"digest": None}, "refuse:malformed"),
        ({"module_id": ""}, "refuse:malformed"),
        ({"module_id": b"i-1"}, "refuse:malformed"),
        ({"timestamp": 0}, "refuse:malformed"),
        ({"timestamp": -1}, "refuse:malformed"),
        ({"timestamp": (1 << 48) - 1}, "refuse:malformed"),
        ({"timestamp": (1 << 64) - 1}, "refuse:malformed"),
        ({"timestamp": True}, "refuse:malformed"),
        ({"timestamp": (1 << 47) - 1}, "refuse:chain-invalid"),
        ({"timestamp": PRESENT_MS + 3_600_000}, "refuse:chain-invalid"),
        ({"pcrs": {}}, "refuse:malformed"),
        ({"pcrs": {0: b"\1" * 20}}, "refuse:malformed"),
        ({"pcrs": {32: b"\1" * 48}}, "refuse:malformed"),
        ({"pcrs": {-1: b"\1" * 48}}, "refuse:malformed"),
        ({"pcrs": {"0": b"\1" * 48}}, "refuse:malformed"),
        ({"pcrs": {0: bytes(48), 1: b"\1" * 48, 2: b"\1" * 48}}, "refuse:guest-policy"),
        ({"pcrs": {0: b"\1" * 48, 1: b"\1" * 48}}, "refuse:guest-policy"),
        ({"certificate": b""}, "refuse:malformed"),
        ({"certificate": ZONE.certificate.raw}, "refuse:signature-invalid"),
        ({"cabundle": []}, "refuse:chain-invalid"),
        ({"cabundle": [ROOT.certificate.raw]}, "refuse:chain-invalid"),
        ({"cabundle": [ROOT.certificate.raw] * 33}, "refuse:malformed"),
        ({"cabundle": None}, "refuse:malformed"),
        ({"later": "member"}, "valid"),
    ],
)
def test_each_member_has_its_code(changes, outcome):
    """Every member of the document that is not as its CDDL says has its own refusal."""
    assert _outcome(_document(_members(**changes))) == outcome


def test_bundle_may_come_in_any_order():
    """The bundle is written root first; the other order, or strangers inside, changes nothing."""
    stranger = world.issue("zonal", world.issue("other", ca=True), ca=True).certificate.raw
    for bundle in ([ZONE, ROOT], [ZONE]):
        assert _outcome(_document(_members(cabundle=[item.certificate.raw for item in bundle]))) == "valid"
    crowded = [stranger, ROOT.certificate.raw, ZONE.certificate.raw]
    assert _outcome(_document(_members(cabundle=crowded))) == "valid"


def test_signature_is_the_leafs():
    """A stranger's signature, a key of another curve and a cut signature are false signatures."""
    stranger = ec.generate_private_key(ec.SECP384R1())
    assert _outcome(_document(_members(), key=stranger)) == "refuse:signature-invalid"
    small = world.issue("i-1-enc3", ZONE, curve=ec.SECP256R1())
    document = _document(_members(certificate=small.certificate.raw), key=small.key)
    assert _outcome(document) == "refuse:signature-invalid"
    good = _document(_members())
    assert _outcome(good[: good.rindex(b"\x58\x60")] + b"\x58\x5f" + good[-96:-1]) == "refuse:signature-invalid"


@pytest.mark.parametrize(
    "payload",
    [
        _encode(_members(user_data=Raw(b"\x5f\x41\x01\xff"))),  # byte string in chunks
        _encode(_members(module_id=Raw(b"\x7f\x63i-1\xff"))),  # text string in chunks
        _encode(_members(user_data=Raw(b"\xdf\x01\xff"))),  # indefinite tag
        _encode({**_members(), "later": Raw(b"\xbf\x7f\x61a\xff\x01\xff")}),  # a key in chunks, within
        _encode(_members(user_data=Raw(b"\xbc"))),  # reserved length
        _encode(_members(user_data=Raw(b"\xf9\x3c\x00"))),  # a float
        _encode(_members(user_data=Raw(b"\xf7"))),  # undefined
    ],
)
def test_cbor_that_the_security_module_never_writes_is_unsupported(payload):
    """The security module writes no strings in chunks and no floats: anything else is somebody else's encoder."""
    assert _outcome(_document(payload)) == "refuse:unsupported"


def _open(value: object) -> Raw:
    """A map or list with an indefinite length and its break."""
    items = value if isinstance(value, list) else [item for pair in value.items() for item in pair]
    return Raw((b"\x9f" if isinstance(value, list) else b"\xbf") + b"".join(map(_encode, items)) + b"\xff")


def test_maps_and_lists_may_end_with_a_break():
    """AWS writes the payload as an indefinite map since 2025-12; lists and maps inside may be written so too."""
    members = _members()
    inner = {"pcrs": _open(members["pcrs"]), "cabundle": _open(members["cabundle"])}
    for payload in (_open(members), {**members, **inner}, _open({**members, **inner})):
        document = _document(payload)
        assert _outcome(document) == "valid"
        assert _outcome(document[:-100] + bytes([document[-100] ^ 1]) + document[-99:]) != "valid"
    tagged = {**members, "later": Raw(b"\xd8\x20\xbf\x01\x9f\xbf\xff\x80\xff\xff")}
    assert _outcome(_document(_open(tagged))) == "valid"  # in a member nobody reads
    debug = _open({**members, "pcrs": _open(dict.fromkeys(range(16), bytes(48)))})
    assert _outcome(_document(debug)) == "refuse:guest-policy"


_OPENED = _encode(_open(_members()))


@pytest.mark.parametrize(
    "payload",
    [
        _OPENED[:-1],  # no break
        _OPENED + b"\xff",  # two
        _OPENED + b"\xf6",
        _encode(_members()) + b"\xff",
        _OPENED[:-1] + b"\x65later\xff",  # a key without its value
        _OPENED[:-1] + b"\x65nonce\xf6\xff",  # a key twice
        _encode(_open({**_members(), "later": Raw(b"\xff")})),  # a break in a value's place
        _encode({**_members(), "later": Raw(b"\xff")}),
        _encode({**_members(), "later": [Raw(b"\xff")]}),
        _encode({**_members(), "later": Raw(b"\xc1\xff")}),
        _encode(
            {**_members(), "later": [{"a": 1}, Raw(b"\xbf\x61a\x01\x61a\x02\xff")]}
        ),  # a key twice in a list of maps
        _encode({**_members(), "later": Raw(b"\xbf\x01\xf6\x18\x01\xf6\xff")}),  # one number in two spellings
        _encode(_open({**_members(), "later": Raw(b"\x9f\x01")})),  # the list takes the map's break
        _encode({**_members(), "later": Raw(b"\xbf\x9f\xff\x01\xff")}),  # a list for a key
        _encode({**_members(), "later": Raw(b"\xbf\xc1\x01\x01\xff")}),  # a tag for a key
        _encode(_members(pcrs=Raw(b"\xd8\x20" + _encode(_members()["pcrs"])))),  # registers under a tag
        _encode({**_members(), "later": Raw(b"\x9f" * 40 + b"\xff" * 40)}),
        _encode({**_members(), "later": Raw(b"\x9f" + b"\xf6" * 4097 + b"\xff")}),
        b"\xff",
        b"\xbf",
    ],
)
def test_breaks_that_do_not_fit_are_malformed(payload):
    """Breaks missing, doubled or in an item's place, odd and doubled keys, depth and number beyond their limits."""
    assert _outcome(_document(payload)) == "refuse:malformed"


def test_only_the_payload_may_be_indefinite():
    """What frames the payload is signed by nobody, and the header has one encoding: both keep definite lengths."""
    good = _document(_members())
    assert _outcome(b"\x9f" + good[1:] + b"\xff") in {"refuse:malformed", "refuse:unsupported"}
    assert _outcome(_document(_members(), header=b"\xbf\x01\x38\x22\xff")) == "refuse:unsupported"
    assert _outcome(_document(_members(), unprotected=Raw(b"\xbf\xff"))) in {"refuse:malformed", "refuse:unsupported"}


_ITEMS = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**64), 2**64 - 1) | st.binary(max_size=30) | st.text(max_size=10),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.integers(0, 99) | st.text(max_size=5), inner, max_size=4)
    ),
    max_leaves=12,
)


@given(_ITEMS, st.data())
def test_every_choice_of_lengths_reads_as_the_same_value(value, data):
    """A map or list reads the same with a length or with a break, wherever each is chosen."""

    def choose(item: object) -> object:
        if isinstance(item, list):
            chosen: object = [choose(part) for part in item]
        elif isinstance(item, dict):
            chosen = {name: choose(part) for name, part in item.items()}
        else:
            return item
        return _open(chosen) if data.draw(st.booleans()) else chosen

    assert cbor.read(_encode(choose(value)), "item", indefinite=True) == value


@given(st.binary(max_size=60))
def test_reader_survives_any_bytes(data):
    """Whatever arrives is a value or our error, and what needs no break reads the same without the allowance."""
    try:
        value = cbor.read(data, "item", indefinite=True)
    except FormatError:
        with pytest.raises(FormatError):
            cbor.read(data, "item")
        return
    if 0x9F not in data and 0xBF not in data:
        assert repr(type(cbor.read(data, "item"))) == repr(type(value))


def test_cbor_that_lies_about_sizes_is_malformed():
    """Trailing bytes, cut documents, lengths beyond the end and depth beyond the limit do not read."""
    good = _document(_members())
    for damaged in (good + b"\0", good[:-1], b"\x85" + good[1:], b"\x84" + b"\x81" * 100, b"\x9b" + b"\xff" * 8):
        assert _outcome(damaged) == "refuse:malformed"
    wide = _encode(_members(user_data=Raw(_head(2, 1, width=8) + b"\1")))
    assert _outcome(_document(wide)) == "valid"  # an overlong length is signed as it stands and hides nothing


def test_documents_live_as_long_as_their_certificate():
    """The same document is refused before and after its certificate, at the ends of time too."""
    document = _document(_members())
    assert _outcome(document, now=world.NOW + timedelta(days=301)) == "refuse:chain-invalid"
    assert _outcome(document, now=world.NOW - timedelta(days=31)) == "refuse:chain-invalid"
    for edge in (world.NOW.min, world.NOW.max):
        assert _outcome(document, now=edge.replace(tzinfo=world.NOW.tzinfo)) == "refuse:chain-invalid"
