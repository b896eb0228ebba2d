"""The one sink of everything printed.

Rules:
1. stdout is the result, stderr is talk. With --json stdout is one JSON document and nothing else.
2. rich draws tables on a terminal only; elsewhere columns are plain text, so that output can be cut.
3. No prompt outside a terminal: ConfirmationRequired names the flag instead.
4. What other parties wrote (log lines, node names, reasons) passes `plain`: control characters
   could move the cursor and forge our own lines.
"""

from __future__ import annotations

import json
import sys
import time
import unicodedata
from collections.abc import Sequence
from typing import IO, Any

import click

from stannary.errors import ConfirmationRequired, StannaryError, UsageError

STATUS_WIDTH = 100
MAX_TABLE = 2000


class Output:
    """Where one command writes."""

    def __init__(self, *, as_json: bool = False, stdout: IO[str] | None = None, stderr: IO[str] | None = None) -> None:
        self.as_json = as_json
        self._stdout = stdout or sys.stdout
        self._stderr = stderr or sys.stderr
        self._has_status = False

    @property
    def is_terminal(self) -> bool:
        """Tell whether somebody watches stderr."""
        return self._stderr.isatty()

    @property
    def can_ask(self) -> bool:
        """Tell whether somebody is there to answer a question."""
        return sys.stdin.isatty() and self.is_terminal

    def result(self, value: Any, text: str = "") -> None:
        """Print the result: `value` as JSON with --json, else `text`."""
        self.clear_status()
        if self.as_json:
            self._stdout.write(json.dumps(value, indent=2, ensure_ascii=False) + "\n")
        elif text:
            self._stdout.write(text.rstrip("\n") + "\n")
        self._stdout.flush()

    def say(self, line: str = "") -> None:
        """Print one line of talk on stderr."""
        self.clear_status()
        self._stderr.write(line + "\n")
        self._stderr.flush()

    def status(self, line: str) -> None:
        """Show a line that the next one replaces; nothing outside a terminal."""
        if self.is_terminal:
            self._stderr.write("\r\x1b[2K" + line[:STATUS_WIDTH])
            self._stderr.flush()
            self._has_status = True

    def clear_status(self) -> None:
        """Take the status line away."""
        if self._has_status:
            self._stderr.write("\r\x1b[2K")
            self._has_status = False

    def table(self, columns: Sequence[str], rows: Sequence[Sequence[str]], value: Any) -> None:
        """Print rows as a table, or `value` with --json."""
        if self.as_json:
            self.result(value)
        elif self._stdout.isatty():
            self._rich_table(columns, rows)
        else:
            self.result(None, columns_text(columns, rows))

    def confirm(self, question: str, *, flag: str) -> None:
        """Ask yes or no; raise ConfirmationRequired naming `flag` where nobody can answer."""
        if not self.can_ask:
            raise ConfirmationRequired(question, why="no terminal to ask on", hint=f"add {flag}")
        self.clear_status()
        if not click.confirm(question, default=False, err=True):
            raise UsageError("not confirmed", why=question)

    def ask(self, question: str, *, flag: str) -> str:
        """Ask for a line; raise ConfirmationRequired naming `flag` where nobody can answer."""
        if not self.can_ask:
            raise ConfirmationRequired(f"{question} is needed", why="no terminal to ask on", hint=f"add {flag}")
        self.clear_status()
        return str(click.prompt(question, err=True))

    def error(self, err: StannaryError) -> None:
        """Print the three lines of an error, and with --json its members on stdout."""
        self.clear_status()
        if self.as_json:
            members = {"code": err.code, "message": err.what, "why": err.why, "hint": err.hint}
            self._stdout.write(json.dumps({"error": members}, ensure_ascii=False) + "\n")
            self._stdout.flush()
        self._stderr.write(plain(err.diagnostics(), keep="\n") + "\n")
        self._stderr.flush()

    def _rich_table(self, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        from rich.console import Console
        from rich.measure import Measurement
        from rich.table import Table
        from rich.text import Text

        table = Table(box=None, header_style="bold", pad_edge=False)
        for column in columns:
            table.add_column(column)
        for row in rows:
            table.add_row(*(Text(cell) for cell in row))  # Text: what others wrote is not markup
        console = Console(file=self._stdout)
        # Cells are never cut: digests and ids in them are there to be copied. A long line wraps by itself.
        console.width = max(
            console.width, Measurement.get(console, console.options.update(width=MAX_TABLE), table).maximum
        )
        console.print(table)


class Stopwatch:
    """Seconds since it was made, for phase lines."""

    def __init__(self) -> None:
        self._start = time.monotonic()

    def __str__(self) -> str:
        return f"{time.monotonic() - self._start:6.1f} s"


def columns_text(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return rows as plain aligned columns under their names."""
    lines = [list(columns), *[list(row) for row in rows]]
    widths = [max(len(line[index]) for line in lines) for index in range(len(columns))]
    padded = ("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) for line in lines)
    return "\n".join(line.rstrip() for line in padded)


def plain(text: str, *, keep: str = "") -> str:
    """Return text without control characters (rule 4); tabs become spaces."""
    text = text.replace("\t", "    ")
    return "".join(
        char
        if char in keep or unicodedata.category(char) not in {"Cc", "Cf", "Cs", "Co"}
        else "\N{REPLACEMENT CHARACTER}"
        for char in text
    )
