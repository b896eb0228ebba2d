"""A profile's broker is one process: found, restarted and stopped by any command, and gone when no job is open."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from stannary import buyer, files
from stannary.errors import AuthError, ConflictError, EnvironmentProblem, UsageError
from stannary.formats import beacon, dsse, note, statement
from stannary.formats.predicates import Job
from stannary.sdk import brokers, profile
from stannary.sdk.brokers import Keeper
from stannary.sdk.processes import Register, wait_until
from stannary.sdk.profile import Profile

MARKET_KEY = Ed25519PrivateKey.from_private_bytes(b"m" * 32)
VKEY = note.format_vkey("test.market", dsse.public_bytes(MARKET_KEY))
NOBODY = "http://127.0.0.1:9"
SEED = b"s" * 32


def settings_of(name="work", token="stk_x"):
    profile.store(Profile(name, NOBODY, VKEY), files.Secret(token), make_default=True)
    return profile.resolve(name, {})


@pytest.fixture
def settings(home):
    yield settings_of()
    for account in brokers.accounts():
        brokers.stop(brokers.home(account))


def order(account, submitted_at="2099-01-01T00:00:00Z"):
    key = buyer.load_key(buyer.root())
    job = Job(
        spec={},
        market=dsse.key_id(dsse.public_bytes(MARKET_KEY)),
        buyer=dsse.encode_base64(dsse.public_bytes(key)),
        beacon_tip=beacon.tip(SEED, 8),
        beacon_length=8,
        nonce=account,
        submitted_at=submitted_at,
    )
    return buyer.store_order(buyer.root(), statement.sign("job", job, (), key), SEED, VKEY, account)


def alive(register_dir):
    return [item for item in Register(register_dir).all() if item.name in {brokers.BROKER, brokers.SERVED}]


def test_one_process_a_profile(settings):
    """Asked for twice it is started once; another profile of the same buyer and market has its own."""
    first, is_new = brokers.ensure(settings)
    again, is_second = brokers.ensure(settings)
    assert (is_new, is_second) == (True, False) and first == again
    other, _ = brokers.ensure(settings_of("play", "stk_y"))
    assert other.pid != first.pid and first.is_alive


def test_two_commands_at_once_start_one(settings):
    """Four commands that start at the same moment agree on one process."""
    program = (
        "from stannary.sdk import brokers, profile\n"
        "print(brokers.ensure(profile.resolve('work', {}))[0].pid, flush=True)\n"
    )
    racers = [subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) for _ in range(4)]
    pids = {racer.communicate(timeout=120)[0].strip() for racer in racers}
    assert len(pids) == 1 and pids != {b""}
    assert len(alive(brokers.home("work"))) == 1


def test_the_token_is_on_no_command_line(settings):
    """Other accounts of the machine read /proc/<pid>/cmdline: it names a file."""
    started, _ = brokers.ensure(settings)
    assert b"stk_x" not in Path(f"/proc/{started.pid}/cmdline").read_bytes()


def test_another_token_replaces_it(settings):
    """A broker that was started with what is no longer true answers nobody: it is replaced."""
    first, _ = brokers.ensure(settings)
    second, is_new = brokers.ensure(settings_of("work", "stk_new"))
    assert is_new and not first.is_alive and second.is_alive


def test_a_keeper_notices_a_kill(settings):
    """The first word says what the broker is for; after kill -9 the next one says so, with both pids."""
    keeper = Keeper(settings)
    first = keeper.tend()
    started = brokers.find(brokers.home("work"))
    assert f"pid {started.pid} answers beacon requests" in first and "stay online" in first
    assert len(first) <= 80
    assert keeper.tend() == ""
    Register(brokers.home("work")).kill(started)
    said = keeper.tend()
    assert f"pid {started.pid} was gone" in said
    assert f"pid {brokers.find(brokers.home('work')).pid}" in said


def test_a_stopped_broker_stays_so_until_a_command_starts_it(settings):
    """`broker stop` and `market stop` hold while a job is followed: said once; whoever starts it again is noticed."""
    keeper = Keeper(settings)
    keeper.tend()
    stopped = brokers.stop(brokers.home("work"))
    said = [keeper.tend() for _ in range(3)]
    assert f"pid {stopped.pid} was stopped by a command" in said[0] and said[1:] == ["", ""]
    assert brokers.find(brokers.home("work")) is None
    again, _ = brokers.ensure(settings)
    assert f"now as pid {again.pid}" in keeper.tend()
    Register(brokers.home("work")).kill(again)
    assert "started again" in keeper.tend(), "a kill is no command"


def test_a_broker_killed_again_and_again_is_not_a_storm(settings):
    """Killed at once after each start, it is started three times, then its keeper waits, says so, and tries again."""
    now = [0.0]
    keeper = Keeper(settings, clock=lambda: now[0])
    said = []
    for _ in range(6):
        said.append(keeper.tend())
        if (started := brokers.find(brokers.home("work"))) is not None:
            Register(brokers.home("work")).kill(started)
        now[0] += 1.0
    assert sum("was gone" in line for line in said) == 2
    assert sum("ends as soon as it starts" in line for line in said) == 1
    now[0] += brokers.RETRY_S
    assert "was gone" in keeper.tend()


def test_a_disk_that_cannot_be_written_is_said_once(settings, monkeypatch):
    """A keeper never raises: the job is followed all the same."""

    def full(*_):
        raise EnvironmentProblem("cannot write a file", why="No space left on device")

    monkeypatch.setattr(files, "replace", full)
    now = [0.0]
    keeper = Keeper(settings, clock=lambda: now[0])
    assert "does not start (cannot write a file: No space left on device)" in keeper.tend()
    assert keeper.tend() == ""


def test_a_foreign_module_of_the_working_directory_is_not_run(settings, tmp_path, monkeypatch):
    """A job directory may hold a random.py of its own: the broker does not import it."""
    place = tmp_path / "job"
    place.mkdir()
    (place / "random.py").write_text("import pathlib; pathlib.Path('imported').touch(); raise SystemExit(9)")
    monkeypatch.chdir(place)
    started, _ = brokers.ensure(settings)
    served = order("work")
    assert wait_until(lambda: "waiting" in Register(brokers.home("work")).log_tail("broker"), 60)
    assert started.is_alive and not (place / "imported").exists()
    assert served.job in brokers.open_jobs(settings)


def test_it_leaves_when_no_job_is_open(settings, monkeypatch):
    """With an open job it stays past its idle time; with none it strikes its record and ends."""
    monkeypatch.setattr(brokers, "IDLE_EXIT_S", 0.5)
    waiting = order("work")
    started, _ = brokers.ensure(settings)
    log = brokers.home("work")
    assert wait_until(lambda: Register(log).log_tail("broker").count("waiting") >= 2, 60)
    assert started.is_alive
    brokers.stop(log)
    waiting.end()
    started, _ = brokers.ensure(settings)
    assert wait_until(lambda: not started.is_alive, 60)
    assert brokers.find(log) is None


def test_open_jobs_are_those_of_the_profile(settings):
    """Ended jobs, jobs of another profile and jobs the market never got need no broker here."""
    mine, ended, lost = order("work"), order("work", "2099-01-01T00:00:01Z"), order("work", "2099-01-01T00:00:02Z")
    order("play")
    ended.end()
    lost.give_up()
    assert brokers.open_jobs(settings) == [mine.job]


def test_one_broker_answers_for_a_job(settings):
    """Whoever else asks for the job's lock is refused until the first lets go."""
    mine = order("work")
    with mine.served(), pytest.raises(ConflictError), buyer.load_order(mine.directory).served():
        pass
    with mine.served():
        pass


