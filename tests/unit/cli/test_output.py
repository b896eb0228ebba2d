"""The one sink: stdout is the result, stderr is talk, nothing others wrote can move the cursor."""

from __future__ import annotations

import io
import json

import pytest

from stannary.cli.output import Output, plain, table_lines
from stannary.errors import (
    AuthError,
    ConfirmationRequired,
    ConflictError,
    JobFailed,
    NoCapacity,
    NotFound,
    ServiceError,
    SpecError,
    UsageError,
)


def sink(*, as_json=False):
    out, err = io.StringIO(), io.StringIO()
    return Output(as_json=as_json, stdout=out, stderr=err), out, err


def test_json_is_alone_on_stdout():
    """With --json stdout is one document; talk goes to stderr."""
    output, out, err = sink(as_json=True)
    output.say("working")
    output.table(("A",), [("1",)], {"a": 1})
    assert json.loads(out.getvalue()) == {"a": 1}
    assert err.getvalue() == "working\n"


def test_status_lines_stay_on_terminals():
    """A status line is not written into a file."""
    output, _, err = sink()
    output.status("half")
    assert err.getvalue() == ""


def test_no_prompt_outside_a_terminal(monkeypatch):
    """Where nobody can answer, the flag is named."""
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n"))
    output, _, _ = sink()
    with pytest.raises(ConfirmationRequired) as caught:
        output.confirm("Remove it?", flag="--yes")
    assert "--yes" in caught.value.hint


def test_control_characters_of_others_are_shown_as_such():
    """A log line cannot clear the screen, hide text or forge our lines."""
    assert "\x1b" not in plain("\x1b[2Jgone")
    assert "\n" not in plain("a\nE-OK fine")
    assert "\u202e" not in plain("\u202egnp.exe")
    assert plain("tab\tbed") == "tab    bed"


def test_columns_are_aligned():
    """Plain tables are columns that can be cut."""
    assert table_lines(("A", "BB"), [("111", "2")]) == ["A    BB", "111  2"]


def test_errors_of_several_lines_stay_so():
    """A traceback in a reason is shown line by line, set in, so that none of it can pass for a line of ours."""
    output, _, err = sink()
    output.error(
        JobFailed("job j-1 failed", why="Traceback:\n  boom\nVerified. job j-1\x1b[2J", hint="stannary logs j-1")
    )
    lines = err.getvalue().splitlines()
    assert lines[1:3] == ["  why   Traceback:", "          boom"]
    assert lines[3].startswith("        Verified.")
    assert "\x1b" not in err.getvalue()
    assert lines[-1] == "  next  stannary logs j-1"


@pytest.mark.parametrize("cls", [SpecError, NotFound, AuthError, UsageError, ServiceError, NoCapacity, ConflictError])
def test_every_refusal_ends_with_a_next_step(cls):
    """An error that came without a hint, such as one of an older market, still says what to do."""
    output, out, err = sink(as_json=True)
    output.error(cls("it is so", why="because"))
    assert err.getvalue().splitlines()[-1].startswith("  next  ")
    assert json.loads(out.getvalue())["error"]["hint"]


def test_long_talk_wraps_at_the_screens_edge(monkeypatch):
    """On a terminal a long line goes on below its first word, a key or digest stays whole; a file gets one line."""

    class Terminal(io.StringIO):
        def isatty(self):
            return True

    monkeypatch.setenv("COLUMNS", "80")
    digest = "sha256:" + "0" * 64
    for err, num_lines in ((Terminal(), 3), (io.StringIO(), 1)):
        Output(stdout=io.StringIO(), stderr=err).say(f"  ! {'word ' * 20}{digest}")
        lines = err.getvalue().splitlines()
        assert len(lines) == num_lines
        assert lines[-1].endswith(digest)
        assert num_lines == 1 or max(map(len, lines)) <= 80


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_a_stream_gets_what_it_can_spell(encoding):
    """Our own dots become dashes, others' letters escapes, and JSON stays JSON."""
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding=encoding)
    Output(stdout=stream, stderr=io.StringIO()).result(None, ["paid \u00b7 held", "\u6f22"])
    Output(as_json=True, stdout=stream, stderr=io.StringIO()).result({"name": "\u6f22\udc80"})
    text = raw.getvalue().decode(encoding)
    assert json.loads(text[text.index("{") :])["name"] == "\u6f22\udc80"
    assert encoding != "ascii" or "paid - held" in text
