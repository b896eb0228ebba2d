"""A measured guest reaches T1 under a test root; a changed command line is refused by PCR and event.

Opt-in (`make e2e-vm`): two boots without KVM, about a minute each. Golden values of the image (PCR 4, 9, 11)
are computed offline from its bytes; the firmware's (PCR 0-3, 5-7) come from another boot of that firmware.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from tests.integration.tpm.software_tpm import SoftwareTpm
from tests.vm import measured_guest as guests

from stannary.certify import challenge as challenges
from stannary.certify import policy
from stannary.certify.appraise import Context, appraise
from stannary.certify.collect import node
from stannary.certify.collect.sources import Sources
from stannary.certify.evidence import event_log
from stannary.certify.evidence.basis import BootSession
from stannary.certify.evidence.tpm import TpmVerifier
from stannary.certify.pki import certificates
from stannary.certify.references import ReferenceBoot, reference_of
from stannary.formats.predicates import Tier

pytestmark = [
    pytest.mark.vm,
    pytest.mark.timeout(900),
    pytest.mark.skipif(os.environ.get("STANNARY_VM") != "1", reason="opt-in: make e2e-vm (minutes of emulation)"),
]
FIRMWARE = (0, 1, 2, 3, 5, 6, 7)
ACTION, SEPARATOR = b"Calling EFI Application from Boot Option", bytes(4)


class Booted:
    """One boot: its log and its answers to challenges."""

    def __init__(self, folder, command_line):
        self.image = guests.build(folder / "image", command_line)
        (folder / "tpm").mkdir()
        self.tpm = SoftwareTpm(folder / "tpm", for_machine=True)
        self.tpm.start_for_machine()
        self.guest = guests.Guest(self.image, self.tpm, folder / "boot")
        self.log_file = folder / "log.bin"

    def wait(self):
        """Wait until the guest answers."""
        self.log_file.write_bytes(self.guest.log())
        self.log = event_log.parse_log(self.log_file.read_bytes())

    def answer(self, challenge):
        """Collect evidence through the guest's relay."""
        sources = Sources(
            tpm=f"127.0.0.1:{self.guest.port}", ek_chain=(self.tpm.issuers,), event_log=self.log_file, bench_s=0
        )
        evidence, absent, _ = node.check(challenge, sources)
        assert "tpm" in evidence.parts, absent
        return evidence

    def stop(self):
        """Power off."""
        self.guest.stop()
        self.tpm.stop()


@pytest.fixture(scope="module")
def boots(tmp_path_factory):
    """The image as published, and the same image with another command line."""
    lacking = guests.missing()
    # Asked for and impossible is a failure: a skipped boot would look like one that passed.
    assert not lacking, f"a measured boot needs {', '.join(lacking)} (sh scripts/install-vm.sh)"
    machines = []
    try:
        for command_line in (guests.COMMAND_LINE, guests.COMMAND_LINE + " init=/bin/sh"):
            machine = Booted(tmp_path_factory.mktemp("vm"), command_line)
            machines.append(machine)
            machine.wait()
        yield machines
    finally:
        for machine in machines:
            machine.stop()


def _golden(image, firmware_log) -> ReferenceBoot:
    """Reference values of an image: computed from its bytes, firmware's from another boot."""
    initrd, options = image.sections[".initrd"], image.sections[".cmdline"].decode().encode("utf-16-le") + b"\0\0"
    stub = [part for name in (".linux", ".osrel", ".cmdline", ".initrd") for part in (name.encode() + b"\0",
            image.sections[name])]  # fmt: skip
    computed = {
        4: [hashlib.sha256(ACTION).digest(), hashlib.sha256(SEPARATOR).digest(),
            guests.authenticode(image.path.read_bytes())],
        9: [hashlib.sha256(options).digest(), hashlib.sha256(initrd).digest()],
        11: [hashlib.sha256(part).digest() for part in stub],
    }  # fmt: skip
    firmware = reference_of("firmware", firmware_log, {key: firmware_log.replay("sha256")[key] for key in FIRMWARE})
    pcrs, events = dict(firmware.pcrs), dict(firmware.events)
    for index, digests in computed.items():
        value = bytes(32)
        for digest in digests:
            value = hashlib.sha256(value + digest).digest()
        pcrs[str(index)], events[str(index)] = value.hex(), [item.hex() for item in digests]
    return ReferenceBoot("published image", pcrs, events)


def _appraise(machine, reference, root, monkeypatch):
    """Check, renew with activation, appraise."""
    pins = tuple(item.key_pin for item in certificates.load_bundle(root.read_bytes()))
    base = policy.built_in("local")
    trusting = replace(base, tpm=replace(base.tpm, roots=pins))
    monkeypatch.setattr("stannary.certify.references.golden_boots", lambda *_: (reference.golden(),))
    first, _ = challenges.issue(datetime.now(UTC), ttl_s=600)
    parsed = TpmVerifier().parse(machine.answer(first).parts["tpm"].evidence)
    session = BootSession(parsed.attest.reset_count, parsed.attest.restart_count)
    challenge, memory = challenges.renew(datetime.now(UTC), parsed.ek_chain[0], parsed.ak.name, session, ttl_s=600)
    evidence = machine.answer(challenge)
    now = datetime.now(UTC) + timedelta(seconds=1)
    return appraise(evidence, challenge, Context(now=now, policy=trusting, memory=memory))


def test_measured_guest_reaches_t1_under_a_test_root(boots, monkeypatch):
    """The published image, Secure Boot on, is T1 with golden values computed offline."""
    machine, other = boots
    result = _appraise(machine, _golden(machine.image, other.log), machine.tpm.root, monkeypatch)
    assert not result.decision.refused, result.reason
    assert result.parts["tpm"].claims["secure_boot"] == "on"
    assert result.parts["tpm"].claims["reference"] == "published image"
    assert result.decision.tier is Tier.T1, result.reason


def test_changed_command_line_is_refused_with_register_and_event(boots, monkeypatch):
    """Another command line changes PCR 4, 9 and 11, and the refusal names register and event."""
    machine, other = boots
    result = _appraise(other, _golden(machine.image, machine.log), other.tpm.root, monkeypatch)
    assert result.parts["tpm"].outcome == "refuse:reference-mismatch"
    (found,) = [item for item in result.parts["tpm"].findings if item.id == "reference"]
    assert {4, 9, 11} == {int(item.split()[1]) for item in found.observed.split("; ")}
    assert "EV_EFI_BOOT_SERVICES_APPLICATION" in found.observed
