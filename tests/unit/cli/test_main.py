"""The command line's edge: help, exit codes, three-line errors, what is imported."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import click
import pytest

from stannary.cli import main as edge
from stannary.cli.registry import COMMANDS, NODE_COMMANDS
from stannary.errors import NoCapacity


def test_help_lists_every_command(capsys):
    """`stannary --help` names each command with its line."""
    assert edge.run(["--help"]) == 0
    printed = capsys.readouterr().out
    for name, entry in COMMANDS.items():
        assert f"  {name} " in printed
        assert entry.summary[:30] in printed


HEAVY = {"torch", "sqlalchemy", "fastapi", "pydantic", "httpx2", "rich", "numpy", "yaml"}


@pytest.mark.parametrize(
    ("code", "heavy"),
    [
        ("from stannary.cli.main import run; run(['--help'])", HEAVY | {"cryptography"}),
        ("import stannary.cli.commands.verify", HEAVY),  # it checks signatures
    ],
)
def test_what_people_wait_for_imports_nothing_heavy(code, heavy):
    """Help and offline verification pay for none of torch, SQL, HTTP, schema or terminal libraries."""
    look = f"import sys; {code}; sys.exit(','.join(sorted({heavy!r} & set(sys.modules))) or 0)"
    done = subprocess.run([sys.executable, "-c", look], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("table", [COMMANDS, NODE_COMMANDS])
def test_every_line_of_the_table_is_a_command(table, capsys):
    """Each registered command can be imported and shows its help with --json among the options of leaves."""
    prefix = ["node"] if table is NODE_COMMANDS else []
    for name in table:
        assert edge.run([*prefix, name, "--help"]) == 0, name
    assert "--json" in capsys.readouterr().out


def groups(command, path=()):
    """Yield the words of every group of the command line."""
    if isinstance(command, click.Group):
        yield path
        context = click.Context(command)
        for name in command.list_commands(context):
            yield from groups(command.get_command(context, name), (*path, name))


def test_groups_say_whole_sentences(capsys, monkeypatch):
    """At 80 columns each line of a group's help ends with a full stop, in its own row or the next, never with dots."""
    monkeypatch.setenv("COLUMNS", "80")
    for path in groups(edge.cli):
        assert edge.run([*path, "--help"]) == 0
        printed = capsys.readouterr().out.partition("Commands:\n")[2]
        assert printed, path
        assert all(len(line) <= 80 for line in printed.splitlines())
        for row in re.split(r"\n  (?=\S)", printed.strip()):
            assert re.search(r"[^.]\.$", row), row


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["rnu"], 2, "stannary run"),
        (["run", "--no-such-flag"], 2, "stannary run --help"),
        (["run"], 2, "--example hello"),
        (["run", "--example", "nope"], 2, "known: "),
        (["run", "missing.yaml"], 2, "missing.yaml"),
        (["verify", "missing.json"], 2, "missing.json"),
        (["verify", "missing.json", "--policy", "none.toml"], 2, "none.toml"),
        (["verify", "missing.json", "--sample", "3"], 2, "--replay"),
        (["ls"], 2, "stannary run --example hello"),
        (["get", "../../etc"], 2, "stannary ls"),
        (["trust", "rm", "nobody"], 102, "stannary trust ls"),
        (["--profile", "nobody", "ls"], 102, "stannary market ls"),
        (["node", "run"], 102, "stannary node join"),
        (["node", "join", "snt_x"], 1, "copy the whole snt_... word"),
        (["market", "token"], 1, "stannary market serve"),
    ],
)
def test_errors_are_three_lines_with_the_next_command(arguments, code, words, capfd):
    """Each failure prints what, why and next on stderr, nothing on stdout, and has its exit code."""
    assert edge.run(arguments) == code
    printed = capfd.readouterr()
    assert printed.out == ""
    lines = printed.err.splitlines()
    assert lines[0].startswith("E-") and len(lines) <= 3
    assert words in printed.err


def test_errors_are_json_too(capsys):
    """With --json the error stands on stdout as one document."""
    assert edge.run(["trust", "rm", "nobody", "--json"]) == 102
    assert json.loads(capsys.readouterr().out)["error"]["code"] == "E-NOT-FOUND"


def test_a_bug_is_reported_without_a_traceback(monkeypatch, capsys):
    """An unexpected exception becomes three lines; STANNARY_DEBUG=1 shows the traceback."""

    def broken(*_, **__):
        raise KeyError("boom")

    monkeypatch.setattr(edge.cli, "main", broken)
    assert edge.run([]) == 1
    assert "Traceback" not in capsys.readouterr().err
    monkeypatch.setenv("STANNARY_DEBUG", "1")
    assert edge.run([]) == 1
    assert "Traceback" in capsys.readouterr().err


def test_interrupts_exit_130(monkeypatch):
    """Ctrl-C outside a followed job exits 130."""

    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(edge.cli, "main", interrupted)
    assert edge.run([]) == 130


def test_exit_codes_are_those_of_the_error_tree(monkeypatch):
    """An error's own exit code is the process's."""

    def refuse(*_, **__):
        raise NoCapacity("no node")

    monkeypatch.setattr(edge.cli, "main", refuse)
    assert edge.run([]) == 5


@pytest.mark.parametrize(("package", "extra"), [("blake3", "seal"), ("lxml.etree", "certify"), ("torch", "train")])
def test_missing_extra_is_named_not_called_a_bug(package, extra, monkeypatch, capsys):
    """A package of an extra that is not installed gives its name, the extra and the command that brings it."""

    def fail(**_: object) -> int:
        raise ModuleNotFoundError(f"No module named {package!r}", name=package)

    monkeypatch.setattr(edge.cli, "main", fail)
    assert edge.run(["anything"]) == 1
    printed = capsys.readouterr().err
    assert f"{package.partition('.')[0]} is not installed" in printed
    assert f"pip install 'stannary[{extra}]'" in printed
    assert "bug" not in printed


def test_missing_module_of_ours_is_a_bug(monkeypatch, capsys):
    """Only packages of extras are excused."""

    def fail(**_: object) -> int:
        raise ModuleNotFoundError("No module named 'stannary.gone'", name="stannary.gone")

    monkeypatch.setattr(edge.cli, "main", fail)
    assert edge.run(["anything"]) == 1
    assert "a bug of ours" in capsys.readouterr().err


def test_extras_are_those_of_the_project():
    """Each package named for an error is brought by the extra it names."""
    project = tomllib.loads((Path(__file__).parents[3] / "pyproject.toml").read_text())
    listed = project["project"]["optional-dependencies"]
    for package, extra in edge.EXTRAS.items():
        names = {entry.replace("-", "_").split(">")[0] for entry in listed[extra]}
        assert package in names, (package, extra)
