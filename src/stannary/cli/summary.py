"""The end of a job in words: verdict, convictions, earnings, time split, and the command to check it.

Everything here is read from the receipt after this client has verified it against its own pinned
keys; what the market says of itself is not repeated.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from stannary.cli import happenings
from stannary.cli.happenings import REASONS
from stannary.cli.output import cell, columns, shortened, wrapped
from stannary.formats import ended, ids, instants, record, workdir
from stannary.formats.ids import NodeId
from stannary.formats.predicates import Receipt, TimeSplit, Verdict
from stannary.formats.quantity import dollars
from stannary.rules.reasons import Reason
from stannary.verify.report import SUCCEEDED, Claims, Finding, Report

MAX_SHOWN = 10  # inputs and results on the screen; --json has all
_NODE = re.compile(rf"\b{ids.NODE_PATTERN}\b")
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


def operator_lines(claims: Claims) -> list[str]:
    """Return one line per operator: what it earned, with which nodes, and below it what a node was blamed for."""
    paid, convicted, struck = earnings(claims.receipt), convictions(claims), strikes(claims)
    nodes: dict[str, list[NodeId]] = defaultdict(list)
    for node, operator in claims.operators.items():
        nodes[operator].append(node)
    lines = []
    for operator, owned in sorted(nodes.items()):
        shown = ", ".join(sorted(owned)[:2]) + (f" and {len(owned) - 2} more" if len(owned) > 2 else "")
        lines.append(f"  {cell(operator, 20):<20}{dollars(paid.get(operator, 0)):>14}  {shown}")
        for node in sorted(owned):
            if node in convicted:
                cost = _bond_words(claims, node)
                lines += wrapped(f"CONVICTED {node}: {convicted[node]}{cost}", indent=4, hanging=6)
            if node in struck:
                lines += wrapped(f"STRIKE {node}: {struck[node]}; {_void_words(claims, node)}", indent=4, hanging=6)
    return lines


def _bond_words(claims: Claims, node: NodeId) -> str:
    """Say what a conviction means for a bond: forfeited by the receipt, or for an appeal behind it to decide."""
    if claims.case.edition.disputes_bonds:
        return f"; its bond of {dollars(claims.case.bond(node))} is disputed: an appeal decides"
    bond = forfeited(claims.receipt, node)
    return f"; its bond of {dollars(bond)} is forfeited" if bond else ""


def convictions(claims: Claims) -> dict[str, str]:
    """Return why each convicted node was convicted, the first reason per node."""
    reasons: dict[str, str] = {}
    for verdict in claims.convictions:
        for node in verdict.refuted:
            reason = REASONS.get(verdict.reason if node == verdict.node else Reason.OUTVOTED, verdict.reason)
            reasons.setdefault(node, f"{verdict.task.partition('/')[2]}, {reason}")
    return reasons


def strikes(claims: Claims) -> dict[str, str]:
    """Return why each struck node stood alone, the first reason per node."""
    reasons: dict[str, str] = {}
    for verdict in claims.strikes:
        for node in verdict.odd or ():
            reason = REASONS.get(verdict.reason if node == verdict.node else Reason.OUTVOTED, verdict.reason)
            reasons.setdefault(node, f"{verdict.task.partition('/')[2]}, {reason}")
    return reasons


def _void_words(claims: Claims, node: str) -> str:
    """Say what a strike took."""
    case = claims.case
    its: set[str] = {task for task, item in case.contributions.items() if item.predicate.node == node}
    its |= {item.predicate.audit for item in case.answers.values() if item.predicate.node == node}
    void = [
        line.usd_micros
        for line in claims.receipt.settlement
        if (line.account, line.reason) == ("insurance", "void") and line.task in its
    ]
    if not void:
        return "nothing but this unit is unpaid"
    units = f"{len(void)} other unit{'s' if len(void) != 1 else ''}"
    return f"its pay for {units}, {dollars(sum(void))}, goes to insurance"


def forfeited(receipt: Receipt, node: str) -> int:
    """Return the micro-dollars of a node's bond that a receipt takes."""
    return -sum(
        line.usd_micros
        for line in receipt.settlement
        if line.account.startswith("bond:") and line.task == node and line.usd_micros < 0
    )


