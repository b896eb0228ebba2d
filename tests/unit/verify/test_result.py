"""Whether files at hand are the result: by bytes, never by name."""

import pytest

from stannary.formats import digest
from stannary.formats.statement import Subject
from stannary.verify.report import Findings, Severity
from stannary.verify.result import Sameness, compare_file, compare_folder, judge

ONE, TWO, OTHER = (digest.digest(text) for text in (b"one", b"two", b"other"))
RESULTS = (Subject("l0/out.txt", ONE), Subject("l1/out.txt", TWO))


@pytest.mark.parametrize(
    ("name", "observed", "expected"),
    [
        ("renamed.bin", TWO, ("l1/out.txt", Sameness.SAME)),
        ("l0/out.txt", OTHER, ("l0/out.txt", Sameness.DIFFERS)),
        ("out.txt", OTHER, ("out.txt", Sameness.EXTRA)),  # two results are called so: none of them is meant
        ("notes", OTHER, ("notes", Sameness.EXTRA)),
    ],
)
def test_a_file_is_a_result_by_its_bytes(name, observed, expected):
    """The name only tells which result was meant when the bytes are those of none."""
    found = compare_file(name, observed, RESULTS)
    assert (found.name, found.match) == expected


def test_the_only_result_is_meant_whatever_its_file_is_called():
    """With one result, a file of other bytes differs from it."""
    assert compare_file("copy", OTHER, RESULTS[:1]).match is Sameness.DIFFERS


def test_a_folder_is_compared_file_by_file():
    """Same, differing, missing and extra files are told apart, each once."""
    found = compare_folder({"l0/out.txt": OTHER, "extra": ONE}, RESULTS)
    assert [(item.name, item.match) for item in found] == [
        ("extra", Sameness.EXTRA),
        ("l0/out.txt", Sameness.DIFFERS),
        ("l1/out.txt", Sameness.MISSING),
    ]


@pytest.mark.parametrize(
    ("here", "worst"),
    [
        ({"l0/out.txt": ONE, "l1/out.txt": TWO}, None),
        ({"l0/out.txt": ONE, "l1/out.txt": TWO, "extra": ONE}, Severity.POLICY),
        ({"l0/out.txt": ONE}, Severity.REFUTED),
        ({"l0/out.txt": TWO, "l1/out.txt": ONE}, Severity.REFUTED),
    ],
)
def test_what_a_difference_weighs(here, worst):
    """A missing or swapped result says no, an extra file not enough, the very folder nothing."""
    findings = Findings()
    judge(compare_folder(here, RESULTS), findings)
    assert {item.severity for item in findings.items} == ({worst} if worst else set())


def test_a_job_without_a_result_confirms_no_file():
    """Nothing to compare with is never a yes."""
    findings = Findings()
    judge((), findings)
    assert [item.severity for item in findings.items] == [Severity.POLICY]
