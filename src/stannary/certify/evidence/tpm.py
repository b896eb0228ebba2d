"""TPM 2.0 evidence: a quote by a restricted key, its endorsement, registers and event log.

What it proves, and no more: this TPM, at this boot, had these registers. On a plain host that is
identity, not software: nothing a quote says stops root from reading a job's memory.

Rules:
1. The quoting key is restricted, fixedTPM and signing only: a quote by any other key verifies
   perfectly and proves nothing, because its owner can sign any bytes that start with the TPM's magic.
2. The endorsement key's certificate reaches a root that the policy names, and names this EK. A
   software TPM's root lives in `tpm_test` only and the result says so.
3. The attestation key is in the same TPM as the endorsement key only once a credential for both was
   activated (`MakeCredential`); until then the tier is capped.
4. resetCount and restartCount are the boot session: any change ends what an earlier appraisal said.
5. The event log is believed where its replay equals quoted registers. Registers listed beside the quote that it
   does not cover are the sender's words: neither replay nor reference values ever see them.
"""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from stannary.certify import certificates, der, keys
from stannary.certify.collateral import Collateral, CollateralKey, unhex
from stannary.certify.evidence import event_log
from stannary.certify.evidence import tpm_structures as tpm
from stannary.certify.outcomes import Appraisal, Examination, Step
from stannary.certify.remedies import Code
from stannary.errors import FormatError
from stannary.formats import canonical, dsse

if TYPE_CHECKING:
    from datetime import datetime

    from stannary.certify.certificates import Certificate
    from stannary.certify.evidence.event_log import EventLog
    from stannary.certify.evidence.tpm_structures import Attest, PublicArea, Signature
    from stannary.certify.rules import GoldenBoot, Rules
    from stannary.formats.canonical import Json

EKU_EK_CERTIFICATE = "2.23.133.8.1"
NUM_LOGGED_PCRS = 10  # firmware, loader and kernel; 10 is IMA's, 11 systemd's, 16 and 23 anybody's
EV_SEPARATOR, EV_VARIABLE_DRIVER_CONFIG = 0x04, 0x80000001
_HEX_NAMES = {
    "attest": ("attest_hex", "attest"),
    "signature": ("signature_tpmt_hex", "signature"),
    "ak": ("ak_pub_tpmt_hex", "ak_public"),
    "ek": ("ek_pub_tpmt_hex", "ek_public"),
    "certificate": ("ek_cert_hex", "ek_certificate_hex", "ek_cert_der_hex", "ek_certificate"),
    "log": ("event_log_hex", "event_log"),
    "secret": ("activation_secret_hex", "activation_secret"),
    "nonce": ("nonce_hex", "nonce"),
}


@dataclass(frozen=True, slots=True)
class BootSession:
    """The counters that change with every reset, restart or clear."""

    reset_count: int
    restart_count: int


@dataclass(frozen=True, slots=True)
class TpmEvidence:
    """Parsed evidence of one TPM. `claimed_nonce` serves vectors only: a verifier brings its own."""

    attest: Attest
    signature: Signature
    ak: PublicArea | None
    bare_key: keys.PublicKey | None  # a quoting key sent without its TPM attributes
    ek: PublicArea | None
    ek_chain: tuple[Certificate, ...]
    pcrs: dict[int, bytes]
    log: EventLog | None
    activation_secret: bytes
    claimed_nonce: bytes | None


@dataclass(frozen=True, slots=True)
class Activation:
    """What a verifier remembers of the credential it made: for which keys, and the secret inside."""

    ak_name: bytes
    ek_certificate: str  # fingerprint
    secret: bytes


