"""The second verifier, written from docs/receipt.md alone, says of honest and of bent receipts what ours says."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests import second_verifier
from tests.second_verifier import shapes
from tests.second_verifier.comparison import assert_same, second
from tests.second_verifier.values import Malformed

from stannary.errors import StannaryError
from stannary.formats import digest, jobspec, predicates, record
from stannary.formats.jobspec import JobKind, Verification
from stannary.verify.case import KINDS
from stannary.verify.receipt import verify_receipt

from .world import World

SIGNED = {**KINDS, "receipt": predicates.Receipt}
WORDS = ("T1", "site", "prover", "auditor", "refuted", "merge", "answer", "lost", "else")
TIME = "2031-01-01T00:00:00Z"
CHANGES = 2  # of each member: to a neighbour, to something else
WORLDS: dict[str, Callable[[], World]] = {
    "train": lambda: World(rounds=2, lanes=2),
    "partly drawn": lambda: World(rounds=2, audit_ppm=500_000, seed=3),
    "liar": lambda: World(rounds=1, liars={"n3"}),
    "false accuser": lambda: World(rounds=1, false_accusers={"n2"}),
    "silent prover": lambda: World(rounds=1, silent={"n3"}),
    "command": lambda: World(kind=JobKind.COMMAND, lanes=2),
    "stopped": lambda: world_of("stopped"),
    "graded": lambda: world_of("power"),
    "unasked": lambda: World(kind=JobKind.COMMAND, lanes=2, verify=Verification.NONE),
}


class StoppedWorld(World):
    """One lane of a command, stopped by its buyer while its node worked."""

    def __init__(self) -> None:
        super().__init__(kind=JobKind.COMMAND, lanes=1, assurance=predicates.Assurance.SAMPLED)

    def play(self) -> World:
        """Order, place, work, stop."""
        self.open()
        self.stop(0)
        self.close()
        return self

    def receipt(self, *, status: str = "cancelled", reason: str = "cancelled") -> bytes:
        """Return the receipt of a job that was cancelled."""
        return super().receipt(status=status, reason=reason)


def world_of(kind: str) -> World:
    """Return a small world in which this kind of statement is made."""
    if kind == "power":
        graded = World(rounds=1, lanes=2, assurance=predicates.Assurance.FULL)
        for at, node in enumerate(graded.nodes.values()):
            node.tests = [(1000 + at, 15_000, 15_100), (900, 15_000, 14_000)]
        return graded
    return StoppedWorld() if kind == "stopped" else World(rounds=1, lanes=2, silent={"n2"})


@pytest.fixture(scope="module")
def said() -> dict[str, list[dict[str, Any]]]:
    """What an honest market, buyer and nodes sign there, kind by kind."""
    heard: dict[str, list[dict[str, Any]]] = {kind: [] for kind in SIGNED}
    for world, kinds in ((world_of(""), SIGNED), (world_of("stopped"), ("stopped",)), (world_of("power"), ("power",))):
        for kind in kinds:
            world.bend[kind] = lambda made, kind=kind: (heard[kind].append(record.to_json(made)), made)[1]
        world.play().receipt()
    return heard


@pytest.mark.parametrize("name", WORLDS)
def test_it_computes_what_an_honest_receipt_states(name):
    """Draws, verdicts, prices and totals, computed from the page, are those the market signed."""
    world = WORLDS[name]().play()
    data = world.receipt()
    report, outcome = verify_receipt(data, world.trust(), world.now), second(data, world.trust(), world.now)
    stated = record.to_json(report.claims.receipt)
    assert {"settlement", "soundness", "verdict", "time_split", "paid_usd_micros"} <= set(outcome.computed)
    assert outcome.computed == {member: stated[member] for member in outcome.computed}


@pytest.mark.parametrize("kind", SIGNED)
def test_it_refutes_what_ours_refutes(kind, said):
    """Each member of each kind of statement, changed by who signs it, brings the same findings from both verifiers."""
    worker = said["contribution"][0]["node"]
    nth = next((at for at, made in enumerate(said[kind]) if made.get("node") == worker), len(said[kind]) // 2)
    honest = said[kind][nth]
    refuted = set()
    for member, value in honest.items():
        read = [bent for changed in changes(value) if (bent := as_record(kind, {**honest, member: changed}))]
        for bent in read[:CHANGES]:
            world = world_of(kind)
            world.bend[kind] = replace_nth(nth, bent)
            report = verify_receipt(played(world, said), world.trust(), world.now)  # conftest.py verifies it twice
            refuted |= {member} if report.exit_code == 3 else set()
    assert refuted, f"no member of a {kind} matters to anybody"


@pytest.mark.parametrize("kind", SIGNED)
def test_it_reads_the_same_shapes(kind, said):
    """What is missing, unknown, null or of another type in a statement is malformed to both, wherever it stands."""
    outcomes = set()
    for bent in misshapen(said[kind][0]):
        read = reads(record.from_json, SIGNED[kind], bent)
        assert read == reads(shapes.check, bent, shapes.KINDS[kind]), bent
        outcomes.add(read)
    assert outcomes == {True, False} or kind == "commitment"


def test_it_reads_the_same_specs(said):
    """So it is with a job's spec, and with values in it outside their limits."""
    outcomes = set()
    command = jobspec.to_canonical(World(kind=JobKind.COMMAND).spec())
    for honest in (said["job"][0]["spec"], command):
        for bent in (*misshapen(honest), *outside(honest)):
            read = reads(jobspec.from_canonical, bent)
            assert read == reads(shapes.check_spec, bent), bent
            outcomes.add(read)
    assert outcomes == {True, False}


