"""`python -m stannary.agent join ...`, its token on standard input, and `python -m stannary.agent run --dir D`.

The command line of the agent process; `stannary node` starts it. Talk goes to stderr, one line each.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
from pathlib import Path

import click

from stannary.errors import ConflictError, StannaryError, UsageError

MAX_TOKEN_CHARS = 4096
LOCK_FILE = "running.lock"  # in a node's directory, held by its agent


@click.group()
def main() -> None:
    """A node's agent."""


@main.command()
@click.option("--dir", "directory", type=click.Path(path_type=Path), required=True, help="Where the node lives.")
@click.option("--operator", required=True, help="Who answers for this node.")
@click.option("--name", required=True, help="A name for people.")
@click.option("--terms", default="", help="Digest of the terms agreed to; others are not signed.")
@click.option("--jurisdiction", default="none", show_default=True)
@click.option("--kind", type=click.Choice(["machine", "site"]), default="machine", show_default=True)
@click.option("--member", "members", multiple=True, metavar="NAME", help="A machine of a site; repeat.")
@click.option("--ask", "ask_usd_micros_per_hour", type=click.IntRange(0), default=100_000, show_default=True)
@click.option("--cpus", type=click.IntRange(0), default=0, help="Cores this node sells; all usable ones if 0.")
@click.option("--memory-bytes", type=click.IntRange(0), default=0, help="Memory this node sells; all usable if 0.")
@click.option("--engine-class", default="", help="Measured here if not given.")
@click.option("--kernel", "kernels", multiple=True, metavar="NAME=VALUE", help="A kernel choice, e.g. MKL_CBWR=...")
@click.option("--find-links", default="", help="A directory or page of wheels for job environments.")
@click.option("--index-url", default="", help="The package index for job environments.")
@click.option("--no-index", is_flag=True, help="Take wheels from --find-links only.")
def join(kernels: tuple[str, ...], members: tuple[str, ...], kind: str, **said: object) -> None:
    """Join a market with a one-off token: the first line of standard input, which no other account sees (ps)."""
    from stannary.agent import join as joining
    from stannary.formats.predicates import Member, NodeKind, Tier

    application = joining.Application(
        token=sys.stdin.readline(MAX_TOKEN_CHARS).strip(),
        kind=NodeKind(kind),
        members=tuple(Member(name, Tier.T0) for name in members),
        kernel=dict(_pair(text) for text in kernels),
        **said,  # type: ignore[arg-type]  # click gives each option in the type it declares
    )
    settings = joining.join(application, _tell)
    graded = joining.measure(application.directory, settings, _tell)
    shown: dict[str, object] = {"node": settings.node, "engine_class": settings.engine_class}
    click.echo(json.dumps(shown | ({"grade_ppm": graded.grade_ppm} if graded is not None else {})))


@main.command()
@click.option("--dir", "directory", type=click.Path(path_type=Path), required=True, help="Where the node lives.")
def run(directory: Path) -> None:
    """Serve leases until SIGTERM."""
    from stannary import files
    from stannary.agent import settings as node_settings
    from stannary.agent.daemon import Agent, install_signals
    from stannary.run.sandbox import choice

    os.umask(0o022)  # a job's files are read by its own user; what is secret has a mode of its own
    settings = node_settings.load(directory)
    sandbox = choice.choose(settings.market_profile, _tell)
    _tell(f"node {settings.node} ({settings.name}) of {settings.operator}, sandbox {sandbox.describe()}")
    # Two agents of one node would sign two stories of one task (agent/statements.py).
    taken = ConflictError(
        f"an agent of {settings.name} runs already", why=f"it holds {directory / LOCK_FILE}", hint="stannary node drain"
    )
    with files.held(directory / LOCK_FILE, taken):
        agent = Agent(directory, settings, sandbox, _tell)
        install_signals(agent)
        agent.run()


def _pair(text: str) -> tuple[str, str]:
    name, separator, value = text.partition("=")
    if not separator:
        raise UsageError("a kernel choice has no value", why=text, hint="write NAME=VALUE")
    return name, value


def _tell(text: str) -> None:
    with contextlib.suppress(BrokenPipeError):  # whoever listened is gone; the work at hand goes on
        click.echo(text, err=True)


if __name__ == "__main__":
    try:
        main(prog_name="python -m stannary.agent")
    except StannaryError as error:
        click.echo(error.diagnostics(), err=True)
        sys.exit(error.exit_code)
