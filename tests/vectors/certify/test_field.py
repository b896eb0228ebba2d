"""Evidence of other people's machines and public bug reports: the outcome of each, and of each after a change.

The cases are outside this repository; STANNARY_FIELD_VECTORS names their folder.
"""

from __future__ import annotations

import base64
import gzip
import json
import os
import random
import re
import struct
from dataclasses import replace
from pathlib import Path

import pytest
from tests.vectors.certify.evidence_vectors import Changed, flip

from stannary.certify.evidence import ccel, event_log, quote, spdm
from stannary.certify.evidence.secure_boot import secure_boot
from stannary.certify.evidence.tpm import check_log
from stannary.certify.outcomes import Examination
from stannary.certify.vectors import cases, runner
from stannary.certify.vectors.boot_files import read_registers

FOLDER = Path(os.environ.get("STANNARY_FIELD_VECTORS", str(Path(__file__).parents[4] / "shared" / "vectors-field")))
pytestmark = pytest.mark.skipif(
    not (FOLDER / "manifest.json").is_file(),
    reason=f"no field cases in {FOLDER}: set STANNARY_FIELD_VECTORS to their folder",
)
NUM_VARIANTS = 40
_NO_ACTION = event_log.EV_NO_ACTION


def _cases() -> list[cases.Case]:
    return list(cases.load(FOLDER)) if (FOLDER / "manifest.json").is_file() else []


def _named(kinds: set[str]) -> list[str]:
    """Names of cases of these kinds that are not refused as they stand."""
    return [
        str(item.members["id"])
        for item in _cases()
        if item.members["kind"] in kinds and not str(item.members["expect"]).startswith("refuse:")
    ]


def _case(name: str) -> cases.Case:
    return next(item for item in _cases() if item.members["id"] == name)


def _outcome(name: str, blob: bytes) -> str:
    original = _case(name)
    return runner.run_case(Changed(original.folder, original.members, blob)).observed


def _places(name: str, start: int, end: int) -> list[int]:
    """Bits inside a span, the same every time."""
    generator = random.Random(name)
    return [generator.randrange(8 * start, 8 * end) for _ in range(NUM_VARIANTS)]


@pytest.mark.parametrize("case", _cases(), ids=lambda case: str(case.members["id"]))
def test_every_field_case_gives_its_expected_outcome(case):
    """Every case of the manifest gives the outcome it expects, and every check says whether it ran."""
    result = runner.run_case(case)
    assert result.observed == result.expected, result.detail
    assert result.appraisal is not None
    assert all(row.detail for row in result.appraisal.checks)


@pytest.mark.parametrize("name", _named({"nitro", "snp", "tpm"}))
def test_any_changed_bit_of_a_signed_document_is_refused(name):
    """Documents of Nitro, reports of SNP and quotes of TPMs are signed as a whole: no bit is free."""
    blob = _case(name).evidence()
    for bit in _places(name, 0, len(blob)):
        assert _outcome(name, flip(blob, bit)).startswith("refuse:"), bit


@pytest.mark.parametrize("name", _named({"tdx", "sgx"}))
def test_a_changed_quote_is_refused_and_what_lies_behind_it_is_not_read(name):
    """No bit of a quote before its certificates is free; every bit behind its declared end is."""
    blob = _case(name).evidence()
    parsed = quote.parse_quote(quote.binary(blob))
    before = parsed.raw.index(b"-----BEGIN CERTIFICATE-----")
    for bit in _places(name, 0, before):
        assert _outcome(name, flip(blob, bit)).startswith("refuse:"), bit
    assert _outcome(name, parsed.raw) == _outcome(name, parsed.raw + b"\x7f" * 99) == _case(name).text("expect")
    for end in (len(parsed.raw) - 1, before, 700):
        assert _outcome(name, parsed.raw[:end]) == "refuse:malformed"


