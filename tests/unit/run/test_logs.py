"""Job logs: bounded, counted, kept until acknowledged."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable

from hypothesis import given
from hypothesis import strategies as st

from stannary.run import logs
from stannary.run.logs import TaskLog


def log(**more: int) -> TaskLog:
    return TaskLog(lambda: 1.0, **more)


def captured(data: bytes, take: Callable[[str], None]) -> None:
    """Capture a file of these bytes to its end."""
    with os.fdopen(os.memfd_create("log"), "w+b") as file:
        file.write(data)
        file.seek(0)
        logs.Capture(file, take).run()


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
    captured(b"x" * 1_000_000 + b"\nnext\n", lines.append)
    assert lines[1:] == ["next"]
    assert len(logs.printable(lines[0])) == logs.MAX_LINE_CHARS


@given(st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\n\r"), max_size=20), max_size=10))
def test_lines(texts: list[str]) -> None:
    """What was printed line by line is captured line by line."""
    lines: list[str] = []
    captured("".join(text + "\n" for text in texts).encode(), lines.append)
    assert lines == texts


@given(st.binary(max_size=300))
def test_any_bytes(data: bytes) -> None:
    """Any output is captured without an error."""
    kept = log()
    captured(data, lambda text: kept.add("stdout", text))
    assert all(line.text.isprintable() or "\t" in line.text for line in kept.batch()[1])


def test_settled_log_holds_all_that_was_printed() -> None:
    """What stood in the pipe is handed over when `settle` returns, also where taking a line is slow."""
    reading, writing = os.pipe()
    lines: list[str] = []
    may_take = threading.Event()

    def take(text: str) -> None:
        may_take.wait()
        lines.append(text)

    with os.fdopen(reading, "rb") as file:
        capture = logs.Capture(file, take)
        reader = threading.Thread(target=capture.run)
        reader.start()
        for number in range(100):
            os.write(writing, b"line %d\n" % number)
        threading.Timer(0.05, may_take.set).start()
        capture.settle(60)
        assert len(lines) == 100
        os.close(writing)
        reader.join()


def test_settling_ends_although_a_job_prints_on() -> None:
    """Nobody to take the lines: settling waits no longer than it may."""
    reading, writing = os.pipe()
    with os.fdopen(reading, "rb") as file:
        os.write(writing, b"x\n")
        logs.Capture(file, print).settle(0.01)
        os.close(writing)
