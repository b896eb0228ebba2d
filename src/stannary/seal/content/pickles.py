"""Pickles, told by walking their opcodes without running one.

Rules:
1. The walk goes through the whole file, in a window: padding of any length before the import hides
   nothing. It ends where the real reader would end with an error: an unknown opcode, an empty stack, a
   number that is none. So text and arrays of numbers are done within a few bytes.
2. A stream that names an importable object and then calls, builds or returns it is a pickle, whatever the
   file is called; so is a whole stream with a protocol header, however harmless.
3. What still reads as a pickle after MAX_OPCODES is taken for one.
4. numpy's format holds a pickle when its dtype holds objects: only plain dtypes are let through.

Sources: pickletools of the standard library for opcodes and their arguments; numpy.lib.format.
"""

from __future__ import annotations

import ast
import io
import pickletools
import re

from stannary.seal.content.file_bytes import Content

WINDOW_BYTES = 256 * 1024
MAX_LINE_BYTES = 64 * 1024  # longer ones are judged by their ends
MAX_OPCODES = 1_000_000  # a few seconds; files that are no pickles end within dozens
MAX_NPY_HEADER_BYTES = 64 * 1024

_IDENTIFIER = re.compile(r"[A-Za-z_][\w.]* [A-Za-z_][\w.]*")
_LEGACY_TORCH = b"\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19"  # LONG1 magic number of torch's old format
_IMPORTS = {"GLOBAL", "INST", "STACK_GLOBAL", "EXT1", "EXT2", "EXT4"}
_CALLS = {"REDUCE", "BUILD", "OBJ", "INST", "NEWOBJ", "NEWOBJ_EX", "STOP", "PERSID", "BINPERSID"}
_PAIRS = {"GLOBAL", "INST"}  # two lines
_TEXTS = {"UNICODE", "PERSID"}  # any line will do
_OPCODES = {ord(item.code): item for item in pickletools.opcodes}
_LENGTHS = {
    pickletools.TAKEN_FROM_ARGUMENT1: 1,
    pickletools.TAKEN_FROM_ARGUMENT4: 4,
    pickletools.TAKEN_FROM_ARGUMENT4U: 4,
    pickletools.TAKEN_FROM_ARGUMENT8U: 8,
}
_MARK = pickletools.markobject
_NPY_MAGIC = b"\x93NUMPY"
_PLAIN_DTYPE = re.compile(r"[<>|=]?(?:[biufcmMSUV]\d{1,6}|\?)(?:\[[0-9A-Za-z]{1,8}\])?")


def why_pickle(content: Content) -> str:
    """Return why these bytes are a pickle or hold one, empty if they do not."""
    start = content.read(0, 64)
    if start.startswith(_NPY_MAGIC):
        return "" if _is_plain_array(content) else "a numpy array of objects is a pickle inside"
    if _LEGACY_TORCH in start:
        return "torch's old container starts with pickles"
    return _Walk(content).verdict()


class _End(Exception):
    """The real reader would stop here with an error."""


