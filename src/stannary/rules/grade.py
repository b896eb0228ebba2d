"""The grade of a node: what a second of one of its processors is worth, in millionths of a SCU (docs/receipt.md R6.25).

    grade of a test     rounds x ROUND_MS x 10^6 / (processors x milliseconds), the longer of both sides' clocks
    in price            the least of the tests a credential names
    in time limits      the greatest of them

Rules:
1. The market asks unannounced and measures by its own clock, from the question until the answer is there. The node
   signs how much it did and how long that took by its own: it can claim less than was measured, never more.
2. The lower counts for price: who shines once, on a machine he borrowed, is paid by what he shows the next time.
   The higher counts for time limits: who throttles when he is measured has no more time for it, and is paid less.
3. The last MAX_TESTS count, so that one bad minute is forgotten. A node that joins again keeps its tests.
4. A node that nobody measured has the grade UNGRADED_PPM: markets before this rule, and such as do not measure.

5. What its processes waited for a processor counts, other than in a reading (rules/use.py): only the node's own kernel
   knows of it, and a test has no second side whose lower word would be paid. So a node that sells processors which
   something else is at is paid less twice, by its grade and by its readings; its operator is told (agent/power.py).

One processor of grade 1 is one SCU: it does a round of the test (stannary/power.py) in ROUND_MS, the start of the test
and the way of the answer among it. That is a definition, not a measurement of some machine; bench/quick_grade.py prints
what the machine it runs on comes to.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from stannary.formats.bounds import Range
from stannary.formats.digest import Digest
from stannary.formats.predicates import Credential
from stannary.formats.quantity import PPM
from stannary.formats.shown import GradeTest, ShownPower

UNGRADED_PPM = PPM
ROUND_MS = 80  # what one SCU is
MAX_TESTS = 3
GRADE_PPM = Range(1, 1000 * PPM)


def of_test(power: ShownPower, took_ms: int) -> int:
    """Return the grade that one test shows; `took_ms` by the market's clock (rule 1)."""
    longest_ms = max(took_ms, power.took_ms, 1)
    return GRADE_PPM.clamp(max(power.rounds, 0) * ROUND_MS * PPM // (max(power.cpus, 1) * longest_ms))


def of_tests(tests: Sequence[tuple[ShownPower, int]]) -> tuple[int, int]:
    """Return the grades in price and in time limits that tests show, each with its time (rules 2 and 4)."""
    found = [of_test(power, took_ms) for power, took_ms in tests]
    return min(found, default=UNGRADED_PPM), max(found, default=UNGRADED_PPM)


def in_price(credential: Credential) -> int:
    """Return the grade that work under a credential is paid by."""
    return GRADE_PPM.clamp(credential.grade_ppm) if credential.grade_ppm is not None else UNGRADED_PPM


def in_limits(credential: Credential) -> int:
    """Return the grade that time limits reckon with."""
    return GRADE_PPM.clamp(credential.best_grade_ppm) if credential.best_grade_ppm is not None else UNGRADED_PPM


def problem(
    credential: Credential, powers: Mapping[Digest, tuple[int, ShownPower]], index: int, *, had_tests: bool
) -> str:
    """Return why a credential's grade is not what its node signed, empty if it is (R12.20).

    Args:
        powers: the nodes' statements of what they did, with their log indexes, by leaf.
        index: where the credential stands in the log.
        had_tests: whether an earlier credential of the node named tests.
    """
    tests = credential.tests or ()
    stated = (credential.grade_ppm, credential.best_grade_ppm)
    if not tests:
        return "tests that were named are gone" if had_tests else "" if stated == (None, None) else "no tests"
    said = [powers.get(test.power) for test in tests]
    known = [(power, test.took_ms) for test, (at, power) in _present(tests, said) if at < index]
    if len(known) != len(tests) or len(tests) > MAX_TESTS:
        return "a test that its node did not sign before"
    if any(power.node != credential.node for power, _ in known):
        return "a test of another node"
    if len({power.nonce for power, _ in known}) != len(known):
        return "one test twice"
    shown = of_tests(known)
    return "" if stated == shown else f"{stated[0]} and {stated[1]} ppm, its tests show {shown[0]} and {shown[1]}"


def _present(
    tests: Sequence[GradeTest], said: Sequence[tuple[int, ShownPower] | None]
) -> list[tuple[GradeTest, tuple[int, ShownPower]]]:
    return [(test, item) for test, item in zip(tests, said, strict=True) if item is not None]
