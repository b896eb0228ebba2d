"""Fuzzed signed statements: what intake accepts, views can say, a conclusion can settle, the verifier does not refute.

A node or buyer with a valid key sends, before and instead of each honest statement, the same statement with one member
made odd (extreme, ill-typed, oversized, of another script, of another time) and signed as it stands; each member in its
turn. The market may take it or refuse it in its own words; it may not break, and what it took must carry the job to a
receipt that neither verifier refutes.
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
import random
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from tests.integration.market import world as worlds
from tests.integration.market.fake_buyer import FakeBuyer, command_spec, train_spec
from tests.integration.market.fake_node import FakeNode
from tests.integration.market.world import World
from tests.second_verifier import comparison

from stannary import errors
from stannary.formats import dsse, record, statement
from stannary.formats.instants import spell
from stannary.formats.predicates import Answer, Commitment, Contribution
from stannary.verify.trust import TrustStore, pin
from stannary.wire import buyer as wire
from stannary.wire import message, node, routes

BIG = 2**53 - 1
TRIES = 6  # of each statement
HANGS_S = 60.0
FREE = {  # members a node may choose, and still hand in its work
    "contribution": ("environment", "sandbox", "spent", "metrics", "finished_at", "ended"),
    "answer": ("spent", "answered_at", "ended", "used"),
    "reading": ("spent", "seq", "read_at"),
    "commitment": ("epoch", "used"),
    "answer-commitment": ("role",),
}
WORDS: list[Any] = [
    "", "\0", "a\0b", "\n", "x" * 201, "x" * 100_000, "\u202eevil", "\u2066x\u2069", "é", "e\u0301", "\uff11",
    "../../etc/passwd", "/", "NaN", "nan", "inf", "-0", "1e400", "sha256:" + "A" * 64, "sha256:" + "0" * 64, "x",
]  # fmt: skip
ENDS: list[Any] = ["exit-0", "exit-1", "exit-1000", "signal-9", "wall-limit", "out-of-memory", "stopped", "", 0, None]
USES: list[Any] = [
    None, {}, {"wall_ms": BIG, "waited_ms": 0, "cpu_ms": 0}, {"wall_ms": 0, "waited_ms": BIG, "cpu_ms": 0},
    {"wall_ms": 316_224_000_000, "waited_ms": 0, "cpu_ms": 316_224_000_000},
    {"wall_ms": 1, "waited_ms": 1, "cpu_ms": 0},
    {"wall_ms": 1, "waited_ms": 0, "cpu_ms": 1, "device_ms": 5}, {"wall_ms": -1, "waited_ms": 0, "cpu_ms": 0},
]  # fmt: skip
NUMBERS: list[Any] = [-1, 0, 1, -BIG, BIG, 2**31, 2**32, True, False, "1", None, [], {}]
TIMES: list[Any] = [
    "0001-01-01T00:00:00Z", "9999-12-31T23:59:59Z", "2026-06-30T23:59:60Z", "2026-02-30T00:00:00Z",
    "2026-01-01T00:00:00+00:00", "2026-01-01T00:00:00.5Z", "2026-01-01t00:00:00z", "\uff12026-01-01T00:00:00Z", "now",
]  # fmt: skip
OFFSETS_S = (-90_000, -86_401, -86_300, -3_600, 200, 301, 3_600, 90_000)  # witness and market clock differ a little
RAW = [  # of the JSON text itself: what no record can hold
    lambda text: text.replace('"predicate":{', '"predicate":{"node":"n-000000000000",', 1),  # a doubled member
    lambda text: text.replace('"predicate":{', '"predicate":{"more":' + "[" * 5000 + "]" * 5000 + ",", 1),
    lambda text: text.replace(":0", ":0.0", 1),
    lambda text: text.replace(":1", ":1e400", 1),
    lambda text: text.replace(":0", ":-0", 1),
    lambda text: text.replace(":0", ":9007199254740993", 1),
    lambda text: text.replace('"node":"n-', '"node":"\\ud800n-', 1),
    lambda text: text.replace('"node":', '"NODE":', 1),
    lambda text: " " + text,
    lambda text: text + "\0",
]


def odd_value(rng: random.Random, name: str, honest: Any, now: float) -> Any:
    """Return another value for a member."""
    if name.endswith("_at"):
        return rng.choice([*TIMES, *(spell(now + offset) for offset in OFFSETS_S)])
    if name in ("ended", "used"):
        return rng.choice(ENDS if name == "ended" else USES)
    if name == "metrics":
        odd = {rng.choice(WORDS): rng.choice([*WORDS, *NUMBERS]) for _ in range(rng.randint(1, 3))}
        many = {f"m{number}": "1.5" for number in range(rng.randint(0, 20))}
        large = {"loss": "9" * rng.choice([15, 16, 4000])}
        return rng.choice([odd, many, large, {"x" * 10_000: "1"}, {f"m{i}": "9" * 5000 for i in range(500)}])
    if isinstance(honest, dict):  # of the phases of `spent`
        return {**honest, rng.choice(sorted(honest)): rng.choice(NUMBERS)}
    if isinstance(honest, list):
        return rng.choice([[], honest * 2000, [*honest, *honest], "x", None])
    return rng.choice(NUMBERS if isinstance(honest, int) else [*WORDS, 1, None, []])


def least_tried(tried: Counter[tuple[str, str]], kind: str, members: dict[str, Any], rng: random.Random) -> str:
    """Choose the member of a statement to make odd: of those tried least by chance."""
    names = [*members, *FREE.get(kind, ())]
    rng.shuffle(names)
    name = min(names, key=lambda item: tried[kind, item])
    tried[kind, name] += 1
    return name


@dataclass
class Fuzzer(FakeNode):
    """Sends odd statements first; whatever the market takes instead of the honest one stands."""

    rng: random.Random = field(default_factory=random.Random)
    taken: Counter[str] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)
    broken: list[str] = field(default_factory=list)
    tried: Counter[tuple[str, str]] = field(default_factory=Counter)

    async def _post(self, template: str, lease: node.Lease, kind: str, predicate: Any) -> dsse.Envelope:
        honest = statement.sign(kind, predicate, (), self.key)
        path = routes.lease(template, lease.lease_id)
        for _ in range(TRIES):
            payload = self.odd_payload(kind, record.to_json(predicate))
            if payload is None or payload == honest.payload:
                continue
            envelope = dsse.sign(payload, self.key)
            if await self.try_(path, message.Signed.of(envelope), kind):
                return envelope
        await self.upload_odd_lines(lease)
        try:
            return await super()._post(template, lease, kind, predicate)
        except (errors.Refuted, errors.FormatError):
            if (
                kind != "reading"
            ):  # a chain that an odd reading of its own broke stays broken: the job goes on unmetered
                raise
            return honest

    def odd_payload(self, kind: str, members: dict[str, Any]) -> bytes | None:
        """Return the statement with one thing odd, as bytes to be signed."""
        name = least_tried(self.tried, kind, members, self.rng)
        binding = {"commitment", "salt", "root", "blind", "answer"}
        value = odd_value(self.rng, name, members.get(name), self.clock.now())
        if name in binding and isinstance(value, str) and len(value) == 64:
            return None
        text = statement.Statement(kind, (), _Given({**members, name: value}))
        body = {
            "_type": statement.STATEMENT_V1,
            "subject": self.rng.choice([[], [], [], [{"name": "x", "digest": {"sha256": "0" * 64}}]]),
            "predicateType": statement.predicate_type(text.kind),
            "predicate": text.predicate.members,
        }
        spelled = json.dumps(body, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        if self.rng.random() < 0.2:
            spelled = self.rng.choice(RAW)(spelled)
        return spelled.encode("utf-8", "surrogatepass")

    async def try_(self, path: str, body: message.Message, kind: str) -> bool:
        """Send; tell whether it was taken, and note what broke the market."""
        answer = await self._send("POST", path, body.to_bytes())
        if answer.status_code >= 500:
            self.broken.append(f"{kind}: {answer.status_code} {answer.content[:300]!r}")
        (self.taken if answer.status_code < 300 else self.refused)[kind] += 1
        return answer.status_code < 300

    async def upload_odd_lines(self, lease: node.Lease) -> None:
        """Print odd words at odd times."""
        line = {
            "at": self.rng.choice(TIMES[:2]),
            "stream": "stdout",
            "text": self.rng.choice(["\0\x1b[2J\u202e", "x" * 4096, "\0" * 4096, "plain"]),
        }
        body = json.dumps({"first_seq": self.rng.choice([0, 1, 500]), "lines": [line] * 2}).encode()
        answer = await self._send("POST", routes.lease(routes.LEASE_LOGS, lease.lease_id), body)
        assert answer.status_code < 500, answer.content


@dataclass
class _Given:
    members: dict[str, Any]


async def see_everything(world: World, buyer: Any, job: str) -> None:
    """Ask for every view there is; each must answer."""
    paths = [routes.OFFERS, routes.JOBS, f"{routes.JOBS}?limit=1"]
    paths += [
        routes.job(item, job)
        for item in (routes.JOB, routes.JOB_EVENTS, routes.JOB_LOGS, routes.JOB_COST, routes.JOB_OUTPUTS)
    ]
    for path in paths:
        answer = await buyer.call("GET", path)
        assert answer.status_code == 200
        assert "\x1b" not in answer.text
        assert "\u202e" not in answer.text
    quote = wire.QuoteRequest(spec=record.to_json(train_spec()))
    await buyer.call("POST", routes.QUOTES, content=quote.to_bytes())
    for path in (routes.ADMIN_NODES, routes.ADMIN_LEDGER):
        await world.admin("GET", path)


@dataclass
class FuzzingBuyer(FakeBuyer):
    """Reveals odd values first, and the same in other words behind."""

    rng: random.Random = field(default_factory=random.Random)
    broken: list[str] = field(default_factory=list)
    tried: Counter[tuple[str, str]] = field(default_factory=Counter)

    async def call(self, method: str, path: str, **more: Any) -> httpx2.Response:
        """Send; a revelation goes out odd before."""
        content = more.get("content")
        if method == "POST" and path.endswith("/beacon") and isinstance(content, bytes):
            honest = message.read(wire.RevealSubmit, content).envelope.open()
            body = json.loads(honest.payload)
            for _ in range(TRIES):
                name = least_tried(self.tried, "reveal", body["predicate"], self.rng)
                value = odd_value(self.rng, name, body["predicate"][name], self.clock.now())
                if value == body["predicate"][name]:
                    continue
                said = {**body, "predicate": {**body["predicate"], name: value}}
                payload = json.dumps(said, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
                odd = wire.RevealSubmit.of(dsse.sign(payload.encode("utf-8", "surrogatepass"), self.key))
                answer = await self.client.request(method, path, headers=self.headers, content=odd.to_bytes())
                if answer.status_code >= 500:
                    self.broken.append(f"reveal of {name}: {answer.status_code}")
        return await super().call(method, path, **more)


@given(seed=st.integers(0, 2**32 - 1), is_command=st.booleans())
@settings(
    max_examples=6,
    deadline=None,
    phases=(Phase.explicit, Phase.reuse, Phase.generate),  # a job is too dear to shrink; its seed says all
    suppress_health_check=list(HealthCheck),
)
def test_what_is_accepted_verifies(tmp_path_factory: pytest.TempPathFactory, seed: int, is_command: bool) -> None:
    """A job among nodes that fuzz every statement they sign ends verified, and every view answers on the way."""

    async def scenario() -> None:
        async with worlds.inside(tmp_path_factory.mktemp("market")) as world:
            made, tried = [], Counter[tuple[str, str]]()
            for number, operator in enumerate(("north", "south", "east")):
                made.append(await world.node(operator, Fuzzer, rng=random.Random(seed + number), tried=tried))
            ada = await world.buyer(cls=FuzzingBuyer)
            assert isinstance(ada, FuzzingBuyer)
            ada.rng = random.Random(seed)
            job = (await ada.submit(command_spec() if is_command else train_spec())).id
            world.start(ada.broker(job))
            view = await ada.finished(job, HANGS_S)
            dead = [task.exception() for task in world.tasks if task.done()]
            assert dead == []
            broken = [line for item in (*made, ada) for line in item.broken]
            assert broken == []
            await see_everything(world, ada, job)
            trust = TrustStore(()).with_market(pin(world.vkey, world.witness_vkeys))
            report = comparison.verify_both(await ada.receipt(job), trust, int(world.clock.now()))
            assert [item for item in report.findings if item.severity == "refuted"] == []
            assert (view.status, view.verdict) == ("succeeded", "verified")
            assert sum(sum(item.refused.values()) for item in made) > 0
            for kind, cls in {"commitment": Commitment, "contribution": Contribution, "answer": Answer}.items():
                untried = {item.name for item in dataclasses.fields(cls)} - {name for of, name in tried if of == kind}
                assert is_command or untried == set(), "a job of several tasks has every member odd once"

    asyncio.run(scenario())


JOINS: dict[str, list[Any]] = {
    "engine_class": ["", "x" * 201, "a\0b", "x" * 128],
    "jurisdiction": ["", "x" * 201, "\u202eEU", "a b"],
    "operator": ["north ", "NORTH", "north\0"],
    "cpus": [0, -1, 2**53 - 1, True],
    "memory_bytes": [0, -1, 2**53 - 1],
    "ask_usd_micros_per_hour": [0, -1, 2**53 - 1, 10**12],
    "joined_at": TIMES,
    "key": ["", "AAAA", "A" * 43 + "="],
    "members": [[{"name": "x" * 300, "tier": "T0"}], [{"name": "m", "tier": "T0"}] * 2000],
}


def test_no_join_breaks_offers_or_quotes(tmp_path: Path) -> None:
    """An empty or 201-character class, a price of all the money there is: refused, or shown; nobody else notices."""

    @dataclass
    class Joiner(FakeNode):
        change: tuple[str, Any] = ("", None)

        async def call(self, path: str, body: message.Message | None = None) -> httpx2.Response:
            if path == routes.JOIN and isinstance(body, node.JoinRequest):
                members = json.loads(body.envelope.open().payload)
                members["predicate"][self.change[0]] = self.change[1]
                payload = json.dumps(members, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
                envelope = message.EnvelopeBody.of(dsse.sign(payload, self.key))
                body = node.JoinRequest(token=body.token, envelope=envelope)
            return await super().call(path, body)

    async def scenario() -> None:
        async with worlds.inside(tmp_path, witness=False) as world:
            for operator in ("east", "west", "south"):
                await world.node(operator)
            ada = await world.buyer()
            taken = Counter[str]()
            for name, values in JOINS.items():
                for value in values:
                    try:
                        await world.node("north", Joiner, run=False, change=(name, value))
                        taken[name] += 1
                    except (errors.FormatError, errors.AuthError, errors.Refuted):
                        pass
            assert set(taken) <= {"engine_class", "memory_bytes", "ask_usd_micros_per_hour"}, taken
            job = (await ada.submit(train_spec())).id
            world.start(ada.broker(job))
            await ada.finished(job)
            await see_everything(world, ada, job)

    asyncio.run(scenario())
