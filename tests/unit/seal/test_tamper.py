"""Nothing wrong is ever taken for right: flips, cuts, swaps and foreign parts, anywhere in a store."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.unit.seal.world import Sealed, small_model

from stannary.errors import NotFound, StannaryError
from stannary.formats.digest import Digest
from stannary.seal import opening
from stannary.seal.keys import OwnerKey
from stannary.seal.reader import SealedArtifact
from stannary.seal.stores.directory import DirectoryStore
from stannary.seal.stores.mirrors import Mirrors
from stannary.seal.stores.source import envelope_name, head_name, object_name

SHARED = settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=5 * settings.default.max_examples // 2
)


class Tampered:
    """A store one of whose objects reads as other bytes."""

    def __init__(self, root: Path, name: str, data: bytes) -> None:
        self._inner = DirectoryStore(root)
        self._name = name
        self._data = data
        self.url = "tampered"

    def read(self, name: str, limit: int) -> bytes:
        return self._data if name == self._name else self._inner.read(name, limit)

    def stream(self, name: str, length: int) -> Iterator[memoryview]:
        if name != self._name:
            yield from self._inner.stream(name, length)
        elif self._data:
            yield memoryview(bytearray(self._data))

    def size(self, name: str) -> int | None:
        return self._inner.size(name)

    def list(self, prefix: str) -> list[str]:
        return self._inner.list(prefix)


def read_all(sealed: Sealed, source: object) -> list[bytes]:
    """Read every byte of an artifact through a source."""
    mirrors = Mirrors(sealed.digest, (source,), pause=lambda _: None)  # type: ignore[arg-type]  # a test double
    artifact = SealedArtifact(mirrors, sealed.owner)
    files: list[bytes] = []
    for index, entry in enumerate(artifact.manifest.files):
        data = bytearray(entry.size)
        artifact.read_range(index, 0, memoryview(data))
        files.append(bytes(data))
    return files


def object_names(sealed: Sealed) -> list[str]:
    """Name every object of an artifact."""
    head = sealed.open().head
    shards = [object_name(item) for item in (head.manifest, *head.shards)]
    return [head_name(sealed.digest), envelope_name(sealed.digest), *shards]


@given(choice=st.data())
@SHARED
def test_flip_anywhere_is_refused(model: Sealed, choice: st.DataObject) -> None:
    """A bit flipped anywhere in head, signature, manifest or shard is refused."""
    name = choice.draw(st.sampled_from(object_names(model)))
    data = bytearray((model.root / name).read_bytes())
    position = choice.draw(st.integers(0, len(data) - 1))
    data[position] ^= 1 << choice.draw(st.integers(0, 7))
    with pytest.raises(StannaryError):
        read_all(model, Tampered(model.root, name, bytes(data)))


@given(choice=st.data())
@SHARED
def test_cut_or_longer_object_is_refused(model: Sealed, choice: st.DataObject) -> None:
    """An object cut anywhere, or with bytes after its end, is refused."""
    name = choice.draw(st.sampled_from(object_names(model)))
    data = (model.root / name).read_bytes()
    length = choice.draw(st.integers(0, len(data) + 40).filter(lambda value: value != len(data)))
    changed = data[:length] + b"\0" * max(0, length - len(data))
    with pytest.raises(StannaryError):
        read_all(model, Tampered(model.root, name, changed))


def test_untouched_store_reads_back(model: Sealed) -> None:
    """The same reading without an attack gives the bytes that were sealed."""
    assert read_all(model, DirectoryStore(model.root)) == [small_model()]


def test_exchanged_shards_are_refused(model: Sealed) -> None:
    """Two shards of one length under each other's names are refused."""
    head = model.open().head
    first, second = next(
        (a, b) for a in head.shards for b in head.shards if a.length == b.length and a.blake3 != b.blake3
    )
    paths = [model.root / object_name(item) for item in (first, second)]
    contents = [path.read_bytes() for path in paths]
    paths[0].write_bytes(contents[1])
    paths[1].write_bytes(contents[0])
    with pytest.raises(StannaryError) as caught:
        read_all(model, DirectoryStore(model.root))
    assert caught.value.exit_code == 3


