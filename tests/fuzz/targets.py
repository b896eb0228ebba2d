"""What is fuzzed: every parser that reads bytes of a party we do not trust, with a seed of its shape."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from tests import contents
from tests.unit.certify import world

from stannary.certify import activation, challenge, envelope, layers, policy, revocation_notice
from stannary.certify.collateral import items as collateral_items
from stannary.certify.collateral.plan import layer_needs
from stannary.certify.collect import azure as azure_collector
from stannary.certify.collect import nitro as nitro_collector
from stannary.certify.collect import sev_guest, tpm_client, tsm
from stannary.certify.envelope import Part
from stannary.certify.evidence import (
    azure,
    cbor,
    ccel,
    collateral,
    ear,
    event_log,
    intel_collateral,
    nitro,
    nvidia,
    quote,
    rim,
    secure_boot,
    snp_report,
    spdm,
    tpm_forms,
    tpm_structures,
)
from stannary.certify.evidence import tpm as tpm_evidence
from stannary.certify.evidence.basis import Basis
from stannary.certify.grade import transcript
from stannary.certify.pki import certificates, revocation
from stannary.certify.rules import Rules
from stannary.certify.vectors import boot_files
from stannary.formats import canonical, dsse
from stannary.seal.content import tensors, weight_index

_amd, _nvidia, _tpm = world.Amd(), world.Nvidia(), world.TpmKey()
_vcek = _amd.vcek(world.SnpTcb(1, 2, 3, 4, 5))
_device = _nvidia.device()
_report = _nvidia.report(_device, bytes(32), board=("G520", "0280", "895"))
_watcher = Ed25519PrivateKey.generate()
_notice = revocation_notice.sign(revocation_notice.packaged(), _watcher)
_attest, _signature = _tpm.quote(b"x" * 48, {0: bytes(32)})


def _bench(data: bytes) -> Any:
    return transcript.parse(canonical.decode_object(data))


class _Answering:
    """A TPM that gives the same bytes to every command."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def exchange(self, _command: bytes) -> bytes:
        return self._data

    def close(self) -> None:
        """Nothing is open."""


def _quote(data: bytes) -> Any:
    return tpm_client.TpmClient(_Answering(data)).quote(tpm_client.Loaded(1, b""), b"x")


def _log(data: bytes) -> None:
    """Everything that is done to a log before its registers are compared."""
    log = event_log.parse_log(data)
    for bank in log.banks:
        log.replay(bank)
        secure_boot.secure_boot(log, bank)


def _keys(data: bytes) -> None:
    verifier, jwk = ear.EarVerifier(), canonical.decode_object(data)
    token = verifier.parse(
        b"eyJhbGciOiJFUzI1NiJ9.eyJlYXRfcHJvZmlsZSI6InAiLCJzdWJtb2RzIjp7ImEiOnsiZWFyX3N0YXR1cyI6MH19fQ.AAAA"
    )
    verifier.appraise(token, Basis(bound=None, collateral=collateral.Collateral(jwk=jwk), now=None, rules=Rules()))


TARGETS: dict[str, Callable[[bytes], Any]] = {
    "azure-snp": lambda data: azure.parse_composite(data, is_tdx=False),
    "azure-tdx": lambda data: azure.parse_composite(data, is_tdx=True),
    "azure-metadata": lambda data: azure_collector.vcek_of(lambda *_: data),
    "bench": _bench,
    "boot-registers": boot_files.read_registers,
    "cbor": lambda data: cbor.read(data, "CBOR", indefinite=True),
    "ccel": ccel.parse_ccel,
    "certificates": certificates.load_bundle,
    "challenge": challenge.parse,
    "collateral-items": collateral_items.parse,
    "collateral-plan": lambda data: layer_needs(
        layers.read("gpu/1", Part("nvgpu", _report, certificates=(data,), rims=(data,))), {}
    ),
    "credential": lambda data: activation.is_for(data, _device.key.public_key()),
    "crl": revocation.parse_crl,
    "ear": ear.parse_token,
    "envelope": envelope.parse,
    "ear-keys": _keys,
    "event-log": _log,
    "hcl": azure.parse_hcl,
    "intel-collateral": intel_collateral.read_intel_collateral,
    "nitro": nitro.parse_document,
    "nsm-answer": nitro_collector.read_answer,
    "nvgpu": nvidia.DeviceVerifier().parse,
    "nvgpu-json": nvidia.FleetVerifier().parse,
    "nvrim": rim.parse_manifest,
    "ocsp": revocation.parse_ocsp,
    "policy": policy.parse,
    "quote": quote.parse_quote,
    "safetensors-header": lambda data: tensors.parse_header(data, tensors.LENGTH_BYTES + len(data) + 4),
    "revocation-notice": lambda data: revocation_notice.unverified(dsse.sign(data, _watcher)),
    "signed-member": lambda data: collateral.signed_member(data, "tcbInfo", ()),
    "sev-guest-answer": sev_guest.read_answer,
    "snp": snp_report.parse_report,
    "spdm": spdm.parse_report,
    "tpm": tpm_evidence.TpmVerifier().parse,
    "tpm-attestation": tpm_forms.parse_attestation,
    "tpm-attest": tpm_structures.parse_attest,
    "tpm-public": tpm_structures.parse_public,
    "tpm-response": _quote,
    "tpm-signature": tpm_structures.parse_signature,
    "tsm-table": tsm.read_table,
    "weight-index": lambda data: weight_index.check("m.index.json", contents.of_bytes(data), {"a"}),
}

