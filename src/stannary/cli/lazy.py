"""Click groups whose commands are imported when they are used."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import click

from stannary.errors import UsageError

if TYPE_CHECKING:
    from stannary.cli.registry import Listed


class LazyGroup(click.Group):
    """A group that knows its commands by a table (cli/registry.py) and lists them without importing."""

    def __init__(self, *args: Any, table: Mapping[str, Listed] | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._table = dict(table or {})

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return all names, table order first."""
        return [*self._table, *super().list_commands(ctx)]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import and return a command."""
        entry = self._table.get(cmd_name)
        if entry is None:
            return super().get_command(ctx, cmd_name)
        module, _, attribute = entry.target.partition(":")
        found = getattr(importlib.import_module(module), attribute)
        if not isinstance(found, click.Command):
            raise TypeError(f"{entry.target} is no command")
        return found

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Refuse an unknown command in our words, naming the nearest."""
        name = args[0]
        if name in self.list_commands(ctx) or name.startswith("-"):
            return super().resolve_command(ctx, args)
        near = difflib.get_close_matches(name, self.list_commands(ctx), n=1)
        prefix = ctx.command_path
        hint = f"{prefix} {near[0]}" if near else f"{prefix} --help"
        raise UsageError(f"no command {name!r:.60}", why=f"{prefix} does not know it", hint=hint)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002  click's own
        """Write the table's lines, and those of commands defined in place."""
        rows = [(name, entry.summary) for name, entry in self._table.items()]
        for name, command in self.commands.items():
            rows.append((name, command.get_short_help_str(limit=len(command.help or ""))))  # its first sentence, whole
        with formatter.section("Commands"):
            formatter.write_dl(rows)
