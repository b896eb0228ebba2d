"""`stannary verify`: check a receipt or a ruling offline. It needs no market and no account, but to replay.

Only what a plain verification needs is imported here; replaying and policies bring their own when asked for.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from stannary.cli import summary
from stannary.cli.command import command
from stannary.cli.output import Output
from stannary.errors import FormatError, UsageError
from stannary.formats import digest
from stannary.sdk import trustfile
from stannary.verify import trust
from stannary.verify.receipt import Expectations, verify_receipt

if TYPE_CHECKING:
    from stannary.verify.policy import Requirements

EXIT_REFUTED = 3
RULING = b"stannary.ruling/v1"  # formats/ruling.py
MAX_RECEIPT_BYTES = 128 * 1024 * 1024  # the verifier's own limit is lower; this bounds the read


@command
@click.argument("receipt", type=click.Path(path_type=Path))
@click.option("--allow-unverified", is_flag=True, help="Accept less than was asked for, even work nobody checked.")
@click.option("--job-digest", metavar="DIGEST", help="The receipt must be of this job.")
@click.option("--trust-file", type=click.Path(path_type=Path), help="Pinned keys, in place of your trust.toml.")
@click.option("--now", type=click.DateTime(["%Y-%m-%dT%H:%M:%SZ"]), help="Judge as of this time (UTC).")
@click.option("--policy", metavar="NAME|FILE", help="Floors: local, standard, confidential, enterprise or a TOML file.")
@click.option(
    "--replay", "replays", is_flag=True, help="Compute the audited units and every merge again (needs torch)."
)
@click.option("--sample", type=click.IntRange(1), metavar="N", help="With --replay: N units drawn here, of all.")
@click.option(
    "--artifacts", type=click.Path(path_type=Path, exists=True, file_okay=False), metavar="DIR",
    help="With --replay: take blobs from a folder, not from the market.",
)  # fmt: skip
@click.option(
    "--result", "result", type=click.Path(path_type=Path), metavar="FILE|DIR",
    help="Is this file, or this folder from `get`, the result the receipt is about?",
)  # fmt: skip
def verify(
    out: Output, receipt: Path, trust_file: Path | None, replays: bool, result: Path | None, **options: object
) -> int:
    """Check a receipt or ruling offline, against pinned keys. Exit code 0 what was asked for, 3 refuted, 4 below it."""
    sample, artifacts = options["sample"], options["artifacts"]
    if not replays and (sample is not None or artifacts is not None):
        raise UsageError("--sample and --artifacts are for a replay", hint="add --replay")
    store = trust.parse(_read(trust_file).decode("utf-8", "replace")) if trust_file else trustfile.load()
    wanted = options["job_digest"]
    policy = Expectations(
        allow_unverified=bool(options["allow_unverified"]),
        job_digest=digest.parse(wanted) if wanted is not None else None,
        requirements=_requirements(options["policy"]),
    )
    data = _read(receipt)
    if RULING in data:  # else it is none, and nothing of rulings need be loaded
        from stannary.cli import ruled

        if ruled.is_one(data):
            assert artifacts is None or isinstance(artifacts, Path)
            given = [name for name in ("allow_unverified", "job_digest", "policy", "sample") if options[name]]
            if given or result is not None:
                raise UsageError("this option is for receipts", why=", ".join(given) or "--result")
            return ruled.verify(out, data, store, _now(options["now"]), artifacts, replays=replays)
    report = verify_receipt(data, store, _now(options["now"]), policy)
    value: dict[str, object] = {}
    above: list[str] = []
    below: list[str] = []
    judged = report  # the words on the receipt itself: it may be true, and the file another
    if result is not None:
        from stannary.cli import results

        checked = results.check(report, result, receipt)
        report, value["result"], above = checked.report, checked.to_json(), [*checked.lines(), ""]
    if replays and report.claims is not None and report.exit_code != EXIT_REFUTED:  # what is refuted is not computed
        from stannary.cli import replay

        assert sample is None or isinstance(sample, int)
        assert artifacts is None or isinstance(artifacts, Path)
        done = replay.run(report, sample, artifacts, out)
        judged = report = done.report
        value["replay"], below = done.to_json(), ["", done.text()]
    lines = [*above, *summary.text(judged, receipt_file="", facts=True), *below]
    out.result({**summary.to_json(report), **value}, lines)
    return report.exit_code


def _requirements(named: object) -> Requirements | None:
    if not isinstance(named, str):
        return None
    from stannary.verify import policy

    return policy.built_in(named) if named in policy.BUILT_IN else policy.parse(_read(Path(named)))


def _now(given: object) -> int:
    from datetime import UTC, datetime

    return int(given.replace(tzinfo=UTC).timestamp()) if isinstance(given, datetime) else int(time.time())


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(MAX_RECEIPT_BYTES + 1)
    except OSError as err:
        raise UsageError(
            "cannot read the file",
            why=f"{path}: {err.strerror}",
            hint="stannary verify JOB.receipt.json",
        ) from err
    if len(data) > MAX_RECEIPT_BYTES:
        raise FormatError(
            "the file is too large", why=f"over {MAX_RECEIPT_BYTES:,} bytes: {path}", hint="is it a receipt?"
        )
    return data
