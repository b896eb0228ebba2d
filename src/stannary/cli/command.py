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
from click.core import ParameterSource

from stannary.cli.lazy import LazyGroup
from stannary.cli.output import Output
from stannary.errors import UsageError


def command(function: Callable[..., int | None]) -> click.Command:
    """Make a click command of `function(out, **parameters)`."""

    return click.command(_name(function))(_callback(function))


def group_command(function: Callable[..., int | None]) -> LazyGroup:
    """Make what is a command by itself and has commands below it: `market token`, `market token ls`."""
    made: LazyGroup = click.group(_name(function), cls=LazyGroup, invoke_without_command=True)(_callback(function))
    return made


def _name(function: Callable[..., int | None]) -> str:
    return function.__name__.rstrip("_").replace("_", "-")


def _callback(function: Callable[..., int | None]) -> Callable[..., int]:
    @functools.wraps(function)
    def call(as_json: bool, **parameters: Any) -> int:
        context = click.get_current_context()
        if context.invoked_subcommand is not None:
            return _leave_to(context, context.invoked_subcommand)
        out = Output(as_json=as_json)
        context.find_root().obj["out"] = out
        return function(out, **parameters) or 0

    return click.option("--json", "as_json", is_flag=True, help="Print the result as JSON on stdout.")(call)


def _leave_to(context: click.Context, below: str) -> int:
    """Refuse what was said to a group_command and is meant for the command below it."""
    for item in context.command.params:
        if item.name is not None and context.get_parameter_source(item.name) is not ParameterSource.DEFAULT:
            hint = f"{context.command_path} {below} {item.opts[0]}"
            raise UsageError(f"{item.opts[0]} stands before {below}", why=f"{below} has options of its own", hint=hint)
    return 0


def output() -> Output:
    """Return the Output of the command that runs."""
    out = click.get_current_context().find_root().obj.get("out")
    return out if isinstance(out, Output) else Output()


def profile_flag() -> str | None:
    """Return the value of `stannary --profile`."""
    value = click.get_current_context().find_root().obj.get("profile")
    return str(value) if value else None
