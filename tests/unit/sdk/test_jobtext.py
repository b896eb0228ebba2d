"""The text of a job file: what is written is what is meant, or the line that is wrong."""

from __future__ import annotations

import contextlib
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stannary.errors import SpecError
from stannary.formats import jobfile
from stannary.sdk import jobtext


def value(text: str) -> object:
    read = jobtext.read(f"x: {text}\n".encode()).value
    assert isinstance(read, dict)
    return read["x"]


@pytest.mark.parametrize(
    "text",
    [
        "8080:80", "12:30:00", "1:30", "2026-11-30", "2026-11-30T05:33:18Z", "1_000", "yes", "no", "on", "off", "Y",
        "010", "007", "-010", "0b11", "1e", "0o8", "0xG", "1.2.3", "+", ".", "1,000", "=", "08", "00.5",
    ],
)  # fmt: skip
def test_texts_stay_texts(text: str) -> None:
    """What YAML 1.1 makes numbers, dates and booleans of is taken as it is written."""
    assert value(text) == text


@pytest.mark.parametrize(
    ("text", "number"),
    [("0", 0), ("31", 31), ("-7", -7), ("+7", 7), ("0x1F", 31), ("0o17", 15), ("1e3", 1000.0), ("0.50", 0.5),
     (".5", 0.5), ("-1.5E-2", -0.015), ("1.", 1.0)],
)  # fmt: skip
def test_numbers_keep_their_spelling(text: str, number: float) -> None:
    """A number of YAML 1.2 is one, and an environment variable gets it as it was written."""
    read = value(text)
    assert read == number
    draft = jobfile.parse(jobtext.read(f"run: a\nenvs: {{X: {text}}}\n".encode()).value)
    assert draft.spec.envs == {"X": text}


def test_words_and_quotes() -> None:
    """true, false and null are what they are; anything in quotes or a block is text."""
    assert [value(text) for text in ("true", "FALSE", "~", "null", "")] == [True, False, None, None, None]
    assert [value(text) for text in ("'010'", '"8080:80"', "!!str 5", "|\n  7")] == ["010", "8080:80", "5", "7\n"]


@pytest.mark.parametrize(
    ("text", "where", "word"),
    [
        ("a: 1\nb: 2\na: 3\n", "line 3, column 1", "stands twice"),
        ("a: {b: 1, b: 2}\n", "line 1, column 11", "stands twice"),
        ("a: &x [*x]\n", "line 1, column 8", "inside what it names"),
        ("a: *nope\n", "line 1, column 4", "names nothing"),
        ("base: &b {c: 1}\nd:\n  <<: *b\n", "line 3, column 3", "merge key"),
        ("a: !!python/object/apply:os.system ['true']\n", "line 1, column 4", "tag"),
        ("a: !!binary aGk=\n", "line 1, column 4", "tag"), ("a: !foo 1\n", "line 1, column 4", "tag"),
        ("a:\n\tb: 1\n", "line 2, column 1", "not YAML"), ("a: [1, 2\n", "line 2", "not YAML"),
        ("a: b: c\n", "line 1, column 5", "not YAML"), ("a: \x00\n", "line 1, column 4", "not YAML"),
        ("a: 1\nb: \x1b[2J\n", "line 2, column 4", "not YAML"), ("a: \x7f", "line 1, column 4", "not YAML"),
        ("a: " + "[" * 100, "line 1", "nested too deeply"), ("a: 1\n---\nb: 2\n", "line 2", "second document"),
        ("a: " + "9" * 5000 + "\n", "line 1, column 4", "number of 5,000"),
        ("? [1]\n: 2\n", "line 1", "key is no plain"),
        ('a: "\\UFFFFFFFF"\n', "line 1", "not YAML"),
        ("a: 1\n b: 2\n", "line 2", "not YAML"), ("'", "line 1", "not YAML"),
    ],
)  # fmt: skip
def test_refusals_name_line_and_column(text: str, where: str, word: str) -> None:
    """Doubled keys, aliases in circles, merge keys, tags, tabs, controls, depth, second documents: where and what."""
    with pytest.raises(SpecError, match=word) as caught:
        jobtext.read(text.encode())
    assert where in caught.value.why
    assert caught.value.hint
    assert "\x1b" not in caught.value.diagnostics()


@pytest.mark.parametrize(
    ("data", "word"),
    [(b"\xef\xbb\xbfname: a\n", "byte order mark"), ("name: a\n".encode("utf-16"), "byte order mark"),
     (b"name: a\nrun: \xff\n", "not UTF-8"), (b"#" * (jobtext.MAX_TEXT_BYTES + 1), "too large")],
)  # fmt: skip
def test_bytes_that_are_no_text(data: bytes, word: str) -> None:
    """Byte order marks, other encodings and size are told in those words."""
    with pytest.raises(SpecError, match=word) as caught:
        jobtext.read(data)
    assert caught.value.hint


