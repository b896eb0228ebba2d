"""What of a folder is sealed: links inside one tree, nothing that is excluded, no index that points elsewhere."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.contents import of_bytes
from tests.unit.seal.world import Sealed, safetensors_bytes

from stannary.errors import ConflictError, FormatError, LimitExceeded, NotFound, UsageError
from stannary.seal import exclude, opening, sealing, tree
from stannary.seal.content import weight_index
from stannary.seal.keys import OwnerKey
from stannary.seal.sealing import SealOptions
from stannary.seal.stores.directory import DirectoryStore

WEIGHTS = safetensors_bytes({"w": ("U8", [4], b"abcd")})


def sealed(path: Path, tmp_path: Path, owner: OwnerKey, *patterns: str) -> Path:
    """Seal a path, open it again and return where."""
    store = DirectoryStore(tmp_path / "store")
    report = sealing.seal(path, store, owner, SealOptions(exclude=patterns))
    target = tmp_path / f"out{len(list(tmp_path.glob('out*')))}"
    opening.open_to(Sealed(report, tmp_path / "store", owner).open(), target)
    return target


def files(folder: Path) -> dict[str, bytes]:
    """Read every file of a folder; none of them may be a link."""
    found = [path for path in folder.rglob("*") if not path.is_dir()]
    assert not any(path.is_symlink() for path in found)
    return {str(path.relative_to(folder)): path.read_bytes() for path in found}


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    """A model in a hub's cache: blobs, and a snapshot of links to them."""
    model = tmp_path / "hub" / "models--org--name"
    snapshot = model / "snapshots" / "0123abc"
    (snapshot / "sub").mkdir(parents=True)
    (model / "refs").mkdir()
    (model / "refs" / "main").write_text("0123abc")
    (model / "blobs").mkdir()
    for blob, data in (("aaaa", WEIGHTS), ("bbbb", b"{}"), ("cccc", b"x")):
        (model / "blobs" / blob).write_bytes(data)
    (snapshot / "model.safetensors").symlink_to("../../blobs/aaaa")
    (snapshot / "config.json").symlink_to("../../blobs/bbbb")
    (snapshot / "sub" / "x.bin").symlink_to(model / "blobs" / "cccc")  # absolute: the cache was moved here by hand
    return snapshot


EXPECTED = {"model.safetensors": WEIGHTS, "config.json": b"{}", "sub/x.bin": b"x"}


def test_a_snapshot_of_a_hub_is_sealed_with_its_blobs(cache: Path, tmp_path: Path, owner: OwnerKey) -> None:
    """A snapshot, a folder of it, one file of it, and the whole of the model come back as files."""
    assert files(sealed(cache, tmp_path, owner)) == EXPECTED
    assert files(sealed(cache / "sub", tmp_path, owner)) == {"x.bin": b"x"}
    assert sealed(cache / "model.safetensors", tmp_path, owner).read_bytes() == WEIGHTS
    whole = files(sealed(cache.parent.parent, tmp_path, owner, "blobs/"))
    assert whole == {"refs/main": b"0123abc", **{f"snapshots/0123abc/{name}": data for name, data in EXPECTED.items()}}
    assert files(sealed(cache.parent, tmp_path, owner)) == {f"0123abc/{name}": data for name, data in EXPECTED.items()}
    (tmp_path / "way").symlink_to(cache.parent.parent.parent)
    assert files(sealed(tmp_path / "way" / "models--org--name" / "snapshots" / "0123abc", tmp_path, owner)) == EXPECTED


def test_links_inside_the_folder_are_followed(tmp_path: Path, owner: OwnerKey) -> None:
    """A link to another file of PATH is that file under its own name."""
    folder = tmp_path / "model"
    (folder / "a" / "b").mkdir(parents=True)
    (folder / "real.bin").write_bytes(b"real")
    (folder / "a" / "b" / "link.bin").symlink_to("../../real.bin")
    assert files(sealed(folder, tmp_path, owner)) == {"real.bin": b"real", "a/b/link.bin": b"real"}


