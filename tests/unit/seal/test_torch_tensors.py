"""Loading to torch: whole, by name, into reused memory, and never partly."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from tests.unit.seal.world import SMALL_SHARD_BYTES, Sealed, pattern, safetensors_bytes

import stannary.seal
from stannary.errors import FormatError, NotFound, Refuted, UnsupportedFormat, UsageError
from stannary.seal import diff, opening, sealing, torch_tensors
from stannary.seal.keys import OwnerKey
from stannary.seal.sealing import SealOptions
from stannary.seal.stores.directory import DirectoryStore
from stannary.seal.stores.source import object_name

DTYPES = (
    torch.bool, torch.uint8, torch.int8, torch.float8_e5m2, torch.float8_e4m3fn, torch.int16, torch.uint16,
    torch.float16, torch.bfloat16, torch.int32, torch.uint32, torch.float32, torch.int64, torch.uint64,
    torch.float64, torch.complex64, torch.float8_e4m3fnuz, torch.float8_e5m2fnuz,
)  # fmt: skip


def every_dtype() -> dict[str, torch.Tensor]:
    """Return a tensor of every dtype, some large, one empty, one scalar."""
    tensors = {f"t.{number}": torch.arange(24).reshape(2, 3, 4).to(dtype) for number, dtype in enumerate(DTYPES)}
    tensors["model.layers.3.w"] = torch.randn(200, 300)
    tensors["model.layers.12.w"] = torch.randn(400, 300).bfloat16()
    tensors["empty"] = torch.zeros(0, 7)
    tensors["scalar"] = torch.tensor(2.5)
    return tensors


@pytest.fixture
def mixed(tmp_path: Path, owner: OwnerKey) -> tuple[Sealed, dict[str, torch.Tensor]]:
    """A sealed file with a tensor of every dtype."""
    path = tmp_path / "mixed.safetensors"
    save_file(every_dtype(), path, {"format": "pt"})
    report = sealing.seal(path, DirectoryStore(tmp_path / "store"), owner, SealOptions(shard_bytes=SMALL_SHARD_BYTES))
    return Sealed(report, tmp_path / "store", owner), load_file(path)


def same(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> bool:
    """Compare bit for bit, dtype and shape included."""
    return ours.keys() == theirs.keys() and all(
        (tensor.dtype, tensor.shape) == (theirs[name].dtype, theirs[name].shape)
        and torch.equal(tensor.reshape(-1).view(torch.uint8), theirs[name].reshape(-1).view(torch.uint8))
        for name, tensor in ours.items()
        if tensor.numel()
    )


def test_load_equals_the_library(mixed: tuple[Sealed, dict[str, torch.Tensor]]) -> None:
    """Every dtype, empty tensors and scalars load as safetensors.torch.load_file loads them."""
    sealed, expected = mixed
    assert same(torch_tensors.load(sealed.open()), expected)


def test_public_load(mixed: tuple[Sealed, dict[str, torch.Tensor]]) -> None:
    """`stannary.seal.load(digest, source)` takes a path, and names for a part."""
    sealed, expected = mixed
    assert same(stannary.seal.load(sealed.digest, sealed.root, keys=sealed.owner), expected)
    part = stannary.seal.load(sealed.digest, [str(sealed.root)], ["t.8", "scalar"], keys=sealed.owner)
    assert same(part, {name: expected[name] for name in ("t.8", "scalar")})


def test_one_tensor_fetches_its_shards_only(mixed: tuple[Sealed, dict[str, torch.Tensor]]) -> None:
    """Random access: one tensor costs its own shards and not the artifact."""
    sealed, expected = mixed
    artifact = sealed.open()
    before = artifact.mirrors.fetched_bytes
    loaded = torch_tensors.load(artifact, ["model.layers.3.w"])
    assert same(loaded, {"model.layers.3.w": expected["model.layers.3.w"]})
    assert artifact.mirrors.fetched_bytes - before < 2 * expected["model.layers.3.w"].nbytes


def test_unknown_name(mixed: tuple[Sealed, dict[str, torch.Tensor]]) -> None:
    """A name that is not there is named, and nothing is loaded."""
    with pytest.raises(NotFound, match="no such tensor"):
        torch_tensors.load(mixed[0].open(), ["t.8", "nope"])


def test_arena_is_reused(mixed: tuple[Sealed, dict[str, torch.Tensor]]) -> None:
    """A second load into an arena uses the same memory."""
    sealed, expected = mixed
    arena = torch_tensors.Arena()
    first = torch_tensors.load(sealed.open(), arena=arena)
    place = first["model.layers.3.w"].data_ptr()
    second = torch_tensors.load(sealed.open(), arena=arena)
    assert second["model.layers.3.w"].data_ptr() == place
    assert same(second, expected)


def test_failed_load_clears_the_arena(mixed: tuple[Sealed, dict[str, torch.Tensor]]) -> None:
    """When a shard is refused, no number of the artifact is left in memory the caller holds."""
    sealed, _ = mixed
    arena = torch_tensors.Arena()
    held = torch_tensors.load(sealed.open(), arena=arena)["model.layers.3.w"]
    path = sealed.root / object_name(sealed.open().head.shards[-1])
    path.write_bytes(path.read_bytes()[:-1] + b"!")
    with pytest.raises(Refuted):
        torch_tensors.load(sealed.open(), arena=arena)
    assert not held.any()


def test_loaded_tensors_may_be_written(mixed: tuple[Sealed, dict[str, torch.Tensor]]) -> None:
    """Tensors are the caller's own: changing one changes no other load."""
    sealed, expected = mixed
    first = torch_tensors.load(sealed.open())
    first["model.layers.3.w"].zero_()
    assert same(torch_tensors.load(sealed.open()), expected)


