"""Blobs nobody claims are bounded and go; those of a job, a receipt or an upload stay."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import sqlalchemy as sa
from sqlalchemy.engine import Connection
from tests.integration.market import toy_work
from tests.integration.market import world as worlds
from tests.integration.market.fake_buyer import PROGRAM, FakeBuyer, command_spec, train_spec
from tests.integration.market.fake_node import FakeNode, LyingNode
from tests.integration.market.quiet import QuietClock
from tests.integration.market.test_market_jobs import case_of
from tests.integration.market.world import World

from stannary import errors
from stannary.formats import digest
from stannary.formats.digest import Digest
from stannary.formats.jobspec import JobSpec, Resources
from stannary.formats.predicates import Assignment, Role
from stannary.jobs.retention import Retention
from stannary.market import clearing
from stannary.market.clock import RisingClock
from stannary.market.engine import loop
from stannary.market.intake.blobkeeping import BUYER_GRACE_S, DAY_S, NODE_GRACE_S, Blobkeeping
from stannary.store import claims, schema
from stannary.store.database import Store
from stannary.verify import recomputation
from stannary.wire import admin, buyer, limits, message, node, routes
from stannary.wire import errors as wire_errors


def lies(world: World, data: bytes) -> bool:
    """Tell whether a blob's file is there."""
    exchange, _ = world.inside
    return bool(exchange.blobs.path(digest.digest(data)).exists())


class Later:
    """A market's time, moved by days without anybody beating: only the keeper is asked."""

    def __init__(self, world: World) -> None:
        self.world = world

    async def clear(self, days: float) -> int:
        """Let so many days pass, then clear once."""
        exchange, engines = self.world.inside
        self.world.clock._now += days * DAY_S  # type: ignore[attr-defined]  # a QuietClock: nothing waits for these days
        await clearing.release(exchange, engines)
        return await clearing.clear(exchange, engines)


async def ended(world: World) -> tuple[FakeBuyer, str, bytes]:
    """Run a job to its end; return its buyer, its id and its receipt."""
    for operator in ("north", "south"):
        await world.node(operator)
    ada = await world.buyer()
    job = (await ada.submit(command_spec())).id
    world.start(ada.broker(job))
    await ada.finished(job)
    return ada, job, await ada.receipt(job)


def test_what_nobody_claims_goes_and_the_rest_stays(tmp_path: Path) -> None:
    """After its grace a stray output and a stray file go; a job's files, results and receipt stay."""

    async def scenario() -> None:
        async with worlds.inside(tmp_path, witness=False) as world:
            ada, job, receipt = await ended(world)
            output = (await ada.outputs(job))[0].digest
            await world.nodes[0].put_blob(b"stray output")
            await ada.put_blob(b"stray file")
            later = Later(world)
            assert await later.clear(NODE_GRACE_S / DAY_S + 0.1) == 1
            assert not lies(world, b"stray output")
            assert lies(world, b"stray file")
            await later.clear(3)
            await ada.put_blob(b"stray file")  # stored again: its week begins anew
            await later.clear(BUYER_GRACE_S / DAY_S - 1)
            assert lies(world, b"stray file")
            await later.clear(2)
            assert not lies(world, b"stray file")
            with pytest.raises(errors.NotFound):
                await ada.call("GET", routes.blob(digest.digest(b"stray file")))
            assert lies(world, PROGRAM)
            assert lies(world, receipt)
            assert (await ada.receipt(job)) == receipt
            assert (await ada.call("GET", routes.blob(output))).content
            await ada.put_blob(b"stray file")  # may come back
            assert lies(world, b"stray file")

    asyncio.run(scenario())