def test_what_the_environment_says_is_an_account_of_its_own(settings):
    """A token or address from the environment has another broker and other jobs than the profile it overrides."""
    env = {"STANNARY_TOKEN": "stk_env"}
    used = profile.resolve("work", env)
    assert used.account.startswith("work@") and used.account != settings.account
    assert "--token-file" not in brokers.command(used, brokers.home(used.account), idle_exit_s=1.0)
    assert settings.account == "work"


def test_without_key_or_token_none_is_started(settings):
    """What could check nothing, or would be refused, is no broker; the error says what is missing."""
    with pytest.raises(UsageError, match="pinned"):
        brokers.ensure(replace(settings, profile=replace(settings.profile, vkey="")))
    with pytest.raises(AuthError, match="token"):
        brokers.ensure(replace(settings, token=None))
    assert brokers.find(brokers.home("work")) is None


def test_serving_takes_the_place_of_a_started_one(settings):
    """`broker serve` ends the one a command started, records itself, and refuses to be a second one."""
    started, _ = brokers.ensure(settings)
    arguments = brokers.serve(settings)
    assert not started.is_alive and "--idle-exit" not in arguments
    served = brokers.find(brokers.home("work"))
    assert (served.name, served.pid) == (brokers.SERVED, os.getpid())
    assert brokers.ensure(settings) == (served, False)
    with pytest.raises(ConflictError, match="serves work already"):
        brokers.serve(settings)
    (brokers.home("work") / "processes.json").unlink()  # or the fixture would stop this very test