def test_large_tensors_outlive_the_load(tmp_path: Path, owner: OwnerKey) -> None:
    """Memory in huge pages lives as long as one of its tensors."""
    import gc

    path = tmp_path / "big.safetensors"
    save_file({"a": torch.arange(2_000_000), "b": torch.ones(100)}, path)
    report = sealing.seal(path, DirectoryStore(tmp_path / "store"), owner)
    kept = torch_tensors.load(Sealed(report, tmp_path / "store", owner).open())["a"]
    gc.collect()
    assert torch.equal(kept, torch.arange(2_000_000))


def test_artifact_without_tensors(seal_bytes: Callable[..., Sealed]) -> None:
    """Loading a token file as tensors says what to do instead."""
    with pytest.raises(UsageError):
        torch_tensors.load(seal_bytes(b"x", "a.bin").open())


def test_one_name_in_two_files(tmp_path: Path, owner: OwnerKey) -> None:
    """A folder may hold one name twice; loading it as one dictionary is refused, never guessed."""
    folder = tmp_path / "model"
    folder.mkdir()
    for name in ("a.safetensors", "b.safetensors"):
        (folder / name).write_bytes(safetensors_bytes({"w": ("U8", [4], pattern(4))}))
    report = sealing.seal(folder, DirectoryStore(tmp_path / "store"), owner)
    artifact = Sealed(report, tmp_path / "store", owner).open()
    with pytest.raises(FormatError, match=r"two files.*a\.safetensors, b\.safetensors"):
        torch_tensors.load(artifact)


def test_tensors_of_one_name_are_told_apart_by_their_file(tmp_path: Path, owner: OwnerKey) -> None:
    """Each file's own tensor is loaded by its path; names that only one file has need none."""
    folder = tmp_path / "model"
    folder.mkdir()
    for number, name in enumerate(("a.safetensors", "b.safetensors")):
        entries = {"w": ("U8", [4], bytes([number] * 4)), f"only.{number}": ("U8", [1], b"x")}
        (folder / name).write_bytes(safetensors_bytes(entries))
    report = sealing.seal(folder, DirectoryStore(tmp_path / "store"), owner)
    artifact = Sealed(report, tmp_path / "store", owner).open()
    for number, name in enumerate(("a.safetensors", "b.safetensors")):
        assert torch_tensors.load(artifact, ["w"], file=name)["w"].tolist() == [number] * 4
        whole = stannary.seal.load(report.digest, tmp_path / "store", file=name, keys=owner)
        assert same(whole, load_file(folder / name))
    assert set(torch_tensors.load(artifact, ["only.0", "only.1"])) == {"only.0", "only.1"}
    with pytest.raises(FormatError, match="two files"):
        torch_tensors.load(artifact, ["only.0", "w"])
    with pytest.raises(NotFound, match="no such tensor"):
        torch_tensors.load(artifact, ["only.1"], file="a.safetensors")
    with pytest.raises(NotFound, match="no such file"):
        torch_tensors.load(artifact, file="c.safetensors")
    (folder / "b.safetensors").write_bytes(safetensors_bytes({"w": ("U8", [4], b"zzzz")}))
    other = Sealed(sealing.seal(folder, DirectoryStore(tmp_path / "store"), owner), tmp_path / "store", owner)
    changes = {(item.file, item.name, item.kind.value) for item in diff.compare(artifact, other.open())}
    assert changes == {("b.safetensors", "w", "changed"), ("b.safetensors", "only.1", "removed")}


def test_tensors_that_are_not_aligned(tmp_path: Path, owner: OwnerKey) -> None:
    """A file whose tensors lie at odd places loads as the library loads it, whole and by name."""
    path = tmp_path / "odd.safetensors"
    path.write_bytes(safetensors_bytes({"a": ("U8", [3], pattern(3)), "b": ("F32", [2], pattern(8))}))
    report = sealing.seal(path, DirectoryStore(tmp_path / "store"), owner)
    sealed = Sealed(report, tmp_path / "store", owner)
    assert same(torch_tensors.load(sealed.open()), load_file(path))
    assert same(torch_tensors.load(sealed.open(), ["b"]), {"b": load_file(path)["b"]})


def test_packed_values_are_loaded_as_the_library_reads_them(tmp_path: Path, owner: OwnerKey) -> None:
    """Four-bit values come in pairs, scales as they are; six-bit ones are files only, and said so before any byte."""
    path = tmp_path / "packed.safetensors"
    entries = {"w": ("F4", [3, 4], pattern(6)), "s": ("F8_E8M0", [3], pattern(3)), "none": ("F4", [0, 4], b"")}
    path.write_bytes(safetensors_bytes(entries))
    report = sealing.seal(path, DirectoryStore(tmp_path / "store"), owner)
    ours = torch_tensors.load(Sealed(report, tmp_path / "store", owner).open())
    with safe_open(path, "pt") as theirs:
        assert same(ours, {name: theirs.get_tensor(name) for name in entries})
    for entry in (("F6_E2M3", [4], pattern(3)), ("F6_E3M2", [2, 2], pattern(3)), ("F4", [2, 3], pattern(3))):
        path.write_bytes(safetensors_bytes({"w": entry}))
        sealed = Sealed(sealing.seal(path, DirectoryStore(tmp_path / "store"), owner), tmp_path / "store", owner)
        with pytest.raises(UnsupportedFormat):
            torch_tensors.load(sealed.open())
        opening.open_to(sealed.open(), tmp_path / f"{entry[0]}{len(entry[1])}")
        assert (tmp_path / f"{entry[0]}{len(entry[1])}").read_bytes() == path.read_bytes()
