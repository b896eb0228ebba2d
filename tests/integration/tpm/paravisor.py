"""Azure's paravisor as a test plays it: a report in the NV memory of a software TPM, its key persistent.

The hardware report is signed by a chip vendor made here, so nothing of this passes under real roots.
"""

from __future__ import annotations

import base64
import hashlib
import json
import struct
from dataclasses import dataclass, field

from cryptography.hazmat.primitives.serialization import Encoding
from tests.unit.certify import world

from stannary.certify.collect import azure, tpm_client
from stannary.certify.collect.tpm_client import TpmClient
from stannary.certify.evidence import tpm_structures

_NV_UNDEFINE, _EVICT = 0x122, 0x120


@dataclass
class Paravisor:
    """Owns the vTPM and the report in it."""

    client: TpmClient
    is_tdx: bool = False
    amd: world.Amd = field(default_factory=world.Amd)

    def __post_init__(self) -> None:
        self.vcek = self.amd.vcek(world.SnpTcb(1, 2, 3, 4, 5))
        for index in (azure.REPORT_INDEX, azure.USER_DATA_INDEX):
            self.undefine(index)
        self.evict()
        with self.client.attestation_key(rsa=True) as key:
            self._persist(key.handle)
        self.public = self.client.read_public(azure.AK_HANDLE)
        self.publish(bytes(64))

    def publish(self, user_data: bytes, *, public: bytes | None = None) -> bytes:
        """Write a new report over what the guest wrote; return its TD or SNP report."""
        key = tpm_structures.parse_public(public or self.public).key.public_numbers()
        modulus = base64.urlsafe_b64encode(key.n.to_bytes(256, "big")).rstrip(b"=").decode()
        runtime = json.dumps(
            {
                "keys": [{"kid": "HCLAkPub", "key_ops": ["sign"], "kty": "RSA", "e": "AQAB", "n": modulus}],
                "vm-configuration": {"secure-boot": True, "tpm-enabled": True},
                "user-data": user_data.hex().upper(),
            }
        ).encode()
        bound = hashlib.sha256(runtime).digest().ljust(64, b"\0")
        hardware = self._hardware(bound)
        whole = 32 + len(hardware) + 20 + len(runtime)
        report = b"HCLA" + struct.pack("<IIII", 1, whole, 2, 0) + bytes(12) + hardware
        report += struct.pack("<IIIII", len(runtime) + 20, 1, 4 if self.is_tdx else 2, 1, len(runtime)) + runtime
        assert self.client.nv_write(
            azure.REPORT_INDEX, report.ljust(2048, b"\0")
        )  # as large as libtpms lets an index be
        return hardware

    def wait(self, _seconds: float) -> None:
        """What happens while a guest waits: the report is made anew over what it wrote."""
        self.publish(self.client.nv_read(azure.USER_DATA_INDEX))

    def undefine(self, index: int) -> None:
        """Remove an NV index."""
        body = struct.pack(">II", tpm_client.OWNER, index)
        self.client._attempt(0x8002, _NV_UNDEFINE, body + password())

    def evict(self) -> None:
        """Remove the persistent key."""
        handle = struct.pack(">I", azure.AK_HANDLE)
        self.client._attempt(0x8002, _EVICT, struct.pack(">I", tpm_client.OWNER) + handle + password() + handle)

    def metadata(self, path: str, body: bytes = b"") -> bytes:
        """The instance metadata service of an SNP machine."""
        assert path == "/metadata/THIM/amd/certification"
        assert not body
        chain = [self.amd.ask.built, self.amd.ark.built]
        return json.dumps(
            {
                "vcekCert": self.vcek.built.public_bytes(Encoding.PEM).decode(),
                "tcbm": "0000000000000000",
                "certificateChain": "".join(item.public_bytes(Encoding.PEM).decode() for item in chain),
                "cacheControl": "86400",
            }
        ).encode()

    def _hardware(self, bound: bytes) -> bytes:
        if not self.is_tdx:
            return self.amd.report(self.vcek, report_data=bound)
        return (bytes(128) + bound + bytes(832)).ljust(1184, b"\0")

    def _persist(self, handle: int) -> None:
        body = struct.pack(">II", tpm_client.OWNER, handle) + password() + struct.pack(">I", azure.AK_HANDLE)
        assert self.client._attempt(0x8002, _EVICT, body)[0] == 0


def td_quote(report_data: bytes) -> bytes:
    """A version 4 TD quote by nobody over report data."""
    body = bytes(520) + report_data
    chain = world.issue("PCK").built.public_bytes(Encoding.PEM)
    inner = bytes(384 + 64) + struct.pack("<H", 0) + struct.pack("<HI", 5, len(chain)) + chain
    section = bytes(128) + struct.pack("<HI", 6, len(inner)) + inner
    return struct.pack("<HHI", 4, 2, 0x81) + bytes(40) + body + struct.pack("<I", len(section)) + section


def password() -> bytes:
    """An authorization area of one empty password."""
    return struct.pack(">IIHBH", 9, tpm_client.PASSWORD, 0, 0, 0)
