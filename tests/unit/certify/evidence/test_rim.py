"""Reference manifests as XML lets them be written: what is read is exactly what is signed, or it is refused."""

from __future__ import annotations

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from tests.unit.certify import rim_world, world
from tests.unit.certify.rim_world import C14N11, DSIG, ENVELOPED, SWID, body, resource

from stannary.certify.evidence import rim, spdm
from stannary.certify.evidence.basis import Basis
from stannary.certify.evidence.collateral import Collateral
from stannary.certify.evidence.verifier import examine
from stannary.certify.outcomes import Examination
from stannary.certify.rules import Rules

SIGNER = rim_world.Signer()
RULES = Rules(roots=SIGNER.roots)
A, B, ZERO = "aa" * 48, "bb" * 48, "00" * 48
PLAIN = body(resource(0, A), resource(7, B, A), resource(9, ZERO, active="False"))


def _outcome(blob: bytes, *, rules: Rules = RULES) -> str:
    return examine(
        rim.RimVerifier(), blob, Basis(bound=None, collateral=Collateral(), now=world.NOW, rules=rules)
    ).outcome


def test_plain_manifest_is_valid_under_its_root():
    """A manifest is valid under its vendor's root and refused under another's."""
    blob = SIGNER.sign(PLAIN)
    assert _outcome(blob) == "valid"
    assert _outcome(blob, rules=Rules()) == "refuse:chain-invalid"
    assert [item.index for item in rim.parse_manifest(blob).golden] == [0, 7]


@pytest.mark.parametrize("digest", ["sha256", "sha384", "sha512"])
@pytest.mark.parametrize("prefix", ["ds:", "", "sig:"])
def test_every_digest_and_prefix(digest, prefix):
    """SHA-256, 384 and 512 digests and any prefix of the signature's namespace are read."""
    assert _outcome(SIGNER.sign(PLAIN, digest=digest, prefix=prefix)) == "valid"


@pytest.mark.parametrize(
    "text",
    [
        PLAIN.replace("<SoftwareIdentity xmlns=", "<s:SoftwareIdentity xmlns:s=").replace("<Meta", "<s:Meta")
        .replace("Payload>", "s:Payload>").replace("</s:Payload", "</s:Payload").replace("<Resource", "<s:Resource")
        .replace("</SoftwareIdentity", "</s:SoftwareIdentity").replace("<s:s:", "<s:").replace("</s:s:", "</s:"),
        body(resource(0, A), head='<?xml version="1.0" encoding="UTF-8"?>\n'),
        body("<!-- said -->", resource(0, A), "<!-- and more -->"),
        body("<![CDATA[ &lt; ]]>", resource(0, A)),
        body("&#x20;&lt;", resource(0, A)),
        body("<?target data?>", resource(0, A)),
        body(resource(0, A), tail="\n  behind the signature\n"),
        body("\n   ", resource(0, A), "\r\n"),
        PLAIN.replace("<Payload>", "{signature}<Payload>").replace("</Payload>{signature}", "</Payload>"),
        PLAIN.replace(' name="GH100"', " name='GH&#49;00'   corpus = \"false\" "),
    ],
    ids=["prefixed", "declaration", "comments", "cdata", "references", "instruction", "tail", "spaces", "first", "odd"],
)  # fmt: skip
def test_every_way_to_write_it_is_one_document(text):
    """Prefixes, comments, CDATA, references, instructions, white space and the signature's place change nothing."""
    blob = SIGNER.sign(text)
    assert _outcome(blob) == "valid"
    assert rim.parse_manifest(blob).golden[0].values == (bytes.fromhex(A),)
    assert _outcome(blob.replace(A.encode(), B.encode(), 1)) == "refuse:signature-invalid"


def test_prefixed_hash_attributes_are_golden_values():
    """NVIDIA writes `SHA384:Hash0`: the attribute's local name counts, its alternatives each match."""
    text = PLAIN.replace("<Payload>", '<Payload xmlns:SHA384="http://www.w3.org/2001/04/xmlenc#sha384">')
    text = text.replace("Hash0", "SHA384:Hash0").replace("Hash1", "SHA384:Hash1")
    manifest = rim.parse_manifest(SIGNER.sign(text))
    assert {item.index: len(item.values) for item in manifest.golden} == {0: 1, 7: 2}
    assert _outcome(SIGNER.sign(text)) == "valid"


def test_comments_are_not_signed_and_hide_nothing():
    """A comment added after signing changes no value: canonical XML without comments is what is signed."""
    blob = SIGNER.sign(PLAIN)
    added = blob.replace(b"<Payload>", b"<Payload><!-- <Resource index='0'/> -->", 1)
    assert _outcome(added) == "valid"
    assert rim.parse_manifest(added).golden == rim.parse_manifest(blob).golden
    split = blob.replace(A.encode(), A[:48].encode() + b"<!---->" + A[48:].encode(), 1)
    assert _outcome(split) == "refuse:malformed"


