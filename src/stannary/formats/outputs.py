"""Which files of a command's work directory its spec hands in: the grammar of `outputs`.

    result.txt    that file                     results/ or results    every file below that directory
    *.json        `*`, `?` and `[ab]` within    **/*.csv               at any depth, the top included
                  one name                      ** or .                everything

Rules (docs/receipt.md R7.7):
1. A pattern is relative to the work directory. A leading `./` and a trailing `/` mean nothing; `..`, a
   leading `/`, an empty segment, a backslash and control characters are refused, as in any path
   (formats/workdir.py rule 1); so is what only a shell would expand (`~`, `$NAME`, `{a,b}`). `**`
   stands alone between slashes.
2. A pattern that matches a directory stands for every file below it. Names that begin with a dot are
   names like any other; letter case counts.
3. Which bytes a matched file has, and whether its name may travel, is worker/command.py's to say.

The client checks with `parse` before anything is sent, the market and the node with the spec.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterable
from typing import TYPE_CHECKING

from stannary.errors import FormatError, SpecError
from stannary.formats import workdir
from stannary.formats.lean import dataclass

if TYPE_CHECKING:
    from collections.abc import Sequence

ANY_DEPTH = "**"
MAX_PATTERN_CHARS = 1024  # before it is looked at; what is left without `./` is no longer than a path
_VARIABLE = re.compile(r"\$[A-Za-z_{(]")
_BRACES = re.compile(r"\{[^{}]*,[^{}]*\}")


@dataclass(frozen=True, slots=True)
class Pattern:
    """One parsed pattern; no segments at all stand for everything."""

    text: str
    segments: tuple[str, ...]

    def matches(self, path: Sequence[str]) -> bool:
        """Say whether a file, given as the segments of its path, is handed in."""
        states = self._skipped({0})  # how many segments of the pattern may be used up so far
        for name in path:
            states = self._skipped({state for before in states for state in self._after(before, name)})
            if len(self.segments) in states:
                return True  # a file, or a directory on the way to it
        return not self.segments

    def _after(self, state: int, name: str) -> Iterable[int]:
        if state == len(self.segments):
            return ()
        if self.segments[state] == ANY_DEPTH:
            return (state,)
        return (state + 1,) if fnmatch.fnmatchcase(name, self.segments[state]) else ()

    def _skipped(self, states: set[int]) -> set[int]:
        """Add the states that `**` reaches by standing for nothing."""
        reached = set(states)
        for state in states:
            if state < len(self.segments) and self.segments[state] == ANY_DEPTH:
                reached.add(state + 1)
        return reached


def parse(text: str) -> Pattern:
    """Read one pattern.

    Raises:
        SpecError: it breaks rule 1; the message names it.
    """
    if len(text) > MAX_PATTERN_CHARS:
        raise _refused(text, f"at most {MAX_PATTERN_CHARS:,} characters")
    segments = [segment for segment in text.removesuffix("/").split("/") if segment != "."]
    if not text or text.startswith("/") or any(segment in ("", "..") for segment in segments):
        raise _refused(text, "a path inside the work directory, without '..', a leading '/' or '//'")
    if text.startswith("~") or _VARIABLE.search(text) or _BRACES.search(text):
        raise _refused(text, "it out: nothing expands ~, $NAME or {a,b} here; `./~name` is a file of that name")
    if any(ANY_DEPTH in segment and segment != ANY_DEPTH for segment in segments):
        raise _refused(text, "'**' alone between slashes, as in results/**/*.csv")
    if segments:
        try:
            workdir.parse_path("/".join(segments))
        except FormatError as err:
            raise SpecError(f"outputs: {err.what}", why=err.why, hint=err.hint) from err
    once = [part for index, part in enumerate(segments) if part != ANY_DEPTH or segments[index - 1 : index] != [part]]
    return Pattern(text, tuple(once))


def parse_all(texts: Iterable[str]) -> tuple[Pattern, ...]:
    """Read the patterns of one spec.

    Raises:
        SpecError: one breaks rule 1, or two mean the same.
    """
    patterns = tuple(parse(text) for text in texts)
    seen: dict[tuple[str, ...], str] = {}
    for pattern in patterns:
        if pattern.segments in seen:
            raise SpecError(
                "outputs names one pattern twice",
                why=f"{seen[pattern.segments]!r:.120} and {pattern.text!r:.120}",
                hint="leave one of them out",
            )
        seen[pattern.segments] = pattern.text
    return patterns


def _refused(text: str, wanted: str) -> SpecError:
    return SpecError("outputs is not a pattern", why=f"{text!r:.120}", hint=f"write {wanted}")