@pytest.mark.parametrize("name", _named({"nvgpu"}))
def test_a_changed_device_report_is_refused(name):
    """No bit of a report is free, nor of the zero fill behind it, which may not be longer than the driver's buffer."""
    text = _case(name).evidence().strip()
    blob = bytes.fromhex(text.decode()) if text[:2] == b"11" else _case(name).evidence()
    report = spdm.parse_report(blob)
    end = len(report.signed) + spdm.SIGNATURE_BYTES
    for bit in (*_places(name, 0, end), *(_places(name + "fill", end, len(blob))[:8] if end < len(blob) else ())):
        assert _outcome(name, flip(blob, bit)).startswith("refuse:"), bit
    assert _outcome(name, blob[:end]) == _outcome(name, blob[:end] + bytes(8192)) == _case(name).text("expect")
    for longer in (blob[:end] + bytes(8193), blob[:end] + bytes(20) + b"\1", blob[:end] * 2):
        assert _outcome(name, longer) == "refuse:malformed"


@pytest.mark.parametrize("name", _named({"nvgpu-json"}))
def test_a_changed_device_of_a_fleet_is_refused(name):
    """One changed bit of one device, another nonce, or one device twice refuses the list or request it is in."""
    members = json.loads(_case(name).evidence())
    devices = members if isinstance(members, list) else members["evidence_list"]
    kept = dict(devices[0])
    raw = base64.b64decode(kept["evidence"])
    for bit in _places(name, 4, 60):
        devices[0] = {**kept, "evidence": base64.b64encode(flip(raw, bit)).decode()}
        assert _outcome(name, json.dumps(members).encode()).startswith("refuse:"), bit
    devices[:] = [kept, kept]
    assert _outcome(name, json.dumps(members).encode()) == "refuse:identity-collision"
    devices[:] = [kept]
    (kept if isinstance(members, list) else members)["nonce"] = "5a" * 32
    assert _outcome(name, json.dumps(members).encode()) == "refuse:nonce-mismatch"


@pytest.mark.parametrize("name", _named({"nvrim"}))
def test_a_changed_reference_manifest_is_refused(name):
    """A changed golden value is no longer its signer's."""
    text = _case(name).evidence().decode()
    places = [found.start(1) + 5 for found in re.finditer(r'Hash0="([0-9a-f]{96})"', text)]
    for place in places[:NUM_VARIANTS]:
        changed = text[:place] + ("0" if text[place] != "0" else "1") + text[place + 1 :]
        assert _outcome(name, changed.encode()) == "refuse:signature-invalid"
    assert places


@pytest.mark.parametrize("name", _named({"nvrim-match"}))
def test_a_changed_measurement_does_not_match(name):
    """A measurement that differs from its golden value is told apart at every index the manifests have."""
    blob = bytes.fromhex(_case(name).evidence().decode().strip())
    record = int.from_bytes(blob[42:45], "little")
    changed = [_outcome(name, flip(blob, 8 * (start + 20))) for start in range(45, 45 + record, 55)]
    assert changed.count("refuse:reference-mismatch") >= 30


@pytest.mark.parametrize("name", _named({"ear"}))
def test_a_changed_token_is_refused(name):
    """A changed character of header, claims or signature is refused."""
    token = _case(name).evidence().strip()
    for bit in _places(name, 0, len(token) - 1):
        changed = flip(token, bit)
        if changed.split() != [changed] or changed == token:
            continue
        assert _outcome(name, changed).startswith("refuse:"), bit


def _octets(value: object) -> bytes:
    if isinstance(value, list):
        return bytes(value)
    assert isinstance(value, str)
    if re.fullmatch(r"(?:[0-9a-f]{2})+", value):
        return bytes.fromhex(value)
    return base64.urlsafe_b64decode(value.replace("+", "-").replace("/", "_") + "=" * (-len(value) % 4))


