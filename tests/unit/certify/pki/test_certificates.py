"""Chains to pinned roots at a given time."""

from __future__ import annotations

import functools
import time
from datetime import timedelta

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from tests.unit.certify import forge, world

from stannary.certify.pki import certificates
from stannary.certify.pki.certificates import Anchors, find_path
from stannary.errors import FormatError, LimitExceeded, UnsupportedFormat


@pytest.fixture
def chain():
    """Root, intermediate, leaf."""
    root = world.issue("Root", ca=True)
    middle = world.issue("Middle", root, ca=True)
    return root, middle, world.issue("Leaf", middle)


def _path(chain, *, now=world.NOW, roots=None):
    root, middle, leaf = chain
    roots = roots or Anchors(certificates=(root.certificate,))
    return find_path(leaf.certificate, [middle.certificate], roots, now)


def test_path_reaches_a_pinned_root(chain):
    """A path through carried intermediates ends in the pinned root, by certificate or by key pin."""
    assert _path(chain).root == chain[0].certificate
    root, middle, leaf = chain
    pinned = Anchors(key_pins=frozenset({root.certificate.key_pin}))
    assert find_path(leaf.certificate, [middle.certificate, root.certificate], pinned, world.NOW).root


def test_time_is_an_argument(chain):
    """The same chain is good today and not in two years; without a time it is not judged by it."""
    assert "not at" in _path(chain, now=world.NOW + timedelta(days=700)).problem
    assert _path(chain, now=None).root is not None


def test_root_of_the_same_name_is_not_the_root(chain):
    """A stranger's root with the pinned root's name signs nothing."""
    stranger = world.issue("Root", ca=True)
    path = _path(chain, roots=Anchors(certificates=(stranger.certificate,)))
    assert path.root is None
    assert not path.is_forged


def test_issuer_that_did_not_sign_is_a_false_signature(chain):
    """A carried issuer of the right name and another key is a forgery, not a gap."""
    root, _, leaf = chain
    impostor = world.issue("Middle", root, ca=True)
    path = find_path(leaf.certificate, [impostor.certificate], Anchors(certificates=(root.certificate,)), world.NOW)
    assert path.is_forged


def test_leaf_cannot_issue():
    """A certificate that is no authority issues nothing."""
    root = world.issue("Root", ca=True)
    leaf = world.issue("Leaf", root)
    below = world.issue("Below", leaf)
    path = find_path(below.certificate, [leaf.certificate], Anchors(certificates=(root.certificate,)), world.NOW)
    assert "no certificate authority" in path.problem


def test_path_length_and_critical_extensions_are_obeyed():
    """Path length limits and unknown critical extensions refuse."""
    root = world.issue("Root", ca=True, path_length=0)
    middle = world.issue("Middle", root, ca=True)
    leaf = world.issue("Leaf", middle)
    roots = Anchors(certificates=(root.certificate,))
    assert "below it" in find_path(leaf.certificate, [middle.certificate], roots, world.NOW).problem
    plain = world.issue("Root2", ca=True)
    odd = world.issue("Odd", plain, extensions={"1.2.3.4": b"\x05\x00"}, critical=True)
    found = find_path(odd.certificate, [], Anchors(certificates=(plain.certificate,)), world.NOW)
    assert "critical extension" in found.problem


def test_circle_of_certificates_ends():
    """Two authorities that signed each other are no endless path."""
    first = world.issue("A", ca=True)
    second = world.issue("B", first, ca=True)
    loop = world.issue("A", second, ca=True)
    path = find_path(second.certificate, [first.certificate, loop.certificate], Anchors(), world.NOW)
    assert path.root is None


def test_pem_and_der_bundles_read_alike(chain):
    """A bundle reads the same from PEM and DER."""
    from cryptography.hazmat.primitives.serialization import Encoding

    pem = b"".join(item.built.public_bytes(Encoding.PEM) for item in chain)
    assert certificates.load_bundle(pem) == tuple(item.certificate for item in chain)
    assert certificates.load_bundle(chain[0].certificate.raw) == (chain[0].certificate,)


