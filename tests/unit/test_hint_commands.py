"""Every command the program names, in a hint or anywhere it speaks, is one that exists, with options it has."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

import stannary
from stannary.cli.main import cli

ROOT = Path(stannary.__file__).parent
SOURCES = sorted(ROOT.rglob("*.py"))
HOLE = "\N{WHITE SQUARE}"  # a value of an f-string
_NAMED = re.compile(r"(?:^|[\s`'(:>$])stannary((?: +[^\s`;|,<]+)+)")
_QUOTED = re.compile(r"`([^`]*)`|<code>(.*?)</code>")


def texts(path: Path) -> Iterator[tuple[int, str, bool]]:
    """Yield line, text and whether it is a hint, of every string that is not a docstring."""
    tree = ast.parse(path.read_text("utf-8"))
    hints = {
        id(part)
        for node in ast.walk(tree)
        if isinstance(node, ast.keyword) and node.arg == "hint"
        for part in ast.walk(node.value)
    }
    inside = {id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in node.values}
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            parts = (str(part.value) if isinstance(part, ast.Constant) else HOLE for part in node.values)
            yield node.lineno, "".join(parts), id(node) in hints
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in inside:
            yield node.lineno, node.value, id(node) in hints


def misnamed(text: str, *, is_hint: bool) -> Iterator[str]:
    """Yield what is wrong with the commands a text names; outside hints only what it quotes is a command."""
    spoken = [text] if is_hint else ["".join(parts) for parts in _QUOTED.findall(text)]
    for found in (item for part in spoken for item in _NAMED.findall(part)):
        yield from _misnamed([word.rstrip(".,:)'\"") for word in found.split()])


def _misnamed(words: list[str]) -> Iterator[str]:
    path, command, context = "stannary", cli, click.Context(cli, info_name="stannary")
    options, is_value = _options(command), False
    for word in words:
        if is_value:
            is_value = False
        elif word == "--" or (HOLE in word and isinstance(command, click.Group)):
            return
        elif word.startswith("--"):
            if word.partition("=")[0] not in options | {"--help"}:
                yield f"{path} has no {word}"
            is_value = isinstance(command, click.Group)  # the one option of a group takes a value
        elif isinstance(command, click.Group):
            chosen = command.get_command(context, word)
            if chosen is None:
                yield f"{path} has no command {word}"
                return
            path, command = f"{path} {word}", chosen
            context = click.Context(command, info_name=word, parent=context)
            options |= _options(command)


def _options(command: click.Command) -> set[str]:
    return {name for parameter in command.params for name in [*parameter.opts, *parameter.secondary_opts]}


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_named_command_exists(path: Path) -> None:
    """`stannary X Y --flag` in any text of this module parses up to its arguments."""
    wrong = [
        f"{path.name}:{line}: {mistake}, in {text[:100]!r}"
        for line, text, is_hint in texts(path)
        for mistake in misnamed(text, is_hint=is_hint)
    ]
    assert wrong == []


@pytest.mark.parametrize(
    ("text", "mistake"),
    [
        ("if it is right: stannary trust remove x", "stannary trust has no command remove"),
        ("stannary market serv", "stannary market has no command serv"),
        ("stannary broker status --all", "stannary broker status has no --all"),
        ("stannary job ls", "stannary has no command job"),
    ],
)
def test_a_wrong_hint_is_found(text: str, mistake: str) -> None:
    """The check above can fail."""
    assert mistake in list(misnamed(text, is_hint=True))


@pytest.mark.parametrize("text", [f"stannary --profile {HOLE} ls", "stannary market add URL --key KEY", "stannary ls"])
def test_a_right_hint_passes(text: str) -> None:
    """Options before the command, arguments and values are no mistake."""
    assert list(misnamed(text, is_hint=True)) == []