@pytest.mark.parametrize(
    "head",
    [
        '<!DOCTYPE SoftwareIdentity [<!ENTITY a "b">]>',
        '<!DOCTYPE SoftwareIdentity SYSTEM "file:///etc/passwd">',
        "<!DOCTYPE SoftwareIdentity>",
        '<!DOCTYPE s [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;&a;"><!ENTITY c "&b;&b;&b;">]>',
    ],
)
def test_document_types_are_malformed(head):
    """Entities, external subsets and empty document types are refused before anything is read, in UTF-16 too."""
    blob = SIGNER.sign(PLAIN)
    assert _outcome(head.encode() + blob) == "refuse:malformed"
    wide = ('<?xml version="1.0" encoding="UTF-16"?>' + head + blob.decode()).encode("utf-16")
    assert _outcome(wide) == "refuse:malformed"


@pytest.mark.parametrize(
    ("options", "outcome"),
    [
        ({"digest": "sha1"}, "refuse:unsupported"),
        ({"digest": "urn:other"}, "refuse:unsupported"),
        ({"method": DSIG + "ecdsa-sha1"}, "refuse:unsupported"),
        ({"method": "http://www.w3.org/2001/04/xmldsig-more#hmac-sha384"}, "refuse:unsupported"),
        ({"c14n": "http://www.w3.org/2001/10/xml-exc-c14n#"}, "refuse:unsupported"),
        ({"c14n": "http://www.w3.org/TR/2001/REC-xml-c14n-20010315#WithComments"}, "refuse:unsupported"),
        ({"transforms": (ENVELOPED, "http://www.w3.org/TR/1999/REC-xpath-19991116")}, "refuse:unsupported"),
        ({"transforms": (C14N11,)}, "refuse:unsupported"),
        ({"transforms": (C14N11, ENVELOPED)}, "refuse:unsupported"),
        ({"transforms": (ENVELOPED, C14N11, C14N11)}, "refuse:unsupported"),
        ({"transforms": ()}, "refuse:unsupported"),
        ({"transforms": (ENVELOPED,)}, "valid"),
        ({"c14n": "http://www.w3.org/TR/2001/REC-xml-c14n-20010315"}, "valid"),
        ({"uri": ' URI="#GH100"'}, "refuse:malformed"),
        ({"uri": ' URI="file:///etc/passwd"'}, "refuse:malformed"),
        ({"uri": ""}, "refuse:malformed"),
        ({"more": f'<ds:Reference xmlns:ds="{DSIG}" URI=""/>'}, "refuse:malformed"),
    ],
)  # fmt: skip
def test_signature_covers_the_whole_document_by_known_algorithms(options, outcome):
    """Other digests, methods, canonical forms and transforms are unsupported; a reference to a part is malformed."""
    assert _outcome(SIGNER.sign(PLAIN, **options)) == outcome


def test_signature_wrapping_is_malformed():
    """A signature that is not the root's own child, or one of two, covers somebody else's document."""
    blob = SIGNER.sign(PLAIN).decode()
    start, end = blob.index("<ds:Signature "), blob.index("</ds:Signature>") + len("</ds:Signature>")
    signature, forged = blob[start:end], PLAIN.replace(A, B)
    inside = forged.replace("</Payload>{signature}", f"{signature}</Payload>")
    whole = forged.replace("{signature}", "").replace("</Payload>", f"</Payload>{blob}")
    twice = blob.replace(signature, signature * 2)
    objects = blob.replace("</ds:Signature>", f"<ds:Object>{signature}</ds:Object></ds:Signature>")
    for wrapped in (inside, whole, twice, objects):
        assert _outcome(wrapped.encode()) == "refuse:malformed"
    moved = forged.replace("{signature}", signature)
    assert _outcome(moved.encode()) == "refuse:signature-invalid"


def test_values_inside_the_signature_are_not_golden_values():
    """An object inside the signature is not covered by it, and is not read."""
    payload = f'<ds:Object><Payload xmlns="{SWID}">{resource(3, A)}</Payload></ds:Object>'
    blob = SIGNER.sign(PLAIN, objects=payload)
    assert _outcome(blob) == "valid"
    assert {item.index for item in rim.parse_manifest(blob).golden} == {0, 7}


def test_signers_certificates_may_come_in_any_order():
    """XML-DSig promises no order: the certificate that is no authority is the signer's."""
    chain = (SIGNER.leaf, SIGNER.middle, SIGNER.root)
    for order in (chain, chain[::-1], (SIGNER.middle, SIGNER.leaf), (SIGNER.leaf, SIGNER.middle)):
        assert _outcome(SIGNER.sign(PLAIN, chain=order)) == "valid"
    assert _outcome(SIGNER.sign(PLAIN, chain=(SIGNER.leaf,))) == "refuse:chain-invalid"
    assert _outcome(SIGNER.sign(PLAIN, chain=())) == "refuse:malformed"


