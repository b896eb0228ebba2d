"""The witness beside the market: a child process that cosigns checkpoints, started again when it dies.

It is local and not independent, and receipts say so where no other is asked; its use is that a market whose log file
was rolled back or forked cannot get the next checkpoint cosigned. The address may change with every start, the key
never does (it lies in the witness's own directory). Others, which somebody else runs: tlog/witnesses.py.
"""

from __future__ import annotations

import json
import logging
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from stannary.errors import EnvironmentProblem, ServiceError
from stannary.tlog.witness_client import WitnessClient

START_TIMEOUT_S = 30.0  # a cold interpreter on a loaded machine
STOP_TIMEOUT_S = 5.0
MAX_READY_CHARS = 4096

log = logging.getLogger("stannary.market")


@dataclass(slots=True)
class _Child:
    process: subprocess.Popen[bytes]
    client: WitnessClient
    vkey: str


class WitnessProcess:
    """A Cosigner (tlog/log.py) that owns its witness process. Called from the log's writer thread only."""

    def __init__(self, directory: Path, log_vkey: str) -> None:
        self._directory = directory
        self._log_vkey = log_vkey
        self._lock = threading.Lock()
        self._stopped = False
        self._child = self._start()
        self.vkey = self._child.vkey

    def __call__(self, signed_note: str, size: int, consistency: Callable[[int], list[bytes]]) -> Sequence[str]:
        """Return cosignature lines; a dead witness is started again first.

        Raises:
            ServiceError: the witness refuses or cannot be started; the log asks again.
        """
        return self._living()(signed_note, size, consistency)

    def stop(self) -> None:
        """End the process; further calls fail."""
        with self._lock:
            self._stopped = True
            _end(self._child.process)

    def _living(self) -> WitnessClient:
        with self._lock:
            if self._child.process.poll() is None:
                return self._child.client
            if self._stopped:
                raise ServiceError("the witness is stopped", why="the market is stopping")
            log.warning("witness ended with %s, starting it again", self._child.process.returncode)
            try:
                self._child = self._start()
            except EnvironmentProblem as err:
                raise ServiceError("the witness does not start", why=err.why) from err
            return self._child.client

    def _start(self) -> _Child:
        command = [sys.executable, "-m", "stannary.tlog.witness_server", "--dir", str(self._directory)]
        command += ["--log-vkey", self._log_vkey, "--with-parent"]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL)  # noqa: S603  our own
        try:
            card = json.loads(_first_line(process))
            return _Child(process, WitnessClient(card["url"], card["vkey"]), card["vkey"])
        except (ValueError, KeyError) as err:
            _end(process)
            raise EnvironmentProblem(
                "the witness process does not start",
                why=f"exit {process.returncode}, {err}",
                hint=f"its own words stand before this; it keeps its key and state in {self._directory}",
            ) from err


def _first_line(process: subprocess.Popen[bytes]) -> bytes:
    """Read the ready line; a child that neither speaks nor ends is killed, which ends the read."""
    assert process.stdout is not None
    timer = threading.Timer(START_TIMEOUT_S, process.kill)
    timer.start()
    try:
        return process.stdout.readline(MAX_READY_CHARS)
    finally:
        timer.cancel()


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(STOP_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    if process.stdout is not None:
        process.stdout.close()
