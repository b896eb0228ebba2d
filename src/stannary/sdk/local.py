"""A market on this machine: market, nodes and broker, each a process of its own.

Rules:
1. Nothing of the market is imported here; it is started as `python -m stannary.market`, as an
   operator would, and spoken to over loopback HTTP.
2. A running one is reused if its address answers with the key on its card; what a crash left behind is
   cleared and started anew over the same data.
3. Its key is pinned when it is created, from the card only this account can write, not from HTTP.
4. Nothing makes it unusable for good. A port that was taken meanwhile is left, and nodes and profiles told
   the new address; a node that was convicted, revoked or whose credential ended gets a fresh one in its place.
5. Directories are put aside, never deleted.

Who starts what: the command line (`stannary run` without a market), the demo, end-to-end tests.
"""

from __future__ import annotations

import contextlib
import getpass
import importlib.util
import os
import socket
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from stannary import files
from stannary.errors import AuthError, EnvironmentProblem, NotFound, StannaryError
from stannary.formats import canonical, dsse, instants, statement
from stannary.formats.canonical import Json
from stannary.formats.predicates import Credential
from stannary.sdk import brokers, processes, trustfile
from stannary.sdk import profile as profiles
from stannary.sdk.client import Client, Operator
from stannary.sdk.processes import Register, Started, wait_until
from stannary.sdk.profile import Profile, Settings
from stannary.verify import trust
from stannary.wire import message, routes
from stannary.wire.admin import JoinTokenRequest
from stannary.wire.card import CARD_FILE, Card, read_card
from stannary.wire.connection import Connection
from stannary.wire.market import MarketInfo

AUDIT_WAIT = "audit_wait_s=60"  # nobody's long job keeps the nodes of one's own market from an audit for ten minutes
APPEAL = "appeal_s=10"  # its nodes are here and have room soon, or the market computes a disputed unit itself
START_PATIENCE_S = 60.0  # a cold interpreter and database on a loaded laptop
JOIN_PATIENCE_S = 120.0  # torch is imported once to learn the engine class
STOP_PATIENCE_S = 15.0
DEPOSIT_USD_MICROS = 100_000_000  # play money: nobody outside this machine owes it
BOND_USD_MICROS = 10_000_000
ASK_USD_MICROS_PER_HOUR = 100_000
LOCAL_PACKAGES = ("uvicorn", "sqlalchemy", "torch")  # one of each of its extras: market, its store, training
MARKET = "market"  # its name in the register
NODE_FILE, CREDENTIAL_FILE = "node.json", "credential.json"  # written by the agent when a join is done
LOCK_FILE = ".start.lock"  # two commands at once start one market
PORT_FILE = "port"  # written by the market: nodes hold the address
SERVED_FILE = "served.json"  # the flags of `stannary market serve`
TOKEN_FILE = "buyer-token"  # noqa: S105  a file name; of a market without a profile

