"""The broker of a profile: one process that every client command finds, starts, restarts and can stop.

    <data>/broker/<account>/lock             held while one is looked for or started
    <data>/broker/<account>/processes.json   pid and start time of the one that runs
    <data>/broker/<account>/settings         hash of what it was started with
    <data>/broker/<account>/stopped          there while nobody wants it to run
    <data>/broker/<account>/broker.log       what it says

Rules:
1. One process an account (Settings.account: a profile, or what the environment put in its place). Two
   commands at once start one.
2. One that was started with another address, key, pin or token is replaced.
3. An open job without a broker ends `buyer-silent` and is paid for: who follows a job calls `Keeper.tend`
   at every turn, so that a kill is noticed, said and mended within seconds. One that was stopped by a command stays
   so until another command starts it.
4. One started here ends by itself when no job has been open for IDLE_EXIT_S; `stannary broker serve` stays.

What the broker answers is broker/daemon.py; it is a process and never imported here.
"""

from __future__ import annotations

import contextlib
import hashlib
import time
from collections.abc import Callable
from pathlib import Path

from stannary import buyer, files
from stannary.errors import AuthError, ConflictError, StannaryError, UsageError
from stannary.sdk import processes
from stannary.sdk.processes import Register, Started
from stannary.sdk.profile import Settings

BROKER, SERVED = "broker", "served"  # started by a command, or by `stannary broker serve`
IDLE_EXIT_S = 300.0
STOP_PATIENCE_S = 15.0
QUICK_DEATH_S = 5.0  # who ends sooner after its start has a reason that another start does not mend
QUICK_DEATHS = 3
RETRY_S = 30.0
LOCK_FILE, SETTINGS_FILE, STOPPED_FILE = "lock", "settings", "stopped"
PURPOSE = "answers beacon requests until the job ends: stay online"


def home(account: str) -> Path:
    """Return where the broker of an account is kept."""
    return files.data_dir() / "broker" / account


def ensure(settings: Settings, place: Path | None = None) -> tuple[Started, bool]:
    """Return the running broker of these settings, and whether it was started just now.

    Raises:
        UsageError: the market's key is not pinned.
        AuthError: there is no API token.
        EnvironmentProblem: it cannot be started.
    """
    directory = place or home(settings.account)
    with files.locked(files.make_private_dir(directory) / LOCK_FILE):
        (directory / STOPPED_FILE).unlink(missing_ok=True)
        running = find(directory)
        if running is not None and _fingerprint(settings) == _started_with(directory):
            return running, False
        register = Register(directory)
        if running is not None:
            register.stop(running, patience_s=STOP_PATIENCE_S)
        arguments = command(settings, directory, idle_exit_s=IDLE_EXIT_S)
        started = register.start(BROKER, arguments)
        files.replace(directory / SETTINGS_FILE, _fingerprint(settings).encode())
        return started, True


def serve(settings: Settings) -> list[str]:
    """Make this process the broker of these settings and return the command it must become (exec keeps the pid).

    Raises:
        ConflictError: another `broker serve` runs.
    """
    directory = home(settings.account)
    with files.locked(files.make_private_dir(directory) / LOCK_FILE):
        register = Register(directory)
        running = find(directory)
        if running is not None and running.name == SERVED:
            raise ConflictError(
                f"a broker serves {settings.account} already", why=f"pid {running.pid}", hint="stannary broker stop"
            )
        arguments = command(settings, directory, idle_exit_s=0.0)
        (directory / STOPPED_FILE).unlink(missing_ok=True)
        if running is not None:
            register.stop(running, patience_s=STOP_PATIENCE_S)
        register.adopt(processes.this(SERVED))
        files.replace(directory / SETTINGS_FILE, _fingerprint(settings).encode())
        return arguments


def find(directory: Path) -> Started | None:
    """Return the living broker kept in a directory."""
    register = Register(directory)
    return register.find(SERVED) or register.find(BROKER)


