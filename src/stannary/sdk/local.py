"""A private market on this machine: market, nodes and broker, each a process of its own.

Rules:
1. Nothing of the market is imported here; it is started as `python -m stannary.market`, as an
   operator would, and spoken to over loopback HTTP.
2. A running one is reused if its process is ours and its address answers with the key on its card;
   what a crash left behind is cleared and started anew over the same data.
3. Its key is pinned when it is created, from the card only this account can write, not from HTTP.

Who starts what: the command line (`stannary run` without a market), the demo, end-to-end tests.
"""

from __future__ import annotations

import fcntl
import getpass
import importlib.util
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from stannary import files
from stannary.errors import AuthError, EnvironmentProblem, NotFound, StannaryError
from stannary.formats import canonical
from stannary.sdk import brokers, trustfile
from stannary.sdk import profile as profiles
from stannary.sdk.client import Client, Operator
from stannary.sdk.processes import Register, Started, wait_until
from stannary.sdk.profile import Profile
from stannary.verify import trust
from stannary.wire import routes
from stannary.wire.admin import JoinTokenRequest
from stannary.wire.card import CARD_FILE, Card, read_card
from stannary.wire.connection import Connection
from stannary.wire.market import MarketInfo

START_PATIENCE_S = 60.0  # a cold interpreter and database on a loaded laptop
JOIN_PATIENCE_S = 120.0  # torch is imported once to learn the engine class
STOP_PATIENCE_S = 15.0
DEPOSIT_USD_MICROS = 100_000_000  # play money: nobody outside this machine owes it
BOND_USD_MICROS = 10_000_000
ASK_USD_MICROS_PER_HOUR = 100_000
LOCAL_PACKAGES = ("uvicorn", "sqlalchemy", "torch")  # one of each of its extras: market, its store, training
NODE_FILE = "node.json"  # written by the agent when a join is done


@dataclass(frozen=True, slots=True)
class NodePlan:
    """A node to be started on this machine."""

    name: str
    operator: str
    ask_usd_micros_per_hour: int = ASK_USD_MICROS_PER_HOUR
    module: Sequence[str] = ("-m", "stannary.agent")
    flags: Sequence[str] = ()  # further flags of `join`, such as a kernel choice
    bond_usd_micros: int = BOND_USD_MICROS


TWO_NODES = (NodePlan("node-1", "this-machine-1"), NodePlan("node-2", "this-machine-2"))


