"""Signed reference values and vouchers: statements by people a policy names.

A reference boot says which registers a published image leaves, and the events behind them, so that a
mismatch can name the event. A voucher says that an inspector saw a hardware identity in a place.
Both are DSSE statements; a signature by a key the policy does not name counts as absent.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from stannary.certify.evidence import event_log
from stannary.certify.moments import parse_moment
from stannary.certify.octets import unhex
from stannary.certify.rules import GoldenBoot
from stannary.errors import FormatError, Refuted
from stannary.formats import dsse, statement
from stannary.formats.canonical import Json

if TYPE_CHECKING:
    from collections.abc import Iterable

    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    from stannary.certify.evidence.event_log import EventLog
    from stannary.certify.policy import Policy

REFERENCE_KIND = "reference-boot"
VOUCHER_KIND = "voucher"
MAX_VOUCHERS = 64


@dataclass(frozen=True, slots=True)
class ReferenceBoot:
    """Registers and event digests of one published image, hex by decimal index."""

    name: str
    pcrs: dict[str, Json]
    events: dict[str, Json]

    def golden(self) -> GoldenBoot:
        """Return the values the TPM verifier compares."""
        events: dict[int, tuple[bytes, ...]] = {}
        for index, listed in self.events.items():
            if not isinstance(listed, list):
                raise FormatError("reference boot's events are not lists", why=index[:20])
            events[_index(index)] = tuple(unhex(item, "event digest") for item in listed)
        return GoldenBoot(self.name, {_index(key): unhex(item, "register") for key, item in self.pcrs.items()}, events)


@dataclass(frozen=True, slots=True)
class Voucher:
    """An inspector saw this hardware in this place."""

    identity: str
    inspector: str
    facility: str
    inspected_at: str


def reference_of(name: str, log: EventLog, pcrs: dict[int, bytes]) -> ReferenceBoot:
    """Return the reference boot that a log and its registers describe."""
    events: dict[str, Json] = {}
    for index in sorted(pcrs):
        listed = [item for item in log.events if item.register == index and item.type != event_log.EV_NO_ACTION]
        events[str(index)] = [item.digests["sha256"].hex() for item in listed]
    return ReferenceBoot(name, {str(index): value.hex() for index, value in sorted(pcrs.items())}, events)


def sign_reference(reference: ReferenceBoot, key: Ed25519PrivateKey) -> dsse.Envelope:
    """Sign a reference boot."""
    return statement.sign(REFERENCE_KIND, reference, (), key)


def sign_voucher(voucher: Voucher, key: Ed25519PrivateKey) -> dsse.Envelope:
    """Sign a voucher."""
    return statement.sign(VOUCHER_KIND, voucher, (), key)


def golden_boots(envelopes: Iterable[dsse.Envelope], policy: Policy) -> tuple[GoldenBoot, ...]:
    """Return the reference boots signed by keys of the policy."""
    found: list[GoldenBoot] = []
    for envelope in envelopes:
        for key in policy.reference_keys:
            try:
                opened = statement.open_envelope(envelope, REFERENCE_KIND, ReferenceBoot, unhex(key, "reference key"))
            except Refuted:
                continue  # not this key's; a reference that no key signed is not one
            found.append(opened.predicate.golden())
    return tuple(found)


def count_vouchers(envelopes: Iterable[dsse.Envelope], identities: Iterable[str], policy: Policy, now: datetime) -> int:
    """Count the *different* inspectors whose valid, recent vouchers name one of these identities."""
    known = set(identities)
    inspectors: set[str] = set()
    for number, envelope in enumerate(envelopes):
        if number >= MAX_VOUCHERS:
            break
        for name, key in policy.vouch.inspectors.items():
            try:
                opened = statement.open_envelope(envelope, VOUCHER_KIND, Voucher, unhex(key, "inspector key"))
            except Refuted:
                continue
            seen = opened.predicate
            age = now - parse_moment(seen.inspected_at)
            recent = timedelta(0) <= age <= timedelta(days=policy.vouch.max_age_days)
            if seen.identity in known and seen.inspector == name and recent:
                inspectors.add(name)
    return len(inspectors)


def _index(text: str) -> int:
    if not text.isascii() or not text.isdigit() or len(text) > 2:
        raise FormatError("reference boot names an unknown register", why=repr(text)[:40])
    return int(text)
