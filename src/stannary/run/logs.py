"""What a job prints: captured line by line, bounded, kept until the market has it.

Rules:
1. A line is cut at MAX_LINE_CHARS, a task at MAX_LINES; what is dropped is counted and said in a line
   of our own, never silently. A job that prints without newlines costs no more memory than one line.
2. Lines are numbered within their task and stay here until they are acknowledged, so that an upload
   may be repeated and none is lost when the market is away.
3. Text is made printable: colours are taken out, other control characters (terminal escapes could
   repaint a buyer's screen) are shown by their pictures, what is not UTF-8 is replaced.
4. `\\r` goes back to the start of a line, as on a screen: of a progress bar the last state is kept, and
   while it runs one state every PROGRESS_INTERVAL_S. A character cut by a read is put together again.
5. What stands on a line without an end when a task ends is that task's: `settle` hands it over.
"""

from __future__ import annotations

import array
import codecs
import fcntl
import re
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
TAIL_LINES, TAIL_CHARS = 200, 16 * 1024
SETTLE_POLL_S = 0.001
PROGRESS_INTERVAL_S = 10.0  # a bar of an hour takes 360 of a task's MAX_LINES

_PIECES = re.compile(r"[^\r\n]+|\r|\n")
_COLOUR = re.compile(r"\x1b\[[0-9;:]*m")  # ECMA-48, select graphic rendition: changes no text
_PICTURES = 0x2400  # Unicode's pictures of the control characters, in their order


@dataclass(frozen=True, slots=True)
class PrintedLine:
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
    _waiting: deque[PrintedLine] = field(default_factory=deque)
    _dropped: deque[PrintedLine] = field(default_factory=lambda: deque(maxlen=TAIL_LINES))  # the last of them
    _num_taken: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, stream: str, text: str) -> None:
        """Take one line, or count it as dropped."""
        line = PrintedLine(self.clock(), stream, printable(text))
        with self._lock:
            if self._num_taken >= self.max_lines:
                self.num_dropped += 1
                self._dropped.append(line)
                if self.num_dropped > 1:
                    return
                line = PrintedLine(line.at_s, "agent", f"more than {self.max_lines:,} lines: later ones are dropped")
            self._num_taken += 1
            self._waiting.append(line)

    def batch(self) -> tuple[int, list[PrintedLine]]:
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
        """Return the last of the lines nobody has acknowledged as one text, for a failure; dropped ones count."""
        with self._lock:
            lines = [*self._waiting, *self._dropped][-TAIL_LINES:]
        return "\n".join(line.text for line in lines)[-TAIL_CHARS:]


class Capture:
    """Reads a pipe to its end and hands over each line, cut where it is too long; `run` in a thread of its own."""

    def __init__(
        self, file: BinaryIO, take: Callable[[str], None], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._file = file
        self._lines = Lines(take, clock)
        self._taking = threading.Lock()  # held from the read of a part until its last line is handed over

    def run(self) -> None:
        """Read until the pipe ends."""
        while self._wait():
            with self._taking:
                part = _read_some(self._file)
                if not part:
                    break
                self._lines.feed(part)
        with self._taking:
            self._lines.flush()

    def settle(self, limit_s: float) -> None:
        """Wait until what was printed so far is handed over: a result comes by another pipe and may overtake it."""
        deadline = time.monotonic() + limit_s
        while (left_s := deadline - time.monotonic()) > 0 and self._taking.acquire(timeout=left_s):
            try:
                if _num_unread(self._file) == 0:
                    self._lines.flush()
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


class Lines:
    """Makes lines of bytes as they come (rules 1 and 4)."""

    def __init__(self, take: Callable[[str], None], clock: Callable[[], float]) -> None:
        self._take = take
        self._clock = clock
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._current = ""  # since the last line end or return
        self._state = ""  # what stood on the line before the last return
        self._is_told = False  # the state was handed over already
        self._due_s = clock() + PROGRESS_INTERVAL_S

    def feed(self, part: bytes) -> None:
        """Take more bytes."""
        for piece in _PIECES.findall(self._decoder.decode(part)):
            if piece == "\n":
                self._end_line()
            elif piece == "\r":
                self._return()
            elif len(self._current) <= MAX_LINE_CHARS:  # one more than that says that it was cut
                self._current += piece[: MAX_LINE_CHARS + 1 - len(self._current)]

    def flush(self) -> None:
        """Hand over what stands on a line without an end."""
        self._current += self._decoder.decode(b"", final=True)
        if self._current.strip() or self._state:
            self._end_line()
        self._current = ""

    def _end_line(self) -> None:
        if self._current.strip() or not self._state:
            self._take(self._current)
        elif not self._is_told:
            self._take(self._state)
        self._current = self._state = ""

    def _return(self) -> None:
        if not self._current.strip():  # spaces only: a bar wipes itself out
            self._current = ""
            return
        self._state, self._current, self._is_told = self._current, "", False
        now_s = self._clock()
        if now_s >= self._due_s:
            self._due_s = now_s + PROGRESS_INTERVAL_S
            self._take(self._state)
            self._is_told = True


def printable(text: str) -> str:
    """Return a line without colours and control characters, cut at MAX_LINE_CHARS."""
    shown = text if text.isprintable() else "".join(map(_shown, _COLOUR.sub("", text)))
    return shown if len(shown) <= MAX_LINE_CHARS else shown[: MAX_LINE_CHARS - 6] + " [cut]"


def printable_lines(text: str) -> str:
    """Return a text of several lines, each made printable."""
    return "\n".join(printable(line) for line in text.splitlines())


def _shown(char: str) -> str:
    if char == "\t" or unicodedata.category(char)[0] != "C":
        return char
    return chr(_PICTURES + ord(char)) if ord(char) < 32 else "\N{REPLACEMENT CHARACTER}"


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
