"""NVIDIA reference manifests: SWID tags with golden values, signed by XML-DSig.

Rules:
1. No document type, no entities, no network, no huge trees. Any `xml:` attribute is refused: Canonical
   XML 1.0 and 1.1 differ only there, so one serialiser serves both.
2. One signature, a direct child of the root, with one reference to the whole document (URI "") and the
   enveloped-signature transform: what is read is exactly what is signed (signature wrapping).
3. ECDSA with SHA-384 by the certificate in KeyInfo that is no authority, whose chain ends in NVIDIA's pinned root.
   Signers live about two years: the evaluation time decides.
4. Golden values match where every active index of the manifest equals the report; manifest index i is
   SPDM measurement i + 1.
"""

from __future__ import annotations

import base64
import binascii
import functools
import hashlib
import hmac
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from cryptography.hazmat.primitives import hashes

from stannary.certify.evidence import spdm
from stannary.certify.evidence.collateral import CollateralKey
from stannary.certify.octets import unhex
from stannary.certify.outcomes import Appraisal, Examination, Step
from stannary.certify.pki import certificates, keys, revocation
from stannary.certify.pki.revocation import Status
from stannary.certify.remedies import Code
from stannary.errors import EnvironmentProblem, FormatError, UnsupportedFormat

if TYPE_CHECKING:
    from stannary.certify.evidence.basis import Basis
    from stannary.certify.evidence.spdm import SpdmReport
    from stannary.certify.pki.certificates import Certificate

MAX_MANIFEST_BYTES = 1 << 20
_DSIG = "{http://www.w3.org/2000/09/xmldsig#}"
_SWID = "{http://standards.iso.org/iso/19770/-2/2015/schema.xsd}"
_C14N = frozenset(
    {
        "http://www.w3.org/2006/12/xml-c14n11",
        "http://www.w3.org/2006/12/xml-c14n11#",
        "http://www.w3.org/TR/2001/REC-xml-c14n-20010315",
    }
)
_ENVELOPED = "http://www.w3.org/2000/09/xmldsig#enveloped-signature"
_ECDSA_SHA384 = "http://www.w3.org/2001/04/xmldsig-more#ecdsa-sha384"
_DIGESTS = {
    "http://www.w3.org/2001/04/xmldsig-more#sha384": "sha384",
    "http://www.w3.org/2001/04/xmlenc#sha256": "sha256",
    "http://www.w3.org/2001/04/xmlenc#sha512": "sha512",
}
NVDEC0_INDEX = 35  # not measured while the engine is off


@dataclass(frozen=True, slots=True)
class Golden:
    """Golden values of one measurement index; any alternative may match."""

    index: int
    name: str
    values: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class ReferenceManifest:
    """A parsed reference manifest and its signature parts."""

    name: str
    version: str
    golden: tuple[Golden, ...]  # active indices only
    signed_info: bytes  # canonical
    digest_ok: bool
    signature: bytes
    chain: tuple[Certificate, ...]


class RimVerifier:
    """Verifier of `nvrim` evidence."""

    kind = "nvrim"
    places = frozenset[str]()

    def parse(self, blob: bytes) -> ReferenceManifest:
        """Read a manifest."""
        return parse_manifest(blob)

    def collateral_keys(self, parsed: ReferenceManifest) -> tuple[CollateralKey, ...]:
        """Name the signer's OCSP answers."""
        return tuple(CollateralKey("nvidia-ocsp", f"{item.serial:x}") for item in parsed.chain[:-1])

    def appraise(self, parsed: ReferenceManifest, basis: Basis) -> Appraisal:
        """Check who signed a manifest; it binds no challenge."""
        exam = Examination(self.kind)
        exam.claims.update({"name": parsed.name, "version": parsed.version, "num_active": len(parsed.golden)})
        exam.not_applicable("nonce", "a manifest is not fresh evidence")
        check_signed(exam, parsed, basis)
        return exam.close()


