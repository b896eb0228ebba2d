"""`stannary artifact key` and `artifact wrap`: the owner's key, its export and backup, and wraps for others."""

from __future__ import annotations

import os
from pathlib import Path

import click

from stannary.cli.command import command
from stannary.cli.lazy import LazyGroup
from stannary.cli.output import Output

MAX_PASSPHRASE_FILE_BYTES = 4096


@click.group(cls=LazyGroup)
def key() -> None:
    """Keep the owner's key safe."""


@command
def show(out: Output) -> None:
    """Show the public halves: who you are, and where wraps for you go."""
    from stannary.seal import keystore, oms

    owner = keystore.load()
    pem = oms.public_pem(owner.model_signing.public_key()).decode("ascii")
    members = {"owner": owner.public.hex(), "receiving": owner.receiving.public.hex(), "model_signing": pem}
    out.result(members, f"owner      {members['owner']}\nreceiving  {members['receiving']}\n{pem}")


@command
def new(out: Output) -> None:
    """Make your key, to be given wraps before you ever sealed anything."""
    from stannary.seal import keystore

    owner = keystore.create()
    out.say(f"made your owner key: {keystore.key_path()}")
    out.say("without it your artifacts stay shut: stannary artifact key export FILE")
    out.result({"owner": owner.public.hex(), "receiving": owner.receiving.public.hex()}, owner.public.hex())


@command
@click.argument("path", type=click.Path(path_type=Path))
@click.option("--passphrase-file", type=click.Path(path_type=Path, exists=True), help="Read the passphrase from here.")
def export(out: Output, path: Path, passphrase_file: Path | None) -> None:
    """Write your key to PATH, wrapped under a passphrase."""
    from stannary.seal import keystore

    owner = keystore.load()
    _write_new(path, keystore.export(owner, _passphrase(passphrase_file, confirm=True)))
    out.result({"path": str(path)}, str(path))


@command
@click.argument("path", type=click.Path(path_type=Path, exists=True))
@click.option("--passphrase-file", type=click.Path(path_type=Path, exists=True), help="Read the passphrase from here.")
def import_(out: Output, path: Path, passphrase_file: Path | None) -> None:
    """Take over a key: an export, or what `age -d` gives back."""
    from stannary.seal import keystore

    data = read_small(path, keystore.MAX_KEY_FILE_BYTES)
    owner = keystore.read_copy(data, lambda: _passphrase(passphrase_file, confirm=False))
    keystore.store(owner)
    out.result({"owner": owner.public.hex()}, owner.public.hex())


@command
@click.argument("path", type=click.Path(path_type=Path))
@click.option("--to", "recipients", required=True, multiple=True, metavar="age1...", help="An age recipient.")
def backup(out: Output, path: Path, recipients: tuple[str, ...]) -> None:
    """Write your key to PATH, encrypted to age recipients."""
    from stannary.seal import keystore

    _write_new(path, keystore.backup(keystore.load(), recipients))
    out.result({"path": str(path), "recipients": list(recipients)}, str(path))


@command
@click.argument("digest")
@click.option("--from", "source", required=True, metavar="DIR|URL", help="Where the artifact lies.")
@click.option("--to", "recipient", required=True, metavar="HEX", help="Receiving key (artifact key show).")
@click.option("--audience", required=True, help="What it is for; the opener must name the same.")
@click.option("--group", "groups", multiple=True, help="Key group; all of them if none is named.")
@click.option("--hours", type=click.IntRange(1, 720), default=24, show_default=True, help="How long it opens.")
@click.option("-o", "path", required=True, type=click.Path(path_type=Path), help="New file for the wrap.")
def wrap(out: Output, digest: str, source: str, recipient: str, audience: str, **options: object) -> None:
    """Wrap key groups of an artifact to somebody's receiving key."""
    from datetime import UTC, datetime, timedelta

    from stannary.cli.digests import artifact_digest
    from stannary.errors import UsageError
    from stannary.seal import keystore
    from stannary.seal import open as open_artifact
    from stannary.seal import wrap as wrapping

    try:
        public_key = wrapping.public_key(bytes.fromhex(recipient))
    except ValueError as err:
        raise UsageError(
            "not a receiving key", why="not hex", hint="its holder sees it with: stannary artifact key show"
        ) from err
    opened = open_artifact(artifact_digest(digest), source)
    held = tuple(item.id for item in opened.manifest.groups)
    chosen = options["groups"] if isinstance(options["groups"], tuple) and options["groups"] else held
    unknown = sorted(set(chosen) - set(held))
    if unknown:
        raise UsageError("no such key group", why=", ".join(unknown)[:200], hint=f"stannary artifact show {digest}")
    expires_at = datetime.now(UTC) + timedelta(hours=int(str(options["hours"])))
    path = Path(str(options["path"]))
    _write_new(path, wrapping.wrap(opened.head, keystore.load(), chosen, public_key, (audience, expires_at)))
    out.result({"path": str(path), "groups": list(chosen), "expires_at": expires_at.isoformat()}, str(path))


def _passphrase(source: Path | None, *, confirm: bool) -> str:
    from stannary.errors import ConfirmationRequired, UsageError

    if source is not None:
        try:
            return read_small(source, MAX_PASSPHRASE_FILE_BYTES).decode("utf-8").rstrip("\r\n")
        except UnicodeDecodeError as err:
            raise UsageError(
                "the passphrase is not text", why=f"{source}: not UTF-8", hint="--passphrase-file FILE"
            ) from err
    if not os.isatty(0):
        raise ConfirmationRequired("a passphrase is needed", why="no terminal to ask on", hint="--passphrase-file FILE")
    passphrase: str = click.prompt("Passphrase", hide_input=True, confirmation_prompt=confirm, err=True)
    return passphrase


def read_small(path: Path, limit: int) -> bytes:
    """Read a small file that the caller named."""
    from stannary.errors import LimitExceeded, UsageError

    try:
        with path.open("rb") as file:
            data = file.read(limit + 1)
    except OSError as err:
        raise UsageError("cannot read it", why=f"{path}: {err.strerror}", hint="name a file that you may read") from err
    if len(data) > limit:
        raise LimitExceeded(
            "the file is too large for this",
            why=f"{path}: more than {limit:,} bytes",
            hint="name the file that was meant",
        )
    return data


def _write_new(path: Path, data: bytes) -> None:
    """Write a private file that did not exist before, whole or not at all."""
    from stannary.errors import UsageError
    from stannary.seal import keystore

    try:
        keystore.write_new(path, data)
    except OSError as err:
        raise UsageError("cannot write there", why=f"{path}: {err.strerror}", hint="name a new file") from err


for _command in (new, show, export, import_, backup):
    key.add_command(_command)
