"""Fixtures of the seal tests: an owner, and sealed things in folders of their own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from tests.unit.seal.world import SMALL_SHARD_BYTES, Sealed, small_model

from stannary.seal.keys import OwnerKey
from stannary.seal.sealing import SealOptions, seal
from stannary.seal.stores.directory import DirectoryStore


@pytest.fixture
def owner() -> OwnerKey:
    """The owner of everything sealed in a test."""
    return OwnerKey(bytes(range(32)))


@pytest.fixture
def seal_bytes(tmp_path: Path, owner: OwnerKey) -> Callable[..., Sealed]:
    """Seal bytes as a file of a name into a store of its own."""

    def call(data: bytes, name: str = "model.safetensors", **options: object) -> Sealed:
        number = len(list(tmp_path.glob("in*")))
        folder = tmp_path / f"in{number}"
        folder.mkdir()
        (folder / name).write_bytes(data)
        root = tmp_path / f"store{number}"
        chosen = SealOptions(**{"shard_bytes": SMALL_SHARD_BYTES, **options})  # type: ignore[arg-type]  # test options
        return Sealed(seal(folder / name, DirectoryStore(root), owner, chosen), root, owner)

    return call


@pytest.fixture
def model(seal_bytes: Callable[..., Sealed]) -> Sealed:
    """The small model, sealed."""
    return seal_bytes(small_model())
