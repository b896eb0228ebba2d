"""Frozen dataclasses to canonical JSON and back, strictly (docs/receipt.md R6.2).

Every signed predicate is a frozen dataclass whose annotations are its schema. Reading refuses
unknown members, missing members and wrong types, so that whatever a signature covers is also
understood: nothing rides along unread.

Annotations understood: `str`, `int`, `bool`, `Digest` and other `NewType`s of `str`, `StrEnum`s,
nested records, `tuple[T, ...]`, `dict[str, Json]` (kept as it is), `dict[str, Record]` and `T | None`.
An optional field that is None is written as absent, so each value has one spelling.
"""

from __future__ import annotations

import dataclasses
import functools
import types
import typing
from enum import StrEnum
from typing import TYPE_CHECKING, TypeAlias, TypeVar, cast

from stannary.errors import FormatError, LimitExceeded

if TYPE_CHECKING:
    from collections.abc import Callable

    from _typeshed import DataclassInstance

    from stannary.formats.canonical import Json

R = TypeVar("R", bound="DataclassInstance")
Reader: TypeAlias = "Callable[[Json], object]"

MAX_ITEMS = 20_000  # longest list in a signed record: the units of one job, with room
MAX_STRING = 1_000_000  # a log tail or a work directory listing stays far below


def to_json(record: DataclassInstance) -> dict[str, Json]:
    """Return the members of `record`, absent where None."""
    members: dict[str, Json] = {}
    for field in dataclasses.fields(record):
        value = getattr(record, field.name)
        if value is not None:
            members[field.name] = _write(value)
    return members


def from_json(cls: type[R], value: Json, *, what: str = "") -> R:
    """Read a `cls` from JSON members.

    Raises:
        FormatError: unknown, missing or ill-typed members; the message names the path.
    """
    try:
        return cast(R, _reader(cls)(value))
    except _Unfit as err:
        path = (what or cls.__name__) + "".join(reversed(err.path))
        raise err.error(f"{path} {err.problem}", why=err.why) from None


def _write(value: object) -> Json:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return to_json(value)
    if isinstance(value, tuple | list):
        return [_write(item) for item in value]
    if isinstance(value, dict):
        return {name: _write(item) for name, item in value.items()}
    if isinstance(value, StrEnum):
        return value.value
    return cast("Json", value)


class _Unfit(Exception):
    """A value that does not fit; containers add their part of the path on the way out."""

    def __init__(self, problem: str, why: str, error: type[FormatError] = FormatError) -> None:
        super().__init__(problem)
        self.problem, self.why, self.error = problem, why, error
        self.path: list[str] = []


@functools.cache
def _reader(hint: object) -> Reader:
    """Return the function that reads `hint`, built once: a receipt holds tens of thousands of values."""
    origin = typing.get_origin(hint)
    if origin is types.UnionType or origin is typing.Union:
        (inner,) = [arg for arg in typing.get_args(hint) if arg is not type(None)]
        return _optional_reader(_reader(inner))
    if origin is tuple:
        return _tuple_reader(_reader(typing.get_args(hint)[0]))
    if origin is dict:
        return _dict_reader(typing.get_args(hint)[1])
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        return _record_reader(hint)
    base = hint.__supertype__ if isinstance(hint, typing.NewType) else hint
    if not isinstance(base, type):
        raise TypeError(f"annotation {hint!r} has no JSON form")  # a bug of ours, not bad input
    return _enum_reader(base) if issubclass(base, StrEnum) else _scalar_reader(base)


def _record_reader(cls: type[DataclassInstance]) -> Reader:
    hints = typing.get_type_hints(cls)
    readers = {field.name: _reader(hints[field.name]) for field in dataclasses.fields(cls)}
    required = {field.name for field in dataclasses.fields(cls) if field.default is not None}

    def read(value: Json) -> object:
        if not isinstance(value, dict):
            raise _Unfit("is not an object", f"a {type(value).__name__}")
        unknown = value.keys() - readers.keys()
        if unknown:
            raise _Unfit("has unknown members", ", ".join(sorted(unknown))[:200])
        missing = required - value.keys()
        if missing:
            raise _Unfit("lacks a member", ", ".join(sorted(missing)))
        arguments: dict[str, object] = {}
        name = ""
        try:
            for name, item in value.items():
                arguments[name] = readers[name](item)
        except _Unfit as err:
            err.path.append(f".{name}")
            raise
        return cls(**arguments)

    return read


def _optional_reader(inner: Reader) -> Reader:
    def read(value: Json) -> object:
        if value is None:
            raise _Unfit("is null", "an absent value is left out")
        return inner(value)

    return read


def _tuple_reader(inner: Reader) -> Reader:
    def read(value: Json) -> object:
        if not isinstance(value, list):
            raise _Unfit("is not a list", f"a {type(value).__name__}")
        if len(value) > MAX_ITEMS:
            raise _Unfit("is too long", f"{len(value):,} items, limit {MAX_ITEMS:,}", LimitExceeded)
        items: list[object] = []
        try:
            for item in value:
                items.append(inner(item))
        except _Unfit as err:
            err.path.append(f"[{len(items)}]")
            raise
        return tuple(items)

    return read


def _dict_reader(item_hint: object) -> Reader:
    inner = _reader(cast("object", item_hint)) if dataclasses.is_dataclass(item_hint) else None

    def read(value: Json) -> object:
        if not isinstance(value, dict):
            raise _Unfit("is not an object", f"a {type(value).__name__}")
        if inner is None:
            return dict(value)
        items: dict[str, object] = {}
        name = ""
        try:
            for name, item in value.items():
                items[name] = inner(item)
        except _Unfit as err:
            err.path.append(f".{name:.80}")
            raise
        return items

    return read


def _enum_reader(base: type[StrEnum]) -> Reader:
    members = {member.value: member for member in base}

    def read(value: Json) -> object:
        if not isinstance(value, str) or value not in members:
            raise _Unfit(f"is not a {base.__name__}", f"{value!r:.80}")
        return members[value]

    return read


def _scalar_reader(base: type) -> Reader:
    def read(value: Json) -> object:
        # bool is an int in Python: compare exact types, or `true` would pass for 1.
        if type(value) is not base:
            raise _Unfit(f"is not a {base.__name__}", f"a {type(value).__name__}")
        if base is str and len(cast("str", value)) > MAX_STRING:
            raise _Unfit("is too long", f"{len(cast('str', value)):,} characters", LimitExceeded)
        return value

    return read