@functools.lru_cache(maxsize=64)  # devices of one kind share their manifests
def parse_manifest(data: bytes) -> ReferenceManifest:
    """Read a SWID tag with one enveloped signature."""
    root = _tree(data)
    if root.tag != f"{_SWID}SoftwareIdentity":
        raise FormatError("not a reference manifest", why=f"root element {root.tag!r:.80}")
    signatures = list(root.iter(f"{_DSIG}Signature"))
    if len(signatures) != 1 or signatures[0].getparent() is not root:
        raise FormatError("manifest does not carry one enveloped signature", why=f"{len(signatures)} signatures")
    signature = signatures[0]
    info = _only(signature, f"{_DSIG}SignedInfo")
    _require_algorithm(info, f"{_DSIG}CanonicalizationMethod", _C14N)
    _require_algorithm(info, f"{_DSIG}SignatureMethod", {_ECDSA_SHA384})
    signed_info = _canonical(info)
    chain = _chain(signature)
    value = _base64(_only(signature, f"{_DSIG}SignatureValue").text, "signature value")
    expected, algorithm = _reference(info)
    meta = root.find(f"{_SWID}Meta")
    version = "" if meta is None else str(meta.get("colloquialVersion", ""))
    golden = _golden(root)
    _envelope(root, signature)
    digest = hashlib.new(algorithm, _canonical(root)).digest()
    return ReferenceManifest(
        name=str(root.get("name", "")),
        version=version,
        golden=golden,
        signed_info=signed_info,
        digest_ok=hmac.compare_digest(digest, expected),
        signature=value,
        chain=chain,
    )


def check_signed(exam: Examination, manifest: ReferenceManifest, basis: Basis) -> None:
    """Check chain, signature and revocation of a manifest's signer."""
    if basis.now is None:
        exam.waive("rim-chain-time", "no evaluation time given")
    path = certificates.find_chain(manifest.chain, basis.rules.roots.nvidia_rim, basis.now)
    exam.require_path("rim-chain", path)
    signed = keys.is_signed_raw(manifest.chain[0].spki, manifest.signature, manifest.signed_info, hashes.SHA384())
    exam.require(
        "rim-signature",
        manifest.digest_ok and signed,
        Step.SIGNATURE,
        Code.SIGNATURE_INVALID,
        observed="signature does not cover this manifest" if not manifest.digest_ok else "not signed by this key",
    )
    if path.root is None:
        return
    states = [
        revocation.ocsp_status(item, issuer, basis.collateral.ocsp, basis.now).status
        for item, issuer in pairwise(path.certificates)
    ]
    if Status.REVOKED in states:
        exam.refuse("rim-ocsp", Step.COLLATERAL, Code.REVOKED, observed="a signer of the manifest is revoked")
    elif Status.UNKNOWN in states:
        exam.waive("rim-ocsp", "could not check: OCSP answers are not carried for every signer")
        exam.cap(
            "rim-ocsp",
            Step.COLLATERAL,
            1,
            observed="manifest signer's status unknown",
            expected="good OCSP answers",
            remedy="carry NVIDIA's OCSP answers for the manifest's signer",
        )


def check_match(exam: Examination, manifest: ReferenceManifest, report: SpdmReport) -> None:
    """Compare a report with golden values (rule 4)."""
    nvdec_off = report.opaque.get(spdm.NVDEC0_STATUS, b"")[:1] == bytes([spdm.NVDEC0_DISABLED])
    compared, differing = 0, []
    for golden in manifest.golden:
        if golden.index == NVDEC0_INDEX and nvdec_off:
            exam.not_applicable("golden-35", "NVDEC0 is disabled: nothing was loaded to measure")
            continue
        compared += 1
        if report.measurements.get(golden.index + 1) not in golden.values:
            differing.append(golden.index)
    exam.claims["golden"] = f"{compared - len(differing)} of {compared}"
    exam.require(
        "golden",
        compared > 0 and not differing,
        Step.REFERENCE,
        Code.REFERENCE_MISMATCH,
        observed=f"{len(differing)} of {compared} differ, at index {differing[:8]}",
        expected=f"{manifest.name} {manifest.version}",
    )


def _tree(data: bytes) -> Any:
    try:
        from lxml import etree
    except ImportError as err:
        raise EnvironmentProblem(
            "cannot read reference manifests", why="lxml is not installed", hint="pip install 'stannary[certify]'"
        ) from err
    if len(data) > MAX_MANIFEST_BYTES:
        raise FormatError("manifest too large", why=f"{len(data):,} bytes, limit {MAX_MANIFEST_BYTES:,}")
    if b"<!DOCTYPE" in data or b"<!ENTITY" in data:
        raise FormatError("manifest has a document type", why="entities are refused")
    parser = etree.XMLParser(
        resolve_entities=False, no_network=True, load_dtd=False, huge_tree=False, remove_blank_text=False
    )
    try:
        root = etree.fromstring(data, parser)
    except (etree.XMLSyntaxError, ValueError) as err:
        raise FormatError("manifest is not XML", why=str(err)[:160]) from err
    if root.getroottree().docinfo.doctype:
        raise FormatError("manifest has a document type", why="entities are refused")
    for element in root.iter():
        if not isinstance(element.tag, str):
            continue  # comments and processing instructions carry no attributes
        if any(str(name).startswith("{http://www.w3.org/XML/1998/namespace}") for name in element.attrib):
            raise UnsupportedFormat("manifest uses xml: attributes", why=str(element.tag)[:80])
    return root


