"""Lean records behave as the standard library's frozen, slotted dataclasses do."""

from __future__ import annotations

import copy
import dataclasses
import pickle

import pytest

from stannary.formats import lean


class _Standard:
    name: str
    count: int = 3
    tags: dict[str, int] = dataclasses.field(default_factory=dict)
    note: str | None = dataclasses.field(default=None)


class _Lean:
    name: str
    count: int = 3
    tags: dict[str, int] = dataclasses.field(default_factory=dict)
    note: str | None = dataclasses.field(default=None)


Standard = dataclasses.dataclass(frozen=True, slots=True)(_Standard)
Lean = lean._make(_Lean)
_Standard, _Lean = Standard, Lean  # as a decorator would: pickling looks the name up


@pytest.mark.parametrize("cls", [Standard, Lean])
def test_construction(cls):
    """Positions, names, defaults and fresh factories work; what is missing or too much is a TypeError."""
    assert (cls("a").count, cls("a", note="n").note, cls("a", 4).count) == (3, "n", 4)
    assert cls("a").tags is not cls("a").tags
    for arguments in ([], ["a", 1, {}, None, 5]):
        with pytest.raises(TypeError):
            cls(*arguments)


@pytest.mark.parametrize("cls", [Standard, Lean])
def test_values(cls):
    """Equality is by value and class, hashing needs hashable values, copies and pickles are equal."""
    assert cls("a") == cls("a", 3)
    assert cls("a") != cls("b")
    assert cls("a") != ("a", 3, {}, None)
    assert hash(cls("a", tags=())) == hash(cls("a", tags=()))
    with pytest.raises(TypeError):
        hash(cls("a"))
    one = cls("a", 5, {"x": 1})
    assert copy.deepcopy(one) == copy.copy(one) == pickle.loads(pickle.dumps(one)) == one


@pytest.mark.parametrize("cls", [Standard, Lean])
def test_frozen_and_slotted(cls):
    """Nothing can be changed, deleted or added."""
    one = cls("a")
    for name in ("name", "other"):
        with pytest.raises((dataclasses.FrozenInstanceError, TypeError)):
            setattr(one, name, "b")
    with pytest.raises(dataclasses.FrozenInstanceError):
        del one.name
    assert not hasattr(one, "__dict__")


def test_the_field_protocol():
    """fields, replace, is_dataclass, match arguments and repr are those of the standard decorator."""
    first, second = Standard("a", 5), Lean("a", 5)
    assert dataclasses.is_dataclass(Lean)
    assert [(item.name, item.type) for item in dataclasses.fields(first)] == [
        (item.name, item.type) for item in dataclasses.fields(second)
    ]
    assert dataclasses.replace(second, count=6) == Lean("a", 6)
    assert dataclasses.asdict(first) == dataclasses.asdict(second)
    assert repr(first).replace("Standard", "Lean") == repr(second)
    assert Standard.__match_args__ == Lean.__match_args__


def test_what_it_does_not_do_is_refused():
    """Inheritance between records, __post_init__ and other options are TypeErrors at import."""
    with pytest.raises(TypeError):
        lean.dataclass(frozen=False, slots=True)

    class Child(Lean):
        more: int

    with pytest.raises(TypeError, match="Child"):
        lean.dataclass(frozen=True, slots=True)(Child)
