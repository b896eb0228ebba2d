"""TDX and SGX quotes of every version under a test root: the outcome and its code."""

from __future__ import annotations

import base64
import json
import struct
from dataclasses import replace
from datetime import timedelta

import pytest
from tests.unit.certify import intel_world, world

from stannary.certify.evidence import quote
from stannary.certify.evidence.basis import Basis
from stannary.certify.evidence.collateral import Collateral, IntelCollateral
from stannary.certify.evidence.intel import IntelVerifier
from stannary.certify.evidence.intel_collateral import read_intel_collateral
from stannary.certify.evidence.tcb import pem
from stannary.certify.evidence.verifier import examine
from stannary.certify.pki import certificates, revocation
from stannary.certify.rules import Rules
from stannary.errors import FormatError

VENDOR = intel_world.Intel()
SERVICE_TD = intel_world.SVN + b"\1" * 48
PLAIN_TAIL = intel_world.SVN + bytes(48)


def _appraise(raw, *, kind="tdx", collateral=None, bound=None, now=world.NOW, rules=None):
    carried = VENDOR.collateral(is_tdx=kind == "tdx") if collateral is None else collateral
    return examine(
        IntelVerifier(kind),
        raw,
        Basis(bound=bound, collateral=Collateral(intel=carried), now=now, rules=rules or Rules(roots=VENDOR.roots)),
    )


@pytest.mark.parametrize(
    "form",
    [
        {"version": 4},
        {"version": 5},
        {"version": 5, "tail": PLAIN_TAIL},
        {"version": 5, "kind": 4, "tail": PLAIN_TAIL + bytes(885 - 648)},
    ],
    ids=["v4", "v5 1.0", "v5 1.5", "v5 1.5 extended"],
)
def test_every_form_of_a_td_quote_is_read(form):
    """Version 4 and the three TD bodies of version 5 are valid under their vendor's root, and not under Intel's."""
    raw = VENDOR.quote(**form)
    assert _appraise(raw).outcome == "valid", _appraise(raw).findings
    assert _appraise(raw + bytes(2000)).outcome == "valid"
    assert _appraise(raw, rules=Rules()).outcome == "refuse:chain-invalid"
    assert _appraise(raw, kind="sgx").outcome == "refuse:malformed"


@pytest.mark.parametrize(("version", "outcome"), [(3, "valid"), (4, "refuse:unsupported")])
def test_enclave_quotes_are_of_version_3(version, outcome):
    """An enclave's quote is version 3; what Intel's own verification does not know is unsupported, not a pass."""
    raw = VENDOR.quote(version=version, enclave=intel_world.enclave())
    assert _appraise(raw, kind="sgx").outcome == outcome
    debug = VENDOR.quote(version=3, enclave=intel_world.enclave(attributes=0x07))
    assert _appraise(debug, kind="sgx").outcome == "refuse:guest-policy"


@pytest.mark.parametrize("bit", [0, 1, 4, 7, 8, 17, 28, 29, 32, 61])
def test_attributes_that_open_a_td_are_guest_policy(bit):
    """Debug, profiling, reserved bits, service TDs, no SEPT_VE_DISABLE, migration: each is the guest's policy."""
    found = _appraise(VENDOR.quote(attributes=intel_world.ATTRIBUTES ^ 1 << bit))
    assert found.outcome == "refuse:guest-policy", found.findings


@pytest.mark.parametrize("bit", [30, 31, 63])
def test_attributes_that_open_nothing_are_accepted(bit):
    """Protection keys, Key Locker and performance counters are the guest's own matter."""
    assert _appraise(VENDOR.quote(attributes=intel_world.ATTRIBUTES | 1 << bit)).outcome == "valid"


def test_service_td_is_refused():
    """A service TD bound to this one is named, with and without collateral."""
    raw = VENDOR.quote(version=5, tail=SERVICE_TD)
    assert _appraise(raw).outcome == "refuse:guest-policy"
    assert any(item.id == "service-td" for item in _appraise(raw).findings)


@pytest.mark.parametrize(
    ("svn", "outcome"),
    [
        ([5, 1, 3], "valid"),
        ([3, 1, 3], "refuse:tcb-not-allowed"),
        ([6, 0, 3], "valid"),
        ([6, 3, 3], "refuse:tcb-not-allowed"),
        ([0, 0, 0], "refuse:tcb-not-allowed"),
    ],
)
def test_module_svn_is_judged_in_the_signed_report(svn, outcome):
    """The TDX module's version in the report decides, by the identity of its major version."""
    assert _appraise(VENDOR.quote(svn=bytes([*svn, *bytes(13)]))).outcome == outcome


