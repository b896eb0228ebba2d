"""Fetch collateral from vendors played on loopback, and appraise with it: honest, stale, hostile and slow ones."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
import threading
from dataclasses import replace
from datetime import timedelta

import pytest
from tests.integration.collateral.vendor_services import Machine, Reply, Services
from tests.unit.certify import world

from stannary.certify import challenge as challenges
from stannary.certify import policy
from stannary.certify.appraise import Context, appraise
from stannary.certify.collateral import client
from stannary.certify.collateral.client import Fetch, Options
from stannary.certify.collateral.store import CollateralStore
from stannary.certify.folder import Folder
from stannary.certify.moments import format_moment
from stannary.certify.reappraise import again
from stannary.cli import main as edge
from stannary.errors import LimitExceeded
from stannary.formats.predicates import Tier

KINDS = {"amd-vcek", "amd-chain", "amd-crl", "nvidia-driver-rim", "nvidia-vbios-rim", "nvidia-ocsp"}


class Site:
    """A verifier with a challenge, a machine that answered it, and vendors to ask."""

    def __init__(self, services: Services, place) -> None:
        self.services, self.place, self.machine = services, place, services.machine
        self.challenge = challenges.issue(world.NOW, nonce=b"\x01" * 32)[0]
        self.evidence = self.machine.evidence(self.challenge)
        self.waits: list[float] = []

    def fetch(self, *, now=world.NOW, refresh=False):
        """Fetch everything that is missing."""
        options = Options(bases=self.services.bases, refresh=refresh, sleep=self.waits.append)
        return list(client.fetch(self.evidence, CollateralStore(self.place), now, options))

    def appraise(self, *, with_items=True, now=world.NOW + timedelta(seconds=5)):
        """Appraise with what was fetched."""
        measured = replace(policy.built_in("local"), measurements=("11" * 48,))
        items = CollateralStore(self.place).load() if with_items else {}
        return appraise(self.evidence, self.challenge, Context(now=now, policy=measured, items=items))

    def gpu(self, result):
        """The appraisal of the GPU."""
        return next(item for name, item in result.parts.items() if name.startswith("gpu/"))


@pytest.fixture
def site(tmp_path, monkeypatch):
    """Honest vendors."""
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    machine = Machine()
    original = policy.Policy.rules
    monkeypatch.setattr(policy.Policy, "rules", lambda self, *rest: replace(original(self, *rest), roots=machine.roots))
    with Services(machine) as services:
        yield Site(services, tmp_path / "collateral")


def missing(outcomes):
    """What could not be fetched, by kind, with the reason."""
    return {item.need.kind: item.why for item in outcomes if item.state is Fetch.MISSING}


def test_fetched_collateral_raises_the_result(site):
    """What was refused for want of an endorsement is T2 once the vendors' answers are there."""
    bare = site.appraise(with_items=False)
    assert bare.parts["cpu"].outcome == "refuse:collateral-missing"
    outcomes = site.fetch()
    assert {item.need.kind for item in outcomes} == KINDS
    assert all(item.state is Fetch.FETCHED for item in outcomes)
    result = site.appraise()
    assert result.parts["cpu"].outcome == "valid", result.parts["cpu"].findings
    assert site.gpu(result).outcome == "valid", site.gpu(result).findings
    assert result.decision.tier is Tier.T2
    assert {row.id: row.state for row in site.gpu(result).checks}["golden"] == "checked"


def test_a_second_run_asks_for_nothing_and_a_late_one_for_what_ended(site):
    """Fresh items are kept; OCSP answers and lists are asked for again once their window is over."""
    site.fetch()
    site.services.asked.clear()
    assert {item.state for item in site.fetch()} == {Fetch.KEPT}
    assert site.services.asked == []
    later = site.fetch(now=world.NOW + timedelta(days=8))
    assert {item.need.kind for item in later if item.state is Fetch.FETCHED} == {"nvidia-ocsp"}
    signer = site.fetch(now=world.NOW + timedelta(days=301))
    assert {"nvidia-driver-rim", "amd-vcek"} <= {item.need.kind for item in signer if item.state is Fetch.FETCHED}
    assert all(item.state is Fetch.FETCHED for item in site.fetch(refresh=True))


def test_one_file_holds_the_same(site):
    """A file to hand on holds what a folder holds."""
    site.fetch()
    folder = CollateralStore(site.place).load()
    site.place = site.place.with_name("all.json")
    site.fetch()
    assert CollateralStore(site.place).load().keys() == folder.keys()
    assert site.appraise().decision.tier is Tier.T2


