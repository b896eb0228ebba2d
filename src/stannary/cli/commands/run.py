"""`stannary run`: from a job file to a verified receipt."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from stannary import buyer
from stannary.cli import ending, follow, jobpath, plan, session, travels
from stannary.cli.command import command
from stannary.cli.output import Output, plain
from stannary.errors import ConfirmationRequired, SpecError, StannaryError, UsageError
from stannary.formats.quantity import dollars
from stannary.sdk import brokers, examples, local
from stannary.sdk import submit as submission
from stannary.sdk.brokers import Keeper
from stannary.sdk.client import Client
from stannary.sdk.profile import Settings
from stannary.sdk.submit import Overrides, Prepared

SHOW_UPLOAD_BYTES = 8 * 1024 * 1024  # below this it is over before a line could be read


class HeldTalk:
    """Talk between reading the work directory and sending it, held back where nobody watches.

    `stannary run job.yaml 2>&1 | tee run.log` writes what is said here into the work directory: a line in
    between would change a file that is about to be sent.
    """

    def __init__(self, out: Output) -> None:
        self._out = out
        self._lines: list[str] = []

    def __enter__(self) -> HeldTalk:
        return self

    def __exit__(self, *_: object) -> None:
        for line in self._lines:
            self._out.say(line)

    def say(self, line: str) -> None:
        """Say a line now on a terminal, else when this ends."""
        if self._out.is_terminal:
            self._out.say(line)
        else:
            self._lines.append(line)

    def status(self, line: str) -> None:
        """Show a passing line, on a terminal only."""
        self._out.status(line)


@command
@click.argument("job_file", required=False, type=click.Path(path_type=Path))
@click.option("--example", metavar="NAME", help="Run an example that comes with stannary, such as hello.")
@click.option("-d", "--detach", is_flag=True, help="Print the job's id and return.")
@click.option("--dry-run", is_flag=True, help="Print the plan: what travels, who could run it, the worst-case cost.")
@click.option("--budget", metavar="DOLLARS", help="Spend at most this.")
@click.option("--trust", metavar="TIER", help="Lowest tier of nodes, such as T0.")
@click.option("--max-price", metavar="DOLLARS", help="Highest price of a node per hour.")
@click.option("-e", "--env", "envs", multiple=True, metavar="KEY=VALUE", help="Set an environment variable of the job.")
@click.option(
    "--allow-secret-env",
    "--allow-secret",
    "allowed_secrets",
    multiple=True,
    metavar="NAME",
    help="Send a variable or input though it looks like a secret; NAME may be run or setup.",
)
@click.option("--yes", is_flag=True, help="Do not ask, not even for a home directory or one over 1 GiB.")
def run(out: Output, **options: Any) -> int:
    """Run a job and follow it to its receipt.

    JOB_FILE is YAML (see README). Ctrl-C detaches; the job goes on. At the end JOB.receipt.json is in
    the current directory.
    """
    path = _job_path(options["job_file"], options["example"])
    overrides = Overrides(
        options["budget"],
        options["max_price"],
        _envs(options["envs"]),
        options["trust"],
        frozenset(options["allowed_secrets"]),
    )
    prepared = submission.prepare(
        path,
        overrides,
        lambda question: _ask(question, out, options["yes"]),
        lambda step: out.status(f"    {plain(step)}"),
    )
    with HeldTalk(out) as talk:
        settings = _market(talk)
        client = Client.open(settings)
        if not options["dry_run"]:
            for line in travels.lines(prepared):
                talk.say(line)
            _upload(client, prepared, talk)
    with client:
        if options["dry_run"]:
            return _show_plan(client, prepared, out)
        brokers.ensure(settings)  # before the order: no money is held for a job nobody can answer for
        prepared = submission.solved(client, prepared)
        keeper = Keeper(settings)
        out.say(keeper.tend())
        view = submission.submit(client, prepared.spec, settings.profile, buyer.root(), settings.account)
        if options["detach"]:
            if line := keeper.tend():
                out.say(line)
            out.result({"job": view.id, "status": view.status}, view.id)
            return 0
        out.say(f"Job    {view.id}  {plain(view.name)}  at most {dollars(view.escrow_usd_micros)}, held until verified")
        try:
            view = follow.follow(client, view.id, out, keeper.tend)
        except KeyboardInterrupt:
            return follow.detached(view.id, out)
        with follow.going_on(view.id):
            return ending.conclude(client, view, out)


def _job_path(job_file: Path | None, example: str | None) -> Path:
    if job_file is not None and example is not None:
        raise UsageError("name one job", why="a job file and --example were given", hint=f"stannary run {job_file}")
    return examples.find(example) if example is not None else jobpath.find(job_file)


def _ask(question: ConfirmationRequired, out: Output, is_agreed: bool) -> None:
    """Put a question of what travels to whoever is there (output.py rule 3)."""
    if is_agreed:
        return
    if not out.can_ask:
        raise question
    out.say(f"{question.what}: {plain(question.why)}")
    out.confirm("Send it?", flag="--yes")


def _envs(pairs: tuple[str, ...]) -> dict[str, str]:
    envs = {}
    for pair in pairs:
        name, separator, value = pair.partition("=")
        if not separator:
            raise SpecError("-e needs KEY=VALUE", why=f"{name!r:.60} has no =", hint="-e NAME=VALUE")
        envs[name] = value
    return envs


def _market(out: HeldTalk) -> Settings:
    """Return settings with a market behind them, starting the private one where none is configured."""
    settings = session.settings()
    directory = local.of_profile(settings.profile)
    if directory is None or settings.origins["url"].startswith("environment"):
        return settings
    private = local.LocalMarket(directory, tell=lambda line: out.say(f"  ! {line}"))
    if private.card is None:
        words = "No market configured: starting" if not settings.has_market else "Starting"
        out.say(f'{words} a private one on this machine (profile "{settings.profile.name}").')
    known = private.ensure(profile=settings.profile.name).profile
    out.say(f"  market    {known.url}   data {directory}")
    for item in local.TWO_NODES:
        out.say(f"  node      {item.name}   tier T0 software - NOT hardware-attested")
    return session.settings()


def _show_plan(client: Client, prepared: Prepared, out: Output) -> int:
    try:
        prepared, quote = submission.priced(client, prepared)
    except StannaryError:
        for line in travels.lines(prepared):  # what would be sent is known also where nobody can run it
            out.say(line)
        raise
    over = plan.over_budget(quote, prepared.spec)
    problems = [] if over is None else [{"code": over.code, "message": over.what, "why": over.why, "hint": over.hint}]
    trust = prepared.spec.trust
    solved = {"assurance": trust.assurance, "audit_ppm": trust.audit_ppm}
    members = {**quote.model_dump(mode="json"), **solved, "travels": travels.to_json(prepared), "problems": problems}
    out.result(members, plan.text(quote, prepared))
    if over is None:
        return 0
    for line in over.diagnostics().splitlines():
        out.say(line)
    return over.exit_code


def _upload(client: Client, prepared: Prepared, out: HeldTalk) -> None:
    done = 0
    total = max(prepared.size_bytes, 1)

    def progress(num_bytes: int) -> None:
        nonlocal done
        done += num_bytes
        if total >= SHOW_UPLOAD_BYTES:
            out.status(f"    uploading  {done / total:5.1%}  of {total / 1e6:,.1f} MB")

    sent = submission.upload(client, prepared, progress)
    rest = "; the rest was there" if sent < len(prepared.blobs) else ""
    out.say(f"Upload {sent} of {len(prepared.blobs)} files ({prepared.size_bytes:,} bytes in all{rest})")
