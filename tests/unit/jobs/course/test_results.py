"""A result is a result: how a program ended is computed again like its outputs, and paid like them.

Every receipt is judged by the second verifier too.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
from tests.second_verifier.comparison import verify_both
from tests.simulator.day import Day
from tests.simulator.toys import FLIPS, Toy, recipe
from tests.unit.jobs.course import days

from stannary.formats import digest, instants
from stannary.formats.jobspec import JobKind, JobSpec
from stannary.formats.predicates import Receipt, Verdict
from stannary.jobs.course.state import AuditOutcome, Timing
from stannary.rules.reasons import Reason

OPERATORS = ("oak", "elm", "ash", "fir", "yew")
TIMING = Timing(reveal_s=600.0, placing_s=600.0, stall_s=3600.0)


def day(
    end: str,
    saying: dict[int, str] | None = None,
    *,
    seed: int = 0,
    kind: JobKind = JobKind.COMMAND,
    audit_ppm: int = 1_000_000,
    builtin: bool = False,
) -> Day:
    """Return a day of a program that ends so; who says something else is named by number."""
    settings = recipe()
    if builtin:
        settings = replace(settings, entry="builtin:toy", code=digest.digest(b"any code: nothing of it is run"))
    fleet = [
        Toy(f"n{at}", operator, ask=100_000 + 7_000 * at, bond=10_000_000, ends=(saying or {}).get(at))
        for at, operator in enumerate(OPERATORS)
    ]
    made = Day(seed=seed, fleet=fleet, settings=settings, timing=TIMING, kind=kind, rules=3, audit_ppm=audit_ppm)
    made.end = end
    return made


def receipt_of(lived: Day) -> Receipt:
    """Return what both verifiers read of a day."""
    report = verify_both(lived.receipt(), lived.trust(), lived.now)
    assert report.claims is not None
    assert report.exit_code == 0, report.findings
    return report.claims.receipt


def ended_receipt_of(lived: Day) -> Receipt:
    """Return what both verifiers read of a day whose job did not succeed; neither refutes it."""
    report = verify_both(lived.receipt(), lived.trust(), lived.now)
    assert report.claims is not None
    assert report.exit_code == 4, report.findings
    return report.claims.receipt


@pytest.mark.parametrize("end", ["exit-1", "exit-255", "signal-6", "signal-9"])
def test_a_program_that_fails_every_time_is_verified_and_paid(end: str) -> None:
    """Nobody computes for nothing: its end was computed again by others, and the work is paid like any other."""
    lived = days.live(day(end))
    assert lived.market.state.ending is None
    receipt = receipt_of(lived)
    assert receipt.verdict is Verdict.VERIFIED
    lines = [line for line in receipt.settlement if line.reason in {"work", "audit", "withheld"}]
    assert {line.task.partition("/q")[0] for line in lines if line.reason == "work"} == set(lived.contributions)
    assert all(line.usd_micros > 0 for line in lines)
    assert {task.attempt for task in lived.market.state.tasks.values()} == {0}


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(("end", "said"), [("exit-3", "exit-0"), ("exit-0", "exit-3"), ("exit-0", "signal-9")])
def test_who_says_that_a_program_ended_otherwise_is_found_like_false_outputs(end: str, said: str, seed: int) -> None:
    """The outputs are right, the end is not: two others contradict it, and its node is struck and unpaid."""
    lived = days.live(day(end, {0: said}, seed=seed))
    assert lived.struck == {"n0"}
    paid = [line for line in receipt_of(lived).settlement if line.account == "operator:oak"]
    assert sum(line.usd_micros for line in paid) == 0


@pytest.mark.parametrize("end", ["wall-limit", "out-of-memory"])
@pytest.mark.parametrize("seed", range(3))
def test_what_a_limit_cut_is_compared_with_nothing_and_paid(end: str, seed: int) -> None:
    """Every machine leaves something else behind: nobody is struck, all are paid, the word is `sampled` at most."""
    made = day(end, seed=seed)
    for toy in made.fleet.values():
        assert isinstance(toy, Toy)
        toy.manner = frozenset({FLIPS})
    lived = days.live(made)
    assert lived.market.state.ending is None
    assert lived.struck == set()
    receipt = receipt_of(lived)
    assert receipt.verdict is Verdict.SAMPLED
    assert receipt.soundness.checked == 0
    lines = [line for line in receipt.settlement if line.reason in {"work", "audit", "withheld"}]
    assert {line.task.partition("/q")[0] for line in lines if line.reason == "work"} == set(lived.contributions)
    assert all(line.usd_micros > 0 for line in lines)
    assert {task.attempt for task in lived.market.state.tasks.values()} == {0}, "no second attempt"
    outcomes = {item.outcome for item in lived.market.state.audits.values()}
    assert outcomes == {AuditOutcome.AGREED}, "a buyer is not told that somebody got something else"


@pytest.mark.parametrize("seed", range(3))
def test_who_says_that_memory_ran_out_and_lies_is_struck(seed: int) -> None:
    """Two others had enough of it: that is a result which they contradict, and it is unpaid and done again."""
    lived = days.live(day("exit-0", {0: "out-of-memory"}, seed=seed))
    assert lived.struck == {"n0"}
    assert receipt_of(lived).verdict is Verdict.VERIFIED


@pytest.mark.parametrize("seed", range(3))
def test_who_says_that_time_ran_out_where_others_had_enough_is_unpaid_and_not_struck(seed: int) -> None:
    """It may be a slower machine: no blame, no pay for that unit, and another does it."""
    lived = days.live(day("exit-0", {0: "wall-limit"}, seed=seed))
    assert lived.struck == set()
    receipt = receipt_of(lived)
    mine = {task for task, (_, made) in lived.contributions.items() if lived.party(made.node).name == "n0"}
    paid = [line for line in receipt.settlement if line.task in mine and line.reason == "work"]
    assert paid == []
    assert receipt.verdict is Verdict.VERIFIED


@pytest.mark.parametrize("seed", range(3))
def test_an_auditor_who_was_cut_accuses_nobody(seed: int) -> None:
    """One machine is too slow for a program that others finish: whoever it audits is heard by the next in rank."""
    made = day("exit-0", {4: "out-of-memory"}, seed=seed)
    lived = days.live(made)
    assert lived.struck <= {"n4"}
    work = [line for line in receipt_of(lived).settlement if line.reason == "withheld" and "/q" not in line.task]
    assert all(line.account == "operator:yew" for line in work)


@pytest.mark.parametrize("end", ["exit-1", "signal-11", "wall-limit", "out-of-memory"])
@pytest.mark.parametrize("breaks_off_in", [0, 1])
def test_a_recipe_that_breaks_off_every_time_ends_its_job_and_is_paid(end: str, breaks_off_in: int) -> None:
    """It is computed again by others at once, whatever the rate; nobody tries it three times for nothing."""
    made = day(end, kind=JobKind.TRAIN, seed=breaks_off_in, audit_ppm=1)
    made.breaks_off_in = breaks_off_in
    lived = days.live(made)
    assert lived.market.state.ending is not None
    assert lived.market.state.ending.reason == Reason.RUN_FAILED
    message = lived.market.state.ending.message
    assert f"of round {breaks_off_in}" in message
    assert {"wall-limit": "resources.wall_s", "out-of-memory": "resources.memory"}.get(end, "ended with") in message
    assert {"wall-limit": "600 s", "out-of-memory": "1,024 MiB"}.get(end, "") in message
    assert lived.struck == set()
    receipt = ended_receipt_of(lived)
    assert receipt.verdict is Verdict.UNVERIFIED, "there is no result"
    mine = {task for task, (_, item) in lived.contributions.items() if item.ended is not None}
    paid = {line.task: line.usd_micros for line in receipt.settlement if line.reason == "work"}
    audits = [line for line in receipt.settlement if line.reason == "audit"]
    assert mine <= set(paid)
    assert all(amount > 0 for amount in paid.values())
    assert {line.task.partition("/q")[0] for line in audits} >= mine
    assert {task.attempt for task in lived.market.state.tasks.values()} == {0}, "no second attempt"


@pytest.mark.parametrize(
    ("said", "builtin"),
    [("exit-1", False), ("out-of-memory", False), ("wall-limit", False), ("out-of-memory", True), ("wall-limit", True)],
)
@pytest.mark.parametrize("seed", range(3))
def test_who_says_that_a_recipe_broke_off_and_lies_ends_no_job(said: str, seed: int, *, builtin: bool) -> None:
    """Others compute the round and find its delta: its word is unpaid, and the job goes on without it."""
    made = day("exit-0", {0: said}, kind=JobKind.TRAIN, seed=seed, audit_ppm=300_000, builtin=builtin)
    lived = days.live(made)
    assert lived.market.state.ending is None
    assert lived.convicted == set(), "no bond is in dispute over what a limit is said to have cut"
    assert lived.struck == (set() if builtin or said == "wall-limit" else {"n0"})
    receipt = receipt_of(lived)
    false = {task for task, (_, item) in lived.contributions.items() if item.ended is not None}
    assert false
    paid = [line for line in receipt.settlement if line.task in false and line.usd_micros > 0]
    assert paid == []


def test_a_recipe_that_breaks_off_now_and_then_is_not_reproducible() -> None:
    """Three of five machines break off, each otherwise: where outsiders are asked, nobody is blamed.

    Where the beacon lets two who found the same judge each of the three, it looks like three liars, and nobody is left.
    """
    found = []
    for seed in range(4):
        saying = {0: "exit-1", 1: "signal-6", 2: "exit-2"}
        lived = days.live(day("exit-0", saying, kind=JobKind.TRAIN, seed=seed))
        ending = lived.market.state.ending
        assert ending is not None
        assert ending.reason in {Reason.NOT_REPRODUCIBLE, Reason.NO_OUTSIDER, Reason.NO_CAPACITY}
        assert ending.reason != Reason.NOT_REPRODUCIBLE or lived.struck == set()
        found.append(ending.reason)
    assert Reason.NOT_REPRODUCIBLE in found


def test_a_buyer_whose_broker_is_silent_pays_for_every_result_that_is_stored() -> None:
    """He reveals nothing, so nobody is drawn: the job ends unverified, and who handed in has not worked for nothing."""
    made = day("exit-0")
    made.reveals_until = 0
    lived = days.live(made)
    assert lived.market.state.ending is not None
    assert lived.market.state.ending.reason == Reason.BUYER_SILENT
    report = verify_both(lived.receipt(), lived.trust(), lived.now)
    assert report.claims is not None
    receipt = report.claims.receipt
    assert receipt.verdict is Verdict.UNVERIFIED
    paid = {line.task: line.usd_micros for line in receipt.settlement if line.reason == "work"}
    assert set(paid) == set(lived.contributions) != set()
    assert all(amount > 0 for amount in paid.values())


@pytest.mark.parametrize("kind", list(JobKind))
@pytest.mark.parametrize("percent", [100, 10_000])
def test_work_that_is_stopped_at_ninety_nine_per_cent_is_paid(kind: JobKind, percent: int) -> None:
    """By the last reading before the stop: what the node had in hand, never more than the time it may have had it."""
    made = day("exit-0", kind=kind)
    made.cancelled_at_s, made.meter_percent = 40.0, percent
    lived = days.live(made)
    assert lived.market.state.ending is not None
    assert lived.market.state.ending.reason == Reason.CANCELLED
    report = verify_both(lived.receipt(), lived.trust(), lived.now)
    assert report.claims is not None
    stops = {item.predicate.task: item.predicate for item in report.claims.case.stopped}
    paid = {line.task: line for line in report.claims.receipt.settlement if line.reason == "stopped"}
    assert set(paid) == set(stops) != set()
    for task, line in paid.items():
        said = stops[task]
        held_s = instants.parse(said.stopped_at) - instants.parse(said.since)
        ask = report.claims.case.ask_at(said.node, lived.tree.size)
        least, most = (-(-seconds * ask // 3600) for seconds in (held_s, held_s + 1))  # times are whole seconds
        assert 0 < least <= line.usd_micros <= most
        assert percent == 100 or line.usd_micros == most


def test_a_stop_that_never_was_is_refuted() -> None:
    """A market pays its friend for work in hand of a job that nobody stopped: both verifiers see it."""
    made = day("exit-0")
    lived = days.live(made)
    node = next(iter(lived.fleet.values()))
    (task, *_) = lived.contributions
    lived._stop(task, node.id, (lived.now - 100) * 1000)  # the market's own hand
    report = verify_both(lived.receipt(), lived.trust(), lived.now)
    assert {"stopped.reason", "stopped.task"} <= {item.id for item in report.findings}
    assert report.exit_code == 3


class WalledDay(Day):
    """A day of a command whose buyer declares how long it may take."""

    wall_s = 600

    def spec(self) -> JobSpec:
        """Return the job's spec with that limit."""
        spec = super().spec()
        return replace(spec, resources=replace(spec.resources, wall_s=self.wall_s))


def test_what_a_buyer_declares_changes_nothing_of_what_is_paid() -> None:
    """A limit bounds what a task may cost, and says nothing of what it did: four times the limit is the same pay."""
    paid = {}
    for wall_s in (60, 240, 600):
        fleet = [Toy(f"n{at}", operator, ask=100_000, bond=10_000_000) for at, operator in enumerate(OPERATORS)]
        made = WalledDay(seed=0, fleet=fleet, settings=recipe(), timing=TIMING, kind=JobKind.COMMAND, rules=3)
        made.wall_s = wall_s  # a task takes 60 s, by everybody's meter
        receipt = receipt_of(days.live(made))
        paid[wall_s] = {line.usd_micros for line in receipt.settlement if line.reason in {"work", "audit"}}
    assert paid[60] == paid[240] == paid[600]
    assert 0 not in paid[60] != set()
