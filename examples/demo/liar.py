"""A node that cheats: from its second round on it does one inner step and claims them all.

It is an agent like any other, with its own idea of work (run/work.py `Work`); nothing in stannary
knows of it. Everything it sends is well signed and arrives in time.

    python examples/demo/liar.py join TOKEN ...     as `python -m stannary.agent join`
    python examples/demo/liar.py run --dir DIR
"""

from __future__ import annotations

import secrets
import sys
from dataclasses import replace
from pathlib import Path

import click

from stannary.agent import settings as node_settings
from stannary.agent.__main__ import main as honest
from stannary.agent.daemon import Agent, install_signals
from stannary.errors import StannaryError
from stannary.formats.ids import TaskKind
from stannary.run.sandbox import choice
from stannary.run.work import Brought, Recomputed, Result, SandboxedWork, TaskInHand

FIRST_LIE_ROUND = 1


class SkippedSteps(SandboxedWork):
    """One inner step in place of all."""

    def do(self, task: TaskInHand) -> Result:
        """Train one step and claim the assigned number."""
        assignment = task.assignment
        if assignment.kind is not TaskKind.ROUND or assignment.round < FIRST_LIE_ROUND:
            return super().do(task)
        short = super().do(replace(task, assignment=replace(assignment, num_steps=1)))
        return replace(short, num_steps=assignment.num_steps)

    def answer(self, task: TaskInHand, contributed: Brought | None, step: int, salt: str) -> Recomputed:
        """Stand by the lie: there is no state at the asked step, so anything will do."""
        if contributed is None or task.assignment.round < FIRST_LIE_ROUND:
            return super().answer(task, contributed, step, salt)
        return Recomputed(secrets.token_hex(32), contributed.outputs)


@click.command()
@click.option("--dir", "directory", type=click.Path(path_type=Path), required=True)
def run(directory: Path) -> None:
    """Serve leases dishonestly until SIGTERM."""
    settings = node_settings.load(directory)
    sandbox = choice.choose(settings.market_profile, _tell)
    agent = Agent(directory, settings, sandbox, _tell, SkippedSteps())
    install_signals(agent)
    agent.run()


def _tell(text: str) -> None:
    click.echo(text, err=True)


if __name__ == "__main__":
    try:
        if sys.argv[1:2] == ["run"]:
            run(args=sys.argv[2:])
        else:
            honest(prog_name="liar")
    except StannaryError as error:
        click.echo(error.diagnostics(), err=True)
        sys.exit(error.exit_code)
