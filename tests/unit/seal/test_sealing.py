"""Sealing and opening again: every kind, byte for byte."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.unit.seal.world import SMALL_SHARD_BYTES, Sealed, pattern, safetensors_bytes, small_model

from stannary.errors import ConflictError, FormatError, NotFound, UsageError
from stannary.seal import opening, sealing
from stannary.seal.index import PrivateIndex
from stannary.seal.keys import OwnerKey
from stannary.seal.manifest import Codec
from stannary.seal.sealing import CodecPolicy, SealOptions
from stannary.seal.stores.directory import DirectoryStore
from stannary.seal.stores.source import envelope_name


def reopened(sealed: Sealed, to: Path, *roots: Path) -> Path:
    """Open an artifact to files."""
    opening.open_to(sealed.open(*roots), to)
    return to


def contents(root: Path) -> dict[str, bytes]:
    """Return every file below a folder."""
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("model.safetensors", small_model()),
        ("train.parquet", b"PAR1" + pattern(200_000) + (1000).to_bytes(4, "little") + b"PAR1"),
        ("chat.jsonl", b'{"a": 1}\n' * 20_000),
        ("tokens.bin", pattern(SMALL_SHARD_BYTES * 3)),
        ("one.bin", b"\x00"),
        ("empty.bin", b""),
    ],
)
def test_file_round_trip(seal_bytes: Callable[..., Sealed], tmp_path: Path, name: str, data: bytes) -> None:
    """A file of every kind comes back byte for byte, alone in its folder."""
    sealed = seal_bytes(data, name)
    (tmp_path / "out").mkdir()
    assert reopened(sealed, tmp_path / "out" / name).read_bytes() == data
    assert [path.name for path in (tmp_path / "out").iterdir()] == [name]


def test_folder_round_trip(tmp_path: Path, owner: OwnerKey) -> None:
    """A model folder comes back byte for byte: shards, config, tokenizer, subfolders, empty ones too."""
    folder = tmp_path / "model"
    (folder / "onnx" / "deep").mkdir(parents=True)
    (folder / "empty").mkdir()
    (folder / "model-00001-of-00002.safetensors").write_bytes(small_model())
    (folder / "model-00002-of-00002.safetensors").write_bytes(
        safetensors_bytes({"model.layers.2.w": ("I64", [3], pattern(24))})
    )
    (folder / "config.json").write_bytes(b'{"a": 1.5}')
    (folder / "tokenizer.json").write_bytes(b"{}")
    (folder / ".gitattributes").write_bytes(b"*.bin filter=lfs\n")
    (folder / "onnx" / "deep" / "x.bin").write_bytes(b"")
    report = sealing.seal(folder, DirectoryStore(tmp_path / "store"), owner, SealOptions(shard_bytes=SMALL_SHARD_BYTES))
    target = reopened(Sealed(report, tmp_path / "store", owner), tmp_path / "again")
    assert contents(target) == contents(folder)
    assert (target / "empty").is_dir()


def test_existing_path_is_never_touched(model: Sealed, tmp_path: Path) -> None:
    """PATH must be new: a file, an empty folder and a dangling link are all refused and left alone."""
    (tmp_path / "file").write_text("mine")
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to("nowhere")
    for name in ("file", "folder", "link"):
        with pytest.raises(UsageError):
            opening.open_to(model.open(), tmp_path / name)
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize("place", ["model.safetensors", "sub"])
def test_symbolic_link_is_refused(tmp_path: Path, owner: OwnerKey, place: str) -> None:
    """A link in a model folder is refused, to a file or a folder, and nothing is published."""
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / place).symlink_to("/etc")
    with pytest.raises(FormatError, match="symbolic link"):
        sealing.seal(folder, DirectoryStore(tmp_path / "store"), owner)
    assert not (tmp_path / "store").exists()


def test_pipe_is_refused(tmp_path: Path, owner: OwnerKey) -> None:
    """A named pipe in a folder is refused instead of read forever."""
    (tmp_path / "model").mkdir()
    os.mkfifo(tmp_path / "model" / "weights.bin")
    with pytest.raises(FormatError, match="regular file"):
        sealing.seal(tmp_path / "model", DirectoryStore(tmp_path / "store"), owner)


def test_nothing_to_seal(tmp_path: Path, owner: OwnerKey) -> None:
    """A missing path and a folder without files are named as such."""
    (tmp_path / "void").mkdir()
    for name in ("missing", "void"):
        with pytest.raises(NotFound):
            sealing.seal(tmp_path / name, DirectoryStore(tmp_path / "store"), owner)


def test_file_that_changes_meanwhile_is_refused(tmp_path: Path, owner: OwnerKey) -> None:
    """A file written to while it is sealed gives an error and no artifact."""
    path = tmp_path / "data.bin"
    path.write_bytes(pattern(SMALL_SHARD_BYTES * 4))

    def meddle(_: int) -> None:
        path.write_bytes(b"other")

    options = SealOptions(shard_bytes=SMALL_SHARD_BYTES, jobs=1, progress=meddle)
    with pytest.raises(ConflictError):
        sealing.seal(path, DirectoryStore(tmp_path / "store"), owner, options)
    assert not (tmp_path / "store" / "head").exists()


def test_unchanged_shards_are_referred_to(tmp_path: Path, owner: OwnerKey) -> None:
    """A second version shares every unchanged shard by its name, and the store gains only the changed ones."""
    store = DirectoryStore(tmp_path / "store")
    index = PrivateIndex(tmp_path / "index.db", owner)
    options = SealOptions(shard_bytes=SMALL_SHARD_BYTES, index=index)
    path = tmp_path / "model.safetensors"
    path.write_bytes(small_model())
    first = sealing.seal(path, store, owner, options)
    changed = bytearray(small_model())
    changed[-2] ^= 1  # the scalar at the end
    path.write_bytes(changed)
    second = sealing.seal(path, store, owner, options)
    index.close()
    assert second.digest != first.digest
    assert second.reused_shards == second.num_shards - 1
    target = reopened(Sealed(second, store.root, owner), tmp_path / "again.safetensors")
    assert target.read_bytes() == bytes(changed)


def test_index_row_without_its_object_is_ignored(tmp_path: Path, owner: OwnerKey) -> None:
    """What the index remembers is sealed again for a store that does not hold it."""
    index = PrivateIndex(tmp_path / "index.db", owner)
    options = SealOptions(shard_bytes=SMALL_SHARD_BYTES, index=index)
    path = tmp_path / "data.bin"
    path.write_bytes(pattern(SMALL_SHARD_BYTES * 2))
    sealing.seal(path, DirectoryStore(tmp_path / "one"), owner, options)
    report = sealing.seal(path, DirectoryStore(tmp_path / "two"), owner, options)
    index.close()
    assert report.reused_shards == 0
    assert reopened(Sealed(report, tmp_path / "two", owner), tmp_path / "again").read_bytes() == path.read_bytes()


def test_sealing_twice_shows_no_equality(tmp_path: Path, owner: OwnerKey) -> None:
    """Without the owner's index one file sealed twice has no ciphertext in common: no equality leaks."""
    path = tmp_path / "data.bin"
    path.write_bytes(pattern(SMALL_SHARD_BYTES * 2))
    heads = []
    for name in ("one", "two"):
        report = sealing.seal(path, DirectoryStore(tmp_path / name), owner)
        heads.append(Sealed(report, tmp_path / name, owner).open().head)
    assert not {item.blake3 for item in heads[0].shards} & {item.blake3 for item in heads[1].shards}