def test_module_that_runs_now_is_judged_too():
    """A TD 1.5 report whose current TCB is older than any level is refused, whatever it was launched with."""
    raw = VENDOR.quote(version=5, tail=bytes(16) + bytes(48))
    assert _appraise(raw).outcome == "refuse:tcb-not-allowed"


@pytest.mark.parametrize(
    ("status", "outcome"),
    [
        ("OutOfDate", "warning:OutOfDate"),
        ("SWHardeningNeeded", "warning:SWHardeningNeeded"),
        ("ConfigurationNeeded", "warning:ConfigurationNeeded"),
        ("OutOfDateConfigurationNeeded", "warning:OutOfDateConfigurationNeeded"),
        ("Revoked", "refuse:tcb-not-allowed"),
    ],
)
def test_status_of_the_level_is_said(status, outcome):
    """The matched level's status is the outcome's; a revoked one refuses."""
    level = {**VENDOR.collateral().tcb_info.members("TCB info")["tcbLevels"][0], "tcbStatus": status}
    assert _appraise(VENDOR.quote(), collateral=VENDOR.collateral(tcbLevels=[level])).outcome == outcome


@pytest.mark.parametrize("size", [0, 31, 33, 1000])
def test_authentication_data_of_another_size_is_unsupported(size):
    """Intel's quoting enclaves write 32 bytes; others are signed and read, and still nobody's known enclave."""
    assert _appraise(VENDOR.quote(auth_data=bytes(size))).outcome == "refuse:unsupported"


@pytest.mark.parametrize(("outer", "inner"), [(5, 5), (6, 6), (6, 1), (7, 5)])
def test_certification_data_is_a_report_around_a_chain(outer, inner):
    """Type 6 (enclave report) holds type 5 (PCK chain); any other nesting is unsupported."""
    assert _appraise(VENDOR.quote(outer=outer, inner=inner)).outcome == "refuse:unsupported"


def test_quoting_enclave_must_be_intels():
    """Any enclave of the platform gets a signed report; a stranger's or a debugged one vouches for no key."""
    for qe in ({"signer": b"\x01" * 32}, {"attributes": 0x13}, {"is_tdx": False}):
        assert _appraise(VENDOR.quote(qe=qe)).outcome == "refuse:signature-invalid"


def test_nonce_is_in_the_report_data():
    """A quote over another challenge is refused by its own code, and its own is accepted."""
    raw = VENDOR.quote(report_data=b"\x51" * 48 + bytes(16))
    assert _appraise(raw, bound=b"\x51" * 48).outcome == "valid"
    assert _appraise(raw, bound=b"\x52" * 48).outcome == "refuse:nonce-mismatch"


def test_collateral_of_another_kind_place_or_time_is_invalid():
    """Another FMSPC, an enclave's collateral, another vendor's signature, stale documents: collateral-invalid."""
    good, stranger = VENDOR.collateral(), intel_world.Intel()
    cases = {
        "fmspc": VENDOR.collateral(fmspc="00" * 6),
        "kind": VENDOR.collateral(is_tdx=False),
        "signer": replace(good, tcb_info=stranger.collateral().tcb_info),
        "text": replace(good, tcb_info=replace(good.tcb_info, text=good.tcb_info.text.replace("18", "19", 1))),
        "list": replace(good, pck_crl=stranger.crl(stranger.platform)),
        "lists exchanged": replace(good, pck_crl=good.root_crl, root_crl=good.pck_crl),
        "signed by the platform": replace(good, tcb_info=_signed_by_platform(good)),
    }
    outcomes = {name: _appraise(VENDOR.quote(), collateral=carried).outcome for name, carried in cases.items()}
    assert outcomes == dict.fromkeys(cases, "refuse:collateral-invalid")
    late = _appraise(VENDOR.quote(), collateral=good, now=world.NOW + timedelta(days=60))
    assert late.outcome == "refuse:collateral-invalid"


def _signed_by_platform(good):
    """TCB info signed by a key that chains to the root and is not the signer of TCB info."""
    from cryptography.hazmat.primitives import hashes

    signature = world.raw_signature(VENDOR.pck.key, good.tcb_info.text.encode(), hashes.SHA256())
    chain = (VENDOR.pck.certificate, VENDOR.platform.certificate, VENDOR.root.certificate)
    return replace(good.tcb_info, signature=signature, chain=chain)


