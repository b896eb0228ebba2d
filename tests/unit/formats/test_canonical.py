"""Canonical JSON: one spelling, strict reading, bounded cost."""

import json
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stannary.errors import FormatError, LimitExceeded
from stannary.formats import canonical

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53) + 1, 2**53 - 1) | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=15,
)


@given(values)
def test_what_is_encoded_is_decoded_and_canonical(value):
    """Encoding and decoding gives the same value, and the bytes are canonical."""
    data = canonical.encode(value)
    assert canonical.decode(data) == value
    assert canonical.is_canonical(value, data)


@pytest.mark.parametrize("text", ["\x7f", "a\x7fb"])
def test_delete_is_a_character_like_any_other(text):
    """DEL is ASCII and needs no escape (RFC 8785 section 3.2.2.2): plain, it is canonical."""
    data = canonical.encode({text: text})
    assert canonical.is_canonical(canonical.decode(data), data)


@given(values)
def test_white_space_and_order_are_not_canonical(value):
    """Another spelling of the same value decodes but is not canonical."""
    data = json.dumps(value, indent=1).encode()
    assert canonical.is_canonical(canonical.decode(data), data) == (data == canonical.encode(value))


def test_members_are_sorted_by_utf16_code_units():
    """The RFC 8785 example order, which differs from code points beyond the basic plane."""
    names = ["\u20ac", "\r", "\ufb33", "1", "\U0001f600", "\u0080", "\u00f6"]
    encoded = canonical.encode(dict.fromkeys(names, 1)).decode()
    order = [json.loads(f'"{part}"') for part in ("\\r", "1", "\u0080", "\u00f6", "\u20ac", "\U0001f600", "\ufb33")]
    assert list(json.loads(encoded)) == order
    assert canonical.is_canonical(canonical.decode(encoded.encode()), encoded.encode())


@pytest.mark.parametrize(
    "text",
    [
        "",
        "1.0",
        "1e3",
        "NaN",
        "Infinity",
        "-0",
        "9007199254740992",
        "1" * 5000,
        '{"a":1,"a":2}',
        '"\\ud800"',
        '{"\\ud800":1}',
        "[1,]",
        "nul",
        '"unclosed',
        "\ufeff1",
        "[1] x",
        "[}",
        "{]",
        "][",
    ],
)
def test_other_json_is_refused(text):
    """Fractions, NaN, numbers beyond I-JSON, doubled names, lone surrogates and broken syntax are refused."""
    with pytest.raises(FormatError):
        canonical.decode(text.encode())


def test_invalid_utf8_is_refused():
    """Bytes that are not UTF-8 are a FormatError."""
    with pytest.raises(FormatError):
        canonical.decode(b'"\xff"')


@pytest.mark.parametrize("value", [1.5, 2**53, float("nan"), {1: 2}, object(), "\ud800", {"\ud800": 1}, (1,)])
def test_other_values_have_no_canonical_json(value):
    """What cannot be spelled in one way cannot be signed."""
    with pytest.raises(FormatError):
        canonical.encode(value)


@pytest.mark.parametrize("depth", [31, 32])
def test_depth_up_to_the_limit_is_read(depth):
    """The deepest allowed nesting is read, brackets in strings do not count."""
    text = "[" * depth + '"' + "[{" * 100 + '\\""' + "]" * depth
    assert canonical.decode(text.encode())


@pytest.mark.parametrize("depth", [1, 2, 3])
@pytest.mark.parametrize(
    "text",
    [
        '["[[[[",""]',
        '["","[[[["]',
        '["]]","[{"]',
        '["[",["]"]]',
        '[["[{"],{"":"]}","}":""}]',
        r'["\\",["\"["]]',
        '[{"[":{}}]',
    ],
)
def test_depth_is_counted_outside_strings(text, depth):
    """Whatever stands in strings, in neighbours of empty ones and behind escapes, only real brackets nest."""

    def nesting(value):
        inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else None
        return 0 if inner is None else 1 + max(map(nesting, inner), default=0)

    padded = f"[{'[],' * 40}{text}]".encode()  # enough brackets to be looked at closely
    if nesting(json.loads(padded)) <= depth:
        assert canonical.decode(padded, max_depth=depth)
    else:
        with pytest.raises(LimitExceeded):
            canonical.decode(padded, max_depth=depth)


@pytest.mark.parametrize(
    "data",
    [
        b"[" * 33 + b"]" * 33,
        b'{"a":' * 40 + b"1" + b"}" * 40,
        b"[" * 10_000,
        b"[" * 1_000_000 + b"]" * 1_000_000,
        b"[[" + b"[]," * 100_000 + b"[" * 40,
    ],
)
def test_depth_beyond_the_limit_is_refused(data):
    """One level too many is refused, and a million as cheaply."""
    with pytest.raises(LimitExceeded):
        canonical.decode(data)


@pytest.mark.parametrize(
    "data",
    [
        b"[]" * 4_000_000,
        b"][" * 4_000_000,
        b'["' + b"\\" * 8_000_000,
        b"{}" * 20 + b"[" * 8,
        b"[]" * 20 + b'"' + b'\\"' * 40_000,
        b"[]" * 20 + b'"' + b'\\"' * 4_000_000 + b"\\",
    ],
)
def test_hostile_bytes_cost_little(data):
    """Millions of brackets or escapes are refused within seconds, not minutes."""
    start = time.process_time()
    with pytest.raises(FormatError):
        canonical.decode(data)
    assert time.process_time() - start < 10


def test_size_is_bounded():
    """A document over the caller's limit is refused unread."""
    with pytest.raises(LimitExceeded):
        canonical.decode(b"1" * 100, max_bytes=99)
    with pytest.raises(FormatError):
        canonical.decode_object(b"[]")
    with pytest.raises(LimitExceeded):
        nested = []
        for _ in range(40):
            nested = [nested]
        canonical.encode(nested)


@given(st.binary(max_size=100))
def test_any_bytes_are_answered(data):
    """Whatever the bytes, the answer is a value or our error."""
    try:
        canonical.decode(data)
    except FormatError as err:
        assert err.what


def test_foreign_json_keeps_numbers_as_they_are_written():
    """JSON of others may hold fractions and 64-bit integers: they come back as text; the rest is as strict as ours."""
    text = b'{"a": 1.50, "b": 18446744073709551615, "c": -7, "d": [1e3, null, true], "e": 9007199254740991}'
    assert canonical.decode_foreign(text) == {
        "a": "1.50", "b": "18446744073709551615", "c": -7, "d": ["1e3", None, True], "e": 9007199254740991,
    }  # fmt: skip
    for damaged in (b'{"a": 1, "a": 2}', b'{"a": NaN}', b'{"a": Infinity}', b'"\\ud800"', b"{", b"\xff"):
        with pytest.raises(FormatError):
            canonical.decode_foreign(damaged)
    with pytest.raises(LimitExceeded):
        canonical.decode_foreign(b"[" * 33 + b"]" * 33)
    with pytest.raises(LimitExceeded):
        canonical.decode_foreign(b'"' + b"a" * 100 + b'"', max_bytes=100)
    huge = canonical.decode_foreign(b"9" * 100_000)
    assert huge == "9" * 100_000