def tuned(data: bytes, share: float) -> bytes:
    """Return a model whose bf16 embedding has a share of its weights moved by one unit in the last place."""
    import random

    source = random.Random(4)
    changed = bytearray(data)
    start = len(data) - 4 - 2 * 16 * 64 * 4 - 300 * 256 * 2
    for word in range(300 * 256):
        if source.random() < share:
            changed[start + 2 * word] ^= 1
    return bytes(changed)


def test_delta_against_the_parent_is_exact(tmp_path: Path, owner: OwnerKey) -> None:
    """A fine-tune sealed against its parent stores sparse deltas and opens to the very same bytes."""
    store = DirectoryStore(tmp_path / "store")
    path = tmp_path / "model.safetensors"
    path.write_bytes(small_model())
    first = Sealed(sealing.seal(path, store, owner, SealOptions(shard_bytes=SMALL_SHARD_BYTES)), store.root, owner)
    path.write_bytes(tuned(small_model(), 0.05))
    options = SealOptions(shard_bytes=SMALL_SHARD_BYTES, parent=first.open())
    report = sealing.seal(path, store, owner, options)
    second = Sealed(report, store.root, owner)
    assert report.delta_shards >= 2
    assert report.reused_shards >= 2  # untouched blocks
    assert second.open().head.parent == first.digest
    assert reopened(second, tmp_path / "again.safetensors").read_bytes() == path.read_bytes()


