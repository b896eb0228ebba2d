"""Nodes that report a task cannot run: a pair that lies ends no job, a broken job ends soon."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest
from tests.integration.market import world as worlds
from tests.integration.market.fake_buyer import FakeBuyer, before, command_spec, taken_before, train_spec
from tests.integration.market.fake_node import FakeNode, LyingNode
from tests.integration.market.test_market_jobs import case_of, check
from tests.integration.market.world import World

from stannary.formats.jobspec import JobSpec, Resources, Verification
from stannary.formats.predicates import Absence, Verdict
from stannary.rules.pace import UNMEASURED_S
from stannary.store import nodes
from stannary.verify.report import Report
from stannary.wire import node, routes
from stannary.wire.buyer import JobView


class Griefer(FakeNode):
    """Takes work and reports that it cannot run."""

    async def work(self, lease: node.Lease) -> None:
        """Fail at once."""
        failure = node.Failure(reason="run-failed", message="exit code 1", log_tail="Traceback")
        await self.call(routes.lease(routes.LEASE_FAIL, lease.lease_id), failure)


async def ended(world: World, ada: FakeBuyer, spec: JobSpec) -> JobView:
    """Submit a job and follow it to its end."""
    job = (await ada.submit(spec)).id
    world.start(ada.broker(job))
    return await ada.finished(job)


def test_two_operators_who_lie_together_end_no_job(tmp_path: Path) -> None:
    """Where both of a griefing pair report a task before anybody else has it, a free third is asked and does it."""

    async def scenario() -> tuple[JobView, list[str]]:
        async with worlds.inside(tmp_path, witness=False) as world:
            honest = [await world.node(operator, run=False) for operator in ("north", "south")]
            pair = [await world.node(operator, Griefer, ask_usd_micros_per_hour=1) for operator in ("grim", "grey")]
            ada = await world.buyer()
            following = asyncio.create_task(ended(world, ada, command_spec()))
            while not all(made.served for made in pair):  # both have had the task
                await world.clock.sleep(0.1)
            for made in honest:
                world.start(made.run())
            return await following, [made.served[0] for made in pair]

    view, first = asyncio.run(scenario())
    assert (view.status, view.verdict) == ("succeeded", "verified"), view
    assert first[0] == first[1]


def test_a_broken_job_ends_by_three_reports(tmp_path: Path) -> None:
    """A job nobody can run fails, is refunded whole, and its message names who reported it."""

    async def scenario() -> tuple[JobView, list[str]]:
        async with worlds.inside(tmp_path, witness=False) as world:
            for operator in ("north", "south", "east", "west"):
                await world.node(operator, Griefer)
            view = await ended(world, await world.buyer(), command_spec())
            return view, [line for made in world.nodes for line in made.served if line.startswith("work ")]

    view, served = asyncio.run(scenario())
    assert (view.status, view.reason) == ("failed", "run-failed")
    assert view.refunded_usd_micros == view.escrow_usd_micros
    assert len(served) == 3
    assert view.message.startswith("exit code 1 (reported by "), "the reason stands in its own member"
    assert view.message.count(",") == 2


def test_a_lone_operators_word_ends_its_job(tmp_path: Path) -> None:
    """Where nobody else could try, one report is all there can be."""

    async def scenario() -> JobView:
        async with worlds.inside(tmp_path, witness=False) as world:
            await world.node("north", Griefer)
            return await ended(world, await world.buyer(), command_spec(verify=Verification.NONE))

    assert asyncio.run(scenario()).reason == "run-failed"


def test_a_convicted_node_gets_nothing_more_of_any_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Under rules 2 a conviction alone, long before the settlement that revokes, keeps a node from all other work."""
    monkeypatch.setattr(nodes, "revoke", lambda *_, **__: None)  # as if the job were never settled

    async def scenario() -> tuple[list[str], list[str]]:
        async with worlds.inside(tmp_path, witness=False) as world:
            for operator in ("north", "south", "east"):
                await world.node(operator)
            liar = await world.node("fox", LyingNode, ask_usd_micros_per_hour=1)
            ada, bob = await world.buyer(), await world.buyer("bob")
            with taken_before():
                assert (await ended(world, ada, before(train_spec()))).verdict == "verified"
            served = list(liar.served)
            assert liar.id not in (await bob.quote(train_spec())).chosen
            assert (await ended(world, bob, train_spec())).verdict == "verified"
            return served, liar.served[len(served) :]

    first, after = asyncio.run(scenario())
    assert any(line.startswith("work") for line in first)
    assert after == []


