"""The TCB level of an Intel platform, decided by `dcap-qvl` at a given time.

The only module that touches the library: its messages become our codes here and nowhere else. It
takes the evaluation time as an argument and does no network in `verify`.
"""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

from stannary.certify.evidence.quote import fmspc
from stannary.certify.remedies import Code
from stannary.errors import EnvironmentProblem

if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import datetime

    from stannary.certify.evidence.collateral import IntelCollateral
    from stannary.certify.pki.certificates import Certificate

# First match wins; the library's wording is pinned by tests on real evidence.
_CODES: tuple[tuple[str, Code], ...] = (
    ("No matching TCB level", Code.TCB_NOT_ALLOWED),
    ("TCB status is invalid", Code.TCB_NOT_ALLOWED),
    ("Debug mode", Code.GUEST_POLICY),
    ("TD attributes", Code.GUEST_POLICY),
    ("TD profiling", Code.GUEST_POLICY),
    ("TD migration", Code.GUEST_POLICY),
    ("SERVTD_EXT", Code.GUEST_POLICY),
    ("SEPT_VE_DISABLE", Code.GUEST_POLICY),
    ("MR service TD", Code.GUEST_POLICY),
    ("QE auth data length", Code.UNSUPPORTED),
    ("Unsupported DCAP", Code.UNSUPPORTED),
    ("quote must have version", Code.UNSUPPORTED),
    ("Unknown QE vendor", Code.UNSUPPORTED),
    ("Failed to decode quote", Code.MALFORMED),
    ("CertRevoked", Code.REVOKED),
    ("for tcb_info", Code.COLLATERAL_INVALID),
    ("for qe_identity", Code.COLLATERAL_INVALID),
    ("report signature is invalid", Code.SIGNATURE_INVALID),
    ("for qe_report", Code.SIGNATURE_INVALID),
    ("QE report hash mismatch", Code.SIGNATURE_INVALID),
    ("QE MRSIGNER", Code.TCB_NOT_ALLOWED),
    ("QE ISVPRODID", Code.TCB_NOT_ALLOWED),
    ("QE ATTRIBUTES", Code.TCB_NOT_ALLOWED),
    ("QE MISCSELECT", Code.TCB_NOT_ALLOWED),
    ("TDX module", Code.TCB_NOT_ALLOWED),
)


@dataclass(frozen=True, slots=True)
class TcbVerdict:
    """A status and its advisories, or a refusal."""

    status: str = ""
    advisories: tuple[str, ...] = ()
    fmspc: str = ""
    ppid: str = ""
    code: Code | None = None
    reason: str = ""


def judge(
    raw: bytes,
    carried: IntelCollateral,
    pck_chain: tuple[Certificate, ...],
    now: datetime,
    root: Certificate | None = None,
) -> TcbVerdict:
    """Return the platform's TCB status at `now`, under the root its chain reached, or Intel's where it reached none."""
    try:
        import dcap_qvl
    except ImportError as err:
        raise EnvironmentProblem(
            "cannot judge Intel evidence", why="dcap-qvl is not installed", hint="pip install 'stannary[certify]'"
        ) from err
    crl_chain = carried.pck_crl_chain or pck_chain[1:]
    try:
        collateral = dcap_qvl.QuoteCollateralV3(
            pck_crl_issuer_chain=pem(crl_chain),
            root_ca_crl=carried.root_crl,
            pck_crl=carried.pck_crl,
            tcb_info_issuer_chain=pem(carried.tcb_info.chain),
            tcb_info=carried.tcb_info.text,
            tcb_info_signature=carried.tcb_info.signature,
            qe_identity_issuer_chain=pem(carried.qe_identity.chain),
            qe_identity=carried.qe_identity.text,
            qe_identity_signature=carried.qe_identity.signature,
        )
        moment = max(0, int(now.timestamp()))  # the library counts from 1970, and nothing of Intel's is older
        if root is None:
            report = dcap_qvl.verify(raw, collateral, moment)
        else:
            report = dcap_qvl.verify_with_root_ca(raw, collateral, root.raw, moment)
    except ValueError as err:
        reason = " ".join(str(err).split())
        code = next((code for text, code in _CODES if text in reason), Code.COLLATERAL_INVALID)
        return TcbVerdict(code=code, reason=reason[:300])
    members = json.loads(report.to_json())
    return TcbVerdict(
        status=str(members["status"]),
        advisories=tuple(str(item) for item in members["advisory_ids"]),
        fmspc=fmspc(pck_chain[0]),
        ppid=bytes(report.ppid).hex(),
    )


def pem(chain: Iterable[Certificate]) -> str:
    """Write certificates as PEM."""
    blocks = []
    for item in chain:
        text = base64.encodebytes(item.raw).decode("ascii")
        blocks.append(f"-----BEGIN CERTIFICATE-----\n{text}-----END CERTIFICATE-----\n")
    return "".join(blocks)
