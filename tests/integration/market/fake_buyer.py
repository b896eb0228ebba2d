"""A buyer that speaks the whole public protocol: specs, submits, a broker that reveals beacon values, receipts."""

from __future__ import annotations

import base64
import contextlib
import secrets
import time
import unittest.mock
from dataclasses import dataclass, field, replace
from typing import Any

import httpx2
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from stannary import errors
from stannary.formats import beacon, canonical, digest, dsse, ids, instants, jobspec, note, statement
from stannary.formats.jobspec import JobKind, JobSpec, Privacy, RecipeSpec, Resources, Trust, Verification
from stannary.formats.predicates import Assurance, Job, Reveal, Tier
from stannary.formats.workdir import WorkFile
from stannary.market.clock import Clock, SystemClock
from stannary.rules import edition
from stannary.wire import buyer, message, routes
from stannary.wire import errors as wire_errors
from stannary.wire.market import MarketInfo

LENGTH = 4096
HANGS_S = 300.0  # real time after which a test is taken for stuck; nothing waits for it
PROGRAM = b"print('hello')\n"
TRUST = Trust(
    tier=Tier.T0,
    policy="local",
    privacy=Privacy.OPEN,
    verify=Verification.REPLAY,
    audit_ppm=1_000_000,
    gain_ppm=600_000,
    detection_ppm=990_000,
    regions=(),
    exclude_operators=(),
    max_price_usd_micros_per_hour=500_000,
    assurance=Assurance.FULL,
)


def train_spec(rounds: int = 2, lanes: int = 2, *, is_ours: bool = False, **changes: Any) -> JobSpec:
    """Return a small train job; `is_ours`: of a recipe of the package, where a recomputation convicts."""
    recipe = RecipeSpec(entry="main.py:recipe", rounds=rounds, lanes=lanes, inner_steps=(3, 4), seed=0)
    if is_ours:
        recipe = replace(recipe, entry="builtin:bytegpt", code=digest.digest(b"any code: nothing of it is run"))
        changes["workdir"] = ()
    return _spec("train", kind=JobKind.TRAIN, num_nodes=lanes, recipe=recipe, **changes)


def command_spec(num_nodes: int = 1, verify: Verification = Verification.RERUN_COMPARE, **changes: Any) -> JobSpec:
    """Return a small command job."""
    trust = replace(TRUST, verify=verify)
    fields = {"kind": JobKind.COMMAND, "num_nodes": num_nodes, "run": "python main.py", "trust": trust}
    return _spec("command", **{**fields, **changes})


def _spec(name: str, **changes: Any) -> JobSpec:
    fields: dict[str, Any] = {
        "name": name,
        "workdir": (WorkFile("main.py", 0o644, digest.digest(PROGRAM), len(PROGRAM)),),
        "envs": {},
        "resources": Resources(cpus=1, memory_bytes=2**28, disk_bytes=2**28, wall_s=60),
        "inputs": {},
        "outputs": (),
        "trust": TRUST,
        "budget_usd_micros": 1_000_000,
        "rules": jobspec.RULES,
    }
    return JobSpec(**{**fields, **changes})


def before(spec: JobSpec) -> JobSpec:
    """Return a job as an earlier release would have asked for it, under rules 2."""
    recipe = replace(spec.recipe, step_ms=40) if spec.recipe is not None else None
    return replace(spec, recipe=recipe, trust=replace(spec.trust, assurance=None), rules=None)


def taken_before() -> contextlib.AbstractContextManager[object]:
    """Let a market in this process take orders of rules 2, as those of earlier releases did."""
    return unittest.mock.patch.object(edition, "check_new", lambda _: None)


