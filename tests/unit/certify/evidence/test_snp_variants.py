"""SNP reports as the ABI specification varies them: versions, generations, keys, levels. One code for each."""

from __future__ import annotations

import pytest
from tests.unit.certify import world
from tests.unit.certify.evidence.test_snp import _outcome

from stannary.certify.rules import Generation, Rules, SnpTcb

LEVEL, LONG_ID = SnpTcb(3, 2, 10, 200), bytes(range(64))
LEVELS = {Generation.MILAN: LEVEL, Generation.GENOA: LEVEL, Generation.TURIN: SnpTcb(3, 2, 10, 200, 1)}
CHIPS = {Generation.MILAN: LONG_ID, Generation.GENOA: LONG_ID, Generation.TURIN: bytes(range(1, 9))}
VLEK = 1 << 2


def _chip(generation: Generation, *, cloud: bool = False):
    """A vendor, an endorsement key of one of its chips or clouds, and the fields its reports have."""
    amd = world.Amd(generation)
    vek = amd.vcek(LEVELS[generation], None if cloud else CHIPS[generation])
    fields = {"tcb": LEVELS[generation], "chip": b"" if cloud else CHIPS[generation], "flags": VLEK if cloud else 0}
    return amd, vek, fields


@pytest.mark.parametrize("generation", list(Generation))
@pytest.mark.parametrize("version", [2, 3, 4, 5])
def test_every_version_of_every_generation_is_read(generation, version):
    """Reports of versions 2 to 5 are valid on every generation; Milan is said."""
    amd, vek, fields = _chip(generation)
    found = _outcome(amd, amd.report(vek, version=version, **fields), vek)
    # A version 2 report carries no CPUID and a test root names no generation: the endorsement's product does.
    expected = "valid-but-milan" if generation is Generation.MILAN else "valid"
    assert found.outcome == expected, found.findings
    assert found.claims["generation"] == generation.value


@pytest.mark.parametrize("version", [0, 1, 6, 0x05000000])
def test_other_versions_are_unsupported(version):
    """A version nobody specified, and a known one in the other byte order, are unsupported."""
    amd, vek, fields = _chip(Generation.GENOA)
    assert _outcome(amd, amd.report(vek, version=version, **fields), vek).outcome == "refuse:unsupported"


@pytest.mark.parametrize("generation", list(Generation))
def test_cloud_endorsement_names_no_machine(generation):
    """A VLEK is valid on every generation and names no machine, whatever chip id the report shows."""
    amd, vek, fields = _chip(generation, cloud=True)
    assert _outcome(amd, amd.report(vek, **fields), vek).outcome == "valid-no-identity"
    shown = _outcome(amd, amd.report(vek, **{**fields, "chip": CHIPS[generation]}), vek)
    assert shown.outcome == "valid-no-identity"
    assert shown.identities == ()
    as_chip = amd.report(vek, **{**fields, "flags": 0})
    assert _outcome(amd, as_chip, vek).outcome == "refuse:binding-mismatch"


@pytest.mark.parametrize("vmpl", [0, 1, 2, 3, 0xFFFFFFFF])
def test_privilege_levels(vmpl):
    """Level 1 may stand under a paravisor; lower ones, and reports the host asked for, are refused."""
    amd, vek, fields = _chip(Generation.GENOA)
    report = amd.report(vek, vmpl=vmpl, **fields)
    assert _outcome(amd, report, vek).outcome == ("valid" if vmpl <= 1 else "refuse:guest-policy")
    strict = Rules(roots=amd.roots, snp_max_vmpl=0)
    assert _outcome(amd, report, vek, rules=strict).outcome == ("valid" if vmpl == 0 else "refuse:guest-policy")


@pytest.mark.parametrize("bit", [18, 19])
def test_guest_policy_bits(bit):
    """A migration agent and debugging are refused on every generation, before any floor."""
    for generation in Generation:
        amd, vek, fields = _chip(generation)
        floors = {generation: SnpTcb(255, 255, 255, 255, 0)}
        report = amd.report(vek, policy=0x30000 | 1 << bit, **fields)
        rules = Rules(roots=amd.roots, snp_floors=floors)
        assert _outcome(amd, report, vek, rules=rules).outcome == "refuse:guest-policy"


