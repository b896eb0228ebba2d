"""`node check` alone: each collector's interface measured, its absence told from missing rights and from silence."""

from __future__ import annotations

import json
import threading
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from tests.unit.certify import world

from stannary.certify import challenge as challenges
from stannary.certify.collect import cpu, host, node, nscq, nvml, sources, survey, tpm, tpm_client
from stannary.certify.collect.sources import Sources
from stannary.certify.envelope import Part
from stannary.cli import main as edge
from stannary.errors import EnvironmentProblem, ServiceError


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """A machine without anything; tests add devices. No driver of this machine is looked at."""
    absent = EnvironmentProblem("no driver on this machine", why="gone", hint="install it", detail=nvml.ABSENT)

    def missing(*_, **__):
        raise absent

    monkeypatch.setattr(nvml, "Nvml", missing)
    monkeypatch.setattr(nscq, "Nscq", missing)
    return Sources(
        tpm=str(tmp_path / "tpm"),
        tsm=tmp_path / "tsm",
        sev_guest=tmp_path / "sev-guest",
        nsm=tmp_path / "nsm",
        bench_s=0,
    )


def _rows(looked):
    return {row.name: row for row in survey.requirements(looked)}


INTERFACES = ("configfs-tsm", "sev-guest device", "Nitro Secure Module", "Azure vTPM")


def test_bare_machine_misses_each_interface_with_a_next_step(machine):
    """Four interfaces, none there: each row says what is absent and what to do."""
    rows = _rows(machine)
    for name in INTERFACES:
        assert not rows[name].holds
        assert rows[name].next
    assert "absent" in rows["configfs-tsm"].measured
    assert "BIOS" in rows["EK certificate"].next


def test_one_interface_is_enough(machine):
    """With one ready the others are shown and not missed."""
    machine.nsm.touch()
    rows = _rows(machine)
    assert rows["Nitro Secure Module"].measured == "ready"
    assert "absent" in rows["sev-guest device"].measured
    assert all(rows[name].holds and not rows[name].to_json()["next"] for name in INTERFACES)


def test_missing_rights_are_told_from_a_missing_device(machine, monkeypatch):
    """A device that is there and closed asks for rights."""
    machine.nsm.touch()
    monkeypatch.setattr(survey.os, "access", lambda path, mode: path != machine.nsm and Path(path).exists())
    row = _rows(machine)["Nitro Secure Module"]
    assert "not open to this user" in row.measured
    assert "sudo" in row.next


def test_machine_without_a_gpu_is_not_blamed(machine):
    """No driver means no GPU, as far as the table can tell."""
    rows = _rows(machine)
    assert rows["GPU evidence"].holds
    assert rows["NVSwitch evidence"].holds


def _driver(cc: bool, devtools: bool = False, count: int = 8):
    session = SimpleNamespace(
        gpus=lambda: [None] * count, confidential_state=lambda: (cc, devtools), switches=lambda: [None] * 4,
        close=lambda: None,
    )  # fmt: skip
    return lambda: session


def test_gpus_are_counted_with_their_mode(machine, monkeypatch):
    """Confidential computing off names the command; on, it holds; DevTools mode is a row of its own."""
    monkeypatch.setattr(nscq, "Nscq", _driver(True))
    monkeypatch.setattr(nvml, "Nvml", _driver(False))
    rows = _rows(machine)
    assert rows["accelerators"].measured == "8"
    assert not rows["GPU evidence"].holds
    assert "--set-cc-mode=on" in rows["GPU evidence"].next
    assert rows["NVSwitch evidence"].measured == "4 switches"
    monkeypatch.setattr(nvml, "Nvml", _driver(True, devtools=True))
    rows = _rows(machine)
    assert rows["GPU evidence"].holds
    assert not rows["GPU DevTools mode"].holds


def test_driver_that_fails_is_blamed(machine, monkeypatch):
    """A driver that is there and refuses is no machine without a GPU."""

    def broken():
        raise EnvironmentProblem("NVIDIA driver refused a call", why="nvmlInit_v2 returned 9", hint="modprobe nvidia")

    monkeypatch.setattr(nvml, "Nvml", broken)
    row = _rows(machine)["GPU evidence"]
    assert not row.holds
    assert (row.measured, row.next) == ("NVIDIA driver refused a call: nvmlInit_v2 returned 9", "modprobe nvidia")


def test_silent_tpm_costs_its_limit_and_no_other_row(machine, monkeypatch):
    """A TPM that never answers is a row that says so; the table is printed."""
    stuck = threading.Event()
    monkeypatch.setattr(survey, "SURVEY_LIMIT_S", 0.05)
    monkeypatch.setattr(tpm_client, "connect", lambda *_: stuck.wait(20))
    rows = _rows(machine)
    assert "did not answer" in rows["EK certificate"].measured
    assert {*INTERFACES, "kernel", "GPU evidence"} <= set(rows)
    stuck.set()


