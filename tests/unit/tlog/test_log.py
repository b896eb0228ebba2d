"""The log writer: durable before acknowledged, one history, whatever stops it."""

import errno
import os
import random
import signal
import subprocess
import sys
import threading

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from stannary.errors import ConflictError, EnvironmentProblem, FormatError, NotFound, Refuted, ServiceError
from stannary.formats import note
from stannary.tlog import proof, tiles, tree
from stannary.tlog.log import Log
from stannary.tlog.tiles import TileDirectory, tile_path
from stannary.tlog.tree import Tree

KEY = Ed25519PrivateKey.from_private_bytes(b"log key".ljust(32, b"."))
ORIGIN = "local.market"
WAIT_S = 30


def leaf(number):
    return number.to_bytes(32, "big")


@pytest.fixture
def opened(tmp_path):
    """Open logs that are closed at the end of the test."""
    logs = []

    def open_log(cosigner=None, **options):
        log = Log.open(tmp_path / "log", ORIGIN, KEY, cosigner, interval_s=0.001, **options)
        logs.append(log)
        return log

    yield open_log
    for log in logs:
        log.close()


def test_an_index_is_given_once_a_published_checkpoint_covers_it(opened, tmp_path):
    """When the future resolves, the checkpoint on disk covers the leaf and its proof verifies."""
    log = opened()
    assert log.append(leaf(7)).result(WAIT_S) == 0
    on_disk = note.verify_checkpoint((tmp_path / "log" / "checkpoint").read_bytes(), log.vkey)
    assert on_disk.size == 1
    assert proof.verify(log.proof(0), leaf(7), log.vkey) == on_disk
    assert log.index_of(leaf(7)) == 0
    assert log.index_of(leaf(8)) is None


def test_a_new_log_publishes_the_empty_tree(opened):
    """Readers find a checkpoint from the first moment."""
    log = opened()
    assert note.verify_checkpoint(log.checkpoint(), log.vkey).root == tree.EMPTY_ROOT


def test_appending_the_same_leaf_again_returns_its_index(opened):
    """A retry after a lost answer does not log twice, in one batch or in two, before or after a restart."""
    log = opened()
    assert log.append_many([leaf(1), leaf(2), leaf(1)]).result(WAIT_S) == [0, 1, 0]
    assert log.append(leaf(2)).result(WAIT_S) == 1
    log.close()
    assert opened().append_many([leaf(2), leaf(3)]).result(WAIT_S) == [1, 2]


@pytest.mark.parametrize("counts", [(1,), (255, 1, 1), (300, 400), (1, 65_536)])
def test_everything_is_read_back(opened, counts):
    """After a restart sizes, roots and proofs are the same, across full and partial tiles of several levels."""
    log, oracle = opened(), Tree()
    for count in counts:
        start = oracle.size
        batch = [leaf(start + number) for number in range(count)]
        assert log.append_many(batch).result(WAIT_S)[-1] == start + count - 1
        oracle.extend(batch)
    published = log.checkpoint()
    log.close()
    again = opened()
    assert again.checkpoint() == published
    assert note.verify_checkpoint(again.checkpoint(), again.key).root == oracle.root()
    assert again.consistency(1, again.size) == oracle.consistency(1, oracle.size)
    assert again.inclusion(0, again.size) == oracle.inclusion(0, oracle.size)


def test_tiles_are_where_c2sp_puts_them(opened, tmp_path):
    """File names and contents follow tlog-tiles, partial tiles go once the full tile is published."""
    log = opened()
    log.append_many([leaf(number) for number in range(250)]).result(WAIT_S)
    assert (tmp_path / "log/tile/0/000.p/250").stat().st_size == 250 * 32
    log.append_many([leaf(number) for number in range(250, 300)]).result(WAIT_S)
    log.close()
    root = tmp_path / "log/tile"
    names = {str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()}
    assert names == {"0/000", "0/001.p/44", "1/000.p/1", "entries/000", "entries/001.p/44"}
    assert (root / "entries/000").read_bytes()[:34] == b"\x00\x20" + leaf(0)
    assert (root / "1/000.p/1").read_bytes() == Tree([leaf(number) for number in range(256)]).root()
    assert tile_path(0, 1_234_067) == "tile/0/x001/x234/067"
    assert tile_path(None, 5, 7) == "tile/entries/005.p/7"


