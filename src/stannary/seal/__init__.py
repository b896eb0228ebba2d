"""Sealed artifacts: weights and data that cross unfamiliar disks and networks for key holders only.

    seal(path, store)       encrypt a file or folder into a store; returns its digest
    load(digest, source)    torch tensors by name, as safetensors.torch.load_file gives them
    open(digest, source)    an artifact whose files can be written out or read in part

docs/seal-v1.md is the format. This package stands alone: no market, no account. Who may be given keys is
left to the broker; keys.py and wrap.py only make and wrap them.

Nothing heavy is imported before it is needed (torch, numpy, obstore), so that a command line can import it.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

    from stannary.seal.keys import KeyRing, OwnerKey
    from stannary.seal.reader import SealedArtifact
    from stannary.seal.sealing import SealOptions, SealReport
    from stannary.seal.stores.source import Source
    from stannary.seal.torch_tensors import Arena

    Where = str | Path | Source | Iterable[str | Path | Source]


def seal(
    path: str | Path, store: str | Path, *, owner: OwnerKey | None = None, options: SealOptions | None = None
) -> SealReport:
    """Seal a safetensors file, model folder, parquet, jsonl or plain file into a folder or s3:// bucket.

    `owner` defaults to the key in the data folder, made on first use.
    """
    from stannary.seal import keystore, sealing
    from stannary.seal.stores import locations

    key = owner if owner is not None else keystore.load_or_create()[0]
    return sealing.seal(Path(path), locations.connect_store(str(store)), key, options)


def load(
    digest: str,
    source: Where,
    names: Iterable[str] | None = None,
    *,
    file: str | None = None,
    keys: KeyRing | None = None,
    arena: Arena | None = None,
    jobs: int | None = None,
) -> dict[str, torch.Tensor]:
    """Return the tensors of an artifact by name, all of them or those of `names`; of one `file`, named by its path.

    `source` is a folder, an http(s):// or s3:// URL, or several of them that mirror one another.
    With an `arena` the memory of the last load is reused and its tensors are overwritten.
    """
    from stannary.seal import torch_tensors

    return torch_tensors.load(open(digest, source, keys=keys), names, file=file, arena=arena, jobs=jobs)


def open(digest: str, source: Where, *, keys: KeyRing | None = None) -> SealedArtifact:  # noqa: A001 the verb users know
    """Open an artifact by digest; `keys` defaults to the owner's key in the data folder."""
    from stannary.formats import digest as digests
    from stannary.seal import keystore, reader
    from stannary.seal.stores.locations import connect

    several = source if isinstance(source, Iterable) and not isinstance(source, str) else [source]
    sources = [connect(str(item)) if isinstance(item, str | Path) else item for item in several]
    return reader.open_artifact(digests.parse(digest), sources, keys if keys is not None else keystore.load())