def _forged_chain(*root_extensions: bytes, leaf_extensions: tuple[bytes, ...] = (), **leaf) -> tuple:
    """A root and a leaf written octet by octet."""
    root, leaf_party = forge.Party("Root"), forge.Party("Leaf")
    top = forge.parsed(root.certify(root, *(root_extensions or forge.AUTHORITY)))
    return top, root.certify(leaf_party, *leaf_extensions, **leaf)


def _ends(leaf: bytes, top, pool=(), now=world.NOW):
    return find_path(forge.parsed(leaf), pool, Anchors(certificates=(top,)), now)


@pytest.mark.parametrize("serial", [0, -5, 1 << 200, b"\x02\x02\x00\x01"])
def test_serial_numbers_are_read_as_they_are(serial):
    """Zero (AMD), negative, longer than 20 octets or padded serials are no reason to refuse a signed certificate."""
    top, leaf = _forged_chain(serial=serial)
    assert _ends(leaf, top).root == top


def test_times_are_utc_seconds_and_nothing_else():
    """9999-12-31 is read; fractions of seconds and offsets (RFC 5280 section 4.1.2.5.2) are malformed."""
    top, leaf = _forged_chain()
    assert forge.parsed(leaf).not_after.year == 9999
    for odd in (b"20260101000000.5Z", b"20260101000000+0100", b"202601010000Z", b"20261301000000Z"):
        with pytest.raises(FormatError, match="certificate time"):
            forge.parsed(_forged_chain(start=forge.tlv(0x18, odd))[1])
    early = forge.tlv(0x17, b"500101000000Z")
    assert forge.parsed(_forged_chain(start=early)[1]).not_before.year == 1950
    assert _ends(leaf, top, now=world.NOW.replace(year=2025)).root is None


def test_version_1_and_unknown_versions_are_unsupported():
    """A certificate without version 3 cannot say whether it may issue; another version is nobody's."""
    for version in (b"", b"\xa0\x03\x02\x01\x01", b"\xa0\x03\x02\x01\x03"):
        with pytest.raises(UnsupportedFormat):
            forge.parsed(_forged_chain(version=version)[1])


def test_extensions_are_unique_and_critical_ones_understood():
    """A doubled extension is malformed; an unknown one refuses only where it is critical."""
    odd = forge.extension("1.2.3.4", b"\x05\x00")
    with pytest.raises(FormatError, match="twice"):
        forge.parsed(_forged_chain(leaf_extensions=(odd, odd))[1])
    top, leaf = _forged_chain(leaf_extensions=(odd,))
    assert _ends(leaf, top).root == top
    critical = forge.extension("1.2.3.4", b"\x05\x00", critical=True)
    top, leaf = _forged_chain(leaf_extensions=(critical,))
    assert "critical extension 1.2.3.4" in _ends(leaf, top).problem


def test_two_signature_algorithms_are_malformed():
    """The algorithm inside and outside the signature must be one (RFC 5280 section 4.1.1.2)."""
    with pytest.raises(FormatError, match="two signature algorithms"):
        forge.parsed(_forged_chain(inner=bytes.fromhex("300a06082a8648ce3d040303"))[1])


@pytest.mark.parametrize(
    ("extensions", "reason"),
    [
        ((forge.key_usage(0x80),), "no certificate authority"),
        ((forge.constraints(), forge.key_usage(0x80)), "may not sign certificates"),
        ((forge.constraints(), forge.key_usage(0x04)), ""),
        ((forge.constraints(0),), ""),
    ],
)
def test_issuer_must_be_allowed_to_issue(extensions, reason):
    """Basic constraints and key usage of an issuer decide, not its signature alone."""
    root, middle, leaf = (forge.Party(text) for text in ("Root", "Middle", "Leaf"))
    top = forge.parsed(root.certify(root, *forge.AUTHORITY))
    pool = [forge.parsed(root.certify(middle, *extensions))]
    path = _ends(middle.certify(leaf), top, pool)
    assert path.problem.endswith(reason) if reason else path.root == top


def test_negative_path_length_is_malformed():
    """A path length below zero allows nothing and means nothing."""
    with pytest.raises(FormatError, match="negative"):
        forge.parsed(_forged_chain(forge.constraints(-1))[0].raw)


