"""Sealed artifacts in a real S3 server: round trip, kill -9 and resume, poison, mirrors, model-signing bundle."""

from __future__ import annotations

import hashlib
import json
import random
from pathlib import Path

import pytest
from tests.integration.seal.bucket import S3Server
from tests.integration.seal.client import COMMAND, stannary
from tests.integration.seal.killing import kill_midway, random_shares

from stannary.errors import AuthError
from stannary.formats.digest import Digest
from stannary.seal import blame, keystore, opening
from stannary.seal.reader import SealedArtifact
from stannary.seal.stores.directory import DirectoryStore
from stannary.seal.stores.mirrors import Mirrors
from stannary.seal.stores.s3 import S3Store
from stannary.seal.stores.source import SourceFailure, object_name

SHARD_BYTES = 256 * 1024
JOBS = 4


@pytest.fixture
def big_file(tmp_path: Path) -> Path:
    """A file of 96 shards."""
    path = tmp_path / "tokens.bin"
    path.write_bytes(random.Random(2).randbytes(96 * SHARD_BYTES))
    return path


@pytest.fixture
def sealed(big_file: Path, s3: S3Server, environment: dict[str, str]) -> Digest:
    """That file, sealed into the bucket by the command line."""
    out = stannary(
        "seal", str(big_file), "-o", s3.url, "--shard-bytes", str(SHARD_BYTES), "--json", environment=environment
    )
    return Digest(json.loads(out)["digest"])


def opened(
    digest: Digest, environment: dict[str, str], monkeypatch: pytest.MonkeyPatch, *mirrors: str
) -> SealedArtifact:
    """Open in this process, as the user of the command line."""
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    sources = [S3Store(item) if item.startswith("s3:") else DirectoryStore(Path(item)) for item in mirrors]
    return SealedArtifact(Mirrors(digest, tuple(sources), pause=lambda _: None), keystore.load())


def test_kill_and_resume(
    sealed: Digest, big_file: Path, s3: S3Server, environment: dict[str, str], tmp_path: Path
) -> None:
    """Killed twice at random moments, a transfer ends in equal bytes and fetches no finished shard again."""
    folder = tmp_path / "out"
    folder.mkdir()
    target = folder / "tokens.bin"
    arguments = ["open", sealed, "--from", s3.url, "-o", str(target), "--jobs", str(JOBS), "--json"]
    listed = 0
    for share in random_shares(11, 2):
        listed = kill_midway([*COMMAND, *arguments], environment, folder, share=share, total=96)
        assert not target.exists()
    report = json.loads(stannary(*arguments, environment=environment))
    assert hashlib.sha256(target.read_bytes()).digest() == hashlib.sha256(big_file.read_bytes()).digest()
    # Every shard a killed run had listed is kept; what it had under way is less than one shard per
    # connection, and only that is fetched again.
    assert report["resumed_shards"] == listed
    sealed_shard = SHARD_BYTES + 56 + 16 * (SHARD_BYTES // 16_384 + 1)
    overhead = 64 * 1024
    assert report["fetched_bytes"] <= (96 - listed) * sealed_shard + overhead
    assert sorted(path.name for path in folder.iterdir()) == ["tokens.bin", "tokens.bin.sig"]


def test_killed_seal_keeps_what_it_sent(big_file: Path, s3: S3Server, environment: dict[str, str]) -> None:
    """A seal that is killed and run again refers to the shards already in the store instead of sending them again."""
    import signal
    import sqlite3
    import subprocess
    import time

    arguments = ["seal", str(big_file), "-o", s3.url, "--shard-bytes", str(SHARD_BYTES), "--no-sign-model", "--json"]
    process = subprocess.Popen(
        [*COMMAND, *arguments], env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    index = Path(environment["STANNARY_DATA_DIR"]) / "seal" / "index.db"
    deadline = time.monotonic() + 60
    rows = 0
    while rows < 20 and process.poll() is None:
        assert time.monotonic() < deadline
        if index.exists():
            database = sqlite3.connect(f"file:{index}?mode=ro", uri=True, timeout=5)
            try:
                rows = database.execute("SELECT count(*) FROM shard").fetchone()[0]
            except sqlite3.OperationalError:
                rows = 0  # the table is being made
            database.close()
    process.send_signal(signal.SIGKILL)
    process.wait()
    report = json.loads(stannary(*arguments, environment=environment))
    assert report["reused_shards"] >= 20


def test_poisoned_bucket_is_refused(
    sealed: Digest, s3: S3Server, environment: dict[str, str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """An object changed in the bucket is refused; nothing is left at PATH."""
    artifact = opened(sealed, environment, monkeypatch, s3.url)
    item = artifact.head.shards[40]
    S3Store(s3.url).put(object_name(item), b"\0" * item.length)
    (tmp_path / "out").mkdir()
    from stannary.errors import Refuted

    with pytest.raises(Refuted):
        opening.open_to(artifact, tmp_path / "out" / "x")
    assert list((tmp_path / "out").iterdir()) == []


def test_bad_mirror_is_named(
    sealed: Digest, s3: S3Server, environment: dict[str, str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """With a poisoned folder and the bucket as mirrors, the bytes come and the folder is named, signed."""
    good = opened(sealed, environment, monkeypatch, s3.url)
    store, mirror = S3Store(s3.url), DirectoryStore(tmp_path / "mirror")
    for name in (f"head/{sealed[7:]}", f"head/{sealed[7:]}.dsse", object_name(good.head.manifest)):
        mirror.put(name, store.read(name, 10**7))
    for item in good.head.shards:
        mirror.put(object_name(item), b"\1" * item.length)
    artifact = opened(sealed, environment, monkeypatch, str(mirror.root), s3.url)
    opening.open_to(artifact, tmp_path / "x")
    (record,) = artifact.mirrors.blames
    assert record.mirror == str(mirror.root)
    owner = keystore.load()
    assert blame.check(blame.sign(record, owner.signing), owner.public) == record


def test_wrong_credentials_are_a_failure_of_the_host(
    sealed: Digest, s3: S3Server, environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without permission the bucket refuses, and no signed address appears in the message."""
    with pytest.raises((SourceFailure, AuthError)) as caught:
        opened(sealed, {**environment, "AWS_SECRET_ACCESS_KEY": "wrong"}, monkeypatch, s3.url)
    assert "X-Amz-Signature" not in caught.value.diagnostics()
