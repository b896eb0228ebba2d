"""Fetched collateral: items by kind and name, and how they join what the evidence carries.

An item holds the bytes a vendor gave, the signer's chain if it came beside them, where and when they were
fetched and until when their issuer says they stand. Items are found by the needs of a part
(`collateral_plan.py`), so that nothing rides into an appraisal that the evidence does not name.

Rules: an item must read as what it is called, or an error page would be kept as an answer; whether it is
true is for the verifiers, at the evaluation time. Of two copies of one artifact the newer counts
(`collateral.newest_of`).
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any

from stannary.certify import certificates, revocation
from stannary.certify.collateral import Collateral, IntelCollateral, newest_of, signed_member
from stannary.certify.collateral_plan import part_needs
from stannary.certify.evidence import rim
from stannary.certify.moments import format_moment, parse_moment
from stannary.errors import FormatError, LimitExceeded
from stannary.formats import canonical, dsse, record

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from datetime import datetime

    from stannary.certify.collateral_plan import Need
    from stannary.certify.envelope import Part

PROFILE = "tag:stannary,2026:collateral#1"
MAX_BUNDLE_BYTES = 10 * 1024 * 1024
MAX_ITEMS = 512  # 32 devices with six certificates and two manifests each, and a CPU
_INTEL_DOCUMENTS = (("tcb-info", "tcb_info", "tcbInfo"), ("qe-identity", "qe_identity", "enclaveIdentity"))


@dataclass(frozen=True, slots=True)
class Item:
    """One artifact as its vendor gave it."""

    kind: str
    name: str
    data: bytes
    chain: bytes = b""  # PEM, where the signer's chain comes in a header
    url: str = ""
    fetched_at: str = ""
    next_update: str = ""

    @property
    def key(self) -> tuple[str, str]:
        """What needs find it by."""
        return self.kind, self.name

    def is_fresh(self, now: datetime) -> bool:
        """Whether its issuer says that it still stands; what names no end does not go stale."""
        return not self.next_update or now < parse_moment(self.next_update)


@dataclass(frozen=True, slots=True)
class _Written:
    """An item as JSON members."""

    kind: str
    name: str
    data: str
    chain: str
    url: str
    fetched_at: str
    next_update: str


def to_bytes(items: Iterable[Item]) -> bytes:
    """Write items as one file."""
    written = [
        record.to_json(
            _Written(
                item.kind,
                item.name,
                dsse.encode_base64(item.data),
                dsse.encode_base64(item.chain),
                item.url,
                item.fetched_at,
                item.next_update,
            )
        )
        for item in items
    ]
    return canonical.encode({"profile": PROFILE, "items": [*written]})


def parse(data: bytes) -> dict[tuple[str, str], Item]:
    """Read a file of items."""
    members = canonical.decode_object(data, max_bytes=MAX_BUNDLE_BYTES)
    listed = members.get("items")
    if members.get("profile") != PROFILE or set(members) != {"profile", "items"} or not isinstance(listed, list):
        raise FormatError(
            "not a file of collateral",
            why=f"profile {members.get('profile')!r:.60}",
            hint="make one with: stannary certify collateral fetch EVIDENCE -o collateral.json",
        )
    if len(listed) > MAX_ITEMS:
        raise LimitExceeded("too many items of collateral", why=f"{len(listed):,}, limit {MAX_ITEMS}")
    found = (_item(record.from_json(_Written, value, what="collateral item")) for value in listed)
    return {item.key: item for item in found}


def _item(written: _Written) -> Item:
    for moment in (written.fetched_at, written.next_update):
        if moment:
            parse_moment(moment)
    return Item(
        written.kind,
        written.name,
        dsse.decode_base64(written.data, "collateral"),
        dsse.decode_base64(written.chain, "collateral's chain"),
        written.url,
        written.fetched_at,
        written.next_update,
    )


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


def joined(part: Part, carried: Collateral, items: Mapping[tuple[str, str], Item]) -> Collateral:
    """Return what a part carries together with the items it needs.

    Raises:
        FormatError: an item does not read as what it is called.
    """
    if not items:
        return carried
    found = [items[need.key] for need in part_needs(part, items) if need.key in items]

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
