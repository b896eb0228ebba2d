"""Our verifier and the second one beside one another: the one module here that imports stannary."""

from __future__ import annotations

import pytest
from tests.second_verifier.evidence import BELOW_POLICY, NOTICE, REFUTED, Pins
from tests.second_verifier.receipt import Outcome, verify
from tests.second_verifier.values import NotJson

from stannary.errors import FormatError
from stannary.verify.receipt import Expectations, verify_receipt
from stannary.verify.report import Report, Severity
from stannary.verify.trust import TrustStore

WEIGHTS = {Severity.REFUTED: REFUTED, Severity.POLICY: BELOW_POLICY, Severity.NOTICE: NOTICE}
MALFORMED = "receipt.malformed"


def verify_both(data: bytes, trust: TrustStore, now: int, policy: Expectations | None = None) -> Report:
    """Verify a receipt twice and return our report, which says what the second verifier says."""
    try:
        ours = verify_receipt(data, trust, now, policy)
    except FormatError:
        with pytest.raises(NotJson):
            second(data, trust, now, policy)
        raise
    assert_same(ours, second(data, trust, now, policy))
    return ours


def second(data: bytes, trust: TrustStore, now: int, policy: Expectations | None = None) -> Outcome:
    """Let the second verifier verify, with the same pins and wishes."""
    wishes = policy or Expectations()
    return verify(
        data,
        [Pins(item.vkey, item.witnesses, item.independent) for item in trust.markets],
        now,
        job_digest=wishes.job_digest,
        allow_unverified=wishes.accepts_unverified,
        has_floors=wishes.requirements is not None,
    )


def assert_same(ours: Report, theirs: Outcome) -> None:
    """Compare findings, verdict and exit code; where the receipt is malformed, what else was found by then is open."""
    found = {(item.id, WEIGHTS[item.severity]) for item in ours.findings if not item.id.startswith("policy.")}
    if (MALFORMED, REFUTED) in found | theirs.findings:
        assert (MALFORMED, REFUTED) in found & theirs.findings, (sorted(found), sorted(theirs.findings))
        return
    assert found == theirs.findings, (sorted(found - theirs.findings), sorted(theirs.findings - found))
    assert ours.verdict == theirs.verdict
    if not any(item.id.startswith("policy.") for item in ours.findings):
        assert ours.exit_code == theirs.exit_code