class TpmVerifier:
    """Verifier of `tpm` evidence.

    Args:
        activation: the credential made for this node, if one was.
        session: the boot session of the appraisal this one renews.
        believes_nonce: take the nonce from the evidence where no challenge is given. For recorded
            vectors only; anywhere else it would admit any old quote.
    """

    kind = "tpm"
    media_types = frozenset({"application/vnd.stannary.tpm+json"})

    def __init__(
        self,
        activation: Activation | None = None,
        session: BootSession | None = None,
        *,
        believes_nonce: bool = False,
    ) -> None:
        self._activation = activation
        self._session = session
        self._believes_nonce = believes_nonce

    def parse(self, blob: bytes) -> TpmEvidence:
        """Read the JSON form, ours or that of guest components that send a bare key."""
        members = canonical.decode_object(blob)
        return parse_bare(members) if "tpm_quote" in members else parse_evidence(members)

    def collateral_keys(self, parsed: TpmEvidence) -> tuple[CollateralKey, ...]:
        """Name the EK certificate's issuers."""
        return tuple(CollateralKey("tpm-ek-chain", item.fingerprint) for item in parsed.ek_chain[:1])

    def appraise(
        self, parsed: TpmEvidence, *, bound: bytes | None, collateral: Collateral, now: datetime | None, rules: Rules
    ) -> Appraisal:
        """Check a quote and everything it stands on."""
        exam = Examination(self.kind)
        exam.claims.update(_claims(parsed))
        check_endorsement(exam, parsed, collateral, (now, rules))
        _check_key(exam, parsed)
        if bound is None and self._believes_nonce:
            bound = parsed.claimed_nonce
        check_quote(exam, parsed, bound)
        _check_activation(exam, parsed, self._activation)
        _check_session(exam, parsed, self._session)
        quoted = parsed.attest.covered(parsed.pcrs)
        check_log(exam, parsed.log, quoted)
        check_golden(exam, parsed.log, quoted, rules)
        return exam.close()


def parse_evidence(members: dict[str, Json]) -> TpmEvidence:
    """Read evidence members: hex strings, `pcrs_sha256` an object of index to hex."""
    values = {name: _member(members, spellings) for name, spellings in _HEX_NAMES.items()}
    for name in ("attest", "signature"):
        if not values[name]:
            raise FormatError("TPM evidence lacks a part", why=name)
    listed = members.get("pcrs_sha256", members.get("pcrs"))
    chain = members.get("ek_chain", [])
    if not isinstance(listed, dict) or not isinstance(chain, list) or len(chain) > certificates.MAX_PATH:
        raise FormatError("TPM evidence lacks its registers")
    carried = [values["certificate"], *(unhex(item, "EK issuer") for item in chain)]
    return TpmEvidence(
        attest=tpm.parse_attest(values["attest"]),
        signature=tpm.parse_signature(values["signature"]),
        ak=tpm.parse_public(values["ak"]) if values["ak"] else None,
        bare_key=None,
        ek=tpm.parse_public(values["ek"]) if values["ek"] else None,
        ek_chain=tuple(certificates.parse(item) for item in carried if item),
        pcrs=parse_pcrs(listed),
        log=event_log.parse_log(values["log"]) if values["log"] else None,
        activation_secret=values["secret"],
        claimed_nonce=values["nonce"] if "nonce_hex" in members else None,
    )


def parse_bare(members: dict[str, Json]) -> TpmEvidence:
    """Read `ak_public` (a SubjectPublicKeyInfo) and `tpm_quote {message, signature, pcrs}` in base64.

    Such evidence says nothing of the key's attributes, so it can never show rule 1.
    """
    quote = members["tpm_quote"]
    if not isinstance(quote, dict):
        raise FormatError("TPM evidence lacks its quote")
    listed = quote.get("pcrs")
    if not isinstance(listed, list):
        raise FormatError("TPM evidence lacks its registers")
    return TpmEvidence(
        attest=tpm.parse_attest(dsse.decode_base64(quote.get("message"), "quote")),
        signature=tpm.parse_signature(dsse.decode_base64(quote.get("signature"), "signature")),
        ak=None,
        bare_key=keys.load(dsse.decode_base64(members.get("ak_public"), "attestation key")),
        ek=None,
        ek_chain=(),
        pcrs=parse_pcrs({str(index): value for index, value in enumerate(listed)}),
        log=None,
        activation_secret=b"",
        claimed_nonce=None,
    )