@pytest.mark.parametrize("name", _named({"azure-snp", "azure-tdx"}))
def test_a_changed_layer_of_an_azure_composite_is_refused(name):
    """A changed vTPM quote, signature or register, hardware report or TD quote refuses the whole."""
    members = json.loads(_case(name).evidence())
    inner = members.get("evidence", members) if isinstance(members.get("evidence"), dict) else members
    vtpm = inner.get("tpm_quote", inner.get("quote"))
    layers = [(vtpm, "message", None), (vtpm, "signature", None)]
    layers.append((inner, "hcl_report" if "hcl_report" in inner else "report", (32, 32 + 0x2A0)))
    if "td_quote" in inner:
        layers[-1] = (inner, "td_quote", (48, 632))
    for holder, member, span in layers:
        kept = holder[member]
        raw = _octets(kept)
        for bit in _places(name + member, *(span or (0, len(raw))))[:12]:
            holder[member] = flip(raw, bit).hex()
            assert _outcome(name, json.dumps(members).encode()).startswith("refuse:"), (member, bit)
        holder[member] = kept
    vtpm["pcrs"][4] = "5a" * 32
    assert _outcome(name, json.dumps(members).encode()).startswith("refuse:")


def _log(name: str) -> tuple[event_log.EventLog, dict[str, dict[int, bytes]]]:
    """A log and the registers its machine had."""
    case = _case(name)
    return ccel.parse_ccel(case.evidence()), read_registers(case.file(case.text("pcrs")))


def _judged(log: event_log.EventLog, registers: dict[str, dict[int, bytes]]):
    exam = Examination("eventlog")
    check_log(exam, log, registers)
    return exam.close()


LOGS = [name for name in _named({"eventlog"}) if "pcrs" in _case(name).members]
HONEST = {
    "log-eventlogwithsp800155": "on",
    "log-event-postcode": "on",
    "log-trust-point": "on",
    "log-hcrtm-min": "not measured",
    "log-debug-mode": "not measured",
    "log-relabelled": "not measured",
}


@pytest.mark.parametrize("name", [name for name in LOGS if name in HONEST])
def test_secure_boot_is_what_digests_show(name):
    """Honest machines say what they always said, in every bank; relabelled and debugged ones do not say on."""
    log, registers = _log(name)
    assert {secure_boot(log, bank) for bank in log.banks} == {HONEST[name]}
    assert _judged(log, registers).claims["secure_boot"] == HONEST[name]


@pytest.mark.parametrize("name", LOGS)
def test_a_changed_dropped_doubled_or_moved_event_does_not_replay(name):
    """No event that extends a quoted register of firmware can be changed, left out, repeated or swapped."""
    log, registers = _log(name)
    bank = next(bank for bank in ("sha256", "sha384", "sha512") if bank in registers)
    extending = [
        number
        for number, event in enumerate(log.events)
        if event.type != _NO_ACTION and event.register < 8 and event.register in registers[bank]
    ]
    events = list(log.events)
    for number in random.Random(name).sample(extending, min(NUM_VARIANTS, len(extending))):
        event = events[number]
        changed = replace(event, digests={**event.digests, bank: flip(event.digests[bank], 77)})
        moved = replace(event, register=(event.register + 1) % 8)
        for variant in ([changed], [], [event, event], [moved]):
            lied = replace(log, events=(*events[:number], *variant, *events[number + 1 :]))
            assert _judged(lied, registers).outcome == "refuse:replay-mismatch", number
    for register in {events[number].register for number in extending}:
        silent = replace(log, events=tuple(item for item in events if item.register != register))
        assert _judged(silent, registers).outcome == "refuse:replay-mismatch", register


@pytest.mark.parametrize("name", LOGS)
def test_no_label_or_text_turns_secure_boot_on(name):
    """Types and data are not measured: whatever a log writes there, only a machine that had it on says on."""
    log, registers = _log(name)
    texts = [event.data for event in log.events if event.register == 7] or [b""]
    generator = random.Random(name)
    for _ in range(NUM_VARIANTS):
        told = tuple(
            replace(
                event,
                type=generator.choice([5, 4, 13, 0x80000001, 0x80000007, 0x800000E0]),
                data=generator.choice(texts),
            )
            if event.register == 7 and event.type != _NO_ACTION and generator.random() < 0.7
            else event
            for event in log.events
        )
        appraisal = _judged(replace(log, events=told), registers)
        assert appraisal.valid
        assert appraisal.claims["secure_boot"] != "on" or HONEST.get(name) == "on"


