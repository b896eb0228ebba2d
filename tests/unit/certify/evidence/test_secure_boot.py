"""What a log may say of Secure Boot and of registers: root writes the log, firmware wrote the digests."""

from __future__ import annotations

import hashlib
import struct
from dataclasses import replace
from functools import reduce

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.certify import world

from stannary.certify.evidence import event_log
from stannary.certify.evidence.event_log import EventLog, Measured
from stannary.certify.evidence.secure_boot import doubt, secure_boot
from stannary.certify.evidence.tpm import check_log
from stannary.certify.outcomes import Examination

NO_ACTION, SEPARATOR, ACTION, IPL = 0x03, 0x04, 0x05, 0x0D
CONFIG, EFI_ACTION, HCRTM, AUTHORITY = 0x80000001, 0x80000007, 0x80000010, 0x800000E0
GLOBAL = bytes.fromhex("61dfe48bca93d211aa0d00e098032b8c")
BANKS = ("sha256", "sha384", "sha512")
ZERO = bytes(4)


def _variable(value: bytes, name: str = "SecureBoot", vendor: bytes = GLOBAL) -> bytes:
    return vendor + struct.pack("<QQ", len(name), len(value)) + name.encode("utf-16-le") + value


ON, OFF = (7, CONFIG, _variable(b"\1")), (7, CONFIG, _variable(b"\0"))
KEYS = [(7, CONFIG, _variable(name.encode() * 20, name)) for name in ("PK", "KEK", "db", "dbx")]
END = (7, SEPARATOR, ZERO)


def _event(register: int, kind: int, data: bytes, banks: tuple[str, ...] = BANKS) -> Measured:
    return Measured(register, kind, {bank: hashlib.new(bank, data).digest() for bank in banks}, data)


def _log(*events: tuple[int, int, bytes] | Measured, banks: tuple[str, ...] = BANKS) -> EventLog:
    made = tuple(item if isinstance(item, Measured) else _event(*item, banks) for item in events)
    return EventLog(banks, made)


def _registers(log: EventLog, banks: tuple[str, ...] = BANKS) -> dict[str, dict[int, bytes]]:
    return {bank: {index: log.at_reset(bank)(index) for index in range(10)} | log.replay(bank) for bank in banks}


def _judged(log: EventLog, quoted: dict[str, dict[int, bytes]] | None = None):
    exam = Examination("tpm")
    check_log(exam, log, _registers(log) if quoted is None else quoted)
    return exam.close()


def _state(log: EventLog, quoted: dict[str, dict[int, bytes]] | None = None) -> object:
    appraisal = _judged(log, quoted)
    assert appraisal.valid
    return appraisal.claims["secure_boot"]


@pytest.mark.parametrize("banks", [("sha1",), ("sha256",), BANKS, ("sha1", "sha256")])
def test_honest_logs_say_on_and_off_in_every_bank(banks):
    """Variables, authorities and actions before the separator, and anything behind it, keep what firmware measured."""
    early = [(7, AUTHORITY, _variable(b"certificate", "db")), (7, EFI_ACTION, b"DMA Protection Disabled")]
    shim = replace(_event(7, AUTHORITY, b"whole", banks), data=b"what shim writes is not what it measures")
    for first, expected in ((ON, "on"), (OFF, "off"), ((7, CONFIG, _variable(b"")), "off")):
        for middle in ([], early):
            log = _log((0, 8, b"fw"), first, *KEYS, *middle, END, shim, ON, OFF, (4, IPL, b"loader"), banks=banks)
            assert {bank: secure_boot(log, bank) for bank in banks} == dict.fromkeys(banks, expected)


@pytest.mark.parametrize(
    ("events", "expected"),
    [
        ([(4, SEPARATOR, ZERO), (0, SEPARATOR, b"\1\0\0\0"), ON, *KEYS, END], "on"),  # other registers end themselves
        ([ON, *KEYS, END, END, (7, SEPARATOR, b"\1\0\0\0")], "on"),  # behind the first anybody may extend
        ([OFF, *KEYS, END, ON, END], "off"),
        ([END, *KEYS, ON, END], "not measured"),
        ([END, END, ON], "not measured"),
        ([(7, IPL, ZERO), ON, *KEYS, END], "not measured"),
    ],
)
def test_the_first_separator_of_pcr_7_decides(events, expected):
    """Separators of other registers, doubled, early and late ones: what stands before the first of PCR 7 counts."""
    assert _state(_log(*events)) == expected


BOOTED_OFF = [OFF, *KEYS, END, (7, AUTHORITY, _variable(b"shim", "db")), ON]  # the last one extended by root


