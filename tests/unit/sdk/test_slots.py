"""A machine is cut into whole, equal shares, and a family's name means its slots."""

from __future__ import annotations

import subprocess
import sys

import pytest

from stannary.errors import AuthError, EnvironmentProblem, UsageError
from stannary.run.sandbox import cgroup
from stannary.sdk import processes, slots

GIB = 1024**3


@pytest.mark.parametrize(
    ("num_slots", "cpus", "usable", "expected"),
    [(128, 0, 128, 1), (3, 0, 8, 2), (2, 4, 8, 4), (2, 1, 8, 1), (8, 0, 8, 1)],
)
def test_shares_are_equal_and_whole(num_slots, cpus, usable, expected):
    """Cores are divided downwards, or as said; memory is divided among the slots."""
    assert slots.share(num_slots, cpus, usable, 64 * GIB) == slots.Share(expected, 64 * GIB // num_slots)


@pytest.mark.parametrize(
    ("num_slots", "cpus", "usable", "usable_bytes", "hint"),
    [
        (9, 0, 8, 64 * GIB, "at most --slots 8"),
        (3, 3, 8, 64 * GIB, "--slots 2"),
        (1, 9, 8, 64 * GIB, "at most --slots 8"),
        (8, 0, 8, GIB, "--slots 4"),
    ],
)
def test_no_machine_is_sold_twice(num_slots, cpus, usable, usable_bytes, hint):
    """More cores than usable, a slot without a core, and less than 256 MiB a slot are refused with what would do."""
    with pytest.raises(UsageError) as refused:
        slots.share(num_slots, cpus, usable, usable_bytes)
    assert refused.value.hint == hint


def test_a_name_means_one_node_or_a_family(tmp_path):
    """Slots come in the order of their numbers; a node's own name comes before a family's; no file, no node."""
    for name in ("big-10", "big-2", "big-1", "big-02", "big-x", "bigger-1", "a.b-1", "small"):
        (tmp_path / name).mkdir()
        (tmp_path / name / slots.NODE_FILE).touch()
    (tmp_path / "big-3").mkdir()
    kept = slots.kept(tmp_path)
    assert slots.meant("big", kept) == ["big-1", "big-2", "big-10"]
    assert slots.meant("big-1", kept) == ["big-1"]
    assert slots.meant("small", kept) == ["small"]
    assert slots.meant("b", kept) == slots.meant("a*", kept) == []
    assert slots.meant("big", [*kept, "big"]) == ["big"]
    assert slots.names("big", 2) == ["big-1", "big-2"]


def test_agents_that_cannot_start_are_named_with_their_reason(tmp_path):
    """Where every slot ends badly each is told with its last word, none is started again, and the whole fails."""
    places = [tmp_path / name for name in ("big-1", "big-2")]
    for place in places:
        place.mkdir()
    told = []
    with pytest.raises(EnvironmentProblem) as failed:
        slots.serve(places, (), told.append)
    for place in places:
        assert f"{place.name}: {place}" in failed.value.why
        assert sum("ended with exit code 2" in line and f"! {place.name} " in line for line in told) == 1
        assert sum(line.startswith(f"{place.name} | E-USAGE  this directory holds no node") for line in told) == 1


def test_a_slots_refusal_keeps_its_kind(tmp_path):
    """What an agent says while it joins comes back as the same error: kind, reason and next command."""
    with pytest.raises(AuthError) as refused:
        raise processes.told_error("talk\nE-AUTH  this token is not valid\n  why   used up\n  next  ask")
    assert (refused.value.what, refused.value.why, refused.value.hint) == ("this token is not valid", "used up", "ask")
    with pytest.raises(EnvironmentProblem, match="No such option"):
        slots.join(tmp_path / "n", "token", ["--no-such-option"], lambda _: None)


def test_each_agent_gets_a_group_of_its_own(tmp_path):
    """Under version 2 an agent starts inside its own group, or it could not limit its jobs; elsewhere as it is."""
    words = [sys.executable, "-c", "print('up')"]
    inside = slots.entering("big-1", words, cgroup.HierarchyV2(tmp_path))
    assert subprocess.run(inside, capture_output=True, check=True).stdout == b"up\n"
    assert (tmp_path / "stannary-node-big-1/cgroup.procs").read_text() == "0\n"
    assert cgroup.HierarchyV2(tmp_path).sweep() == 0, "a group of an agent that serves is nobody's to remove"
    assert slots.entering("big-1", words, None) == words


def test_a_slot_that_cannot_be_recorded_takes_no_other_with_it(tmp_path, monkeypatch):
    """The disk refuses one slot's pid: it is ended and named, and the other is served to its own end."""
    kept, started = processes.write, []

    def write(path, item):
        started.append(item)
        if path.parent.name == "big-1":
            raise EnvironmentProblem("cannot write a file", why="No space left on device")
        kept(path, item)

    monkeypatch.setattr(processes, "write", write)
    monkeypatch.setattr(cgroup, "find", lambda: None)
    told = []
    with pytest.raises(EnvironmentProblem, match="every slot ended badly") as caught:
        slots.serve([tmp_path / "big-1", tmp_path / "big-2"], [], told.append)  # nobody has joined: agents end at once
    assert told[0] == "  ! big-1 does not start: cannot write a file: No space left on device"
    assert any(line.startswith("big-2 | E-") for line in told)
    assert "big-1: cannot write a file" in caught.value.why and "big-2: " in caught.value.why
    assert [item.is_alive for item in started] == [False, False]
