"""The layers of a node's evidence: each is read once, whatever looks at it."""

from __future__ import annotations

import inspect
import json
import sys
from collections import Counter
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta

import pytest
from tests.unit.certify import manifest_world, world
from tests.unit.certify.intel_world import Intel

from stannary.certify import anchor as anchors
from stannary.certify import challenge as challenges
from stannary.certify import policy
from stannary.certify.appraise import Context, appraise
from stannary.certify.collateral import client
from stannary.certify.collateral.items import Item
from stannary.certify.collateral.store import CollateralStore
from stannary.certify.envelope import Evidence, Part
from stannary.certify.evidence import ccel, rim
from stannary.certify.evidence.kinds import VERIFIERS
from stannary.certify.evidence.tcb import pem
from stannary.certify.layers import Layer, Unread, read
from stannary.certify.pki import revocation
from stannary.certify.rules import SnpTcb
from stannary.errors import ServiceError

CHALLENGE = challenges.issue(world.NOW, nonce=b"\x01" * 32)[0]
KEY_HASH = b"\x09" * 32
BOUND = anchors.anchor(CHALLENGE.nonce_bytes, KEY_HASH)
AMD, NVIDIA, SIGNER, KEY = world.Amd(), world.Nvidia(), manifest_world.Signer(), world.TpmKey()


def _evidence(cpu: Part) -> Evidence:
    """A guest with two GPUs that share their manifests, and a TPM."""
    manifests = tuple(SIGNER.manifest(version, {0: bytes(48)}) for version in ("550.54.15", "96.00.5E.00.01"))
    pcrs = {index: bytes(32) for index in range(16)}
    attest, signature = KEY.quote(BOUND, pcrs)
    quoted = {
        "attest": attest.hex(), "signature": signature.hex(), "ak_public": KEY.public.hex(),
        "pcrs": {str(index): value.hex() for index, value in pcrs.items()},
    }  # fmt: skip
    parts = {"cpu": cpu, "tpm": Part("tpm", json.dumps(quoted).encode())}
    for device in (NVIDIA.device(), NVIDIA.device()):
        ueid = f"{device.certificate.serial:x}"
        report = NVIDIA.report(device, anchors.device_nonce(BOUND, ueid), board=("G520", "0280", "895"))
        chain = pem(NVIDIA.chain(device)).encode()
        answer = world.ocsp(device, NVIDIA.issuer)
        parts[f"gpu/{ueid}"] = Part("nvgpu", report, certificates=(chain,), ocsp=(answer,), rims=manifests)
    return Evidence(CHALLENGE.id, CHALLENGE.nonce_bytes, KEY_HASH, parts)


def _snp() -> Part:
    vek = AMD.vcek(SnpTcb(1, 2, 3, 4, 5))
    chain = pem((vek.certificate, AMD.ask.certificate, AMD.ark.certificate)).encode()
    return Part("snp", AMD.report(vek, report_data=anchors.report_data(BOUND)), certificates=(chain,))


def _tdx() -> Part:
    log = world.event_log([(1, 8, b"fw")])
    return Part("tdx", Intel().quote(report_data=anchors.report_data(BOUND)), log=log)


@contextmanager
def _reads():
    """Count how often each parser is given the same bytes."""
    parsers = [verifier.parse.__func__ for verifier in VERIFIERS.values()]
    parsers += [ccel.parse_ccel, revocation.parse_ocsp, rim.parse_manifest]
    watched = {inspect.unwrap(parser).__code__ for parser in parsers}
    seen: Counter[tuple[str, bytes]] = Counter()

    def see(frame, event, _):
        code = frame.f_code
        if event == "call" and code in watched:
            seen[code.co_qualname, frame.f_locals[code.co_varnames[code.co_argcount - 1]]] += 1

    sys.setprofile(see)
    try:
        yield seen
    finally:
        sys.setprofile(None)


@pytest.mark.parametrize("cpu", [_snp, _tdx])
def test_an_appraisal_reads_each_layer_once(cpu):
    """From the bundle to the verdict the same bytes are parsed one time, whoever needs what is in them."""
    evidence = _evidence(cpu())
    stray = Item("amd-crl", "vcek/Turin", world.crl(AMD.ark))
    context = Context(now=world.NOW + timedelta(seconds=5), policy=policy.built_in("local"), items={stray.key: stray})
    with _reads() as seen:
        result = appraise(evidence, CHALLENGE, context)
    assert {name for name in result.parts if name in evidence.parts} == set(evidence.parts)
    assert {part.evidence for part in evidence.parts.values()} <= {data for _, data in seen}
    assert {name: count for (name, _), count in seen.items() if count > 1} == {}


def test_a_fetch_reads_each_layer_once(tmp_path, monkeypatch):
    """However many artifacts are asked for, one after the other, the evidence is parsed one time."""
    evidence = _evidence(_snp())

    def unanswered(*_):
        raise ServiceError("no answer", why="nobody there", hint="none")

    monkeypatch.setattr(client, "_send", unanswered)
    with _reads() as seen:
        found = list(client.fetch(evidence, CollateralStore(tmp_path / "c.json"), world.NOW, client.Options()))
    assert len(found) > 5
    assert {part.evidence for part in evidence.parts.values()} <= {data for _, data in seen}
    assert {name: count for (name, _), count in seen.items() if count > 1} == {}


@pytest.mark.parametrize("cpu", [_snp, _tdx])
def test_a_damaged_layer_is_refused_and_the_others_judged(cpu):
    """A report that ends early is one refused layer, with manifests or a log beside it too, and ends no appraisal."""
    evidence = _evidence(cpu())
    context = Context(now=world.NOW + timedelta(seconds=5), policy=policy.built_in("local"))
    for name, part in evidence.parts.items():
        damaged = {**evidence.parts, name: replace(part, evidence=part.evidence[:-100])}
        result = appraise(replace(evidence, parts=damaged), CHALLENGE, context)
        assert result.parts[name].outcome == "refuse:malformed"
        assert len(result.parts[name].findings) == 1
        others = [item for other, item in result.parts.items() if other in damaged and other != name]
        assert "refuse:malformed" not in {item.outcome for item in others}


def test_a_layer_that_does_not_read_says_so():
    """Evidence of a kind nobody knows, in a place that does not hold it, or damaged is told apart from what reads."""
    assert isinstance(read("cpu", _snp()), Layer)
    for name, part in (("cpu", Part("abacus", b"")), ("tpm", _snp()), ("cpu", replace(_snp(), evidence=b"short"))):
        layer = read(name, part)
        assert isinstance(layer, Unread)
        assert layer.part is part