class LocalMarket:
    """A market directory on this machine and the processes around it."""

    def __init__(self, directory: Path, *, name: str = "", timing: Sequence[str] = ()) -> None:
        self.directory = directory
        self.register = Register(directory)
        self._name = name
        self._timing = tuple(timing)  # NAME=SECONDS, deadlines of the market that differ from its defaults

    @property
    def card(self) -> Card | None:
        """Return the card of a running market, None if none runs."""
        card = read_card(self.directory)
        if card is None:
            return None
        started = self.register.find("market")
        if started is None or started.pid != card.pid:
            return None
        try:
            with Connection(card.url, tls_fingerprint=card.tls_fingerprint) as connection:
                return card if connection.get(routes.MARKET, MarketInfo).vkey == card.vkey else None
        except StannaryError:
            return None

    def ensure(self, nodes: Sequence[NodePlan] = TWO_NODES, *, profile: str = profiles.LOCAL) -> Profile:
        """Return the profile of a running market with these nodes and a broker, started where missing."""
        with self._locked():
            card = self.card or self._start_market()
            known = self._pin(card, profile)
            self._ensure_account(card, known)
            for plan in nodes:
                self.start_node(card, plan)
            brokers.ensure(profiles.resolve(profile, {}))
            self._await_nodes(card, known, nodes)
            return known

    def start_node(self, card: Card, plan: NodePlan) -> Started:
        """Join (the first time) and run one node."""
        running = self.register.find(plan.name)
        if running is not None:
            return running
        place = self.directory / "nodes" / plan.name
        if not (place / NODE_FILE).exists():
            self._join(card, plan, place)
        return self.register.start(plan.name, [*plan.module, "run", "--dir", str(place)])

    def stop(self) -> list[str]:
        """Stop nodes, broker and market, in this order; return the names of what was stopped."""
        with self._locked():
            running = sorted(self.register.all(), key=lambda item: item.name == "market")
            for started in running:
                self.register.stop(started, patience_s=STOP_PATIENCE_S)
            stopped = [started.name for started in running]
            stopped += [ended.name for home in self.broker_homes() if (ended := brokers.stop(home)) is not None]
            (self.directory / CARD_FILE).unlink(missing_ok=True)
            return stopped

    def broker_homes(self) -> list[Path]:
        """Return where the brokers of the profiles that know this market are kept."""
        card = read_card(self.directory)
        if card is None:
            return []
        known = profiles.load(profiles.config_path()).profiles.values()
        return [brokers.home(item.name) for item in known if item.vkey == card.vkey]

    def operator(self, card: Card) -> Operator:
        """Return a connection with the operator's rights."""
        token = files.Secret(files.read_secret(Path(card.admin_token_file)).decode("ascii").strip())
        return Operator(card.url, token, card.tls_fingerprint)

    def _start_market(self) -> Card:
        absent = [name for name in LOCAL_PACKAGES if importlib.util.find_spec(name) is None]
        if absent:
            raise EnvironmentProblem(
                "a private market needs more than the client",
                why=f"{', '.join(absent)} not installed",
                hint="pip install 'stannary[local]', in a checkout: pip install '.[local]'",
            )
        path = self.directory / CARD_FILE
        stale = self.register.find("market")
        if stale is not None:  # alive but deaf: it would keep the log locked
            self.register.stop(stale, patience_s=STOP_PATIENCE_S)
        path.unlink(missing_ok=True)
        arguments = ["-m", "stannary.market", "serve", "--dir", str(self.directory)]
        if self._name:
            arguments += ["--name", self._name]
        for item in self._timing:
            arguments += ["--timing", item]
        started = self.register.start("market", arguments)
        wait_until(lambda: path.exists() or not started.is_alive, START_PATIENCE_S)
        card = read_card(self.directory)
        if card is None:
            tail = self.register.log_tail("market").splitlines()[-1:] or ["no output"]
            raise EnvironmentProblem(
                "the private market did not start", why=tail[0], hint=f"cat {self.directory / 'market.log'}"
            )
        return card

    def _pin(self, card: Card, name: str) -> Profile:
        trustfile.pin(trust.pin(card.vkey, card.witness_vkeys))
        known = Profile(name, card.url, card.vkey, card.witness_vkeys, card.tls_fingerprint)
        profiles.store(known, None, make_default=False)
        return known

    def _ensure_account(self, card: Card, known: Profile) -> None:
        try:
            token = files.Secret(files.read_secret(profiles.token_path(known.name)).decode("ascii").strip())
            with Client(Connection(card.url, token=token, tls_fingerprint=card.tls_fingerprint)) as client:
                next(client.jobs(1), None)
            return
        except (NotFound, AuthError):
            pass  # no token yet, or one of a market that is gone
        with self.operator(card) as operator:
            answer = operator.api_token(f"{_account()}-{os.getpid()}", DEPOSIT_USD_MICROS)
        profiles.store(known, files.Secret(answer.token), make_default=False)

    def _await_nodes(self, card: Card, known: Profile, nodes: Sequence[NodePlan]) -> None:
        """Wait until every node has been heard of: a job sent before finds nobody to run it."""
        wanted = {_node_id(self.directory, plan.name): plan.name for plan in nodes}
        missing = dict(wanted)
        token = files.Secret(files.read_secret(profiles.token_path(known.name)).decode("ascii").strip())
        with Client(Connection(card.url, token=token, tls_fingerprint=card.tls_fingerprint)) as client:

            def is_complete() -> bool:
                heard = {offer.node for offer in client.offers().offers if offer.state in {"idle", "busy"}}
                for node in heard:
                    missing.pop(node, None)
                return not missing or any(self.register.find(name) is None for name in missing.values())

            wait_until(is_complete, START_PATIENCE_S)
        for name in missing.values():
            tail = " ".join(self.register.log_tail(name).splitlines()[-3:])[:400]
            hint = f"cat {self.directory / f'{name}.log'}"
            raise EnvironmentProblem(f"{name} did not come up", why=tail or "no output", hint=hint)

    def _join(self, card: Card, plan: NodePlan, place: Path) -> None:
        request = JoinTokenRequest(operator=plan.operator, bond_usd_micros=plan.bond_usd_micros)
        with self.operator(card) as operator:
            token = operator.join_token(request).token
        files.make_private_dir(place)
        arguments = [*plan.module, "join", token, "--dir", str(place), "--operator", plan.operator, "--name", plan.name]
        arguments += ["--ask", str(plan.ask_usd_micros_per_hour), *plan.flags]
        measured = self._engine_class(plan)
        if measured:
            arguments += ["--engine-class", measured]
        joining = self.register.start(f"{plan.name}-join", arguments)
        wait_until(lambda: not joining.is_alive, JOIN_PATIENCE_S)
        self.register.stop(joining, patience_s=1.0)
        if not (place / NODE_FILE).exists():
            tail = self.register.log_tail(joining.name).splitlines()[-3:]
            raise EnvironmentProblem(f"{plan.name} could not join", why=" ".join(tail)[:400] or "no output")

    def _engine_class(self, plan: NodePlan) -> str:
        """Return the class a node with the same flags measured here: measuring loads torch for seconds."""
        for path in sorted(self.directory.glob(f"nodes/*/{NODE_FILE}")):
            members = canonical.decode_object(path.read_bytes())
            if not plan.flags and not members.get("kernel"):
                return str(members.get("engine_class", ""))
        return ""

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Keep two commands from starting the same market at once."""
        files.make_private_dir(self.directory)
        fd = os.open(self.directory / ".start.lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            yield
        finally:
            os.close(fd)


def root() -> Path:
    """Return the directory of the private market."""
    return files.data_dir() / "local"


def _account() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # an account without a name, as in some containers
        return "buyer"


def _node_id(directory: Path, name: str) -> str:
    members = canonical.decode_object((directory / "nodes" / name / NODE_FILE).read_bytes())
    return str(members.get("node", ""))
