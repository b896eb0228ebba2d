"""Hosts for walks: a market that serves TLS, operators and buyers, each in a network namespace and home of its own.

    with Realm(directory) as realm:
        market = realm.market()                      # `stannary market serve` on its host, with its card
        market.node("basalt", "n1"), market.node("granite", "n2")
        ada = market.buyer("ada")                    # has run the printed `stannary market add` line
        done = ada.stannary("run", "job.yaml")

All hosts hang on one bridge, 10.<x>.0.0/24 inside a namespace of its own: nothing leaves this machine, and the
default namespace stays as it was. Everything started is ended, and every namespace removed, by the `with`.
Needs root on Linux (mark tests `needs_root`, and skip by NEEDS_ROOT).
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

from tests.patience import PATIENCE_S, wait_for

NEEDS_ROOT = "network namespaces need root and `ip` on Linux"
CAN_RUN = os.name == "posix" and hasattr(os, "geteuid") and os.geteuid() == 0 and shutil.which("ip") is not None
PORT = 7433
STOP_S = 30.0
OTHER_RELEASE = 'mount --bind "$0" /usr/lib/os-release && exec "$@"'  # in a mount namespace of its own
_counter = itertools.count(1)

COMMAND_JOB = """\
name: small
kind: command
workdir: .
run: python work.py
outputs: [out/answer.txt]
trust: {tier: T0, policy: local, privacy: open, verify: rerun-compare, assurance: full, max_price: 0.50}
resources: {cpus: 1, memory: 256MiB, disk: 256MiB, wall_s: 300}
budget: 1.00
"""
WORK = """\
import pathlib, time
time.sleep({sleep_s})  # the work itself: it lasts, so that others can be killed or asked meanwhile
pathlib.Path("out").mkdir(exist_ok=True)
pathlib.Path("out/answer.txt").write_text("42\\n")
print("done", flush=True)
"""


class Host:
    """One machine: a namespace, an address, and a home whose owner runs `stannary`."""

    def __init__(self, namespace: str, address: str, directory: Path) -> None:
        self.namespace = namespace
        self.address = address
        self.cwd = directory / "cwd"
        self.cwd.mkdir(parents=True)
        self.config = directory / "config"
        self.data = directory / "data"
        clean = {name: value for name, value in os.environ.items() if not name.startswith("STANNARY_")}
        self.environment = {
            **clean,
            "HOME": str(directory),
            "STANNARY_CONFIG_DIR": str(self.config),
            "STANNARY_DATA_DIR": str(self.data),
            "OMP_NUM_THREADS": "1",
        }
        self.release = ""  # os-release of this machine, where it is to differ from the others'
        self._running: list[subprocess.Popen[bytes]] = []

    def stannary(self, *arguments: str, stdin: str = "", timeout_s: float = 240.0) -> subprocess.CompletedProcess[str]:
        """Run one command to its end."""
        return subprocess.run(
            self.words(*arguments),
            cwd=self.cwd,
            env=self.environment,
            input=stdin,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )

    def json(self, *arguments: str, stdin: str = "") -> Any:
        """Run one command that must succeed and return its --json document."""
        done = self.stannary(*arguments, "--json", stdin=stdin)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def start(self, *arguments: str, log: str) -> subprocess.Popen[bytes]:
        """Start one command, its output in cwd/<log>."""
        with (self.cwd / log).open("ab") as file:
            process = subprocess.Popen(
                self.words(*arguments),
                cwd=self.cwd,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
                start_new_session=True,
            )
        self._running.append(process)
        return process

    def words(self, *arguments: str) -> list[str]:
        """Return the command line that runs `stannary ...` here."""
        other = ["unshare", "--mount", "sh", "-c", OTHER_RELEASE, self.release] if self.release else []
        # -P as an installed `stannary` has it: its modules are not looked for in the working directory
        return ["ip", "netns", "exec", self.namespace, *other, sys.executable, "-P", "-m", "stannary", *arguments]

    def job(self, text: str = COMMAND_JOB, *, sleep_s: float = 0.0, name: str = "job.yaml") -> str:
        """Write a small command job and return its file's name."""
        (self.cwd / name).write_text(text)
        (self.cwd / "work.py").write_text(WORK.format(sleep_s=sleep_s))
        return name

    def stop(self) -> None:
        """End what was started here, and every broker of this home."""
        for process in reversed(self._running):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGTERM)
        for process in self._running:
            try:
                process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait(STOP_S)
        self._running.clear()
        self._end_namespace()

    def _end_namespace(self) -> None:
        """Kill what still lives in this namespace, such as brokers: it was made for this host alone."""
        listed = subprocess.run(["ip", "netns", "pids", self.namespace], capture_output=True, text=True, check=False)
        for pid in listed.stdout.split():
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)