SEEDS: dict[str, bytes] = {
    "boot-registers": b"sha256:\n  0 : 0x" + b"00" * 32 + b"\n",
    "certificates": _vcek.certificate.raw,
    "collateral-items": collateral_items.to_bytes([collateral_items.Item("amd-crl", "vcek/Turin", b"\x00")]),
    "collateral-plan": _device.certificate.raw,
    "crl": b"-----BEGIN X509 CRL-----\n"
    + base64.encodebytes(world.crl(_amd.ark, (1, 2)))
    + b"-----END X509 CRL-----\n",
    "credential": activation.make_credential(_device.certificate, b"\0\x0b" + bytes(32))[0],
    "event-log": world.event_log([(0, 8, b"abc"), (7, 0x80000001, bytes(40))]),
    "nsm-answer": b"\xa1\x6bAttestation\xa1\x68document\x43abc",
    "ocsp": world.ocsp(_device, _nvidia.issuer),
    "revocation-notice": _notice.payload,
    "snp": _amd.report(_vcek),
    "sev-guest-answer": (bytes(4) + (1184).to_bytes(4, "little") + bytes(24) + _amd.report(_vcek)).ljust(4000, b"\0"),
    "spdm": _nvidia.report(_device, bytes(32)),
    "tpm-attest": _attest,
    "tpm-attestation": b"\x0a\x01\x00\x12\x0a\x0a\x01\x00\x1a\x05\x08\x0b\x12\x01\x00",
    "tpm-public": _tpm.public,
    "tpm-response": bytes.fromhex("8002000000180000000000000008000474657374aabb0000"),
    "tpm-signature": _signature,
    "tpm": json.dumps(
        {
            "attest": _attest.hex(),
            "signature": _signature.hex(),
            "ak_public": _tpm.public.hex(),
            "pcrs": {"0": "00" * 32},
        }
    ).encode(),
    "cbor": b"\xbf\x01\x9f\x41\x00\x61a\xff\x61b\xa1\x02\x81\xf5\xff",
    "ear-keys": b'{"keys": [{"kty": "EC", "crv": "P-256", "x": "AQ", "y": "AQ"}, {"kty": "RSA", "n": "AQ"}]}',
    "nvgpu-json": json.dumps(
        {
            "nonce": "00" * 32,
            "arch": "HOPPER",
            "evidence_list": [
                {
                    "evidence": base64.b64encode(_nvidia.report(_device, bytes(32)) + bytes(64)).decode(),
                    "certificate": base64.b64encode(_device.certificate.raw).decode(),
                }
            ],
        }
    ).encode(),
    "safetensors-header": b'{"a": {"dtype": "F4", "shape": [8], "data_offsets": [0, 4]}, "__metadata__": {"a": "b"}}',
    "weight-index": b'{"metadata": {"total_size": 1}, "weight_map": {"w": "a", "v": "a"}}',
    "signed-member": b'{"tcbInfo": {"a": [1, {"b": "c"}]}, "signature": "00ff"}',
    "policy": b'name = "x"\nversion = 1\n',
}
