"""Receipts of format 2, kept as the market of their time wrote them, are verified under their own rules for ever.

Each is a run of tests/recorded (its name is the file's), played before rules 3 were made; `format-2.json` holds what
the verifier of that commit said of it without a policy and under each policy of the release. Nothing writes them anew;
a floor that a policy of this package was given since (the word) stands in it beside what was said then.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tests.second_verifier.comparison import verify_both

from stannary.cli import summary
from stannary.formats import record
from stannary.verify import policy
from stannary.verify.receipt import Expectations
from stannary.verify.report import Report
from stannary.verify.trust import TrustStore, pin

HERE = Path(__file__).parent
KEPT: dict[str, dict[str, Any]] = json.loads((HERE / "format-2.json").read_text(encoding="utf-8"))
POLICIES = ("none", *policy.BUILT_IN)


@pytest.mark.parametrize("named", POLICIES)
@pytest.mark.parametrize("name", KEPT)
def test_a_receipt_of_format_2_is_judged_as_it_was(name: str, named: str) -> None:
    """Verdict, exit code and every finding are those of the release that wrote it."""
    report = _verify(name, named)
    said = [[item.id, item.severity.value, item.subject, item.observed, item.expected] for item in report.findings]
    found = {"exit_code": report.exit_code, "verdict": report.verdict.value, "findings": said}
    assert found == KEPT[name]["reports"][named]


@pytest.mark.parametrize("name", KEPT)
def test_a_receipt_of_format_2_keeps_its_figures(name: str) -> None:
    """What was audited, what it is worth and who was paid or convicted is read as it was."""
    claims, kept = _verify(name, "none").claims, KEPT[name]
    assert claims is not None
    receipt = claims.receipt
    assert record.to_json(receipt.soundness) == kept["soundness"]
    assert (receipt.paid_usd_micros, receipt.refunded_usd_micros) == (
        kept["paid_usd_micros"],
        kept["refunded_usd_micros"],
    )
    assert claims.recomputation() == kept["recomputation"]
    assert summary.convictions(claims) == kept["convicted"]
    assert summary.earnings(receipt) == kept["earned_usd_micros"]


def test_every_kept_receipt_is_judged() -> None:
    """No file lies beside the table that nobody reads."""
    assert {path.name.partition(".")[0] for path in HERE.glob("*.receipt.json")} == set(KEPT)


def _verify(name: str, named: str) -> Report:
    kept = KEPT[name]
    trust = TrustStore(()).with_market(pin(kept["vkey"], (kept["witness"],)))
    wanted = policy.built_in(named) if named in policy.BUILT_IN else None
    data = (HERE / f"{name}.receipt.json").read_bytes()
    return verify_both(data, trust, kept["now"], Expectations(requirements=wanted))
