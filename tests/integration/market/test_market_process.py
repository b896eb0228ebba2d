"""A market process of its own: killed hard in mid-job, it goes on; what it refuses, it refuses clearly."""

from __future__ import annotations

import asyncio
import base64
import itertools
import os
import subprocess
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path

import httpx2
import pytest
from tests.integration.market import world as worlds
from tests.integration.market.fake_buyer import PROGRAM, command_spec, train_spec
from tests.integration.market.fake_node import FakeNode
from tests.integration.market.world import World
from tests.patience import answered

from stannary import errors
from stannary.formats import digest
from stannary.formats.jobspec import Verification
from stannary.market.settings import MarketProfile
from stannary.verify import receipt as verifier
from stannary.verify.trust import TrustStore, pin
from stannary.wire import admin, buyer, message, node, routes
from stannary.wire import errors as wire_errors

KILLS = 2  # tests/integration/attacks/test_kills.py kills twenty times under load


def in_market(directory: Path, scenario: Callable[[World], Awaitable[None]]) -> None:
    """Run a scenario in a market of this process."""

    async def run() -> None:
        async with worlds.inside(directory, witness=False) as world:
            await scenario(world)

    asyncio.run(run())


def test_killed_market_goes_on(tmp_path: Path) -> None:
    """A market killed twice in mid-job loses nothing: the job ends, is paid once, and its receipt verifies."""
    process = worlds.Process(tmp_path)

    async def scenario() -> None:
        world = process.start()
        try:
            for operator in ("north", "south", "east"):
                await world.node(operator)
            ada = await world.buyer()
            job = (await ada.submit(train_spec())).id
            world.start(ada.broker(job))
            for _ in range(KILLS):
                await progressed(world, ada.headers, job)
                process.kill()
                await asyncio.to_thread(process.start)
            view = await answered(lambda: ada.finished(job))
            assert (view.status, view.verdict) == ("succeeded", "verified")
            trust = TrustStore(()).with_market(pin(world.vkey, world.witness_vkeys))
            report = verifier.verify_receipt(await ada.receipt(job), trust, int(time.time()))
            assert report.verdict == "verified", report.findings
            ledger = message.read(admin.LedgerPage, (await world.admin("GET", routes.ADMIN_LEDGER)).content)
            assert sum(ledger.balances.values()) == 0
            assert ledger.balances["buyer:ada.escrow"] == 0
            assert [item.key for item in ledger.entries if item.reason == "settle"].count(f"settle:{job}") > 0
        finally:
            await world.stop()
            assert process.stop() == 0

    asyncio.run(scenario())


async def progressed(world: World, headers: dict[str, str], job: str) -> None:
    """Wait until three more things have happened to a job."""
    async with httpx2.AsyncClient(base_url=world.url, headers=headers, timeout=60.0) as client:
        path, after, seen = routes.job(routes.JOB_EVENTS, job), 0, 0
        first = (await client.get(path)).content
        after = message.read(buyer.EventPage, first).next
        while seen < 3:
            page = message.read(buyer.EventPage, (await client.get(path, params={"after": after, "wait": 2})).content)
            after, seen = page.next, seen + max(len(page.events), 1)


def test_what_a_lease_opens_ends_with_it(tmp_path: Path) -> None:
    """A node reads a job's files while it holds a lease of the job, and neither before nor after."""

    async def scenario(world: World) -> None:
        made, other = [await world.node(operator, run=False) for operator in ("north", "south")]
        ada = await world.buyer()
        await ada.submit(command_spec())
        path = routes.blob(digest.digest(PROGRAM))
        lease = None
        for holder in itertools.cycle((made, other)):
            with pytest.raises(errors.NotFound):
                await holder.get(path)
            lease = await holder.next_lease()
            if lease is not None:
                break
        assert lease is not None
        assert (await holder.get(path)).content == PROGRAM
        with pytest.raises(errors.NotFound):
            await (other if holder is made else made).get(path)
        await holder.call(routes.lease(routes.LEASE_RELEASE, lease.lease_id))
        with pytest.raises(errors.NotFound):
            await holder.get(path)

    in_market(tmp_path, scenario)


def test_session_proof_is_single_use(tmp_path: Path) -> None:
    """A challenge answered once opens no second session, and another market's signature opens none."""

    async def scenario(world: World) -> None:
        made = await world.node("north", run=False)
        assert made.market is not None
        made.token = ""
        asked = await made.call(routes.SESSION_CHALLENGE, node.ChallengeRequest(node=made.id))
        nonce = message.read(node.Challenge, asked.content).nonce
        signature = base64.b64encode(made.key.sign(node.session_message(made.market.vkey, nonce))).decode()
        request = node.SessionRequest(node=made.id, nonce=nonce, signature=signature)
        assert (await made.call(routes.SESSIONS, request)).status_code == 201
        with pytest.raises(errors.AuthError):
            await made.call(routes.SESSIONS, request)
        asked = await made.call(routes.SESSION_CHALLENGE, node.ChallengeRequest(node=made.id))
        nonce = message.read(node.Challenge, asked.content).nonce
        foreign = base64.b64encode(made.key.sign(node.session_message("other+00000000+AA==", nonce))).decode()
        with pytest.raises(errors.AuthError):
            await made.call(routes.SESSIONS, node.SessionRequest(node=made.id, nonce=nonce, signature=foreign))

    in_market(tmp_path, scenario)