def test_azure_machines_tell_by_their_tag(tmp_path):
    """Azure hides the guest devices; the chassis tag says where the machine is."""
    tag = tmp_path / "sys/class/dmi/id/chassis_asset_tag"
    tag.parent.mkdir(parents=True)
    tag.write_text("7783-7084-3265-9085-8269-3286-77\n")
    rows = {row.name: row for row in host.requirements(tmp_path)}
    assert "Azure" in rows["confidential guest"].measured


def test_steps_are_printed_once_each(machine, monkeypatch, capsys):
    """Two rows with one cure are one line; rows that hold have none."""
    monkeypatch.setattr(sources, "Sources", lambda **_: machine)
    assert edge.run(["node", "check"]) == 0
    told = capsys.readouterr()
    assert "configfs-tsm" in told.out
    steps = [line for line in told.err.splitlines() if line.startswith("next, for")]
    assert len(steps) == len({line.partition(": ")[2] for line in steps})
    assert any("configfs-tsm (T2) or sev-guest device (T2)" in line for line in steps)


def test_answer_says_what_ran_and_what_did_not(machine, tmp_path, monkeypatch, capsys):
    """With a challenge, each collector that gave nothing says why and what to do, and the file is written."""
    asked, evidence = tmp_path / "c.json", tmp_path / "e.json"
    asked.write_bytes(challenges.issue(world.NOW)[0].to_bytes())
    monkeypatch.setattr(sources, "Sources", lambda **_: machine)
    assert edge.run(["node", "check", "--challenge", str(asked), "-o", str(evidence), "--json"]) == 0
    told = capsys.readouterr()
    result = json.loads(told.out)
    assert result["ran"] == {}
    assert {f"cpu ({name})" for name in INTERFACES} | {"cpu", "tpm", "gpu", "nvswitch", "bench"} == set(
        result["absent"]
    )
    assert "no tpm: cannot open the TPM" in told.err
    assert "(next: " in result["absent"]["tpm"]


@pytest.mark.parametrize(("kind", "missed"), [("tdx", True), ("snp", False)])
def test_trust_domain_without_its_event_log_is_told(machine, monkeypatch, kind, missed):
    """A TD's quote without the CCEL shows registers and no software; an SNP guest has no such log."""
    part = Part(kind, b"quote")
    monkeypatch.setattr(cpu, "attempts", lambda *_: (cpu.Attempt("configfs-tsm", part),))
    elsewhere = replace(machine, ccel=machine.nsm.with_name("CCEL"))
    evidence, absent, ran = node.check(challenges.issue(world.NOW)[0], elsewhere)
    assert evidence.parts["cpu"] == part
    assert ran["cpu"] == "configfs-tsm"
    assert ("CCEL event log" in absent) is missed


class Tpm:
    """A client whose TPM quotes what a test says."""

    def __init__(self, key: world.TpmKey, extra: bytes, *moves: bytes) -> None:
        self.key, self.extra, self.moves, self.quotes = key, extra, list(moves), 0
        self.registers = {index: bytes(32) for index in range(4)}

    def quote(self, *_):
        """Quote."""
        self.quotes += 1
        return self.key.quote(self.extra, self.registers)

    def read_pcrs(self, *_):
        """Read, after what somebody extended in between."""
        if self.moves:
            self.registers = {**self.registers, 3: self.moves.pop(0)}
        return self.registers


def test_quote_over_another_nonce_is_an_error_here():
    """A TPM that quotes other bytes than ours is noticed on the machine."""
    for extra in (b"", b"\1" * 48, b"\2" * 47):
        with pytest.raises(ServiceError, match="another nonce"):
            tpm.quote(Tpm(world.TpmKey(), extra), None, b"\2" * 48, (0, 1, 2, 3))


def test_registers_extended_in_between_are_quoted_again():
    """A register that moves between quote and reading costs a second quote, one that never stands still our error."""
    bound = b"\2" * 48
    moved = Tpm(world.TpmKey(), bound, b"\7" * 32)
    _, _, pcrs = tpm.quote(moved, None, bound, (0, 1, 2, 3))
    assert (moved.quotes, pcrs[3]) == (2, b"\7" * 32)
    with pytest.raises(ServiceError, match="do not stand still"):
        tpm.quote(Tpm(world.TpmKey(), bound, *(bytes([i]) * 32 for i in range(1, 9))), None, bound, (0, 1, 2, 3))
