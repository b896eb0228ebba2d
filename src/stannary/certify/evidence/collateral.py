"""Collateral: what vendors sign about their hardware, carried beside the evidence.

Nothing is fetched here. A verifier names what it needs (`collateral_keys`), the caller gathers it
from the evidence, a folder or a cache, and the verifier judges each artifact at the evaluation
time. Of two copies the newer wins (`newest_of`), so that an attacker cannot replay an old one that is
still inside its window over a newer one we hold. What makes Intel's documents newer is their
tcbEvaluationDataNumber: Intel signs earlier evaluations anew for a year, with dates of today.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeVar

from stannary.certify.moments import parse_moment
from stannary.certify.octets import unhex
from stannary.certify.pki.revocation import OcspResponse, RevocationList, parse_crl
from stannary.errors import FormatError
from stannary.formats import canonical

if TYPE_CHECKING:
    from datetime import datetime

    from stannary.certify.pki.certificates import Certificate

MAX_COLLATERAL_BYTES = 1 << 20
_Rank = TypeVar("_Rank", "tuple[int, datetime]", "datetime")


@dataclass(frozen=True, slots=True)
class CollateralKey:
    """One artifact a verifier needs: `kind` and what names it (FMSPC, chip id, RIM id, serial)."""

    kind: str
    name: str


@dataclass(frozen=True, slots=True)
class SignedJson:
    """A JSON object of Intel's provisioning service: its text as signed, signature and signer chain."""

    text: str
    signature: bytes
    chain: tuple[Certificate, ...]

    def members(self, what: str) -> dict[str, canonical.Json]:
        """Read the object, strictly."""
        try:
            return canonical.decode_object(self.text.encode("utf-8"), max_bytes=MAX_COLLATERAL_BYTES)
        except UnicodeEncodeError as err:
            raise FormatError(f"{what} is not text", why=str(err)) from err


@dataclass(frozen=True, slots=True)
class IntelCollateral:
    """TCB info, quoting enclave identity and the two revocation lists (Intel PCS v4)."""

    tcb_info: SignedJson
    qe_identity: SignedJson
    pck_crl: bytes
    root_crl: bytes
    pck_crl_chain: tuple[Certificate, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Collateral:
    """Everything carried for one appraisal."""

    certificates: tuple[Certificate, ...] = ()
    crls: tuple[RevocationList, ...] = ()
    ocsp: tuple[OcspResponse, ...] = ()
    intel: IntelCollateral | None = None
    rims: tuple[bytes, ...] = ()
    jwk: dict[str, canonical.Json] | None = None  # key of another verifier, whose results are read

    def with_certificates(self, *more: Certificate) -> Collateral:
        """Return a copy that carries `more` certificates too."""
        return replace(self, certificates=(*self.certificates, *more))


EMPTY = Collateral()


def newest_of(mine: IntelCollateral | None, carried: IntelCollateral | None) -> IntelCollateral | None:
    """Return the newer copy of each of the four artifacts; a carried one that does not read loses.

    One by one, because a node could carry newer TCB info beside an old list that does not name it yet.
    """
    if mine is None or carried is None:
        return mine or carried
    their_crl = _is_newer(_crl_moment(carried.pck_crl), _crl_moment(mine.pck_crl))
    their_root = _is_newer(_crl_moment(carried.root_crl), _crl_moment(mine.root_crl))
    return IntelCollateral(
        tcb_info=_newer_document(mine.tcb_info, carried.tcb_info, "TCB info"),
        qe_identity=_newer_document(mine.qe_identity, carried.qe_identity, "QE identity"),
        pck_crl=carried.pck_crl if their_crl else mine.pck_crl,
        root_crl=carried.root_crl if their_root else mine.root_crl,
        pck_crl_chain=carried.pck_crl_chain if their_crl else mine.pck_crl_chain,
    )


def _newer_document(mine: SignedJson, carried: SignedJson, what: str) -> SignedJson:
    return carried if _is_newer(_rank(carried, what), _rank(mine, what)) else mine


def _rank(document: SignedJson, what: str) -> tuple[int, datetime] | None:
    try:
        members = document.members(what)
        return evaluation_number(members), parse_moment(members.get("issueDate"))
    except FormatError:
        return None


def evaluation_number(members: dict[str, canonical.Json]) -> int:
    """Return the tcbEvaluationDataNumber of TCB info or an enclave identity, 0 where it names none (PCS v4)."""
    number = members.get("tcbEvaluationDataNumber")
    return number if isinstance(number, int) and not isinstance(number, bool) and number > 0 else 0


def _crl_moment(data: bytes) -> datetime | None:
    try:
        return parse_crl(data).this_update
    except FormatError:
        return None


def _is_newer(theirs: _Rank | None, ours: _Rank | None) -> bool:
    return theirs is not None and (ours is None or theirs > ours)


def signed_member(document: bytes, member: str, chain: tuple[Certificate, ...]) -> SignedJson:
    """Split a PCS body `{"<member>": {...}, "signature": "<hex>"}` into signed text and signature.

    The signature covers the text of the member as it stands, so it is cut out, never written again.
    """
    whole = canonical.decode_object(document, max_bytes=MAX_COLLATERAL_BYTES)
    signature = whole.get("signature")
    if set(whole) != {member, "signature"} or not isinstance(signature, str):
        raise FormatError(f"not a signed {member}", why=", ".join(sorted(whole))[:120])
    text = document.decode("utf-8")
    start = text.index(":", text.index(f'"{member}"')) + 1
    while text[start] in " \t\r\n":
        start += 1
    _, end = json.JSONDecoder().raw_decode(text, start)
    return SignedJson(text[start:end], unhex(signature, "signature"), chain)