def stop(directory: Path) -> Started | None:
    """Stop the broker kept in a directory and return it, None if none ran."""
    if not directory.is_dir():
        return None
    with files.locked(files.make_private_dir(directory) / LOCK_FILE):
        running = find(directory)
        if running is not None:
            with contextlib.suppress(StannaryError):  # a full disk keeps nobody from stopping it
                files.replace(directory / STOPPED_FILE, b"")  # before it ends: who watches it must know why
            Register(directory).stop(running, patience_s=STOP_PATIENCE_S)
        return running


def accounts() -> list[str]:
    """Return every account that has or had a broker on this machine."""
    root = files.data_dir() / "broker"
    return sorted(path.name for path in root.iterdir() if path.is_dir()) if root.is_dir() else []


def open_jobs(settings: Settings) -> list[str]:
    """Return the jobs on this disk for which these settings need a broker."""
    return [place.name for place in buyer.open_orders(buyer.root(), settings.profile.vkey, settings.account)]


def command(settings: Settings, directory: Path, *, idle_exit_s: float) -> list[str]:
    """Return the arguments of the broker's process; the token is in none of them."""
    market = settings.profile
    if not market.vkey:
        raise UsageError(
            "the market's key is not pinned", why=f"profile {market.name}", hint="stannary market add URL --key KEY"
        )
    if settings.token is None:
        raise AuthError("no API token for this market", why=f"profile {market.name}", hint="stannary market add --help")
    arguments = ["-m", "stannary.broker", "--url", market.url, "--market-key", market.vkey]
    arguments += ["--dir", str(buyer.root()), "--account", settings.account, "--home", str(directory)]
    if not settings.origins.get("token", "").startswith("environment"):  # else it inherits STANNARY_TOKEN
        arguments += ["--token-file", str(settings.token_file)]
    for key in market.witness_vkeys:
        arguments += ["--witness-key", key]
    if market.tls_pin:
        arguments += ["--tls-pin", market.tls_pin]
    if idle_exit_s:
        arguments += ["--idle-exit", str(idle_exit_s)]
    return arguments


class Keeper:
    """Makes sure of the broker for as long as a command follows a job."""

    def __init__(
        self, settings: Settings, place: Path | None = None, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._settings = settings
        self._directory = place or home(settings.account)
        self._clock = clock
        self._seen: Started | None = None
        self._seen_at = 0.0
        self._deaths = 0
        self._retry_at = 0.0
        self._was_told = False  # that it was stopped

    def tend(self) -> str:
        """Start the broker where none runs; return a line to be said, empty when all is as it was.

        Call it before a job is followed and then every few seconds. It never raises for a broker that does
        not come up: the job is followed all the same, and the line says what is wrong.
        """
        now = self._clock()
        if now < self._retry_at or (self._seen is not None and self._seen.is_alive):
            return ""
        if self._seen is not None and (self._directory / STOPPED_FILE).exists():
            is_told, self._was_told = self._was_told, True
            stopped = f"  ! broker     pid {self._seen.pid} was stopped by a command and stays so; the job waits for it"
            return "" if is_told else stopped
        self._was_told = False
        if self._seen is not None and now - self._seen_at < QUICK_DEATH_S:
            self._deaths += 1
            if self._deaths >= QUICK_DEATHS:
                self._deaths, self._retry_at = 0, now + RETRY_S
                why = Register(self._directory).last_words(BROKER)
                return f"  ! broker     ends as soon as it starts: {why}; next try in {RETRY_S:.0f} s"
        try:
            started, is_new = ensure(self._settings, self._directory)
        except StannaryError as err:
            self._retry_at = now + RETRY_S
            return f"  ! broker     does not start ({err}); next try in {RETRY_S:.0f} s"
        before, self._seen, self._seen_at = self._seen, started, now
        if before is None:
            return f"  broker     pid {started.pid} {PURPOSE}"
        return f"  ! broker     pid {before.pid} was gone; {'started again' if is_new else 'now'} as pid {started.pid}"


def _fingerprint(settings: Settings) -> str:
    market, token = settings.profile, settings.token.value if settings.token is not None else ""
    words = [market.url, market.vkey, *market.witness_vkeys, market.tls_pin, token]
    return hashlib.sha256("\n".join(words).encode()).hexdigest()


def _started_with(directory: Path) -> str:
    try:
        return (directory / SETTINGS_FILE).read_text("ascii")
    except (OSError, UnicodeDecodeError):
        return ""
