"""Which files `outputs` names."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stannary.errors import SpecError
from stannary.formats import outputs


def matches(pattern: str, path: str) -> bool:
    return outputs.parse(pattern).matches(path.split("/"))


@pytest.mark.parametrize(
    ("pattern", "path"),
    [
        ("a.txt", "a.txt"),
        ("./a.txt", "a.txt"),
        ("././results/./a", "results/a"),
        ("*.txt", ".hidden.txt"),
        ("results/", "results/a"),
        ("results", "results/deep/er/a"),
        ("results/**", "results/a"),
        ("results/**", "results/deep/a"),
        ("**", "a"),
        ("**", "deep/a"),
        (".", "deep/a"),
        ("./", "a"),
        ("**/*.csv", "a.csv"),
        ("**/*.csv", "x/y/a.csv"),
        ("**/**/a", "a"),
        ("a/**/b/**/c", "a/b/c"),
        ("a/**/b/**/c", "a/1/b/2/3/c"),
        ("step-[0-9]*/w?", "step-10/w1"),
        ("-rf", "-rf"),
        ("größe/*", "größe/a b"),
    ],
)
def test_what_a_pattern_names(pattern: str, path: str) -> None:
    """Files, directories, `./`, a trailing slash and `**` mean what people write them for."""
    assert matches(pattern, path)


@pytest.mark.parametrize(
    ("pattern", "path"),
    [
        ("a.txt", "b/a.txt"),
        ("*.txt", "b/a.txt"),
        ("results/*.csv", "results/deep/a.csv"),
        ("A.txt", "a.txt"),
        ("results", "results2/a"),
        ("a/**/c", "a"),
        ("**/*.csv", "a.csv.gz"),
    ],
)
def test_what_it_does_not_name(pattern: str, path: str) -> None:
    """`*` stays within one name, and a name is matched whole."""
    assert not matches(pattern, path)


@pytest.mark.parametrize(
    "pattern", ["", "/", "/etc/x", "../x", "a/../b", "a//b", "a**b", "**.csv", "a\\b", "a\nb", "a\0b", "x" * 300]
)
def test_refused_before_the_work(pattern: str) -> None:
    """A pattern that no file of the work directory can have is refused where the spec is read."""
    with pytest.raises(SpecError):
        outputs.parse(pattern)


def test_one_meaning_twice() -> None:
    """Two spellings of one pattern are refused, naming both."""
    with pytest.raises(SpecError) as caught:
        outputs.parse_all(["results", "a", "./results/"])
    assert "'results' and './results/'" in caught.value.why


SEGMENTS = st.lists(st.sampled_from(["a", "b", "*", "**", "a*", "?"]), min_size=1, max_size=6)


@given(SEGMENTS, st.lists(st.sampled_from(["a", "b", "ab"]), min_size=1, max_size=5))
def test_the_same_as_the_definition(segments: list[str], path: list[str]) -> None:
    """The states say what trying every way says."""

    def tried(wanted: list[str], names: list[str]) -> bool:
        if not wanted:
            return True  # used up: a file, or a directory on the way to it
        if not names:
            return all(segment == "**" for segment in wanted)
        if wanted[0] == "**":
            return tried(wanted[1:], names) or tried(wanted, names[1:])
        shapes = {"*": True, "a*": names[0].startswith("a"), "?": len(names[0]) == 1}
        return shapes.get(wanted[0], wanted[0] == names[0]) and tried(wanted[1:], names[1:])

    assert outputs.parse("/".join(segments)).matches(path) == tried(segments, path)


@pytest.mark.parametrize("text", ["~/out.txt", "~", "$OUT/x", "${OUT}/x", "$(pwd)/x", "out/{a,b}.txt"])
def test_what_only_a_shell_expands_is_refused(text: str) -> None:
    """A home, a variable or braces would be taken by the letter and match nothing: told before the work."""
    with pytest.raises(SpecError) as caught:
        outputs.parse(text)
    assert "expands" in caught.value.hint


def test_odd_names_stay_possible() -> None:
    """`./~name` and a dollar sign in a name are names."""
    assert outputs.parse("./~name").matches(["~name"])
    assert outputs.parse("cost-in-$.txt").matches(["cost-in-$.txt"])


@pytest.mark.parametrize("text", ["{" + "," * 3_000_000, "./" * 600 + "x", "a" * 1025])
def test_a_pattern_is_bounded_before_it_is_looked_at(text: str) -> None:
    """An order of megabytes of commas is refused by its length; reading it would take days."""
    with pytest.raises(SpecError, match="not a pattern"):
        outputs.parse(text)