@pytest.mark.parametrize("name", ["current", "committed", "launch"])
@pytest.mark.parametrize("generation", list(Generation))
def test_each_lagging_level_is_below_the_floor(generation, name):
    """Firmware that runs, is committed or launched below the floor refuses although the reported level is above."""
    amd, vek, fields = _chip(generation)
    level = LEVELS[generation]
    lower = SnpTcb(level.bootloader, level.tee, level.snp - 1, level.microcode, level.fmc)
    rules = Rules(roots=amd.roots, snp_floors={generation: level})
    report = amd.report(vek, **fields, **{name: lower})
    assert _outcome(amd, report, vek, rules=rules).outcome == "refuse:tcb-not-allowed"
    assert _outcome(amd, amd.report(vek, **fields), vek, rules=rules).valid


def test_reported_level_above_what_runs_is_refused():
    """A report that claims, or has committed, more than what runs contradicts itself: refused without any floor."""
    amd, vek, fields = _chip(Generation.GENOA)
    lower, higher = SnpTcb(3, 2, 9, 200), SnpTcb(3, 2, 11, 200)
    for changes in ({"current": lower, "committed": lower}, {"committed": higher}):
        found = _outcome(amd, amd.report(vek, **fields, **changes), vek)
        assert found.outcome == "refuse:tcb-not-allowed"
        assert [item.id for item in found.findings if item.code] == ["tcb-order"]
    ahead = amd.report(vek, **fields, current=higher)
    assert _outcome(amd, ahead, vek).outcome == "valid"  # a firmware update that is not committed yet


def test_level_of_another_endorsement_is_refused():
    """The endorsement is for one TCB: a report of another reported level is not what it endorses."""
    for generation in Generation:
        amd, vek, fields = _chip(generation)
        level = LEVELS[generation]
        other = SnpTcb(level.bootloader, level.tee, level.snp, level.microcode + 1, level.fmc)
        found = _outcome(amd, amd.report(vek, **{**fields, "tcb": other}), vek)
        assert found.outcome == "refuse:binding-mismatch", generation


def test_layouts_of_two_generations_are_not_one():
    """A Turin word read as Genoa's, or Genoa's as Turin's, does not fit what is endorsed."""
    turin, vek, fields = _chip(Generation.TURIN)
    genoa = (0x19, 0x11, 1)
    assert _outcome(turin, turin.report(vek, cpuid=genoa, **fields), vek).outcome == "refuse:binding-mismatch"
    other, vek, fields = _chip(Generation.GENOA)
    report = other.report(vek, cpuid=(0x1A, 2, 1), **fields)
    assert _outcome(other, report, vek).outcome == "refuse:binding-mismatch"


def test_unknown_processor_is_unsupported():
    """A CPUID no generation has cannot be read in any layout."""
    amd, vek, fields = _chip(Generation.GENOA)
    found = _outcome(amd, amd.report(vek, cpuid=(0x1B, 0, 0), **fields), vek)
    assert found.outcome == "refuse:unsupported"


@pytest.mark.parametrize("tail", [bytes(56), b"\x01" * 56])
def test_turin_chip_is_named_by_eight_octets(tail):
    """Turin's chip id has eight octets, whatever fills the field behind them."""
    amd, vek, fields = _chip(Generation.TURIN)
    report = amd.report(vek, **{**fields, "chip": CHIPS[Generation.TURIN] + tail})
    assert _outcome(amd, report, vek).outcome == "valid"
    other = amd.report(vek, **{**fields, "chip": b"\x02" + CHIPS[Generation.TURIN][1:] + tail})
    assert _outcome(amd, other, vek).outcome == "refuse:binding-mismatch"


def test_chip_id_of_another_length_in_the_endorsement_is_refused():
    """An endorsement whose chip id is neither 8 nor 64 octets names nothing."""
    amd = world.Amd(Generation.GENOA)
    vek = amd.vcek(LEVEL, bytes(range(16)))
    report = amd.report(vek, tcb=LEVEL, chip=bytes(range(16)))
    assert _outcome(amd, report, vek).outcome == "refuse:chain-invalid"


@pytest.mark.parametrize("length", [0, 1183, 1185, 2368, 4000])
def test_reports_have_one_length(length):
    """Cut, padded or doubled reports are malformed."""
    amd, vek, fields = _chip(Generation.GENOA)
    report = amd.report(vek, **fields)
    assert _outcome(amd, (report * 4)[:length], vek).outcome == "refuse:malformed"
