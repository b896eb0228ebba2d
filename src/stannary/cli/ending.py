"""What a job's end means here: save the receipt, verify it with our own keys, say it, choose the exit code."""

from __future__ import annotations

import time
from pathlib import Path

from stannary import files
from stannary.cli import summary
from stannary.cli.output import Output
from stannary.errors import JobCancelled, JobFailed, JobNotFinished, StannaryError
from stannary.formats import ended
from stannary.sdk import trustfile
from stannary.sdk.client import Client
from stannary.verify.receipt import verify_receipt
from stannary.verify.report import Claims
from stannary.wire.buyer import JobView

MAX_REASON = 2_000  # characters; a traceback's end stands in it, line by line


def conclude(client: Client, view: JobView, out: Output, *, keeps_results: bool = True) -> int:
    """Write JOB.receipt.json, print the final block, and return the exit code.

    Raises:
        JobFailed: the job ended without its result, or its program did not end well; the receipt is written all the
            same.
        JobCancelled: its buyer stopped it.
    """
    receipt = _fetch(client, view)
    kept = _keep(view.id, receipt, out) if receipt else None
    members: dict[str, object] = {"job": view.id, "status": view.status, "receipt": str(kept) if kept else None}
    if receipt is None:
        out.result({**members, "report": None})
        raise_for(view)
        return 0
    report = verify_receipt(receipt, trustfile.load(), int(time.time()))
    members["report"] = summary.to_json(report)
    shown = str(kept) if kept else f"{view.id}.receipt.json"
    out.result(members, summary.text(report, receipt_file=shown, has_results=keeps_results))
    if report.exit_code == 0 or view.status != "succeeded":
        raise_for(view)
    if report.exit_code == 0 and report.claims is not None:
        _raise_for_program(report.claims, view)
    return report.exit_code


def _raise_for_program(claims: Claims, view: JobView) -> None:
    """Raise what a program that did not end well means: the result holds, and whoever builds on it must know."""
    odd = ended.unwell(claims.endings)
    if odd:
        what = ended.sentence(odd, len(claims.endings))
        word = f"that is its result, {claims.receipt.verdict} and paid"
        raise JobFailed(what[0].lower() + what[1:], why=word, hint=f"stannary logs {view.id}")


def _keep(job: str, receipt: bytes, out: Output) -> Path | None:
    """Save a receipt here, else in our own folder: a job that was paid for has a verdict wherever it was run from."""
    here, ours = Path(f"{job}.receipt.json"), files.data_dir() / "receipts" / f"{job}.receipt.json"
    try:
        files.replace(here, receipt, mode=0o644)
    except (OSError, StannaryError) as err:
        problem = err.strerror if isinstance(err, OSError) else str(err)
        try:
            files.make_private_dir(ours.parent)
            files.replace(ours, receipt)
        except (OSError, StannaryError):
            out.say(f"the receipt cannot be kept ({problem}); as long as the market has it: stannary wait {job}")
            return None
        out.say(f"the receipt cannot be written here ({problem}); it is in {ours}")
        return ours
    return here


def raise_for(view: JobView) -> None:
    """Raise what the end of a job means, unless it succeeded."""
    reason = f"{view.reason}: {view.message}".strip(": ")[:MAX_REASON]
    logs = f"stannary logs {view.id}"
    if view.status == "failed":
        raise JobFailed(f"job {view.id} failed", why=reason, hint=logs)
    if view.status == "cancelled":
        raise JobCancelled(f"job {view.id} was cancelled", why=reason, hint=logs)
    if view.status != "succeeded":
        raise JobNotFinished(f"job {view.id} is {view.status}", hint=f"stannary wait {view.id}")


def _fetch(client: Client, view: JobView) -> bytes | None:
    """Return the receipt; a job that never was placed has none."""
    try:
        return client.receipt(view.id)
    except JobNotFinished:
        return None