@pytest.mark.parametrize("attack", ["stale", "stranger", "undelegated", "revoked", "future"])
def test_answers_are_judged_at_the_appraisal(site, attack):
    """A stale, foreign, future or revoking answer is fetched like any other and judged by the verifier."""
    machine = site.machine
    serial = machine.card.certificate.serial
    stranger = world.issue("Stranger", ca=True, usages=("1.3.6.1.5.5.7.3.9",))
    undelegated = world.issue("Not a responder", machine.nvidia.issuer)
    changes = {
        "stale": {"at": world.NOW - timedelta(days=30)},
        "future": {"at": world.NOW + timedelta(days=1)},
        "stranger": {"responder": stranger},
        "undelegated": {"responder": undelegated},
        "revoked": {"revoked": True},
    }[attack]
    body = machine.ocsp(serial, **changes)
    site.services.bend[f"/ocsp/{serial:x}"] = lambda _: Reply(body)
    assert missing(site.fetch()) == {}
    result = site.appraise()
    if attack == "revoked":
        assert site.gpu(result).outcome == "refuse:revoked"
    else:
        assert site.gpu(result).outcome == "valid"
        assert result.decision.tier is Tier.T1
        assert "no good OCSP answer" in " ".join(item.reason for item in result.decision.limits)


def test_an_answer_about_another_certificate_is_not_kept(site):
    """An OCSP response that does not speak of the serial asked for is missing, with the reason."""
    machine = site.machine
    other = machine.ocsp(machine.nvidia.issuer.certificate.serial)
    site.services.bend[f"/ocsp/{machine.card.certificate.serial:x}"] = lambda _: Reply(other)
    assert "another certificate" in missing(site.fetch())["nvidia-ocsp"]


@pytest.mark.parametrize(
    ("reply", "words"),
    [
        (Reply(bytes(2 << 20)), "answer too large"),
        (Reply(status=302, headers={"Location": "http://169.254.169.254/latest"}), "redirect not followed"),
        (Reply(b"\x30\x82", announced=5000), "RemoteProtocolError"),
        (Reply(gzip.compress(b"x" * 100), headers={"Content-Encoding": "gzip"}), "packed"),
        (Reply(b"<html>maintenance</html>"), "DER"),
        (Reply(b"{}", status=404), "no such artifact"),
        (Reply(status=403), "HTTP 403"),
    ],
    ids=["oversized", "redirect", "truncated", "packed", "html", "unknown", "forbidden"],
)
def test_a_bad_answer_costs_its_item_only(site, reply, words):
    """Whatever a server does, the other items are kept and this one says why it is missing."""
    site.services.bend["/vcek/v1/Turin/crl"] = lambda _: reply
    outcomes = site.fetch()
    assert words in missing(outcomes)["amd-crl"]
    assert set(missing(outcomes)) == {"amd-crl"}
    assert all(item.hint for item in outcomes if item.state is Fetch.MISSING)
    assert {kind for kind, _ in CollateralStore(site.place).load()} == KINDS - {"amd-crl"}
    assert not any("169.254" in path for path in site.services.asked)


def test_a_busy_server_is_asked_again_later(site):
    """429 waits as long as KDS needs or the server says, and ends in an item; without end it is missing."""
    site.services.bend["/vcek/v1/Turin/cert_chain"] = lambda count: Reply(status=429) if count < 3 else None
    slow = Reply(status=429, headers={"Retry-After": "33"})
    site.services.bend["/v1/rim/"] = lambda count: slow if count == 1 else None
    assert missing(site.fetch()) == {}
    assert site.waits == [10.0, 20.0, 33.0]
    site.waits.clear()
    site.services.bend["/vcek/v1/Turin/crl"] = lambda _: Reply(status=503)
    late = [item for item in site.fetch(refresh=True) if item.state is Fetch.MISSING]
    assert [item.need.kind for item in late] == ["amd-crl"]
    assert "run the command again" in late[0].hint
    assert site.waits == [10.0, 20.0, 40.0]


def test_a_silent_host_is_waited_for_once(site):
    """A host that does not answer costs its tries once; the other items of it are tried without waiting."""
    site.services.bend["/"] = lambda _: Reply(b"", announced=10)
    outcomes = site.fetch()
    assert set(missing(outcomes)) == {item.need.kind for item in outcomes}
    assert site.waits == [1.0, 3.0, 9.0]
    site.services.bend.clear()
    assert missing(site.fetch()) == {}


def test_evidence_cannot_ask_for_any_amount(site, monkeypatch):
    """Requests are bounded: a stranger's evidence does not decide how much is asked."""
    monkeypatch.setattr(client, "MAX_REQUESTS", 4)
    with pytest.raises(LimitExceeded):
        site.fetch()
    assert len(CollateralStore(site.place).load()) == 4


