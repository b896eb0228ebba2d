"""Slots: a large machine sold as several nodes, each with a key, a share of the cores and one job at a time.

Rules:
1. The nodes of a family are NAME-1..NAME-N; a node that is called NAME itself is meant by that name alone.
2. Shares are whole cores and equal; together they are never more than what is usable here.
3. One token lets all in; who joins again continues where it stopped. The engine class is measured once.
4. `serve` starts one agent for each slot and passes SIGTERM and SIGINT on, once each. It starts none again:
   an agent that ends badly is named with its last word while the others go on.
5. Where control groups of version 2 are ours, every agent gets a group of its own (HierarchyV2.entrance_for).

What a node's process does is the agent's (`python -m stannary.agent`); asking and showing is the command line's.
"""

from __future__ import annotations

import re
import selectors
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stannary import files
from stannary.errors import EnvironmentProblem, StannaryError, UsageError
from stannary.formats import dsse, statement
from stannary.formats.predicates import Credential
from stannary.run.sandbox import cgroup
from stannary.sdk import processes

if TYPE_CHECKING:
    from collections.abc import Iterator

NODE_FILE, CREDENTIAL_FILE, PID_FILE = "node.json", "credential.json", "agent.pid"
MIN_MEMORY_BYTES = 256 * 1024**2  # less holds no interpreter with torch (about 200 MiB resident)
MAX_LINE_BYTES = 8_192  # an agent's line, as it is shown
POLL_S = 0.5  # for an agent that ended while something it started still holds its output
_MEMBER = re.compile(r"(?P<family>.+)-(?P<number>[1-9][0-9]*)")

Tell = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Share:
    """What each slot sells."""

    cpus: int
    memory_bytes: int


def share(num_slots: int, cpus: int, usable_cpus: int, usable_bytes: int) -> Share:
    """Return the share of each of `num_slots`: `cpus` cores, or an equal part of the usable ones if 0.

    Raises:
        UsageError: they would be more than is usable here, or too small for any job.
    """
    each = cpus or usable_cpus // num_slots
    if each < 1 or each * num_slots > usable_cpus:
        raise UsageError(
            "this machine has fewer cores",
            why=f"{num_slots} slots of {max(each, 1)} cores, {usable_cpus} usable here "
            "(affinity and control group counted)",
            hint=f"--slots {usable_cpus // cpus}" if 0 < cpus <= usable_cpus else f"at most --slots {usable_cpus}",
        )
    memory_bytes = usable_bytes // num_slots
    if memory_bytes < MIN_MEMORY_BYTES:
        raise UsageError(
            "too little memory for that many slots",
            why=f"{memory_bytes:,} bytes each, at least {MIN_MEMORY_BYTES:,} are needed",
            hint=f"--slots {max(1, usable_bytes // MIN_MEMORY_BYTES)}",
        )
    return Share(each, memory_bytes)


def names(family: str, num_slots: int) -> list[str]:
    """Return the names of a family's nodes."""
    return [f"{family}-{number}" for number in range(1, num_slots + 1)]


def kept(root: Path) -> list[str]:
    """Return the nodes kept in a directory, slots in the order of their numbers."""
    return sorted((path.parent.name for path in root.glob(f"*/{NODE_FILE}")), key=_order)


def meant(name: str, all_names: Sequence[str]) -> list[str]:
    """Return the nodes a name means: the node called so, else the slots of the family called so."""
    if name in all_names:
        return [name]
    return [item for item in all_names if family_of(item) == name]


def family_of(name: str) -> str:
    """Return the family of a slot's name, empty if it is no slot's."""
    found = _MEMBER.fullmatch(name)
    return found["family"] if found else ""


def claimed_cpus(root: Path, besides: Sequence[str]) -> int:
    """Return how many cores the nodes kept here sell together, those of `besides` left out."""
    held = [credential(root / name) for name in kept(root) if name not in besides]
    return sum(item.cpus for item in held if item is not None)


def credential(place: Path) -> Credential | None:
    """Return the credential that a node keeps; None if it has none that can be read: it cannot serve either."""
    try:
        payload = dsse.from_bytes((place / CREDENTIAL_FILE).read_bytes()).payload
        return statement.read(payload, "credential", Credential).predicate
    except (OSError, StannaryError):
        return None


def join(place: Path, token: str, arguments: Sequence[str], tell: Tell) -> dict[str, Any]:
    """Let one slot join and return what its agent reports: `node`, `engine_class`.

    Raises:
        StannaryError: the agent's own, with its code.
    """
    files.make_private_dir(place)
    words = ["-m", "stannary.agent", "join", "--dir", str(place), *arguments]
    return processes.ask(words, tell, secret=token)