def test_withdrawn_certificates_are_revoked():
    """A withdrawn PCK, platform authority or TCB signer is revoked, not merely invalid."""
    good = VENDOR.collateral()
    for carried in (
        replace(good, pck_crl=VENDOR.crl(VENDOR.platform, VENDOR.pck.certificate.serial)),
        replace(good, root_crl=VENDOR.crl(VENDOR.root, VENDOR.platform.certificate.serial)),
        replace(good, root_crl=VENDOR.crl(VENDOR.root, VENDOR.signer.certificate.serial)),
    ):
        assert _appraise(VENDOR.quote(), collateral=carried).outcome == "refuse:revoked"


def test_chain_inside_the_quote_decides_first():
    """A chain of another platform, none at all or an expired one has its code before any collateral."""
    other = intel_world.Intel(root=VENDOR.root)
    assert _appraise(VENDOR.quote(chain=other.chain)).outcome == "refuse:signature-invalid"
    assert _appraise(VENDOR.quote(chain=b"")).outcome == "refuse:malformed"
    assert _appraise(VENDOR.quote(), now=world.NOW + timedelta(days=400)).outcome == "refuse:chain-invalid"


def test_sizes_that_lie_are_malformed():
    """Body sizes and section sizes that do not fit are malformed, as is the other byte order."""
    raw = VENDOR.quote(version=5, tail=PLAIN_TAIL)
    for kind, size in ((2, 648), (3, 584), (4, 648)):
        lying = raw[:48] + struct.pack("<HI", kind, size) + raw[54:]
        assert _appraise(lying).outcome == "refuse:malformed"
    section = 48 + 6 + 648
    assert _appraise(raw[:section] + b"\xff\xff\0\0" + raw[section + 4 :]).outcome == "refuse:malformed"
    assert _appraise(raw[:-1]).outcome == "refuse:malformed"
    assert _appraise(b"\0\x05" + raw[2:]).outcome == "refuse:unsupported"


@pytest.mark.parametrize("version", [3, 4, 5])
@pytest.mark.parametrize(
    "behind", [b"\x01", bytes(16) + b"\xff" * 24, b"quote", None], ids=["1", "mixed", "text", "2nd"]
)
def test_what_lies_behind_a_quote_is_outside_it(version, behind):
    """Whatever follows the declared signature section changes neither the outcome nor the quote that is read."""
    kind, enclave = ("sgx", intel_world.enclave()) if version == 3 else ("tdx", None)
    raw = VENDOR.quote(version=version, enclave=enclave)
    longer = raw + (raw if behind is None else behind)
    assert quote.parse_quote(longer) == quote.parse_quote(raw)
    assert _appraise(longer, kind=kind).outcome == "valid"
    changed = bytearray(longer)
    changed[60] ^= 1
    assert _appraise(bytes(changed), kind=kind).outcome == "refuse:signature-invalid"


def test_evaluation_numbers_are_claims():
    """The tcbEvaluationDataNumber of TCB info and of the enclave's identity is told, and held to the policy's least."""
    raw = VENDOR.quote()
    claims = _appraise(raw).claims
    number = claims["tcb_evaluation_data_number"]
    assert isinstance(number, int)
    assert claims["qe_evaluation_data_number"] == number
    for least, outcome in ((number, "valid"), (number + 1, "refuse:collateral-invalid")):
        rules = Rules(roots=VENDOR.roots, min_tcb_evaluation=least)
        found = _appraise(raw, rules=rules)
        assert found.outcome == outcome
        assert ("tcb_evaluation_data_number" in found.claims) is (outcome == "valid")


@pytest.mark.parametrize("form", ["pem", "pem-crlf", "hex", "HEX", "0x", "wrapped", "ended"])
def test_revocation_lists_are_read_in_every_form(form):
    """Lists in PEM and hex say what they say in DER, in the one-file form of DCAP tools as well."""
    raw, carried = VENDOR.quote(), VENDOR.collateral(is_tdx=True)
    lists = {name: _written(getattr(carried, name), form) for name in ("pck_crl", "root_crl")}
    assert {name: revocation.crl_der(data) for name, data in lists.items()} == {
        "pck_crl": carried.pck_crl, "root_crl": carried.root_crl,
    }  # fmt: skip
    whole = _one_file(carried, pck_crl=lists["pck_crl"].decode(), root_ca_crl=lists["root_crl"].decode())
    read = read_intel_collateral(json.dumps(whole).encode())
    assert read is not None
    assert (read.pck_crl, read.root_crl) == (carried.pck_crl, carried.root_crl)
    assert _appraise(raw, collateral=read).outcome == "valid"


