"""Which sandbox is taken, and who refuses."""

from __future__ import annotations

import pytest

from stannary.errors import EnvironmentProblem
from stannary.run.sandbox import bubblewrap, cgroup, choice, unshare


@pytest.fixture
def parts(monkeypatch: pytest.MonkeyPatch) -> dict[str, object]:
    """Say what this machine offers."""
    offered: dict[str, object] = {"group": object(), "bubblewrap": None, "unshare": None}

    class Hierarchy:
        name = "cgroup1"

        def sweep(self) -> int:
            return 0

    monkeypatch.setattr(cgroup, "find", lambda: Hierarchy() if offered["group"] else None)
    monkeypatch.setattr(bubblewrap, "find", lambda _: offered["bubblewrap"])
    monkeypatch.setattr(unshare, "find", lambda _: offered["unshare"])
    return offered


def test_bubblewrap_first(parts: dict[str, object]) -> None:
    """bubblewrap is taken where it works, without a word."""
    parts["bubblewrap"] = parts["unshare"] = bubblewrap.Bubblewrap("/usr/bin/bwrap", (0, 8, 0), None)
    told: list[str] = []
    assert choice.choose("shared", told.append) is parts["bubblewrap"]
    assert told == []


def test_the_fallback_is_private_and_said(parts: dict[str, object]) -> None:
    """A private market's agent falls to our own namespaces and says so; a shared market's refuses."""
    parts["unshare"] = unshare.Unshare(7, None)
    told: list[str] = []
    assert choice.choose("private", told.append).describe() == "unshare+landlock7+seccomp+rlimits"
    assert "falling to unshare+landlock7" in told[0]
    with pytest.raises(EnvironmentProblem, match="bubblewrap"):
        choice.choose("shared", told.append)


def test_roots_own_id(parts: dict[str, object]) -> None:
    """A sandbox that leaves a job root's user id says so, is told to a private market and refused by a shared one."""
    parts["bubblewrap"] = bubblewrap.Bubblewrap("/usr/bin/bwrap", (0, 8, 0), None, leaves_root=False)
    told: list[str] = []
    assert choice.choose("private", told.append).describe() == "bubblewrap-0.8.0+seccomp+rlimits+root"
    assert "root's user id" in told[0]
    with pytest.raises(EnvironmentProblem, match="root's user id"):
        choice.choose("shared", told.append)


def test_no_control_group(parts: dict[str, object]) -> None:
    """Without control groups a private market is told, a shared one refused."""
    parts["group"] = None
    parts["bubblewrap"] = bubblewrap.Bubblewrap("/usr/bin/bwrap", (0, 8, 0), None)
    told: list[str] = []
    assert choice.choose("local", told.append).describe() == "bubblewrap-0.8.0+seccomp+rlimits"
    assert "rlimits" in told[0]
    with pytest.raises(EnvironmentProblem, match="control group"):
        choice.choose("shared", told.append)


def test_nothing_works(parts: dict[str, object]) -> None:
    """A machine without any sandbox runs nobody's job."""
    with pytest.raises(EnvironmentProblem, match="no sandbox"):
        choice.choose("local", lambda _: None)
