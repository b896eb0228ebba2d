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
5. The event log is believed where its replay equals quoted registers, and each of PCR 0-7 that it never extends
   is at its reset value: a log may not leave a register out. Registers listed beside the quote that it does not
   cover are the sender's words: neither replay nor reference values ever see them.
"""

from __future__ import annotations

import hmac
from typing import TYPE_CHECKING

from cryptography.hazmat.primitives.asymmetric import ec, rsa

from stannary.certify.evidence import event_log, tpm_forms
from stannary.certify.evidence import tpm_structures as tpm
from stannary.certify.evidence.basis import Activation, BootSession
from stannary.certify.evidence.collateral import CollateralKey
from stannary.certify.evidence.secure_boot import NOT_MEASURED, doubt, secure_boot
from stannary.certify.evidence.tpm_forms import TpmEvidence
from stannary.certify.outcomes import Appraisal, Examination, Step
from stannary.certify.pki import certificates, der
from stannary.certify.remedies import Code
from stannary.errors import FormatError

if TYPE_CHECKING:
    from stannary.certify.evidence.basis import Basis
    from stannary.certify.evidence.event_log import EventLog
    from stannary.certify.evidence.tpm_structures import Attest, PublicArea, Registers
    from stannary.certify.pki.certificates import Certificate
    from stannary.certify.rules import GoldenBoot, Rules
    from stannary.formats.canonical import Json

EKU_EK_CERTIFICATE = "2.23.133.8.1"
NUM_LOGGED_PCRS = 10  # firmware, loader and kernel; 10 is IMA's, 11 systemd's, 16 and 23 anybody's
NUM_FIRMWARE_PCRS = 8  # those that firmware measures: its log is whole for them
STRONG_BANKS = ("sha256", "sha384", "sha512")  # a SHA-1 log can be made to fit: NIST SP 800-131A ended it


class TpmVerifier:
    """Verifier of `tpm` evidence."""

    kind = "tpm"
    places = frozenset({"tpm"})

    def parse(self, blob: bytes) -> TpmEvidence:
        """Read evidence in our form or another tool's."""
        return tpm_forms.parse(blob)

    def collateral_keys(self, parsed: TpmEvidence) -> tuple[CollateralKey, ...]:
        """Name the EK certificate's issuers."""
        return tuple(CollateralKey("tpm-ek-chain", item.fingerprint) for item in parsed.ek_chain[:1])

    def appraise(self, parsed: TpmEvidence, basis: Basis) -> Appraisal:
        """Check a quote and everything it stands on."""
        exam = Examination(self.kind)
        exam.claims.update(_claims(parsed))
        check_endorsement(exam, parsed, basis)
        _check_key(exam, parsed)
        _check_certified(exam, parsed, basis)
        believed = basis.bound is None and basis.believes_nonce
        check_quote(exam, parsed, parsed.claimed_nonce if believed else basis.bound)
        _check_activation(exam, parsed, basis.activation)
        _check_session(exam, parsed, basis.session)
        quoted = parsed.attest.covered(parsed.banks)
        check_log(exam, parsed.log, quoted)
        check_golden(exam, parsed.log, quoted.get("sha256", {}), basis.rules)
        return exam.close()


def check_endorsement(exam: Examination, parsed: TpmEvidence, basis: Basis) -> None:
    """Check the EK certificate (rule 2)."""
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
    leaf = parsed.ek_chain[0]
    _check_chain(exam, parsed.ek_chain, basis)
    exam.require(
        "ek-usage", _names_ek(leaf), Step.CHAIN, Code.CHAIN_INVALID, observed="certificate is not for a TPM's EK"
    )
    if parsed.ek is not None:
        exam.require(
            "ek-key",
            _is_key_of(parsed.ek, leaf),
            Step.BINDING,
            Code.BINDING_MISMATCH,
            observed="EK is not the one certified",
        )


def _check_chain(exam: Examination, chain: tuple[Certificate, ...], basis: Basis) -> None:
    """Follow the EK certificate to a root that the rules name; without one, it names no identity either."""
    leaf, pool, roots = chain[0], (*chain[1:], *basis.collateral.certificates), basis.rules.roots
    if not any((roots.tpm.certificates, roots.tpm.key_pins, roots.tpm_test.certificates, roots.tpm_test.key_pins)):
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
    path = certificates.find_path(leaf, pool, roots.tpm, basis.now)
    if path.root is None:
        tested = certificates.find_path(leaf, pool, roots.tpm_test, basis.now)
        if tested.root is not None:
            path = tested
            _software(exam)
    exam.require_path("ek-chain", path)
    exam.identities.append(f"ek:{leaf.key_pin}")


