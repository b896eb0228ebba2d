"""Nodes that mean harm: the agent itself, with another idea of what to do or to hand in.

    python -P tests/e2e/harmful.py DIR wrong       another answer than the command gives
    python -P tests/e2e/harmful.py DIR nan         the right one, with metrics that are no numbers
    python -P tests/e2e/harmful.py DIR oversized   far more bytes than the job may bring
    python -P tests/e2e/harmful.py DIR silent      takes work, and is not heard of again but for its beats

As auditors they are honest: who is paid for what is told apart by task. DIR is a node's that has joined.
"""

from __future__ import annotations

import sys
import threading
from dataclasses import replace
from pathlib import Path

from stannary.agent import settings as node_settings
from stannary.agent.daemon import Agent, install_signals
from stannary.errors import JobFailed
from stannary.formats import digest
from stannary.formats.predicates import Output
from stannary.run.sandbox import choice
from stannary.run.work import Result, SandboxedWork, TaskInHand
from stannary.run.worker_process import DROPPED, outbox_path
from stannary.wire.node import Lease

OVERSIZED_BYTES = 64 * 1024**2
LIE = "mkdir -p out; echo 43 > out/answer.txt"


class Harmful(SandboxedWork):
    """One way of doing harm."""

    def __init__(self, how: str, agent: HarmfulAgent) -> None:
        self.how = how
        self.agent = agent

    def do(self, task: TaskInHand) -> Result:
        """Do a task badly."""
        if self.how == "silent":
            self.agent.taken_back.wait()
            raise JobFailed("the market took it back", detail=DROPPED)
        if self.how == "wrong":
            return self._lie(task)
        result = super().do(task)
        if self.how == "nan":
            return replace(result, metrics={"loss": "nan", "\x1b[2J": "1e999"})
        data = bytes(OVERSIZED_BYTES)
        named = digest.digest(data)
        outbox_path(self.agent.holdings.outbox, named).write_bytes(data)
        return replace(result, outputs=(Output(result.outputs[0].name, named, len(data)),))

    def _lie(self, task: TaskInHand) -> Result:
        spec = task.holding.spec
        task.holding.spec = replace(spec, run=LIE)
        try:
            return super().do(task)
        finally:
            task.holding.spec = spec


class HarmfulAgent(Agent):
    """An agent that reports nothing of its progress: a lease that was reported on may last for minutes more."""

    def __init__(self, directory: Path, how: str) -> None:
        settings = node_settings.load(directory)
        self.taken_back = threading.Event()
        super().__init__(directory, settings, choice.choose(settings.market_profile, print), print, Harmful(how, self))

    def _drop_current(self, lease: Lease) -> None:
        super()._drop_current(lease)
        self.taken_back.set()

    def _still_preparing(self, _reported: object) -> None:
        return

    def _fetching(self) -> None:
        return


if __name__ == "__main__":
    harmful = HarmfulAgent(Path(sys.argv[1]), sys.argv[2])
    install_signals(harmful)
    harmful.run()
