"""Policies for receipts: strict floors, judged on what verification recomputed, exit code 4 below them."""

from dataclasses import replace
from importlib import resources

import pytest

from stannary.errors import SpecError
from stannary.formats import dsse, note
from stannary.formats.jobspec import JobKind, Verification
from stannary.formats.note import KeyType
from stannary.formats.predicates import Assurance, Tier
from stannary.verify import policy, soundness
from stannary.verify.policy import BUILT_IN, Independence, LeastWord
from stannary.verify.receipt import Expectations, verify_receipt
from stannary.verify.trust import TrustStore, pin

from .test_words import World as Ours
from .world import World, key_of

LOCAL = policy.built_in("local")


@pytest.fixture(scope="module")
def world():
    return World().play()


@pytest.fixture(scope="module")
def receipt(world):
    return world.receipt()


def judged(world, receipt, wanted, trust=None):
    return verify_receipt(receipt, trust or world.trust(), world.now, Expectations(requirements=wanted))


def test_a_verified_receipt_meets_the_local_policy(world, receipt):
    """What is verified is enough for one's own machines, with exit code 0."""
    assert judged(world, receipt, LOCAL).exit_code == 0


@pytest.mark.parametrize(
    ("change", "finding", "observed", "expected"),
    [
        ({"minimum_tier": Tier.T1}, "policy.tier", "NOT hardware-attested", "tier T1"),
        ({"max_escape": "0.009"}, "policy.escape", "0.010000 when 1 %", "at most 0.009"),
        ({"independence": Independence.CERTIFIED}, "policy.independence", "declared", "at least certified"),
        ({"independence": Independence.BUYER}, "policy.independence", "declared", "at least buyer"),
        ({"independent_witnesses": 1}, "policy.witness", "0 independent witnesses", "at least 1"),
    ],
)
def test_what_falls_short_is_named_with_both_values(world, receipt, change, finding, observed, expected):
    """Each floor alone leaves a true receipt below policy: exit code 4, the observed and the required value."""
    report = judged(world, receipt, replace(LOCAL, **change))
    (found,) = [item for item in report.findings if item.id.startswith("policy.")]
    assert (report.exit_code, found.id) == (4, finding)
    assert observed in found.observed
    assert expected in found.expected


def test_a_low_audit_rate_is_below_policy():
    """A receipt of 90 % audits falls short of a policy that asks for 95 %, and of its escape probability."""
    world = World(audit_ppm=900_000).play()
    report = judged(world, world.receipt(), replace(LOCAL, min_audit_ppm=950_000, max_escape="0.05"))
    assert {item.id for item in report.findings if item.severity == "policy"} >= {"policy.audit", "policy.escape"}
    assert report.exit_code == 4


def test_what_an_accomplice_adds_is_told_beside_the_escape():
    """Where operators could help one another, a policy that is missed names both probabilities."""
    world = Ours(rounds=1, lanes=2).play()
    report = judged(world, world.receipt(), replace(LOCAL, max_escape="0.000001"))
    (found,) = [item for item in report.findings if item.id == "policy.escape"]
    figures = report.claims.receipt.soundness
    assert report.exit_code == 4
    alone = soundness.escape_of_share(figures, LOCAL.cheating_share_ppm)
    helped = soundness.escape_of_share(figures, LOCAL.cheating_share_ppm, figures.accomplice_ppm)
    assert found.observed.startswith(f"{alone} when")
    assert found.observed.endswith(f", {helped} with one accomplice among 5 operators")
    assert helped > alone


def test_software_evidence_satisfies_no_hardware_policy():
    """A market that writes a high tier over software evidence gains nothing."""
    world = World()
    world.bend["credential"] = lambda item: replace(item, tier=Tier.T4)
    world.play()
    report = judged(world, world.receipt(), replace(LOCAL, minimum_tier=Tier.T1))
    assert report.exit_code == 4
    assert any(item.id == "policy.tier" for item in report.findings)


def test_an_independent_witness_counts_when_pinned_as_such():
    """A witness counts as independent only by the reader's own pin."""
    world = World()
    pinned = TrustStore().with_market(pin(world.vkey, (world.witness_vkey,), ("local.witness",)))
    world.trust = lambda: pinned
    world.play()
    assert judged(world, world.receipt(), replace(LOCAL, independent_witnesses=1), pinned).exit_code == 0


@pytest.mark.parametrize(
    ("wanted", "exit_code", "weight"),
    [
        (None, 4, "below policy"),  # it is pinned as independent
        (LOCAL, 0, "notice"),
        (replace(LOCAL, independent_witnesses=1), 0, "notice"),
        (replace(LOCAL, independent_witnesses=2), 4, "notice"),
    ],
)
def test_of_several_witnesses_the_policy_says_how_many_are_enough(wanted, exit_code, weight):
    """Who was away is always said; without a policy all independent ones must have come, else as many as it asks."""
    world = World()
    away = note.format_vkey("away.example", dsse.public_bytes(key_of("away")), KeyType.WITNESS)
    independent = ("local.witness", "away.example")
    pinned = TrustStore().with_market(pin(world.vkey, (world.witness_vkey, away), independent))
    world.trust = lambda: pinned
    world.play()
    report = judged(world, world.receipt(), wanted, pinned)
    (said,) = [item for item in report.findings if item.id == "witness.missing"]
    assert ("away.example" in said.observed, said.severity) == (True, "policy" if weight != "notice" else "notice")
    assert report.exit_code == exit_code
    known = TrustStore().with_market(pin(world.vkey, (world.witness_vkey, away)))
    assert wanted is not None or judged(world, world.receipt(), wanted, known).exit_code == 0
    short = [item.observed for item in report.findings if item.id == "policy.witness"]
    assert short == (["1 independent witnesses (local.witness)"] if wanted is not None and exit_code else [])


