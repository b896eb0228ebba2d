"""What a buyer signs, sent wrong by a buyer with a valid token and key: refused at the door, and no receipt suffers."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from tests.integration.market import world as worlds
from tests.integration.market.fake_buyer import LENGTH, TRUST, FakeBuyer, before, train_spec

from stannary import errors
from stannary.formats import beacon, digest, dsse, jobspec, note, statement
from stannary.formats.predicates import Reveal
from stannary.verify import receipt as verifier
from stannary.verify.trust import TrustStore, pin
from stannary.wire import buyer as wire
from stannary.wire import routes

REFUSALS = (errors.ConflictError, errors.FormatError, errors.Refuted, errors.NotFound)
SUBJECT = statement.Subject("beacon", digest.digest(b"another word"))


@dataclass
class Twister(FakeBuyer):
    """Reveals honestly, after and before everything else."""

    taken: list[str] = field(default_factory=list)
    tried: set[str] = field(default_factory=set)

    async def reveal(self, job: str, request: wire.BeaconRequest) -> None:
        """Attack around the honest reveal."""
        seen = note.parse_checkpoint(note.parse(request.checkpoint).text)
        honest = Reveal(
            job=job,  # type: ignore[arg-type]
            index=request.index,
            value="0" * 64,
            checkpoint_size=seen.size,
            checkpoint_root=digest.from_raw(seen.root),
            candidates=digest.parse(request.candidates),
        )
        wrong = {
            "another value": honest,
            "not hex": replace(honest, value="x" * 64),
            "upper case": replace(honest, value="AB" * 32),
            "another size": replace(honest, checkpoint_size=seen.size + 1),
            "another root": replace(honest, checkpoint_root=digest.digest(b"")),
            "other candidates": replace(honest, candidates=digest.digest(b"")),
            "another job": replace(honest, job="j-000000000000"),  # type: ignore[arg-type]
            "a later index": replace(honest, index=request.index + 1),
            "no index": replace(honest, index=-1),
            "an index of all the integers": replace(honest, index=2**53 - 1),
        }
        for name, made in wrong.items():
            await self.refused(name, job, statement.sign("reveal", made, (), self.key))
        await self.refused("a stranger's", job, statement.sign("reveal", honest, (), Ed25519PrivateKey.generate()))
        await super().reveal(job, request)
        right = replace(honest, value=self.value(job, request.index))
        await self.refused("the same in other words", job, statement.sign("reveal", right, (SUBJECT,), self.key))

    def value(self, job: str, index: int) -> str:
        """Return the right value."""
        return beacon.value(self.seeds[job], LENGTH, index)

    async def refused(self, name: str, job: str, envelope: dsse.Envelope) -> None:
        """Note what is let through."""
        self.tried.add(name)
        try:
            body = wire.RevealSubmit.of(envelope).to_bytes()
            await self.call("POST", routes.job(routes.JOB_BEACON, job), content=body)
        except REFUSALS:
            return
        self.taken.append(name)


def test_no_wrong_reveal_is_taken(tmp_path: Path) -> None:
    """Of each value one word is logged: a buyer cannot make his own receipt one that no verifier accepts."""

    async def scenario() -> None:
        async with worlds.inside(tmp_path) as world:
            for operator in ("north", "south", "east"):
                await world.node(operator)
            ada = await world.buyer()
            eve = Twister(ada.base_url, ada.token, transport=ada.transport, clock=ada.clock)
            world.buyers.append(eve)
            job = (await eve.submit(train_spec())).id
            world.start(eve.broker(job))
            view = await eve.finished(job)
            assert eve.taken == []
            assert len(eve.tried) == 12
            assert (view.status, view.verdict) == ("succeeded", "verified")
            trust = TrustStore(()).with_market(pin(world.vkey, world.witness_vkeys))
            assert verifier.verify_receipt(await eve.receipt(job), trust, int(time.time())).verdict == "verified"

    asyncio.run(scenario())


ORDERS: dict[str, dict[str, Any]] = {
    "another market": {"market": dsse.key_id(dsse.public_bytes(Ed25519PrivateKey.generate()))},
    "no market": {"market": "x" * 1000},
    "a tip that is no hex": {"beacon_tip": "x" * 64},
    "a chain without end": {"beacon_length": 2**53 - 1},
    "a nonce with a NUL": {"nonce": "\0" * 32},
    "a nonce of a megabyte": {"nonce": "0" * 2**20},
    "a key of small order": {"buyer": dsse.encode_base64((1).to_bytes(32, "little"))},
    "a key in another spelling": {"buyer": dsse.encode_base64(b"\xff" * 31 + b"\x7f")},
    "a leap second": {"submitted_at": "2026-06-30T23:59:60Z"},
    "the year one": {"submitted_at": "0001-01-01T00:00:00Z"},
    "the last year": {"submitted_at": "9999-12-31T23:59:59Z"},
}
RAW: dict[str, Callable[[str], str]] = {
    "a doubled member": lambda text: text.replace('"predicate":{', '"predicate":{"nonce":"0",', 1),
    "a fraction": lambda text: text.replace('"beacon_length":', '"beacon_length":1.5e3,"x":', 1),
    "a number without end": lambda text: text.replace('"beacon_length":', '"beacon_length":1e400,"x":', 1),
    "true for one": lambda text: text.replace('"num_nodes":2', '"num_nodes":true', 1),
    "nested for ever": lambda text: text.replace('"options":{}', '"options":' + '{"x":' * 2000 + "1" + "}" * 2000, 1),
    "a lone surrogate": lambda text: text.replace('"name":"train"', '"name":"\\ud800"', 1),
    "white space": lambda text: text + " ",
}


def test_no_wrong_order_is_taken(tmp_path: Path) -> None:
    """Orders for another market, of another time, with keys, numbers or text no verifier reads: refused, in words."""

    async def scenario() -> None:
        async with worlds.inside(tmp_path, witness=False) as world:
            for operator in ("north", "south", "east"):
                await world.node(operator)
            ada = await world.buyer()
            signed = {name: await ada.order(train_spec(), **changes) for name, changes in ORDERS.items()}
            honest = (await ada.order(train_spec())).payload.decode()
            signed |= {name: dsse.sign(change(honest).encode(), ada.key) for name, change in RAW.items()}
            long = replace(TRUST, audit_ppm=1_000_000)
            signed["a receipt nobody reads"] = await ada.order(train_spec(rounds=3000, trust=long))
            signed["rules of an earlier release"] = await ada.order(before(train_spec()))
            for name, envelope in signed.items():
                with pytest.raises(errors.StannaryError) as refusal:
                    await ada.submit(train_spec(), envelope=envelope)
                assert refusal.value.http_status < 500, (name, refusal.value)
            page = (await ada.call("GET", routes.JOBS)).json()
            assert page["jobs"] == []

    asyncio.run(scenario())


@pytest.mark.parametrize("path", ["/v1/jobs/j-%00", "/v1/jobs/%0a", "/v1/jobs?cursor=5.j-%00", "/v1/jobs?limit=1e9"])
def test_odd_paths_and_queries_are_refused(tmp_path: Path, path: str) -> None:
    """A NUL or line break in a path, a cursor that is none: 400 or 404, never a trace in the log."""

    async def scenario() -> None:
        async with worlds.inside(tmp_path, witness=False) as world:
            ada = await world.buyer()
            with pytest.raises((errors.NotFound, errors.UsageError, errors.FormatError)):
                await ada.call("GET", path)

    asyncio.run(scenario())


def test_a_quote_for_all_the_money_there_is_is_a_number(tmp_path: Path) -> None:
    """A worst case beyond any integer of the protocol is quoted at its end, and ordered by nobody."""

    async def scenario() -> None:
        async with worlds.inside(tmp_path, witness=False) as world:
            for operator in ("north", "south"):
                await world.node(operator, ask_usd_micros_per_hour=10**12)
            ada = await world.buyer()
            trust = replace(TRUST, max_price_usd_micros_per_hour=10**12)
            spec = train_spec(rounds=500, trust=trust)
            dear = replace(spec, resources=replace(spec.resources, wall_s=jobspec.MAX_WALL_S))
            quote = await ada.quote(dear)
            assert quote.escrow_usd_micros == 2**53 - 1
            with pytest.raises(errors.UsageError, match="budget"):
                await ada.submit(replace(dear, budget_usd_micros=2**53 - 1))

    asyncio.run(scenario())
