"""Intel TDX and SGX evidence: a DCAP quote under Intel's root, its platform judged by TCB info.

We check chain, signatures, windows and revocation ourselves, each with its own code; the TCB level
itself is decided by `dcap-qvl`, with the evaluation time as argument. Both must agree: where the
library refuses and we found nothing, its refusal stands.

Rules: collateral inside its window at `now`, signed under Intel's root; the quoting enclave's report
names the attestation key; a debug TD or enclave and a TD without SEPT_VE_DISABLE are refused;
`Revoked` and unmatched TCB levels are refused, other statuses are said in the outcome.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from stannary.certify.evidence import quote
from stannary.certify.evidence.collateral import (
    CollateralKey,
    IntelCollateral,
    SignedJson,
    evaluation_number,
)
from stannary.certify.evidence.quote import EnclaveBody, Quote, TdBody
from stannary.certify.evidence.tcb import TcbVerdict, judge
from stannary.certify.moments import parse_moment
from stannary.certify.outcomes import Appraisal, Examination, Step
from stannary.certify.pki import certificates, keys, revocation
from stannary.certify.remedies import Code
from stannary.errors import FormatError

if TYPE_CHECKING:
    from datetime import datetime

    from stannary.certify.evidence.basis import Basis
    from stannary.certify.rules import Rules
    from stannary.formats.canonical import Json

TD_DEBUG = 1 << 0
TD_OTHER_UNTRUSTED = 0xFE  # TUD bits 1..7: reserved, must be zero in production (TDX module spec 22.2)
TD_SEPT_VE_DISABLE = 1 << 28
TD_MIGRATABLE = 1 << 29
SGX_DEBUG = 1 << 1

TCB_SIGNER = "Intel SGX TCB Signing"  # a platform's PCK chains to the same root and must not sign TCB info
_QUOTING_ENCLAVES = {
    False: ("8c4f5775d796503e96137f77c68a829a0056ac8ded70140b081b094490c57bff", 1),
    True: ("dc9e2a7c6f948f17474e34a7fc43ed030f7c1563f1babddf6340c82e0e54a8c5", 2),
}
_NUMBER_CLAIMS = {"tcb-info": "tcb_evaluation_data_number", "qe-identity": "qe_evaluation_data_number"}
_STEP_OF = {
    Code.COLLATERAL_INVALID: Step.COLLATERAL,
    Code.REVOKED: Step.COLLATERAL,
    Code.TCB_NOT_ALLOWED: Step.TCB,
    Code.SIGNATURE_INVALID: Step.SIGNATURE,
    Code.GUEST_POLICY: Step.GUEST_POLICY,
    Code.MALFORMED: Step.PARSE,
    Code.UNSUPPORTED: Step.PARSE,
}


class IntelVerifier:
    """Verifier of `tdx` or `sgx` evidence."""

    places = frozenset({"cpu"})

    def __init__(self, kind: str) -> None:
        self.kind = kind

    def parse(self, blob: bytes) -> Quote:
        """Read a quote of this verifier's TEE."""
        parsed = quote.parse_quote(quote.binary(blob))
        if parsed.is_tdx != (self.kind == "tdx"):
            raise FormatError(f"not a {self.kind} quote", why="the quote is of the other TEE")
        return parsed

    def collateral_keys(self, parsed: Quote) -> tuple[CollateralKey, ...]:
        """Name TCB info, QE identity and revocation lists."""
        issuer = parsed.pck_chain[0].issuer
        authority = "platform" if b"Platform" in issuer else "processor"
        return (
            CollateralKey(f"intel-{self.kind}-tcb-info", hashlib.sha256(parsed.pck_chain[0].raw).hexdigest()),
            CollateralKey(f"intel-{self.kind}-qe-identity", ""),
            CollateralKey("intel-pck-crl", authority),
            CollateralKey("intel-root-crl", ""),
        )

    def appraise(self, parsed: Quote, basis: Basis) -> Appraisal:
        """Check a quote and the standing of its platform."""
        exam = Examination(self.kind)
        exam.claims.update(_claims(parsed))
        rules, intel, now = basis.rules, basis.collateral.intel, basis.now
        root = check_signatures(exam, parsed, basis)
        if intel is None:
            exam.refuse("collateral", Step.COLLATERAL, Code.COLLATERAL_MISSING, observed="no Intel collateral carried")
        elif now is None:
            exam.refuse("collateral", Step.COLLATERAL, Code.COLLATERAL_INVALID, observed="no evaluation time given")
        else:
            _check_collateral(exam, parsed, intel, now, rules)
            _check_tcb(exam, judge(parsed.raw, intel, parsed.pck_chain, now, root), rules)
        exam.require_nonce(parsed.body.report_data, basis.report_data)
        check_guest(exam, parsed)
        _check_measurement(exam, parsed, rules)
        return exam.close()