def serve(places: Sequence[Path], arguments: Sequence[str], tell: Tell) -> None:
    """Run one agent for each place until all have ended.

    Raises:
        EnvironmentProblem: every one of them ended badly.
    """
    hierarchy = cgroup.find()
    agents: list[_Agent] = []
    failures: list[str] = []
    with selectors.DefaultSelector() as selector, _passing_on(agents) as signals:
        for place in places:
            if signals:
                break
            try:
                agent = _Agent.start(place, arguments, hierarchy)
            except (OSError, StannaryError) as err:  # a full disk, no room for a process: the others go on (rule 4)
                failures.append(f"{place.name}: {err}")
                tell(f"  ! {place.name} does not start: {err}")
                continue
            agents.append(agent)
            if signals:  # it came between the two lines above
                agent.process.send_signal(signal.SIGTERM)
            selector.register(agent.output, selectors.EVENT_READ, agent)
        while selector.get_map():
            heard = [key.data for key, _ in selector.select(POLL_S)]
            for agent in heard:
                agent.read(tell)
            for agent in [key.data for key in selector.get_map().values()]:
                if agent.is_closed or (agent not in heard and agent.process.poll() is not None):
                    selector.unregister(agent.output)
                    tell(agent.end(is_asked=bool(signals), tell=tell))
        fine = {0, -signal.SIGTERM} if signals else {0}  # a signal may come before the agent takes any
    bad = [agent for agent in agents if agent.process.returncode not in fine]
    failures += [f"{agent.name}: {agent.last_words}" for agent in bad]
    if failures and len(bad) == len(agents):
        why = "; ".join(failures)[:600]
        raise EnvironmentProblem("every slot ended badly", why=why, hint="mend it, then: stannary node run")


class _Agent:
    """One slot's agent and its output."""

    def __init__(self, name: str, process: subprocess.Popen[bytes]) -> None:
        assert process.stdout is not None
        self.name, self.process, self.output = name, process, process.stdout
        self.last_words = "no output"
        self.is_closed = False
        self._rest = b""

    @classmethod
    def start(cls, place: Path, arguments: Sequence[str], hierarchy: cgroup.Hierarchy | None) -> _Agent:
        """Start the agent of a place in a session of its own, and keep its pid there.

        Raises:
            OSError, EnvironmentProblem: it cannot be started, or its pid not be kept; nothing runs then.
        """
        words = [sys.executable, "-P", "-m", "stannary.agent", "run", "--dir", str(place), *arguments]
        process = subprocess.Popen(  # noqa: S603  our own module
            entering(place.name, words, hierarchy),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            bufsize=0,
            start_new_session=True,  # Ctrl-C reaches it through us alone: a second one would end the work at hand
        )
        try:
            processes.write(place / PID_FILE, processes.of(place.name, process.pid))
        except (OSError, StannaryError):
            process.kill()
            process.communicate()
            raise
        return cls(place.name, process)

    def read(self, tell: Tell) -> None:
        """Pass its next lines on, each with its name before it."""
        data = self.output.read(MAX_LINE_BYTES) or b""
        self.is_closed = not data
        lines = (self._rest + data).split(b"\n")
        self._rest = lines.pop()
        if len(self._rest) > MAX_LINE_BYTES:
            lines, self._rest = [*lines, self._rest], b""
        for line in lines:
            self._say(line, tell)

    def end(self, *, is_asked: bool, tell: Tell) -> str:
        """Reap it and return how it ended, in words."""
        if self._rest:
            self._say(self._rest, tell)
        code = self.process.wait()
        self.output.close()
        if code == 0 or is_asked:
            return f"{self.name} has stopped"
        how = f"by signal {signal.Signals(-code).name}" if code < 0 else f"with exit code {code}"
        return f"  ! {self.name} ended {how}: {self.last_words}. It is not started again"

    def _say(self, line: bytes, tell: Tell) -> None:
        text = line.decode("utf-8", "replace").rstrip()
        if text:
            tell(f"{self.name} | {text}")
            is_hint = text.startswith("  next  ")
            self.last_words = self.last_words if is_hint else text.strip().removeprefix("why   ")


def entering(name: str, words: Sequence[str], hierarchy: cgroup.Hierarchy | None) -> list[str]:
    """Return the command line that starts an agent in a group where it can make groups for its jobs."""
    if not isinstance(hierarchy, cgroup.HierarchyV2):
        return list(words)  # version 1: groups below a group with processes may have limits
    return ["/bin/sh", "-c", 'echo 0 > "$0" && exec "$@"', str(hierarchy.entrance_for(name)), *words]


@contextmanager
def _passing_on(agents: list[_Agent]) -> Iterator[list[int]]:
    """Pass SIGTERM and SIGINT on to every agent there is; yield the signals that came."""
    came: list[int] = []

    def pass_on(number: int, _: object) -> None:
        came.append(number)
        for agent in agents:
            agent.process.send_signal(signal.SIGTERM)  # to one that has ended, nothing is sent

    before = {number: signal.signal(number, pass_on) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield came
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _order(name: str) -> tuple[str, int]:
    found = _MEMBER.fullmatch(name)
    return (found["family"], int(found["number"])) if found else (name, 0)