def parse_pcrs(listed: dict[str, Json]) -> dict[int, bytes]:
    """Read SHA-256 registers by decimal index."""
    found: dict[int, bytes] = {}
    for index, value in listed.items():
        if not index.isascii() or not index.isdigit() or len(index) > 2 or int(index) >= tpm.NUM_PCRS:
            raise FormatError("TPM evidence names an unknown register", why=repr(index)[:40])
        found[int(index)] = unhex(value, "register")
        if len(found[int(index)]) != 32:
            raise FormatError("TPM register is not SHA-256", why=f"{len(found[int(index)])} bytes")
    return found


def check_endorsement(
    exam: Examination, parsed: TpmEvidence, collateral: Collateral, context: tuple[datetime | None, Rules]
) -> None:
    """Check the EK certificate (rule 2)."""
    now, rules = context
    if not parsed.ek_chain:
        exam.waive("ek-chain", "could not check: no EK certificate carried")
        exam.cap(
            "ek-chain",
            Step.CHAIN,
            0,
            observed="no EK certificate",
            expected="an EK certificate of the TPM's maker",
            remedy="switch the TPM on in the BIOS; firmware TPMs fetch theirs from the maker",
        )
        return
    if not any((rules.roots.tpm.certificates, rules.roots.tpm.key_pins, rules.roots.tpm_test.certificates,
                rules.roots.tpm_test.key_pins)):  # fmt: skip
        exam.waive("ek-chain", "could not check: the rules name no root of a TPM maker")
        exam.cap(
            "ek-chain",
            Step.CHAIN,
            0,
            observed="no root to check the EK certificate against",
            expected="the TPM maker's root",
            remedy="name the maker's root: [tpm] roots in the policy, or --tpm-root FILE",
        )
        return
    leaf, pool = parsed.ek_chain[0], (*parsed.ek_chain[1:], *collateral.certificates)
    path = certificates.find_path(leaf, pool, rules.roots.tpm, now)
    if path.root is None:
        tested = certificates.find_path(leaf, pool, rules.roots.tpm_test, now)
        if tested.root is not None:
            path = tested
            _software(exam)
    exam.require_path("ek-chain", path)
    exam.require(
        "ek-usage", _names_ek(leaf), Step.CHAIN, Code.CHAIN_INVALID, observed="certificate is not for a TPM's EK"
    )
    if parsed.ek is not None:
        spki = parsed.ek.key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        exam.require(
            "ek-key",
            spki == leaf.spki,
            Step.BINDING,
            Code.BINDING_MISMATCH,
            observed="EK is not the one certified",
        )
    exam.identities.append(f"ek:{leaf.key_pin}")


def _software(exam: Examination) -> None:
    exam.claims["software_tpm"] = True
    exam.cap(
        "software-tpm",
        Step.CHAIN,
        0,
        observed="a software TPM under a test root: its owner can sign anything",
        expected="a hardware TPM",
        remedy="use the machine's own TPM",
    )


def _names_ek(leaf: Certificate) -> bool:
    usage = leaf.extensions.get(certificates.EXTENDED_KEY_USAGE)
    if usage is None:
        return True  # TCG EK Credential Profile 2.5, section 3.2.16: recommended, not required
    return any(item.oid("key usage") == EKU_EK_CERTIFICATE for item in der.sequence(usage.value, "key usage"))


def _check_key(exam: Examination, parsed: TpmEvidence) -> None:
    """Rule 1; a key without its public area cannot show its attributes: missing counts as failed."""
    observed = "its TPM attributes are not shown" if parsed.ak is None else f"attributes {parsed.ak.attributes:#010x}"
    exam.require(
        "ak-restricted",
        parsed.ak is not None and parsed.ak.is_attestation_key,
        Step.BINDING,
        Code.AK_NOT_RESTRICTED,
        observed=observed,
        expected="restricted, fixedTPM, sign and not decrypt",
    )