def text(report: Report, *, receipt_file: str, has_results: bool = False, facts: bool = False) -> list[str]:
    """Return the final block, line by line; with `facts` also what the receipt is about."""
    claims = report.claims
    if claims is None:
        return [headline(report), *finding_lines(report)]
    receipt = claims.receipt
    lines = [headline(report), *ending_lines(claims)]
    lines += [*wrapped(evidence_sentence(claims), indent=2), *finding_lines(report)]
    if facts:
        lines += ["", *fact_lines(claims)]
    lines += ["", "Earned by operator", *operator_lines(claims)]
    money = (receipt.escrow_usd_micros, receipt.paid_usd_micros, receipt.refunded_usd_micros)
    lines += ["", "escrow {} · paid {} · refunded {}".format(*map(dollars, money))]
    lines += [split_line(receipt.time_split), f"witness {receipt.witness} · {receipt.attestation}"]
    if receipt_file:
        lines += ["", f"  check it   stannary verify {receipt_file}"]
    if has_results and claims.results:
        lines += [f"  results    stannary get {receipt.job} -o out/"]
    return lines


def headline(report: Report) -> str:
    """Return the verdict in one line."""
    words = {
        Verdict.VERIFIED: "Verified.",
        Verdict.SAMPLED: "Sampled.",
        Verdict.ATTESTED: "Attested.",
        Verdict.UNVERIFIED: "NOT VERIFIED.",
        Verdict.NOT_REPRODUCIBLE: "NOT REPRODUCIBLE: the program gives another result each time.",
        Verdict.REFUTED: "REFUTED.",
        Verdict.PENDING: "PENDING.",
    }
    claims = report.claims
    verdict = Verdict.REFUTED if report.exit_code == 3 else report.verdict
    if claims is None:
        return words[verdict]
    if report.exit_code == 4 and verdict in (Verdict.VERIFIED, Verdict.SAMPLED, Verdict.ATTESTED):
        words[verdict] = f"NOT ENOUGH: {verdict}."  # true, and below what was asked
    if claims.is_unasked:
        words[Verdict.UNVERIFIED] = "Unverified, as its buyer asked."
    status = claims.receipt.status
    if status == SUCCEEDED and ended.unwell(claims.endings):
        status = "done"  # its program has not succeeded: the next line says how it ended
    return f"{words[verdict]} job {claims.receipt.job} {cell(claims.job_name)}: {status}"


def ending_lines(claims: Claims) -> list[str]:
    """Say how programs ended, where one did not end well."""
    odd = ended.unwell(claims.endings)
    return wrapped(f"{ended.sentence(odd, len(claims.endings))}.", indent=2) if odd else []


def evidence_sentence(claims: Claims) -> str:
    """Say who computed how much again, and what that leaves open; a job without a result leaves nothing open."""
    return " ".join(filter(None, (claims.recomputation(), claims.deterrence(), claims.left_open())))


def fact_lines(claims: Claims) -> list[str]:
    """Return what the receipt is about: buyer, market, times, code, data and results, every digest whole."""
    receipt, spec = claims.receipt, claims.case.spec
    began, ended = (moment(instants.parse(item)) for item in (receipt.started_at, receipt.finished_at))
    took = instants.span(instants.parse(receipt.finished_at) - instants.parse(receipt.started_at))
    lines = [
        f"job        {cell(claims.job_name)}, ordered as",
        f"    {receipt.job_digest}",
        f"buyer      {claims.buyer} (public key)",
        f"market     {claims.market}, a log of {claims.log_size:,} entries",
        f"time       {began} to {ended}, {took}",
    ]
    if claims.witnessed_at:
        lines.append(f"witnessed  {moment(claims.witnessed_at)}")
    size = sum(item.size_bytes for item in spec.workdir)
    what = spec.entry or " ".join((spec.run or "").split())  # a script in one line
    num_files = f"{len(spec.workdir):,} file{'s' if len(spec.workdir) != 1 else ''}"
    lines.append(shortened(f"code       {num_files}, {size:,} bytes: {cell(what)}", columns()))
    lines += [f"    {workdir.listing_digest(spec.workdir)}"]
    for name, item in list(spec.inputs.items())[:MAX_SHOWN]:
        lines += [f"data       {cell(name)}, {item.size_bytes:,} bytes, from {cell(item.source)}", f"    {item.digest}"]
    if len(spec.inputs) > MAX_SHOWN:
        lines.append(f"    and {len(spec.inputs) - MAX_SHOWN} more inputs: --json lists them")
    for result in claims.results[:MAX_SHOWN]:
        lines += [f"result     {cell(result.name)}", f"    {result.digest}"]
    if len(claims.results) > MAX_SHOWN:
        lines.append(f"    and {len(claims.results) - MAX_SHOWN} more results: --json lists them")
    return lines if claims.results else [*lines, "result     none"]