def test_aliases_within_bounds_are_understood() -> None:
    """A value used twice is the same value; a bomb of aliases is refused before it goes off."""
    assert jobtext.read(b"a: &x [1, 2]\nb: *x\n").value == {"a": [1, 2], "b": [1, 2]}
    bomb = "a0: &a0 [1,1]\n" + "".join(f"a{i}: &a{i} [{','.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 10))
    with pytest.raises(SpecError, match="values"):
        jobtext.read(bomb.encode())


def test_the_largest_text_is_read_or_refused_in_time() -> None:
    """A hostile text of the full size costs seconds, not minutes, of this process's time."""
    for text in ("[" * 200_000, "- " * 100_000, "a: &a b\n" * 30_000, "{" * 200_000, "? " * 100_000, "'" * 200_000):
        started = time.process_time()
        with contextlib.suppress(SpecError):
            jobtext.read(text.encode())
        assert time.process_time() - started < 30, text[:4]


@given(st.text(alphabet=st.sampled_from("ab: -[]{}&*!|>'\"%@`#\n\t,?0x1e.~<\\"), max_size=60))
def test_any_text_gives_values_or_our_error(text: str) -> None:
    """Whatever a text holds, reading it gives plain values or an error of ours."""
    with contextlib.suppress(SpecError):
        jobtext.read(text.encode())


@pytest.mark.parametrize(
    ("text", "line", "meant"),
    [
        ("memory: 2", 3, "2GiB"), ("memory: 512", 3, "512MiB"), ("memory: 2G", 3, "2GiB"), ("memory: 2Gi", 3, "2GiB"),
        ("memory: 16 gb", 3, "16GiB"), ("memory: 0.5", 3, "0.5GiB"), ("memory: 010", 3, "10GiB"),
        ("disk: 10", 3, "10GiB"),
        ("disk: 100m", 3, "100MiB"), ("cpus: 0.5", 3, "1?"), ("cpus: 500m", 3, "1?"), ("cpus: 4000", 3, "4?"),
        ("cpus: 010", 3, "10?"), ("cpus: '4'", 3, "4?"), ("cpus: 1_0", 3, "digits"), ("wall_s: 10m", 3, "600?"),
        ("wall_s: 1h30m", 3, "5400?"), ("wall_s: 12:30:00", 3, "45000?"), ("wall_s: 2 days", 3, "172800?"),
        ("wall_s: 3600000", 3, "3600?"), ("wall_s: 1e3", 3, "1000?"), ("wall_s: 1_000", 3, "1000?"),
        ("wall_s: 0.5", 3, "1?"), ("memory: -1", 3, "GiB"), ("wall_s: 10ms", 3, "digits"),
        ("wall_s: 1 month", 3, "digits"),
        ("memory: .inf", 3, "write it like"), ("disk: .nan", 3, "write it like"), ("wall_s: 90 minutes", 3, "5400?"),
    ],
)  # fmt: skip
def test_absurd_resources_name_what_was_meant(text: str, line: int, meant: str) -> None:
    """A size without unit, a time with one, millicores and milliseconds: the line, and the likely meaning."""
    read = jobtext.read(f"run: a\nresources:\n  {text}\n".encode())
    with pytest.raises(SpecError, match="resources") as caught:
        jobfile.parse(read.value)
    found = read.located(caught.value)
    assert f"line {line}, column 3" in found.why
    assert meant in found.hint


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("budget: $5", "5?"), ("budget: 5 USD", "5?"), ("budget: '5,00'", "5?"), ("budget: 1_000", "1000?"),
        ("budget: 1,000.50", "1000.5?"), ("budget: 0", "0.50"), ("budget: 5000000000", "5000.00?"),
        ("budget: .inf", "number"), ("trust: {max_price: 2500000}", "2.50?"), ("trust: {audit: 50}", "0.5?"),
        ("trust: {audit: 50%}", "0.5?"), ("budget: 0.0000001", "six decimals"), ("num_nodes: 1e3", "1000?"),
    ],
)  # fmt: skip
def test_absurd_money_and_shares_name_what_was_meant(text: str, meant: str) -> None:
    """Currency signs, separators, millionths and percents: refused with the number that was meant."""
    with pytest.raises(SpecError) as caught:
        jobfile.parse(jobtext.read(f"run: a\n{text}\n".encode()).value)
    assert meant in caught.value.hint


@pytest.mark.parametrize("text", ["1.5GiB", "1 GiB", "2147483648", "1024MiB", "0.5 TiB"])
def test_sizes_that_mean_one_thing(text: str) -> None:
    """Sizes with a unit, with decimals where they are whole bytes, and plain bytes are taken."""
    jobfile.parse(jobtext.read(f"run: a\nresources: {{memory: {text}}}\n".encode()).value)


def test_located_names_the_nearest_member_that_stands_in_the_text() -> None:
    """An error about a member of a list or of an inner mapping gets the place of what can be pointed at."""
    read = jobtext.read(b"run: a\ninputs:\n  corpus: {path: x}\noutputs: [a, b]\n")
    assert "line 3, column 12" in read.located(SpecError("inputs.corpus.path is no file", why="x")).why
    assert "line 4, column 14" in read.located(SpecError("outputs[1] is no pattern", why="x")).why
    assert "line 4, column 1" in read.located(SpecError("outputs names one file twice", why="x")).why
    assert read.located(SpecError("recipe.rounds is missing", why="x")).why == "x"
