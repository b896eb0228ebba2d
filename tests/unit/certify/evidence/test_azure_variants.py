"""Azure composites put together here, layer by layer: hardware, runtime claims, vTPM key, quote."""

from __future__ import annotations

import base64
import copy
import hashlib
import json
import struct
from dataclasses import dataclass, field

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from tests.unit.certify import intel_world, world
from tests.unit.certify.evidence.test_tpm_forms import RSA_KEY, RSASSA, Key

from stannary.certify.evidence.azure import AzureVerifier
from stannary.certify.evidence.basis import Basis
from stannary.certify.evidence.collateral import Collateral
from stannary.certify.evidence.tcb import pem
from stannary.certify.evidence.verifier import examine
from stannary.certify.rules import Generation, GoldenBoot, Rules, SnpTcb

LEVEL, CHIP = SnpTcb(3, 2, 10, 200), bytes(range(64))
NONCE = b"challenge"
AMD, INTEL = world.Amd(Generation.GENOA), intel_world.Intel()
VCEK = AMD.vcek(LEVEL, CHIP)
OTHER_KEY = rsa.generate_private_key(65537, 2048)


def _text(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


@dataclass
class Vm:
    """A confidential VM whose paravisor owns a vTPM."""

    key: rsa.RSAPrivateKey = field(default_factory=lambda: RSA_KEY)
    is_tdx: bool = False
    claims: dict[str, object] = field(default_factory=dict)
    header: dict[str, int] = field(default_factory=dict)
    rtmrs: tuple[bytes, ...] = (bytes(48),) * 4

    @property
    def runtime(self) -> bytes:
        """The claims the hardware vouches for."""
        numbers = self.key.public_key().public_numbers()
        modulus = _text(numbers.n.to_bytes(256, "big"))
        keys = [{"kid": "HCLAkPub", "key_ops": ["sign"], "kty": "RSA", "e": "AQAB", "n": modulus}]
        return json.dumps({"keys": keys, "vm-configuration": {"secure-boot": True}, **self.claims}).encode()

    @property
    def hash_type(self) -> int:
        """1 SHA-256, 2 SHA-384, 3 SHA-512."""
        return self.header.get("hash", 1)

    @property
    def report_data(self) -> bytes:
        """What the hardware report carries."""
        name = {1: "sha256", 2: "sha384", 3: "sha512"}.get(self.hash_type, "sha256")
        return hashlib.new(name, self.runtime).digest().ljust(64, b"\0")

    @property
    def hardware(self) -> bytes:
        """The hardware's report."""
        if self.is_tdx:
            return td_report(self.report_data, self.rtmrs)
        return AMD.report(VCEK, tcb=LEVEL, chip=CHIP, report_data=self.report_data)

    def hcl(self, hardware: bytes | None = None, runtime: bytes | None = None) -> bytes:
        """The paravisor's report."""
        hardware, runtime = hardware or self.hardware, runtime or self.runtime
        fields = {"version": 2, "request": 2, "status": 0, "data_version": 1, "type": 4 if self.is_tdx else 2}
        fields.update({"data": 20 + len(runtime), "size": len(runtime), **self.header})
        whole = self.header.get("whole", 32 + 1184 + 20 + len(runtime))
        head = b"HCLA" + struct.pack("<IIII", fields["version"], whole, fields["request"], fields["status"]) + bytes(12)
        middle = struct.pack(
            "<IIIII", fields["data"], fields["data_version"], fields["type"], self.hash_type, fields["size"]
        )
        return (head + hardware.ljust(1184, b"\0") + middle + runtime).ljust(2600, b"\0")

    def evidence(self, **changes: object) -> dict[str, object]:
        """The composite as its collector writes it."""
        registers = {index: bytes([index]) * 32 for index in range(24)}
        quoting = Key(self.key, RSASSA)
        attest = quoting.quote({"sha256": registers}, NONCE)
        quote = {
            "message": attest.hex(), "signature": quoting.sign(attest)[6:].hex(),
            "pcrs": [value.hex() for _, value in sorted(registers.items())],
        }  # fmt: skip
        members: dict[str, object] = {"version": 1, "hcl_report": _text(self.hcl()), "tpm_quote": quote}
        if self.is_tdx:
            members["td_quote"] = _text(INTEL.quote(rtmrs=self.rtmrs, report_data=self.report_data))
        else:
            members["vcek"] = pem([VCEK.certificate])
        return {**members, **changes}


def td_report(report_data: bytes, rtmrs: tuple[bytes, ...], **changes: bytes) -> bytes:
    """A TDREPORT of the domain that `intel_world` quotes."""
    tcb = (bytes(8) + intel_world.SVN + bytes(96) + bytes(8)).ljust(239, b"\0")
    info = struct.pack("<Q", intel_world.ATTRIBUTES) + bytes(8) + changes.get("mr_td", b"\1" * 48) + bytes(144)
    info = (info + b"".join(rtmrs)).ljust(512, b"\0")
    head = b"\x81".ljust(32, b"\0") + hashlib.sha384(tcb).digest() + hashlib.sha384(info).digest() + report_data
    return head.ljust(256, b"\0") + tcb + bytes(17) + info


SNP, TDX = Vm(), Vm(is_tdx=True)


def _outcome(members: object, *, bound=NONCE, is_tdx=False, collateral=None, rules=None) -> str:
    roots = AMD.roots if not is_tdx else INTEL.roots
    carried = Collateral(certificates=(AMD.ask.certificate, AMD.ark.certificate), intel=collateral)
    found = examine(
        AzureVerifier("azure-tdx" if is_tdx else "azure-snp"),
        members if isinstance(members, bytes) else json.dumps(members).encode(),
        Basis(bound=bound, collateral=carried, now=world.NOW, rules=rules or Rules(roots=roots)),
    )  # fmt: skip
    return found.outcome


def test_composites_of_both_kinds_are_valid():
    """A whole composite is valid with or without a challenge and Intel collateral, and never as the other kind."""
    assert _outcome(SNP.evidence()) == "valid"
    assert _outcome(TDX.evidence(), is_tdx=True) == "valid"
    assert _outcome(TDX.evidence(), is_tdx=True, collateral=INTEL.collateral()) == "valid"
    assert _outcome(SNP.evidence(), bound=None) == "valid"
    assert _outcome(SNP.evidence(), is_tdx=True) == "refuse:malformed"
    assert _outcome(TDX.evidence()) == "refuse:malformed"
    assert _outcome(SNP.evidence(), rules=Rules()) == "refuse:chain-invalid"


def test_every_spelling_is_one_composite():
    """Nested, with arrays of numbers, base64 with padding or hex: one composite."""
    members = SNP.evidence()
    raw = SNP.hcl()
    quote = copy.deepcopy(members["tpm_quote"])
    numbers = {
        "report": list(raw), "vcek": members["vcek"],
        "quote": {
            "message": list(bytes.fromhex(quote["message"])), "signature": list(bytes.fromhex(quote["signature"])),
            "pcrs": [list(bytes.fromhex(item)) for item in quote["pcrs"]],
        },
    }  # fmt: skip
    padded = {**members, "hcl_report": base64.b64encode(raw).decode()}
    for spelled in (
        numbers,
        padded,
        {"evidence": members},
        {**members, "hcl_report": raw.hex()},
        {**members, "later": 1},
    ):
        assert _outcome(spelled) == "valid"


@pytest.mark.parametrize("hash_type", [1, 2, 3])
def test_runtime_claims_are_hashed_as_the_report_says(hash_type):
    """SHA-256, 384 and 512 of the claims; the hash named must be the one the hardware carries."""
    assert _outcome(Vm(header={"hash": hash_type}).evidence()) == "valid"
    lying = Vm(header={"hash": hash_type % 3 + 1})
    members = lying.evidence(hcl_report=_text(lying.hcl(hardware=Vm(header={"hash": hash_type}).hardware)))
    assert _outcome(members) == "refuse:binding-mismatch"


@pytest.mark.parametrize("vm", [SNP, TDX], ids=["snp", "tdx"])
def test_claims_the_hardware_does_not_vouch_for_are_refused(vm):
    """Other claims behind the same hardware report, their key the same or another's, are not bound."""
    changed = Vm(vm.key, vm.is_tdx, {"vm-configuration": {"secure-boot": False}})
    members = vm.evidence(hcl_report=_text(vm.hcl(runtime=changed.runtime)))
    assert _outcome(members, is_tdx=vm.is_tdx) == "refuse:binding-mismatch"
    stolen = Vm(OTHER_KEY, vm.is_tdx)
    members = stolen.evidence(hcl_report=_text(vm.hcl(runtime=stolen.runtime)))
    if vm.is_tdx:
        members["td_quote"] = vm.evidence()["td_quote"]
    assert _outcome(members, is_tdx=vm.is_tdx) == "refuse:binding-mismatch"


@pytest.mark.parametrize("vm", [SNP, TDX], ids=["snp", "tdx"])
def test_key_of_another_machine_signs_nothing_here(vm):
    """A quote by another machine's vTPM, and another machine's whole HCL report, are false signatures."""
    other = Vm(OTHER_KEY, vm.is_tdx)
    for members in (
        vm.evidence(tpm_quote=other.evidence()["tpm_quote"]),
        vm.evidence(
            hcl_report=other.evidence()["hcl_report"],
            **({"td_quote": other.evidence()["td_quote"]} if vm.is_tdx else {}),
        ),
    ):
        assert _outcome(members, is_tdx=vm.is_tdx) == "refuse:signature-invalid"


def test_quote_of_another_domain_is_not_of_this_report():
    """A TD quote over the same claims with other registers, or a TDREPORT that lies, does not bind."""
    other = Vm(is_tdx=True, rtmrs=(b"\7" * 48,) * 4)
    assert _outcome(TDX.evidence(td_quote=other.evidence()["td_quote"]), is_tdx=True) == "refuse:binding-mismatch"
    for hardware in (
        td_report(TDX.report_data, TDX.rtmrs, mr_td=b"\2" * 48),
        TDX.hardware[:300] + b"\1" + TDX.hardware[301:],
        TDX.hardware[:600] + b"\1" + TDX.hardware[601:],
        TDX.hardware.ljust(1100, b"\1"),
    ):
        members = TDX.evidence(hcl_report=_text(TDX.hcl(hardware=hardware)))
        assert _outcome(members, is_tdx=True) == "refuse:binding-mismatch"


def test_challenge_is_in_the_vtpms_quote_only():
    """Another challenge is refused; a challenge in the hardware report alone makes nothing fresh."""
    assert _outcome(SNP.evidence(), bound=b"other") == "refuse:nonce-mismatch"
    quoting = Key(RSA_KEY, RSASSA)
    registers = {index: bytes([index]) * 32 for index in range(24)}
    attest = quoting.quote({"sha256": registers}, b"")
    empty = {
        "message": attest.hex(), "signature": quoting.sign(attest)[6:].hex(),
        "pcrs": [value.hex() for value in registers.values()],
    }  # fmt: skip
    for bound in (None, NONCE, b""):
        assert _outcome(SNP.evidence(tpm_quote=empty), bound=bound) == "refuse:binding-mismatch"


@pytest.mark.parametrize(
    ("header", "outcome"),
    [
        ({"version": 1}, "valid"),
        ({"version": 3}, "refuse:unsupported"),
        ({"request": 1}, "refuse:malformed"),
        ({"status": 1}, "refuse:malformed"),
        ({"data_version": 2}, "refuse:unsupported"),
        ({"hash": 0}, "refuse:unsupported"),
        ({"hash": 4}, "refuse:unsupported"),
        ({"type": 3}, "refuse:unsupported"),
        ({"type": 4}, "refuse:malformed"),
        ({"data": 1}, "refuse:malformed"),
        ({"whole": 2600}, "refuse:malformed"),
        ({"size": 10}, "refuse:malformed"),
        ({"size": 1 << 31}, "refuse:malformed"),
    ],
)
def test_header_of_the_paravisors_report(header, outcome):
    """Versions, types and sizes of the report are what one that was answered has."""
    assert _outcome(Vm(header=header).evidence()) == outcome


@pytest.mark.parametrize(
    "keys",
    [
        [], None, [{"kid": "HCLEkPub", "kty": "RSA", "e": "AQAB", "n": "AQAB"}], [{"kid": "HCLAkPub", "kty": "EC"}],
        [{"kid": "HCLAkPub", "kty": "RSA", "e": "AQAB", "n": "AQAB"}] * 2,
        [{"kid": "HCLAkPub", "kty": "RSA", "n": "AQAB"}],
    ],
)  # fmt: skip
def test_claims_name_one_attestation_key(keys):
    """No key, two keys, or a key of another kind do not read."""
    assert _outcome(Vm(claims={"keys": keys}).evidence()) == "refuse:malformed"


def test_registers_are_the_quoted_ones():
    """A register changed, one too few, of another size or order is not what the vTPM quoted."""
    quote = SNP.evidence()["tpm_quote"]
    changed = {**quote, "pcrs": ["11" * 32, *quote["pcrs"][1:]]}
    for altered in (changed, {**quote, "pcrs": quote["pcrs"][:23]}, {**quote, "pcrs": quote["pcrs"][::-1]}):
        assert _outcome(SNP.evidence(tpm_quote=altered)) == "refuse:binding-mismatch"
    for damaged in (["11" * 48] * 24, ["11" * 32] * 25, None, [None]):
        assert _outcome(SNP.evidence(tpm_quote={**quote, "pcrs": damaged})) == "refuse:malformed"
    golden = GoldenBoot("image", {4: b"\x04" * 32})
    wrong = GoldenBoot("image", {4: b"\x05" * 32})
    assert _outcome(SNP.evidence(), rules=Rules(roots=AMD.roots, golden_boots=(golden,))) == "valid"
    assert _outcome(SNP.evidence(), rules=Rules(roots=AMD.roots, golden_boots=(wrong,))) == "refuse:reference-mismatch"


@pytest.mark.parametrize(
    "changes",
    [
        {"hcl_report": None}, {"hcl_report": "!"}, {"hcl_report": [256]}, {"hcl_report": ""}, {"tpm_quote": None},
        {"tpm_quote": {}}, {"vcek": "AAAA"}, {"vcek": 7},
    ],
)  # fmt: skip
def test_parts_that_do_not_read_are_malformed(changes):
    """A report, quote or endorsement of another type or encoding is malformed."""
    assert _outcome(SNP.evidence(**changes)) == "refuse:malformed"


def test_missing_endorsements_have_their_codes():
    """No VCEK is missing collateral, another chip's a false signature; no TD quote does not read."""
    members = SNP.evidence()
    del members["vcek"]
    assert _outcome(members) == "refuse:collateral-missing"
    other = AMD.vcek(LEVEL, bytes(64))
    assert _outcome(SNP.evidence(vcek=pem([other.certificate]))) == "refuse:signature-invalid"
    without = TDX.evidence()
    del without["td_quote"]
    assert _outcome(without, is_tdx=True) == "refuse:malformed"