OUT: dict[str, str] = {
    "elsewhere": "/etc/hostname",
    "beside the model": "../../../other/file",
    "refs of the model": "../../refs/main",
    "beside blobs": "../../blobs-of-another/x",
    "climbing out of blobs": "../../blobs/../../other/file",
    "another model": "../../../models--org--other/blobs/aaaa",
    "a folder": "sub",
    "blobs themselves": "../../blobs",
    "nowhere": "../../blobs/gone",
    "itself": "link.bin",
    "a link to a link": "config.json",
    "through a linked folder": "../../way/aaaa",
    "a device": "/dev/null",
    "a pipe": "pipe",
}


@pytest.mark.parametrize("target", OUT)
def test_links_out_of_the_tree_are_refused(cache: Path, tmp_path: Path, owner: OwnerKey, target: str) -> None:
    """Only a file of PATH or of the same model's blobs, reached by folders alone, is followed."""
    hub = cache.parent.parent.parent
    for place in ("other/file", "models--org--other/blobs/aaaa", "models--org--name/blobs-of-another/x"):
        (hub / place).parent.mkdir(parents=True, exist_ok=True)
        (hub / place).write_bytes(b"not yours")
    (cache.parent.parent / "way").symlink_to("blobs")
    os.mkfifo(cache / "pipe")
    (cache / "link.bin").symlink_to(OUT[target])
    with pytest.raises(FormatError) as caught:
        sealed(cache, tmp_path, owner, "pipe")
    assert "symbolic link refused" in str(caught.value)
    assert "--exclude" in caught.value.hint
    assert not (tmp_path / "store").exists()
    assert files(sealed(cache, tmp_path, owner, "link.bin", "pipe")) == EXPECTED


def test_a_snapshots_folder_that_is_no_hubs_is_a_folder_like_others(tmp_path: Path, owner: OwnerKey) -> None:
    """Folders that only look alike give nothing outside PATH away."""
    snapshot = tmp_path / "backup" / "snapshots" / "1"
    snapshot.mkdir(parents=True)
    (tmp_path / "backup" / "blobs").mkdir()
    (tmp_path / "backup" / "blobs" / "secret").write_bytes(b"secret")
    (snapshot / "link").symlink_to("../../blobs/secret")
    with pytest.raises(FormatError, match="symbolic link refused"):
        sealed(snapshot, tmp_path, owner)


def test_a_blob_that_is_swapped_after_the_look_is_refused(cache: Path, tmp_path: Path) -> None:
    """What a link led to when it was listed is what is opened: another file or link there is an error."""
    found = tree.scan(cache)
    (leaf,) = [item for item in found.leaves if item.path == "config.json"]
    os.close(found.open(leaf))
    blob = cache.parent.parent / "blobs" / "bbbb"
    blob.unlink()
    blob.symlink_to("/etc/hostname")
    with pytest.raises(ConflictError):
        found.open(leaf)
    blob.unlink()
    blob.write_bytes(b"[]")
    with pytest.raises(ConflictError):
        found.open(leaf)


def test_excluded_files_are_left_out_and_never_looked_at(tmp_path: Path, owner: OwnerKey) -> None:
    """Pickles, pipes and links that would refuse the whole are left out by pattern, and the ignore file with them."""
    folder = tmp_path / "model"
    for name in (
        "model.safetensors",
        "old.pt",
        "cache/x.bin",
        "cache/deep/y.bin",
        "logs/a.log",
        "logs/keep.log",
        "b.tmp",
    ):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(WEIGHTS)
    os.mkfifo(folder / "cache" / "pipe")
    (folder / "b.link").symlink_to("/etc/hostname")
    (folder / ".stannaryignore").write_text("# weights only\n*.pt\ncache/\n*.log\n!keep.log\n*.tmp\n")
    (folder / ".gitignore").write_text("model.safetensors\n")
    with pytest.raises(FormatError, match="symbolic link"):
        sealed(folder, tmp_path, owner)
    assert set(files(sealed(folder, tmp_path, owner, "*.link"))) == {"model.safetensors", "logs/keep.log", ".gitignore"}
    assert set(files(sealed(folder, tmp_path, owner, "*.link", "!b.tmp", "/logs"))) == {
        "model.safetensors", "b.tmp", ".gitignore",
    }  # fmt: skip
    with pytest.raises(NotFound, match="excluded"):
        sealed(folder, tmp_path, owner, "*")


