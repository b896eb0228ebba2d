"""The published vectors: made by a writer that knows docs/seal-v1.md only, read by ours."""

from __future__ import annotations

import base64
import filecmp
import json
import runpy
import shutil
from datetime import UTC, datetime
from pathlib import Path

import pytest
from tests.unit.seal.world import edit

from stannary.errors import StannaryError
from stannary.formats.digest import Digest
from stannary.seal import opening, wrap
from stannary.seal.keys import OwnerKey, ReceivingKey
from stannary.seal.reader import SealedArtifact
from stannary.seal.stores.directory import DirectoryStore
from stannary.seal.stores.mirrors import Mirrors
from stannary.seal.stores.source import object_name

FOLDER = Path(__file__).resolve().parents[2] / "vectors" / "seal"
VECTORS = json.loads((FOLDER / "vectors.json").read_text())
OWNER = OwnerKey(bytes.fromhex(VECTORS["secret"]))


def opened(digest: str, root: Path = FOLDER / "store") -> SealedArtifact:
    """Open an artifact of the vectors."""
    return SealedArtifact(Mirrors(Digest(digest), (DirectoryStore(root),), pause=lambda _: None), OWNER)


def test_generator_gives_the_same_bytes(tmp_path: Path) -> None:
    """The vectors in the repository are those the generator makes."""
    runpy.run_path(str(FOLDER / "generate.py"))["generate"](tmp_path)
    made = sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*") if path.is_file())
    kept = sorted(path.relative_to(FOLDER) for path in (FOLDER / "store").rglob("*") if path.is_file())
    assert made == sorted([*kept, Path("vectors.json")])
    assert filecmp.cmpfiles(tmp_path, FOLDER, map(str, made), shallow=False)[1:] == ([], [])


@pytest.mark.parametrize("name", VECTORS["good"])
def test_good_vector_opens(name: str, tmp_path: Path) -> None:
    """Files, derived keys and owner are those the vectors state."""
    case = VECTORS["good"][name]
    artifact = opened(case["digest"])
    assert artifact.head.owner == VECTORS["owner"] == OWNER.public.hex()
    assert OWNER.manifest_key(artifact.head).hex() == case["manifest_key"]
    assert {group: OWNER.group_key(artifact.head, group).hex() for group in case["groups"]} == case["groups"]
    opening.open_to(artifact, tmp_path / "out")
    for path, data in case["files"].items():
        found = tmp_path / "out" / path if (tmp_path / "out").is_dir() else tmp_path / "out"
        assert found.read_bytes() == base64.b64decode(data)


@pytest.mark.parametrize("name", VECTORS["signed_nonsense"])
def test_signed_nonsense_is_refused(name: str, tmp_path: Path) -> None:
    """What breaks a rule is refused although its owner signed it, and nothing is left behind."""
    with pytest.raises(StannaryError) as caught:
        opening.open_to(opened(VECTORS["signed_nonsense"][name]), tmp_path / "out")
    assert caught.value.code in {"E-FORMAT", "E-LIMIT", "E-REFUTED"}
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "case", VECTORS["tampered"], ids=lambda case: f"{case['object']} {case['operation']} {case['argument']}"
)
def test_tampered_vector_is_refused(case: dict[str, str | int], tmp_path: Path) -> None:
    """Every edit of the store is refused, and nothing is left behind."""
    root = tmp_path / "store"
    shutil.copytree(FOLDER / "store", root)
    digest = VECTORS["good"]["raw"]["digest"]
    head = opened(digest).head
    places = {
        "head": root / str(case["head"]),
        "signature": root / f"{case['head']}.dsse",
        "manifest": root / object_name(head.manifest),
        **{f"shard {number}": root / object_name(item) for number, item in enumerate(head.shards)},
    }
    edit(case, places)
    with pytest.raises(StannaryError):
        opening.open_to(opened(digest, root), tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["store"]


def test_wrap_vector_opens() -> None:
    """The recorded wrap opens with the recorded key, for its audience and time only."""
    recorded = json.loads((FOLDER / "wrap.json").read_text())
    key = ReceivingKey(bytes.fromhex(recorded["seed"]))
    assert key.public.hex() == recorded["public"]
    now = datetime.fromisoformat(recorded["now"]).astimezone(UTC)
    case = VECTORS["good"]["raw"]
    data = recorded["wrap"].encode()
    release = wrap.unwrap(data, key, artifact=Digest(case["digest"]), audience=recorded["audience"], now=now)
    assert release.manifest.hex() == case["manifest_key"]
    assert {name: value.hex() for name, value in release.groups.items()} == case["groups"]
    with pytest.raises(StannaryError):
        wrap.unwrap(data, key, artifact=Digest(case["digest"]), audience="another", now=now)