def test_stranger_signs_nothing():
    """Another vendor's manifest, and ours with a stranger's key, are refused by their codes."""
    stranger = rim_world.Signer()
    assert _outcome(stranger.sign(PLAIN)) == "refuse:chain-invalid"
    assert _outcome(SIGNER.sign(PLAIN, key=stranger.leaf)) == "refuse:signature-invalid"
    small = world.issue("RIM L4", SIGNER.middle, curve=ec.SECP256R1())
    blob = SIGNER.sign(PLAIN, key=small, chain=(small, SIGNER.middle, SIGNER.root))
    assert _outcome(blob) == "valid"  # ECDSA with SHA-384 on P-256 is the certified signer's choice


@pytest.mark.parametrize(
    ("text", "outcome"),
    [
        (body(resource(0, A), resource(0, B)), "refuse:malformed"),
        (body(resource(0)), "refuse:malformed"),
        (body(resource("x", A)), "refuse:malformed"),
        (body(resource(-1, A)), "refuse:malformed"),
        (body(resource("", A)), "refuse:malformed"),
        (body(resource(1000, A)), "refuse:malformed"),
        (body(resource(0, "zz")), "refuse:malformed"),
        (body(resource(0, A, active="1")), "valid"),
        (body(resource(0, A, active="true")), "valid"),
        (body(resource(0, A, active="yes")), "refuse:malformed"),
        (PLAIN.replace("SoftwareIdentity", "Other"), "refuse:malformed"),
        (PLAIN.replace(SWID, "urn:other"), "refuse:malformed"),
        (PLAIN.replace("<Payload>", '<Payload xml:space="preserve">'), "refuse:unsupported"),
        (PLAIN.replace("<Payload>", '<Payload xml:base="file:///">'), "refuse:unsupported"),
    ],
)
def test_golden_values_that_do_not_read(text, outcome):
    """Doubled, missing or odd indices and values are malformed; `xml:` attributes have two canonical forms."""
    assert _outcome(SIGNER.sign(text)) == outcome


@pytest.mark.parametrize(
    "blob",
    [
        b"", b"<", b"<a/>", b"{}", b"\xff\xfe<\0a", b"<a>" * 100_000, b"<a b='" + b"c" * (11 << 20) + b"'/>",
        b'<?xml version="1.0" encoding="EBCDIC"?><a/>', b"<a xmlns:b=''/>", b"<a>\0</a>",
    ],
)  # fmt: skip
def test_what_is_no_manifest_is_malformed(blob):
    """Other XML, no XML, endless nesting and 11 MiB of attribute are malformed."""
    assert _outcome(blob) == "refuse:malformed"


def _match(golden: tuple[str, ...], measurements: dict[int, bytes], opaque: dict[int, bytes] | None = None) -> str:
    report = spdm.SpdmReport(b"", b"", b"", b"", measurements, opaque or {})
    exam = Examination("nvrim-match")
    rim.check_match(exam, rim.parse_manifest(SIGNER.sign(body(*golden))), report)
    return exam.close().outcome


def test_every_active_index_must_equal_one_alternative():
    """An index of the manifest is the SPDM measurement one above; any alternative matches, absence does not."""
    a, b, c = (bytes([value]) * 48 for value in (0xAA, 0xBB, 0xCC))
    golden = (resource(0, A), resource(7, B, A), resource(9, ZERO, active="False"))
    assert _match(golden, {1: a, 8: b, 10: c}) == "valid"
    assert _match(golden, {1: a, 8: a}) == "valid"
    for measured in ({1: a, 8: c}, {0: a, 7: b}, {1: a}, {}, {1: a[:47], 8: b}):
        assert _match(golden, measured) == "refuse:reference-mismatch"
    assert _match((resource(0, A, active="False"),), {1: a}) == "refuse:reference-mismatch"  # nothing compared
    assert _match((resource(0, A, active="1"),), {1: a}) == "valid"


def test_decoder_that_is_off_is_not_measured():
    """Index 35 is left out where the report says that the decoder is off, and only there."""
    golden = (resource(0, A), resource(35, B))
    a, b = b"\xaa" * 48, b"\xbb" * 48
    off, on = {spdm.NVDEC0_STATUS: b"\x55\0\0\0"}, {spdm.NVDEC0_STATUS: b"\xaa\0\0\0"}
    assert _match(golden, {1: a}, off) == "valid"
    assert _match(golden, {1: a}, on) == "refuse:reference-mismatch"
    assert _match(golden, {1: a, 36: b}, on) == "valid"