def check_signatures(exam: Examination, parsed: Quote, basis: Basis) -> certificates.Certificate | None:
    """Check PCK chain, QE report, and the quote's own signature; return the root the chain reaches."""
    leaf = parsed.pck_chain[0]
    path = certificates.find_path(leaf, parsed.pck_chain[1:], basis.rules.roots.intel, basis.now)
    if basis.now is None:
        exam.waive("chain-time", "no evaluation time given")
    exam.require_path("chain", path)
    code, step = Code.SIGNATURE_INVALID, Step.SIGNATURE
    exam.require(
        "qe-signature",
        keys.is_signed_raw(leaf.spki, parsed.qe_signature, parsed.qe_report, hashes.SHA256(), "secp256r1"),
        step,
        code,
        observed="quoting enclave's report is not signed by the PCK",
    )
    enclave = quote.parse_enclave(parsed.qe_report)
    # Any enclave on a genuine platform gets a signed report; only Intel's quoting enclave may vouch for keys.
    exam.require(
        "quoting-enclave",
        (enclave.mr_signer.hex(), enclave.isv_prod_id) == _QUOTING_ENCLAVES[parsed.is_tdx]
        and not enclave.attributes & SGX_DEBUG,
        step,
        code,
        observed=f"MRSIGNER {enclave.mr_signer.hex()}, product {enclave.isv_prod_id}",
        expected="Intel's quoting enclave, not in debug mode",
    )
    named = hashlib.sha256(parsed.attestation_key + parsed.qe_auth_data).digest()
    exam.require(
        "attestation-key",
        enclave.report_data == named.ljust(64, b"\0"),
        step,
        code,
        observed="the quoting enclave vouches for another key",
    )
    exam.require(
        "signature", _verify_point(parsed), step, code, observed="the quote is not signed by its attestation key"
    )
    exam.identities.append(f"pck:{leaf.fingerprint}")
    return path.root


def check_guest(exam: Examination, parsed: Quote) -> None:
    """Refuse debug guests and enclaves."""
    step, code = Step.GUEST_POLICY, Code.GUEST_POLICY
    body = parsed.body
    if isinstance(body, EnclaveBody):
        exam.require("debug", not body.attributes & SGX_DEBUG, step, code, observed="enclave is in debug mode")
        return
    attributes = f"attributes {body.td_attributes:#018x}"
    exam.require("debug", not body.td_attributes & TD_DEBUG, step, code, observed=f"TD is in debug mode, {attributes}")
    exam.require(
        "untrusted-bits",
        not body.td_attributes & TD_OTHER_UNTRUSTED,
        step,
        code,
        observed=attributes,
        expected="reserved under-debug bits clear",
    )
    exam.require(
        "migration",
        not body.td_attributes & TD_MIGRATABLE,
        step,
        code,
        observed=f"{attributes}: a migration TD may move this TD's memory elsewhere",
        expected="MIGRATABLE clear",
    )
    exam.require(
        "sept-ve",
        bool(body.td_attributes & TD_SEPT_VE_DISABLE),
        step,
        code,
        observed=attributes,
        expected="SEPT_VE_DISABLE set: the host may not inject #VE on page faults",
    )
    # A service TD belongs to what this TD trusts, so it is judged beside the TCB, after it.
    exam.require(
        "service-td",
        not any(body.mr_service_td),
        Step.TCB,
        code,
        observed=f"service TD {body.mr_service_td.hex()} is bound to this TD",
        expected="no service TD: it may read or move what it serves",
    )


def _claims(parsed: Quote) -> dict[str, Json]:
    body = parsed.body
    if isinstance(body, TdBody):
        return {
            "version": parsed.version,
            "mrtd": body.mr_td.hex(),
            "rtmr": [item.hex() for item in body.rtmrs],
            "mrconfigid": body.mr_config_id.hex(),
            "attributes": f"{body.td_attributes:#018x}",
            "tee_tcb_svn": body.tee_tcb_svn.hex(),
        }
    return {
        "version": parsed.version,
        "mrenclave": body.mr_enclave.hex(),
        "mrsigner": body.mr_signer.hex(),
        "isv_svn": body.isv_svn,
    }


def _verify_point(parsed: Quote) -> bool:
    try:
        key = keys.from_point(ec.SECP256R1(), parsed.attestation_key[:32], parsed.attestation_key[32:])
    except FormatError:
        return False
    return keys.verify_ecdsa_raw(key, parsed.signature[:32], parsed.signature[32:], parsed.signed, hashes.SHA256())


def _check_measurement(exam: Examination, parsed: Quote, rules: Rules) -> None:
    """MRTD is the firmware alone; kernel and command line are in RTMR 1 and 2: policies name `MRTD:RTMR1:RTMR2`."""
    body = parsed.body
    measured = (body.mr_td if isinstance(body, TdBody) else body.mr_enclave).hex()
    if not rules.measurements:
        exam.waive("measurement", "no launch measurement given")
        return
    whole = f"{measured}:{body.rtmrs[1].hex()}:{body.rtmrs[2].hex()}" if isinstance(body, TdBody) else measured
    exam.require(
        "measurement",
        bool({measured, whole} & rules.measurements),
        Step.REFERENCE,
        Code.REFERENCE_MISMATCH,
        observed=whole,
        expected="a signed launch measurement",
    )
    if whole not in rules.measurements:
        exam.waive("kernel.measurement", "only MRTD, the firmware, is named: RTMR 1 and 2 were not compared")


