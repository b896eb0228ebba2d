"""Findings as people read them."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

from tests.unit.verify.world import World

from stannary.cli import summary
from stannary.formats.jobspec import JobKind
from stannary.formats.predicates import Assurance
from stannary.verify.receipt import verify_receipt
from stannary.verify.report import Finding, Severity


def lines_of(*findings: Finding) -> list[str]:
    report: Any = SimpleNamespace(findings=findings, claims=None)
    return summary.finding_lines(report)


def test_a_silent_auditor_is_told_in_a_sentence():
    """No audit's name and no code: who was silent, and about what."""
    audit = "j-495db8e631b0/r1/l2/a0/q355e0c8b1f2a3b4c"
    (line, *rest) = lines_of(Finding("audit.silent", Severity.NOTICE, audit, "n-455852780b6f did not answer: lost"))
    told = " ".join([line, *(item.strip() for item in rest)])
    assert "audit of lane 2 of round 2 (r1/l2/a0): n-455852780b6f did not answer: lost" in told
    assert "audit.silent" not in told and "/q355" not in told


def test_findings_name_the_operator_of_a_node():
    """Whoever is named by number is named by owner too, where the receipt says who that is."""
    claims = SimpleNamespace(operators={"n-455852780b6f": "basalt"})
    found = Finding("audit.silent", Severity.NOTICE, "x", "n-455852780b6f did not answer, n-000000000000 did")
    report: Any = SimpleNamespace(findings=[found], claims=claims)
    told = " ".join(" ".join(summary.finding_lines(report)).split())
    assert "n-455852780b6f (basalt) did not answer, n-000000000000 did" in told


def test_what_accuses_keeps_its_code():
    """A refuted finding shows its id, which docs/verify.md explains, and its task in words."""
    told = " ".join(lines_of(Finding("verdict.mismatch", Severity.REFUTED, "j-495db8e631b0/r0/merge/a1", "x", "y")))
    assert "verdict.mismatch: the merge of round 1 (r0/merge/a1): x, expected y" in " ".join(told.split())


def test_a_script_is_shown_in_one_line():
    """A command of several lines is told in one, without the marks that stand for what is no text."""

    class Scripted(World):
        def spec(self):
            return replace(super().spec(), run="#!/bin/bash\nset -e\n\n  python count.py\t1\n")

    world = Scripted(kind=JobKind.COMMAND, lanes=1).play()
    claims = verify_receipt(world.receipt(), world.trust(), world.now).claims
    assert claims is not None
    (line,) = (line for line in summary.fact_lines(claims) if line.startswith("code"))
    assert line.endswith(": #!/bin/bash set -e python count.py 1")


def test_a_program_that_did_not_end_well_has_not_succeeded():
    """Beside the word stands how it ended, and no line calls it a success."""
    world = World(kind=JobKind.COMMAND, lanes=1, assurance=Assurance.FULL)
    world.end = "exit-3"
    report = verify_receipt(world.play().receipt(), world.trust(), world.now)
    first, second, *_ = summary.text(report, receipt_file="")
    assert first.startswith("Verified. job ") and first.endswith(": done")
    assert second == "  The program ended with exit code 3."
    assert summary.to_json(report)["claims"]["ended"] == {"0": "exit-3"}
