"""`stannary seal`: encrypt a file or folder into a store and print its digest."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from stannary.cli.command import command
from stannary.cli.output import Output

if TYPE_CHECKING:
    from stannary.seal.sealing import SealReport
    from stannary.seal.stores.source import Store
    from stannary.seal.tree import Tree

MAX_JOBS = 64  # stannary.seal.reader.MAX_JOBS, not imported for --help


@command
@click.argument("path")
@click.option("-o", "--to", "store", required=True, metavar="DIR|URL", help="Folder or s3:// bucket to seal into.")
@click.option("--parent", metavar="DIGEST", help="Earlier version in the same store: only what changed is sealed.")
@click.option(
    "--codec",
    type=click.Choice(["raw", "small", "auto"]),
    default="auto",
    help="Code bf16 weights: never, if smaller, or while the store is slower than the coder (default).",
)
@click.option(
    "--jobs", type=click.IntRange(1, MAX_JOBS), help="Shards at once (default: 8 to a bucket, 2 to a folder)."
)
@click.option("--shard-bytes", type=int, default=8 * 1024 * 1024, show_default=True, help="Largest shard.")
@click.option(
    "--exclude", "patterns", multiple=True, metavar="PATTERN", help="Leave out what matches, as in .gitignore."
)
@click.option("--sign-model/--no-sign-model", default=True, help="Add an OpenSSF model-signing bundle (default).")
@click.option("--index/--no-index", "use_index", default=True, help="Refer to shards you sealed before (default).")
def seal(
    out: Output,
    path: str,
    store: str,
    parent: str | None,
    use_index: bool,
    patterns: tuple[str, ...],
    **options: object,
) -> int | None:
    """Seal a safetensors file, model folder, parquet, jsonl or plain file.

    \b
    stannary seal model/ -o s3://bucket/models     prints sha256:...
    stannary open sha256:... --from s3://bucket/models -o model/

    Left out: what PATH/.stannaryignore and --exclude match. Links are followed inside PATH, and from a hub's
    snapshot to its blobs. A broken run leaves no artifact; the same command goes on with what it had sent.
    """
    from stannary.cli.digests import artifact_digest
    from stannary.cli.progress import ByteProgress
    from stannary.errors import UsageError
    from stannary.seal import exclude, keystore, sealing, tree
    from stannary.seal import open as open_artifact
    from stannary.seal.index import PrivateIndex
    from stannary.seal.stores import locations

    if not path:  # an unset shell variable: the current folder with everything in it was not meant
        raise UsageError("PATH is empty", hint="name a file or folder; the current one is .")
    # Everything that can be wrong with the arguments is known before a key is made.
    scanned = tree.scan(Path(path), exclude.read(Path(path), patterns))
    target = locations.connect_store(store)
    _check_apart(scanned, target)
    older = artifact_digest(parent) if parent else None
    owner, is_new = keystore.load_or_create()
    if is_new:
        out.say(f"made your owner key: {keystore.key_path()}")
        out.say("without it your artifacts stay shut: stannary artifact key export FILE")
    if scanned.num_excluded:  # an ignore file may be a stranger's: what it keeps back is not kept silent
        out.say(f"left out: {scanned.num_excluded:,} that .stannaryignore or --exclude name")
    out.status(f"reading {path}")
    index = PrivateIndex(keystore.data_folder() / "index.db", owner) if use_index else None
    try:
        report = sealing.seal(
            Path(path),
            target,
            owner,
            sealing.SealOptions(
                shard_bytes=int(str(options["shard_bytes"])),
                jobs=None if options["jobs"] is None else int(str(options["jobs"])),
                codec=sealing.CodecPolicy(str(options["codec"])),
                parent=open_artifact(older, store) if older else None,
                index=index,
                sign_model=bool(options["sign_model"]),
                exclude=patterns,
                progress=ByteProgress(out, "sealed", sum(leaf.size for leaf in scanned.leaves)),
            ),
        )
    finally:
        if index is not None:
            index.close()
    members = {name: getattr(report, name) for name in report.__slots__}
    out.say(_summary(report))
    out.result(members, report.digest)
    return None


def _check_apart(scanned: Tree, target: Store) -> None:
    """Refuse a store inside PATH: the next run would seal the store as well, and the one after it both."""
    from stannary.errors import UsageError
    from stannary.seal.manifest import Layout
    from stannary.seal.stores.directory import DirectoryStore

    if isinstance(target, DirectoryStore) and scanned.layout is Layout.FOLDER:
        root, place = scanned.root.resolve(), target.root.resolve()
        if place.is_relative_to(root):
            raise UsageError("the store lies inside PATH", why=f"{place} in {root}", hint="name a folder elsewhere: -o")


def _summary(report: SealReport) -> str:
    """Return the line of talk; what did not happen is not told."""
    counts = {
        "known from before": report.reused_shards,
        "as deltas": report.delta_shards,
        "coded": report.coded_shards,
    }
    told = [f"{count:,} {what}" for what, count in counts.items() if count]
    shards = "1 shard" if report.num_shards == 1 else f"{report.num_shards:,} shards"
    line = f"{report.size_bytes:,} bytes in {shards}, {report.written_bytes:,} bytes written"
    return f"{line} ({', '.join(told)})" if told else line