def _envelope(root: Any, signature: Any) -> None:
    """Take the signature out, but not the text behind it, which belongs to the document."""
    before = signature.getprevious()
    tail = signature.tail or ""
    if before is None:
        root.text = (root.text or "") + tail
    else:
        before.tail = (before.tail or "") + tail
    root.remove(signature)


def _canonical(element: Any) -> bytes:
    from lxml import etree

    try:
        return bytes(etree.tostring(element, method="c14n", exclusive=False, with_comments=False))
    except (etree.C14NError, ValueError) as err:
        raise FormatError("manifest has no canonical form", why=str(err)[:160]) from err


def _only(parent: Any, tag: str) -> Any:
    found = parent.findall(tag)
    if len(found) != 1:
        raise FormatError("manifest signature is not complete", why=f"{len(found)} of {tag.rpartition('}')[2]}")
    return found[0]


def _require_algorithm(parent: Any, tag: str, accepted: frozenset[str] | set[str]) -> None:
    algorithm = str(_only(parent, tag).get("Algorithm", ""))
    if algorithm not in accepted:
        raise UnsupportedFormat("manifest signature algorithm is not accepted", why=algorithm[:120])


def _reference(info: Any) -> tuple[bytes, str]:
    reference = _only(info, f"{_DSIG}Reference")
    if reference.get("URI") != "":
        raise FormatError("manifest signature does not cover the whole document", why=repr(reference.get("URI"))[:80])
    transforms = [str(item.get("Algorithm", "")) for item in reference.findall(f"{_DSIG}Transforms/{_DSIG}Transform")]
    if transforms[:1] != [_ENVELOPED] or any(item not in _C14N for item in transforms[1:]) or len(transforms) > 2:
        raise UnsupportedFormat("manifest signature transforms are not accepted", why=", ".join(transforms)[:160])
    algorithm = _DIGESTS.get(str(_only(reference, f"{_DSIG}DigestMethod").get("Algorithm", "")))
    if algorithm is None:
        raise UnsupportedFormat("manifest digest algorithm is not accepted")
    return _base64(_only(reference, f"{_DSIG}DigestValue").text, "digest value"), algorithm


def _chain(signature: Any) -> tuple[Certificate, ...]:
    found = signature.findall(f"{_DSIG}KeyInfo/{_DSIG}X509Data/{_DSIG}X509Certificate")
    if not 1 <= len(found) <= certificates.MAX_CERTIFICATES:
        raise FormatError("manifest carries no signer certificates or too many", why=str(len(found)))
    return certificates.order(tuple(certificates.parse(_base64(item.text, "signer certificate")) for item in found))


def _golden(root: Any) -> tuple[Golden, ...]:
    found: list[Golden] = []
    for item in root.findall(f"{_SWID}Payload/{_SWID}Resource"):
        active = str(item.get("active", "false")).lower()
        if active not in {"true", "1", "false", "0"}:
            raise FormatError("manifest resource is neither active nor not", why=repr(active)[:40])
        if item.get("type") != "Measurement" or active in {"false", "0"}:
            continue
        index = str(item.get("index", ""))
        if not index.isascii() or not index.isdigit() or len(index) > 3:
            raise FormatError("manifest resource has no index", why=repr(index)[:40])
        values = [
            unhex(value, "golden value")
            for name, value in sorted(item.attrib.items())
            if str(name).rpartition("}")[2].startswith("Hash")
        ]
        if not values or any(golden.index == int(index) for golden in found):
            raise FormatError("manifest resource has no value or appears twice", why=index)
        found.append(Golden(int(index), str(item.get("name", "")), tuple(values)))
    return tuple(found)


def _base64(text: str | None, what: str) -> bytes:
    try:
        return base64.b64decode("".join((text or "").split()), validate=True)
    except (binascii.Error, ValueError) as err:
        raise FormatError(f"{what} is not base64", why=str(err)) from err