def test_nothing_of_ours_is_in_it():
    """But for the module that compares, no module of the second verifier imports stannary."""
    for path in Path(second_verifier.__path__[0]).glob("*.py"):
        imported = [node for node in ast.walk(ast.parse(path.read_text("utf-8"))) if isinstance(node, ast.ImportFrom)]
        assert ("stannary" in {str(node.module).partition(".")[0] for node in imported}) == (
            path.name == "comparison.py"
        )


def changes(value: Any) -> Iterator[Any]:
    """Yield other values of the same type; the first that a reader takes is used."""
    if isinstance(value, int):
        yield from (value + 1, -value - 1)
    elif isinstance(value, str):
        yield TIME if value.endswith("Z") else value[:-1] + ("0" if value[-1:] != "0" else "1")
        yield from (word for word in WORDS if word != value)
    elif isinstance(value, list):
        yield from ([value[:-1]] if value else [["n-000000000000"]])
    elif isinstance(value, dict):
        for name, item in value.items():
            yield from ({**value, name: changed} for changed in changes(item))


def as_record(kind: str, members: dict[str, Any]) -> Any:
    """Return the predicate these members make, None where they are of another shape: of that below."""
    try:
        return record.from_json(SIGNED[kind], members)
    except StannaryError:
        return None


def played(world: World, said: dict[str, list[dict[str, Any]]]) -> bytes:
    """Return the receipt of a world; where nothing can be concluded from it, what its market might have said."""
    world.play()
    try:
        return world.receipt()
    except StannaryError:
        honest = record.from_json(predicates.Receipt, said["receipt"][0])
        leaves = tuple(digest.from_raw(envelope.leaf()) for _, envelope in world.entries)
        return world.assemble(replace(honest, job=world.job_id, evidence=leaves), ())


def replace_nth(nth: int, bent: Any) -> Callable[[Any], Any]:
    """Return what replaces the nth statement it is given."""
    given = iter(range(1_000_000))
    return lambda made: bent if next(given) == nth else made


def misshapen(value: Any) -> Iterator[Any]:
    """Yield a value with one thing in it that is missing, unknown, null, or of another type."""
    yield from (item for item in (None, True, 1, "x", [], {}, ["x"], {"x": 1}) if item != value)
    if isinstance(value, dict):
        yield {**value, "unknown": "x"}
        for name, item in value.items():
            yield {other: kept for other, kept in value.items() if other != name}
            yield from ({**value, name: bent} for bent in misshapen(item))
    elif isinstance(value, list) and value:
        yield from ([bent, *value[1:]] for bent in misshapen(value[0]))