@pytest.mark.parametrize("kind", [ACTION, EFI_ACTION, CONFIG, AUTHORITY, SEPARATOR, IPL, 0x800000E3, 0xDEADBEEF])
@pytest.mark.parametrize("data", [None, b"x", _variable(b"\1"), _variable(b"\0", "BootOrder")])
def test_no_other_names_turn_off_into_on(kind, data):
    """Whatever types and data root writes to firmware's events, digests show a separator before his own variable."""
    real = _log(*BOOTED_OFF)
    told = tuple(replace(event, type=kind, data=event.data if data is None else data) for event in real.events[:-1])
    for events in (
        (*told, real.events[-1]),
        (*real.events[:5], told[5], *real.events[6:]),
        (told[0], *real.events[1:]),
        (replace(real.events[0], data=_variable(b"\1")), *real.events[1:]),
    ):
        assert _state(replace(real, events=events), _registers(real)) != "on"


@given(st.data())
def test_root_finds_no_labels_that_say_on(data):
    """Any types and data for any event of a boot without Secure Boot, whatever root extends behind it, never say on."""
    real = _log(*BOOTED_OFF)
    kinds = st.sampled_from([ACTION, EFI_ACTION, CONFIG, AUTHORITY, SEPARATOR, IPL, 0x800000E3])
    texts = st.sampled_from([event.data for event in real.events] + [b"", ZERO, _variable(b"\1", vendor=bytes(16))])
    told = [replace(event, type=data.draw(kinds), data=data.draw(texts)) for event in real.events]
    lied = replace(real, events=tuple(told))
    assert lied.replay("sha256") == real.replay("sha256")
    assert _state(lied, _registers(real)) != "on"


@pytest.mark.parametrize(
    ("events", "why"),
    [
        ([ON, *KEYS], "no separator"),
        ([], "no separator"),
        ([END, ON], "0 SecureBoot"),
        ([*KEYS, END], "0 SecureBoot"),
        ([ON, ON, END], "2 SecureBoot"),
        ([ON, *KEYS, OFF, END], "2 SecureBoot"),
        ([ON, (7, AUTHORITY, _variable(b"\0")), END], "2 SecureBoot"),
        ([ON, (7, CONFIG, _variable(b"\0", vendor=bytes(16))), END], "2 SecureBoot"),
        ([(7, CONFIG, _variable(b"\1", vendor=bytes(16))), *KEYS, END], "not UEFI's"),
        ([ON, *KEYS, (7, SEPARATOR, b"\1\0\0\0")], "error"),
        ([ON, *KEYS, (7, SEPARATOR, b"\0\0\0\1"), END], "error"),
        ([ON, *KEYS, (7, IPL, b"\xff" * 4), END], "error"),
        ([(7, EFI_ACTION, b"UEFI Debug Mode"), ON, END], "Debug Mode"),
        ([ON, (7, AUTHORITY, b"UEFI Debug Mode\0"), END], "Debug Mode"),
        ([ON, (7, IPL, b"anything"), END], "does not show"),
        ([ON, (7, SEPARATOR, b"\2\0\0\0"), END], "does not show"),
        ([ON, replace(_event(7, CONFIG, b"hidden"), data=b"shown"), END], "does not show"),
    ],
)
def test_what_makes_the_state_unknown(events, why):
    """No separator, an error's, a debugger, two variables or an event that hides its data are not Secure Boot."""
    log = _log(*events)
    assert why in doubt(log, "sha256")
    appraisal = _judged(log)
    assert appraisal.claims["secure_boot"] == "not measured"
    (found,) = [item for item in appraisal.findings if item.id == "secure-boot"]
    assert found.cap == 0


def test_an_event_that_extends_nothing_is_not_firmwares_word():
    """EV_NO_ACTION of PCR 7 that looks like the variable or the separator changes nothing."""
    for kind, data in ((NO_ACTION, _variable(b"\1")), (NO_ACTION, ZERO), (NO_ACTION, b"UEFI Debug Mode")):
        assert _state(_log((7, kind, data), OFF, END)) == "off"
        assert _state(_log((7, kind, data), ON, END)) == "on"


def test_banks_must_tell_the_same():
    """Root extends one bank alone, or swaps the digests of two: no bank speaks for another."""
    real = _log(*BOOTED_OFF)
    mixed = tuple(
        replace(event, digests={**event.digests, "sha384": hashlib.sha384(_variable(b"\1")).digest()})
        if not number
        else event
        for number, event in enumerate(real.events)
    )
    lied = replace(real, events=mixed)
    assert _state(lied, _registers(lied)) == "not measured"
    assert not _judged(lied, _registers(real)).valid
    swapped = replace(
        real,
        events=tuple(
            replace(item, digests={**item.digests, "sha256": item.digests["sha384"][:32]}) for item in real.events
        ),
    )
    assert not _judged(swapped, _registers(real)).valid


