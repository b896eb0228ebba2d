"""The check of documents finds what nobody who has only this repository could look up."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"


@pytest.fixture
def checks(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(SCRIPTS))
    found = importlib.util.spec_from_file_location("check_docs", SCRIPTS / "check_docs.py")
    assert found is not None
    assert found.loader is not None
    module = importlib.util.module_from_spec(found)
    monkeypatch.setitem(sys.modules, "check_docs", module)
    found.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    "cited",
    ["DESIGN.md", "research/training.md 8", "docs/nowhere.md", "docs/protocol.md section 99", "issue 7", "ADR 9999"],
)
def test_a_citation_of_what_is_not_here_is_a_mistake(checks: ModuleType, cited: str) -> None:
    """Documents that are not in the tree, sections they do not have and tickets are told."""
    (mistake,) = checks._uncited(f'"""Words ({cited})."""')
    assert "not here" in mistake


@pytest.mark.parametrize(
    "cited", ["docs/audits.md", "docs/protocol.md section 5", "docs/receipt.md R8", "docs/adr/0009", "RFC 9162"]
)
def test_a_citation_of_what_is_here_is_none(checks: ModuleType, cited: str) -> None:
    """Documents of the tree by their path, and public standards, may be cited."""
    assert checks._uncited(f'"""Words ({cited})."""') == []


def test_a_paragraph_must_be_one_of_the_page(checks: ModuleType) -> None:
    """A paragraph that the page does not have is told, and so is a page with a gap."""
    assert checks._unnumbered("R8.9, docs/receipt.md R8", {"R8.9", "R8"}) == []
    assert len(checks._unnumbered(f"R8.9, R8.{99}, docs/receipt.md R{99}", {"R8.9", "R8"})) == 2
    whole = (SCRIPTS.parent / "docs" / "receipt.md").read_text("utf-8")
    assert checks._check_paragraphs(whole) == []
    assert "does not follow" in checks._check_paragraphs(whole.replace("**R8.4**", ""))[0]


def test_the_specification_weighs_findings_as_the_verifier_does(checks: ModuleType) -> None:
    """A finding that no rule of the page brings, that does not exist, or that weighs otherwise, is told."""
    listed = "| `a.b`, `c.d` | refuted | x |\n| `e.f` | notice | y |\n| `policy.tier` | below policy | z |\n"
    assert checks._check_specification(listed, "x [`a.b`] y [`c.d`] z [`e.f`, notice: why]") == []
    assert len(checks._check_specification(listed, "x [`a.b`, below policy] [`c.d`] [`e.f`, notice] [`g.h`]")) == 3