def test_an_order_in_the_queue_keeps_its_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files of a job that waits longer than their grace stay; an upload of what is doomed is told to come again."""
    monkeypatch.setattr(loop, "MIN_BACKLOG", 0)
    monkeypatch.setattr(loop, "BACKLOG", 0)  # nothing begins

    async def scenario() -> None:
        async with worlds.inside(tmp_path, witness=False) as world:
            for operator in ("north", "south"):
                await world.node(operator, run=False)
            ada = await world.buyer()
            await ada.submit(command_spec())
            later = Later(world)
            assert await later.clear(30) == 0
            assert lies(world, PROGRAM)
            exchange, _ = world.inside
            exchange.blobkeeping.doomed = frozenset({str(digest.digest(PROGRAM))})
            with pytest.raises(errors.ServiceError):
                await ada.put_blob(PROGRAM)

    asyncio.run(scenario())


def test_an_upload_under_way_is_not_cleared(tmp_path: Path) -> None:
    """What somebody is storing again this moment stays."""

    async def scenario() -> None:
        async with worlds.inside(tmp_path, witness=False) as world:
            ada = await world.buyer()
            await ada.put_blob(b"again")
            exchange, _ = world.inside
            name = digest.digest(b"again")
            exchange.blobkeeping.begin(name)
            assert await Later(world).clear(30) == 0
            exchange.blobkeeping.end(name)
            began = world.clock.now()
            assert await Later(world).clear(0) == 1
            assert world.clock.now() - began >= clearing.DOOM_S
            assert not lies(world, b"again")

    asyncio.run(scenario())


def test_a_file_nobody_noted_goes_at_the_next_start(tmp_path: Path) -> None:
    """What a kill left between file and row is deleted when the market starts; what the database knows stays."""

    async def scenario() -> None:
        async with worlds.inside(tmp_path, witness=False) as world:
            ada = await world.buyer()
            await ada.put_blob(b"known")
            exchange, _ = world.inside
            exchange.blobs.put(b"stray")  # and no row
            exchange.blobs.path(digest.digest(b"known")).with_name("notes").write_bytes(b"not of ours")
        async with worlds.inside(tmp_path, witness=False) as world:
            assert not lies(world, b"stray")
            assert lies(world, b"known")

    asyncio.run(scenario())


def test_rights_to_a_manifest_end_with_the_job(tmp_path: Path) -> None:
    """A node's right to read an open job's manifest stays, that of an ended job goes; buyer and receipt keep theirs."""

    async def readers(world: World) -> set[str]:
        exchange, _ = world.inside
        query = sa.select(schema.blob_owners.c.owner).where(schema.blob_owners.c.owner.like("%@%"))
        return set(await exchange.store.aread(lambda c: c.execute(query).scalars().all()))

    async def scenario() -> None:
        async with worlds.inside(tmp_path, witness=False) as world:
            ada, job, _ = await ended(world)
            exchange, _ = world.inside
            late = (await ada.submit(command_spec())).id  # its broker does not answer: it stays open
            while not any(owner.startswith(late) for owner in await readers(world)):
                await world.clock.sleep(worlds.QUICK.sweep_s)
            assert any(owner.startswith(job) for owner in await readers(world))
            await clearing.clear_readers(exchange)
            assert {owner.partition("@")[0] for owner in await readers(world)} == {late}
            assert (await ada.call("GET", routes.blob(digest.digest(PROGRAM)))).content == PROGRAM

    asyncio.run(scenario())


def test_parties_store_so_many_blobs(tmp_path: Path) -> None:
    """Number and bytes of what no job claims are bounded for nodes and buyers, with a clear refusal."""

    async def scenario() -> None:
        quotas: dict[str, Any] = {"node_quota_blobs": 3, "buyer_quota_blobs": 4, "buyer_quota_bytes": 1000}
        async with worlds.inside(tmp_path, witness=False, **quotas) as world:
            made, ada = await world.node("north", run=False), await world.buyer()
            for number in range(3):
                await made.put_blob(b"n%d" % number)
                await ada.put_blob(b"b%d" % number)
            with pytest.raises(errors.LimitExceeded) as refused:
                await made.put_blob(b"one more")
            assert refused.value.detail == wire_errors.QUOTA
            with pytest.raises(errors.LimitExceeded, match="quota"):
                await ada.put_blob(bytes(2000))
            await ada.put_blob(b"the last")
            with pytest.raises(errors.LimitExceeded, match="too many blobs"):
                await ada.put_blob(b"one more")

    asyncio.run(scenario())


def test_uploads_side_by_side_share_one_quota(tmp_path: Path) -> None:
    """What is on its way counts: a hundred uploads at once store no more than one after another would."""

    async def scenario() -> None:
        quotas: dict[str, Any] = {"node_quota_bytes": 3000, "buyer_quota_bytes": 3000}
        async with worlds.inside(tmp_path, witness=False, **quotas) as world:
            for party in (await world.node("north", run=False), await world.buyer()):
                sent = [
                    party.id.encode() + bytes([number]) * 900 if isinstance(party, FakeNode) else bytes([number]) * 900
                    for number in range(100)
                ]
                ended = await asyncio.gather(*(party.put_blob(data) for data in sent), return_exceptions=True)
                refused = [item for item in ended if item is not None]
                assert all(isinstance(item, errors.LimitExceeded) for item in refused)
                assert sum(lies(world, data) for data in sent) == 3 == len(ended) - len(refused)
                with pytest.raises(errors.LimitExceeded):
                    await party.put_blob(b"more" * 200)
                await party.put_blob(b"a little more" if isinstance(party, FakeNode) else b"a bit more")

    asyncio.run(scenario())


def test_an_upload_without_length_holds_a_bounded_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who does not say how long his upload is keeps none of his others out, and may send so much and no more."""
    monkeypatch.setattr(limits, "MAX_UNANNOUNCED_BYTES", 1000)

    async def scenario() -> None:
        async with worlds.inside(tmp_path, witness=False, buyer_quota_bytes=3000) as world:
            ada, begun, go_on = await world.buyer(), asyncio.Event(), asyncio.Event()

            async def slowly(data: bytes) -> AsyncIterator[bytes]:
                yield data[:10]
                begun.set()
                await go_on.wait()
                yield data[10:]

            async def send(data: bytes) -> int:
                path = routes.blob(digest.digest(data))
                return (await ada.client.put(path, content=slowly(data), headers=ada.headers)).status_code

            first = asyncio.create_task(send(b"1" * 1000))
            await begun.wait()
            await ada.put_blob(b"2" * 1500)  # what is held leaves 2,000
            go_on.set()
            assert await first == 201
            assert await send(b"3" * 500) == 201
            with pytest.raises(errors.LimitExceeded):
                await ada.put_blob(b"one byte more")
        async with worlds.inside(tmp_path / "other", witness=False) as world:
            ada = await world.buyer()
            answer = await ada.client.put(
                routes.blob(digest.digest(b"4" * 1001)), content=slowly(b"4" * 1001), headers=ada.headers
            )
            assert answer.status_code == 413
            assert "Content-Length" in answer.json()["error"]["hint"]

    asyncio.run(scenario())


