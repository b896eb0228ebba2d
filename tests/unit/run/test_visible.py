"""What a job can see of a machine's system: another one is another engine class."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from stannary.formats.ids import JobId, NodeId, round_task
from stannary.formats.predicates import Candidate, Drawable
from stannary.rules import draw
from stannary.run import visible

KERNELS = "cpu-fp32-torch2.13.0-t16.0123456789ab"
OS_RELEASE = "/usr/lib/os-release"
NAMING = "from stannary.run import visible; print(visible.visible_name())"


def named(home: Path, other: Path | None = None) -> str:
    """Return the name an agent finds, where `other` lies in place of the machine's os-release."""
    argv = [sys.executable, "-c", NAMING]
    if other is not None:
        script = f'mount --bind "$0" {OS_RELEASE} && exec "$@"'
        argv = ["unshare", "--mount", "--map-root-user", "sh", "-c", script, str(other), *argv]
    environment = {**os.environ, "STANNARY_DATA_DIR": str(home)}
    return subprocess.run(argv, env=environment, capture_output=True, text=True, check=True).stdout.strip()


@pytest.fixture
def two_systems(tmp_path: Path) -> tuple[str, str]:
    """The names of two agents of one machine, the second of which sees another distribution's os-release."""
    can_mount = subprocess.run(["unshare", "--mount", "--map-root-user", "true"], check=False).returncode == 0
    if not can_mount or not Path(OS_RELEASE).is_file():
        pytest.skip("no os-release here, or no mount namespace can be made")
    other = tmp_path / "os-release"
    other.write_text(Path(OS_RELEASE).read_text().swapcase())  # as long as the machine's own
    return named(tmp_path / "home"), named(tmp_path / "home", other)


def test_two_distributions_are_never_compared(two_systems: tuple[str, str]) -> None:
    """`. /usr/lib/os-release; echo $ID` is no lie: who sees another file neither works on the job nor audits it."""
    one, two = (f"{KERNELS}.{name}" for name in two_systems)
    assert one != two
    job = JobId("j-0123456789ab")
    task = round_task(job, 0, 0)
    nodes = [Candidate(NodeId(f"n-{index:012x}"), f"operator-{index}", of) for index, of in enumerate((one, two, one))]
    drawable = Drawable(task, NodeId("n-ffffffffffff"), "operator-9", one, num_steps=3, commitment_index=0)
    ranked = draw.rank(drawable, nodes, bytes(32))
    assert sorted(item.node for item in ranked) == [nodes[0].node, nodes[2].node]


def test_a_name_is_kept_until_something_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A second look costs no walk; another file in place of one that is asked about, a broken cache or a day does."""
    monkeypatch.setenv("STANNARY_DATA_DIR", str(tmp_path))
    looks: list[str] = []
    monkeypatch.setattr(visible, "look", lambda: looks.append("x") or f"{len(looks):012x}")
    stamps: list[list[object]] = [["a", 1]]
    monkeypatch.setattr(visible, "_stamps", lambda: stamps)
    assert [visible.visible_name() for _ in range(3)] == ["000000000001"] * 3
    stamps[0] = ["a", 2]
    assert visible.visible_name() == "000000000002"
    (tmp_path / visible.CACHE_FILE).write_bytes(b"{")
    assert visible.visible_name() == "000000000003"
    kept = json.loads((tmp_path / visible.CACHE_FILE).read_bytes())
    (tmp_path / visible.CACHE_FILE).write_text(json.dumps({**kept, "at_s": kept["at_s"] - visible.CACHED_S - 1}))
    assert visible.visible_name() == "000000000004"


def test_a_listing_names_what_a_job_sees(tmp_path: Path) -> None:
    """Names, modes, sizes and links count, in one order; times, owners and what Python compiled do not."""
    for name, data in (("b/inner", b"12"), ("a", b"1"), ("b/__pycache__/inner.pyc", b"compiled")):
        (tmp_path / name).parent.mkdir(exist_ok=True, parents=True)
        (tmp_path / name).write_bytes(data)
        (tmp_path / name).chmod(0o644)
    (tmp_path / "b").chmod(0o755)
    (tmp_path / "link").symlink_to("a")
    before = list(visible._listed(str(tmp_path)))
    top = os.fsencode(tmp_path)
    assert before == [
        b"100644 %s/a 1" % top, b"40755 %s/b " % top, b"120777 %s/link a" % top, b"100644 %s/b/inner 2" % top,
    ]  # fmt: skip
    os.utime(tmp_path / "a", (1, 1))
    (tmp_path / "b/__pycache__/more.pyc").write_bytes(b"more")
    assert list(visible._listed(str(tmp_path))) == before
    (tmp_path / "a").chmod(0o755)
    assert list(visible._listed(str(tmp_path))) != before


def test_classes_name_a_system_or_none() -> None:
    """A class of an older node, or one that was declared, names no system and is compared by its kernels alone."""
    of_here, of_there = f"{KERNELS}.aaaaaaaaaaaa", f"{KERNELS}.bbbbbbbbbbbb"
    assert [visible.name_of(item) for item in (of_here, KERNELS, "cpu-toy", "")] == ["aaaaaaaaaaaa", "", "", ""]
    assert visible.without_name(of_here) == KERNELS == visible.without_name(KERNELS)
    assert visible.is_of_one(of_here, of_here) and visible.is_of_one(of_here, KERNELS)
    assert not visible.is_of_one(of_here, of_there) and not visible.is_of_one(of_here, "cpu-toy")
