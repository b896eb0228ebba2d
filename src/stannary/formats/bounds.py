"""The table of bounds: how long, how large and of which letters every field is that crosses a border.

What a node or buyer signs (predicates.py), what an HTTP body carries (wire/message.py) and what a verifier reckons
with take their bounds from here and say none of their own.

    who         how
    market      `check` at its door: a statement outside the table is refused before it is logged
    node        the same table before it signs: what it may not say it leaves out, and says so in the log
    wire        patterns and limits of message members
    verifier    arithmetic saturates at the table's ends; being outside it refutes nothing by itself, since markets
                before this table took such statements and their receipts hold
    views       what a store holds is shown whatever it is: `shown` makes a harmless word of anything

Rules (docs/receipt.md R6.3):
1. A field's name says what it is wherever it stands: one name, one bound (`Output.name` overrides `name`).
2. Words are ASCII of a stated grammar: no two of them look alike, none repaints a screen, every database keeps them.
3. Patterns are of both `re` and the Rust regex of pydantic: no look-around, no `\\d` (it takes digits of any script).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import fields
from functools import cache
from typing import TYPE_CHECKING, Protocol

from stannary.errors import FormatError, StannaryError
from stannary.formats import canonical, digest, ended, ids, instants, workdir
from stannary.formats.lean import dataclass
from stannary.formats.quantity import show

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

MAX_METRICS = 8  # of one contribution
MAX_OUTPUTS = 1024  # of one task
MAX_MEMBERS = 1024  # of a site
MAX_INTEGER = canonical.MAX_SAFE_INTEGER
MAX_LEDGER_USD_MICROS = 10**15  # one movement of money: a thousand million dollars, far below 2^63
MAX_ASK_USD_MICROS = 10**12  # a node's hour: a million dollars
MAX_MS = 10 * 366 * 86_400_000  # ten years: no job lasts a week (jobspec.MAX_WALL_S)
MAX_SHOWN_CHARS = 100  # of a word nobody checked


class Bound(Protocol):
    """What a value must be."""

    @property
    def expected(self) -> str:
        """Say it in words."""
        ...

    def fits(self, value: object) -> bool:
        """Return whether a value is inside."""
        ...


@dataclass(frozen=True, slots=True)
class Words:
    """Text of a grammar; `pattern` has no anchors."""

    pattern: str
    max_chars: int
    expected: str

    @property
    def anchored(self) -> str:
        """Return the pattern as a message model wants it."""
        return f"^(?:{self.pattern})$"

    def fits(self, value: object) -> bool:
        """Return whether it is such a text."""
        return (
            isinstance(value, str)
            and len(value) <= self.max_chars
            and _compiled(self.pattern).fullmatch(value) is not None
        )


@dataclass(frozen=True, slots=True)
class Range:
    """A whole number between two ends, both inside."""

    low: int
    high: int

    @property
    def expected(self) -> str:
        """Say it in words."""
        return f"a whole number from {self.low:,} to {self.high:,}"

    def fits(self, value: object) -> bool:
        """Return whether it is such a number; `true` is none."""
        return type(value) is int and self.low <= value <= self.high

    def clamp(self, value: int) -> int:
        """Return the nearest number inside."""
        return min(max(value, self.low), self.high)


@dataclass(frozen=True, slots=True)
class Tested:
    """What a function of ours reads without an error."""

    read: Callable[[str], object]
    expected: str

    def fits(self, value: object) -> bool:
        """Return whether it can be read."""
        if not isinstance(value, str):
            return False
        try:
            self.read(value)
        except StannaryError:
            return False
        return True


@dataclass(frozen=True, slots=True)
class Decimals:
    """Named finite decimal numbers."""

    max_items: int
    name: Words
    number: Words

    @property
    def expected(self) -> str:
        """Say it in words."""
        return f"at most {self.max_items} metrics, each {self.name.expected} with {self.number.expected}"

    def fits(self, value: object) -> bool:
        """Return whether these are such numbers."""
        if not isinstance(value, dict) or len(value) > self.max_items:
            return False
        return all(self.name.fits(name) and self.number.fits(number) for name, number in value.items())

    def split(self, reported: Mapping[str, object]) -> tuple[dict[str, str], list[str]]:
        """Return what of a report may be signed, in its order, and a line for each value that may not."""
        kept: dict[str, str] = {}
        left_out: list[str] = []
        for name, number in reported.items():
            if not self.name.fits(name):
                left_out.append(f"metric {shown(name)} is left out: its name is not {self.name.expected}")
            elif not isinstance(number, str) or not self.number.fits(number):
                left_out.append(f"metric {name} is left out: {shown(number)} is not {self.number.expected}")
            elif len(kept) == self.max_items:
                left_out.append(f"metric {name} is left out: a task keeps {self.max_items}")
            else:
                kept[name] = number
        return kept, left_out


NODE = Words(ids.NODE_PATTERN, 14, "a node id")
JOB = Words(ids.JOB_PATTERN, 14, "a job id")
TASK = Words(ids.TASK_PATTERN, 64, "a task id")
AUDIT = Words(f"{TASK.pattern}/q[0-9a-f]{{16}}", 96, "an audit id")
DIGEST = Words(digest.PATTERN, 71, "a digest")
HEX32 = Words(digest.HEX_PATTERN, 64, "32 bytes of lower-case hex")
KEY = Words("[A-Za-z0-9+/]{43}=", 44, "a raw Ed25519 public key in base64")
KEY_ID = Words("ed25519:" + digest.HEX_PATTERN, 72, "a key id")
NONCE = Words("[0-9A-Za-z_-]{16,128}", 128, "16 to 128 letters and digits")
INSTANT = Words(instants.PATTERN, 20, "a time YYYY-MM-DDThh:mm:ssZ")
TIME = Tested(instants.parse, INSTANT.expected)
NAME = Words("[A-Za-z0-9][A-Za-z0-9._-]{0,63}", 64, "a word of at most 64 letters, digits, '.', '_' and '-'")
WORD = Words("[a-z0-9][a-z0-9-]{0,63}", 64, "a word of lower-case letters, digits and '-'")
OPERATOR = NAME
JURISDICTION = NAME
ACCOUNT = Words("[A-Za-z0-9][A-Za-z0-9 ._@+-]{0,99}", 100, "an account name of at most 100 letters, digits, ' ._@+-'")
ENGINE_CLASS = Words(
    "[A-Za-z0-9][A-Za-z0-9._+-]{0,127}", 128, "a word of at most 128 letters, digits, '.', '_', '+' and '-'"
)
SANDBOX = ENGINE_CLASS
METRIC_NAME = Words(
    "[A-Za-z0-9_][A-Za-z0-9._/@-]{0,63}", 64, "a word of at most 64 letters, digits, '.', '_', '/', '@' and '-'"
)
DECIMAL = Words(r"-?[0-9]{1,15}(?:\.[0-9]{1,15})?", 32, "a finite decimal of at most 15 digits on each side")
METRICS = Decimals(MAX_METRICS, METRIC_NAME, DECIMAL)
ENDED = Words(ended.PATTERN, ended.MAX_CHARS, "how a program ended, exit-N or signal-N")
PATH = Tested(workdir.parse_path, "a path inside the work directory")
PATH_CHARS = workdir.MAX_PATH_BYTES

COUNT = Range(0, MAX_INTEGER)
MS = Range(0, MAX_MS)
EPOCH = Range(0, 2**31 - 1)
STEPS = Range(0, 2**31 - 1)
CPUS = Range(1, 2**20)
MEMORY_BYTES = Range(1, MAX_INTEGER)
SIZE_BYTES = COUNT
ASK = Range(1, MAX_ASK_USD_MICROS)
MONEY = Range(0, MAX_LEDGER_USD_MICROS)
STAKE_PPM = COUNT  # a bond in task prices, times a million: beyond the end the end is said

TABLE: Mapping[str, Bound] = {
    "node": NODE, "job": JOB, "task": TASK, "audit": AUDIT,
    "key": KEY, "buyer": KEY, "market": KEY_ID,
    "operator": OPERATOR, "jurisdiction": JURISDICTION, "engine_class": ENGINE_CLASS, "sandbox": SANDBOX,
    "terms": DIGEST, "token": DIGEST, "assignment": DIGEST, "root": DIGEST, "digest": DIGEST, "environment": DIGEST,
    "checkpoint_root": DIGEST, "candidates": DIGEST, "previous": DIGEST,
    "commitment": HEX32, "salt": HEX32, "blind": HEX32, "answer": HEX32, "beacon_tip": HEX32, "value": HEX32,
    "nonce": NONCE,
    "joined_at": TIME, "submitted_at": TIME, "finished_at": TIME, "answered_at": TIME, "read_at": TIME,
    "measured_at": TIME,
    "cpus": CPUS, "memory_bytes": MEMORY_BYTES, "ask_usd_micros_per_hour": ASK, "bond_usd_micros": MONEY,
    "epoch": EPOCH, "num_steps": STEPS, "seq": EPOCH, "index": EPOCH, "beacon_length": EPOCH,
    "checkpoint_size": COUNT, "size_bytes": SIZE_BYTES,
    "start_ms": MS, "compute_ms": MS, "link_ms": MS, "idle_ms": MS, "audit_ms": MS,
    "wall_ms": MS, "waited_ms": MS, "cpu_ms": MS, "device_ms": MS, "took_ms": MS, "rounds": COUNT,
    "metrics": METRICS,
    "ended": ENDED,
    "Output.name": PATH, "Member.name": NAME,
}  # fmt: skip
LENGTHS: Mapping[str, int] = {"outputs": MAX_OUTPUTS, "members": MAX_MEMBERS}
ELSEWHERE = frozenset({"spec"})  # jobspec.py has the rules of a spec


def check(record: DataclassInstance, what: str) -> None:
    """Refuse a record with a member outside the table.

    Raises:
        FormatError: naming the member, the observed value and what would be accepted.
    """
    found = misfits(record, what)
    if found:
        path, why = found[0]
        raise FormatError(f"{path} is out of bounds", why=why, detail=path.rpartition(".")[2])


def misfits(record: DataclassInstance, what: str) -> list[tuple[str, str]]:
    """Return the path of every member outside the table, and why it is."""
    found: list[tuple[str, str]] = []
    for name, bound in _bounds_of(type(record)):
        value = getattr(record, name)
        if value is None:
            continue  # absent, where it may be
        if isinstance(value, tuple):
            limit = LENGTHS[name]
            if len(value) > limit:
                found.append((f"{what}.{name}", f"{len(value):,} items, at most {limit:,}"))
            for index, item in enumerate(value[:limit]):
                found.extend(misfits(item, f"{what}.{name}[{index}]"))
        elif bound is None:
            found.extend(misfits(value, f"{what}.{name}"))
        elif not bound.fits(value):
            found.append((f"{what}.{name}", f"{shown(value)}, expected {bound.expected}"))
    return found


def shown(value: object) -> str:
    """Return what anybody may have written as one harmless line of bounded length."""
    if not isinstance(value, str):
        return show(value)
    begun = value[: MAX_SHOWN_CHARS + 1]
    spelled = "".join(char if char.isprintable() else _spelled(char) for char in begun)
    if len(spelled) > MAX_SHOWN_CHARS:
        spelled = spelled[: MAX_SHOWN_CHARS - 3] + "..."
    return spelled if begun.strip() else "(empty)"


def printable(text: str) -> str:
    """Return text in which what no screen should obey is spelled out: controls, bidi marks, surrogates, other blanks.

    Line breaks and tabs stay; whoever wants one line splits it.
    """
    if text.isprintable():
        return text
    return "".join(char if char in "\n\t" or char.isprintable() else _spelled(char) for char in text)


def _spelled(char: str) -> str:
    return f"\\x{ord(char):02x}" if ord(char) < 0x100 else f"\\u{{{ord(char):x}}}"


@cache
def _compiled(pattern: str) -> re.Pattern[str]:
    return re.compile(pattern)


@cache
def _bounds_of(cls: type[DataclassInstance]) -> tuple[tuple[str, Bound | None], ...]:
    """Return the members of a record that have a bound, or members with bounds of their own (None)."""
    found: list[tuple[str, Bound | None]] = []
    for field in fields(cls):
        if field.name in ELSEWHERE:
            continue
        bound = TABLE.get(f"{cls.__name__}.{field.name}") or TABLE.get(field.name)
        if bound is None and field.name not in {"spent", "used", *LENGTHS}:
            continue  # an enumeration: record.py knows its members (a test holds this)
        found.append((field.name, bound))
    return tuple(found)
