"""The text of a job file to plain values, and where in the text each stands.

Rules:
1. YAML 1.2, core schema: what people write is what is meant. `8080:80`, `12:30:00`, `2026-11-30`, `1_000`,
   `yes` and `on` are texts; only `true`, `false`, `null`, `~` and numbers in plain digits, 0x, 0o or with a
   point or exponent are more. A number with a leading zero (`010`) stays text: 1.1 reads 8, 1.2 reads 10.
2. A number keeps the spelling it was written in (`Integer.written`), for where text is wanted.
3. The text is bounded, UTF-8 without byte order mark, one document. No key stands twice (the last would
   win silently); no tags but `!!str`, no merge keys; aliases may not make it larger than MAX_VALUES.
4. Every refusal names line and column.

What the values mean is formats/jobfile.py's business.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import yaml

from stannary.errors import SpecError, UsageError
from stannary.formats.text import Position, behind, decode

MAX_TEXT_BYTES = 256 * 1024
MAX_DEPTH = 32  # of nested mappings and lists; the deepest known key lies three levels down, options eight more
MAX_VALUES = 20_000  # in all, aliases counted as often as they are used
MAX_DIGITS = 40  # of a number; the largest that may be signed has 16

_INTEGER = re.compile(r"[-+]?(0|[1-9][0-9]*)")
_OCTAL = re.compile(r"0o[0-7]+")
_HEX = re.compile(r"0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|(0|[1-9][0-9]*)(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_SPECIAL = {".inf": "inf", "+.inf": "inf", "-.inf": "-inf", ".nan": "nan"}
_WORDS = {"true": True, "false": False, "null": None, "~": None, "": None}
_STR_TAG = "tag:yaml.org,2002:str"
_HINTS = {
    "cannot start any token": "indent with spaces, and put text with special characters in quotes",
    "mapping values are not allowed here": "put a text that holds a colon in quotes, and check the indent",
    "special characters are not allowed": "save the file as plain UTF-8 text",
}


class Integer(int):
    """A whole number and its spelling."""

    written: str


class Fraction(float):
    """A number with point or exponent, and its spelling."""

    written: str


@dataclass(frozen=True, slots=True)
class JobText:
    """The values of a text, and the place of each member by its path (`resources.memory`)."""

    value: object
    places: Mapping[str, Position] = field(default_factory=dict)

    def located(self, err: UsageError) -> UsageError:
        """Return an error about a member with the place where that member stands."""
        named = re.match(r"(?:unknown key )?([^\s:]+)", err.what)
        path = named[1] if named else ""
        while path and path not in self.places:
            path = path[: max(path.rfind("."), path.rfind("["), 0)]  # the member it lies in
        if not path:
            return err
        return type(err)(err.what, why=f"{self.places[path]}: {err.why}", hint=err.hint, detail=err.detail)


def read(data: bytes) -> JobText:
    """Read a text.

    Raises:
        SpecError: it breaks a rule, with line and column.
    """
    return _Reader(_decoded(data)).document()


def _decoded(data: bytes) -> str:
    if len(data) > MAX_TEXT_BYTES:
        raise SpecError(
            "the job file is too large",
            why=f"over {MAX_TEXT_BYTES:,} bytes",
            hint="put data into files of the work directory or inputs",
        )
    return decode(data, "the job file")


class _Reader:
    """One reading of a text: events of the YAML parser to values; `places` and `num_values` grow."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._events: Iterator[yaml.Event] = iter(())
        self._anchors: dict[str, tuple[object, int]] = {}
        self._open: set[str] = set()
        self._places: dict[str, Position] = {}
        self._num_values = 0

    def document(self) -> JobText:
        try:
            self._events = iter(yaml.parse(self._text, Loader=yaml.SafeLoader))
            value: object = None
            for event in self._events:
                if isinstance(event, yaml.DocumentStartEvent):
                    if self._num_values:
                        raise self._refusal("a second document begins", event, "keep one job a file")
                    value = self._value(next(self._events), "", 1)
        except yaml.reader.ReaderError as err:
            raise _broken(str(err.reason), behind(self._text[: err.position])) from err
        except yaml.MarkedYAMLError as err:
            mark = err.problem_mark or err.context_mark
            where = Position(mark.line + 1, mark.column + 1) if mark else Position(1, 1)
            raise _broken(" ".join(f"{err.problem or ''} {err.context or ''}".split()), where) from err
        except (yaml.YAMLError, ValueError, OverflowError) as err:  # what the scanner lets through, such as \UFFFFFFFF
            raise _broken(str(err), Position(1, 1)) from err
        return JobText(value, self._places)

    def _value(self, event: yaml.Event, path: str, depth: int) -> object:
        self._count(1, event)
        if isinstance(event, yaml.AliasEvent):
            return self._alias(event)
        if depth > MAX_DEPTH:
            raise self._refusal("nested too deeply", event, f"at most {MAX_DEPTH} levels")
        if path and path not in self._places:
            self._places[path] = _of(event)
        if not isinstance(event, yaml.NodeEvent):
            raise _broken("a value is missing", _of(event))
        self._refuse_tag(event)
        anchor = event.anchor
        if anchor is not None:
            self._open.add(anchor)
        before = self._num_values
        value: object = None
        if isinstance(event, yaml.MappingStartEvent):
            value = self._mapping(path, depth)
        elif isinstance(event, yaml.SequenceStartEvent):
            value = self._sequence(path, depth)
        elif isinstance(event, yaml.ScalarEvent):
            value = self._scalar(event)
        if anchor is not None:
            self._open.discard(anchor)
            self._anchors[anchor] = (value, self._num_values - before + 1)
        return value

    def _mapping(self, path: str, depth: int) -> dict[object, object]:
        members: dict[object, object] = {}
        seen: set[str] = set()
        while not isinstance(event := next(self._events), yaml.MappingEndEvent):
            if not isinstance(event, yaml.ScalarEvent):
                raise self._refusal("a key is no plain text", event, "write key: value")
            if event.value == "<<" and event.implicit[0]:
                raise self._refusal("a merge key", event, "YAML 1.2 has none: write the members out")
            key = self._value(event, "", depth + 1)
            if event.value in seen:
                raise self._refusal(f"key {event.value[:60]!r} stands twice", event, "keep one of the two")
            seen.add(event.value)
            inner = f"{path}.{event.value[:80]}" if path else event.value[:80]
            self._places[inner] = _of(event)
            members[key] = self._value(next(self._events), inner, depth + 1)
        return members

    def _sequence(self, path: str, depth: int) -> list[object]:
        items: list[object] = []
        while not isinstance(event := next(self._events), yaml.SequenceEndEvent):
            items.append(self._value(event, f"{path}[{len(items)}]" if path else "", depth + 1))
        return items

    def _scalar(self, event: yaml.ScalarEvent) -> object:
        text = str(event.value)
        is_plain = event.implicit[0] and event.style is None
        return self._plain(text, event) if is_plain and event.tag is None else text

    def _plain(self, text: str, event: yaml.ScalarEvent) -> object:
        if text in _WORDS or text in ("True", "TRUE", "False", "FALSE", "Null", "NULL"):
            return _WORDS[text.lower()]
        if text.lower() in _SPECIAL:
            return _fraction(_SPECIAL[text.lower()], text)
        if not (text[0].isdigit() or text[0] in "+-."):
            return text
        for pattern, base in ((_INTEGER, 10), (_OCTAL, 8), (_HEX, 16)):
            if pattern.fullmatch(text):
                self._bound_digits(text, event)
                number = Integer(text if base == 10 else text[2:], base)
                number.written = text
                return number
        if _FLOAT.fullmatch(text):
            self._bound_digits(text, event)
            return _fraction(text, text)
        return text

    def _bound_digits(self, text: str, event: yaml.ScalarEvent) -> None:
        if len(text) > MAX_DIGITS:
            raise self._refusal(
                f"a number of {len(text):,} characters", event, "put it in quotes if it is text; numbers end at 2^53"
            )

    def _alias(self, event: yaml.AliasEvent) -> object:
        if event.anchor in self._open:
            raise self._refusal(f"*{event.anchor:.40} stands inside what it names", event, "write the value out")
        if event.anchor not in self._anchors:
            raise self._refusal(f"*{event.anchor:.40} names nothing", event, "write the value out")
        value, weight = self._anchors[event.anchor]
        self._count(weight - 1, event)
        return value

    def _count(self, number: int, event: yaml.Event) -> None:
        self._num_values += number
        if self._num_values > MAX_VALUES:
            raise self._refusal(f"more than {MAX_VALUES:,} values", event, "write less, and without aliases")

    def _refuse_tag(self, event: yaml.NodeEvent) -> None:
        tag: str | None = getattr(event, "tag", None)
        if tag is not None and tag not in (_STR_TAG, "!"):
            raise self._refusal(f"the tag {tag[:60]!r}", event, "write the plain value, text in quotes")

    def _refusal(self, what: str, event: yaml.Event, hint: str) -> SpecError:
        return SpecError(f"the job file holds what no job may: {what}", why=f"at {_of(event)}", hint=hint)


def _fraction(spelled: str, written: str) -> Fraction:
    number = Fraction(spelled)
    number.written = written
    return number


def _of(event: yaml.Event) -> Position:
    mark = event.start_mark
    return Position(mark.line + 1, mark.column + 1) if mark else Position(1, 1)


def _broken(reason: str, where: Position) -> SpecError:
    hint = next((hint for sign, hint in _HINTS.items() if sign in reason), "check the lines above and below it")
    return SpecError("the job file is not YAML", why=f"{where}: {reason:.300}", hint=hint)
