"""The one sink of everything printed.

Rules:
1. stdout is the result, stderr is talk. With --json stdout is one JSON document and nothing else, whatever happens.
2. Tables are columns of plain text that can be cut. A table that is wider than the
   terminal gives up what is least needed in its cells (`narrow`), never an id or a digest.
3. No prompt outside a terminal: ConfirmationRequired names the flag instead.
4. What other parties wrote (log lines, node names, reasons) could move the cursor, turn the line round or forge lines
   of ours. Nobody has to remember that: every line and every cell passes `plain` here, at the edge.
5. A line that the next one replaces is shown on a terminal only, never longer than its row, and taken away before
   anything else is written.
6. A stream that cannot spell a character gets another for it; one that is closed loses what is written to it.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sys
import textwrap
import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TextIO

import click

from stannary import errors
from stannary.errors import ConfirmationRequired, EnvironmentProblem, StannaryError, UsageError

MAX_CELL = 200  # characters of one cell or word of others; a digest has 71, a verifier key about 130
MIN_CELL = 4  # columns a shortened cell keeps
MAX_LINE = 4_000  # characters of one line; a job's log line may be longer, a screen's is not
FALLBACK_COLUMNS = 80  # where nobody says how wide the screen is
MAX_COLUMNS = 120  # sentences are not read wider
MIN_COLUMNS = 40
GAP = "  "
# What an ASCII terminal shows instead.
SPELLED = str.maketrans({"\u00b7": "-", "\u2026": "~", "\N{REPLACEMENT CHARACTER}": "?"})
# Control, format (bidirectional overrides among them), surrogate, private, unassigned; line and paragraph separators.
UNPRINTABLE = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})
# What to do next where an error of the market's or of a plane does not say (docs/errors.md); the nearest class first.
NEXT_STEPS: dict[type[StannaryError], str] = {
    errors.SpecError: "mend what is named above, then look at the plan: stannary run --dry-run JOB.yaml",
    errors.UsageError: "stannary --help",
    errors.AuthError: "stannary config show --origin says which token is used and where it came from",
    errors.NotFound: "stannary ls lists your jobs",
    errors.NoCapacity: "stannary offers shows what is sold",
    errors.MarketUnreachable: "stannary config show says which market is asked",
    errors.ServiceError: "try again; if it stays so, tell the market's operator",
    errors.ConflictError: "look how things stand before trying again: stannary ls",
    errors.EnvironmentProblem: "mend it on this machine, then run the same command again",
    errors.FormatError: "get it again from where it came",
    errors.Refuted: "believe nothing of it before you know why",
}


class Output:
    """Where one command writes."""

    def __init__(self, *, as_json: bool = False, stdout: TextIO | None = None, stderr: TextIO | None = None) -> None:
        self.as_json = as_json
        self._stdout = stdout or sys.stdout or _nowhere()  # None: the caller closed it (`>&-`)
        self._stderr = stderr or sys.stderr or _nowhere()
        self._has_status = False
        self._has_result = False
        self._has_no_reader = False

    @property
    def is_terminal(self) -> bool:
        """Tell whether somebody watches stderr."""
        return self._stderr.isatty()

    @property
    def can_ask(self) -> bool:
        """Tell whether somebody is there to answer."""
        return sys.stdin is not None and sys.stdin.isatty() and self.is_terminal

    def result(self, value: Any, text: str | Sequence[str] = "") -> None:
        """Print the result: `value` as JSON with --json, else `text`, a list being one line each."""
        self.clear_status()
        if self.as_json:
            self._print(_json_text(value, self._stdout, indent=2) + "\n")
            return
        lines = text.rstrip("\n").split("\n") if isinstance(text, str) else text
        if text:
            self._print("".join(_fitted(line, self._stdout) for line in lines))

    def line(self, value: Any, text: str) -> None:
        """Print one line of a result that comes bit by bit, and with --json one object on a line of its own.

        Raises:
            BrokenPipeError: the reader has enough, so there is no more to be done.
        """
        self.clear_status()
        self._print((_json_text(value, self._stdout) if self.as_json else plain(text)) + "\n")
        if self._has_no_reader:
            raise BrokenPipeError

    def say(self, line: str = "") -> None:
        """Print one line of talk on stderr."""
        self.clear_status()
        self._write(self._stderr, _fitted(line, self._stderr))

    def status(self, line: str) -> None:
        """Show a line that the next one replaces; nothing outside a terminal."""
        if self.is_terminal:
            # One column stays free: a full row would leave the cursor on the next one, and a rest behind.
            self._write(self._stderr, "\r\x1b[2K" + shortened(plain(line), columns() - 1))
            self._has_status = True

    def clear_status(self) -> None:
        """Take the status line away."""
        if self._has_status:
            self._has_status = False
            self._write(self._stderr, "\r\x1b[2K")

    def table(
        self, columns: Sequence[str], rows: Sequence[Sequence[str]], value: Any, *, narrow: Sequence[str] = ()
    ) -> None:
        """Print rows as a table, or `value` with --json; columns in `narrow` are shortened first on a small screen."""
        if self.as_json:
            self.result(value)
            return
        self.clear_status()
        lines = table_lines(columns, rows, narrow=narrow, width=_table_width(self._stdout))
        self._print("".join(line + "\n" for line in lines))

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
        """Print the three lines of an error, and with --json its members on stdout, unless a result stands there."""
        self.clear_status()
        hint = err.hint or next((step for cls, step in NEXT_STEPS.items() if isinstance(err, cls)), "")
        if self.as_json and not self._has_result:
            members = {"code": err.code, "message": err.what, "why": err.why, "hint": hint}
            with contextlib.suppress(StannaryError):  # that stdout takes nothing is perhaps the very error
                self._print(_json_text({"error": members}, self._stdout) + "\n")
        lines = [f"{err.code}  {err.what}", f"  why   {err.why}" if err.why else "", f"  next  {hint}" if hint else ""]
        # What stands on several lines stays so, set in: a line of others never begins where ours do.
        shown = ("\n        ".join(plain(part)[:MAX_LINE] for part in line.split("\n")) for line in lines if line)
        self._write(self._stderr, "".join(line + "\n" for line in shown))

    def _print(self, text: str) -> None:
        """Write to stdout. A reader who left takes no verdict away: the command goes on to its own exit code.

        Raises:
            EnvironmentProblem: it cannot be written, such as on a full disk.
        """
        self._has_result = True
        if self._has_no_reader:
            return
        try:
            self._write(self._stdout, text)
        except BrokenPipeError:
            self._has_no_reader = True
            _forget(self._stdout)
        except OSError as err:
            self._has_no_reader = True
            _forget(self._stdout)
            raise EnvironmentProblem(
                "the result cannot be written",
                why=f"standard output: {err.strerror}",
                hint="free space, or write elsewhere",
            ) from err

    def _write(self, stream: TextIO, text: str) -> None:
        """Write and flush (rule 6); talk that nobody can hear is no failure."""
        encoding = stream.encoding or "utf-8"
        try:
            text.encode(encoding)
        except UnicodeEncodeError:
            text = text.translate(SPELLED).encode(encoding, "backslashreplace").decode(encoding)
        try:
            stream.write(text)
            stream.flush()
        except OSError:
            if stream is not self._stderr:
                raise
            _forget(stream)


def columns() -> int:
    """Return how wide the screen is (COLUMNS, then the terminal), within what can be read."""
    return max(shutil.get_terminal_size((FALLBACK_COLUMNS, 24)).columns, MIN_COLUMNS)


def wrapped(text: str, *, indent: int = 0, hanging: int | None = None) -> list[str]:
    """Return a sentence as lines that fit the screen; a word longer than a line, a digest or a key, stays whole."""
    hanging = indent if hanging is None else hanging
    return textwrap.wrap(
        plain(text),
        min(columns(), MAX_COLUMNS),
        initial_indent=" " * indent,
        subsequent_indent=" " * hanging,
        break_long_words=False,
        break_on_hyphens=False,
    )


def _fitted(line: str, stream: TextIO) -> str:
    """Return one line safe, and on a terminal as many as it needs, set in below its first word."""
    line = plain(line)[:MAX_LINE]
    if _width(line) <= columns() or not stream.isatty():
        return line + "\n"
    start = len(line) - len(line.lstrip(" "))
    return "\n".join(wrapped(line.strip(" "), indent=start, hanging=start + 4)) + "\n"


def cell(text: str, limit: int = MAX_CELL) -> str:
    """Return a word of others, safe and short enough to stand among ours."""
    return shortened(plain(text[: limit * 4]), limit)


def shortened(text: str, limit: int) -> str:
    """Return text that takes at most `limit` columns, its loss marked."""
    if _width(text) <= limit:
        return text
    kept, room = "", limit - 1
    for char in text:
        room -= _width(char)
        if room < 0:
            break
        kept += char
    return kept + "\u2026"


def table_lines(
    columns: Sequence[str], rows: Sequence[Sequence[str]], *, narrow: Sequence[str] = (), width: int | None = None
) -> list[str]:
    """Return rows as aligned columns under their names, `narrow` ones shortened as far as `width` asks."""
    cells = [list(columns), *[[cell(item) for item in row] for row in rows]]
    widths = [max(_width(line[index]) for line in cells) for index in range(len(columns))]
    for name in narrow:
        excess = sum(widths) + len(GAP) * (len(widths) - 1) - (width or sys.maxsize)
        index = columns.index(name)
        widths[index] -= max(0, min(excess, widths[index] - min(len(name), MIN_CELL)))
    return [
        GAP.join(_padded(shortened(item, size), size) for item, size in zip(line, widths, strict=True)).rstrip()
        for line in cells
    ]


def plain(text: str, *, keep: str = "") -> str:
    """Return text without what could act on a terminal (rule 4); tabs become spaces."""
    if text.isascii() and text.isprintable():
        return text
    text = text.replace("\t", "    ")
    return "".join(
        char if char in keep or unicodedata.category(char) not in UNPRINTABLE else "\N{REPLACEMENT CHARACTER}"
        for char in text
    )


def _width(text: str) -> int:
    if text.isascii():
        return len(text)
    return sum(_columns_of(char) for char in text)


def _columns_of(char: str) -> int:
    if unicodedata.category(char) in ("Mn", "Me"):
        return 0
    return 2 if unicodedata.east_asian_width(char) in "WF" else 1


def _padded(text: str, size: int) -> str:
    return text + " " * (size - _width(text))


def _table_width(stream: TextIO) -> int | None:
    """Return the width tables must keep to: the screen's, or none in a file or pipe, where nothing is cut."""
    return columns() if stream.isatty() else None


def _json_text(value: Any, stream: TextIO, indent: int | None = None) -> str:
    """Return JSON the stream can spell, with escapes for what could act on a terminal."""
    text = json.dumps(value, indent=indent, ensure_ascii=False)
    try:
        text.encode(stream.encoding or "utf-8")
    except UnicodeEncodeError:  # an ASCII stream, or a lone surrogate such as a file's name can hold
        text = json.dumps(value, indent=indent)
    if all(line.isprintable() for line in text.split("\n")):
        return text
    return "".join(
        char
        if char == "\n" or unicodedata.category(char) not in UNPRINTABLE
        else json.dumps(char)[1:-1].replace("\x7f", "\\u007f")
        for char in text
    )


def _forget(stream: TextIO) -> None:
    """Lead a stream nowhere: what it still holds would fail once more when the interpreter ends."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _nowhere() -> TextIO:
    return Path(os.devnull).open("w", encoding="utf-8")  # lives as long as the process
