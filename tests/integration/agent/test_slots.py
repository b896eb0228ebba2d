"""Two slots of one machine, real agents under their supervisor, against a scripted market."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from stannary.agent.join import Application, join
from stannary.sdk import processes
from stannary.sdk.slots import PID_FILE

from .scripted_market import FOREVER, ScriptedMarket

NAMES = ("big-1", "big-2")
ENDLESS = f"echo up; {FOREVER}"


@pytest.fixture
def family(market: ScriptedMarket, tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """Two slots that run."""
    for name in NAMES:
        place = tmp_path / "node" / name
        place.parent.mkdir(exist_ok=True)
        join(Application(market.token(), place, "basalt", name, cpus=1, engine_class="cpu-toy"), lambda _: None)
    argv = [sys.executable, "-P", "-m", "stannary", "node", "run", "--name", "big"]
    env = {**os.environ, "STANNARY_DATA_DIR": str(tmp_path)}
    with subprocess.Popen(argv, env=env, stderr=subprocess.PIPE, text=True) as running:
        yield running
        for agent in _agents(tmp_path):
            os.kill(agent, signal.SIGKILL)
        running.kill()


def _agents(root: Path) -> list[int]:
    kept = [processes.read(root / "node" / name / PID_FILE) for name in NAMES]
    return [item.pid for item in kept if item is not None and item.is_alive]


def test_two_leases_at_a_time(market: ScriptedMarket, family: subprocess.Popen[str], tmp_path: Path) -> None:
    """Jobs that never end run on both slots at once; SIGTERM drains both, a second one hands their work back."""
    market.one_each = True
    leases = {market.lease(market.add_command_job(ENDLESS)) for _ in NAMES}
    market.wait_for(lambda: market.lines == ["up", "up"])
    assert set(market.holders) == leases
    assert len(set(market.holders.values())) == 2
    family.send_signal(signal.SIGTERM)
    market.wait_for(lambda: sum(beat.get("state") == "draining" for beat in market.beats) >= 2)
    family.send_signal(signal.SIGTERM)
    said = family.communicate(timeout=60)[1]
    assert family.returncode == 0, said
    assert set(market.released) == leases
    assert all(f"{name} | draining: no new work" in said for name in NAMES)
    assert _agents(tmp_path) == []


def test_a_killed_slot_is_named_and_the_other_goes_on(
    market: ScriptedMarket, family: subprocess.Popen[str], tmp_path: Path
) -> None:
    """After kill -9 of one agent the other does what is left; the supervisor says which died and ends well."""
    market.wait_for(lambda: len(market.sessions) == 2)
    os.kill(_agents(tmp_path)[0], signal.SIGKILL)
    assert processes.wait_until(lambda: len(_agents(tmp_path)) == 1, 20)
    for _ in NAMES:  # the dead one's last question may be answered with one of them
        market.lease(market.add_command_job("echo done > out.txt"))
    market.wait_for(lambda: market.count("contribution") >= 1)
    family.send_signal(signal.SIGTERM)
    said = family.communicate(timeout=60)[1]
    assert "! big-1 ended by signal SIGKILL" in said
    assert "big-2 has stopped" in said
    assert family.returncode == 0, said


def test_a_stop_while_slots_start_leaves_nobody(family: subprocess.Popen[str], tmp_path: Path) -> None:
    """SIGTERM before an agent takes signals, or before the second one is started, ends all of them and well."""
    assert processes.wait_until(lambda: bool(_agents(tmp_path)), 20)
    family.send_signal(signal.SIGTERM)
    said = family.communicate(timeout=60)[1]
    assert family.returncode == 0, said
    assert "big-1 has stopped" in said
    assert _agents(tmp_path) == []


def test_a_killed_supervisor_takes_no_work_with_it(
    market: ScriptedMarket, family: subprocess.Popen[str], tmp_path: Path
) -> None:
    """Agents whose supervisor is gone finish their work, though nobody hears them, and are drained by the name."""
    market.wait_for(lambda: len(market.sessions) == 2)
    family.kill()
    family.communicate(timeout=20)
    market.lease(market.add_command_job("echo heard; echo done > out.txt"))
    market.wait_for(lambda: market.count("contribution") == 1)
    env = {**os.environ, "STANNARY_DATA_DIR": str(tmp_path)}
    argv = [sys.executable, "-P", "-m", "stannary", "node", "drain"]
    done = subprocess.run(argv, env=env, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "draining big-1" in done.stderr and "draining big-2" in done.stderr
    assert _agents(tmp_path) == []