def test_a_refuted_nodes_session_ends_with_the_settlement(tmp_path: Path) -> None:
    """Under rules 2 a receipt revokes: who is, is nobody to the market, whatever it had cached of his session."""

    async def scenario() -> None:
        async with worlds.inside(tmp_path, witness=False) as world:
            for operator in ("north", "south", "east"):
                await world.node(operator)
            liar = await world.node("fox", LyingNode, ask_usd_micros_per_hour=1)
            token = liar.token
            ada = await world.buyer()
            with taken_before():
                assert (await ended(world, ada, before(train_spec()))).verdict == "verified"
            assert any(line.startswith("work") for line in liar.served)
            exchange, _ = world.inside
            assert liar.id not in {holder for holder, _ in exchange.sessions.values()}
            answer = await ada.client.post(routes.HEARTBEAT, headers={"Authorization": f"Bearer {token}"})
            assert answer.status_code == 401

    asyncio.run(scenario())


MAX_JOBS = 12  # the beacon may rank the one who hands back first in no audit of a job


class HandsBackAudits(FakeNode):
    """Works honestly, and hands every audit back at once."""

    async def audit(self, lease: node.Lease) -> None:
        """Refuse."""
        await self.call(routes.lease(routes.LEASE_RELEASE, lease.lease_id))


class SlowProver(FakeNode):
    """Answers for its work honestly, after a while."""

    async def question(self, lease: node.Lease) -> None:
        """Think first."""
        await self.clock.sleep(1.0)
        await super().question(lease)


def test_an_auditor_who_hands_back_costs_its_prover_nothing(tmp_path: Path) -> None:
    """A prover that answers in time is heard, also where its first auditor gave up before; the receipt says who did."""

    async def scenario() -> list[tuple[Report, set[Verdict], set[Absence]]]:
        # A node answers one question after another: on a busy machine three seconds do not reach for all of its own.
        timing = replace(worlds.QUICK, answer_floor_s=30.0)
        async with worlds.inside(tmp_path, timing, witness=False) as world:
            for operator in ("north", "south", "east"):
                await world.node(operator, SlowProver)
            await world.node("fox", HandsBackAudits, ask_usd_micros_per_hour=1)
            ada = await world.buyer()
            seen: list[tuple[Report, set[Verdict], set[Absence]]] = []
            while len(seen) < MAX_JOBS and not any(reasons for *_, reasons in seen):
                view = await ended(world, ada, train_spec(lanes=3))
                data = await ada.receipt(view.id)
                case = case_of(data)
                verdicts = {item.predicate.verdict for item in case.verdicts}
                seen.append((check(world, data), verdicts, {item.predicate.reason for item in case.silences.values()}))
            return seen

    seen = asyncio.run(scenario())
    for report, verdicts, _ in seen:
        assert [item for item in report.findings if item.severity != "notice"] == []
        assert verdicts == {Verdict.VERIFIED}
    assert seen[-1][2] == {Absence.HANDED_BACK}


def test_a_beat_says_which_jobs_are_over(tmp_path: Path) -> None:
    """Of the jobs a node names, those that are over (or were never here) come back; an open one does not."""

    async def scenario() -> tuple[list[str], list[str], str]:
        async with worlds.inside(tmp_path, witness=False) as world:
            made, other = [await world.node(operator, run=False) for operator in ("north", "south")]
            ada = await world.buyer()
            job = (await ada.submit(command_spec())).id

            async def asked() -> list[str]:
                beat = node.Heartbeat(state=node.NodeState.IDLE, leases=[], version="t", jobs=[job, "j-000000000000"])
                answer = await made.call(routes.HEARTBEAT, beat)
                return list(node.HeartbeatAnswer.model_validate_json(answer.content).ended)

            before = await asked()
            world.start(made.run())
            world.start(other.run())
            world.start(ada.broker(job))
            await ada.finished(job)
            while len(after := await asked()) < 2:  # the job's loop ends after its status is seen
                await world.clock.sleep(0.1)
            return before, after, job

    before, after, job = asyncio.run(scenario())
    assert before == ["j-000000000000"]
    assert after == [job, "j-000000000000"]