def test_unverified_work_needs_the_policys_word():
    """A policy that allows unverified work accepts it; the others do not."""
    from stannary.formats.jobspec import JobKind, Verification

    world = World(kind=JobKind.COMMAND, verify=Verification.NONE).play()
    data = world.receipt()
    assert judged(world, data, LOCAL).exit_code == 4
    allowing = replace(LOCAL, allow_unverified=True, max_escape="1")
    assert judged(world, data, allowing).exit_code == 0


def test_escape_counts_what_was_really_recomputed():
    """Silent auditors lower the probability a reader may count on, whatever rate was signed."""
    world = World().play()
    figures = verify_receipt(world.receipt(), world.trust(), world.now).claims.receipt.soundness
    assert soundness.escape_of_share(figures, 10_000) == "0.010000"
    half = replace(figures, audited=figures.units // 2)
    assert soundness.escape_of_share(half, 10_000) == "0.505000"
    assert soundness.escape_of_share(half, 500_000) == "0.065038"
    assert soundness.escape_of_share(replace(figures, units=0, audited=0), 10_000) == "1.000000"


@pytest.mark.parametrize(
    ("floor", "assurance", "rate", "exit_code"),
    [
        (LeastWord.NONE, Assurance.SAMPLED, 20_000, 0),
        (LeastWord.SAMPLED, Assurance.SAMPLED, 20_000, 0),
        (LeastWord.VERIFIED, Assurance.SAMPLED, 20_000, 4),
        (LeastWord.FULL, Assurance.SAMPLED, 20_000, 4),
        (LeastWord.VERIFIED, Assurance.VERIFIED, 1_000_000, 0),
        (LeastWord.FULL, Assurance.VERIFIED, 1_000_000, 0),  # all of so few units were checked
        (LeastWord.SAMPLED, None, 1_000_000, 0),
        (LeastWord.VERIFIED, None, 1_000_000, 0),
        (LeastWord.VERIFIED, None, 300_000, 4),  # `verified` by the rules of before, and no more than sampled
    ],
)
def test_a_policy_has_a_floor_for_the_word(floor, assurance, rate, exit_code):
    """A true receipt whose word is below the policy's ends with exit code 4, and says which word it bears."""
    made = Ours if assurance is not None else World
    world = made(**({"assurance": assurance} if assurance is not None else {"rounds": 3}), audit_ppm=rate).play()
    report = judged(world, world.receipt(), replace(LOCAL, min_assurance=floor))
    said = [item for item in report.findings if item.id == "policy.assurance"]
    assert (report.exit_code, len(said)) == (exit_code, 1 if exit_code else 0)
    assert all(item.observed.startswith("sampled: ") and item.expected == f"at least {floor}" for item in said)


def test_who_takes_unverified_work_asks_for_no_word_of_it():
    """`allow_unverified` is not undone by the floor; nor does a file of before ask for a word."""
    world = Ours(kind=JobKind.COMMAND, verify=Verification.NONE).play()
    data = world.receipt()
    assert judged(world, data, replace(LOCAL, allow_unverified=True)).exit_code == 0
    assert "policy.assurance" in {item.id for item in judged(world, data, LOCAL).findings}
    text = resources.files("stannary.verify").joinpath("policies/local.toml").read_text()
    old = policy.parse(text.replace('version = 2\nmin_assurance = "sampled"\n', "version = 1\n").encode())
    assert "policy.assurance" not in {item.id for item in judged(world, data, old).findings}


@pytest.mark.parametrize("name", BUILT_IN)
def test_built_in_policies_read(name):
    """Each policy of the release parses under its own name."""
    assert policy.built_in(name).name == name


@pytest.mark.parametrize(
    ("text", "word"),
    [
        (b"\xff", "TOML"),
        (b"name = ", "TOML"),
        (b"", "lacks"),
        (b"minimum_teir = 'T2'", "unknown"),
        (b"x" * 70_000, "large"),
    ],
)
def test_a_broken_policy_is_refused(text, word):
    """No TOML, a missing or a misspelt member is a SpecError, never a policy without that floor."""
    with pytest.raises(SpecError, match=word):
        policy.parse(text)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("version = 2", "version = 3"),
        ("version = 2", "version = 1"),
        ('min_assurance = "sampled"\n', ""),
        ('"sampled"', '"certain"'),
        ('"T0"', '"T9"'),
        ("cheating_share_ppm = 10000", "cheating_share_ppm = 0"),
        ("min_audit_ppm = 0", "min_audit_ppm = 1000001"),
        ('max_escape = "1"', 'max_escape = "1.1"'),
        ('max_escape = "1"', 'max_escape = "nan"'),
        ('max_escape = "1"', 'max_escape = "often"'),
        ('max_escape = "1"', "max_escape = 1.0"),
        ("independent_witnesses = 0", "independent_witnesses = -1"),
        ('"declared"', '"sworn"'),
    ],
)
def test_values_out_of_range_are_refused(old, new):
    """Every member is typed and bounded."""
    text = resources.files("stannary.verify").joinpath("policies/local.toml").read_text()
    assert old in text
    with pytest.raises(SpecError):
        policy.parse(text.replace(old, new).encode())
