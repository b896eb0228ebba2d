"""The coverage floor (`pytest --floor`): how many branches of the rooms that decide are taken by the tests beside them.

    python -m tests.floor      those tests alone

Rules:
1. Only the unit tests that mirror these rooms and the simulator count: a branch that some walk through the whole market
   happens to take is promised by no test.
2. Tracing is on for these tests alone, so the rest of the suite runs as fast as without.
3. A room below its floor fails the run, whatever else passed. A floor rises and never falls.
4. Where tests run in several processes (`-n`), each traces its own and the first counts them together.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from coverage import Coverage, CoverageData

ROOT = Path(__file__).parents[1]
FLOOR_PERCENT = {
    "formats": 95.0,
    "rules": 95.0,
    "verify": 95.0,
    "jobs": 95.0,
    "settle": 95.0,
    "place": 95.0,
}
TRACED = "traced branches"  # the key under which one of several processes hands them over
NOT_COUNTED = (r"if TYPE_CHECKING:", r"^\s*\.\.\.$")  # what no run takes; bodies of protocols


class Floor:
    """The plugin."""

    def __init__(self) -> None:
        rooms = [str(ROOT / "src/stannary" / room) for room in FLOOR_PERCENT]
        self.coverage = Coverage(data_file=None, branch=True, source=rooms, config_file=False)
        self.coverage.set_option("report:exclude_also", list(NOT_COUNTED))
        self.coverage.set_option("run:disable_warnings", ["no-data-collected"])  # of the first process of several
        self.is_on = False
        self.rows: list[tuple[str, int, int, list[str]]] = []

    @pytest.hookimpl(wrapper=True)
    def pytest_collection(self) -> Iterator[None]:
        """Trace what modules do while they are imported."""
        self._switch(is_on=True)
        try:
            return (yield)
        finally:
            self._switch(is_on=False)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Iterator[None]:
        """Trace the tests that count."""
        place = item.path.relative_to(ROOT).parts
        self._switch(is_on=place[1] == "simulator" or (place[1] == "unit" and place[2] in FLOOR_PERCENT))
        return (yield)

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Judge, unless the run has failed already; one process of several hands over what it traced."""
        self._switch(is_on=False)
        handed_over: dict[str, Any] | None = getattr(session.config, "workeroutput", None)
        if handed_over is not None:
            handed_over[TRACED] = self.coverage.get_data().dumps()
            return
        self.rows = [self._count(room) for room in FLOOR_PERCENT]
        if session.exitstatus == pytest.ExitCode.OK and any(map(_is_below, self.rows)):
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any) -> None:
        """Take what another process traced; one that died hands over nothing, and its tests have failed."""
        traced = getattr(node, "workeroutput", {}).get(TRACED)
        if traced is not None:
            part = CoverageData(no_disk=True)
            part.loads(traced)
            self.coverage.get_data().update(part)

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Print a line for each room, with what is missing where it is below the floor."""
        terminalreporter.section("branches taken by unit tests and simulator")
        for row in self.rows:
            room, num_branches, num_taken, missing = row
            share = f"{_percent(row):6.2f} %, floor {FLOOR_PERCENT[room]:.0f} %"
            terminalreporter.write_line(f"{room:<10}{num_taken:>6,} of {num_branches:>6,}  {share}")
            for line in missing if _is_below(row) else ():
                terminalreporter.write_line(f"  {line}")

    def _switch(self, *, is_on: bool) -> None:
        if is_on is not self.is_on:
            (self.coverage.start if is_on else self.coverage.stop)()
            self.is_on = is_on

    def _count(self, room: str) -> tuple[str, int, int, list[str]]:
        with tempfile.NamedTemporaryFile(suffix=".json") as file:
            self.coverage.json_report(outfile=file.name, include=[str(ROOT / "src/stannary" / room / "*")])
            files = json.loads(Path(file.name).read_text())["files"]
        missing = [
            f"{Path(name).name}: {', '.join(f'{start} -> {end}' for start, end in found['missing_branches'])}"
            for name, found in files.items()
            if found["missing_branches"]
        ]
        sums = [sum(found["summary"][key] for found in files.values()) for key in ("num_branches", "covered_branches")]
        return room, sums[0], sums[1], missing


def _percent(row: tuple[str, int, int, list[str]]) -> float:
    return 100.0 * row[2] / row[1] if row[1] else 100.0


def _is_below(row: tuple[str, int, int, list[str]]) -> bool:
    return _percent(row) < FLOOR_PERCENT[row[0]]


if __name__ == "__main__":
    places = ["tests/simulator", *(f"tests/unit/{room}" for room in FLOOR_PERCENT)]
    sys.exit(pytest.main(["--floor", *(str(ROOT / place) for place in places)]))
