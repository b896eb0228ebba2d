"""`stannary artifact key` and `artifact wrap`: the owner's key, its export and backup, and wraps for others."""

from __future__ import annotations

import os
from pathlib import Path

import click

from stannary.cli.command import command
from stannary.cli.output import Output


@click.group()
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
    """Take over a key from an export, or from the plain bytes that `age -d` gives back."""
    from stannary.errors import FormatError
    from stannary.seal import keystore

    data = path.read_bytes()
    try:
        owner = keystore.parse(data)
    except FormatError:
        owner = keystore.import_export(data, _passphrase(passphrase_file, confirm=False))
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

    from stannary.errors import UsageError
    from stannary.seal import keystore
    from stannary.seal import open as open_artifact
    from stannary.seal import wrap as wrapping

    try:
        public_key = wrapping.public_key(bytes.fromhex(recipient))
    except ValueError as err:
        raise UsageError("not a receiving key", why="not hex", hint="stannary artifact key show") from err
    opened = open_artifact(digest, source)
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
    from stannary.errors import ConfirmationRequired

    if source is not None:
        return source.read_text(encoding="utf-8").rstrip("\n")
    if not os.isatty(0):
        raise ConfirmationRequired("a passphrase is needed", why="no terminal to ask on", hint="--passphrase-file FILE")
    passphrase: str = click.prompt("Passphrase", hide_input=True, confirmation_prompt=confirm, err=True)
    return passphrase


def _write_new(path: Path, data: bytes) -> None:
    """Write a private file that did not exist before."""
    from stannary.errors import UsageError

    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    except OSError as err:
        raise UsageError("cannot write there", why=f"{path}: {err.strerror}", hint="name a new file") from err
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)


for _command in (show, export, import_, backup):
    key.add_command(_command)
