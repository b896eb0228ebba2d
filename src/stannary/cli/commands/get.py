"""`stannary get`: fetch results; each file's bytes are checked against the digest the nodes committed to."""

from __future__ import annotations

from pathlib import Path

import click

from stannary.cli import session
from stannary.cli.command import command
from stannary.cli.output import Output
from stannary.errors import NotFound
from stannary.formats import digest, workdir


@command
@click.argument("job")
@click.argument("name", required=False)
@click.option("-o", "--output", "directory", default=".", type=click.Path(path_type=Path), help="Write into DIR.")
def get(out: Output, job: str, name: str | None, directory: Path) -> None:
    """Fetch a job's results, or the one called NAME, into a directory."""
    wanted = session.job_id(job)
    with session.connect() as client:
        listed = client.outputs(wanted).outputs
        chosen = [item for item in listed if name is None or item.name == name]
        if not chosen:
            names = ", ".join(item.name for item in listed) or "none yet"
            raise NotFound(f"no result {name or ''} of {job}".replace("  ", " "), why=f"results: {names}"[:300])
        fetched = []
        for item in chosen:
            # A result is named by the nodes that made it: the name must stay below DIR.
            target = directory / workdir.parse_path(item.name)
            target.parent.mkdir(parents=True, exist_ok=True)
            out.status(f"    fetching  {item.name}  {item.size_bytes:,} bytes")
            client.download(digest.parse(item.digest), target, item.size_bytes)
            fetched.append({"path": str(target), "digest": item.digest, "size_bytes": item.size_bytes})
    out.result({"outputs": fetched}, "\n".join(f"{item['path']}  {item['digest']}" for item in fetched))