@pytest.mark.parametrize("name", ["tile/0/000", "tile/0/001.p/44", "tile/1/000.p/1", "tile/entries/000"])
@pytest.mark.parametrize("damage", ["missing", "torn", "changed"])
def test_damaged_files_are_detected(opened, tmp_path, name, damage):
    """A missing, torn or changed tile or bundle stops the log from opening; nothing is repaired in silence."""
    log = opened()
    log.append_many([leaf(number) for number in range(300)]).result(WAIT_S)
    log.close()
    path = tmp_path / "log" / name
    data = bytearray(path.read_bytes())
    if damage == "missing":
        path.unlink()
    elif damage == "torn":
        path.write_bytes(data[:-5])
    else:
        data[-1] ^= 1
        path.write_bytes(data)
    with pytest.raises((EnvironmentProblem, ConflictError)):
        opened()


def test_a_foreign_checkpoint_is_refused(opened, tmp_path):
    """A checkpoint this key has not signed does not open."""
    opened().close()
    other = Ed25519PrivateKey.generate()
    (tmp_path / "log/checkpoint").write_text(note.sign_checkpoint(ORIGIN, 0, tree.EMPTY_ROOT, other))
    with pytest.raises(Refuted):
        opened()


@pytest.mark.parametrize("name", ["checkpoint", "checkpoint.signed"])
@pytest.mark.parametrize("damage", [b"", b"\0" * 200, b"\xff\xfe", b"test\n300\n", "torn", "changed"])
def test_a_damaged_checkpoint_says_what_to_do(opened, tmp_path, name, damage):
    """Whatever stands in a checkpoint file, the log does not open and the next step is said; the file is left."""
    log = opened()
    log.append_many([leaf(number) for number in range(300)]).result(WAIT_S)
    log.close()
    path = tmp_path / "log" / name
    kept = path.read_bytes()
    content = {"torn": kept[:-20], "changed": kept.replace(b"300", b"301", 1)}.get(damage, damage)
    path.write_bytes(content)
    with pytest.raises((Refuted, FormatError)) as found:
        opened()
    assert name in found.value.why
    assert "stannary market restore" in found.value.hint
    assert path.read_bytes() == content


def test_two_writers_of_one_log_are_refused(opened):
    """A second process would fork the log."""
    opened()
    with pytest.raises(ConflictError):
        opened()


def test_a_full_disk_acknowledges_nothing_and_loses_nothing(opened, monkeypatch):
    """While the disk is full appends fail with EnvironmentProblem; afterwards the same leaves go in, one history."""
    log = opened()
    assert log.append_many([leaf(number) for number in range(10)]).result(WAIT_S)[-1] == 9
    before = log.checkpoint()
    full = threading.Event()
    full.set()
    real = os.fsync

    def fsync(handle):
        if full.is_set():
            raise OSError(errno.ENOSPC, "No space left on device")
        real(handle)

    monkeypatch.setattr(tiles.os, "fsync", fsync)
    with pytest.raises(EnvironmentProblem, match="No space left"):
        log.append(leaf(99)).result(WAIT_S)
    assert log.checkpoint() == before
    full.clear()
    assert log.append(leaf(50)).result(WAIT_S) == 10  # the failed leaf holds no index
    assert log.append(leaf(99)).result(WAIT_S) == 11
    log.close()
    assert opened().append(leaf(99)).result(WAIT_S) == 11


def test_a_lost_witness_delays_and_never_forks(opened, tmp_path):
    """What was signed but not cosigned is published after a restart, with the very same root."""
    seen = []

    def refuse(signed, size, _):
        seen.append(note.verify_checkpoint(signed, log.vkey))
        raise ServiceError("the witness does not answer")

    log = opened(refuse, cosign_patience_s=0.0)
    with pytest.raises(ServiceError):
        log.append(leaf(1)).result(WAIT_S)
    assert log.size == 0
    with pytest.raises(NotFound):
        log.inclusion(0, 1)
    log.close()

    def accept(signed, size, consistency):
        seen.append(note.verify_checkpoint(signed, log.vkey))
        return ()

    again = opened(accept)
    assert again.append(leaf(2)).result(WAIT_S) == 1
    assert again.index_of(leaf(1)) == 0
    assert len({item.root for item in seen if item.size == 1}) == 1


def test_a_retry_after_a_lost_witness_is_answered(opened):
    """A batch that failed for want of a witness is found again when it is sent again."""
    away = threading.Event()
    away.set()

    def cosigner(*_):
        if away.is_set():
            raise ServiceError("the witness does not answer")
        return ()

    log = opened(cosigner, cosign_patience_s=0.0)
    with pytest.raises(ServiceError):
        log.append(leaf(1)).result(WAIT_S)
    away.clear()
    assert log.append(leaf(1)).result(WAIT_S) == 0


