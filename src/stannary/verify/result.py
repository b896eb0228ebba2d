"""Whether files at hand are the result a receipt is about.

Rules:
1. A file is a result if its bytes have the digest the receipt's statement names; a name proves nothing.
2. A single file may be any one of the results. A folder must hold every result under its name, and nothing else:
   a result that is missing or differs says no, a file the receipt does not know says not enough.

Hashing the files is left to the caller.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import StrEnum

from stannary.formats.digest import Digest
from stannary.formats.lean import dataclass
from stannary.formats.statement import Subject
from stannary.verify.report import Findings


class Sameness(StrEnum):
    """How one file and one result compare."""

    SAME = "same"
    DIFFERS = "differs"
    MISSING = "missing"
    EXTRA = "extra"


@dataclass(frozen=True, slots=True)
class Compared:
    """One name: what lies here, and what the receipt says."""

    name: str
    match: Sameness
    observed: Digest | None = None
    expected: Digest | None = None


def compare_file(name: str, observed: Digest, results: Sequence[Subject]) -> Compared:
    """Compare one file with all results: the one of its bytes, else the one its name means."""
    for result in results:
        if result.digest == observed:
            return Compared(result.name, Sameness.SAME, observed, result.digest)
    meant = [item for item in results if item.name == name or item.name.rpartition("/")[2] == name]
    if len(meant) == 1 or len(results) == 1:
        expected = (meant or list(results))[0]
        return Compared(expected.name, Sameness.DIFFERS, observed, expected.digest)
    return Compared(name, Sameness.EXTRA, observed)


def compare_folder(observed: Mapping[str, Digest], results: Sequence[Subject]) -> tuple[Compared, ...]:
    """Compare every file of a folder, by its path in it, with the results."""
    expected = {item.name: item.digest for item in results}
    compared = []
    for name in sorted(expected.keys() | observed.keys()):
        here, said = observed.get(name), expected.get(name)
        if here is None:
            match = Sameness.MISSING
        elif said is None:
            match = Sameness.EXTRA
        else:
            match = Sameness.SAME if here == said else Sameness.DIFFERS
        compared.append(Compared(name, match, here, said))
    return tuple(compared)


def judge(compared: Sequence[Compared], findings: Findings) -> None:
    """Add a finding for everything that is not the result (rule 2)."""
    for item in compared:
        if item.match is Sameness.DIFFERS:
            findings.refute(
                "result.differs", item.name, item.observed, item.expected, "fetch it again: stannary get JOB"
            )
        elif item.match is Sameness.MISSING:
            findings.refute("result.missing", item.name, "not in the folder", item.expected, "stannary get JOB")
        elif item.match is Sameness.EXTRA:
            findings.below_policy("result.extra", item.name, item.observed, "only what the receipt names")
    if not compared:
        findings.below_policy("result.none", "receipt", "the job has no result", "a job that succeeded")