class SlowNode(FakeNode):
    """Takes eight seconds a step where the spec agreed on milliseconds, and tells each."""

    async def work(self, lease: node.Lease) -> None:
        """Be slow, in the open."""
        await self.tell(lease, "environment", 0)
        await self.clock.sleep(8.0)
        num_steps = int((lease.assignment or {})["num_steps"])
        for step in range(1, num_steps + 1):
            await self.clock.sleep(8.0)
            await self.tell(lease, "compute", step)
        await super().work(lease)

    async def tell(self, lease: node.Lease, phase: str, step: int) -> None:
        """Report progress."""
        report = node.ProgressReport(step=step, steps=step, phase=phase)
        await self.call(routes.lease(routes.LEASE_PROGRESS, lease.lease_id), report)


class Pretender(SlowNode):
    """Reports one step and computes nothing more, but goes on beating."""

    async def work(self, lease: node.Lease) -> None:
        """Claim to be slow."""
        await self.tell(lease, "environment", 0)
        await self.clock.sleep(3.0)
        await self.tell(lease, "compute", 1)


def test_slow_steps_cost_no_lease(tmp_path: Path) -> None:
    """A job whose steps take two hundred times the agreed time ends well, each task leased once."""

    async def scenario() -> tuple[JobView, list[str]]:
        async with worlds.inside(tmp_path, witness=False) as world:
            for operator in ("north", "south", "east"):
                await world.node(operator, SlowNode)
            view = await ended(world, await world.buyer(), train_spec(rounds=1))
            return view, [line for made in world.nodes for line in made.served if line.startswith("work ")]

    view, served = asyncio.run(scenario())
    assert (view.status, view.verdict) == ("succeeded", "verified"), view
    assert len(served) == len(set(served))


def test_a_long_transfer_costs_no_lease(tmp_path: Path) -> None:
    """Two thousand seconds of bytes that move keep a lease (8 Mbit/s for what is asked); silence after them ends it."""

    async def scenario() -> tuple[list[str], list[str]]:
        async with worlds.inside(tmp_path, witness=False) as world:
            _, engines = world.inside
            far = await world.node("north", SlowNode, run=False, ask_usd_micros_per_hour=1)  # the first unit is its
            await world.node("south")
            ada = await world.buyer()
            large = Resources(cpus=1, memory_bytes=2**31, disk_bytes=2**28, wall_s=60)
            job = (await ada.submit(train_spec(rounds=1, resources=large))).id
            while (lease := await far.next_lease()) is None:
                pass

            async def pass_100_s(reports: tuple[str, int] | None) -> None:
                world.clock._now += 100.0
                await far.open_session()
                await far.beat()
                if reports is not None:
                    await far.tell(lease, *reports)
                await engines._expire()

            async def ends() -> list[str]:
                events = [event for event in await ada.events(job) if event.node == far.id]
                assert any(event.type == "lease.granted" for event in events)
                return [event.message for event in events if event.type == "lease.expired"]

            for reports in [*[("fetch", 0)] * 10, ("compute", 1), *[("store", 0)] * 10]:  # the last step is overtaken
                await pass_100_s(reports)
            before = await ends()
            for _ in range(int(UNMEASURED_S // 100) + 1):
                await pass_100_s(None)
            return before, await ends()

    before, after = asyncio.run(scenario())
    assert before == []
    assert [message.rpartition(": ")[2] for message in after] == ["deadline"]


def test_who_only_claims_progress_loses_his_lease(tmp_path: Path) -> None:
    """After one step nothing more is heard: the lane goes to another node, long before the wall limit."""

    async def scenario() -> tuple[JobView, list[str], float]:
        async with worlds.inside(tmp_path, witness=False) as world:
            for operator in ("north", "south"):
                await world.node(operator)
            await world.node("pretend", Pretender, ask_usd_micros_per_hour=1)
            begun = world.clock.now()
            view = await ended(world, await world.buyer(), train_spec(rounds=1))
            return view, world.nodes[2].served, world.clock.now() - begun

    view, served, took_s = asyncio.run(scenario())
    assert view.status == "succeeded", view
    assert any(line.startswith("work ") for line in served)
    assert took_s < 120.0  # he is asked for several tasks and holds each for some slack of three seconds a step