def test_the_writer_survives_what_nobody_foresaw(opened):
    """Any exception of a commit reaches those who wait for it, and the next commit takes what it left."""
    failures = [RuntimeError("no error of ours")]

    def cosigner(signed, size, consistency):
        if failures:
            raise failures.pop()
        return ()

    log = opened(cosigner)
    lost = log.append(leaf(1))
    assert isinstance(lost.exception(WAIT_S), RuntimeError)
    assert log.append(leaf(2)).result(WAIT_S) == 1
    assert log.append(leaf(1)).result(WAIT_S) == 0


def test_a_log_that_cannot_be_opened_is_let_go(opened, tmp_path):
    """A refused log stays unlocked: put right, it opens in the same process."""
    log = opened()
    log.append(leaf(1)).result(WAIT_S)
    log.close()
    checkpoint = tmp_path / "log" / "checkpoint"
    kept = checkpoint.read_bytes()
    checkpoint.write_bytes(kept.replace(b"1", b"2", 1))
    with pytest.raises((Refuted, FormatError)):
        opened()
    checkpoint.write_bytes(kept)
    assert opened().size == 1


def test_a_closed_log_takes_nothing(opened):
    """What is queued before close is committed, what comes after is refused."""
    log = opened()
    future = log.append(leaf(1))
    log.close()
    assert future.result(0) == 0
    with pytest.raises(ConflictError):
        log.append(leaf(2))
    with pytest.raises(FormatError):
        log.append(b"short")


def test_flush_cuts_the_wait_short(tmp_path):
    """A caller in a hurry does not wait for the interval."""
    log = Log.open(tmp_path / "log", ORIGIN, KEY, interval_s=3600)
    future = log.append(leaf(1))
    log.flush()
    assert future.result(WAIT_S) == 0
    log.close()


def test_many_threads_get_each_their_index(opened):
    """Concurrent appends are all acknowledged, each with the index its proof shows."""
    log = opened()
    futures = {}

    def work(start):
        for number in range(start, start + 50):
            futures[number] = log.append(leaf(number))

    threads = [threading.Thread(target=work, args=(start,)) for start in range(0, 400, 50)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    indexes = {number: future.result(WAIT_S) for number, future in futures.items()}
    assert sorted(indexes.values()) == list(range(400))
    for number in (0, 199, 399):
        proof.verify(log.proof(indexes[number]), leaf(number), log.vkey)


WRITER = """
import sys
from pathlib import Path
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from stannary.tlog.log import Log
key = Ed25519PrivateKey.from_private_bytes(b"log key".ljust(32, b"."))
log = Log.open(Path(sys.argv[1]), "local.market", key, interval_s=0.0005)
number = int(sys.argv[2])
while True:
    batch = [(number + offset).to_bytes(32, "big") for offset in range(7)]
    for value, index in zip(batch, log.append_many(batch).result(30)):
        print(int.from_bytes(value, "big"), index, flush=True)
    number += 7
"""


def test_kill_at_any_moment_loses_no_acknowledged_index(tmp_path):
    """Killed with SIGKILL again and again, the log opens, keeps every acknowledged index, and never forks."""
    rng = random.Random(0)
    acknowledged, checkpoints = {}, []
    for attempt in range(8):
        command = [sys.executable, "-c", WRITER, str(tmp_path / "log"), str(attempt * 1_000_000)]
        writer = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        for _ in range(rng.randrange(1, 120)):
            value, index = writer.stdout.readline().split()
            acknowledged[int(value)] = int(index)
        writer.send_signal(signal.SIGKILL)
        for line in writer.communicate()[0].splitlines():
            if len(line.split()) == 2 and line.split()[1]:
                acknowledged.setdefault(*map(int, line.split()))
        log = Log.open(tmp_path / "log", ORIGIN, KEY)
        checkpoints.append(note.verify_checkpoint(log.checkpoint(), log.key))
        assert all(log.index_of(leaf(value)) == index for value, index in acknowledged.items())
        now = checkpoints[-1]
        for old in checkpoints:
            tree.verify_consistency(old.size, old.root, now.size, now.root, log.consistency(old.size, now.size))
        log.close()
    assert len(acknowledged) > 100


def test_temporary_files_of_a_kill_do_no_harm(opened, tmp_path):
    """Half-written temporary files and unpublished tiles are overwritten, never read."""
    log = opened()
    log.append(leaf(1)).result(WAIT_S)
    log.close()
    directory = TileDirectory(tmp_path / "log")
    directory.write("tile/0/000.p/2", b"x" * 64)
    directory.write("tile/entries/000.p/2", b"y" * 68)
    (tmp_path / "log/.checkpoint.new").write_bytes(b"half")
    again = opened()
    assert again.append(leaf(2)).result(WAIT_S) == 1
    again.close()
    assert opened().size == 2
