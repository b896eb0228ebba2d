"""The end of a job in words: verdict, convictions, earnings, time split, and the command to check it.

Everything here is read from the receipt after this client has verified it against its own pinned
keys; what the market says of itself is not repeated.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from stannary.cli.output import plain
from stannary.formats.predicates import Receipt, TimeSplit, Verdict
from stannary.formats.quantity import dollars
from stannary.verify.report import Claims, Report

SPLIT_PARTS = ("useful", "start", "link", "idle", "audit", "churn")


def split_line(split: TimeSplit) -> str:
    """Return `useful 88.1 · start 3.0 · ...`: parts of the paid time, summing to 100."""
    return " · ".join(f"{name} {getattr(split, name) / 100:.1f}" for name in SPLIT_PARTS)


def earnings(receipt: Receipt) -> dict[str, int]:
    """Return micro-dollars paid per operator, those who got nothing left out."""
    paid: dict[str, int] = defaultdict(int)
    for line in receipt.settlement:
        account, _, name = line.account.partition(":")
        if account == "operator":
            paid[name] += line.usd_micros
    return dict(paid)


def node_lines(claims: Claims) -> list[str]:
    """Return one line per node of the job: its operator's earnings and what it was convicted of."""
    paid = earnings(claims.receipt)
    convicted = convictions(claims)
    lines = []
    for node, operator in sorted(claims.operators.items(), key=lambda item: (item[1], item[0])):
        verdict = f"  CONVICTED: {convicted[node]}" if node in convicted else ""
        lines.append(f"  {plain(operator):<20}{node:<16}{dollars(paid.get(operator, 0)):>12}{verdict}")
    return lines


def convictions(claims: Claims) -> dict[str, str]:
    """Return why each convicted node was convicted, the first reason per node."""
    reasons: dict[str, str] = {}
    for verdict in claims.convictions:
        for node in verdict.refuted:
            reasons.setdefault(node, f"{plain(verdict.reason)} in {verdict.task.partition('/')[2]}")
    return reasons


def text(report: Report, *, receipt_file: str, has_results: bool = False) -> str:
    """Return the final block."""
    claims = report.claims
    if claims is None:
        return "\n".join([headline(report), *finding_lines(report)])
    receipt = claims.receipt
    lines = [headline(report), *finding_lines(report)]
    lines += ["", "Earned by operator", *node_lines(claims)]
    money = (receipt.escrow_usd_micros, receipt.paid_usd_micros, receipt.refunded_usd_micros)
    lines += ["", "escrow {} · paid {} · refunded {}".format(*map(dollars, money))]
    lines += [split_line(receipt.time_split), f"witness {plain(receipt.witness)} · {plain(receipt.attestation)}"]
    if receipt_file:
        lines += ["", f"  check it   stannary verify {receipt_file}"]
    if has_results:
        lines += [f"  results    stannary get {receipt.job} -o out/"]
    return "\n".join(lines)


def headline(report: Report) -> str:
    """Return the verdict in one line."""
    words = {
        Verdict.VERIFIED: "Verified.",
        Verdict.ATTESTED: "Attested.",
        Verdict.UNVERIFIED: "NOT VERIFIED.",
        Verdict.REFUTED: "REFUTED.",
        Verdict.PENDING: "PENDING.",
    }
    claims = report.claims
    verdict = Verdict.REFUTED if report.exit_code == 3 else report.verdict
    if claims is None:
        return words[verdict]
    if report.exit_code == 4 and verdict in (Verdict.VERIFIED, Verdict.ATTESTED):
        words[verdict] = "NOT ENOUGH."  # true, and below what was asked
    sound = claims.receipt.soundness
    return (
        f"{words[verdict]} job {claims.receipt.job} {plain(claims.job_name)}: {claims.receipt.status}, "
        f"{sound.audited} of {sound.units} tasks recomputed, escape probability {sound.escape}"
    )


def finding_lines(report: Report) -> list[str]:
    """Return one line per finding, worst first."""
    order = {"refuted": 0, "policy": 1, "notice": 2}
    lines = []
    for finding in sorted(report.findings, key=lambda item: order[item.severity]):
        expected = f", expected {plain(finding.expected)}" if finding.expected else ""
        lines.append(
            f"  {finding.severity:<8} {finding.id}: {plain(finding.subject)}: {plain(finding.observed)}{expected}"
        )
        if finding.remedy:
            lines.append(f"           next: {plain(finding.remedy)}")
    return lines


def to_json(report: Report) -> dict[str, Any]:
    """Return the report as stable JSON members."""
    findings: Sequence[Mapping[str, str]] = [
        {
            "id": item.id,
            "severity": item.severity.value,
            "subject": item.subject,
            "observed": item.observed,
            "expected": item.expected,
            "remedy": item.remedy,
        }
        for item in report.findings
    ]
    members: dict[str, Any] = {
        "verdict": report.verdict.value,
        "exit_code": report.exit_code,
        "findings": findings,
    }
    if report.claims is not None:
        members["claims"] = _claims(report.claims)
    return members


def _claims(claims: Claims) -> dict[str, Any]:
    from stannary.formats import record

    return {
        "market": claims.market,
        "log_size": claims.log_size,
        "job_name": claims.job_name,
        "buyer": claims.buyer,
        "convicted": convictions(claims),
        "operators": claims.operators,
        "earned_usd_micros": earnings(claims.receipt),
        "receipt": {name: value for name, value in record.to_json(claims.receipt).items() if name != "evidence"},
    }
