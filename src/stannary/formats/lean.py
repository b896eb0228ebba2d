"""`@dataclass(frozen=True, slots=True)` at less than half its cost at import.

The standard decorator compiles six functions a class, each on its own, which for the seventy records a verifier knows
was a third of the CPU time of `stannary verify` (bench/help_cpu.py). Here the standard decorator makes fields and
slots, `__init__`, `__eq__` and `__hash__` are compiled in one go, and the rest is shared by all records. To type
checkers it *is* the standard decorator.

Rules:
1. What comes out is a dataclass: construction, `==`, `hash`, `repr`, `fields`, `replace`, copies and the refusal to
   change do the same (tests/unit/formats/test_lean.py holds the two against each other).
2. Only what our records use is understood: plain defaults, `field(default=...)`, `field(default_factory=...)`. No
   inheritance between records, no `__post_init__`, no other option: a TypeError at import.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, NoReturn

__all__ = ["dataclass"]

_ABSENT = object()


def _make(cls: type[Any]) -> type[Any]:
    made = dataclasses.dataclass(init=False, repr=False, eq=False, slots=True)(cls)
    if hasattr(made, "__post_init__") or any(map(dataclasses.is_dataclass, cls.__mro__[1:])):
        raise TypeError(f"{cls.__name__} needs the standard decorator")
    functions: dict[str, Any] = {"_set": object.__setattr__, "_absent": _ABSENT}
    # Annotations are names in our own source and defaults travel as objects: nothing foreign is compiled.
    exec(_source(dataclasses.fields(made), functions), functions)  # noqa: S102
    for name in ("__init__", "__eq__", "__hash__"):
        functions[name].__qualname__ = f"{cls.__qualname__}.{name}"
        setattr(made, name, functions[name])
    for name, shared in _SHARED.items():
        setattr(made, name, shared)
    return made


def _source(fields: tuple[dataclasses.Field[Any], ...], scope: dict[str, Any]) -> str:
    """Return the three functions' source and put defaults into `scope`."""
    parameters, body = ["self"], []
    for item in fields:
        value = item.name
        if item.default_factory is not dataclasses.MISSING:
            scope[f"_make_{item.name}"] = item.default_factory
            parameters.append(f"{item.name}=_absent")
            value = f"_make_{item.name}() if {item.name} is _absent else {item.name}"
        elif item.default is not dataclasses.MISSING:
            scope[f"_default_{item.name}"] = item.default
            parameters.append(f"{item.name}=_default_{item.name}")
        else:
            parameters.append(item.name)
        body.append(f"  _set(self, {item.name!r}, {value})")
    mine, theirs = ("".join(f"{owner}.{item.name}," for item in fields) for owner in ("self", "other"))
    return "\n".join(
        [
            f"def __init__({', '.join(parameters)}):",
            *(body or ["  pass"]),
            "def __eq__(self, other):",
            "  if other.__class__ is not self.__class__: return NotImplemented",
            f"  return ({mine}) == ({theirs})",
            f"def __hash__(self): return hash(({mine}))",
        ]
    )


def _repr(self: Any) -> str:
    listed = ", ".join(f"{item.name}={getattr(self, item.name)!r}" for item in dataclasses.fields(self))
    return f"{type(self).__qualname__}({listed})"


def _refuse_set(_self: Any, name: str, _value: object) -> NoReturn:
    raise dataclasses.FrozenInstanceError(f"cannot assign to field {name!r}")


def _refuse_delete(_self: Any, name: str) -> NoReturn:
    raise dataclasses.FrozenInstanceError(f"cannot delete field {name!r}")


def _get_state(self: Any) -> list[Any]:
    return [getattr(self, item.name) for item in dataclasses.fields(self)]


def _set_state(self: Any, state: list[Any]) -> None:
    for item, value in zip(dataclasses.fields(self), state, strict=True):
        object.__setattr__(self, item.name, value)


_SHARED = {
    "__repr__": _repr,
    "__setattr__": _refuse_set,
    "__delattr__": _refuse_delete,
    "__getstate__": _get_state,
    "__setstate__": _set_state,
}

if TYPE_CHECKING:
    from dataclasses import dataclass
else:

    def dataclass(*, frozen: bool, slots: bool) -> Any:
        """Return the decorator; both arguments must be true, as everywhere here."""
        if not (frozen and slots):
            raise TypeError("lean records are frozen and slotted")
        return _make
