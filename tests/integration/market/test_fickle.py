"""A program that cannot be reproduced, on a whole market: the job ends soon, and what nobody earned comes back."""

from __future__ import annotations

import asyncio
import secrets
from dataclasses import dataclass, replace
from pathlib import Path

from tests.integration.market import toy_work
from tests.integration.market import world as worlds
from tests.integration.market.fake_buyer import TRUST, command_spec
from tests.integration.market.fake_node import FakeNode, Opening
from tests.integration.market.test_market_jobs import check

from stannary.formats.jobspec import RULES, Verification
from stannary.formats.predicates import Assignment, Assurance, Role
from stannary.wire import admin, message, node, routes

SPEC = command_spec(rules=RULES, trust=replace(TRUST, verify=Verification.RERUN_COMPARE, assurance=Assurance.FULL))


@dataclass
class CoinFlipped(FakeNode):
    """Honest; the program it is given flips a coin, and prints it."""

    async def results(self, lease: node.Lease, assignment: Assignment) -> dict[str, bytes]:
        """Run the program once."""
        return {"out.txt": secrets.token_bytes(16)}

    async def opening(self, lease: node.Lease, assignment: Assignment, role: Role) -> Opening:
        """Run it again, for an audit."""
        if role is Role.PROVER:
            return await super().opening(lease, assignment, role)
        made, ended = await self.results(lease, assignment), await self.ended(lease)
        root = toy_work.root(made, ended)
        return Opening(secrets.token_hex(32), secrets.token_hex(32), root, toy_work.listed(made), role, ended)


def test_a_program_that_is_not_reproducible_costs_its_buyer_the_audits_and_no_minutes(tmp_path: Path) -> None:
    """It ends by itself and says why; work is unpaid, audits are paid, nobody is struck, the rest comes back."""

    async def scenario() -> None:
        async with worlds.inside(tmp_path, witness=False) as world:
            for operator in ("one", "two", "three", "four", "five", "six"):
                await world.node(operator, CoinFlipped)
            bob = await world.buyer("bob")
            since_s = world.clock.now()
            job = (await bob.submit(SPEC)).id
            world.start(bob.broker(job))
            view = await bob.finished(job)
            assert world.clock.now() - since_s < 60
            assert (view.status, view.reason, view.verdict) == ("failed", "not-reproducible", "not-reproducible")
            report = check(world, await bob.receipt(job))
            assert report.exit_code == 100
            assert report.claims is not None
            made = report.claims.receipt
            paid = {line.reason for line in made.settlement if line.usd_micros > 0}
            assert paid == {"audit", "refund"}
            assert made.refunded_usd_micros > made.escrow_usd_micros * 9 // 10
            assert [item.type for item in await bob.events(job) if item.type == "node.struck"] == []
            page = message.read(admin.LedgerPage, (await world.admin("GET", routes.ADMIN_LEDGER)).content)
            assert page.balances.get("insurance", 0) == 0
            assert all(held == worlds.BOND for name, held in page.balances.items() if name.endswith(".bond"))

    asyncio.run(scenario())
