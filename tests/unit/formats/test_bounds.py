"""The table of bounds: every signed member has one, all three readers share it, nothing outside slips through."""

from __future__ import annotations

import dataclasses
import re
import typing
from enum import StrEnum
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from stannary.errors import FormatError
from stannary.formats import bounds, digest, ids, predicates
from stannary.formats.predicates import Output, Spent
from stannary.wire import message

SIGNED_BY_OTHERS = (
    predicates.Join,
    predicates.Job,
    predicates.Commitment,
    predicates.Contribution,
    predicates.AnswerCommitment,
    predicates.Answer,
    predicates.Reading,
    predicates.Reveal,
)
WORDS = {name: item for name, item in vars(bounds).items() if isinstance(item, bounds.Words)}
ODD = [
    "",
    "\0",
    "a\0",
    "a\n",
    "\n",
    "a" * 10_000,
    "\u202etxt",
    "\ud800",
    "é",
    "e\u0301",
    "\uff11",
    "٣",
    " a",
    "a/../b",
    "-",
]


@pytest.mark.parametrize("record", SIGNED_BY_OTHERS, ids=lambda item: item.__name__)
def test_every_member_a_stranger_signs_has_a_bound(record: type[Any]) -> None:
    """A member added to a statement without a bound fails here."""
    hints = typing.get_type_hints(record)
    for field in dataclasses.fields(record):
        bounded = {field.name, f"{record.__name__}.{field.name}"} & set(bounds.TABLE)
        listed = field.name in bounds.LENGTHS or field.name in bounds.ELSEWHERE or field.name in ("spent", "used")
        hint = hints[field.name]
        is_enumeration = isinstance(hint, type) and issubclass(hint, StrEnum)
        assert bounded or listed or is_enumeration, field.name


@pytest.mark.parametrize("name", sorted(WORDS))
def test_messages_and_statements_accept_the_same_words(name: str) -> None:
    """One pattern, two regex engines: `re` for what is signed and pydantic's for what is sent agree on odd words."""
    words = WORDS[name]
    sent = TypeAdapter(typing.Annotated[str, message.StringConstraints(pattern=words.anchored)])
    for text in [*ODD, "a", "loss", "0.5", "n-0123456789ab", "j-0123456789ab/r0/l0/a0", "sha256:" + "0" * 64]:
        try:
            accepted = sent.validate_python(text) == text
        except (ValidationError, UnicodeEncodeError):
            accepted = False
        assert accepted == words.fits(text), repr(text)


@pytest.mark.parametrize("name", sorted(WORDS))
def test_no_word_repaints_a_screen_or_breaks_a_database(name: str) -> None:
    """What any grammar of the table accepts is printable ASCII."""
    assert not re.search(r"\\[dwsDWS]", WORDS[name].pattern)
    for code in [*range(0x20), *range(0x7F, 0x100), 0x202E, 0x2066, 0xD800, 0xFF11]:
        assert not any(WORDS[name].fits(word) for word in (chr(code), f"aaaa{chr(code)}", f"{chr(code)}aaaa"))


@pytest.mark.parametrize(
    "number", ["nan", "inf", "-inf", "1e5", "1E400", "", ".5", "5.", "+1", "0x1", "1_0", " 1", "1\n", "٣"]
)
def test_only_plain_finite_decimals_are_metrics(number: str) -> None:
    """`nan`, infinities, exponents, text and digits of other scripts are no metric."""
    assert not bounds.METRICS.fits({"loss": number})
    kept, left_out = bounds.METRICS.split({"loss": number, "heldout": "1.25"})
    assert kept == {"heldout": "1.25"}
    assert len(left_out) == 1
    assert "loss" in left_out[0]


def test_a_report_of_too_many_metrics_keeps_the_first() -> None:
    """Eight metrics are signed; the ninth is left out and named, and so is a name nobody could show."""
    reported = {f"m{number}": "1" for number in range(9)} | {"x" * 10_000: "1", "\u202e": "1", "bool": True, "int": 3}
    kept, left_out = bounds.METRICS.split(reported)
    assert list(kept) == [f"m{number}" for number in range(8)]
    assert len(left_out) == 5
    assert all(line.isprintable() and len(line) < 400 for line in left_out)
    assert bounds.METRICS.fits(kept)


@pytest.mark.parametrize("value", [-1, -(2**53 - 1), 2**53 - 1, True, "1", 1.0])
def test_milliseconds_are_whole_and_of_this_life(value: Any) -> None:
    """A phase of -(2^53-1) ms, of 285,000 years, or of the wrong type is refused, however it is nested."""
    read = predicates.Reading(
        ids.JobId("j-" + "0" * 12),
        ids.NodeId("n-" + "0" * 12),
        seq=0,
        previous=digest.digest(b""),
        spent=Spent(0, value, 0, 0, 0),
        read_at="2026-01-01T00:00:00Z",
    )
    with pytest.raises(FormatError, match="compute_ms"):
        bounds.check(read, "reading")


@pytest.mark.parametrize("name", ["", "..", "../x", "/x", "a\0", "a\n", "x" * 1025, "x" * 256, "a\\b", "e\u0301"])
def test_outputs_are_named_by_paths_of_the_work_directory(name: str) -> None:
    """An output's name is a path that stays inside, whoever signs it."""
    assert bounds.misfits(Output(name, digest.digest(b""), 1), "output")


@given(st.text())
def test_whatever_is_shown_is_one_harmless_line(text: str) -> None:
    """`shown` makes of any text a printable word of bounded length that says something."""
    word = bounds.shown(text)
    assert word.isprintable()
    assert 0 < len(word) <= bounds.MAX_SHOWN_CHARS


@given(st.integers())
def test_clamped_numbers_fit(number: int) -> None:
    """Arithmetic on clamped numbers never meets one outside."""
    for bound in (bounds.MS, bounds.COUNT, bounds.MONEY):
        assert bound.fits(bound.clamp(number))
        assert not bound.fits(number) or bound.clamp(number) == number


@dataclasses.dataclass(frozen=True)
class Listing:
    """A record with a list of records."""

    outputs: tuple[Output, ...]
    spec: object = None  # has rules of its own


def test_every_item_of_a_list_is_looked_at_and_a_list_has_an_end() -> None:
    """What is out of bounds is named by its place in the list; beyond the limit nothing is looked at."""
    fine = Output("a", digest.digest(b""), 0)
    bounds.check(Listing((fine, fine)), "x")
    assert bounds.misfits(Listing((fine, Output("../a", digest.digest(b""), 0))), "x")[0][0] == "x.outputs[1].name"
    many = bounds.misfits(Listing((fine,) * (bounds.MAX_OUTPUTS + 1)), "x")
    assert many == [("x.outputs", f"{bounds.MAX_OUTPUTS + 1:,} items, at most {bounds.MAX_OUTPUTS:,}")]


def test_what_is_not_even_of_the_type_does_not_fit() -> None:
    """A number where text is read, a list where metrics are: refused, not raised."""
    assert not bounds.METRICS.fits([]) and not bounds.METRICS.fits({f"m{number}": "1" for number in range(10_000)})
    assert not bounds.TABLE["Output.name"].fits(7)