def test_chain_of_deltas_ends_in_a_full_artifact(tmp_path: Path, owner: OwnerKey) -> None:
    """After half the longest chain a full artifact is sealed again, so that reading stays bounded."""
    store = DirectoryStore(tmp_path / "store")
    path = tmp_path / "model.safetensors"
    data = small_model()
    parent = None
    deltas = []
    for step in range(10):
        path.write_bytes(data)
        options = SealOptions(shard_bytes=SMALL_SHARD_BYTES, parent=parent)
        report = sealing.seal(path, store, owner, options)
        deltas.append(report.delta_shards)
        parent = Sealed(report, store.root, owner).open()
        data = tuned(data, 0.01 + 0.001 * step)
    assert deltas[0] == 0
    assert all(deltas[1:9])
    assert deltas[9] == 0
    assert reopened(Sealed(report, store.root, owner), tmp_path / "again").read_bytes() == path.read_bytes()


def test_bf16_split_is_lossless(tmp_path: Path, owner: OwnerKey) -> None:
    """Split coding of bf16 weights saves a quarter and gives back every bit, NaN patterns included."""
    import random

    source = random.Random(3)
    words = [0x3F80 + source.randrange(-300, 300) | (source.getrandbits(1) << 15) for _ in range(100_000)]
    words[:4] = [0x7FC0, 0x7F80, 0xFF80, 0x8000]
    data = safetensors_bytes({"w": ("BF16", [100_000], b"".join(word.to_bytes(2, "little") for word in words))})
    path = tmp_path / "w.safetensors"
    path.write_bytes(data)
    options = SealOptions(codec=CodecPolicy.SMALL, shard_bytes=SMALL_SHARD_BYTES)
    report = sealing.seal(path, DirectoryStore(tmp_path / "store"), owner, options)
    sealed = Sealed(report, tmp_path / "store", owner)
    shards = sealed.open().manifest.shards
    assert {shard.codec for shard in shards if shard.size > 60_000} == {Codec.BF16_SPLIT}
    assert sum(shard.stored for shard in shards) < 0.75 * len(data)
    assert reopened(sealed, tmp_path / "again").read_bytes() == data


def test_publication_is_last(tmp_path: Path, owner: OwnerKey) -> None:
    """If the store fails before the signature is written, no artifact appears."""

    class Failing(DirectoryStore):
        def put(self, name: str, data: bytes | bytearray | memoryview) -> None:
            if name.endswith(".dsse"):
                raise ConflictError("the store is gone")
            super().put(name, data)

    path = tmp_path / "data.bin"
    path.write_bytes(b"x")
    with pytest.raises(ConflictError):
        sealing.seal(path, Failing(tmp_path / "store"), owner)
    assert not list((tmp_path / "store").rglob("*.dsse"))
    report = sealing.seal(path, DirectoryStore(tmp_path / "store"), owner)
    assert (tmp_path / "store" / envelope_name(report.digest)).exists()