def test_idempotency(tmp_path: Path) -> None:
    """The same key and body give the same job; another body under the key is a conflict."""

    async def scenario(world: World) -> None:
        for operator in ("north", "south"):
            await world.node(operator, run=False)
        ada = await world.buyer()
        signed = await ada.order(command_spec())
        first = await ada.submit(command_spec(), "key-1", signed)
        assert (await ada.submit(command_spec(), "key-1", signed)).id == first.id
        with pytest.raises(errors.ConflictError) as refused:
            await ada.submit(command_spec(), "key-1")
        assert refused.value.detail == wire_errors.IDEMPOTENCY_CONFLICT

    in_market(tmp_path, scenario)


def test_money_is_refused_with_the_amount(tmp_path: Path) -> None:
    """A budget or a deposit below the worst case is refused, naming what is needed; nothing is held."""

    async def scenario(world: World) -> None:
        for operator in ("north", "south"):
            await world.node(operator, run=False)
        poor, ada = await world.buyer("poor", 1), await world.buyer()
        quote = await ada.quote(command_spec())
        needed = f"{quote.escrow_usd_micros / 1e6:.6f}"
        with pytest.raises(errors.UsageError, match=needed):
            await ada.submit(command_spec(budget_usd_micros=10))
        with pytest.raises(errors.UsageError, match=needed):
            await poor.submit(command_spec())

    in_market(tmp_path, scenario)


def test_blobs_belong_to_somebody(tmp_path: Path) -> None:
    """A blob is served to its owners only, wrong bytes are refused, and knowing a digest opens nothing."""

    async def scenario(world: World) -> None:
        made, ada, eve = await world.node("north", run=False), await world.buyer(), await world.buyer("eve")
        await ada.put_blob(PROGRAM)
        path = routes.blob(digest.digest(PROGRAM))
        assert (await ada.call("GET", path)).content == PROGRAM
        for stranger in (lambda: eve.call("GET", path), lambda: made.get(path)):
            with pytest.raises(errors.NotFound):
                await stranger()
        with pytest.raises(errors.FormatError):
            await ada.call("PUT", path, content=b"other bytes")

    in_market(tmp_path, scenario)


def test_a_node_stores_within_its_quota(tmp_path: Path) -> None:
    """Bytes no contribution claims are bounded for each node, with a clear refusal; claimed ones and buyers are not."""

    async def scenario() -> None:
        async with worlds.inside(tmp_path, witness=False, node_quota_bytes=1000) as world:
            made, other = await world.node("north", run=False), await world.node("south", run=False)
            await made.put_blob(bytes(600))
            with pytest.raises(errors.LimitExceeded, match="quota") as refused:
                await made.put_blob(bytes([1]) * 600)
            assert refused.value.detail == wire_errors.QUOTA
            assert "400 bytes were left" in refused.value.why
            with pytest.raises(errors.LimitExceeded):  # side by side neither sees the other's room
                await asyncio.gather(*(made.put_blob(bytes([number]) * 300) for number in (2, 3)))
            await other.put_blob(bytes(600))  # the same bytes: a friend's copy claims nothing
            with pytest.raises(errors.LimitExceeded):
                await made.put_blob(bytes([4]) * 300)
            ada = await world.buyer()
            await ada.put_blob(bytes(100_000))
            await ada.put_blob(bytes(600))  # a claim, as that of a job whose contribution names them
            await made.put_blob(bytes([4]) * 300)

    asyncio.run(scenario())


@pytest.mark.needs_root
@pytest.mark.skipif(os.geteuid() != 0, reason="a file system of its own must be mounted")
def test_full_disk_keeps_nothing_half_written(tmp_path: Path) -> None:
    """A blob the disk cannot take is answered 507, leaves nothing behind, and the market goes on."""
    blobs = tmp_path / "blobs"
    blobs.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", blobs], check=True)

    async def scenario(world: World) -> None:
        for operator in ("north", "south"):
            await world.node(operator)
        ada = await world.buyer()
        large = bytes(4 * 2**20)
        with pytest.raises(errors.EnvironmentProblem) as refused:
            await ada.put_blob(large)
        assert refused.value.detail == wire_errors.DISK_FULL
        assert wire_errors.status_of(refused.value) == 507
        assert [path for path in blobs.rglob("*") if path.is_file()] == []
        with pytest.raises(errors.NotFound):
            await ada.call("GET", routes.blob(digest.digest(large)))
        job = (await ada.submit(command_spec())).id
        world.start(ada.broker(job))
        assert (await ada.finished(job)).verdict == "verified"

    try:
        in_market(tmp_path, scenario)
    finally:
        subprocess.run(["umount", blobs], check=True)


