"""Hints for unknown keys: they name what was meant, or nothing."""

from __future__ import annotations

import pytest

from stannary.errors import SpecError
from stannary.formats import jobfile, jobwords


def hint(key: str, section: str = "") -> str:
    document: dict[str, object] = {"run": "a"}
    if section:
        document[section] = {key: 1}
    else:
        document[key] = 1
    with pytest.raises(SpecError) as caught:
        jobfile.parse(document)
    return f"{caught.value.what} {caught.value.why} {caught.value.hint}"


@pytest.mark.parametrize(
    ("key", "section", "word"),
    [
        ("timeout", "", "resources.wall_s"), ("timeout", "resources", "mean wall_s"), ("time_limit", "", "wall_s"),
        ("gpu", "", "GPU nodes come"), ("gpus", "resources", "GPU nodes come"), ("num_gpus", "", "GPU nodes come"),
        ("accelerators", "", "GPU nodes come"), ("cancel", "", "stannary stop"), ("image", "", "not yet"),
        ("docker", "", "not yet"), ("env", "", "mean envs"), ("cmd", "", "mean run"), ("command", "", "mean run"),
        ("memory", "", "resources.memory"), ("cpus", "", "resources.cpus"), ("mem", "resources", "mean memory"),
        ("max_price", "", "trust.max_price"), ("verify", "", "trust.verify"), ("requirements", "", "mean setup"),
        ("dataset", "", "mean inputs"), ("nodes", "", "mean num_nodes"), ("epochs", "recipe", "mean rounds"),
        ("lr", "recipe", "mean training"), ("retries", "", "another by itself"), ("budgett", "", "mean budget"),
        ("ouptuts", "", "mean outputs"), ("rnu", "", "mean run"), ("budget", "resources", "budget, at the top"),
        ("Timeout", "", "wall_s"), ("wall-time", "", "wall_s"), ("secrets", "", "not yet"),
        ("spot", "", "leave it out"),
    ],
)  # fmt: skip
def test_what_was_meant(key: str, section: str, word: str) -> None:
    """A word of another tool, a key of another section, a slip of the pen: each gets its answer."""
    assert word in hint(key, section)


@pytest.mark.parametrize("key", ["zebra", "x", "foo", "colour", "self", "setups_of_mine", "a" * 10_000, "\x1b[2J"])
def test_no_likeness_no_guess(key: str) -> None:
    """Where nothing is near, the known keys are listed and none is suggested."""
    said = hint(key)
    assert "did you mean" not in said
    assert "known keys: name, kind" in said
    assert len(said) < 2_000


def test_every_synonym_leads_to_a_key() -> None:
    """The table names keys that exist."""
    for full in jobwords.SYNONYMS.values():
        section, _, name = full.rpartition(".")
        assert name in jobfile.KEYS[section]
