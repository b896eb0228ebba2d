"""Quantities as people write them, and as they are signed: integers of the smallest unit.

    money          0.50, "12.345678"        -> micro-dollars
    size           "1GiB", "256 MiB", 4096  -> bytes (KiB = 1024, kB = 1000)
    probability    1.0, "0.05"              -> parts per million

Rules: nothing is rounded. A value that is no whole number of the smallest unit is refused, so that
what is signed is exactly what was written. Binary fractions go through their shortest decimal
spelling (`0.1` means one tenth), never through float arithmetic.
"""

from __future__ import annotations

import math
import re
from decimal import Decimal, InvalidOperation

from stannary.errors import SpecError

MICROS_PER_DOLLAR = 1_000_000
PPM = 1_000_000
MAX_USD_MICROS = 2**53 - 1  # largest integer of I-JSON, about nine billion dollars
MAX_SIZE_BYTES = 2**50  # one PiB
MIN_PLAUSIBLE_BYTES = 2**20  # of memory or disk: an interpreter alone takes ten times as much
MAX_BARE_GIB = 64  # a number without unit up to this means GiB to most people, a larger one MiB

_SIZE = re.compile(r"(\d{1,16}(?:\.\d{1,12})?)\s*([A-Za-z]{0,3})", re.ASCII)
_UNITS = {
    "": 1, "B": 1,
    "kB": 10**3, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12,
    "KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40,
}  # fmt: skip
# Units of neighbouring tools, which do not agree whether G is 10^9 or 2^30: asked about, never guessed.
_MEANT = {"k": "KiB", "m": "MiB", "g": "GiB", "t": "TiB"}
_MAX_DECIMAL_CHARS = 40
NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d{1,3})?", re.ASCII)  # Decimal reads more: 1_000, other digits
_DECORATED = re.compile(r"[$\u20ac]?\s*(\d[\d_,]{0,20}(?:\.\d{1,12})?)\s*(?:\$|\u20ac|%|USD|usd|EUR|dollars?|/h)?")


def usd_micros(value: object, path: str) -> int:
    """Return a dollar amount in micro-dollars; raise SpecError naming `path` for anything else."""
    micros = _scaled(value, path, MICROS_PER_DOLLAR, "a dollar amount such as 0.50")
    if not 0 <= micros <= MAX_USD_MICROS:
        raise SpecError(
            f"{path} is out of range",
            why=f"{show(value)}, expected 0 to 9,007,199,254 dollars",
            hint="write dollars, such as 0.50",
        )
    return micros


def ppm(value: object, path: str) -> int:
    """Return a probability or share between 0 and 1 in parts per million."""
    parts = _scaled(value, path, PPM, "a number between 0 and 1")
    if not 0 <= parts <= PPM:
        percent = f"did you mean {parts / PPM / 100:g}?" if 0 <= parts <= 100 * PPM else "write a share, such as 0.05"
        raise SpecError(
            f"{path} is out of range", why=f"{show(value)}, expected a number between 0 and 1", hint=percent
        )
    return parts


def size_bytes(value: object, path: str) -> int:
    """Return a size in bytes."""
    if isinstance(value, int) and not isinstance(value, bool):
        num_bytes = int(value)
    else:
        match = _SIZE.fullmatch(value.strip()) if isinstance(value, str) else None
        if match is None or match[2] not in _UNITS:
            hint = 'write it like "512MiB" or "2GiB"'
            if match is not None and match[2][:1].lower() in _MEANT:
                hint = f"did you mean {match[1]}{_MEANT[match[2][:1].lower()]}?"
            elif isinstance(value, float) and math.isfinite(value):
                hint = f"did you mean {value!r}GiB? a size has a unit"
            raise SpecError(f"{path} is not a size", why=show(value), hint=hint)
        exact = Decimal(match[1]) * _UNITS[match[2]]
        num_bytes = int(exact)
        if num_bytes != exact:
            raise SpecError(f"{path} is no whole number of bytes", why=show(value), hint="write it in a smaller unit")
    if not 0 < num_bytes <= MAX_SIZE_BYTES:
        raise SpecError(
            f"{path} is out of range", why=f"{show(value)}, expected 1 byte to 1024 TiB", hint='write it like "2GiB"'
        )
    return num_bytes


def plausible_size_bytes(value: object, path: str) -> int:
    """Return a size that memory or a disk may have; what is too small says what was likely meant."""
    num_bytes = size_bytes(value, path)
    if num_bytes < MIN_PLAUSIBLE_BYTES:
        unit = "GiB" if num_bytes <= MAX_BARE_GIB else "MiB"
        raise SpecError(
            f"{path} is too small to mean bytes",
            why=f"{show(value)} is {num_bytes:,} bytes; nothing starts in that",
            hint=f"did you mean {num_bytes}{unit}?",
        )
    return num_bytes


def dollars(micros: int) -> str:
    """Spell micro-dollars for people: at least two decimals, no trailing zeros beyond."""
    sign = "-" if micros < 0 else ""
    whole, rest = divmod(abs(micros), MICROS_PER_DOLLAR)
    decimals = f"{rest:06d}".rstrip("0").ljust(2, "0")
    return f"{sign}${whole:,}.{decimals}"


def scu(grade_ppm: int) -> str:
    """Return the grade of a processor for people, in SCU."""
    return f"{grade_ppm / PPM:.3g}"


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
    refusal = SpecError(f"{path} is not {expected}", why=show(value), hint=_number_meant(value))
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise refusal
    if isinstance(value, int) and value.bit_length() > 128:
        raise refusal
    text = value if isinstance(value, str) else repr(value)
    if len(text) > _MAX_DECIMAL_CHARS or NUMBER.fullmatch(text.strip()) is None:
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
        raise SpecError(
            f"{path} is finer than one millionth",
            why=show(value),
            hint="write at most six decimals",
        )
    return int(scaled)


def _number_meant(value: object) -> str:
    """Return a hint that spells the number somebody meant by `$5`, `5 USD`, `1_000`, `1,000`, `50%` or `010`."""
    match = _DECORATED.fullmatch(value.strip()) if isinstance(value, str) else None
    if match is None:
        return "write a plain number"
    digits = match[1].replace("_", "")
    # A comma before exactly three digits groups thousands; before others it is somebody's decimal point.
    digits = digits.replace(",", "") if re.fullmatch(r"\d{1,3}(,\d{3})+(\.\d+)?", digits) else digits.replace(",", ".")
    try:
        number = Decimal(digits)
    except InvalidOperation:
        return "write a plain number"
    if "%" in str(value):
        number /= 100
    return f"did you mean {number.normalize():f}?"