def test_patterns_that_do_not_read_are_refused(tmp_path: Path) -> None:
    """A pattern git would not take, and an endless ignore file, are errors of ours; an odd ignore file is none."""
    with pytest.raises(UsageError, match="pattern refused"):
        exclude.read(tmp_path, ["!"])
    (tmp_path / ".stannaryignore").symlink_to("/etc/hostname")
    with pytest.raises(Exception, match="ignore file"):
        exclude.read(tmp_path)
    (tmp_path / ".stannaryignore").unlink()
    (tmp_path / ".stannaryignore").write_bytes(b"x\n" * 200_000)
    with pytest.raises(LimitExceeded):
        exclude.read(tmp_path)


def _index(**weights: object) -> bytes:
    return json.dumps({"metadata": {"total_size": 8}, "weight_map": weights}).encode()


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("../../x", "no plain path"), ("../model/a.safetensors", "no plain path"), ("/etc/passwd", "no plain path"),
        ("sub/../a.safetensors", "no plain path"), ("./a.safetensors", "no plain path"), ("", "no plain path"),
        ("..\\x", "no plain path"), ("C:\\x", "no plain path"), (7, "not there"), (None, "not there"),
        (["a.safetensors"], "not there"), ("b.safetensors", "not there"), ("A.safetensors", "not there"),
        ("sub", "not there"), ("sub/c.safetensors/x", "not there"),
    ],
)  # fmt: skip
@pytest.mark.parametrize(
    "where",
    ["model.safetensors.index.json", "unet/diffusion.SAFETENSORS.INDEX.JSON", "model.safetensors.index.fp16.json"],
)
def test_an_index_names_files_of_its_own_folder(
    tmp_path: Path, owner: OwnerKey, name: object, reason: str, where: str
) -> None:
    """An index that names a missing shard, or any path but a plain one, is refused before anything is sealed."""
    folder = tmp_path / "model"
    base = (folder / where).parent
    (base / "sub").mkdir(parents=True)
    for shard in ("a.safetensors", "sub/c.safetensors"):
        (base / shard).write_bytes(WEIGHTS)
    (folder / where).write_bytes(_index(w="a.safetensors", v="sub/c.safetensors"))
    assert len(files(sealed(folder, tmp_path, owner))) == 3
    (folder / where).write_bytes(_index(w="a.safetensors", v=name))
    with pytest.raises(FormatError, match="index names a file it may not") as caught:
        sealed(folder, tmp_path, owner)
    assert reason in caught.value.why
    assert len(files(sealed(folder, tmp_path, owner, Path(where).name))) == 2


def test_an_index_that_lost_its_shard_to_an_exclusion_is_refused(tmp_path: Path, owner: OwnerKey) -> None:
    """What is excluded is not there."""
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "a.safetensors").write_bytes(WEIGHTS)
    (folder / "model.safetensors.index.json").write_bytes(_index(w="a.safetensors"))
    with pytest.raises(FormatError, match="index names"):
        sealed(folder, tmp_path, owner, "a.safetensors")


def test_a_strangers_index_that_climbs_is_not_opened(
    tmp_path: Path, owner: OwnerKey, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A sealer who does not check meets a reader who does; nothing appears at PATH."""
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "a.safetensors").write_bytes(WEIGHTS)
    (folder / "model.safetensors.index.json").write_bytes(_index(w="../../../.ssh/id_ed25519"))
    with monkeypatch.context() as patch:
        patch.setattr(weight_index, "check", lambda *_: None)
        report = sealing.seal(folder, DirectoryStore(tmp_path / "store"), owner)
    with pytest.raises(FormatError, match="index names"):
        opening.open_to(Sealed(report, tmp_path / "store", owner).open(), tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32-le"])
def test_an_index_is_read_in_whatever_encoding_loaders_read_it(encoding: str) -> None:
    """JSON finds its own encoding: an index in another one hides nothing."""
    with pytest.raises(FormatError, match="index names"):
        weight_index.check("m.index.json", of_bytes(_index(w="../x").decode().encode(encoding)), {"a"})


_JSON = st.recursive(
    st.none() | st.text(max_size=5) | st.integers(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(max_size=3), inner),
)


@given(st.binary(max_size=200) | _JSON.map(lambda value: json.dumps({"weight_map": value}).encode()))
def test_whatever_an_index_holds_it_is_read_or_refused(data: bytes) -> None:
    """Any bytes under that name are plain bytes, an index, or our error."""
    try:
        weight_index.check("m.index.json", of_bytes(data), {"a"})
    except FormatError as err:
        assert "index names" in str(err)