def _check_collateral(exam: Examination, parsed: Quote, carried: IntelCollateral, now: datetime, rules: Rules) -> None:
    for name, document in (("tcb-info", carried.tcb_info), ("qe-identity", carried.qe_identity)):
        problem = _document_problem(document, name, now, rules)
        if exam.require(name, not problem, Step.COLLATERAL, Code.COLLATERAL_INVALID, observed=problem):
            exam.claims[_NUMBER_CLAIMS[name]] = evaluation_number(document.members(name))
    pool = (*parsed.pck_chain, *carried.pck_crl_chain, *carried.tcb_info.chain, *carried.qe_identity.chain)
    lists = {"pck-crl": (carried.pck_crl, parsed.pck_chain[0]), "root-crl": (carried.root_crl, None)}
    for name, (data, leaf) in lists.items():
        problem, withdrawn = _crl_problem(data, pool, leaf, now, rules)
        exam.require(name, not problem, Step.COLLATERAL, Code.COLLATERAL_INVALID, observed=problem)
        if not problem:
            exam.require(f"{name}-clean", not withdrawn, Step.COLLATERAL, Code.REVOKED, observed=", ".join(withdrawn))


def _document_problem(document: SignedJson, name: str, now: datetime, rules: Rules) -> str:
    if not document.chain:
        return f"{name} carries no signer chain"
    leaf = document.chain[0]
    path = certificates.find_path(leaf, document.chain[1:], rules.roots.intel, now)
    if path.root is None or leaf.common_name() != TCB_SIGNER:
        return f"{name} signer: {path.problem or leaf.common_name()}"
    text = document.text.encode("utf-8")
    if not keys.is_signed_raw(leaf.spki, document.signature, text, hashes.SHA256(), "secp256r1"):
        return f"{name} is not signed by its signer"
    try:
        members = document.members(name)
        start, end = parse_moment(members.get("issueDate")), parse_moment(members.get("nextUpdate"))
    except FormatError as err:
        return str(err)
    number = evaluation_number(members)
    if number < rules.min_tcb_evaluation:
        return f"{name} has evaluation number {number}, policy asks for {rules.min_tcb_evaluation}"
    return revocation.window_problem(name, start, end, now)


def _crl_problem(
    data: bytes,
    pool: tuple[certificates.Certificate, ...],
    leaf: certificates.Certificate | None,
    now: datetime,
    rules: Rules,
) -> tuple[str, list[str]]:
    """Return why a list is unusable, and which certificates of the pool it withdraws."""
    try:
        listed = revocation.parse_crl(data)
    except FormatError as err:
        return str(err), []
    issuer = next((item for item in pool if item.subject == listed.issuer and item.is_ca), None)
    if issuer is None:
        return "revocation list of an unknown issuer", []
    if leaf is not None and leaf.issuer != listed.issuer:
        return "revocation list is not of the PCK's issuer", []
    if leaf is None and not rules.roots.intel.holds(issuer):
        return "root revocation list is not of the pinned root", []
    path = certificates.find_path(issuer, pool, rules.roots.intel, now)
    problem = path.problem or listed.problem(issuer, now)
    withdrawn = [item.common_name() for item in pool if item.issuer == listed.issuer and item.serial in listed.serials]
    return problem, sorted(set(withdrawn))


def _check_tcb(exam: Examination, verdict: TcbVerdict, rules: Rules) -> None:
    if verdict.code is not None:
        known = any(item.code is not None for item in exam.findings)
        # The library stops at its first objection; ours are finer where we have one already.
        step = Step.TCB if known else _STEP_OF[verdict.code]
        exam.refuse("tcb", step, verdict.code, observed=verdict.reason)
        return
    _accept_status(exam, verdict, rules)


def _accept_status(exam: Examination, verdict: TcbVerdict, rules: Rules) -> None:
    exam.claims["tcb_status"] = verdict.status
    exam.claims["advisories"] = [*verdict.advisories]
    exam.claims["fmspc"] = verdict.fmspc
    exam.tcb_status = verdict.status
    if verdict.ppid and any(bytes.fromhex(verdict.ppid)):
        exam.identities.append(f"ppid:{verdict.ppid}")
    allowed = not rules.tdx_statuses or verdict.status in rules.tdx_statuses
    exam.require(
        "tcb",
        allowed and verdict.status != "Revoked",
        Step.TCB,
        Code.TCB_NOT_ALLOWED,
        observed=f"{verdict.status} {' '.join(verdict.advisories)}".strip(),
        expected=", ".join(sorted(rules.tdx_statuses)) or "a status that is not Revoked",
    )
    if verdict.fmspc in rules.denied:
        exam.refuse("denied", Step.TCB, Code.TCB_NOT_ALLOWED, observed=f"FMSPC {verdict.fmspc} is on the deny list")
    if verdict.status != "UpToDate":
        exam.cap(
            "tcb-current",
            Step.TCB,
            1,
            observed=verdict.status,
            expected="UpToDate",
            remedy="update BIOS and microcode, then register the platform again",
        )