def test_a_killed_fetch_keeps_what_it_had(site, tmp_path):
    """A process that is killed in the middle leaves whole items; the next run asks for the rest only."""
    place, asked, release = tmp_path / "e.json", threading.Event(), threading.Event()
    place.write_bytes(site.evidence.to_bytes())
    hanging = "/v1/rim/NV_GPU_DRIVER_GH100_580.95.05"

    def hang(_: object) -> Reply | None:
        asked.set()
        return Reply() if release.wait(60) else None

    site.services.bend[hanging] = hang
    url = site.services.url
    command = [sys.executable, "-m", "stannary", "certify", "collateral", "fetch", str(place), "-o", str(site.place)]
    command += ["--amd-url", url, "--nvidia-rim-url", url, "--ocsp-url", url]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    was_asked = asked.wait(60)
    process.kill()
    process.wait()
    release.set()
    assert was_asked
    kept = {kind for kind, _ in CollateralStore(site.place).load()}
    assert kept == {"amd-vcek", "amd-chain", "amd-crl"}
    site.services.bend.clear()
    site.services.asked.clear()
    site.fetch()
    assert hanging in site.services.asked
    assert not any("vcek" in path for path in site.services.asked)


def test_manifest_of_another_name_is_not_kept(site):
    """A manifest service that answers with another manifest is caught before it is kept."""
    name = "NV_GPU_DRIVER_GH100_580.95.05"
    other = site.machine.reply("/v1/rim/NV_GPU_VBIOS_G520_0280_895_9600740020")
    site.services.bend[name] = lambda _: other
    assert "another manifest" in missing(site.fetch())["nvidia-driver-rim"]


def test_kept_collateral_is_there_for_a_later_reappraisal(site, tmp_path):
    """What was fetched is kept beside the evidence, so that an old appraisal can be made again."""
    site.fetch()
    measured = replace(policy.built_in("local"), measurements=("11" * 48,))
    now = world.NOW + timedelta(seconds=5)
    context = Context(now=now, policy=measured, items=CollateralStore(site.place).load())
    store = Folder(tmp_path / "kept")
    store.keep(site.evidence, site.challenge, site.appraise(), context, format_moment(now))
    (entry,) = store.entries()
    assert again(store, entry, measured, frozenset()).decision.tier is Tier.T2
    bare = Context(now=now, policy=measured)
    store.keep(site.evidence, site.challenge, site.appraise(with_items=False), bare, format_moment(now))
    assert [item.collateral is None for item in store.entries()] == [False, True]


def test_manifest_that_differs_refuses(site):
    """Golden values that the report does not meet refuse the GPU, fetched or carried."""
    machine = site.machine
    machine.manifests["NV_GPU_DRIVER_GH100_580.95.05"] = machine.signer.manifest("580.95.05", {0: b"\x00" * 48})
    site.fetch()
    assert site.gpu(site.appraise()).outcome == "refuse:reference-mismatch"


def test_command_says_what_is_missing_and_exits_1(site, tmp_path, capsys):
    """Exit 1 with reason and next step a missing item; the rest is there, and appraise takes it."""
    place = tmp_path / "e.json"
    place.write_bytes(site.evidence.to_bytes())
    site.services.bend["/crl"] = lambda _: Reply(status=404)
    url = site.services.url
    mirrors = ["--amd-url", url, "--intel-url", url, "--nvidia-rim-url", url, "--ocsp-url", url]
    command = ["certify", "collateral", "fetch", str(place), "-o", str(site.place), *mirrors]
    assert edge.run([*command, "--now", "2026-11-22T00:00:00Z"]) == 1
    printed = capsys.readouterr()
    assert "missing  amd-crl" in printed.out
    assert "next   " in printed.out
    assert "fetched  amd-vcek" in printed.err
    site.services.bend.clear()
    assert edge.run([*command, "--json", "--now", "2026-11-22T00:00:00Z"]) == 0
    value = json.loads(capsys.readouterr().out)
    assert value["missing"] == 0
    assert [item["kind"] for item in value["items"] if item["state"] == "fetched"] == ["amd-crl"]
    question = tmp_path / "c.json"
    question.write_bytes(site.challenge.to_bytes())
    judge = ["certify", "appraise", str(place), "--challenge", str(question), "--now", "2026-11-22T00:00:05Z"]
    assert edge.run([*judge, "--policy", "local", "--collateral", str(site.place), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["tier"] == "T1"
    assert edge.run(["certify", "collateral", "show", str(site.place), "--now", "2026-11-22T00:00:00Z"]) == 0
    assert "nvidia-driver-rim" in capsys.readouterr().out
    assert edge.run([*judge, "--collateral", str(tmp_path / "nowhere")]) == 102