def _one_file(carried: IntelCollateral, **changes: str) -> dict[str, object]:
    return {
        "tcb_info": carried.tcb_info.text, "tcb_info_signature": carried.tcb_info.signature.hex(),
        "tcb_info_issuer_chain": pem(carried.tcb_info.chain), "qe_identity": carried.qe_identity.text,
        "qe_identity_signature": carried.qe_identity.signature.hex(),
        "qe_identity_issuer_chain": pem(carried.qe_identity.chain), "pck_crl": carried.pck_crl.hex(),
        "root_ca_crl": carried.root_crl.hex(), "pck_crl_issuer_chain": pem(carried.pck_crl_chain), **changes,
    }  # fmt: skip


def test_a_file_of_collateral_without_a_part_is_none():
    """A part withheld is collateral missing; the chain of the PCK's list may be absent, the quote carries it."""
    whole = _one_file(VENDOR.collateral(is_tdx=True))
    for name in whole:
        for less in ({**whole, name: None}, {**whole, name: ""}, {key: whole[key] for key in whole if key != name}):
            read = read_intel_collateral(json.dumps(less).encode())
            assert (read is None) is (name != "pck_crl_issuer_chain")
            assert read is None or _appraise(VENDOR.quote(), collateral=read).outcome == "valid"
        with pytest.raises(FormatError):
            read_intel_collateral(json.dumps({**whole, name: 7}).encode())


def _written(der: bytes, form: str) -> bytes:
    if form in {"hex", "HEX", "0x", "wrapped", "ended"}:
        text = {"HEX": der.hex().upper(), "0x": "0x" + der.hex(), "ended": der.hex() + "\0"}.get(form, der.hex())
        lines = [text[start : start + 60] for start in range(0, len(text), 60)] if form == "wrapped" else [text]
        return "\n".join(lines).encode() + b"\n"
    end = b"\r\n" if form == "pem-crlf" else b"\n"
    body = base64.encodebytes(der).replace(b"\n", end)
    return b"-----BEGIN X509 CRL-----" + end + body + b"-----END X509 CRL-----" + end


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text * 2, lambda text: text.replace(b"X509 CRL", b"CERTIFICATE"), lambda text: text[:-30],
        lambda text: text[:40] + b"!" + text[40:], lambda text: text.replace(b"-----END X509 CRL-----", b""),
        lambda text: b"30" + text, lambda text: text + b"-----BEGIN X509 CRL-----", lambda _: b"3082ff", lambda _: b"",
        lambda _: b"-----BEGIN X509 CRL-----\nAAAA\n-----END X509 CRL-----",
    ],
)  # fmt: skip
def test_revocation_lists_that_do_not_read_are_invalid_collateral(change):
    """Two lists in one, another block, damaged base64, missing marks and junk are no list."""
    carried = VENDOR.collateral(is_tdx=True)
    damaged = change(_written(carried.pck_crl, "pem"))
    if damaged.startswith(b"30-"):  # text before a block is outside it (RFC 7468 section 2)
        assert revocation.crl_der(damaged) == carried.pck_crl
        return
    with pytest.raises(FormatError):
        revocation.parse_crl(damaged)
    found = _appraise(VENDOR.quote(), collateral=replace(carried, pck_crl=damaged))
    assert found.outcome == "refuse:collateral-invalid"


@pytest.mark.parametrize("version", [3, 4, 5])
def test_quotes_travel_as_text(version):
    """Hex with and without 0x, upper case, base64, and lines of them are the same quote; damaged text is malformed."""
    kind, enclave = ("sgx", intel_world.enclave()) if version == 3 else ("tdx", None)
    raw = VENDOR.quote(version=version, enclave=enclave)
    encoded = base64.b64encode(raw)
    for text in (
        raw.hex().encode(),
        b"0x" + raw.hex().encode() + b"\n",
        raw.hex().upper().encode(),
        encoded,
        encoded + b"\n",
        base64.encodebytes(raw),
        b"\n".join(raw.hex().encode()[start : start + 60] for start in range(0, 2 * len(raw), 60)),
    ):
        assert quote.is_quote(text)
        assert _appraise(text, kind=kind).outcome == "valid"
    for damaged in (raw.hex().encode()[:-1], encoded[:-2], encoded + b"!"):
        assert _appraise(damaged, kind=kind).outcome == "refuse:malformed"


def test_anchors_of_another_name_do_not_change_the_root():
    """A stranger's root beside Intel's pinned key reaches nothing."""
    stranger = intel_world.Intel()
    rules = Rules(roots=stranger.roots)
    assert (
        certificates.find_path(
            VENDOR.pck.certificate, [VENDOR.platform.certificate, VENDOR.root.certificate], rules.roots.intel, world.NOW
        ).root
        is None
    )
    assert _appraise(VENDOR.quote(), rules=rules).outcome == "refuse:chain-invalid"
