"""Reference manifests of our own: SWID tags with golden values and one enveloped signature."""

from __future__ import annotations

import base64
import hashlib
from dataclasses import dataclass, field

from cryptography.hazmat.primitives import hashes
from lxml import etree
from tests.unit.certify import world

from stannary.certify.pki.certificates import Anchors

SWID = "http://standards.iso.org/iso/19770/-2/2015/schema.xsd"
DSIG = "http://www.w3.org/2000/09/xmldsig#"
SHA384 = "http://www.w3.org/2001/04/xmldsig-more#sha384"
C14N = "http://www.w3.org/2006/12/xml-c14n11"


@dataclass
class Signer:
    """Who signs manifests, under a root of its own."""

    root: world.Issued = field(default_factory=lambda: world.issue("CoRIM Root", ca=True))

    def __post_init__(self) -> None:
        self.authority = world.issue("Reference Value CA", self.root, ca=True)
        self.leaf = world.issue("RIM Signer", self.authority)

    @property
    def anchors(self) -> Anchors:
        """This root in place of NVIDIA's."""
        return Anchors(certificates=(self.root.certificate,))

    @property
    def chain(self) -> tuple[world.Issued, ...]:
        """Signer first."""
        return (self.leaf, self.authority, self.root)

    def manifest(self, version: str, values: dict[int, bytes], *, name: str = "GH100") -> bytes:
        """A signed manifest with golden values by index."""
        root = etree.Element(f"{{{SWID}}}SoftwareIdentity", nsmap={None: SWID}, name=name)
        etree.SubElement(root, f"{{{SWID}}}Meta", colloquialVersion=version)
        payload = etree.SubElement(root, f"{{{SWID}}}Payload")
        for index, value in values.items():
            etree.SubElement(
                payload, f"{{{SWID}}}Resource",
                {"type": "Measurement", "index": str(index), "active": "True", "Hash0": value.hex()},
            )  # fmt: skip
        digest = hashlib.sha384(etree.tostring(root, method="c14n")).digest()
        signature = etree.SubElement(root, f"{{{DSIG}}}Signature", nsmap={"ds": DSIG})
        info = etree.SubElement(signature, f"{{{DSIG}}}SignedInfo")
        etree.SubElement(info, f"{{{DSIG}}}CanonicalizationMethod", Algorithm=C14N)
        etree.SubElement(
            info, f"{{{DSIG}}}SignatureMethod", Algorithm="http://www.w3.org/2001/04/xmldsig-more#ecdsa-sha384"
        )
        reference = etree.SubElement(info, f"{{{DSIG}}}Reference", URI="")
        transforms = etree.SubElement(reference, f"{{{DSIG}}}Transforms")
        etree.SubElement(
            transforms, f"{{{DSIG}}}Transform", Algorithm="http://www.w3.org/2000/09/xmldsig#enveloped-signature"
        )
        etree.SubElement(reference, f"{{{DSIG}}}DigestMethod", Algorithm=SHA384)
        etree.SubElement(reference, f"{{{DSIG}}}DigestValue").text = base64.b64encode(digest).decode()
        raw = world.raw_signature(self.leaf.key, etree.tostring(info, method="c14n"), hashes.SHA384())
        etree.SubElement(signature, f"{{{DSIG}}}SignatureValue").text = base64.b64encode(raw).decode()
        data = etree.SubElement(etree.SubElement(signature, f"{{{DSIG}}}KeyInfo"), f"{{{DSIG}}}X509Data")
        for issued in self.chain:
            etree.SubElement(data, f"{{{DSIG}}}X509Certificate").text = base64.b64encode(
                issued.certificate.raw
            ).decode()
        return bytes(etree.tostring(root))
