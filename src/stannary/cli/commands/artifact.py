"""`stannary artifact`: list, show, compare, mirror and hand on sealed artifacts; keys in artifact_keys.py."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from stannary.cli.command import command
from stannary.cli.commands.artifact_keys import key, wrap
from stannary.cli.lazy import LazyGroup
from stannary.cli.output import Output, plain

if TYPE_CHECKING:
    from stannary.formats.digest import Digest
    from stannary.seal.keys import OwnerKey
    from stannary.seal.reader import SealedArtifact
    from stannary.seal.stores.source import Source

FROM = click.option("--from", "source", required=True, metavar="DIR|URL", help="Where it lies.")


@click.group(cls=LazyGroup)
def artifact() -> None:
    """Inspect sealed artifacts."""


@command
@FROM
def ls(out: Output, source: str) -> None:
    """List the artifacts of a store, with names for those your key opens."""
    from stannary.errors import NotFound
    from stannary.formats import digest as digests
    from stannary.seal import keystore
    from stannary.seal.stores.directory import DirectoryStore
    from stannary.seal.stores.locations import connect

    store = connect(source)
    if isinstance(store, DirectoryStore) and not store.root.is_dir():
        raise NotFound(
            "no such folder", why=str(store.root), hint="--from DIR or --from URL, as given to: stannary seal"
        )
    try:
        owner = keystore.load()
    except NotFound:
        owner = None
        out.say("no owner key here, so no names are shown")
    listed = [name for name in store.list("head") if not name.endswith(".dsse")]
    rows = [_row(store, digests.parse("sha256:" + name.rpartition("/")[2]), owner) for name in listed]
    if not rows:
        out.say(f"no artifact in {store.url}")
    columns = ("digest", "state", "name", "shards", "sealed_bytes")
    out.table(columns, [[plain(str(row[column])) for column in columns] for row in rows], rows)


def _row(store: Source, wanted: Digest, owner: OwnerKey | None) -> dict[str, object]:
    """Return what can be told of one artifact of a store; a damaged one is a row, not an error."""
    from stannary.errors import AuthError, StannaryError
    from stannary.seal.reader import SealedArtifact
    from stannary.seal.stores.mirrors import Mirrors

    mirrors = Mirrors(wanted, (store,))
    row: dict[str, object] = {"digest": wanted, "state": "ok", "name": "", "sealed_bytes": 0, "shards": 0}
    try:
        head = mirrors.head()
        row |= {"sealed_bytes": sum(item.length for item in head.shards), "shards": len(head.shards)}
        row |= {"owner": head.owner, "parent": head.parent}
        if owner is not None:
            row["name"] = SealedArtifact(mirrors, owner).manifest.name
    except AuthError:
        row["state"] = "another owner"
    except StannaryError as err:
        row["state"] = err.code
    return row


@command
@click.argument("digest")
@FROM
@click.option("--tensors", "with_tensors", is_flag=True, help="List every tensor.")
def show(out: Output, digest: str, source: str, with_tensors: bool) -> None:
    """Show what an artifact holds: files, key groups, codecs."""
    from collections import Counter

    from stannary.cli.digests import artifact_digest
    from stannary.seal import open as open_artifact

    opened = open_artifact(artifact_digest(digest), source)
    manifest = opened.manifest
    groups = Counter(manifest.groups[item.group].id for item in manifest.shards)
    codecs = Counter(item.codec.value for item in manifest.shards)
    members = {
        "digest": opened.digest,
        "owner": opened.head.owner,
        "parent": opened.head.parent,
        "name": manifest.name,
        "layout": manifest.layout.value,
        "size_bytes": opened.size_bytes,
        "sealed_bytes": sum(item.length for item in opened.head.shards),
        "files": [{"path": item.path, "size": item.size, "kind": item.kind.value} for item in manifest.files],
        "groups": dict(groups),
        "codecs": dict(codecs),
        "num_tensors": len(manifest.tensors),
        "tensors": [
            {"name": item.name, "file": manifest.files[item.file].path, "dtype": item.dtype, "shape": list(item.shape)}
            for item in (manifest.tensors if with_tensors else ())
        ],
    }
    out.result(members, _show_text(opened, dict(groups), dict(codecs), with_tensors=with_tensors))


@command
@click.argument("old")
@click.argument("new")
@FROM
def diff(out: Output, old: str, new: str, source: str) -> None:
    """Show which files and tensors differ between two artifacts."""
    from stannary.cli.digests import artifact_digest
    from stannary.seal import diff as differ
    from stannary.seal import open as open_artifact

    before, after = artifact_digest(old), artifact_digest(new)
    changes = differ.compare(open_artifact(before, source), open_artifact(after, source))
    if not changes:
        out.say("no difference")
    rows = [
        [item.kind.value, item.what, plain(item.name), f"{plain(item.file)} " * bool(item.file) + item.detail]
        for item in changes
    ]
    value = [
        {"kind": item.kind.value, "what": item.what, "name": item.name, "detail": item.detail, "file": item.file}
        for item in changes
    ]
    out.table(("kind", "what", "name", "detail"), rows, value)


@command
@click.argument("folder", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.option("--host", default="127.0.0.1", show_default=True)
@click.option("--port", type=int, default=8190, show_default=True)
def serve(out: Output, folder: Path, host: str, port: int) -> None:
    """Mirror a folder of sealed artifacts over HTTP until interrupted."""
    from stannary.errors import EnvironmentProblem
    from stannary.seal.stores.server import MirrorServer

    try:
        server = MirrorServer((host, port), folder)
    except OSError as err:
        raise EnvironmentProblem("cannot listen", why=f"{host}:{port}: {err.strerror}", hint="--port N") from err
    out.say(f"serving {folder} at {server.url}; everything in it is ciphertext or public")
    try:
        server.serve_forever()
    finally:
        server.server_close()


def _show_text(opened: SealedArtifact, groups: dict[str, int], codecs: dict[str, int], *, with_tensors: bool) -> str:
    manifest = opened.manifest
    lines = [
        f"{opened.digest}  {plain(manifest.name)}",
        f"  owner   {opened.head.owner}",
        f"  parent  {opened.head.parent or 'none'}",
        f"  size    {opened.size_bytes:,} bytes, {len(manifest.tensors)} tensors, {len(manifest.shards)} shards",
        f"  groups  {', '.join(f'{name} ({count})' for name, count in groups.items())}",
        f"  codecs  {', '.join(f'{name} ({count})' for name, count in codecs.items())}",
    ]
    lines += [f"  {item.kind.value:<12}{item.size:>16,}  {plain(item.path)}" for item in manifest.files]
    if with_tensors:
        several = len(manifest.files) > 1
        lines += [
            f"  {item.dtype:<12}{list(item.shape)!s:<24}{plain(item.name)}"
            + f"  in {plain(manifest.files[item.file].path)}" * several
            for item in manifest.tensors
        ]
    return "\n".join(lines)


for _command in (ls, show, diff, serve, wrap, key):
    artifact.add_command(_command)
