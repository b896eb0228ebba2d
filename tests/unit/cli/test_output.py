"""The one sink: stdout is the result, stderr is talk, nothing others wrote can move the cursor."""

from __future__ import annotations

import io
import json

import pytest

from stannary.cli.output import Output, columns_text, plain
from stannary.errors import ConfirmationRequired


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
    assert columns_text(("A", "BB"), [("111", "2")]) == "A    BB\n111  2"
