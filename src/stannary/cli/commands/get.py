"""`stannary get`: fetch results; each file's bytes are those of the digest the market lists.

Whether these are the results the receipt is about is `stannary verify RECEIPT --result DIR`'s to say.
"""

from __future__ import annotations

import time
from pathlib import Path

import click

from stannary.cli import session
from stannary.cli.command import command
from stannary.cli.output import Output, plain
from stannary.errors import NotFound, Refuted, UsageError
from stannary.formats import digest, workdir
from stannary.formats.predicates import Verdict
from stannary.sdk import fetched as noted
from stannary.wire.buyer import JobView, Outputs

REFUTED = Refuted.exit_code


@command
@click.argument("job")
@click.argument("name", required=False)
@click.option("-o", "--output", "directory", default=".", type=click.Path(path_type=Path), help="Write into DIR.")
@click.option("--artifacts", is_flag=True, help="Fetch what `verify --replay --artifacts DIR` needs, by digest.")
def get(out: Output, job: str, name: str | None, directory: Path, artifacts: bool) -> None:
    """Fetch a job's results, or the one called NAME, into a directory."""
    wanted = session.job_id(job)
    if directory.exists() and not directory.is_dir():
        why, hint = f"{directory} is a file", f"stannary get {wanted} -o DIR"
        raise UsageError("results are written into a directory", why=why, hint=hint)
    if artifacts:
        _get_artifacts(out, wanted, directory)
        return
    with session.connect() as client:
        answer = client.outputs(wanted)
        listed = answer.outputs
        view = client.job(wanted)
        chosen = [item for item in listed if name is None or item.name == name]
        if not chosen:
            raise _no_result(view, [item.name for item in listed], name)
        if view.finished_at is None:
            out.say(
                f"{wanted} is {plain(view.status)}: pending, nobody has vouched for these yet; stannary wait {wanted}"
            )
        elif any(item.partial for item in chosen):
            out.say(f"{wanted} has {plain(view.status)}: partial, what there was when it was stopped or cut")
        elif view.verdict == Verdict.UNVERIFIED:
            out.say(f"{wanted} is {plain(view.verdict)}: nobody vouches for these")
        fetched: list[dict[str, str | int | bool]] = []
        try:
            for item in chosen:
                # A result is named by the nodes that made it: the name must stay below DIR.
                target = directory / workdir.parse_path(item.name)
                target.parent.mkdir(parents=True, exist_ok=True)
                out.status(f"    fetching  {item.name}  {item.size_bytes:,} bytes")
                try:
                    client.download(digest.parse(item.digest), target, item.size_bytes)
                except NotFound as err:
                    raise _gone(wanted, answer) or err from err
                size, is_partial = item.size_bytes, item.partial
                fetched.append({"path": str(target), "digest": item.digest, "size_bytes": size, "partial": is_partial})
        finally:
            noted.note(Path(str(item["path"])) for item in fetched)
    out.result({"outputs": fetched}, [f"{item['path']}  {item['digest']}" for item in fetched])


def _no_result(view: JobView, names: list[str], name: str | None) -> NotFound:
    """Say why there is nothing to fetch, and what there is instead; a job that has ended is not to be waited for."""
    what = f"no result {name} of {view.id}" if name else f"no result of {view.id}"
    if names:
        return NotFound(what, why=f"results: {', '.join(names)}"[:300], hint=f"stannary get {view.id}")
    if view.finished_at is None:
        return NotFound(what, why=f"none yet: the job is {view.status}", hint=f"stannary wait {view.id}")
    late = "; what was in hand may come up to a minute after a stop" if view.status == "cancelled" else ""
    return NotFound(what, why=f"the job has {view.status} and left none{late}", hint=f"stannary logs {view.id}")


def _gone(job: str, answer: Outputs) -> NotFound | None:
    """Say since when and why the bytes of a job's results are gone; None where the market keeps them."""
    if answer.gone_at is None:
        return None
    hint = f"its receipt is kept: stannary wait {job}"
    return NotFound(
        f"the results of {job} are kept no longer", why=f"since {answer.gone_at}: {answer.gone_why}", hint=hint
    )


def _get_artifacts(out: Output, job: str, directory: Path) -> None:
    """Fetch every blob the job's receipt can be replayed from, one file per hex digest."""
    from stannary.cli import replay
    from stannary.sdk import replay as replaying
    from stannary.sdk import trustfile
    from stannary.verify import recomputation
    from stannary.verify.receipt import verify_receipt

    with session.connect() as client:
        report = verify_receipt(client.receipt(job), trustfile.load(), int(time.time()))
        if report.claims is None or report.exit_code == REFUTED:
            why = "; ".join(f"{item.id}: {item.observed}" for item in report.findings)
            raise Refuted(
                "this job's receipt does not verify", why=why[:300], hint=f"stannary verify {job}.receipt.json"
            )
        case = report.claims.case
        items = replay.blobs_of(case, recomputation.units(case))
        brought = replaying.bring_all(items, replaying.Market(client), directory, out)
    noted.note(brought)
    value = {"artifacts": [str(path) for path in brought], "missing": len(items) - len(brought)}
    out.result(value, f"{len(brought)} of {len(items)} blobs in {directory}")
