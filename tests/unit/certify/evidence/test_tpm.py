"""TPM quotes: who signed, what is bound, which boot, which software."""

from __future__ import annotations

import hashlib
import json

import pytest
from tests.unit.certify import world

from stannary.certify.evidence import event_log
from stannary.certify.evidence.basis import Activation, Basis, BootSession
from stannary.certify.evidence.collateral import Collateral
from stannary.certify.evidence.tpm import TpmVerifier
from stannary.certify.evidence.verifier import examine
from stannary.certify.references import reference_of
from stannary.certify.rules import Rules
from stannary.errors import FormatError

BOUND = b"\x44" * 48
EVENTS = [
    (0, 0x08, b"firmware 1"),
    (4, 0x80000003, b"loader"),
    (9, 0x0D, "console=ttyS0".encode("utf-16-le")),
]


def _machine(events=EVENTS):
    log = world.event_log(events)
    pcrs = {index: bytes(32) for index in range(10)}
    pcrs.update(event_log.parse_log(log).replay("sha256"))
    return log, pcrs


def _evidence(key, *, extra=BOUND, events=EVENTS, log=None, reset=7, **members):
    made, pcrs = _machine(events)
    attest, signature = key.quote(extra, pcrs, reset=reset)
    return json.dumps(
        {
            "attest": attest.hex(),
            "signature": signature.hex(),
            "ak_public": key.public.hex(),
            "pcrs": {str(index): value.hex() for index, value in pcrs.items()},
            "event_log": (log or made).hex(),
            **members,
        }
    ).encode()


def _appraise(blob, *, rules=None, bound=BOUND, **known):
    basis = Basis(bound=bound, collateral=Collateral(), now=world.NOW, rules=rules or Rules(), **known)
    return examine(TpmVerifier(), blob, basis)


@pytest.fixture
def key():
    """A restricted key."""
    return world.TpmKey()


def _golden(events=EVENTS):
    log, pcrs = _machine(events)
    return reference_of("image 1", event_log.parse_log(log), pcrs).golden()


def test_quote_that_replays_and_matches_its_reference(key):
    """A quote with its log and reference boot has no refusal; without EK it is capped at T0."""
    appraisal = _appraise(_evidence(key), rules=Rules(golden_boots=(_golden(),)))
    assert appraisal.outcome == "valid"
    assert appraisal.claims["reference"] == "image 1"
    assert {item.cap for item in appraisal.findings} == {0}


def test_changed_command_line_names_register_and_event(key):
    """Another command line is refused with its PCR and the event that differs."""
    changed = [*EVENTS[:2], (9, 0x0D, "console=ttyS0 init=/bin/sh".encode("utf-16-le"))]
    appraisal = _appraise(_evidence(key, events=changed), rules=Rules(golden_boots=(_golden(),)))
    assert appraisal.outcome == "refuse:reference-mismatch"
    (found,) = [item for item in appraisal.findings if item.id == "reference"]
    assert "PCR 9 event 0 (EV_IPL: console=ttyS0 init=/bin/sh)" in found.observed


def test_log_of_another_boot_does_not_replay(key):
    """A log that does not give the quoted registers is refused."""
    other, _ = _machine([*EVENTS, (4, 0x80000003, b"another loader")])
    assert _appraise(_evidence(key, log=other)).outcome == "refuse:replay-mismatch"


@pytest.mark.parametrize("attributes", [0x00050472 & ~(1 << 16), 0x00050472 & ~(1 << 1), 0x00050472 | 1 << 17])
def test_only_restricted_fixed_signing_keys_attest(attributes):
    """A key that is unrestricted, movable or decrypting attests nothing, however well it signs."""
    key = world.TpmKey(attributes)
    assert _appraise(_evidence(key)).outcome == "refuse:ak-not-restricted"


def test_empty_binding_and_other_nonce_have_their_codes(key):
    """A quote that binds nothing, and one that binds another nonce, are told apart."""
    assert _appraise(_evidence(key, extra=b"")).outcome == "refuse:binding-mismatch"
    assert _appraise(_evidence(key, extra=b"\x45" * 48)).outcome == "refuse:nonce-mismatch"


def test_reboot_ends_what_was_said_before(key):
    """Another resetCount than the appraisal being renewed is refused."""
    session = BootSession(7, 0)
    assert _appraise(_evidence(key), session=session).valid
    assert _appraise(_evidence(key, reset=8), session=session).outcome == "refuse:binding-mismatch"


def test_activation_needs_the_secret_and_the_same_keys(key):
    """Another secret than the one sent is refused, as are other keys than it was made for."""
    activation = Activation(b"\x00\x0b" + bytes(32), "aa", b"s" * 32)
    assert _appraise(_evidence(key), activation=activation).outcome == "refuse:binding-mismatch"


def test_nonce_in_the_evidence_is_never_believed(key):
    """A nonce echoed inside the evidence does not make an old quote fresh."""
    appraisal = _appraise(_evidence(key, nonce_hex=BOUND.hex(), extra=BOUND), bound=None)
    assert [row.state for row in appraisal.checks if row.id == "nonce"] == ["waived"]


def test_startup_locality_changes_the_first_register():
    """PCR 0 starts from the locality that the log announces."""
    events = [(0, 3, b"StartupLocality\0\x03"), (0, 8, b"fw")]
    replayed = event_log.parse_log(world.event_log(events)).replay("sha256")
    start = bytes(31) + b"\x03"
    assert replayed[0] == hashlib.sha256(start + hashlib.sha256(b"fw").digest()).digest()


@pytest.mark.parametrize(
    "filling", [b"", b"\0" * 7, b"\0" * 300, b"\xff" * 300, b"\0" * 100 + b"\xff" * 200, b"\xff\0"]
)
def test_what_fills_a_log_table_is_no_event(filling):
    """Firmware fills the rest of its table with zeros or ones, or first with one and then with the other."""
    log = world.event_log(EVENTS)
    assert event_log.parse_log(log + filling) == event_log.parse_log(log)
    for trailing in (filling + b"\1", b"\1" + filling):
        with pytest.raises(FormatError):
            event_log.parse_log(log + trailing)
