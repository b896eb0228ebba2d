"""A market backed up while it works, lost, and restored: jobs go on, and nothing older is put over anything newer."""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from tests.integration.market.fake_buyer import command_spec, train_spec
from tests.integration.market.test_market_jobs import check
from tests.integration.market.world import Process, World

from stannary.errors import ConflictError, FormatError, Refuted
from stannary.market import backup
from stannary.tlog.seen import SeenLog, follow
from stannary.wire.connection import Connection


def call(*words: str | Path) -> subprocess.CompletedProcess[bytes]:
    """Run the market's own command line."""
    return subprocess.run(
        [sys.executable, "-m", "stannary.market", *map(str, words)], capture_output=True, timeout=120, check=False
    )


def made(*words: str | Path) -> dict[str, Any]:
    """Run a command that succeeds; return what it says."""
    done = call(*words)
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


def test_a_restored_market_goes_on_with_its_jobs(tmp_path: Path) -> None:
    """A backup taken under work, restored into an empty folder after the market is lost, finishes job and receipt."""
    old, new, copy = tmp_path / "old", tmp_path / "new", tmp_path / "copy"
    process = Process(old)

    async def scenario() -> tuple[str, Any, dict[str, Any]]:
        world = await asyncio.to_thread(process.start)
        ada = await world.buyer()
        asks = {"north": 1000, "south": 2000}  # the first units are north's
        nodes = [await world.node(name, run=False, ask_usd_micros_per_hour=ask) for name, ask in asks.items()]
        done = (await ada.submit(command_spec(), key="first")).id
        job = (await ada.submit(train_spec(), key="second")).id
        lease = await nodes[0].next_lease()  # work is under way
        assert lease is not None
        said = await asyncio.to_thread(made, "backup", "--dir", old, "--to", copy)
        assert (copy.stat().st_mode & 0o777) == 0o700
        refused = await asyncio.to_thread(call, "restore", "--from", copy, "--dir", old)
        assert refused.returncode != 0
        assert b"empty folder only" in refused.stderr
        process.kill()
        shutil.rmtree(old)
        await asyncio.to_thread(made, "restore", "--from", copy, "--dir", new)
        process.directory = new
        again = await asyncio.to_thread(process.start)
        assert again.vkey == world.vkey
        assert again.witness_vkeys == world.witness_vkeys
        try:
            for party in nodes:
                world.start(party.run())
            for name in (done, job):
                world.start(ada.broker(name))
                view = await ada.finished(name)
                assert view.verdict == "verified", view
            return (
                view.status,
                check(World(again.url, again.vkey, again.witness_vkeys, ""), await ada.receipt(job)),
                said,
            )
        finally:
            await world.stop()
            process.stop()

    status, report, said = asyncio.run(scenario())
    assert status == "succeeded"
    assert [item for item in report.findings if item.severity == "refuted"] == []
    assert said["log_size"] > 0
    assert said["num_missing_blobs"] == 0


def test_a_stopped_market_is_backed_up_as_well_and_nothing_older_is_put_over_it(tmp_path: Path) -> None:
    """A stopped market's backup opens; its older database under the log that went on is refused at start."""
    old, copy, new = tmp_path / "old", tmp_path / "copy", tmp_path / "new"
    process = Process(old)

    async def work(name: str) -> None:
        world = await asyncio.to_thread(process.start)
        try:
            await world.node(name, run=False)
        finally:
            await world.stop()
            assert process.stop() == 0

    asyncio.run(work("north"))
    first = made("backup", "--dir", old, "--to", copy)
    asyncio.run(work("south"))
    with pytest.raises(ConflictError, match="more than the backup"):
        backup.restore(copy, old)
    made("restore", "--from", copy, "--dir", new)
    assert made("backup", "--dir", new, "--to", tmp_path / "again")["log_size"] == first["log_size"]
    for name in ("market.db-wal", "market.db-shm"):
        (old / name).unlink(missing_ok=True)
    for name in ("market.db", "market.db.mark"):
        shutil.copy(copy / name, old / name)
    done = call("serve", "--dir", old, "--no-witness")
    assert done.returncode != 0
    assert b"older than its log" in done.stderr
    assert b"stannary market restore" in done.stderr
    shutil.rmtree(old / "log")
    shutil.copytree(copy / "log", old / "log")  # of one moment now, and both older than what the witness has seen
    done = call("serve", "--dir", old)
    assert done.returncode != 0
    assert b"older than its witness" in done.stderr
    assert b"stannary market restore" in done.stderr


def test_half_a_backup_is_none(tmp_path: Path) -> None:
    """A folder without its manifest, with another version's or with nonsense in it is not restored, and says so."""
    half = tmp_path / "half"
    half.mkdir()
    (half / "market.db").write_bytes(b"")
    later = json.dumps({**asdict(backup.Contents(backup.VERSION, "m", 0, 0, 0, 0)), "version": 2}).encode()
    for content in (None, b"{}", b"nonsense", later):
        if content is not None:
            (half / backup.MANIFEST).write_bytes(content)
        with pytest.raises(FormatError):
            backup.restore(half, tmp_path / "new")
        assert not (tmp_path / "new").exists()
    assert call("backup", "--dir", tmp_path / "nowhere", "--to", tmp_path / "x").returncode != 0


async def join(world: World, *names: str) -> None:
    """Let nodes join, and leave it at that."""
    for name in names:
        await world.node(name, run=False)
    await world.stop()


def test_who_saw_more_refuses_a_restored_market(tmp_path: Path) -> None:
    """A market restored from before what a buyer or a node has seen is known by them, and by its own log file."""
    old, copy, new = tmp_path / "old", tmp_path / "copy", tmp_path / "new"
    process, seen = Process(old), tmp_path / "seen.json"

    world = process.start()
    try:
        asyncio.run(join(world, "north"))
        made("backup", "--dir", old, "--to", copy)
        asyncio.run(join(World(world.url, world.vkey, world.witness_vkeys, world.admin_token), "south"))
        with Connection(world.url, vkey=world.vkey) as link:
            for _ in range(2):
                follow(link, SeenLog(seen, world.vkey))
        process.kill()
        made("restore", "--from", copy, "--dir", new)
        process.directory = new
        again = process.start()
        with Connection(again.url, vkey=again.vkey) as link, pytest.raises(Refuted, match="seen before"):
            follow(link, SeenLog(seen, again.vkey))
    finally:
        process.stop()
    assert "rolled back?" in (new / "market.log").read_text()


def test_a_lost_witness_is_not_replaced_in_silence(tmp_path: Path) -> None:
    """Without the folder of the witness its buyers pinned the market does not start, and says how to get it back."""
    market = Process(tmp_path / "market")
    world = market.start()
    try:
        asyncio.run(join(world, "north"))
        market.stop()
        shutil.move(tmp_path / "market" / "witness", tmp_path / "kept")
        for _ in range(2):  # the second start finds the folder that the first made
            command = [sys.executable, "-m", "stannary.market", "serve", "--dir", str(tmp_path / "market")]
            refused = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
            assert refused.returncode != 0
            assert "witness has another key" in refused.stderr
            assert "stannary market restore" in refused.stderr
        shutil.rmtree(tmp_path / "market" / "witness")
        shutil.move(tmp_path / "kept", tmp_path / "market" / "witness")
        assert market.start().witness_vkeys == world.witness_vkeys
    finally:
        market.stop()