def moment(seconds: int) -> str:
    """Spell POSIX seconds for people: `2026-11-30 05:33:18 UTC`."""
    return instants.spell(seconds).replace("T", " ").replace("Z", " UTC")


def finding_lines(report: Report) -> list[str]:
    """Return one line per finding, worst first; nodes are named with their operators."""
    order = {"refuted": 0, "policy": 1, "notice": 2}
    owned = report.claims.operators if report.claims is not None else {}
    operators = {str(node): f"{node} ({cell(name, 40)})" for node, name in owned.items()}
    lines = []
    for finding in sorted(report.findings, key=lambda item: order[item.severity]):
        expected = f", expected {finding.expected}" if finding.expected else ""
        # A notice accuses nobody, so nobody looks its code up; --json has it.
        code = "" if finding.severity == "notice" else f"{finding.id}: "
        said = f"{finding.severity:<8} {code}{_about(finding.subject)}: {finding.observed}{expected}"
        lines += wrapped(_NODE.sub(lambda found: operators.get(found[0], found[0]), said), indent=2, hanging=11)
        if finding.remedy:
            lines += wrapped(f"next: {finding.remedy}", indent=11)
    return lines


def _about(subject: str) -> str:
    """Return a finding's subject as people say it: tasks and audits by what they compute."""
    task, _, audit = subject.partition("/q")
    return f"audit of {happenings.unit(task)}" if audit else happenings.unit(subject)


def to_json(report: Report) -> dict[str, Any]:
    """Return the report as stable JSON members."""
    members: dict[str, Any] = {
        "verdict": report.verdict.value,
        "exit_code": report.exit_code,
        "findings": findings_json(report.findings),
    }
    if report.claims is not None:
        members["claims"] = _claims(report.claims)
    return members


def findings_json(findings: Sequence[Finding]) -> list[dict[str, str]]:
    """Return findings as stable JSON members."""
    return [
        {
            "id": item.id,
            "severity": item.severity.value,
            "subject": item.subject,
            "observed": item.observed,
            "expected": item.expected,
            "remedy": item.remedy,
        }
        for item in findings
    ]


def _claims(claims: Claims) -> dict[str, Any]:
    spec = claims.case.spec
    return {
        "market": claims.market,
        "log_size": claims.log_size,
        "job_name": claims.job_name,
        "buyer": claims.buyer,
        "started_at": claims.receipt.started_at,
        "finished_at": claims.receipt.finished_at,
        "witnessed_at": instants.spell(claims.witnessed_at) if claims.witnessed_at else None,
        "results": [{"name": item.name, "digest": item.digest} for item in claims.results],
        "code": {
            "digest": workdir.listing_digest(spec.workdir),
            "entry": spec.entry,
            "run": spec.run,
            "files": workdir.to_json(spec.workdir),
        },
        "data": [{"name": name, **record.to_json(item)} for name, item in spec.inputs.items()],
        "recomputed": {
            "units": claims.receipt.soundness.units,
            "audited": claims.receipt.soundness.audited,
            "operators": list(claims.recomputed_by),
            "sentence": claims.recomputation(),
        },
        "worth": {
            "asked": spec.trust.assurance,
            "deterrence": claims.deterrence(),
            "left_open": claims.left_open(),
        },
        "ended": {str(lane): how for lane, how in claims.endings.items()},
        "convicted": convictions(claims),
        "struck": strikes(claims),
        "operators": claims.operators,
        "earned_usd_micros": earnings(claims.receipt),
        "receipt": {name: value for name, value in record.to_json(claims.receipt).items() if name != "evidence"},
    }
