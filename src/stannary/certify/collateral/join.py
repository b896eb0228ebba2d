"""How fetched items join what the evidence carries.

Items are found by the needs of a part (`plan.py`), so that nothing rides into an appraisal that the
evidence does not name.

Rules: an item must read as what it is called, or an error page would be kept as an answer; whether it is
true is for the verifiers, at the evaluation time. Of two copies of one artifact the newer counts
(`collateral.newest_of`).
"""

from __future__ import annotations

from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any

from stannary.certify.collateral.plan import layer_needs
from stannary.certify.evidence import rim
from stannary.certify.evidence.collateral import Collateral, IntelCollateral, newest_of, signed_member
from stannary.certify.moments import format_moment, parse_moment
from stannary.certify.pki import certificates, revocation
from stannary.errors import FormatError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from stannary.certify.collateral.items import Item
    from stannary.certify.collateral.plan import Need
    from stannary.certify.layers import Layer

_INTEL_DOCUMENTS = (("tcb-info", "tcb_info", "tcbInfo"), ("qe-identity", "qe_identity", "enclaveIdentity"))


def end_of(need: Need, data: bytes, chain: bytes) -> str:
    """Return until when an artifact stands by its own word, empty if it names no end.

    Raises:
        FormatError: the bytes are not what the need asks for.
    """
    kind = need.kind
    if kind in {"amd-vcek", "amd-chain"}:
        return _text(min(item.not_after for item in certificates.load_bundle(data)))
    if kind.endswith("-crl"):
        if chain:
            certificates.load_bundle(chain)
        return _text(revocation.parse_crl(data).next_update)
    if kind.endswith("-rim"):  # signed anew every two years, when its signer ends
        return _text(min(item.not_after for item in rim.parse_manifest(data).chain))
    if kind.endswith("-ocsp"):
        return _end_of_answer(need, data)
    member = "tcbInfo" if kind.endswith("-tcb-info") else "enclaveIdentity"
    signed = signed_member(data, member, certificates.load_bundle(chain))
    return _text(parse_moment(signed.members(member).get("nextUpdate")))


def _end_of_answer(need: Need, data: bytes) -> str:
    subject, issuer = need.certificates
    answers = [
        item
        for item in revocation.parse_ocsp(data).answers
        if item.serial == subject.serial and revocation.is_about(item, issuer)
    ]
    if not answers:
        raise FormatError("OCSP response is about another certificate", why=f"asked for serial {subject.serial:x}")
    return _text(min(item.ends_at for item in answers))


def _text(moment: datetime | None) -> str:
    return "" if moment is None else format_moment(moment)


def joined(layer: Layer, items: Mapping[tuple[str, str], Item]) -> Collateral:
    """Return what a layer carries together with the items it needs.

    Raises:
        FormatError: an item does not read as what it is called.
    """
    carried = layer.carried
    if not items:
        return carried
    found = [items[need.key] for need in layer_needs(layer, items) if need.key in items]

    def of(suffix: str) -> list[Item]:
        return [item for item in found if item.kind.endswith(suffix)]

    fetched = [
        cert for kind in ("amd-vcek", "amd-chain") for item in of(kind) for cert in certificates.load_bundle(item.data)
    ]
    intel = newest_of(_intel(found, carried.intel), carried.intel)
    return replace(
        carried,
        # A device's own chain comes first and nothing is fetched for it; AMD's certificates come before carried ones.
        certificates=(*fetched, *carried.certificates),
        crls=(*carried.crls, *(revocation.parse_crl(item.data) for item in of("amd-crl"))),
        ocsp=(*carried.ocsp, *(revocation.parse_ocsp(item.data) for item in of("-ocsp"))),
        rims=tuple(dict.fromkeys((*carried.rims, *(item.data for item in of("-rim"))))),
        intel=intel,
    )


def _intel(found: list[Item], carried: IntelCollateral | None) -> IntelCollateral | None:
    """Intel's four artifacts judge a platform together: those not found are the carried ones, or there are none.

    What was found stands against a carried copy even where another artifact could not be fetched.
    """
    by_kind = {item.kind.rpartition("intel-")[2].removeprefix("tdx-").removeprefix("sgx-"): item for item in found}
    held: dict[str, Any] = {}
    for kind, name, member in _INTEL_DOCUMENTS:
        if item := by_kind.get(kind):
            held[name] = signed_member(item.data, member, certificates.load_bundle(item.chain))
    if pck := by_kind.get("pck-crl"):
        held["pck_crl"] = revocation.crl_der(pck.data)
        held["pck_crl_chain"] = certificates.load_bundle(pck.chain) if pck.chain else ()
    if root := by_kind.get("root-crl"):
        held["root_crl"] = revocation.crl_der(root.data)
    if carried is not None:
        return replace(carried, **held)
    return IntelCollateral(**held) if len(held) == len(fields(IntelCollateral)) else None
