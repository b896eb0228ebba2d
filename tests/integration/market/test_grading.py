"""A market that measures its nodes: nothing is given before, the slowest test counts, and nobody's word is taken."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from tests.integration.market import world as worlds
from tests.integration.market.fake_buyer import TRUST, command_spec
from tests.integration.market.fake_node import FakeNode
from tests.integration.market.test_market_jobs import case_of, check

from stannary.errors import ConflictError, FormatError, Refuted, StannaryError
from stannary.formats import digest, dsse, instants, jobspec, statement
from stannary.formats.jobspec import Verification
from stannary.formats.predicates import Assurance, Credential
from stannary.formats.quantity import PPM
from stannary.formats.shown import ShownPower
from stannary.rules import grade
from stannary.rules.grade import ROUND_MS
from stannary.store import nodes
from stannary.wire import message, node, routes
from stannary.wire.message import EnvelopeBody

PROCESSORS = 2  # of a fake node
HOUR_S, SOON_S = 3600.0, 10.0
ASSURED = replace(TRUST, verify=Verification.RERUN_COMPARE, audit_ppm=1_000_000, assurance=Assurance.FULL)
SPEC = command_spec(trust=ASSURED, rules=jobspec.RULES)


@dataclass
class Measured(FakeNode):
    """A node that shows its power when it is asked, one real round a processor, in a time that it is told."""

    takes_s: list[float] = field(default_factory=list)  # its tests, the last one again and again
    graded: list[Credential] = field(default_factory=list)
    asked: list[node.PowerTest] = field(default_factory=list)

    async def next_lease(self) -> node.Lease | None:
        """Ask for a lease, and take a test in its place."""
        body = node.NextLease(wait_s=self.poll_s, have=self.held[-64:], tests=True)
        response = await self.call(routes.LEASE_NEXT, body)
        if response.status_code == 202:
            await self.show(message.read(node.PowerTest, response.content))
            return None
        return None if response.status_code == 204 else message.read(node.Lease, response.content)

    async def show(self, test: node.PowerTest, **lies: Any) -> Credential:
        """Show what one round on each processor comes to."""
        self.asked.append(test)
        proof = await asyncio.to_thread(_prove, test.nonce, test.processors)
        await self.clock.sleep(self.takes_s[min(len(self.graded), len(self.takes_s) - 1)])
        said = ShownPower(
            self.id, test.nonce, test.processors, test.processors, digest.digest(proof), 1,
            instants.spell(self.clock.now()),
        )  # fmt: skip
        return await self.hand_in(replace(said, **lies), proof)

    async def hand_in(self, said: ShownPower, proof: bytes) -> Credential:
        """Send a signed power and its proof."""
        signed = EnvelopeBody.of(statement.sign("power", said, (), self.key))
        answer = await self.call(routes.POWER, node.PowerAnswer(envelope=signed, proof=proof.decode()))
        envelope = message.read(node.GradedNode, answer.content).credential.open()
        self.graded.append(statement.read(envelope.payload, "credential", Credential).predicate)
        return self.graded[-1]


def _prove(nonce: str, processors: int, fake: str = "") -> bytes:
    """Do one round on each processor, as an agent does: in a process of its own, for it forks."""
    lazy = f"power.multiplier = lambda nonce: {fake}; " if fake else ""
    code = f"from stannary import power; {lazy}power.main(['{nonce}', '{processors}', '0'])"
    one = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
    words = [sys.executable, "-P", "-c", code]
    return subprocess.run(words, check=True, capture_output=True, env={**os.environ, **one}).stdout


def shown_ppm(took_s: float) -> int:
    """Return the grade of one round in so long."""
    return int(ROUND_MS * PPM / (1000 * took_s))


async def newest(world: worlds.World, who: str) -> Credential:
    """Return the credential in force of a node."""
    exchange, _ = world.inside
    held = await exchange.store.aread(lambda c: nodes.credential_of(c, who))
    return statement.read(dsse.from_bytes(held.envelope).payload, "credential", Credential).predicate


def test_a_job_is_paid_by_grades_that_its_receipt_proves(tmp_path: Path) -> None:
    """Nodes are measured before their first work, and both verifiers recompute what they are paid."""

    async def scenario() -> None:
        async with worlds.inside(tmp_path, witness=False, grade_every_s=HOUR_S) as world:
            made = [await world.node(who, Measured, takes_s=[2.0]) for who in ("north", "south", "east")]
            while len(world.inside[0].offers.standing()) < len(made):
                await world.clock.sleep(1)
            ada = await world.buyer()
            job = (await ada.submit(SPEC)).id
            world.start(ada.broker(job))
            view = await ada.finished(job)
            receipt = (await ada.call("GET", routes.job(routes.JOB_RECEIPT, job))).content
            assert view.status == "succeeded"
            report, case = check(world, receipt), case_of(receipt)
            assert not [item for item in report.findings if item.severity == "refuted"], report.findings
            worked = {item.predicate.node for item in case.contributions.values()}
            assert worked <= {item.id for item in made}
            for who in worked:
                assert case.grade_at(who, 10**9) == shown_ppm(2.0)
            assert {item.predicate.node for item in case.powers} >= worked

    asyncio.run(scenario())


def test_who_has_not_shown_his_power_gets_no_work(tmp_path: Path) -> None:
    """Refusing earns nothing; being measured late is being slow."""

    async def scenario() -> None:
        async with worlds.inside(tmp_path, witness=False, grade_every_s=HOUR_S) as world:
            silent = [await world.node(who) for who in ("north", "south")]  # they never ask for a test
            slow = [await world.node(who, Measured, run=False, takes_s=[40.0]) for who in ("east", "west")]
            for item in slow:
                assert isinstance(item, Measured)
                world.start(item.run())
            while len(world.inside[0].offers.standing()) < len(slow):
                await world.clock.sleep(1)
            ada = await world.buyer()
            job = (await ada.submit(SPEC)).id
            world.start(ada.broker(job))
            view = await ada.finished(job)
            assert view.status == "succeeded"
            assert [item.served for item in silent] == [[], []]
            assert (await newest(world, slow[0].id)).grade_ppm == shown_ppm(40.0)

    asyncio.run(scenario())


def test_the_least_of_three_tests_counts_and_a_rejoin_keeps_them(tmp_path: Path) -> None:
    """Whoever was fast once is paid by what he shows later, and a new token washes nothing off."""

    async def scenario() -> None:
        async with worlds.inside(tmp_path, witness=False, grade_every_s=SOON_S) as world:
            made = await world.node("north", Measured, run=False, takes_s=[1.0, 4.0, 2.0, 2.0, 2.0])
            assert isinstance(made, Measured)
            for grades in ((1.0, 1.0), (4.0, 1.0), (4.0, 1.0), (4.0, 2.0), (2.0, 2.0)):
                test = message.read(node.PowerTest, (await made.call(routes.POWER_NEXT)).content)
                await made.show(test)
                held = made.graded[-1]
                assert (held.grade_ppm, held.best_grade_ppm) == tuple(map(shown_ppm, grades))
                assert len(held.tests or ()) == min(len(made.graded), grade.MAX_TESTS)
                await world.clock.sleep(2 * SOON_S)
            await made.join(await world.join_token("north"))
            again = await newest(world, made.id)
            assert (again.tests, again.grade_ppm) == (made.graded[-1].tests, made.graded[-1].grade_ppm)

    asyncio.run(scenario())


LIES: dict[str, tuple[dict[str, Any], type[StannaryError]]] = {
    "more rounds": ({"rounds": 1000}, FormatError),
    "fewer processors": ({"cpus": 1}, FormatError),
    "another proof": ({"root": digest.digest(b"")}, FormatError),
    "another node": ({"node": "n-000000000000"}, FormatError),
    "another nonce": ({"nonce": "00" * 32}, ConflictError),
    "another day": ({"measured_at": "2020-01-01T00:00:00Z"}, FormatError),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_lie_about_power_is_refused(tmp_path: Path, lie: str) -> None:
    """What is signed must be the proof's, and the proof an answer to this market's question."""
    members, error = LIES[lie]
    refused(tmp_path, lambda made, test: made.show(test, **members), error)


def test_made_up_rows_are_refused(tmp_path: Path) -> None:
    """The market computes what is opened itself."""

    async def fake(made: Measured, test: node.PowerTest) -> Credential:
        proof = await asyncio.to_thread(_prove, test.nonce, test.processors, "lambda seed: bytes(4 * power.N)")
        told = instants.spell(made.clock.now())
        said = ShownPower(made.id, test.nonce, PROCESSORS, PROCESSORS, digest.digest(proof), 1, told)
        return await made.hand_in(said, proof)

    refused(tmp_path, fake, Refuted)


def refused(tmp_path: Path, attack: Callable[[Measured, node.PowerTest], Any], error: type[StannaryError]) -> None:
    """Have a node answer its first test in a way that must be refused, and leave it ungraded."""

    async def scenario() -> None:
        async with worlds.inside(tmp_path, witness=False, grade_every_s=HOUR_S) as world:
            made = await world.node("north", Measured, run=False, takes_s=[1.0])
            assert isinstance(made, Measured)
            test = message.read(node.PowerTest, (await made.call(routes.POWER_NEXT)).content)
            with pytest.raises(error):
                await attack(made, test)
            assert (await newest(world, made.id)).tests is None
            honest = message.read(node.PowerTest, (await made.call(routes.POWER_NEXT)).content)
            assert (await made.show(honest)).grade_ppm is not None

    asyncio.run(scenario())


def test_a_market_that_does_not_grade_asks_nobody(tmp_path: Path) -> None:
    """Its nodes count as one SCU a processor."""

    async def scenario() -> None:
        async with worlds.inside(tmp_path, witness=False) as world:
            made = await world.node("north", Measured, run=False, takes_s=[1.0])
            assert (await made.call(routes.POWER_NEXT)).status_code == 204
            assert grade.in_price(await newest(world, made.id)) == PPM

    asyncio.run(scenario())