def test_revoked_node_is_told_for_good(tmp_path: Path) -> None:
    """A revoked node opens no session and hears why; a node that never joined hears that nobody knows it."""

    async def scenario(world: World) -> None:
        made = await world.node("north", run=False)
        await world.admin("POST", routes.node(routes.ADMIN_NODE_REVOKE, made.id))
        with pytest.raises(errors.AuthError):
            await made.beat()
        with pytest.raises(errors.AuthError) as refused:
            await made.open_session()
        assert refused.value.detail == wire_errors.NODE_REVOKED
        with pytest.raises(errors.NotFound) as unknown:
            await made.call(routes.SESSION_CHALLENGE, node.ChallengeRequest(node="n-000000000000"))
        assert unknown.value.detail == wire_errors.NODE_UNKNOWN

    in_market(tmp_path, scenario)


def test_stale_epoch_is_refused(tmp_path: Path) -> None:
    """A node whose lease was given to another is told so and can hand in nothing."""

    async def scenario(world: World) -> None:
        first = await world.node("north", run=False, ask_usd_micros_per_hour=1)
        ada = await world.buyer()
        await world.node("south", run=False)
        job = (await ada.submit(command_spec())).id
        lease = await first.next_lease()
        assert lease is not None
        assert lease.job == job
        (again,) = [await first.next_lease()]
        assert again is not None
        assert again.lease_id == lease.lease_id  # an answer lost on the way is given again
        await first.spec(job)  # as it would have read to do the task; behind the release it is none of his business
        await first.call(routes.lease(routes.LEASE_RELEASE, lease.lease_id))
        with pytest.raises(errors.ConflictError) as refused:
            await first.commit(lease, "00" * 32)
        assert refused.value.detail == wire_errors.STALE_EPOCH

    in_market(tmp_path, scenario)


def test_unverified_job_is_paid_on_completion(tmp_path: Path) -> None:
    """With verify: none the work is paid unseen and the receipt says so."""

    async def scenario(world: World) -> None:
        await world.node("north")
        ada = await world.buyer()
        job = (await ada.submit(command_spec(verify=Verification.NONE))).id
        view = await ada.finished(job)
        assert (view.status, view.verdict) == ("succeeded", "unverified")
        assert view.paid_usd_micros > 0

    in_market(tmp_path, scenario)


def test_silent_buyer_pays_unseen(tmp_path: Path) -> None:
    """A buyer whose broker never reveals ends with a failed job, and the committed work is paid."""

    async def scenario() -> None:
        timing = replace(worlds.QUICK, reveal_s=0.5)
        async with worlds.inside(tmp_path, timing, witness=False) as world:
            for operator in ("north", "south"):
                await world.node(operator)
            ada = await world.buyer()
            view = await ada.finished((await ada.submit(command_spec())).id)
            assert (view.status, view.reason) == ("failed", "buyer-silent")
            assert view.paid_usd_micros > 0

    asyncio.run(scenario())


def test_cancel(tmp_path: Path) -> None:
    """A cancelled job ends with a receipt, and its escrow comes back."""

    async def scenario(world: World) -> None:
        for operator in ("north", "south"):
            await world.node(operator, run=False)
        ada = await world.buyer()
        job = (await ada.submit(command_spec())).id
        await ada.call("POST", routes.job(routes.JOB_CANCEL, job))
        view = await ada.finished(job)
        assert (view.status, view.refunded_usd_micros) == ("cancelled", view.escrow_usd_micros)

    in_market(tmp_path, scenario)


def test_profile_shared_lists_no_t0_node(tmp_path: Path) -> None:
    """Outside profile local a node with software evidence is refused with the reason."""

    async def scenario() -> None:
        async with worlds.inside(tmp_path, witness=False, profile=MarketProfile.SHARED) as world:
            with pytest.raises(errors.BelowPolicy, match="T0"):
                await world.node("north", FakeNode, run=False)

    asyncio.run(scenario())


def test_ready_line_and_orderly_stop(tmp_path: Path) -> None:
    """The process says where it listens, writes the same into market.json, and stops on SIGTERM."""
    process = worlds.Process(tmp_path)
    world = process.start()
    try:
        assert world.url in (tmp_path / "market.json").read_text()
        assert (tmp_path / "admin-token").stat().st_mode & 0o777 == 0o600
        assert len(world.witness_vkeys) == 1
    finally:
        assert process.stop() == 0
