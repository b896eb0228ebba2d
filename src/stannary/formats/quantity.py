"""Quantities as people write them, and as they are signed: integers of the smallest unit.

    money          0.50, "12.345678"        -> micro-dollars
    size           "1GiB", "256 MiB", 4096  -> bytes (KiB = 1024, kB = 1000)
    probability    1.0, "0.05"              -> parts per million

Rules: nothing is rounded. A value that is no whole number of the smallest unit is refused, so that
what is signed is exactly what was written. Binary fractions go through their shortest decimal
spelling (`0.1` means one tenth), never through float arithmetic.
"""

from __future__ import annotations

import re
from decimal import Decimal, InvalidOperation

from stannary.errors import SpecError

MICROS_PER_DOLLAR = 1_000_000
PPM = 1_000_000
MAX_USD_MICROS = 2**53 - 1  # largest integer of I-JSON, about nine billion dollars
MAX_SIZE_BYTES = 2**50  # one PiB

_SIZE = re.compile(r"(\d{1,16})\s*([A-Za-z]{0,3})")
_UNITS = {
    "": 1, "B": 1,
    "kB": 10**3, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12,
    "KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40,
}  # fmt: skip
_MAX_DECIMAL_CHARS = 40


def usd_micros(value: object, path: str) -> int:
    """Return a dollar amount in micro-dollars; raise SpecError naming `path` for anything else."""
    micros = _scaled(value, path, MICROS_PER_DOLLAR, "a dollar amount such as 0.50")
    if not 0 <= micros <= MAX_USD_MICROS:
        raise SpecError(f"{path} is out of range", why=f"{show(value)}, expected 0 to 9,007,199,254 dollars")
    return micros


def ppm(value: object, path: str) -> int:
    """Return a probability or share between 0 and 1 in parts per million."""
    parts = _scaled(value, path, PPM, "a number between 0 and 1")
    if not 0 <= parts <= PPM:
        raise SpecError(f"{path} is out of range", why=f"{show(value)}, expected a number between 0 and 1")
    return parts


def size_bytes(value: object, path: str) -> int:
    """Return a size in bytes."""
    if isinstance(value, int) and not isinstance(value, bool):
        num_bytes = value
    else:
        match = _SIZE.fullmatch(value.strip()) if isinstance(value, str) else None
        if match is None or match[2] not in _UNITS:
            raise SpecError(f"{path} is not a size", why=show(value), hint='write it like "512MiB" or "2GiB"')
        num_bytes = int(match[1]) * _UNITS[match[2]]
    if not 0 < num_bytes <= MAX_SIZE_BYTES:
        raise SpecError(f"{path} is out of range", why=f"{show(value)}, expected 1 byte to 1024 TiB")
    return num_bytes


def dollars(micros: int) -> str:
    """Spell micro-dollars for people: at least two decimals, no trailing zeros beyond."""
    sign = "-" if micros < 0 else ""
    whole, rest = divmod(abs(micros), MICROS_PER_DOLLAR)
    decimals = f"{rest:06d}".rstrip("0").ljust(2, "0")
    return f"{sign}${whole:,}.{decimals}"


def show(value: object) -> str:
    """Spell an observed value briefly and safely (YAML aliases can make a value's repr explode)."""
    if isinstance(value, str):
        return repr(value if len(value) <= 60 else value[:57] + "...")
    if isinstance(value, int) and not isinstance(value, bool) and value.bit_length() > 128:
        return f"an integer of {value.bit_length()} bits"
    if isinstance(value, list | tuple | set | dict | bytes):
        return f"a {type(value).__name__} of {len(value)}"
    if isinstance(value, bool):
        return "true" if value else "false"
    if value is None or isinstance(value, int | float):
        return "nothing" if value is None else repr(value)
    return f"a {type(value).__name__}"


def _scaled(value: object, path: str, scale: int, expected: str) -> int:
    refusal = SpecError(f"{path} is not {expected}", why=show(value))
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise refusal
    if isinstance(value, int) and value.bit_length() > 128:
        raise refusal
    text = value if isinstance(value, str) else repr(value)
    if len(text) > _MAX_DECIMAL_CHARS:
        raise refusal
    try:
        number = Decimal(text.strip())
    except InvalidOperation:
        raise refusal from None
    # An exponent far outside the range would make the product below a number of a million digits.
    if not number.is_finite() or not -20 <= number.adjusted() <= 20:
        if number.is_zero():
            return 0
        raise refusal
    scaled = number * scale
    if scaled != scaled.to_integral_value():
        raise SpecError(f"{path} is finer than one millionth", why=show(value))
    return int(scaled)
