"""`stannary verify`: check a receipt offline. Needs neither a market nor an account."""

from __future__ import annotations

import time
from pathlib import Path

import click

from stannary.cli import summary
from stannary.cli.command import command
from stannary.cli.output import Output
from stannary.errors import FormatError, UsageError
from stannary.formats import digest
from stannary.sdk import trustfile
from stannary.verify import trust
from stannary.verify.receipt import Policy, verify_receipt

MAX_RECEIPT_BYTES = 128 * 1024 * 1024  # the verifier's own limit is lower; this bounds the read


@command
@click.argument("receipt", type=click.Path(path_type=Path))
@click.option("--allow-unverified", is_flag=True, help="Accept work nobody checked (verify: none).")
@click.option("--job-digest", metavar="DIGEST", help="The receipt must be of this job.")
@click.option("--trust-file", type=click.Path(path_type=Path), help="Pinned keys, in place of your trust.toml.")
@click.option("--now", type=click.DateTime(["%Y-%m-%dT%H:%M:%SZ"]), help="Judge as of this time (UTC).")
def verify(out: Output, receipt: Path, trust_file: Path | None, **options: object) -> int:
    """Check a receipt offline, against pinned keys. Exit code 0 verified, 3 refuted, 4 below policy."""
    store = trust.parse(_read(trust_file).decode("utf-8", "replace")) if trust_file else trustfile.load()
    wanted = options["job_digest"]
    policy = Policy(
        allow_unverified=bool(options["allow_unverified"]),
        job_digest=digest.parse(wanted) if wanted is not None else None,
    )
    report = verify_receipt(_read(receipt), store, _now(options["now"]), policy)
    out.result(summary.to_json(report), summary.text(report, receipt_file=""))
    return report.exit_code


def _now(given: object) -> int:
    from datetime import UTC, datetime

    return int(given.replace(tzinfo=UTC).timestamp()) if isinstance(given, datetime) else int(time.time())


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(MAX_RECEIPT_BYTES + 1)
    except OSError as err:
        raise UsageError("cannot read the file", why=str(err)) from err
    if len(data) > MAX_RECEIPT_BYTES:
        raise FormatError("the file is too large", why=f"over {MAX_RECEIPT_BYTES:,} bytes: {path}")
    return data
