"""The market killed twenty times under load: what it acknowledged is done, paid once, and proven.

Clients keep a history; the checks are those of docs/protocol.md's promises:

    I1  every acknowledged job ends, once, with a receipt that verifies
    I2  a task has one contribution, of the epoch its commitment was made in
    I3  the ledger adds up to zero, nothing stays in escrow, operators hold what the receipts say and nothing more
    I6  a key used again with another order is refused, also by a market that has been away
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter, defaultdict
from pathlib import Path

import pytest
from tests.integration.attacks.test_liars import case_of
from tests.integration.market.fake_buyer import FakeBuyer, command_spec, train_spec
from tests.integration.market.world import BOND, Process, World
from tests.patience import answered

from stannary import errors
from stannary.formats import dsse
from stannary.formats.jobspec import JobSpec
from stannary.verify import receipt as verifier
from stannary.verify.trust import TrustStore, pin
from stannary.wire import admin, buyer, message, routes
from stannary.wire import errors as wire_errors

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

KILLS = 20
IN_FLIGHT = 2
MIN_ORDERS = 5
SEED = 20
OPERATORS = ("north", "south", "east")
DEPOSIT = 50_000_000
END_S = 150.0


class History:
    """What a client was told: orders sent, and the jobs that were acknowledged."""

    def __init__(self) -> None:
        self.orders: list[tuple[str, dsse.Envelope]] = []  # idempotency key, order
        self.acknowledged: dict[str, str] = {}  # idempotency key -> job


async def order(world: World, ada: FakeBuyer, history: History, spec: JobSpec) -> str:
    """Submit one job, as often as it takes, and follow its beacon."""
    envelope = await answered(lambda: ada.order(spec))
    key = f"key-{len(history.orders)}"
    history.orders.append((key, envelope))
    job = (await answered(lambda: ada.submit(spec, key, envelope))).id
    history.acknowledged[key] = job
    world.start(ada.broker(job))
    return job


async def load(world: World, ada: FakeBuyer, history: History, over: asyncio.Event) -> None:
    """Keep some jobs under way until the killing is over; a slow machine catches up on orders after it."""
    specs = [command_spec(), train_spec(), command_spec(num_nodes=2)]
    number = 0
    open_jobs: set[str] = set()
    while not over.is_set() or len(history.orders) < MIN_ORDERS:
        if len(open_jobs) < IN_FLIGHT:
            open_jobs.add(await order(world, ada, history, specs[number % len(specs)]))
            number += 1
        await asyncio.sleep(0.1)
        for job in sorted(open_jobs):
            view = await answered(lambda job=job: ada.view(job))  # type: ignore[misc]  # bound as a default
            if view.status in {"succeeded", "failed", "cancelled"}:
                open_jobs.discard(job)


def test_twenty_kills_lose_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Twenty SIGKILLs under load: no acknowledged job is lost, none is paid twice, every receipt verifies."""
    monkeypatch.delenv("PYTHONDONTWRITEBYTECODE", raising=False)  # a market compiled anew twenty times is slow
    monkeypatch.setenv("PYTHONPYCACHEPREFIX", str(tmp_path / "bytecode"))
    process = Process(tmp_path / "market")
    chance = random.Random(SEED)

    async def scenario() -> None:
        world = await asyncio.to_thread(process.start)
        history, over = History(), asyncio.Event()
        try:
            for operator in OPERATORS:
                await world.node(operator, poll_s=2.0)
            ada = await world.buyer(deposit=DEPOSIT)
            clients = asyncio.create_task(load(world, ada, history, over))
            for _ in range(KILLS):
                await asyncio.sleep(chance.uniform(0.05, 0.8))
                process.kill()
                await asyncio.to_thread(process.start)
            over.set()
            await clients
            assert len(history.acknowledged) == len(history.orders) >= MIN_ORDERS
            receipts = {}
            for job in history.acknowledged.values():
                view = await answered(lambda job=job: ada.finished(job, END_S))  # type: ignore[misc]  # as above
                assert (view.status, view.verdict) == ("succeeded", "verified"), view
                receipts[job] = await answered(lambda job=job: ada.receipt(job))  # type: ignore[misc]  # as above
            await check_history(ada, history)
            check_receipts(world, receipts)
            await check_money(world, receipts)
        finally:
            over.set()
            await world.stop()
            assert process.stop() == 0

    asyncio.run(scenario())


async def check_history(ada: FakeBuyer, history: History) -> None:
    """I1 and I6: each order is one job, and its key takes no other order."""
    listed = message.read(buyer.JobPage, (await ada.call("GET", routes.JOBS, params={"limit": 100})).content)
    assert Counter(item.id for item in listed.jobs) == Counter(history.acknowledged.values())
    (first, envelope), (_, other) = history.orders[:2]
    assert (await ada.submit(command_spec(), first, envelope)).id == history.acknowledged[first]
    with pytest.raises(errors.ConflictError) as refused:
        await ada.submit(command_spec(), first, other)
    assert refused.value.detail == wire_errors.IDEMPOTENCY_CONFLICT
    for job in history.acknowledged.values():
        ends = [event for event in await ada.events(job) if event.type == "job.succeeded"]
        assert len(ends) == 1


def check_receipts(world: World, receipts: dict[str, bytes]) -> None:
    """I1 and I2: every receipt verifies, and every contribution opens a commitment of its own epoch."""
    trust = TrustStore(()).with_market(pin(world.vkey, world.witness_vkeys))
    for data in receipts.values():
        report = verifier.verify_receipt(data, trust, int(time.time()))
        assert (report.verdict, report.exit_code) == ("verified", 0), report.findings
        case = case_of(data)
        for task, item in case.contributions.items():
            made = [one.predicate for one in case.commitments_of[task] if one.predicate.epoch == item.predicate.epoch]
            assert [one.node for one in made] == [item.predicate.node]


async def check_money(world: World, receipts: dict[str, bytes]) -> None:
    """I3: balances follow from deposits, bonds and receipts alone."""
    ledger = message.read(admin.LedgerPage, (await world.admin("GET", routes.ADMIN_LEDGER)).content)
    owed: dict[str, int] = defaultdict(int)
    trust = TrustStore(()).with_market(pin(world.vkey, world.witness_vkeys))
    for data in receipts.values():
        claims = verifier.verify_receipt(data, trust, int(time.time())).claims
        assert claims is not None
        for line in claims.receipt.settlement:
            kind, _, name = line.account.partition(":")
            if kind == "operator":
                owed[f"operator:{name}.available"] += line.usd_micros
        owed["buyer:ada.available"] -= claims.receipt.paid_usd_micros
    balances = ledger.balances
    assert sum(balances.values()) == 0
    assert balances["buyer:ada.escrow"] == 0
    assert balances["buyer:ada.available"] == DEPOSIT + owed.pop("buyer:ada.available")
    assert {name: amount for name, amount in balances.items() if name in owed} == dict(owed)
    assert {balances[f"operator:{name}.bond"] for name in OPERATORS} == {BOND}
    assert {item.key for item in ledger.entries if item.reason == "settle"} <= {f"settle:{job}" for job in receipts}
