"""The decorator of every command: adds --json and hands over an Output.

    @command
    @click.argument("job")
    def wait(out: Output, job: str) -> int | None: ...

A command returns its exit code (None is 0) and raises errors of errors.py; cli/main.py prints them.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import click

from stannary.cli.output import Output


def command(function: Callable[..., int | None]) -> click.Command:
    """Make a click command of `function(out, **parameters)`."""

    @functools.wraps(function)
    def call(as_json: bool, **parameters: Any) -> int:
        context = click.get_current_context()
        out = Output(as_json=as_json)
        context.find_root().obj["out"] = out
        return function(out, **parameters) or 0

    name = function.__name__.rstrip("_").replace("_", "-")
    with_json = click.option("--json", "as_json", is_flag=True, help="Print the result as JSON on stdout.")(call)
    return click.command(name)(with_json)


def output() -> Output:
    """Return the Output of the command that runs."""
    out = click.get_current_context().find_root().obj.get("out")
    return out if isinstance(out, Output) else Output()


def profile_flag() -> str | None:
    """Return the value of `stannary --profile`."""
    value = click.get_current_context().find_root().obj.get("profile")
    return str(value) if value else None