def test_self_issued_certificates_do_not_count_against_the_path_length():
    """A key rollover inside one name is free (RFC 5280 section 6.1.4)."""
    root, old, new, leaf = forge.Party("Root"), forge.Party("Middle"), forge.Party("Middle"), forge.Party("Leaf")
    top = forge.parsed(root.certify(root, forge.constraints(1)))
    pool = [forge.parsed(root.certify(old, *forge.AUTHORITY)), forge.parsed(old.certify(new, *forge.AUTHORITY))]
    assert _ends(new.certify(leaf), top, pool).root == top


@pytest.mark.parametrize("kinds", [(forge.UTF8, forge.PRINTABLE), (forge.PRINTABLE, forge.BMP)])
def test_names_chain_across_string_types_and_cases(kinds):
    """One name in two string types or two cases is one name (RFC 5280 section 7.1); another name is not."""
    root, leaf = forge.Party("Test  Root", kind=kinds[0]), forge.Party("Leaf")
    top = forge.parsed(root.certify(root, *forge.AUTHORITY))
    assert _ends(root.certify(leaf, issuer=forge.name("test root", kinds[1])), top).root == top
    assert _ends(root.certify(leaf, issuer=forge.name("test route", kinds[1])), top).root is None


def test_right_issuer_is_found_beside_wrong_ones_of_the_same_name():
    """An expired copy and a stranger of the issuer's name, before or behind the right one, change nothing."""
    root, middle, stranger, leaf = (forge.Party(text) for text in ("Root", "Middle", "Middle", "Leaf"))
    top = forge.parsed(root.certify(root, *forge.AUTHORITY))
    right = forge.parsed(root.certify(middle, *forge.AUTHORITY))
    expired = forge.parsed(root.certify(middle, *forge.AUTHORITY, end=forge.tlv(0x17, b"260201000000Z")))
    no_authority = forge.parsed(root.certify(middle))
    wrong = forge.parsed(root.certify(stranger, *forge.AUTHORITY))
    below = middle.certify(leaf)
    for pool in ([expired, no_authority, wrong, right], [right, wrong, no_authority, expired]):
        assert _ends(below, top, pool).root == top
    assert "not at" in _ends(below, top, [wrong, expired]).problem
    assert _ends(below, top, [wrong]).is_forged


def test_cross_signed_authority_reaches_the_pinned_root():
    """An issuer certified by a foreign root and by ours is followed to ours, whichever comes first."""
    ours, foreign, middle, leaf = (forge.Party(text) for text in ("Ours", "Foreign", "Middle", "Leaf"))
    top = forge.parsed(ours.certify(ours, *forge.AUTHORITY))
    pool = [
        forge.parsed(foreign.certify(foreign, *forge.AUTHORITY)),
        forge.parsed(foreign.certify(middle, *forge.AUTHORITY)),
        forge.parsed(ours.certify(foreign, *forge.AUTHORITY)),
        forge.parsed(foreign.certify(ours, *forge.AUTHORITY)),
    ]
    for carried in (pool, pool[::-1]):
        assert _ends(middle.certify(leaf), top, carried).root == top


def test_pinned_intermediate_ends_a_path():
    """A caller may pin an authority that is not self-signed (RFC 5280 section 6.1.1: any anchor)."""
    root, middle, leaf = (forge.Party(text) for text in ("Root", "Middle", "Leaf"))
    pinned = forge.parsed(root.certify(middle, *forge.AUTHORITY))
    assert _ends(middle.certify(leaf), pinned).root == pinned


def test_pinned_key_does_not_vouch_for_a_rewritten_root():
    """A carried root with the pinned key but other fields, signed by somebody else, ends nothing."""
    root, stranger, leaf = forge.Party("Root"), forge.Party("Root"), forge.Party("Leaf")
    rewritten = forge.parsed(stranger.certify(root, *forge.AUTHORITY))
    pins = Anchors(key_pins=frozenset({rewritten.key_pin}))
    assert find_path(forge.parsed(root.certify(leaf)), [rewritten], pins, world.NOW).root is None


