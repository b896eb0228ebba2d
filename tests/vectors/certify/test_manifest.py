"""Evidence of real machines gives the outcomes that were measured for it."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from tests.vectors.certify.evidence_vectors import FOLDER, case, needs_vectors, outcome

from stannary.certify.vectors import cases, runner

pytestmark = needs_vectors


def _names() -> list[str]:
    if not (FOLDER / "manifest.json").is_file():
        return []
    return [str(item.members["id"]) for item in cases.load(FOLDER)]


@pytest.mark.parametrize("name", _names())
def test_every_case_gives_its_expected_outcome(name):
    """Every case of the manifest gives the outcome it expects."""
    result = runner.run_case(case(name))
    assert result.observed == result.expected, result.detail


def test_no_check_is_silently_skipped():
    """Every finding-free check row of every case says checked, waived or not applicable with its reason."""
    for result in runner.run(cases.load(FOLDER)):
        assert result.appraisal is not None
        assert result.appraisal.checks
        assert all(row.detail for row in result.appraisal.checks)


def test_the_held_card_rests_on_the_packaged_notice():
    """Without the notice the withdrawn sample looks valid offline: only OCSP or a notice can tell."""
    assert outcome("gpu-cert-hold") == "valid-offline-only"
    held = case("gpu-cert-hold")
    assert runner.run_case(held, None, ()).observed == "valid"
    early = runner.run_case(held, datetime(2026, 11, 21, tzinfo=UTC))
    assert early.observed == "valid"