def _is_key_of(ek: PublicArea, leaf: Certificate) -> bool:
    """Whether a certificate is for this key; makers write one RSA key under two algorithm names."""
    try:
        return bool(leaf.public_key() == ek.key)
    except FormatError:
        return False


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
    if leaf.is_ca:
        return False  # a maker's authority is not one of its TPMs
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
    if parsed.ak is not None and parsed.ak_name:
        exam.require(
            "ak-name",
            parsed.ak_name == parsed.ak.name,
            Step.BINDING,
            Code.BINDING_MISMATCH,
            observed=f"name {parsed.ak_name.hex()}",
            expected=parsed.ak.name.hex(),
        )


def _check_certified(exam: Examination, parsed: TpmEvidence, basis: Basis) -> None:
    """Check the certificate that a cloud issues to its virtual TPM's quoting key.

    It names a machine of that cloud and shows no TPM of hardware: no cap is lifted by it, and where nobody carried
    its issuer or named a root, it could not be checked and convicts nobody.
    """
    if not parsed.ak_chain:
        exam.not_applicable("ak-chain", "the quoting key carries no certificate of its own")
        return
    leaf = parsed.ak_chain[0]
    path = certificates.find_path(leaf, parsed.ak_chain[1:], basis.rules.roots.tpm_ak, basis.now)
    if path.is_open and not basis.rules.roots.tpm_ak.certificates:
        exam.waive("ak-chain", f"could not check: {path.problem}")
    else:
        exam.require_path("ak-chain", path)
    exam.require(
        "ak-key",
        parsed.ak is not None and _is_key_of(parsed.ak, leaf),
        Step.BINDING,
        Code.BINDING_MISMATCH,
        observed="quoting key is not the one certified",
    )
    exam.claims["ak_certified"] = leaf.common_name()


def check_quote(exam: Examination, parsed: TpmEvidence, bound: bytes | None) -> None:
    """Check signature, registers and challenge of a quote."""
    attest = parsed.attest
    key = parsed.bare_key if parsed.ak is None else parsed.ak.key
    signed = isinstance(key, ec.EllipticCurvePublicKey | rsa.RSAPublicKey) and tpm.verify(
        key, parsed.signature, attest.raw
    )
    exam.require("signature", signed, Step.SIGNATURE, Code.SIGNATURE_INVALID, observed="not made by this key")
    check_registers(exam, attest, parsed.banks, parsed.signature.digest)
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
    exam.require_nonce(attest.extra_data, bound)


def check_registers(exam: Examination, attest: Attest, banks: Registers, digest: str) -> None:
    """Check that the registers beside the quote are the ones it covers."""
    computed = tpm.banks_digest(attest, banks, digest)
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


def check_log(exam: Examination, log: EventLog | None, quoted: Registers) -> None:
    """Replay the log in every bank the quote covers and compare each register it measures (rule 5)."""
    if log is None:
        exam.waive("event-log", "no event log carried")
        return
    banks = [bank for bank in STRONG_BANKS if quoted.get(bank)] or ["sha256"]
    missing = [bank for bank in banks if bank not in log.banks]
    if missing:
        observed = f"the log has no {', '.join(missing)} bank"
        exam.refuse("event-log", Step.REPLAY, Code.REPLAY_MISMATCH, observed=observed)
        return
    for bank in banks:
        _check_replay(exam, log, bank, quoted.get(bank, {}))
    doubts = [reason for bank in banks if (reason := _doubt(log, bank, quoted.get(bank, {})))]
    states = {NOT_MEASURED if doubts else secure_boot(log, bank) for bank in banks}
    if len(states) > 1:
        doubts, states = ["the banks of PCR 7 do not agree"], {NOT_MEASURED}
    (state,) = states
    exam.claims["secure_boot"] = state
    if state != "on":
        exam.cap(
            "secure-boot",
            Step.REFERENCE,
            0,
            observed=f"Secure Boot is {state}{': ' if doubts else ''}{'; '.join(dict.fromkeys(doubts))}",
            expected="on, measured into PCR 7",
            remedy="switch Secure Boot on and boot a signed image",
        )


def _doubt(log: EventLog, bank: str, quoted: dict[int, bytes]) -> str:
    """Say why this bank shows no Secure Boot: a PCR 7 that is not the log's shows whatever its sender likes."""
    if 7 not in quoted or log.replay(bank).get(7) != quoted[7]:
        return "no quoted PCR 7 is the log's"
    return doubt(log, bank)


def _check_replay(exam: Examination, log: EventLog, bank: str, quoted: dict[int, bytes]) -> None:
    untouched = {index: log.at_reset(bank)(index) for index in quoted if index < NUM_FIRMWARE_PCRS}
    for index, value in sorted({**untouched, **log.replay(bank)}.items()):
        name = f"pcr{index}{'' if bank == 'sha256' else f'-{bank}'}-replay"
        if index >= NUM_LOGGED_PCRS or index not in quoted:
            exam.not_applicable(name, "not quoted, or extended after firmware by others")
            continue
        exam.require(
            name,
            value == quoted[index],
            Step.REPLAY,
            Code.REPLAY_MISMATCH,
            observed=f"log gives PCR {index} {value.hex()}",
            expected=quoted[index].hex(),
        )


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
