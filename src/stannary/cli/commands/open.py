"""`stannary open`: fetch, check and decrypt an artifact to a new file or folder."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from stannary.cli.command import command
from stannary.cli.commands.seal import MAX_JOBS
from stannary.cli.output import Output

if TYPE_CHECKING:
    from stannary.formats.digest import Digest
    from stannary.seal.keys import KeyRing
    from stannary.seal.reader import SealedArtifact
    from stannary.seal.stores.mirrors import Mirrors


@command
@click.argument("digest")
@click.option(
    "--from", "sources", required=True, multiple=True, metavar="DIR|URL", help="Where it lies; give several mirrors."
)
@click.option("-o", "--to", "path", required=True, type=click.Path(path_type=Path), help="New file or folder.")
@click.option(
    "--jobs", type=click.IntRange(1, MAX_JOBS), help="Connections at once (default: 12 remote, one a core local)."
)
@click.option(
    "--wrap",
    "wraps",
    multiple=True,
    type=click.Path(path_type=Path, exists=True),
    help="Keys that were wrapped to you; for a difference give those of the versions before it too.",
)
@click.option("--audience", help="What the wrap was made for (with --wrap).")
@click.option("--blame", type=click.Path(path_type=Path), help="Append signed records of lying mirrors to this file.")
def open_(
    out: Output, digest: str, sources: tuple[str, ...], path: Path, jobs: int | None, **options: Any
) -> int | None:
    """Open the artifact DIGEST to the new file or folder PATH.

    Nothing is left at PATH unless every byte was checked. After a broken transfer the same command goes on
    where it stopped. If the owner had it signed, the OpenSSF bundle is put beside it as PATH.sig.
    """
    from stannary.cli.digests import artifact_digest
    from stannary.cli.progress import ByteProgress
    from stannary.errors import NotFound, ServiceError
    from stannary.seal import opening, reader
    from stannary.seal.stores import locations
    from stannary.seal.stores.mirrors import Mirrors

    wanted = artifact_digest(digest)
    keys = _keys(wanted, options["wraps"], options["audience"])
    mirrors = Mirrors(wanted, tuple(locations.connect(item) for item in sources))
    artifact: SealedArtifact | None = None
    try:
        artifact = reader.SealedArtifact(mirrors, keys)
        progress = ByteProgress(out, "opened", artifact.size_bytes)
        report = opening.open_to(artifact, path, jobs=jobs, progress=progress)
    except (ServiceError, NotFound, KeyboardInterrupt):
        if artifact is not None and opening.partial_folder(artifact, path).is_dir():
            out.say(f"kept for the next run: {opening.partial_folder(artifact, path)}")
        raise
    finally:
        _write_blames(out, mirrors, options.get("blame"))
    signature = _write_signature(out, artifact.manifest.signature, path)
    resumed = f", {report.resumed_shards:,} shards resumed" if report.resumed_shards else ""
    out.say(f"{report.size_bytes:,} bytes, {report.fetched_bytes:,} fetched{resumed}")
    members = {
        "path": str(path),
        "digest": wanted,
        "size_bytes": report.size_bytes,
        "fetched_bytes": report.fetched_bytes,
        "resumed_shards": report.resumed_shards,
        "signature": str(signature) if signature else None,
        "blamed": [item.mirror for item in mirrors.blames],
    }
    out.result(members, str(path))
    return None


def _keys(wanted: Digest, wraps: tuple[Path, ...], audience: str | None) -> KeyRing:
    from datetime import UTC, datetime

    from stannary.cli.commands.artifact_keys import read_small
    from stannary.errors import UsageError
    from stannary.seal import keystore, wrap
    from stannary.seal.keys import KeyChain

    owner = keystore.load()
    if not wraps:
        if audience is not None:
            raise UsageError("--audience needs --wrap", hint="--wrap FILE, the keys that were wrapped to you")
        return owner
    if audience is None:
        raise UsageError("--wrap needs --audience", hint="--audience NAME, as the wrap was made for")
    only, now = wanted if len(wraps) == 1 else None, datetime.now(UTC)
    given = [read_small(path, wrap.MAX_WRAP_BYTES) for path in wraps]
    return KeyChain(
        tuple(wrap.unwrap(data, owner.receiving, artifact=only, audience=audience, now=now) for data in given)
    )


def _write_signature(out: Output, bundle: str | None, path: Path) -> Path | None:
    """Write the model-signing bundle beside PATH, never over another file and never a part of it."""
    if bundle is None:
        return None
    target = path.with_name(path.name + ".sig")
    try:
        file = target.open("x", encoding="utf-8")
    except OSError as err:
        out.say(f"the model-signing bundle was not written: {target}: {err.strerror}")
        return None
    try:
        with file:
            file.write(bundle)
    except OSError as err:
        target.unlink(missing_ok=True)
        out.say(f"the model-signing bundle was not written: {target}: {err.strerror}")
        return None
    return target


def _write_blames(out: Output, mirrors: Mirrors, target: Path | str | None) -> None:
    """Name the mirrors that served wrong bytes, and sign records of it when asked."""
    import json

    from stannary.seal import blame, keystore

    for item in mirrors.blames:
        out.say(f"wrong bytes from {item.mirror}: {item.object}")
    if mirrors.blames and isinstance(target, Path):
        key = keystore.load().signing
        lines = [json.dumps(blame.sign(item, key).to_json(), sort_keys=True) for item in mirrors.blames]
        try:
            with target.open("a", encoding="utf-8") as file:
                file.write("\n".join(lines) + "\n")
        except OSError as err:  # said and not raised: it must not hide why the opening itself failed
            out.say(f"the blame records were not written: {target}: {err.strerror}")
