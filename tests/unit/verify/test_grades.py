"""Grades: what a reading is worth on a fast and on a slow machine, and who may say so; said by both verifiers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from tests.second_verifier.comparison import verify_both
from tests.unit.verify.test_words import World, ids_of

from stannary.formats.jobspec import JobKind, Verification
from stannary.formats.predicates import Assurance, Credential, SettlementLine
from stannary.formats.quantity import PPM
from stannary.rules.grade import ROUND_MS
from stannary.verify.report import Report

SECOND = (1000, ROUND_MS * 1000, ROUND_MS * 1000)  # 1,000 rounds on one processor: exactly one SCU
HALF = (500, ROUND_MS * 1000, ROUND_MS * 1000)
EACH = {name: [SECOND] for name in ("n0", "n1", "n2", "n3", "n4", "n5")}
FRIEND = "n1"  # of lane 0


def graded(tests: dict[str, list[tuple[int, int, int]]], meters: dict[str, int] | None = None, **changes: Any) -> World:
    """Return a job of three lanes, each recomputed, whose nodes showed what `tests` say."""
    world = World(**{"is_ours": False, "assurance": Assurance.FULL, "rounds": 1, "lanes": 3, **changes})
    world.step_ms = 4_000
    for name, shown in tests.items():
        world.nodes[name].tests = list(shown)
    for name, percent in (meters or {}).items():
        world.nodes[name].meter_percent = percent
    return world


def judged(world: World) -> Report:
    return verify_both(world.receipt(), world.trust(), world.now)


def paid(world: World) -> list[SettlementLine]:
    """Return what the rounds of an unrefuted receipt are paid."""
    report = judged(world)
    assert report.claims is not None, report.findings
    assert not ids_of(report) & {"credential.grade", "credential.power", "receipt.settlement"}, report.findings
    return [line for line in report.claims.receipt.settlement if "/l" in line.task]


def test_a_slow_machine_is_paid_for_what_it_did_and_not_for_how_long_it_took() -> None:
    """Half as fast takes twice as long: both sides of the unit are paid as two fast ones, and nothing is apart."""
    slow = graded({**EACH, FRIEND: [HALF]}, {FRIEND: 200})
    slow.play()
    assert {line.usd_micros for line in paid(slow)} == {1_200}
    assert "use.apart" not in ids_of(judged(slow))


def test_the_lower_of_two_tests_is_paid_by() -> None:
    """Who shone at join on a borrowed machine, and was slow when asked again, is paid as slow."""
    shone = graded({**EACH, FRIEND: [SECOND, HALF, SECOND]})
    shone.play()
    assert {line.usd_micros for line in paid(shone) if "/r0/l0/" in line.task} == {600}


def test_who_throttles_when_he_is_measured_is_paid_less() -> None:
    """A throttler's hours are as long as before, and each is worth half."""
    throttled = graded({**EACH, FRIEND: [HALF, SECOND]})
    throttled.play()
    assert {line.usd_micros for line in paid(throttled) if "/r0/l0/" in line.task} == {600}


def test_a_node_nobody_measured_counts_as_one_scu() -> None:
    """A market without tests pays by readings alone."""
    plain = graded({})
    plain.play()
    assert {line.usd_micros for line in paid(plain)} == {1_200}


def test_a_node_alone_is_paid_by_its_grade() -> None:
    """Work that its buyer wants unverified has no second side; its grade counts all the same."""
    alone = graded({FRIEND: [HALF]}, kind=JobKind.COMMAND, lanes=1, verify=Verification.NONE, audit_ppm=0)
    alone.play()
    assert [line.usd_micros for line in paid(alone) if line.reason == "work"] == [200]


def test_the_node_can_only_claim_less_than_was_measured() -> None:
    """The longer of both clocks counts, whoever's it is."""
    for mine_ms, theirs_ms in ((2, 1), (1, 2)):
        test = (1000, mine_ms * ROUND_MS * 1000, theirs_ms * ROUND_MS * 1000)
        world = graded({**EACH, FRIEND: [test]})
        world.play()
        assert {line.usd_micros for line in paid(world) if "/r0/l0/" in line.task} == {600}


def of_friend(change: Callable[[Credential], Credential]) -> Callable[[World], None]:
    def bend(world: World) -> None:
        friend = world.nodes[FRIEND].id
        world.bend["credential"] = lambda said: change(said) if said.node == friend else said

    return bend


def of_power(**changes: Any) -> Callable[[World], None]:
    def bend(world: World) -> None:
        friend = world.nodes[FRIEND].id
        world.bend["power"] = lambda said: replace(said, **changes) if said.node == friend else said

    return bend


def unlogged(world: World) -> None:
    friend = world.nodes[FRIEND].id
    world.bend["power"] = lambda said: None if said.node == friend else said


def stolen(world: World) -> None:
    """The market gives a friend the tests of a faster node."""
    first = world.nodes["n0"].id
    seen: list[Credential] = []

    def bend(said: Credential) -> Credential:
        if said.node == first:
            seen.append(said)
        return replace(said, tests=seen[-1].tests) if said.node == world.nodes[FRIEND].id else said

    world.bend["credential"] = bend


LIES: dict[str, tuple[Callable[[World], None], str]] = {
    "a grade that no test shows": (of_friend(lambda said: replace(said, grade_ppm=2 * PPM)), "credential.grade"),
    "a best grade that no test shows": (of_friend(lambda said: replace(said, best_grade_ppm=1)), "credential.grade"),
    "a grade without tests": (of_friend(lambda said: replace(said, tests=())), "credential.grade"),
    "tests without a grade": (
        of_friend(lambda said: replace(said, grade_ppm=None, best_grade_ppm=None)),
        "credential.grade",
    ),
    "a shorter time than the node's own does not help": (
        of_friend(lambda said: replace(said, grade_ppm=2 * PPM, tests=(replace((said.tests or ())[0], took_ms=1),))),
        "credential.grade",
    ),
    "one test twice": (of_friend(lambda said: replace(said, tests=(said.tests or ()) * 2)), "credential.grade"),
    "a test nobody logged": (unlogged, "credential.grade"),
    "more rounds than the grade was made of": (of_power(rounds=10**6), "credential.grade"),
    "another node's test": (stolen, "credential.grade"),
    "only the best of its tests": (
        of_friend(lambda said: replace(said, tests=(said.tests or ())[-1:])),
        "credential.power",
    ),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_grade_that_its_node_did_not_sign_refutes_the_receipt(lie: str) -> None:
    """A market may not make a friend's hours dear, nor a stranger's cheap."""
    bend, finding = LIES[lie]
    shown = [HALF, SECOND] if finding == "credential.power" else [SECOND]
    world = graded({**EACH, FRIEND: shown})
    bend(world)
    world.play()
    assert finding in ids_of(judged(world))


def test_a_renewal_does_not_lose_the_tests() -> None:
    """A slow node would count as one that nobody measured: as more than it is."""
    world = graded({**EACH, FRIEND: [HALF]})
    world.open()
    world.nodes[FRIEND].tests = []
    world._credential(world.nodes[FRIEND])
    world.run_lanes(0)
    world.audit()
    world.merge(0)
    world.audit()
    world.close()
    assert "credential.grade" in ids_of(judged(world))


def test_a_test_belongs_to_its_node() -> None:
    """The statement is signed by whom it names."""
    world = graded(EACH)
    other = world.nodes["n2"].id
    world.bend["power"] = lambda said: replace(said, node=other) if said.node == world.nodes[FRIEND].id else said
    world.play()
    assert "signature" in ids_of(judged(world))
