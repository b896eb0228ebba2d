"""What a job's end means here: save the receipt, verify it with our own keys, say it, choose the exit code."""

from __future__ import annotations

import time
from pathlib import Path

from stannary import files
from stannary.cli import summary
from stannary.cli.output import Output
from stannary.errors import JobCancelled, JobFailed, JobNotFinished
from stannary.sdk import trustfile
from stannary.sdk.client import Client
from stannary.verify.receipt import verify_receipt
from stannary.wire.buyer import JobView

MAX_REASON = 2_000  # characters; a traceback's end stands in it, line by line


def conclude(client: Client, view: JobView, out: Output, *, keeps_results: bool = True) -> int:
    """Write JOB.receipt.json, print the final block, and return the exit code.

    Raises:
        JobFailed, JobCancelled: the job ended without its result; the receipt is written all the same.
    """
    path = Path(f"{view.id}.receipt.json")
    receipt = _fetch(client, view)
    members: dict[str, object] = {"job": view.id, "status": view.status, "receipt": str(path) if receipt else None}
    if receipt is None:
        out.result({**members, "report": None})
        raise_for(view)
        return 0
    files.replace(path, receipt, mode=0o644)
    report = verify_receipt(receipt, trustfile.load(), int(time.time()))
    members["report"] = summary.to_json(report)
    out.result(members, summary.text(report, receipt_file=str(path), has_results=keeps_results))
    if report.exit_code == 0 or view.status != "succeeded":
        raise_for(view)
    return report.exit_code


def raise_for(view: JobView) -> None:
    """Raise what the end of a job means, unless it succeeded."""
    told = view.message.startswith(view.reason)  # a node's report says its reason itself
    reason = (view.message if told else f"{view.reason}: {view.message}".strip(": "))[:MAX_REASON]
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
