"""Revocation notices: what a vendor's responder said about hardware, signed by a watcher and dated.

OCSP answers are short-lived and need the network; an offline verifier that holds none cannot see that
a device was withdrawn. A notice carries what somebody who did ask was told, as browsers carry lists of
withdrawn certificates: hardware identity, status, which responder, when.

Rules:
1. A notice only narrows. `certificateHold` makes evidence `valid-offline-only` and caps it at T1; any other
   status refuses it with `revoked`. No entry makes anything good.
2. An entry counts from the moment it was observed on, by the evaluation time.
3. A vendor's own good answer that was issued after a hold was observed lifts the hold; nothing lifts
   another revocation (RFC 5280 section 5.3.1). That answer is judged by the evidence verifier.
4. Of one signer the newest notice counts, whole: what it no longer lists, its signer no longer says. Of two
   newest of one moment both count.
5. A notice signed by nobody the policy names, or by a name that is not its key's, is refused, and the
   appraisal with it: whoever changed the file would else decide what is not seen.

The packaged notice is believed as the code beside it is; a policy may leave it out. Pure: the time is an argument.
"""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from stannary.certify.moments import parse_moment
from stannary.certify.octets import unhex
from stannary.certify.outcomes import Appraisal, Check, Examination, Qualifier, State, Step
from stannary.certify.remedies import Code
from stannary.certify.withdrawals import CrlReason, Withdrawal
from stannary.errors import FormatError, Refuted
from stannary.formats import canonical, record, statement

if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import datetime

    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    from stannary.certify.policy import Policy
    from stannary.formats import dsse

KIND = "revocation-notice"
PACKAGED = "data/revocations.json"
MAX_NOTICES = 64
HOLD_CAP = 1
_IDENTITY = re.compile(r"(ek|nvidia|pck|ppid|snp):[0-9a-f]{2,128}")


@dataclass(frozen=True, slots=True)
class RevocationNotice:
    """Everything one watcher says at one moment."""

    watcher: str
    issued_at: str
    entries: tuple[Withdrawal, ...]


@dataclass(frozen=True, slots=True)
class Believed:
    """The entries that count for a policy, and the account of where they come from."""

    withdrawals: tuple[Withdrawal, ...]
    appraisal: Appraisal


def sign(notice: RevocationNotice, key: Ed25519PrivateKey) -> dsse.Envelope:
    """Sign a notice."""
    return statement.sign(KIND, checked(notice), (), key)


def checked(notice: RevocationNotice) -> RevocationNotice:
    """Return the notice if its entries can be meant: known identities, nothing seen after it was written."""
    issued = parse_moment(notice.issued_at)
    for entry in notice.entries:
        if _IDENTITY.fullmatch(entry.identity) is None:
            raise FormatError(
                "revocation notice names no hardware identity",
                why=f"{entry.identity!r:.80}",
                hint="write it as appraisals do: nvidia:<hex>, snp:<hex>, ek:<hex>, ppid:<hex> or pck:<hex>",
            )
        if parse_moment(entry.observed_at) > issued:
            raise FormatError(
                "revocation notice reports what it cannot have seen",
                why=f"{entry.identity}: observed {entry.observed_at}, issued {notice.issued_at}",
                hint="date the notice at or after its newest observation",
            )
    return notice


@functools.cache
def packaged() -> RevocationNotice:
    """Return the notice of this release: the withdrawals publicly known when it was made."""
    from importlib import resources

    data = resources.files("stannary.certify").joinpath(PACKAGED).read_bytes()
    return checked(record.from_json(RevocationNotice, canonical.decode_object(data), what=KIND))


def unverified(envelope: dsse.Envelope) -> RevocationNotice:
    """Read a notice without believing it, to show it or to continue it."""
    return checked(statement.read(envelope.payload, KIND, RevocationNotice).predicate)


