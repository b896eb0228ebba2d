"""A market watches the nodes of an operator that was struck: more audits in the next job, paid by insurance."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from tests.integration.market import world as worlds
from tests.integration.market.fake_buyer import TRUST, train_spec
from tests.integration.market.test_insurance import into, listed
from tests.integration.market.test_market_jobs import case_of, check

from stannary.formats.predicates import Assurance
from stannary.settle.ledger import INSURANCE, WORLD, transfer
from stannary.store import jobs, ledger
from stannary.store.schema import settlement_lines, tasks, watches
from stannary.wire import routes

TOOK = 50_000
SAMPLED = replace(TRUST, assurance=Assurance.SAMPLED, audit_ppm=28_862)


def strike(connection: Any, job: str, name: str, operator: str) -> None:
    """Have a settled job in which a node was struck, and insurance got its pay."""
    task = connection.execute(sa.select(tasks.c.task).where(tasks.c.job == job).limit(1)).scalar_one()
    jobs.strike(connection, job, name, task, at_ms=1)
    for number, (account, usd_micros) in enumerate(((f"operator:{operator}", 0), ("insurance", TOOK))):
        void = {"job": job, "number": 1000 + number, "account": account, "task": "t", "reason": "void"}
        connection.execute(sa.insert(settlement_lines).values(**void, usd_micros=usd_micros))
    ledger.post(connection, transfer("test:void", "settle", (WORLD, INSURANCE), TOOK), at_ms=1)


def test_after_a_strike_an_operators_units_are_audited_more_and_insurance_pays(tmp_path: Path) -> None:
    """Listed before the beacon, settled line by line, taken from insurance; the job has what is left to itself.

    Catches: a market that forgets to list, to put aside, or to take what the receipt says from insurance.
    """

    async def scenario() -> None:
        async with worlds.inside(tmp_path, witness=False) as world:
            for operator in ("north", "south", "east", "west"):
                await world.node(operator)
            ada = await world.buyer()
            first = (await ada.submit(train_spec(rounds=1, trust=SAMPLED))).id
            world.start(ada.broker(first))
            await ada.finished(first)
            exchange, _ = world.inside
            (name, struck), *_ = ((item.node, item.operator) for item in (await ada.finished(first)).nodes)
            await exchange.store.awrite(lambda c: strike(c, first, name, struck))
            job = (await ada.submit(train_spec(rounds=12, trust=SAMPLED))).id
            world.start(ada.broker(job))
            view = await ada.finished(job)
            assert view.status == "succeeded", (view.reason, view.message)
            receipt = (await ada.call("GET", routes.job(routes.JOB_RECEIPT, job))).content
            report = check(world, receipt)
            assert not [item for item in report.findings if item.severity == "refuted"], report.findings
            case = case_of(receipt)
            lists = [item.predicate.watch for item in case.candidates.values()]
            said = [item for item in lists if item is not None]
            assert said and all(case.operators[name] == struck for item in said for name in item.nodes)
            assert said[0].usd_micros == TOOK
            assert report.claims is not None
            extra = [item for item in report.claims.receipt.settlement if item.reason == "extra"]
            assert extra and all(item.account == "insurance" and item.usd_micros < 0 for item in extra)
            (row,) = await exchange.store.aread(lambda c: c.execute(sa.select(watches)).all())
            assert (row.job, row.operator, row.granted_usd_micros) == (job, struck, TOOK)
            assert 0 < -sum(item.usd_micros for item in extra) <= row.used_usd_micros <= TOOK
            page = await listed(world)
            assert into(page) == page.balances["insurance"] == TOOK + sum(item.usd_micros for item in extra)

    asyncio.run(scenario())