def test_logs_of_two_machines_cannot_be_spliced():
    """PCR 7 of a machine with Secure Boot on, put into the log of one without, gives neither's registers."""
    on, _ = _log("log-eventlogwithsp800155")
    off, registers = _log("log-relabelled")
    spliced = replace(
        off,
        events=tuple(item for item in off.events if item.register != 7)
        + tuple(replace(item, digests={"sha256": item.digests["sha256"]}) for item in on.events if item.register == 7),
    )
    assert _judged(spliced, registers).outcome == "refuse:replay-mismatch"


@pytest.mark.parametrize("name", [name for name in _named({"eventlog"}) if "quote" in _case(name).members])
def test_a_changed_ccel_does_not_give_the_quoted_registers(name):
    """RTMR 0 to 2 are strict: a changed digest of the log, or a changed register of the quote, does not replay."""
    case = _case(name)
    plain = case.evidence()
    plain = gzip.decompress(plain) if plain[:2] == b"\x1f\x8b" else plain
    offset, spans = 32 + struct.unpack_from("<I", plain, 28)[0], []
    while plain[offset : offset + 4] not in {b"\xff" * 4, b"\0" * 4, b""}:
        if struct.unpack_from("<I", plain, offset + 4)[0] != _NO_ACTION:
            spans.append(offset + 14)
        offset += 14 + 48 + 4 + struct.unpack_from("<I", plain, offset + 14 + 48)[0]
    assert len(spans) > 10
    for start in random.Random(name).sample(spans, 10):
        assert _outcome(name, flip(plain, 8 * start + 3)) == "refuse:replay-mismatch"
    rows = {row.id: row for row in runner.run_case(case).appraisal.checks}
    assert {rows[f"rtmr{index}"].state for index in range(3)} == {"checked"}
    assert rows["rtmr3"].state == ("waived" if "rtmr3" in name else "checked")
    parsed = quote.parse_quote(case.file(case.text("quote")))
    for index in range(3):
        registers = list(parsed.body.rtmrs)
        registers[index] = flip(registers[index], 5)
        exam = Examination("eventlog")
        ccel.check_replay(
            exam, ccel.parse_ccel(plain), replace(parsed, body=replace(parsed.body, rtmrs=tuple(registers)))
        )
        assert exam.close().outcome == "refuse:replay-mismatch"


def test_a_log_that_speaks_of_rtmr_3_is_held_to_it():
    """Only silence about RTMR3 is waived: a log with an entry for it must give the quoted value."""
    case = _case("ccel-rtmr3-carrier")
    log, parsed = ccel.parse_ccel(case.evidence()), quote.parse_quote(case.file(case.text("quote")))
    entry = event_log.Measured(4, 5, {"sha384": bytes(48)}, b"")
    exam = Examination("eventlog")
    ccel.check_replay(exam, replace(log, events=(*log.events, entry)), parsed)
    assert exam.close().outcome == "refuse:replay-mismatch"


@pytest.mark.parametrize(
    "change",
    [
        lambda body: body[:-1], lambda body: body + b"\xff", lambda body: body + b"\0",
        lambda body: body[:-1] + b"\x65nonce\xf6\xff", lambda body: body[:-1] + b"\x65later\xff",
        lambda body: body[:-1] + b"\x65later\x5f\x41\x01\xff\xff", lambda body: body[:1] + b"\xff" + body[1:],
    ],
)  # fmt: skip
def test_payload_of_a_nitro_document_with_another_end_does_not_read(change):
    """The real payload with its break missing, doubled or early, a key twice or alone, or a string in chunks."""
    blob = _case("nitro-dstack_nsm").evidence()
    place = blob.index(b"\xbf")
    head = next(size for size in (3, 2) if blob[place - size] in {0x58, 0x59} and blob[place - size] == 0x57 + size - 1)
    body_bytes = int.from_bytes(blob[place - head + 1 : place], "big")
    body = change(blob[place : place + body_bytes])
    changed = blob[: place - head] + b"\x59" + struct.pack(">H", len(body)) + body + blob[place + body_bytes :]
    assert _outcome("nitro-dstack_nsm", changed) in {"refuse:malformed", "refuse:unsupported"}
