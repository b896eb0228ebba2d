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
    kept.acknowledge(0, 3)
    assert kept.tail() == "\n".join("23456789"), "what was taken is not in it"


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


def lines_of(*parts: bytes, clock: Callable[[], float] = lambda: 0.0) -> list[str]:
    """Feed parts as they come from reads, and end the task."""
    taken: list[str] = []
    made = logs.Lines(taken.append, clock)
    for part in parts:
        made.feed(part)
    made.flush()
    return taken


def test_a_progress_bar_is_one_line() -> None:
    """10,000 states of a bar are one line, its last one, wherever the returns stand."""
    before = b"".join(b"\r%d%%" % number for number in range(10_001)) + b"\nnext\n"
    behind = b"".join(b"%d%%\r" % number for number in range(10_001)) + b"\nnext\n"
    assert lines_of(before) == lines_of(behind) == ["10000%", "next"]
    assert lines_of(b"\r 10%", b"\r100%", b"\r      \r", b"done\n") == ["done"]
    assert lines_of(b"\r 10%\r100%") == ["100%"]
    assert lines_of(b"10%\r100%\r") == ["100%"]


def test_a_long_bar_is_seen_while_it_runs() -> None:
    """A state is handed over now and then, each once, and the last one is not said twice."""
    now_s = iter(range(0, 10_000, 4))
    taken = lines_of(*(b"%d\r" % number for number in range(6)), b"\n", clock=lambda: float(next(now_s)))
    assert taken == ["2", "5"]


def test_line_ends_of_windows() -> None:
    """Carriage return and newline are one line end, also between two reads; empty lines stay."""
    assert lines_of(b"a\r\nb\r", b"\n\r\n\nc\r\n") == ["a", "b", "", "", "c"]


def test_characters_cut_by_a_read() -> None:
    """A character whose bytes come in two reads is whole; bytes of no character are one mark each."""
    text = "größe € 🎈\n".encode()
    assert lines_of(*(bytes((byte,)) for byte in text)) == ["größe € 🎈"]
    assert lines_of(b"a\xff", b"b\n") == ["a\N{REPLACEMENT CHARACTER}b"]
    assert lines_of("€".encode()[:2]) == ["\N{REPLACEMENT CHARACTER}"]


def test_a_line_without_an_end_belongs_to_its_task() -> None:
    """What stands in the pipe without a newline is handed over when the task ends, and not to the next one."""
    reading, writing = os.pipe()
    lines: list[str] = []
    with os.fdopen(reading, "rb") as file:
        capture = logs.Capture(file, lines.append)
        reader = threading.Thread(target=capture.run)
        reader.start()
        os.write(writing, b"first\nno end")
        capture.settle(60)
        assert lines == ["first", "no end"]
        os.write(writing, b"next\n")
        capture.settle(60)
        assert lines == ["first", "no end", "next"]
        os.close(writing)
        reader.join()


def test_control_characters_are_seen_and_bounded() -> None:
    """Colours go, other escapes are shown by their pictures, and a line of them is as long as any other."""
    assert logs.printable("\x1b[1;31mred\x1b[0m") == "red"
    assert logs.printable("a\x1b[2Jb\x07\x00") == "a␛[2Jb␇␀"
    assert len(logs.printable("\x1b" * 10_000)) == logs.MAX_LINE_CHARS
    assert logs.printable_lines("one\n\ttwo\x1b[K\r\nthree") == "one\n\ttwo␛[K\nthree"


def test_a_bomb_of_one_line() -> None:
    """A line of 50 MB, in states or not, takes no more memory than one line."""
    made = logs.Lines(lambda _: None, lambda: 0.0)
    for _ in range(50):
        made.feed(b"x" * 1_000_000)
        assert len(made._current) <= logs.MAX_LINE_CHARS + 1
