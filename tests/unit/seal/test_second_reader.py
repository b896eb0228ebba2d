"""The document is enough: a reader that knows nothing else opens every good vector and refuses every bad one."""

from __future__ import annotations

import ast
import base64
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import zstandard
from cryptography.exceptions import InvalidSignature, InvalidTag
from tests.unit.seal import second_reader
from tests.unit.seal.second_reader import Reader, Refused
from tests.unit.seal.world import SMALL_SHARD_BYTES, Sealed, edit, small_model

from stannary.seal import sealing
from stannary.seal.keys import OwnerKey
from stannary.seal.sealing import CodecPolicy, SealOptions
from stannary.seal.stores.directory import DirectoryStore

FOLDER = Path(__file__).resolve().parents[2] / "vectors" / "seal"
VECTORS = json.loads((FOLDER / "vectors.json").read_text())
SECRET = bytes.fromhex(VECTORS["secret"])
REFUSALS = (Refused, InvalidTag, InvalidSignature, ValueError, KeyError, TypeError, zstandard.ZstdError)


def read(digest: str, root: Path = FOLDER / "store", secret: bytes = SECRET) -> dict[str, bytes]:
    """Return the files of an artifact by path."""
    listing, files = Reader(root, secret).read(digest)
    return {row["path"]: data for row, data in zip(listing["files"], files, strict=True)}


def test_it_is_a_second_one() -> None:
    """Nothing of ours is imported, lazily or not."""
    tree = ast.parse(Path(second_reader.__file__).read_text())
    named = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    named |= {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert not [name for name in named if name.startswith(("stannary", "tests"))]


@pytest.mark.parametrize("name", VECTORS["good"])
def test_good_vector_opens(name: str) -> None:
    """Raw, split and delta shards and a folder open to the bytes the vectors state."""
    case = VECTORS["good"][name]
    assert read(case["digest"]) == {path: base64.b64decode(data) for path, data in case["files"].items()}


@pytest.mark.parametrize("name", VECTORS["signed_nonsense"])
def test_signed_nonsense_is_refused(name: str) -> None:
    """What breaks a rule is refused although its owner signed it."""
    with pytest.raises(Refused):
        read(VECTORS["signed_nonsense"][name])


@pytest.mark.parametrize(
    "case", VECTORS["tampered"], ids=lambda case: f"{case['object']} {case['operation']} {case['argument']}"
)
def test_tampered_vector_is_refused(case: dict[str, str | int], tmp_path: Path) -> None:
    """Every edit of the store is refused."""
    root = tmp_path / "store"
    shutil.copytree(FOLDER / "store", root)
    digest = VECTORS["good"]["raw"]["digest"]
    head = json.loads((root / "head" / digest[7:]).read_bytes())
    names = {"manifest": head["manifest"], **{f"shard {place}": name for place, name in enumerate(head["shards"])}}
    places = {name: root / "b3" / spelled.split(":")[1] for name, spelled in names.items()}
    places |= {"head": root / str(case["head"]), "signature": root / f"{case['head']}.dsse"}
    edit(case, places)
    with pytest.raises(REFUSALS):
        read(digest, root)


def test_another_owner_and_another_digest() -> None:
    """The owner's secret and the digest asked for are both needed."""
    digest = VECTORS["good"]["raw"]["digest"]
    with pytest.raises(REFUSALS):
        read(digest, secret=bytes(32))
    with pytest.raises(FileNotFoundError):
        read("sha256:" + "0" * 64)


def test_what_we_seal_opens(tmp_path: Path, owner: OwnerKey, model: Sealed, seal_bytes: Callable[..., Sealed]) -> None:
    """What our own sealer writes today, of every kind and codec, opens in the second reader."""
    assert read(model.digest, model.root, owner.secret) == {"model.safetensors": small_model()}
    coded = seal_bytes(bytes(8) * 60_000, "zeros.bin")
    assert read(coded.digest, coded.root, owner.secret) == {"zeros.bin": bytes(480_000)}
    store, path = DirectoryStore(tmp_path / "store"), tmp_path / "model.safetensors"
    path.write_bytes(small_model())
    options = SealOptions(shard_bytes=SMALL_SHARD_BYTES, codec=CodecPolicy.SMALL, sign_model=True)
    first = Sealed(sealing.seal(path, store, owner, options), store.root, owner)
    tuned = bytearray(small_model())
    for place in range(len(tuned) - 40_000, len(tuned) - 20_000, 64):
        tuned[place] ^= 1
    path.write_bytes(tuned)
    report = sealing.seal(path, store, owner, SealOptions(shard_bytes=SMALL_SHARD_BYTES, parent=first.open()))
    assert report.delta_shards
    assert read(report.digest, store.root, owner.secret) == {"model.safetensors": bytes(tuned)}
    folder = tmp_path / "folder"
    (folder / "sub").mkdir(parents=True)
    (folder / "sub" / "語.bin").write_bytes(os.urandom(100))
    (folder / "zero.jsonl").write_bytes(b"")
    made = sealing.seal(folder, store, owner)
    assert read(made.digest, store.root, owner.secret) == {
        "sub/語.bin": (folder / "sub" / "語.bin").read_bytes(),
        "zero.jsonl": b"",
    }


def test_wrap_vector_opens() -> None:
    """The recorded wrap gives the keys the vectors state, for its audience and time only."""
    recorded = json.loads((FOLDER / "wrap.json").read_text())
    case = VECTORS["good"]["raw"]
    data, seed = recorded["wrap"].encode(), bytes.fromhex(recorded["seed"])
    terms = {"artifact": case["digest"], "audience": recorded["audience"], "now": "2026-01-01T00:00:00Z"}
    bundle = second_reader.unwrapped(data, seed, **terms)
    assert (bundle["manifest"], bundle["groups"]) == (case["manifest_key"], case["groups"])
    for change in ({"audience": "other"}, {"artifact": "sha256:" + "0" * 64}, {"now": "2027-01-01T00:00:00Z"}):
        with pytest.raises(REFUSALS):
            second_reader.unwrapped(data, seed, **{**terms, **change})
    with pytest.raises(REFUSALS):
        second_reader.unwrapped(data.replace(b"vector", b"victor"), seed, **{**terms, "audience": "victor"})