def test_a_lost_file_is_said_to_be_lost(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A blob or receipt whose file is gone from the disk is a 404 in words and a line in the log; it may come back."""

    async def scenario() -> None:
        async with worlds.inside(tmp_path, witness=False) as world:
            ada, job, receipt = await ended(world)
            exchange, _ = world.inside
            for data in (PROGRAM, receipt):
                exchange.blobs.remove(digest.digest(data))
            with pytest.raises(errors.NotFound, match="lost this blob"):
                await ada.call("GET", routes.blob(digest.digest(PROGRAM)))
            with pytest.raises(errors.NotFound, match="lost this blob"):
                await ada.receipt(job)
            await ada.put_blob(PROGRAM)
            assert (await ada.call("GET", routes.blob(digest.digest(PROGRAM)))).content == PROGRAM

    asyncio.run(scenario())
    assert caplog.text.count("its file is gone") == 2


async def gone(ada: FakeBuyer, job: str) -> buyer.Outputs:
    """Return what is said of a job's results."""
    return message.read(buyer.Outputs, (await ada.call("GET", routes.job(routes.JOB_OUTPUTS, job))).content)


def test_an_ended_jobs_bytes_go_after_the_retention_and_its_receipt_stays(tmp_path: Path) -> None:
    """Thirty days after its end files and results go, said in its history and by whoever is asked for them."""

    async def scenario() -> None:
        async with worlds.inside(tmp_path, witness=False) as world:
            ada, job, receipt = await ended(world)
            (output,) = await ada.outputs(job)
            later = Later(world)
            assert await later.clear(29) == 0
            assert (await ada.call("GET", routes.blob(output.digest))).content
            assert (await gone(ada, job)).gone_at is None
            before = await world.admin("GET", routes.ADMIN_BLOBS)
            assert await later.clear(1.1) == 2
            after = message.read(admin.StorageUse, (await world.admin("GET", routes.ADMIN_BLOBS)).content)
            assert message.read(admin.StorageUse, before.content).num_blobs - after.num_blobs == 2
            assert after.ended_s == 30 * DAY_S
            assert not lies(world, PROGRAM)
            said = await gone(ada, job)
            assert said.outputs == [output]
            assert said.gone_at is not None
            assert "--retention ended_s" in said.gone_why
            told = [item.type for item in await ada.events(job)]
            assert told[-1] == claims.GONE
            assert told.count(claims.GONE) == 1
            with pytest.raises(errors.NotFound) as refused:
                await ada.call("GET", routes.blob(output.digest))
            assert "30 d after a job's end" in refused.value.hint
            assert (await ada.receipt(job)) == receipt
            assert await later.clear(365) == 0
            assert lies(world, receipt)
            assert told == [item.type for item in await ada.events(job)]

    asyncio.run(scenario())


def test_what_another_job_holds_too_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file of a job that waits stays when the time of an ended one that used it is over."""

    async def scenario() -> None:
        async with worlds.inside(tmp_path, witness=False) as world:
            ada, job, _ = await ended(world)
            bob = await world.buyer("bob")
            await bob.put_blob(PROGRAM)
            monkeypatch.setattr(loop, "MIN_BACKLOG", 0)
            monkeypatch.setattr(loop, "BACKLOG", 0)  # nothing begins
            await bob.submit(command_spec())
            assert await Later(world).clear(31) == 1  # ada's result
            assert (await gone(ada, job)).gone_at is not None
            assert lies(world, PROGRAM)
            assert (await bob.call("GET", routes.blob(digest.digest(PROGRAM)))).content == PROGRAM

    asyncio.run(scenario())


def test_two_ended_jobs_share_what_they_share(tmp_path: Path) -> None:
    """Results of equal bytes stay until the time of the last job that has them is over."""

    async def scenario() -> None:
        async with worlds.inside(tmp_path, witness=False) as world:
            ada, first, _ = await ended(world)
            exchange, _ = world.inside
            digests = [item.digest for item in await ada.outputs(first)]
            second = (await ada.submit(command_spec())).id
            world.start(ada.broker(second))
            await ada.finished(second)
            assert [item.digest for item in await ada.outputs(second)] == digests
            before_ms = exchange.now_ms

            def settle_first(connection: Connection) -> None:  # as if the second had ended ten days later
                moved = sa.update(schema.jobs).where(schema.jobs.c.job == second)
                connection.execute(moved.values(finished_at_ms=before_ms + int(10 * DAY_S * 1000)))

            await exchange.store.awrite(settle_first)
            later = Later(world)
            assert await later.clear(31) == 0
            assert (await gone(ada, first)).gone_at is not None
            assert (await ada.call("GET", routes.blob(digests[0]))).content
            assert await later.clear(10) == 2
            assert not lies(world, PROGRAM)

    asyncio.run(scenario())


def test_a_crash_between_row_and_file_loses_nothing_claimed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a killed market had forgotten and not deleted goes at the next start; what is claimed is all there."""

    async def scenario() -> None:
        async with worlds.inside(tmp_path, witness=False) as world:
            ada, _, receipt = await ended(world)
            await Later(world).clear(29)
            await ada.put_blob(b"stored for no job")
            exchange, _ = world.inside

            def die(_: object) -> None:
                raise KeyError("killed")

            monkeypatch.setattr(exchange.blobs, "remove", die)
            with pytest.raises(KeyError):
                await Later(world).clear(2)
            assert lies(world, PROGRAM)  # row gone, file still there
        async with worlds.inside(tmp_path, witness=False) as world:
            assert not lies(world, PROGRAM)
            assert lies(world, receipt)
            assert lies(world, b"stored for no job")

    asyncio.run(scenario())


class LateLiar(LyingNode):
    """Is honest in the first round: a lie at the first check goes into no weights, and makes nothing vain."""

    async def results(self, lease: node.Lease, assignment: Assignment) -> dict[str, bytes]:
        """Lie behind it."""
        honest = FakeNode.results if assignment.round == 0 else LyingNode.results
        return await honest(self, lease, assignment)

    def state(self, assignment: Assignment, step: int, blobs: toy_work.Blobs, run: str, role: Role) -> bytes:
        """Stand by what was handed in."""
        honest = FakeNode.state if assignment.round == 0 else LyingNode.state
        return honest(self, assignment, step, blobs, run, role)


def test_what_an_open_job_made_in_vain_goes_and_nothing_else(tmp_path: Path) -> None:
    """With claims taken back all the time a job with a liar ends well; all its replay needs is there."""

    async def scenario() -> None:
        kept = Retention(void_s=0.0)
        async with worlds.inside(tmp_path, witness=False, retention=kept) as world:
            for operator in ("north", "south", "east", "west"):
                await world.node(operator)
            await world.node("liar", LateLiar, ask_usd_micros_per_hour=1000)
            exchange, engines = world.inside

            async def release() -> None:
                while True:
                    await clearing.release(exchange, engines)
                    await world.clock.sleep(0.05)

            world.start(release())
            ada = await world.buyer()
            made_in_vain: set[str] = set()
            for _ in range(8):  # until the beacon draws the liar: it may let a whole job pass
                job = (await ada.submit(train_spec(rounds=3))).id
                world.start(ada.broker(job))
                view = await ada.finished(job)
                assert (view.status, view.verdict) == ("succeeded", "verified")
                case = case_of(await ada.receipt(job))
                needed = {str(item.digest) for item in recomputation.job_blobs(case)}
                for unit in recomputation.units(case):
                    needed |= {str(item.digest) for item in (*unit.blobs, *unit.outputs)}
                made = {str(item.digest) for held in case.contributions.values() for item in held.predicate.outputs}
                await Later(world).clear(1.1)
                for made_node in world.nodes:  # a session does not last so long, nor does a node count as there
                    await made_node.open_session()
                    await made_node.beat()
                there = {name for name in made | needed if exchange.blobs.path(Digest(name)).exists()}
                assert needed <= there
                if made_in_vain := made - there:
                    break
            assert made_in_vain, "nothing was superseded: this test shows nothing"

    asyncio.run(scenario())


def test_what_is_stored_during_a_look_is_counted(tmp_path: Path) -> None:
    """An upload that ends while another's look at the store is under way takes its room all the same."""

    async def scenario() -> None:
        stored, looks = [600], 0

        async def aread(_: Any) -> tuple[int, int]:
            nonlocal looks
            looks += 1
            seen = sum(stored), len(stored)
            if looks == 1:
                stored.append(300)
                keeping.stored("buyer:ada", 300)  # durable behind the snapshot
            return seen

        clock = RisingClock(QuietClock(), tmp_path / "clock")
        keeping = Blobkeeping(cast("Store", SimpleNamespace(aread=aread)), clock)
        async with keeping.room("buyer:ada", (1000, 10), None) as left_bytes:
            assert left_bytes == 100

    asyncio.run(scenario())


class Bloated(FakeNode):
    """Hands in one output that is larger than any of this job, unless another node did so before."""

    lease_in_hand = ""
    bloats = ""
    at_round = 1

    def __post_init__(self) -> None:
        """Remember what is refused."""
        super().__post_init__()
        self.told: list[errors.StannaryError] = []

    async def results(self, lease: node.Lease, assignment: Assignment) -> dict[str, bytes]:
        """Blow an output up."""
        self.lease_in_hand = lease.lease_id
        honest = await super().results(lease, assignment)
        if assignment.round != self.at_round or self.told:
            return honest
        return {name: data + bytes(3 * 2**20) if name == self.bloats else data for name, data in honest.items()}

    async def _turn(self) -> None:
        try:
            await super()._turn()
        except errors.LimitExceeded as err:
            self.told.append(err)
            failure = node.Failure(reason="wrong-size", message="too large")
            await self.call(routes.lease(routes.LEASE_FAIL, self.lease_in_hand), failure)


async def bloated(directory: Path, spec: JobSpec, name: str, at_round: int) -> tuple[str, set[str]]:
    """Run a job of whose outputs one is blown up; return how it ended, and what was told who handed that in."""
    async with worlds.inside(directory, witness=False) as world:
        told: list[errors.StannaryError] = []
        for operator in ("north", "south", "east", "west"):
            made = await world.node(operator, Bloated, run=False)
            made.bloats, made.told, made.at_round = name, told, at_round
            world.start(made.run())
        ada = await world.buyer()
        job = (await ada.submit(spec)).id
        world.start(ada.broker(job))
        return (await ada.finished(job)).status, {err.what for err in told}


@pytest.mark.parametrize("name", ["delta", "theta", "outer"])
def test_a_bloated_output_is_refused_at_the_door(tmp_path: Path, name: str) -> None:
    """What is twice as large as what it was made of is never taken; another node does the task, the job ends well."""
    ran = asyncio.run(bloated(tmp_path, train_spec(rounds=3), name, 1))
    assert ran == ("succeeded", {f"the {name} is larger than any of this model"})


def test_a_program_hands_in_no_more_than_its_disk_holds(tmp_path: Path) -> None:
    """A node that hands in more has ignored its job's limits: it is refused, and who does the task instead is paid."""
    small = Resources(cpus=1, memory_bytes=2**28, disk_bytes=2**20, wall_s=60)
    ran = asyncio.run(bloated(tmp_path, command_spec(resources=small), "out.txt", 0))
    assert ran == ("succeeded", {"more than the job may hand in"})
