"""A ruling on a disputed bond in words, and its unit computed again (`stannary verify JOB.NODE.ruling.json`)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from stannary.cli import replay, session, summary
from stannary.cli.output import Output, plain
from stannary.errors import StannaryError
from stannary.formats import canonical, instants, jobspec, record
from stannary.formats import ruling as ruling_format
from stannary.formats.predicates import RulingOutcome
from stannary.formats.quantity import dollars
from stannary.rules.reasons import Reason
from stannary.sdk import replay as replaying
from stannary.sdk.client import Client
from stannary.verify.appealed import RulingReport, recomputed, verify_ruling
from stannary.verify.recomputation import Found, Outcome, ReplayPlan
from stannary.verify.report import Report
from stannary.verify.ruling import DisputedBond
from stannary.verify.trust import TrustStore

HOW = {
    Reason.TWO_OF_THREE: "Operators who had no part in the job computed the unit again: two or more of them agree.",
    Reason.REPLAYED: "The market computed the unit again itself. Its word need not be taken: add --replay.",
    Reason.UNHEARD: "Nobody could compute the unit again: nobody loses anything.",
    Reason.TWO_STORIES: "It signed two statements that contradict one another: nothing needs to be computed again.",
}


def is_one(data: bytes) -> bool:
    """Tell whether a file says that it is a ruling."""
    try:
        return ruling_format.is_ruling(canonical.decode(data, max_bytes=ruling_format.MAX_RULING_BYTES))
    except StannaryError:
        return False


def verify(out: Output, data: bytes, store: TrustStore, now: int, artifacts: Path | None, *, replays: bool) -> int:
    """Check a ruling, and show it; return the exit code."""
    report = verify_ruling(data, store, now)
    value: dict[str, Any] = {}
    below: list[str] = []
    dispute = report.dispute
    to_replay = replays and report.exit_code != 3 and dispute is not None and not dispute.is_by_stories
    if to_replay and dispute is not None and report.ruling is not None:
        found = compute(dispute, artifacts, out)
        report = report.with_(recomputed(report.ruling, found))
        value["replay"] = {"task": found.task, "outcome": found.outcome.value, "detail": found.detail}
        below = ["", f"computed again on this machine: {found.outcome} {plain(found.detail)}".rstrip()]
    out.result({**_json(report), **value}, [*text(report), *below])
    return report.exit_code


def compute(dispute: DisputedBond, artifacts: Path | None, out: Output) -> Found:
    """Compute the disputed unit again, from a folder of blobs or what the market has published."""
    case, unit = dispute.case, dispute.to_replay()
    plan = ReplayPlan(jobspec.to_canonical(case.spec), instants.parse(case.job.predicate.submitted_at), (unit,))
    items = replay.blobs_of(case, (unit,))
    if artifacts is not None:
        found = replaying.replay(plan, items, replaying.BlobFolder(artifacts), out)
    else:
        with Client.visit(session.settings()) as client:
            found = replaying.replay(plan, items, replaying.Market(client), out)
    return found[0] if found else Found(unit.task, Outcome.UNCHECKED, "", "the replay ended before it")


def text(report: RulingReport) -> list[str]:
    """Return what a ruling says, line by line."""
    said, dispute = report.ruling, report.dispute
    shown = summary.finding_lines(_as_receipt(report))
    if said is None or dispute is None or report.exit_code == 3:
        return ["Refuted. This ruling does not hold." if report.exit_code == 3 else "Not checked.", *shown]
    operator = plain(dispute.case.credential(dispute.node).operator)
    lost = -sum(line.usd_micros for line in said.lines if line.account.startswith("bond:"))
    if said.outcome is RulingOutcome.FORFEITED:
        head = f"Forfeited. {said.node} ({operator}) loses {dollars(lost)} of its bond over {said.task}."
    elif lost:
        head = f"Released. {said.node} ({operator}) was right about {said.task}; who accused it loses {dollars(lost)}."
    else:
        head = f"Released. Nobody loses anything over {said.task}."
    lines = [head, f"  {HOW.get(Reason(said.reason), '')}", *shown, "", "How the money goes"]
    for line in said.lines:
        lines.append(f"  {plain(line.account):<28}{line.reason:<10}{dollars(line.usd_micros):>14}")
    return [*lines, "", f"decided {said.decided_at}"]


def _json(report: RulingReport) -> dict[str, Any]:
    members: dict[str, Any] = {"exit_code": report.exit_code, "findings": summary.findings_json(report.findings)}
    if report.ruling is not None:
        members["ruling"] = record.to_json(report.ruling)
    return members


def _as_receipt(report: RulingReport) -> Report:
    return Report(report.receipt.verdict, report.findings, None)