def check_quote(exam: Examination, parsed: TpmEvidence, bound: bytes | None) -> None:
    """Check signature, registers and challenge of a quote."""
    attest = parsed.attest
    key = parsed.bare_key if parsed.ak is None else parsed.ak.key
    signed = isinstance(key, ec.EllipticCurvePublicKey | rsa.RSAPublicKey) and tpm.verify(
        key, parsed.signature, attest.raw
    )
    exam.require("signature", signed, Step.SIGNATURE, Code.SIGNATURE_INVALID, observed="not made by this key")
    check_registers(exam, attest, parsed.pcrs, parsed.signature.digest)
    if parsed.ak is not None:
        name = parsed.ak.name
        # A primary key's qualified name is H(H(hierarchy) ‖ name): it differs from the name but has its size.
        exam.require(
            "signer",
            len(attest.qualified_signer) == len(name),
            Step.BINDING,
            Code.BINDING_MISMATCH,
            observed=f"qualified signer of {len(attest.qualified_signer)} bytes",
        )
    check_challenge(exam, attest, bound)


def check_challenge(exam: Examination, attest: Attest, bound: bytes | None) -> None:
    """Check that the quote carries the challenge; a quote that carries nothing proves no freshness."""
    exam.require(
        "qualified",
        bool(attest.extra_data),
        Step.BINDING,
        Code.BINDING_MISMATCH,
        observed="extraData is empty: the quote binds no nonce and no key",
    )
    if bound is None:
        exam.waive("nonce", "no challenge given; freshness is not shown")
        return
    exam.require(
        "nonce",
        hmac.compare_digest(attest.extra_data, bound),
        Step.NONCE,
        Code.NONCE_MISMATCH,
        observed=attest.extra_data.hex(),
        expected=bound.hex(),
    )


def check_registers(exam: Examination, attest: Attest, pcrs: dict[int, bytes], digest: str) -> None:
    """Check that the registers beside the quote are the ones it covers."""
    computed = tpm.pcr_digest(attest, pcrs, digest)
    exam.require(
        "pcr-digest",
        computed is not None and computed == attest.pcr_digest,
        Step.BINDING,
        Code.BINDING_MISMATCH,
        observed="registers are not the quoted ones" if computed else "a quoted register is not given",
        expected=attest.pcr_digest.hex(),
    )


def _check_activation(exam: Examination, parsed: TpmEvidence, activation: Activation | None) -> None:
    if activation is None:
        exam.waive("activation", "could not check: no credential was made for this key yet")
        exam.cap(
            "activation",
            Step.BINDING,
            0,
            observed="nothing shows that the quoting key and the EK are in one TPM",
            expected="an activated credential",
            remedy="renew: `stannary certify challenge --for evidence.json`, then check and appraise again",
        )
        return
    same_keys = parsed.ak is not None and parsed.ak.name == activation.ak_name
    same_keys = same_keys and bool(parsed.ek_chain) and parsed.ek_chain[0].fingerprint == activation.ek_certificate
    exam.require(
        "activation",
        same_keys and hmac.compare_digest(parsed.activation_secret, activation.secret),
        Step.BINDING,
        Code.BINDING_MISMATCH,
        observed="credential was not activated by the TPM that holds this EK" if same_keys else "other keys",
    )


def _check_session(exam: Examination, parsed: TpmEvidence, session: BootSession | None) -> None:
    if session is None:
        exam.not_applicable("boot-session", "first appraisal of this boot")
        return
    now = BootSession(parsed.attest.reset_count, parsed.attest.restart_count)
    exam.require(
        "boot-session",
        now == session,
        Step.BINDING,
        Code.BINDING_MISMATCH,
        observed=f"resetCount {now.reset_count}, restartCount {now.restart_count}: the machine was restarted",
        expected=f"resetCount {session.reset_count}, restartCount {session.restart_count}",
    )


