"""How tests are shared among processes: what starts markets and agents meets no second world."""

from __future__ import annotations

from pathlib import Path

from tests.sharing import WORLDS, Sharing

TESTS = Path(__file__).parents[1]


def scope(nodeid: str) -> str:
    """Return what stays together with this test."""
    return Sharing._split_scope(None, nodeid)  # type: ignore[arg-type]  # of the name alone


def test_worlds_stay_together():
    """All tests of these folders, which exist, are of one process."""
    files = [
        path.relative_to(TESTS.parent).as_posix()
        for world in WORLDS
        for path in TESTS.parent.joinpath(world).rglob("test_*.py")
    ]
    assert {world for world in WORLDS for name in files if name.startswith(world)} == set(WORLDS)
    assert len({scope(f"{name}::test_it") for name in files}) == 1


def test_a_file_stays_whole():
    """Any other file is a unit of its own, whatever classes and parameters its tests have."""
    assert scope("tests/unit/a/test_b.py::TestC::test_d[e::f]") == scope("tests/unit/a/test_b.py::test_g")
    assert scope("tests/unit/a/test_b.py::test_g") != scope("tests/unit/a/test_c.py::test_g")
