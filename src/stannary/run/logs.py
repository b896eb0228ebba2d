"""What a job prints: captured line by line, bounded, kept until the market has it.

Rules:
1. A line is cut at MAX_LINE_CHARS, a task at MAX_LINES; what is dropped is counted and said in a line
   of our own, never silently. A job that prints without newlines costs no more memory than one line.
2. Lines are numbered within their task and stay here until they are acknowledged, so that an upload
   may be repeated and none is lost when the market is away.
3. Text is made printable: control characters (terminal escapes could repaint a buyer's screen) are
   replaced; what is not UTF-8 too.
"""

from __future__ import annotations

import array
import fcntl
import select
import termios
import threading
import time
import unicodedata
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import BinaryIO

MAX_LINE_CHARS = 4096  # the market refuses longer ones
MAX_LINES = 20_000  # of one task
BATCH_LINES = 500
READ_BYTES = 65_536
TAIL_CHARS = 16 * 1024
SETTLE_POLL_S = 0.001


@dataclass(frozen=True, slots=True)
class Line:
    """One line: when, on which stream, and its text."""

    at_s: float
    stream: str
    text: str


@dataclass(slots=True)
class TaskLog:
    """The lines of one task; safe to use from several threads."""

    clock: Callable[[], float]
    max_lines: int = MAX_LINES
    num_dropped: int = 0
    _first_seq: int = 0
    _waiting: deque[Line] = field(default_factory=deque)
    _tail: deque[str] = field(default_factory=lambda: deque(maxlen=200))
    _num_taken: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, stream: str, text: str) -> None:
        """Take one line, or count it as dropped."""
        line = Line(self.clock(), stream, printable(text))
        with self._lock:
            self._tail.append(line.text)
            if self._num_taken >= self.max_lines:
                self.num_dropped += 1
                if self.num_dropped > 1:
                    return
                line = Line(line.at_s, "agent", f"more than {self.max_lines:,} lines: later ones are dropped")
            self._num_taken += 1
            self._waiting.append(line)

    def batch(self) -> tuple[int, list[Line]]:
        """Return the number of the first unacknowledged line and up to BATCH_LINES lines."""
        with self._lock:
            return self._first_seq, [self._waiting[index] for index in range(min(BATCH_LINES, len(self._waiting)))]

    def acknowledge(self, first_seq: int, num_lines: int) -> None:
        """Forget lines the market has; a second acknowledgement of the same lines changes nothing."""
        with self._lock:
            while self._waiting and self._first_seq < first_seq + num_lines:
                self._waiting.popleft()
                self._first_seq += 1

    def tail(self) -> str:
        """Return the last lines as one text, for a failure."""
        with self._lock:
            return "\n".join(self._tail)[-TAIL_CHARS:]


class Capture:
    """Reads a pipe to its end and hands over each line, cut where it is too long; `run` in a thread of its own."""

    def __init__(self, file: BinaryIO, take: Callable[[str], None]) -> None:
        self._file = file
        self._take = take
        self._pending = b""
        self._is_cut = False
        self._taking = threading.Lock()  # held from the read of a part until its last line is handed over

    def run(self) -> None:
        """Read until the pipe ends."""
        while self._wait():
            with self._taking:
                part = _read_some(self._file)
                if not part:
                    break
                self._feed(part)
        if self._pending and not self._is_cut:
            self._take(_decode(self._pending))

    def settle(self, limit_s: float) -> None:
        """Wait until what was printed so far is handed over: a result comes by another pipe and may overtake it."""
        deadline = time.monotonic() + limit_s
        while (left_s := deadline - time.monotonic()) > 0 and self._taking.acquire(timeout=left_s):
            try:
                if _num_unread(self._file) == 0:
                    return
            finally:
                self._taking.release()
            time.sleep(SETTLE_POLL_S)  # the reading thread has it next

    def _wait(self) -> bool:
        try:
            select.select([self._file], [], [])
        except (OSError, ValueError):  # closed by the thread that killed the job
            return False
        return True

    def _feed(self, part: bytes) -> None:
        *lines, self._pending = (self._pending + part).split(b"\n")
        for line in lines:
            if not self._is_cut:
                self._take(_decode(line))
            self._is_cut = False
        if len(self._pending) > MAX_LINE_CHARS:
            if not self._is_cut:
                self._take(_decode(self._pending))
            self._pending, self._is_cut = b"", True  # the rest of this line is dropped up to its newline


def printable(text: str) -> str:
    """Return a line without control characters, cut at MAX_LINE_CHARS."""
    cut = text if len(text) <= MAX_LINE_CHARS else text[: MAX_LINE_CHARS - 6] + " [cut]"
    if cut.isprintable():
        return cut
    return "".join(char if char == "\t" or unicodedata.category(char)[0] != "C" else "�" for char in cut)


def _decode(line: bytes) -> str:
    return line.rstrip(b"\r").decode("utf-8", errors="replace")


def _num_unread(file: BinaryIO) -> int:
    count = array.array("i", [0])
    try:
        fcntl.ioctl(file, termios.FIONREAD, count)
    except (OSError, ValueError):  # closed: nothing more will come
        return 0
    return count[0]


def _read_some(file: BinaryIO) -> bytes:
    """Return what is there, up to READ_BYTES; empty at the end, or once a kill has closed the pipe."""
    read = getattr(file, "read1", file.read)
    try:
        part: bytes = read(READ_BYTES)
    except (OSError, ValueError):  # ValueError: closed by the thread that killed the job
        return b""
    return part