Tell = Callable[[str], None]


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

    def __init__(
        self, directory: Path, *, name: str = "", timing: Sequence[str] = (), tell: Tell = lambda _: None
    ) -> None:
        self.directory = directory
        self.register = Register(directory)
        self._name = name
        self._timing = tuple(timing)  # NAME=SECONDS, deadlines of the market that differ from its defaults
        self._tell = tell  # of what is not as the last time

    @property
    def card(self) -> Card | None:
        """Return the card of a running market, None if none runs."""
        card = read_card(self.directory)
        if card is None:
            return None
        started = self.register.find(MARKET)
        is_ours = started is not None and started.pid == card.pid  # it may be slow; a stranger is not waited for
        try:
            with Connection(card.here, tls_fingerprint=card.tls_fingerprint, vkey=card.vkey) as connection:
                answer = connection.send("GET", routes.MARKET, retry=is_ours)
                return card if message.read(MarketInfo, answer.content).vkey == card.vkey else None
        except StannaryError:
            return None

    @property
    def served_with(self) -> list[str] | None:
        """Return the flags `stannary market serve` was last given here, None where a command started the market."""
        try:
            value = canonical.decode((self.directory / SERVED_FILE).read_bytes())
        except (FileNotFoundError, StannaryError):
            return None
        return [str(item) for item in value] if isinstance(value, list) else None

    def adopt_serving(self, arguments: Sequence[str], this: Started) -> None:
        """Note that this process becomes the market, and with which flags."""
        with files.locked(files.make_private_dir(self.directory) / LOCK_FILE):
            self.register.adopt(this)
            value: list[Json] = list(arguments)
            files.replace(self.directory / SERVED_FILE, canonical.encode(value))

    def ensure(self, nodes: Sequence[NodePlan] = TWO_NODES, *, profile: str = profiles.LOCAL) -> Settings:
        """Return the settings of a running market with these nodes and a broker, started where missing.

        They are kept as `profile`; with an empty one nothing is written outside the market's directory but its pin.
        """
        with files.locked(files.make_private_dir(self.directory) / LOCK_FILE):
            card = self.card or self._start_market()
            used = self._ensure_account(card, self._pin(card, profile), is_kept=bool(profile))
            self._tell_address(card)
            self._put_aside_lost(card, nodes)
            for plan in nodes:
                self.start_node(card, plan)
            brokers.ensure(used, None if profile else self.directory / brokers.BROKER)
            self._await_nodes(used, nodes)
            return used

    def start(self) -> Card:
        """Return the card of the running market, started where none runs; nodes and broker are left alone."""
        with files.locked(files.make_private_dir(self.directory) / LOCK_FILE):
            return self.card or self._start_market()

    def start_node(self, card: Card, plan: NodePlan) -> Started:
        """Join (the first time) and run one node."""
        running = self.register.find(plan.name)
        if running is not None:
            return running
        place = self._node_place(plan.name)
        if not (place / NODE_FILE).exists():
            self._join(card, plan, place)
        return self.register.start(plan.name, [*plan.module, "run", "--dir", str(place)])

    def broker_homes(self) -> list[Path]:
        """Return where the brokers of this market's buyers on this machine are kept."""
        card = read_card(self.directory)
        known = profiles.load(profiles.config_path()).profiles.values() if card is not None else ()
        named = [brokers.home(item.name) for item in known if card is not None and item.vkey == card.vkey]
        return [*named, self.directory / brokers.BROKER]

    def stop(self) -> list[str]:
        """Stop nodes, broker and market, in this order; return the names of what was stopped.

        Its card stays: it says where the market was, and is believed only while that answers.
        """
        if not self.directory.is_dir():
            return []
        with files.locked(files.make_private_dir(self.directory) / LOCK_FILE):
            running = self.processes()
            stopped = self._stop_all(item for item in running if item.name != MARKET)  # they say good-bye to the market
            stopped += [ended.name for home in self.broker_homes() if (ended := brokers.stop(home)) is not None]
            return stopped + self._stop_all(item for item in running if item.name == MARKET)

    def processes(self) -> list[Started]:
        """Return the living processes; a market that was started by other means is the one on the card that answers."""
        running = self.register.all()
        if all(item.name != MARKET for item in running) and (card := self.card) is not None:
            running.append(processes.of(MARKET, card.pid))
        return running

    def operator(self, card: Card) -> Operator:
        """Return a connection with the operator's rights."""
        token = files.Secret(files.read_secret(Path(card.admin_token_file)).decode("ascii").strip())
        return Operator(card.here, token, card.vkey, card.tls_fingerprint)

    def _stop_all(self, running: Iterable[Started]) -> list[str]:
        stopped = []
        for started in running:
            self.register.stop(started, patience_s=STOP_PATIENCE_S)
            stopped.append(started.name)
        return stopped

    def _start_market(self) -> Card:
        absent = [name for name in LOCAL_PACKAGES if importlib.util.find_spec(name) is None]
        if absent:
            raise EnvironmentProblem(
                "a private market needs more than the client",
                why=f"{', '.join(absent)} not installed",
                hint="pip install 'stannary[local]', in a checkout: pip install '.[local]'",
            )
        path = self.directory / CARD_FILE
        stale = self.register.find(MARKET)
        if stale is not None:  # alive but deaf: it would keep the log locked
            self.register.stop(stale, patience_s=STOP_PATIENCE_S)
        path.unlink(missing_ok=True)
        arguments = ["-m", "stannary.market", "serve", "--dir", str(self.directory), *(self.served_with or ())]
        if self._name:
            arguments += ["--name", self._name]
        for item in (AUDIT_WAIT, APPEAL, *self._timing):
            arguments += ["--timing", item]
        if self.served_with is None:
            self._leave_taken_port()
        started = self.register.start(MARKET, arguments)
        wait_until(lambda: path.exists() or not started.is_alive, START_PATIENCE_S)
        card = read_card(self.directory)
        if card is None:
            raise EnvironmentProblem(
                "the market did not start",
                why=self.register.last_words(MARKET),
                hint=f"cat {self.directory / 'market.log'}",
            )
        return card

    def _leave_taken_port(self) -> None:
        """Forget the port of the last start if somebody else listens there now."""
        path = self.directory / PORT_FILE
        try:
            port = int(path.read_text("ascii"))
            with socket.socket() as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind(("127.0.0.1", port))
        except (FileNotFoundError, ValueError):
            return
        except OSError as err:
            self._tell(f"port {port} of the private market is taken ({err.strerror}): it moves to another")
            path.unlink(missing_ok=True)

    def _pin(self, card: Card, name: str) -> Profile:
        trustfile.pin(trust.pin(card.vkey, card.witness_vkeys))
        directory = str(self.directory.resolve())
        known = Profile(name, card.url, card.vkey, card.witness_vkeys, card.tls_fingerprint, directory)
        if not name:
            return replace(known, name=self._name or self.directory.name)
        profiles.store(known, None, make_default=False)
        for other in profiles.load(profiles.config_path()).profiles.values():
            if other.vkey == card.vkey and other.url != card.url:
                profiles.store(replace(other, url=card.url, tls_pin=card.tls_fingerprint), None, make_default=False)
        return known

    def _ensure_account(self, card: Card, known: Profile, *, is_kept: bool) -> Settings:
        path = profiles.token_path(known.name) if is_kept else self.directory / TOKEN_FILE
        with contextlib.suppress(NotFound, AuthError):  # no token yet, or one of a market that is gone
            token = files.Secret(files.read_secret(path).decode("ascii").strip())
            used = Settings(known, token, path, {})
            with Client.open(used) as client:
                next(client.jobs(1), None)
            return used
        with self.operator(card) as operator:
            answer = operator.api_token(f"{_account()}-{os.getpid()}", DEPOSIT_USD_MICROS)
        files.replace(path, answer.token.encode())
        return Settings(known, files.Secret(answer.token), path, {})

    def _tell_address(self, card: Card) -> None:
        """Write the market's address into nodes that know another, and end those that run with it."""
        for path in sorted(self.directory.glob(f"nodes/*/{NODE_FILE}")):
            members = _members(path)
            if members is None or members.get("url") == card.url or members.get("market_vkey") != card.vkey:
                continue
            running = self.register.find(path.parent.name)
            if running is not None:
                self.register.stop(running, patience_s=STOP_PATIENCE_S)
            changed: dict[str, Json] = {**members, "url": card.url, "tls_fingerprint": card.tls_fingerprint}
            files.replace(path, canonical.encode(changed))

    def _put_aside_lost(self, card: Card, nodes: Sequence[NodePlan]) -> None:
        """Put aside the directory of every node this market will never have again."""
        joined = [plan for plan in nodes if self._node_place(plan.name).exists()]
        if not joined:
            return
        with self.operator(card) as operator:
            views = {view.node: view for view in operator.nodes().nodes}
            market = operator.market()
        for plan in joined:
            place = self._node_place(plan.name)
            members = _members(place / NODE_FILE)
            if members is None and not (place / NODE_FILE).exists():
                continue  # a join that was cut short: it is made again with the same key
            view = views.get(str((members or {}).get("node")))
            reason = (
                "is unknown here" if view is None
                else "was convicted" if view.convicted
                else "was revoked" if view.revoked
                else "has a credential that ended" if _has_expired(place)
                else "has another system than this machine now" if not self._is_of_now(place)
                else "signed former terms" if _terms_of(place) != market.terms_digest else ""
            )  # fmt: skip
            if not reason:
                continue
            running = self.register.find(plan.name)
            if running is not None:
                self.register.stop(running, patience_s=STOP_PATIENCE_S)
            aside = next(path for number in range(1, 10_000) if not (path := _aside(place, number)).exists())
            place.rename(aside)
            self._tell(f"{plan.name} {reason}: a fresh node takes its place (the old one is kept in {aside})")

    def _await_nodes(self, used: Settings, nodes: Sequence[NodePlan]) -> None:
        """Wait until every node has been heard of: a job sent before finds nobody to run it."""
        places = {plan.name: _members(self._node_place(plan.name) / NODE_FILE) or {} for plan in nodes}
        missing = {str(members.get("node")): name for name, members in places.items()}
        with Client.open(used) as client:

            def is_complete() -> bool:
                heard = {offer.node for offer in client.offers().offers if offer.state in {"idle", "busy"}}
                for node in heard:
                    missing.pop(node, None)
                return not missing or any(self.register.find(name) is None for name in missing.values())

            wait_until(is_complete, START_PATIENCE_S)
        for name in missing.values():
            hint = f"cat {self.directory / f'{name}.log'}"
            raise EnvironmentProblem(f"{name} did not come up", why=self.register.last_words(name), hint=hint)

    def _join(self, card: Card, plan: NodePlan, place: Path) -> None:
        request = JoinTokenRequest(operator=plan.operator, bond_usd_micros=plan.bond_usd_micros)
        with self.operator(card) as operator:
            token = operator.join_token(request).token
        files.make_private_dir(place)
        arguments = [*plan.module, "join", "--dir", str(place), "--operator", plan.operator, "--name", plan.name]
        arguments += ["--ask", str(plan.ask_usd_micros_per_hour), *plan.flags]
        measured = self._engine_class(plan)
        if measured:
            arguments += ["--engine-class", measured]
        joining = self.register.start(f"{plan.name}-join", arguments, secret=token)
        wait_until(lambda: not joining.is_alive, JOIN_PATIENCE_S)
        self.register.stop(joining, patience_s=1.0)
        if not (place / NODE_FILE).exists():
            why, log = self.register.last_words(joining.name), self.directory / f"{joining.name}.log"
            raise EnvironmentProblem(f"{plan.name} could not join", why=why, hint=f"cat {log}")

    def _engine_class(self, plan: NodePlan) -> str:
        """Return the class a node with the same flags measured here: measuring loads torch for seconds."""
        for path in sorted(self.directory.glob(f"nodes/*/{NODE_FILE}")):
            members = _members(path)
            if members is not None and not plan.flags and not members.get("kernel") and self._is_of_now(path.parent):
                return str(members.get("engine_class", ""))
        return ""

    def _is_of_now(self, place: Path) -> bool:
        """Say whether a node's engine class names what jobs see of this machine today, or nothing of it."""
        from stannary.run import visible

        said = (_members(place / NODE_FILE) or {}).get("engine_class", "")
        return visible.name_of(str(said)) in ("", visible.visible_name())

    def _node_place(self, name: str) -> Path:
        return self.directory / "nodes" / name


