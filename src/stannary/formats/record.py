"""Frozen dataclasses to canonical JSON and back, strictly.

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
from typing import TYPE_CHECKING, TypeVar, cast

from stannary.errors import FormatError, LimitExceeded

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

    from stannary.formats.canonical import Json

R = TypeVar("R", bound="DataclassInstance")

MAX_ITEMS = 20_000  # longest list in a signed record: units of one job (docs/limits.md)
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
    return cast(R, _read_record(cls, value, what or cls.__name__))


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


@functools.cache
def _schema(cls: type[DataclassInstance]) -> dict[str, tuple[object, bool]]:
    hints = typing.get_type_hints(cls)
    return {field.name: (hints[field.name], field.default is None) for field in dataclasses.fields(cls)}


def _read_record(cls: type[DataclassInstance], value: Json, path: str) -> object:
    if not isinstance(value, dict):
        raise FormatError(f"{path} is not an object", why=f"a {type(value).__name__}")
    schema = _schema(cls)
    unknown = sorted(set(value) - set(schema))
    if unknown:
        raise FormatError(f"{path} has unknown members", why=", ".join(unknown)[:200])
    arguments: dict[str, object] = {}
    for name, (hint, optional) in schema.items():
        if name in value:
            arguments[name] = _read(hint, value[name], f"{path}.{name}")
        elif not optional:
            raise FormatError(f"{path} lacks a member", why=name)
    return cls(**arguments)


def _read(hint: object, value: Json, path: str) -> object:
    origin = typing.get_origin(hint)
    if origin is types.UnionType or origin is typing.Union:
        (inner,) = [arg for arg in typing.get_args(hint) if arg is not type(None)]
        if value is None:
            raise FormatError(f"{path} is null", why="an absent value is left out")
        return _read(inner, value, path)
    if origin is tuple:
        return _read_tuple(typing.get_args(hint)[0], value, path)
    if origin is dict:
        if not isinstance(value, dict):
            raise FormatError(f"{path} is not an object", why=f"a {type(value).__name__}")
        return _read_dict(typing.get_args(hint)[1], value, path)
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        return _read_record(hint, value, path)
    return _read_scalar(hint, value, path)


def _read_dict(item_hint: object, value: dict[str, Json], path: str) -> dict[str, object]:
    if not (dataclasses.is_dataclass(item_hint) and isinstance(item_hint, type)):
        return dict(value)
    return {name: _read_record(item_hint, item, f"{path}.{name:.80}") for name, item in value.items()}


def _read_tuple(item_hint: object, value: Json, path: str) -> tuple[object, ...]:
    if not isinstance(value, list):
        raise FormatError(f"{path} is not a list", why=f"a {type(value).__name__}")
    if len(value) > MAX_ITEMS:
        raise LimitExceeded(f"{path} is too long", why=f"{len(value):,} items, limit {MAX_ITEMS:,}")
    return tuple(_read(item_hint, item, f"{path}[{index}]") for index, item in enumerate(value))


def _read_scalar(hint: object, value: Json, path: str) -> object:
    base = hint.__supertype__ if isinstance(hint, typing.NewType) else hint
    if not isinstance(base, type):
        raise TypeError(f"{path}: annotation {hint!r} has no JSON form")  # a bug of ours, not bad input
    if issubclass(base, StrEnum):
        if not isinstance(value, str) or value not in {member.value for member in base}:
            raise FormatError(f"{path} is not a {base.__name__}", why=f"{value!r:.80}")
        return base(value)
    # bool is an int in Python: compare exact types, or `true` would pass for 1.
    if type(value) is not base:
        raise FormatError(f"{path} is not a {base.__name__}", why=f"a {type(value).__name__}")
    if isinstance(value, str) and len(value) > MAX_STRING:
        raise LimitExceeded(f"{path} is too long", why=f"{len(value):,} characters")
    return value