def believe(envelopes: Iterable[dsse.Envelope], policy: Policy) -> Believed:
    """Return what notices a policy believes say (rules 4 and 5)."""
    exam = Examination("revocations")
    by_signer: dict[str, list[RevocationNotice]] = {}
    if policy.packaged_revocations:
        by_signer[""] = [packaged()]
        exam.checks.append(Check("packaged", State.CHECKED, _account(packaged())))
    else:
        exam.waive("packaged", "the policy leaves the packaged notice out")
    for number, envelope in enumerate(envelopes):
        if number >= MAX_NOTICES:
            exam.refuse(
                f"notice{number}", Step.COLLATERAL, Code.COLLATERAL_INVALID, observed=f"more than {MAX_NOTICES} notices"
            )
            break
        key, found = _opened(envelope, policy)
        if exam.require(
            f"notice{number}",
            isinstance(found, RevocationNotice),
            Step.COLLATERAL,
            Code.COLLATERAL_INVALID,
            observed=found,
            expected="a revocation notice signed by a key in the policy's revocation_keys",
        ) and isinstance(found, RevocationNotice):
            by_signer.setdefault(key, []).append(found)
            exam.checks[-1] = Check(f"notice{number}", State.CHECKED, _account(found))
    entries = tuple(entry for listed in by_signer.values() for entry in _newest(listed))
    exam.claims["withdrawals"] = len(entries)
    return Believed(entries, exam.close())


def judge_identities(appraisal: Appraisal, withdrawals: tuple[Withdrawal, ...], now: datetime | None) -> Appraisal:
    """Apply notices to what an appraisal found (rules 1 to 3)."""
    about = [item for item in withdrawals if item.identity in appraisal.identities and item.holds_at(now)]
    if not about:
        return appraisal
    exam = Examination.reopen(appraisal)
    for item in about:
        _judge(exam, item)
    return exam.close()


def _judge(exam: Examination, item: Withdrawal) -> None:
    if item.status is not CrlReason.CERTIFICATE_HOLD:
        exam.require("notice", False, Step.COLLATERAL, Code.REVOKED, observed=item.words())
        return
    since = exam.confirmed.get(item.identity)
    if since is not None and since > parse_moment(item.observed_at):
        exam.note(
            "hold-lifted",
            Step.COLLATERAL,
            observed=f"{item.words()}; its vendor says good since {since:%Y-%m-%d %H:%M}",
        )
        return
    exam.qualifiers.add(Qualifier.OFFLINE_ONLY)
    exam.waive("hold", f"could not check whether the hold was lifted: {item.words()}")
    exam.cap(
        "hold",
        Step.COLLATERAL,
        HOLD_CAP,
        observed=item.words(),
        expected=f"a good answer of its vendor issued after {item.observed_at}",
        remedy="fetch a fresh answer: `stannary certify collateral fetch`"
        if item.identity.startswith("nvidia:")
        else "ask the watcher for a newer notice: this vendor answers no OCSP",
    )


def _opened(envelope: dsse.Envelope, policy: Policy) -> tuple[str, RevocationNotice | str]:
    """Return the signing key and the notice, or why it is not believed."""
    for name, key in policy.revocation_keys.items():
        try:
            opened = statement.open_envelope(envelope, KIND, RevocationNotice, unhex(key, "revocation key"))
        except Refuted:
            continue  # not this key's
        except FormatError as err:
            return "", str(err)
        if opened.predicate.watcher != name:
            return "", f"signed by {name} in the name of {opened.predicate.watcher!r:.60}"
        try:
            return str(key), checked(opened.predicate)
        except FormatError as err:
            return "", str(err)
    signers = ", ".join(item.keyid[:24] for item in envelope.signatures)
    return "", f"signed by {signers}: no key of the policy's revocation_keys"


def _newest(notices: list[RevocationNotice]) -> list[Withdrawal]:
    """Rule 4."""
    latest = max(parse_moment(item.issued_at) for item in notices)
    found = [entry for item in notices if parse_moment(item.issued_at) == latest for entry in item.entries]
    return list(dict.fromkeys(found))


def _account(notice: RevocationNotice) -> str:
    return f"notice of {notice.watcher} of {notice.issued_at}, {len(notice.entries)} entries"
