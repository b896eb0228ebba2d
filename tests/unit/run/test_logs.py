"""Job logs: bounded, counted, kept until acknowledged."""

from __future__ import annotations

import io

from hypothesis import given
from hypothesis import strategies as st

from stannary.run import logs
from stannary.run.logs import TaskLog


def log(**more: int) -> TaskLog:
    return TaskLog(lambda: 1.0, **more)


def test_kept_until_acknowledged() -> None:
    """A batch is given again until it is acknowledged, and acknowledging twice loses nothing."""
    kept = log()
    for text in "abc":
        kept.add("stdout", text)
    first, lines = kept.batch()
    assert (first, [line.text for line in lines]) == (0, ["a", "b", "c"])
    assert kept.batch() == (first, lines)
    kept.acknowledge(0, 2)
    kept.acknowledge(0, 2)
    first, lines = kept.batch()
    assert (first, [line.text for line in lines]) == (2, ["c"])


def test_drops_are_said() -> None:
    """Lines beyond the limit are counted and said once, and the tail for a failure still moves on."""
    kept = log(max_lines=2)
    for number in range(10):
        kept.add("stdout", str(number))
    texts = [line.text for line in kept.batch()[1]]
    assert texts[:2] == ["0", "1"]
    assert "dropped" in texts[2]
    assert len(texts) == 3
    assert kept.num_dropped == 8
    assert kept.tail().endswith("9")


def test_terminal_escapes() -> None:
    """A job cannot repaint a buyer's terminal."""
    assert "\x1b" not in logs.printable("\x1b[2Jhello\rworld")
    assert logs.printable("tab\tä") == "tab\tä"


def test_endless_line() -> None:
    """A job that prints without newlines gives one cut line and takes no more memory than that."""
    lines: list[str] = []
    logs.capture(io.BytesIO(b"x" * 1_000_000 + b"\nnext\n"), lines.append)
    assert lines[1:] == ["next"]
    assert len(logs.printable(lines[0])) == logs.MAX_LINE_CHARS


@given(st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\n\r"), max_size=20), max_size=10))
def test_lines(texts: list[str]) -> None:
    """What was printed line by line is captured line by line."""
    lines: list[str] = []
    logs.capture(io.BytesIO("".join(text + "\n" for text in texts).encode()), lines.append)
    assert lines == texts


@given(st.binary(max_size=300))
def test_any_bytes(data: bytes) -> None:
    """Any output is captured without an error."""
    kept = log()
    logs.capture(io.BytesIO(data), lambda text: kept.add("stdout", text))
    assert all(line.text.isprintable() or "\t" in line.text for line in kept.batch()[1])