def root() -> Path:
    """Return the directory of the private market."""
    return files.data_dir() / "local"


def of_profile(known: Profile) -> Path | None:
    """Return the directory of a profile's market if it is one of this machine that commands may start."""
    if known.directory:
        return Path(known.directory)
    is_ours = known.name == profiles.LOCAL and known.url.startswith(("http://127.0.0.1:", "http://[::1]:"))
    return root() if is_ours or (known.name == profiles.LOCAL and not known.url) else None


def _account() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # an account without a name, as in some containers
        return "buyer"


def _aside(place: Path, number: int) -> Path:
    return place.with_name(f"{place.name}.gone-{number}")


def _members(path: Path) -> dict[str, Json] | None:
    """Return what a node's file says, None if it is not there or not whole."""
    try:
        return dict(canonical.decode_object(path.read_bytes()))
    except (OSError, StannaryError):
        return None


def _has_expired(place: Path) -> bool:
    """Tell whether the credential in a node's directory is over; one that cannot be read is."""
    held = _credential(place)
    return held is None or instants.parse(held.expires_at) <= time.time()


def _terms_of(place: Path) -> str:
    held = _credential(place)
    return held.terms if held is not None else ""


def _credential(place: Path) -> Credential | None:
    try:
        payload = dsse.from_bytes((place / CREDENTIAL_FILE).read_bytes()).payload
        return statement.read(payload, "credential", Credential).predicate
    except (OSError, StannaryError):
        return None
