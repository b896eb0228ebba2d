"""What one execution took: from files a kernel writes, and of real threads."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from stannary.run.sandbox.contract import Usage
from stannary.run.sandbox.metering import Waits, metered


@dataclass
class Group:
    """Stands for a control group: threads by name, with what each has waited."""

    proc: Path
    listed: list[str] = field(default_factory=list)
    cpu_ms: int = 0

    def threads(self) -> list[str]:
        return self.listed

    def usage(self) -> Usage:
        return Usage(self.cpu_ms, 0, 0)

    def says(self, **waited_ms: int) -> None:
        self.listed = list(waited_ms)
        for name, ms in waited_ms.items():
            (self.proc / name).mkdir(exist_ok=True)
            (self.proc / name / "schedstat").write_text(f"777 {ms * 1_000_000} 3\n")


def test_waits_of_ended_threads_count(tmp_path: Path) -> None:
    """What lived before counts from then on, who is gone as last seen, and a number given anew as another thread."""
    group = Group(tmp_path)
    group.says(t1=500)
    waits = Waits(group, tmp_path)
    group.says(t1=600, t2=40)
    waits.look()
    assert waits.ms == 140
    group.says(t1=700, t3=5)
    waits.look()
    assert waits.ms == 245
    group.says(t3=1)  # t1 ended; t3 ended too, and its number was given again
    waits.look()
    assert waits.ms == 246


def test_a_thread_that_ends_while_it_is_read_harms_nothing(tmp_path: Path) -> None:
    """A thread without a file, or a kernel that counts nothing, waits for nothing."""
    group = Group(tmp_path)
    waits = Waits(group, tmp_path)
    group.says(t1=7)
    (tmp_path / "t1" / "schedstat").write_text("0\n")
    group.listed.append("gone")
    waits.look()
    assert waits.ms == 0


def test_an_execution_is_measured_from_end_to_end(tmp_path: Path) -> None:
    """Processor time from before to after the block, and the wall time of it, also where it fails."""
    group = Group(tmp_path, cpu_ms=100)
    try:
        with metered(group) as meter:
            group.cpu_ms = 130
            raise RuntimeError
    except RuntimeError:
        assert meter.used.cpu_ms == 30
    assert meter.used.wall_ms >= 0