class _Walk:
    """One pass over the opcodes."""

    def __init__(self, content: Content) -> None:
        self._content = content
        self._window = b""
        self._first = 0  # offset of the window
        self._place = 0  # of the next byte
        self._depth = 0  # things on the stack
        self._marks: list[int] = []  # depth at each mark
        self._imported = ""
        self._protocol = False

    def verdict(self) -> str:
        """Walk to the end, an error or a verdict."""
        try:
            for _ in range(MAX_OPCODES):
                reason = self._step()
                if reason is not None:
                    return reason
        except _End:
            # Not a pickle any further; what ran before would still have run.
            return f"its opcodes import {self._imported!r:.60}" if self._protocol and self._imported else ""
        return f"it reads as one for {MAX_OPCODES:,} opcodes"

    def _step(self) -> str | None:
        """Take one opcode; return a verdict or None to go on."""
        opcode = _OPCODES.get(self._take(1)[0])
        if opcode is None:
            raise _End
        argument = self._argument(opcode)
        self._stack(opcode)
        if opcode.name == "PROTO":
            self._protocol = self._protocol or argument[0] <= pickle_protocol()
        elif opcode.name in _IMPORTS:
            named = argument.decode("utf-8", "replace") if opcode.name in _PAIRS else opcode.name
            if opcode.name in _PAIRS and _IDENTIFIER.fullmatch(named) is None:
                raise _End
            self._imported = self._imported or named
        if self._imported and opcode.name in _CALLS:
            return f"its opcodes import {self._imported!r:.60} and then {opcode.name}"
        if opcode.name == "STOP":
            return "a whole pickle stream" if self._protocol else ""
        return None

    def _argument(self, opcode: pickletools.OpcodeInfo) -> bytes:
        """Pass over the argument; return it where it is short and decides something."""
        if opcode.arg is None:
            return b""
        if opcode.name in _PAIRS:
            return self._line() + b" " + self._line()
        if opcode.arg.n == pickletools.UP_TO_NEWLINE:
            line = self._line()
            if opcode.name not in _TEXTS and len(line) < MAX_LINE_BYTES:
                self._check_line(opcode.arg, line)
            return b""
        if opcode.arg.n >= 0:
            return self._take(opcode.arg.n)
        length = self._take(_LENGTHS[opcode.arg.n])
        self._skip(int.from_bytes(length, "little", signed=opcode.arg.n == pickletools.TAKEN_FROM_ARGUMENT4))
        return b""

    @staticmethod
    def _check_line(kind: pickletools.ArgumentDescriptor, line: bytes) -> None:
        try:
            kind.reader(io.BytesIO(line + b"\n"))
        except ValueError as err:  # not the number or the quoted text it must be
            raise _End from err

    def _stack(self, opcode: pickletools.OpcodeInfo) -> None:
        """Keep count of the stack: taking from an empty one ends the real reader."""
        if opcode.name == "MARK":
            self._marks.append(self._depth)
            return
        if opcode.name == "POP" and self._marks and self._depth == self._marks[-1]:
            self._marks.pop()
            return
        taken = len(opcode.stack_before)
        if _MARK in opcode.stack_before:
            if not self._marks:
                raise _End
            self._depth = self._marks.pop()
            taken = opcode.stack_before.index(_MARK)
        if self._depth - taken < (self._marks[-1] if self._marks else 0):
            raise _End
        self._depth += len(opcode.stack_after) - taken

    def _take(self, count: int) -> bytes:
        """Return the next bytes, few of them."""
        begin = self._place - self._first
        if begin < 0 or begin + count > len(self._window):
            self._first, begin = self._place, 0
            self._window = self._content.read(self._place, WINDOW_BYTES)
        if begin + count > len(self._window):
            raise _End
        self._place += count
        return self._window[begin : begin + count]

    def _skip(self, count: int) -> None:
        if count < 0 or self._place + count > self._content.size:
            raise _End
        self._place += count

    def _line(self) -> bytes:
        """Return the next line without its end; of a long one the first MAX_LINE_BYTES."""
        kept = b""
        while self._place < self._content.size:
            self._take(1)
            begin = self._place - 1 - self._first
            end = self._window.find(b"\n", begin)
            part = self._window[begin : end if end >= 0 else len(self._window)]
            kept += part[: MAX_LINE_BYTES - len(kept)]
            self._place = self._first + begin + len(part)
            if end >= 0:
                self._place += 1
                return kept
        raise _End


def pickle_protocol() -> int:
    """Return the highest pickle protocol there is (PEP 574)."""
    return 5


def _is_plain_array(content: Content) -> bool:
    """Tell whether a numpy file has a dtype of numbers or text only."""
    version = content.read(6, 1)
    width = 2 if version == b"\x01" else 4
    length = int.from_bytes(content.read(8, width), "little")
    if version not in {b"\x01", b"\x02", b"\x03"} or length > MAX_NPY_HEADER_BYTES:
        return False
    try:
        header = ast.literal_eval(content.read(8 + width, length).decode("utf-8").strip())
    except (ValueError, SyntaxError, UnicodeDecodeError, MemoryError, RecursionError):
        return False
    return isinstance(header, dict) and _is_plain_dtype(header.get("descr"))


def _is_plain_dtype(descr: object) -> bool:
    if isinstance(descr, str):
        return _PLAIN_DTYPE.fullmatch(descr) is not None
    if isinstance(descr, list):  # fields: (name, dtype) or (name, dtype, shape)
        return all(isinstance(row, tuple) and 2 <= len(row) <= 3 and _is_plain_dtype(row[1]) for row in descr)
    return False