def test_thousands_of_issuers_cost_a_bounded_time():
    """A bundle of a thousand, many issuers of one name, and layers that all sign one another end quickly."""
    with pytest.raises(FormatError):
        certificates.load_bundle(b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n" * 1000)
    top, leaf = _forged_chain()
    with pytest.raises(LimitExceeded):
        certificates.load_bundle(leaf * 33)
    impostor = forge.Party("Root")
    spare = [forge.Party("Root", key=impostor.key) for _ in range(1000)]
    crowd = [forge.parsed(impostor.certify(item, *forge.AUTHORITY, serial=n + 1)) for n, item in enumerate(spare)]
    layers = [[forge.Party(f"Layer {depth}") for _ in range(4)] for depth in range(6)]
    woven = [
        forge.parsed(above.certify(below, *forge.AUTHORITY))
        for depth in range(5)
        for above in layers[depth + 1]
        for below in layers[depth]
    ]
    started = time.process_time()
    assert _ends(leaf, top, crowd).root == top
    found = _ends(layers[0][0].certify(forge.Party("Leaf")), top, woven)
    assert time.process_time() - started < 1.0  # 64 signatures and 1,000 comparisons of names take about 0.02 s
    assert found.root is None


def test_search_checks_no_more_signatures_than_its_limit(monkeypatch):
    """Where every authority of six layers signed every one below, a thousand ways lead nowhere: 64 steps are tried."""
    layers = [[forge.Party(f"Layer {depth}") for _ in range(4)] for depth in range(6)]
    woven = [
        forge.parsed(above.certify(below, *forge.AUTHORITY))
        for depth in range(5)
        for above in layers[depth + 1]
        for below in layers[depth]
    ]
    checked: list[int] = []
    original = certificates.is_issued
    monkeypatch.setattr(
        certificates, "is_issued", lambda child, issuer: (checked.append(1), original(child, issuer))[1]
    )
    leaf = forge.parsed(layers[0][0].certify(forge.Party("Leaf")))
    assert find_path(leaf, woven, Anchors(), world.NOW).root is None
    # Beside the steps of the search, each dead end asks once whether it is a root of its own.
    assert len(checked) <= 2 * certificates.MAX_EDGES


def test_key_identifier_finds_the_issuer_in_a_crowd():
    """Where a hundred authorities share a name, the key identifier names the one to try first."""
    root, leaf = forge.Party("Root"), forge.Party("Leaf")
    top = forge.parsed(root.certify(root, *forge.AUTHORITY))
    crowd = []
    for number in range(100):
        middle = forge.Party("Middle")
        identifier = forge.extension(certificates.SUBJECT_KEY_ID, forge.tlv(0x04, number.to_bytes(20, "big")))
        crowd.append((middle, forge.parsed(root.certify(middle, *forge.AUTHORITY, identifier))))
    named = forge.extension(certificates.AUTHORITY_KEY_ID, forge.tlv(0x30, forge.tlv(0x80, (99).to_bytes(20, "big"))))
    below = crowd[99][0].certify(leaf, named)
    assert _ends(below, top, [item for _, item in crowd]).root == top


def test_der_certificates_in_a_row_are_a_bundle(chain):
    """Several DER certificates one behind the other read like a PEM bundle; a cut one does not read."""
    row = b"".join(item.certificate.raw for item in chain)
    assert certificates.load_bundle(row) == tuple(item.certificate for item in chain)
    with pytest.raises(FormatError):
        certificates.load_bundle(row[:-1])


def test_own_certificate_is_found_in_any_order(chain):
    """A device's certificates may come root first; its own is the one that is no authority."""
    bundle = tuple(item.certificate for item in chain)
    assert certificates.order(bundle)[0] == chain[2].certificate
    assert certificates.order(bundle[::-1]) == bundle[::-1]


def test_endorsement_key_with_oaep_parameters_is_an_rsa_key():
    """TPM makers certify RSA keys under id-RSAES-OAEP (RFC 4055 section 4.1): the key is the same one."""
    from cryptography.hazmat.primitives.asymmetric import rsa
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    from stannary.certify.pki import keys

    key = rsa.generate_private_key(65537, 2048).public_key()
    plain = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    bits = plain[plain.index(b"\x03\x82") :]
    oaep = forge.tlv(0x30, forge.tlv(0x30, forge.oid("1.2.840.113549.1.1.7"), forge.tlv(0x30)), bits)
    assert keys.load(oaep) == key
    with pytest.raises(FormatError):
        keys.load(forge.tlv(0x30, forge.tlv(0x30, forge.oid("1.2.840.113549.1.1.99")), bits))


@pytest.mark.parametrize("mark", [b"-----BEGIN", b"-----END", b"CERTIFICATE-----\nM", b"\nMII"])
def test_damaged_block_does_not_vanish_from_a_bundle(chain, mark):
    """A bundle with one block that does not read is malformed, never the same bundle without it."""
    from cryptography.hazmat.primitives.serialization import Encoding

    pem = b"".join(item.built.public_bytes(Encoding.PEM) for item in chain)
    for damaged in (
        pem.replace(mark, b"*" + mark[1:], 1),
        pem[: pem.rindex(mark)] + b"*" + pem[pem.rindex(mark) + 1 :],
    ):
        with pytest.raises(FormatError):
            certificates.load_bundle(damaged)
    assert len(certificates.load_bundle(b"subject=Leaf\n" + pem + b"\n\n")) == 3


def test_every_certificate_of_a_devices_chain_has_a_part(chain):
    """A changed or foreign certificate among a device's own refuses the chain, even where a pinned root stands in."""
    root, middle, leaf = (item.certificate for item in chain)
    roots = Anchors(certificates=(root,))
    for bundle in ((leaf, middle), (leaf, middle, root), (leaf, root, middle), (leaf, middle, middle)):
        assert certificates.find_chain(bundle, roots, world.NOW).root == root
    stranger = world.issue("Root", ca=True).certificate
    changed = bytearray(root.raw)
    changed[-1] ^= 1
    for spare in (stranger, forge.parsed(bytes(changed))):
        found = certificates.find_chain((leaf, middle, spare), roots, world.NOW)
        assert found.root is None
        assert "does not use" in found.problem
    assert certificates.find_chain((leaf,), roots, world.NOW).root is None


def test_certificate_is_not_a_place_to_store_things():
    """What is parsed is remembered, so a certificate of 32 KiB is over the limit before it is read."""
    big = forge.extension("1.2.3.4", bytes(33 * 1024))
    _, leaf = _forged_chain(leaf_extensions=(big,))
    with pytest.raises(LimitExceeded, match="too large"):
        forge.parsed(leaf)
    _, small = _forged_chain(leaf_extensions=(forge.extension("1.2.3.4", bytes(30 * 1024)),))
    assert len(forge.parsed(small).raw) > 30 * 1024


_PARTIES = [forge.Party(f"Party {number}") for number in range(5)]
_ENDED = forge.tlv(0x17, b"260201000000Z")


@functools.cache
def _edge(issuer: int, subject: int, flaw: str):
    """A certificate of one party for another: sound, expired, or of no authority."""
    extensions = () if flaw == "no authority" else forge.AUTHORITY
    end = {"end": _ENDED} if flaw == "expired" else {}
    return forge.parsed(_PARTIES[issuer].certify(_PARTIES[subject], *extensions, **end))


_EDGES = st.tuples(st.integers(0, 4), st.integers(0, 4), st.sampled_from(["sound", "sound", "expired", "no authority"]))


_DETOURS = [
    (0, 0, "sound"), (0, 0, "expired"), (0, 2, "expired"), (2, 0, "sound"), (4, 0, "sound"), (0, 2, "sound"),
]  # fmt: skip


@given(st.lists(_EDGES, max_size=9), st.integers(0, 4))
@example(_DETOURS, 2)  # what has ended used up the signatures that may be checked
def test_path_is_found_exactly_where_there_is_one(edges, signer):
    """Whatever the certificates between leaf and root, a path is found if and only if sound ones lead there."""
    root = _edge(4, 4, "sound")
    sound = {(issuer, subject) for issuer, subject, flaw in edges if flaw == "sound"} | {(4, 4)}
    reached, before = {signer}, set()
    while reached != before:
        before = set(reached)
        reached |= {issuer for issuer, subject in sound if subject in reached}
    leaf = forge.parsed(_PARTIES[signer].certify(forge.Party("Leaf", _PARTIES[0].key)))
    found = find_path(leaf, [_edge(*edge) for edge in edges], Anchors(certificates=(root,)), world.NOW)
    assert (found.root is not None) == (4 in reached), found.problem
    assert found.root is None or found.root == root