@pytest.mark.parametrize("register", range(8))
def test_log_that_leaves_a_register_out_does_not_replay(register):
    """A register firmware extended and the log does not mention is a part of the boot that was hidden."""
    whole = _log(*[(index, 8, b"firmware %d" % index) for index in range(8)])
    short = replace(whole, events=tuple(event for event in whole.events if event.register != register))
    appraisal = _judged(short, _registers(whole))
    assert appraisal.outcome == "refuse:replay-mismatch"
    assert f"PCR {register}" in appraisal.refusal.observed
    assert _judged(short, _registers(short)).valid
    quoted = {bank: {index: value for index, value in found.items() if index != register}
              for bank, found in _registers(whole).items()}  # fmt: skip
    assert _judged(short, quoted).valid


def test_registers_that_firmware_does_not_own_may_be_silent():
    """PCR 8 and up are extended by loaders and systems that keep logs of their own."""
    log = _log((0, 8, b"fw"))
    quoted = {
        bank: {**found, 8: b"\1" * len(found[0]), 10: b"\2" * len(found[0])} for bank, found in _registers(log).items()
    }
    assert _judged(log, quoted).valid


def _locality(value: int) -> tuple[int, int, bytes]:
    return (0, NO_ACTION, b"StartupLocality\0" + bytes([value]))


@pytest.mark.parametrize(
    ("events", "start"),
    [
        ([(0, HCRTM, b"HCRTM"), (0, 8, b"fw")], 4),
        ([(0, NO_ACTION, b"x"), (7, CONFIG, b"y"), (0, HCRTM, b"HCRTM")], 4),
        ([_locality(4), (0, HCRTM, b"HCRTM"), (0, 8, b"fw")], 4),
        ([_locality(4), (0, 8, b"fw")], 4),
        ([_locality(3), (0, 8, b"fw")], 3),
        ([_locality(3), (0, HCRTM, b"HCRTM")], 3),
        ([(0, 8, b"fw"), (0, HCRTM, b"HCRTM")], 0),
        ([(1, HCRTM, b"HCRTM"), (0, 8, b"fw")], 0),
        ([(0, 8, b"fw")], 0),
        ([_locality(3)], 3),
    ],
)
def test_pcr_0_starts_where_its_first_event_says(events, start):
    """A hardware CRTM's event first, or the locality the log names, is where PCR 0 starts; others start from zero."""
    log = _log(*events)
    for bank in BANKS:
        size = hashlib.new(bank).digest_size
        measured = [event.digests[bank] for event in log.events if event.register == 0 and event.type != NO_ACTION]
        value = reduce(
            lambda old, new, bank=bank: hashlib.new(bank, old + new).digest(), measured, start.to_bytes(size, "big")
        )
        quoted = {bank: {index: value if index == 0 else bytes(size) for index in range(7)}}
        appraisal = _judged(replace(log, events=tuple(item for item in log.events if item.register == 0)), quoted)
        assert appraisal.valid, appraisal.findings
        other = {bank: {**quoted[bank], 0: bytes(size - 1) + bytes([start ^ 1])}}
        assert not _judged(log, other).valid


@pytest.mark.parametrize("register", [24, 0xFFFF, 0xFFFFFFFE, 0xFFFFFFFF])
def test_only_what_extends_nothing_may_name_a_register_there_is_not(register):
    """EV_NO_ACTION is passed over whatever it names; any other event of such a register is malformed."""
    plain = world.event_log([(0, 8, b"fw"), (4, IPL, b"loader")])
    trust_point = plain + world.event_log([(register, NO_ACTION, b"trust point")])[-(12 + 34 + 4 + 11) :]
    assert event_log.parse_log(trust_point).replay("sha256") == event_log.parse_log(plain).replay("sha256")
    with pytest.raises(event_log.FormatError):
        event_log.parse_log(plain + world.event_log([(register, SEPARATOR, ZERO)])[-(12 + 34 + 4 + 4) :])
    old = struct.pack("<II", register, NO_ACTION) + bytes(20) + struct.pack("<I", 1) + b"t"
    assert event_log.parse_log(struct.pack("<II", 0, 8) + bytes(20) + struct.pack("<I", 1) + b"f" + old).banks == (
        "sha1",
    )
    with pytest.raises(event_log.FormatError):
        event_log.parse_log(struct.pack("<II", register, SEPARATOR) + bytes(20) + struct.pack("<I", 1) + b"t")