def outside(value: Any) -> Iterator[Any]:
    """Yield a spec with one text or number in it that may be outside its limits."""
    if isinstance(value, dict):
        for name, item in value.items():
            yield from ({**value, name: bent} for bent in outside(item))
    elif isinstance(value, list):
        yield [*value, *value]
        for at, item in enumerate(value):
            yield from ([*value[:at], bent, *value[at + 1 :]] for bent in outside(item))
    elif isinstance(value, int):
        yield from (0, -1, 1, 2, value + 1, value * 1000, 2**53 - 1)
    else:
        yield from ("", " ", ".", "../x", "/x", "a/./b", "a//b", "x\0", "e\u0301", "\\", "**", "a/**/b", "x" * 70)
        yield from ("x" * 32_769, "~", "${x}", "{a,b}", "m.pkl", "sha256:" + "0" * 64, "0.5", "1e-3", "1001", "-1")
        yield from ("1_0", " 1", "\u0661", "1e999", "1e9999", "1e-999", "-0", ".5", "5.", ".", "+1", "0" * 41)
        yield from ("nan", "inf", "muon", "adamw", "train", "replay", "none", "recipe.py:recipe", "a.py:b", "T2")


def reads(read: Callable[..., object], *value: Any) -> bool:
    """Return whether something is read without complaint."""
    try:
        read(*value)
    except (StannaryError, Malformed):
        return False
    return True


@pytest.mark.parametrize(
    ("change", "is_one"),
    [
        ({"root": digest.digest(b"root")}, True),
        ({"root": digest.digest(b"root"), "policy": "strangers"}, True),
        ({"root": "sha256:0"}, False),
        ({"root": None}, False),
        ({"policy": "strangers"}, False),
        ({"root": digest.digest(b"root"), "rules": 2}, False),
    ],
)
def test_both_want_the_same_root_of_a_spec(change, is_one):
    """A root is a digest, belongs to rules 3, and outside policy local must be named."""
    members = jobspec.to_canonical(World(rounds=1, lanes=2, assurance=predicates.Assurance.FULL).spec())
    members |= {name: value for name, value in change.items() if name == "root"}
    members["trust"] = {**members["trust"], **{name: value for name, value in change.items() if name == "policy"}}
    if "rules" in change:
        del members["rules"], members["trust"]["assurance"]
    for read, error in ((jobspec.from_canonical, StannaryError), (shapes.check_spec, Malformed)):
        if is_one:
            read(members)
            continue
        with pytest.raises(error):
            read(members)


@pytest.mark.parametrize("stray", ["", "n1", "n5"])
def test_both_keep_a_job_to_the_class_it_names(stray):
    """A worker or a candidate of another class is refuted by both, a job that keeps to its class by neither."""
    world = World(rounds=1, lanes=2, assurance=predicates.Assurance.FULL)
    spec = world.spec()
    world.spec = lambda: replace(spec, resources=replace(spec.resources, engine_class="cpu-named"))
    for node in world.nodes.values():
        node.engine_class = "cpu-named-2" if node.name == stray else "cpu-named"
    data = world.play().receipt()
    ours, theirs = verify_receipt(data, world.trust(), world.now), second(data, world.trust(), world.now)
    assert_same(ours, theirs)
    assert (ours.verdict is not predicates.Verdict.VERIFIED) == bool(stray)


@pytest.mark.parametrize(
    ("name", "rules", "is_one"),
    [
        ("cpu-fp32-torch2.13.0-t16.1f2e3d4c5b6a", 3, True),
        ("x" * 128, 3, True),
        ("x" * 129, 3, False),
        ("", 3, False),
        ("a b", 3, False),
        ("a\n", 3, False),
        (None, 3, False),
        ("cpu-a", 2, False),
    ],
)
def test_both_read_the_same_engine_class_in_a_spec(name, rules, is_one):
    """A class a buyer names is spelled as one, and belongs to rules 3."""
    members = jobspec.to_canonical(World(rounds=1, lanes=2, assurance=predicates.Assurance.FULL).spec())
    members["resources"] = {**members["resources"], "engine_class": name}
    if rules == 2:
        members = {key: value for key, value in members.items() if key not in ("rules", "root")}
        members["trust"] = {key: value for key, value in members["trust"].items() if key != "assurance"}
        members["recipe"] = {**members["recipe"], "step_ms": 40}
    assert reads(jobspec.from_canonical, members) is is_one
    assert reads(shapes.check_spec, members) is is_one