def test_shard_of_another_artifact_is_refused(model: Sealed, seal_bytes: Callable[..., Sealed]) -> None:
    """A shard of another artifact of the same owner, put under the expected name, is refused."""
    other = seal_bytes(small_model(seed=9))
    ours, theirs = model.open().head.shards[-1], other.open().head.shards[-1]
    shutil.copy(other.root / object_name(theirs), model.root / object_name(ours))
    with pytest.raises(StannaryError):
        read_all(model, DirectoryStore(model.root))


def test_head_of_an_older_version_is_refused(model: Sealed, seal_bytes: Callable[..., Sealed]) -> None:
    """A replayed head of another version, signed by the same owner, is refused: the digest names one."""
    newer = seal_bytes(small_model(seed=9))
    for name in (head_name, envelope_name):
        shutil.copy(model.root / name(model.digest), newer.root / name(newer.digest))
    for path in (model.root / "b3").iterdir():
        shutil.copy(path, newer.root / "b3")
    with pytest.raises(StannaryError) as caught:
        read_all(newer, DirectoryStore(newer.root))
    assert caught.value.exit_code == 3


def test_insider_cannot_forge_a_shard(model: Sealed) -> None:
    """Whoever holds the shard key can seal other weights with it; the owner's list refuses them."""
    from stannary.seal import message

    artifact = model.open()
    number = len(artifact.head.shards) - 1
    shard = artifact.manifest.shards[number]
    forged, _ = message.ShardSealer(shard.size).seal(memoryview(bytes(shard.stored)), artifact.shard_key(number))
    (model.root / object_name(artifact.head.shards[number])).write_bytes(forged)
    with pytest.raises(StannaryError):
        read_all(model, DirectoryStore(model.root))


def test_unsigned_artifact_is_not_there(model: Sealed) -> None:
    """Without its signature an artifact does not exist, whatever shards lie in the store."""
    (model.root / envelope_name(model.digest)).unlink()
    with pytest.raises(NotFound):
        model.open()


def test_wrong_digest_is_not_found(model: Sealed) -> None:
    """Another digest finds nothing; there is no default and no nearest match."""
    mirrors = Mirrors(Digest("sha256:" + "0" * 64), (DirectoryStore(model.root),), pause=lambda _: None)
    with pytest.raises(NotFound):
        SealedArtifact(mirrors, model.owner)


def test_another_owner_cannot_read(model: Sealed) -> None:
    """Another owner's secret opens neither index nor content."""
    mirrors = Mirrors(model.digest, (DirectoryStore(model.root),), pause=lambda _: None)
    with pytest.raises(StannaryError) as caught:
        SealedArtifact(mirrors, OwnerKey(bytes(32)))
    assert caught.value.code == "E-AUTH"


def test_failed_open_leaves_nothing(model: Sealed, tmp_path: Path) -> None:
    """When a shard is refused, neither PATH nor a partial folder is left."""
    artifact = model.open()
    path = model.root / object_name(artifact.head.shards[-1])
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    (tmp_path / "out").mkdir()
    with pytest.raises(StannaryError):
        opening.open_to(artifact, tmp_path / "out" / "model.safetensors")
    assert list((tmp_path / "out").iterdir()) == []


def test_plain_file_in_place_of_the_head(model: Sealed) -> None:
    """A plain model where the head was, or where a shard was, is never taken for the sealed one."""
    for name in (head_name(model.digest), object_name(model.open().head.shards[1])):
        path = model.root / name
        kept = path.read_bytes()
        path.write_bytes(small_model(seed=9))
        with pytest.raises(StannaryError) as caught:
            read_all(model, DirectoryStore(model.root))
        assert caught.value.exit_code == 3
        path.write_bytes(kept)
    assert read_all(model, DirectoryStore(model.root)) == [small_model()]


def test_spliced_shard_is_refused(model: Sealed, seal_bytes: Callable[..., Sealed]) -> None:
    """The first half of one shard before the second half of another version's, cut at a chunk, is refused."""
    other = seal_bytes(small_model(seed=9))
    ours, theirs = (item.root / object_name(item.open().head.shards[1]) for item in (model, other))
    half = 56 + 2 * (16_384 + 16)
    ours.write_bytes(ours.read_bytes()[:half] + theirs.read_bytes()[half:])
    with pytest.raises(StannaryError) as caught:
        read_all(model, DirectoryStore(model.root))
    assert caught.value.exit_code == 3