def check_log(exam: Examination, log: EventLog | None, pcrs: dict[int, bytes]) -> None:
    """Replay the log and compare every register it measures (rule 5)."""
    if log is None:
        exam.waive("event-log", "no event log carried")
        return
    if "sha256" not in log.banks:
        exam.refuse("event-log", Step.REPLAY, Code.REPLAY_MISMATCH, observed="the log has no SHA-256 bank")
        return
    for index, value in sorted(log.replay("sha256").items()):
        if index >= NUM_LOGGED_PCRS or index not in pcrs:
            exam.not_applicable(f"pcr{index}-replay", "not quoted, or extended after firmware by others")
            continue
        exam.require(
            f"pcr{index}-replay",
            value == pcrs[index],
            Step.REPLAY,
            Code.REPLAY_MISMATCH,
            observed=f"log gives PCR {index} {value.hex()}",
            expected=pcrs[index].hex(),
        )
    # A PCR 7 that no quote covers, or that the log does not give, shows whatever its sender likes.
    replays = 7 in pcrs and log.replay("sha256").get(7) == pcrs[7]
    state = secure_boot(log) if replays else "not measured"
    exam.claims["secure_boot"] = state
    if state != "on":
        exam.cap(
            "secure-boot",
            Step.REFERENCE,
            0,
            observed=f"Secure Boot is {state}",
            expected="on, measured into PCR 7",
            remedy="switch Secure Boot on and boot a signed image",
        )


def secure_boot(log: EventLog) -> str:
    """Return `on`, `off` or `not measured` from the SecureBoot variable event of PCR 7.

    Root can extend PCR 7 himself once the system runs, so only what firmware measured before its separator
    counts; and every variable event must be what was measured, or the real one could be renamed in the log.
    """
    for event in log.events:
        if event.register != 7:
            continue
        if event.type == EV_SEPARATOR:
            return "not measured"
        if event.type != EV_VARIABLE_DRIVER_CONFIG:
            continue
        if hashlib.sha256(event.data).digest() != event.digests.get("sha256"):
            return "not measured"
        if len(event.data) < 32:
            continue
        # UEFI_VARIABLE_DATA: vendor GUID, name length in characters, data length, UTF-16 name, data.
        name_chars = int.from_bytes(event.data[16:24], "little")
        data_bytes = int.from_bytes(event.data[24:32], "little")
        name, value = event.data[32 : 32 + 2 * name_chars], event.data[32 + 2 * name_chars :]
        if name != "SecureBoot".encode("utf-16-le") or len(value) != data_bytes:
            continue
        return "on" if value == b"\x01" else "off"
    return "not measured"


def check_golden(exam: Examination, log: EventLog | None, pcrs: dict[int, bytes], rules: Rules) -> None:
    """Compare registers with the reference boots of the policy; say which register and event differ."""
    if not rules.golden_boots:
        exam.waive("reference", "no reference boot given: this is identity, not software")
        return
    failures = {golden.name: differing for golden in rules.golden_boots if (differing := golden.differing(pcrs))}
    matched = [golden for golden in rules.golden_boots if golden.name not in failures]
    if matched:
        exam.claims["reference"] = matched[0].name
        exam.require("reference", True, Step.REFERENCE, Code.REFERENCE_MISMATCH)
        return
    closest = min(rules.golden_boots, key=lambda golden: len(failures[golden.name]))
    exam.require(
        "reference",
        False,
        Step.REFERENCE,
        Code.REFERENCE_MISMATCH,
        observed="; ".join(_blame(log, closest, index) for index in failures[closest.name]),
        expected=closest.name,
    )


def _blame(log: EventLog | None, golden: GoldenBoot, index: int) -> str:
    """Name the first event of a register that the reference boot does not have."""
    if log is None:
        return f"PCR {index}"
    known = golden.events.get(index, ())
    measured = [item for item in log.events if item.register == index and item.type != event_log.EV_NO_ACTION]
    for number, event in enumerate(measured):
        if number >= len(known) or event.digests.get("sha256") != known[number]:
            text = event_log.describe(event)
            return f"PCR {index} event {number} ({text})"
    return f"PCR {index} (an event is missing)"


def _claims(parsed: TpmEvidence) -> dict[str, Json]:
    attest = parsed.attest
    return {
        "reset_count": attest.reset_count,
        "restart_count": attest.restart_count,
        "firmware": f"{attest.firmware:#x}",
        "clock_safe": attest.safe,
        "ak_name": "" if parsed.ak is None else parsed.ak.name.hex(),
        "pcrs": {str(index): value.hex() for index, value in sorted(parsed.pcrs.items()) if any(value)},
    }


def _member(members: dict[str, Json], spellings: tuple[str, ...]) -> bytes:
    for name in spellings:
        if name in members:
            return unhex(members[name], name)
    return b""