@dataclass
class FakeBuyer:
    """One buyer with an API token, a key and a broker."""

    base_url: str
    token: str
    transport: httpx2.AsyncBaseTransport | None = None
    clock: Clock = field(default_factory=SystemClock)
    key: Ed25519PrivateKey = field(default_factory=Ed25519PrivateKey.generate)
    seeds: dict[str, bytes] = field(default_factory=dict)
    revealed: dict[str, list[buyer.BeaconRequest]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Open the client."""
        self.client = httpx2.AsyncClient(base_url=self.base_url, transport=self.transport, timeout=60.0)
        self.headers = {"Authorization": f"Bearer {self.token}"}

    async def call(self, method: str, path: str, **more: Any) -> httpx2.Response:
        """Send a request; raise the market's own error."""
        headers = {**self.headers, **more.pop("headers", {})}
        response = await self.client.request(method, path, headers=headers, **more)
        if response.status_code >= 400:
            raise wire_errors.from_body(response.status_code, response.content)
        return response

    async def order(self, spec: JobSpec, **changes: Any) -> dsse.Envelope:
        """Sign a job."""
        info = message.read(MarketInfo, (await self.call("GET", routes.MARKET)).content)
        seed = secrets.token_bytes(32)
        market = dsse.key_id(note.parse_vkey(info.vkey).public)
        fields: dict[str, Any] = {
            "spec": jobspec.to_canonical(spec),
            "market": market,
            "buyer": base64.b64encode(dsse.public_bytes(self.key)).decode(),
            "beacon_tip": beacon.tip(seed, LENGTH),
            "beacon_length": LENGTH,
            "nonce": secrets.token_hex(16),
            "submitted_at": instants.spell(self.clock.now()),
        }
        envelope = statement.sign("job", Job(**{**fields, **changes}), (), self.key)
        self.seeds[ids.job_id(digest.digest(envelope.payload))] = seed
        return envelope

    async def submit(
        self, spec: JobSpec, key: str | None = None, envelope: dsse.Envelope | None = None
    ) -> buyer.JobView:
        """Store the work directory and submit."""
        await self.put_blob(PROGRAM)
        signed = envelope if envelope is not None else await self.order(spec)
        headers = {routes.IDEMPOTENCY_KEY: key or secrets.token_hex(8)}
        response = await self.call("POST", routes.JOBS, content=buyer.Submit.of(signed).to_bytes(), headers=headers)
        return message.read(buyer.JobView, response.content)

    async def put_blob(self, data: bytes) -> None:
        """Store bytes."""
        await self.call("PUT", routes.blob(digest.digest(data)), content=data)

    async def view(self, job: str) -> buyer.JobView:
        """Return a job."""
        return message.read(buyer.JobView, (await self.call("GET", routes.job(routes.JOB, job))).content)

    async def events(self, job: str) -> list[buyer.Event]:
        """Return all events of a job."""
        response = await self.call("GET", routes.job(routes.JOB_EVENTS, job))
        return message.read(buyer.EventPage, response.content).events

    async def finished(self, job: str, timeout_s: float = HANGS_S) -> buyer.JobView:
        """Follow the events of a job until it has ended; the broker must run beside it."""
        until, after = time.monotonic() + timeout_s, 0
        while time.monotonic() < until:
            params = {"after": after, "wait": 5}
            response = await self.call("GET", routes.job(routes.JOB_EVENTS, job), params=params)
            page = message.read(buyer.EventPage, response.content)
            after = page.next
            if not any(event.type.startswith("job.") for event in page.events):
                continue
            view = await self.view(job)
            if view.status in {"succeeded", "failed", "cancelled"}:
                return view
        raise AssertionError(f"{job} has not ended: {await self.view(job)}")

    async def broker(self, job: str) -> None:
        """Reveal beacon values as they are asked for, until cancelled."""
        while True:
            try:
                response = await self.call("GET", routes.job(routes.JOB_BEACON, job), params={"wait": 5})
                if response.status_code == 204:
                    await self.clock.sleep(0.05)
                    continue
                await self.reveal(job, message.read(buyer.BeaconRequest, response.content))
            except (httpx2.TransportError, errors.StannaryError):
                await self.clock.sleep(0.1)

    async def reveal(self, job: str, request: buyer.BeaconRequest) -> None:
        """Reveal one value."""
        self.revealed.setdefault(job, []).append(request)
        checkpoint = note.parse_checkpoint(note.parse(request.checkpoint).text)
        made = Reveal(
            job=ids.JobId(job),
            index=request.index,
            value=beacon.value(self.seeds[job], LENGTH, request.index),
            checkpoint_size=checkpoint.size,
            checkpoint_root=digest.from_raw(checkpoint.root),
            candidates=digest.parse(request.candidates),
        )
        envelope = statement.sign("reveal", made, (), self.key)
        await self.call("POST", routes.job(routes.JOB_BEACON, job), content=buyer.RevealSubmit.of(envelope).to_bytes())

    async def receipt(self, job: str) -> bytes:
        """Return the receipt file."""
        return (await self.call("GET", routes.job(routes.JOB_RECEIPT, job))).content

    async def cost(self, job: str) -> buyer.Cost:
        """Return what a job cost."""
        return message.read(buyer.Cost, (await self.call("GET", routes.job(routes.JOB_COST, job))).content)

    async def outputs(self, job: str) -> list[buyer.OutputRef]:
        """Return a job's results."""
        response = await self.call("GET", routes.job(routes.JOB_OUTPUTS, job))
        return message.read(buyer.Outputs, response.content).outputs

    async def quote(self, spec: JobSpec) -> buyer.PriceQuote:
        """Return a quote."""
        body = canonical.encode({"spec": jobspec.to_canonical(spec)})
        return message.read(buyer.PriceQuote, (await self.call("POST", routes.QUOTES, content=body)).content)