class Market(Host):
    """The host on which `stannary market serve` runs."""

    def __init__(self, namespace: str, address: str, directory: Path) -> None:
        super().__init__(namespace, address, directory)
        self.directory = directory / "market"
        self.realm: Realm | None = None

    def serve(self, *arguments: str) -> dict[str, Any]:
        """Start the market and return its card once it answers."""
        words = ["market", "serve", "--dir", str(self.directory), "--", "--host", self.address, "--port", str(PORT)]
        self.process = self.start(*words, *arguments, log="market.log")
        path = self.directory / "market.json"
        wait_for(lambda: path.exists() or self.process.poll() is not None, "the market's card")
        assert self.process.poll() is None, (self.cwd / "market.log").read_text()
        return self.card

    @property
    def card(self) -> dict[str, Any]:
        """The market's card."""
        found: dict[str, Any] = json.loads((self.directory / "market.json").read_text())
        return found

    def token(self, account: str, deposit: str = "10") -> str:
        """Open a buyer's account."""
        done = self.stannary("market", "token", "--dir", str(self.directory), "--name", account, "--deposit", deposit)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def join_token(self, operator: str) -> str:
        """Return a token that lets one node in."""
        done = self.stannary("market", "join-token", "--dir", str(self.directory), "--operator", operator)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def node(self, operator: str, name: str, *, release: str = "") -> Host:
        """Let a node of a new host join, and run it; `release` is what its os-release says, where that is to differ."""
        assert self.realm is not None
        host = self.realm.host(name)
        if release:
            path = host.data.with_name("os-release")
            path.write_text(release)
            host.release = str(path)
        words = ("node", "join", "-", "--accept-terms", "--name", name)
        joined = host.stannary(*words, stdin=self.join_token(operator) + "\n", timeout_s=PATIENCE_S)
        assert joined.returncode == 0, joined.stderr
        host.start("node", "run", "--name", name, log="node.log")
        return host

    def buyer(self, account: str) -> Host:
        """Return a buyer's host that knows this market by its card and has an account with money."""
        assert self.realm is not None
        host = self.realm.host(account)
        self.let_in(host, account)
        return host

    def let_in(self, host: Host, account: str, profile: str = "default") -> None:
        """Run the line that `stannary market card` prints here at a host."""
        printed = self.stannary("market", "card", "--dir", str(self.directory))
        assert printed.returncode == 0, printed.stderr
        words = shlex.split(printed.stdout)[1:]
        done = host.stannary(*words, "--name", profile, stdin=self.token(account) + "\n")
        assert done.returncode == 0, done.stderr


H = TypeVar("H", bound=Host)


class Realm:
    """A bridge and the hosts on it, for the time of a `with`."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._tag = f"{os.getpid() % 10_000:04d}{next(_counter) % 100:02d}"
        self._hub = f"rh{self._tag}"
        self._hosts: list[Host] = []

    def __enter__(self) -> Realm:
        _ip("netns", "add", self._hub)
        _ip("-n", self._hub, "link", "add", "hub0", "type", "bridge")
        _ip("-n", self._hub, "link", "set", "hub0", "up")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for host in reversed(self._hosts):
            host.stop()
        for name in [*(host.namespace for host in self._hosts), self._hub]:
            with contextlib.suppress(subprocess.CalledProcessError):
                _ip("netns", "del", name)

    def host(self, name: str) -> Host:
        """Return a new machine on the bridge."""
        return self._add(Host, name)

    def market(self, *arguments: str) -> Market:
        """Return a new machine on which a market serves its address by TLS."""
        market = self._add(Market, "market")
        market.realm = self
        market.serve(*arguments)
        return market

    def _add(self, cls: type[H], name: str) -> H:
        number = len(self._hosts) + 1
        namespace, near, far = f"r{number}{self._tag}", f"v{number}{self._tag}", f"w{number}{self._tag}"
        address = f"10.77.0.{number}"
        _ip("netns", "add", namespace)
        _ip("-n", self._hub, "link", "add", near, "type", "veth", "peer", "name", far, "netns", namespace)
        _ip("-n", self._hub, "link", "set", near, "master", "hub0", "up")
        for device in ("lo", far):
            _ip("-n", namespace, "link", "set", device, "up")
        _ip("-n", namespace, "addr", "add", f"{address}/24", "dev", far)
        host = cls(namespace, address, self.directory / f"{number}-{name}")
        self._hosts.append(host)
        return host


def pids_in(text: str) -> Iterator[int]:
    """Yield the pids a screen names."""
    yield from (int(found) for found in re.findall(r"pid (\d+)", text))


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True)
