"""The reference of the job file is what the code does, and says so when it is not."""

from __future__ import annotations

import dataclasses
import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

from stannary.formats import jobfile, jobspec

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "job_file_reference.py"


@pytest.fixture
def reference(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    found = importlib.util.spec_from_file_location("job_file_reference", SCRIPT)
    assert found is not None
    assert found.loader is not None
    module = importlib.util.module_from_spec(found)
    monkeypatch.setitem(sys.modules, "job_file_reference", module)
    found.loader.exec_module(module)
    return module


def test_the_page_in_the_tree_is_the_one_that_is_written(reference: ModuleType) -> None:
    """Nothing is wrong, and docs/guide/job-file.md is up to date."""
    mistakes, text = reference.page()
    assert mistakes == []
    assert reference.PAGE.read_text("utf-8") == text
    for section, keys in jobfile.KEYS.items():
        for key in keys:
            assert f"| `{key}` |" in text, f"{section}.{key}"


def test_a_key_without_words_is_a_mistake(reference: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """A new key must be explained, and an explanation must have its key."""
    monkeypatch.setattr(jobfile, "KEYS", {**jobfile.KEYS, "resources": ("cpus", "fpgas")})
    mistakes = reference.page()[0]
    assert any("no words for resources.fpgas" in mistake for mistake in mistakes)
    assert any("words for resources.memory, which is no key" in mistake for mistake in mistakes)


def test_a_limit_that_moved_is_a_mistake(reference: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """A limit on the page whose neighbour is accepted, or that is itself refused, is found."""
    monkeypatch.setattr(jobspec, "MAX_LANES", 300)
    assert any("num_nodes: 257 is said to be refused" in mistake for mistake in reference.page()[0])
    monkeypatch.setattr(jobspec, "MAX_LANES", 200)
    assert any("num_nodes: 256 is said to be accepted" in mistake for mistake in reference.page()[0])


def test_an_example_that_is_refused_is_a_mistake(reference: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every example on the page is read by the code it documents."""
    monkeypatch.setitem(reference.RESOURCES, "memory", dataclasses.replace(reference.RESOURCES["memory"], example="2G"))
    assert any("resources.memory: the example 2G is refused" in mistake for mistake in reference.page()[0])
