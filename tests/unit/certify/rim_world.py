"""Reference manifests signed here: SWID tags with golden values, in every way XML lets one write them."""

from __future__ import annotations

import base64
import hashlib
from dataclasses import dataclass, field

from cryptography.hazmat.primitives import hashes
from lxml import etree
from tests.unit.certify import world

from stannary.certify.pki.certificates import Anchors
from stannary.certify.rules import Roots

SWID = "http://standards.iso.org/iso/19770/-2/2015/schema.xsd"
DSIG = "http://www.w3.org/2000/09/xmldsig#"
C14N11 = "http://www.w3.org/2006/12/xml-c14n11"
ENVELOPED = DSIG + "enveloped-signature"
DIGESTS = {
    "sha1": DSIG + "sha1",
    "sha256": "http://www.w3.org/2001/04/xmlenc#sha256",
    "sha384": "http://www.w3.org/2001/04/xmldsig-more#sha384",
    "sha512": "http://www.w3.org/2001/04/xmlenc#sha512",
}
ECDSA_SHA384 = "http://www.w3.org/2001/04/xmldsig-more#ecdsa-sha384"


def resource(index: object, *values: str, active: str = "True", prefix: str = "") -> str:
    """One golden value and its alternatives."""
    listed = " ".join(f'Hash{number}="{value}"' for number, value in enumerate(values))
    return f'<{prefix}Resource type="Measurement" index="{index}" active="{active}" name="m" {listed}/>'


def body(*resources: str, head: str = "", tail: str = "") -> str:
    """A tag without its signature, whose place is `{signature}`."""
    return (
        f'{head}<SoftwareIdentity xmlns="{SWID}" name="GH100"><Meta colloquialVersion="1.2"/>'
        f"<Payload>{''.join(resources)}</Payload>{{signature}}{tail}</SoftwareIdentity>"
    )


@dataclass
class Signer:
    """A vendor of manifests."""

    root: world.Issued = field(default_factory=lambda: world.issue("RIM root", ca=True))

    def __post_init__(self) -> None:
        self.middle = world.issue("RIM L3", self.root, ca=True)
        self.leaf = world.issue("RIM L4", self.middle)

    @property
    def roots(self) -> Roots:
        """Roots with this vendor instead of NVIDIA."""
        return Roots(nvidia_rim=Anchors(certificates=(self.root.certificate,)))

    def sign(  # what XML-DSig lets one choose
        self,
        text: str,
        *,
        digest: str = "sha384",
        prefix: str = "ds:",
        c14n: str = C14N11,
        method: str = ECDSA_SHA384,
        transforms: tuple[str, ...] = (ENVELOPED, C14N11),
        uri: str = ' URI=""',
        more: str = "",
        chain: tuple[world.Issued, ...] | None = None,
        objects: str = "",
        key: world.Issued | None = None,
    ) -> bytes:
        """Put a signature where `{signature}` stands and return the document."""
        bare = etree.fromstring(text.replace("{signature}", "").encode())
        name = digest if digest in hashlib.algorithms_guaranteed else "sha384"
        value = hashlib.new(name, etree.tostring(bare, method="c14n", with_comments=False)).digest()
        declared = f' xmlns{":" if prefix else ""}{prefix.rstrip(":")}="{DSIG}"'
        listed = "".join(f'<{prefix}Transform Algorithm="{item}"/>' for item in transforms)
        info = (
            f"<{prefix}SignedInfo{{ns}}>"
            f'<{prefix}CanonicalizationMethod Algorithm="{c14n}"/><{prefix}SignatureMethod Algorithm="{method}"/>'
            f"<{prefix}Reference{uri}><{prefix}Transforms>{listed}</{prefix}Transforms>"
            f'<{prefix}DigestMethod Algorithm="{DIGESTS.get(digest, digest)}"/>'
            f"<{prefix}DigestValue>{base64.b64encode(value).decode()}</{prefix}DigestValue></{prefix}Reference>{more}"
            f"</{prefix}SignedInfo>"
        )
        # SignedInfo is canonical with every namespace in scope: read it inside the whole document.
        template = f"<{prefix}Signature{declared}>{info.format(ns='')}{{rest}}</{prefix}Signature>"
        whole = etree.fromstring(text.replace("{signature}", template.replace("{rest}", "")).encode())
        (element,) = whole.iter(f"{{{DSIG}}}SignedInfo")
        signed = etree.tostring(element, method="c14n", with_comments=False)
        raw = world.raw_signature((key or self.leaf).key, signed, hashes.SHA384())
        certificates = "".join(
            f"<{prefix}X509Certificate>{base64.encodebytes(item.certificate.raw).decode()}</{prefix}X509Certificate>"
            for item in ((self.leaf, self.middle, self.root) if chain is None else chain)
        )
        rest = (
            f"<{prefix}SignatureValue>{base64.encodebytes(raw).decode()}</{prefix}SignatureValue>"
            f"<{prefix}KeyInfo><{prefix}X509Data>{certificates}</{prefix}X509Data></{prefix}KeyInfo>{objects}"
        )
        return text.replace("{signature}", template.replace("{rest}", rest)).encode()
