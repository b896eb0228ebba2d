"""The end of a confined process, also of one that does not end."""

from __future__ import annotations

import subprocess
from typing import Any

from stannary.run.sandbox.contract import Usage
from stannary.run.sandbox.process import SandboxedProcess


class Stuck:
    """A process in the middle of a system call that no signal ends."""

    def poll(self) -> None:
        return None

    def kill(self) -> None:
        """Do nothing."""

    def wait(self, timeout: float) -> int:
        raise subprocess.TimeoutExpired("job", timeout)


class Group:
    """Notes what is done to it."""

    def __init__(self) -> None:
        self.done: list[str] = []

    def kill(self) -> None:
        self.done.append("kill")

    def usage(self) -> Usage:
        return Usage(3, 2, 1)

    def remove(self) -> None:
        self.done.append("remove")


def test_a_process_that_does_not_end_keeps_nobody() -> None:
    """Whoever closes it goes on with its usage; its group is removed as far as the kernel lets it."""
    stuck: Any = Stuck()
    group: Any = Group()
    process = SandboxedProcess(stuck, group)
    assert process.close() == Usage(3, 2, 1)
    assert process.close() == Usage(3, 2, 1)
    assert group.done == ["kill", "remove"]
