"""`stannary seal`: encrypt a file or folder into a store and print its digest."""

from __future__ import annotations

from pathlib import Path

import click

from stannary.cli.command import command
from stannary.cli.output import Output


@command
@click.argument("path", type=click.Path(path_type=Path))
@click.option("-o", "--to", "store", required=True, metavar="DIR|URL", help="Folder or s3:// bucket to seal into.")
@click.option("--parent", metavar="DIGEST", help="Earlier version in the same store: only what changed is sealed.")
@click.option(
    "--codec",
    type=click.Choice(["raw", "small", "auto"]),
    default="auto",
    help="Code bf16 weights: never, if smaller, or while the store is slower than the coder (default).",
)
@click.option("--jobs", type=int, help="Shards at once (default: 8 to a bucket, 2 to a folder).")
@click.option("--shard-bytes", type=int, default=8 * 1024 * 1024, show_default=True, help="Largest shard.")
@click.option("--sign-model/--no-sign-model", default=True, help="Add an OpenSSF model-signing bundle (default).")
@click.option("--index/--no-index", "use_index", default=True, help="Refer to shards you sealed before (default).")
def seal(out: Output, path: Path, store: str, parent: str | None, use_index: bool, **options: object) -> int | None:
    """Seal a safetensors file, model folder, parquet, jsonl or plain file.

    \b
    stannary seal model/ -o s3://bucket/models     prints sha256:...
    stannary open sha256:... --from s3://bucket/models -o model/
    """
    from stannary.cli.progress import ByteProgress
    from stannary.seal import keystore, sealing, source
    from stannary.seal import open as open_artifact
    from stannary.seal.index import PrivateIndex

    owner, is_new = keystore.load_or_create()
    if is_new:
        out.say(f"made your owner key: {keystore.key_path()}")
        out.say("without it your artifacts stay shut: stannary artifact key export FILE")
    index = PrivateIndex(keystore.data_folder() / "index.db", owner) if use_index else None
    try:
        report = sealing.seal(
            path,
            source.connect_store(store),
            owner,
            sealing.SealOptions(
                shard_bytes=int(str(options["shard_bytes"])),
                jobs=None if options["jobs"] is None else int(str(options["jobs"])),
                codec=sealing.CodecPolicy(str(options["codec"])),
                parent=open_artifact(parent, store) if parent else None,
                index=index,
                sign_model=bool(options["sign_model"]),
                progress=ByteProgress(out, "sealed"),
            ),
        )
    finally:
        if index is not None:
            index.close()
    members = {name: getattr(report, name) for name in report.__slots__}
    out.say(
        f"{report.size_bytes:,} bytes in {report.num_shards} shards, {report.written_bytes:,} written; "
        f"{report.reused_shards} shards known, {report.delta_shards} deltas, {report.coded_shards} coded"
    )
    out.result(members, report.digest)
    return None
