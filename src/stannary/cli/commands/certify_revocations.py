"""`stannary certify revocations`: show and sign notices of withdrawn hardware."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from stannary import files
from stannary.cli.command import command
from stannary.cli.commands.certify_files import advised, envelopes, moment, print_signed, signing_key
from stannary.cli.lazy import LazyGroup
from stannary.cli.output import Output, plain
from stannary.errors import UsageError

if TYPE_CHECKING:
    from stannary.certify.revocation_notice import RevocationNotice

path_type = click.Path(path_type=Path)


@click.group(cls=LazyGroup)
def revocations() -> None:
    """Show and sign notices of withdrawn hardware."""


@command
@click.argument("notice_files", metavar="[NOTICE]...", nargs=-1, type=path_type)
@click.option("--policy", "policy_name", default="standard", show_default=True, metavar="NAME|FILE")
@advised
def show(out: Output, notice_files: tuple[Path, ...], policy_name: str) -> int:
    """List what notices say, and whether the policy believes them; without files the packaged notice."""
    from stannary.certify import revocation_notice as notices
    from stannary.certify.policy import load
    from stannary.formats import record

    loaded = load(policy_name)
    found: list[tuple[RevocationNotice, str]] = []
    if not notice_files:
        found.append((notices.packaged(), "yes, packaged" if loaded.packaged_revocations else "no, left out"))
    for envelope in envelopes(notice_files):
        judged = notices.believe((envelope,), loaded).appraisal
        refusal = judged.refusal
        found.append((notices.unverified(envelope), "yes" if refusal is None else f"NO: {refusal.observed}"))
    rows = [
        (
            plain(item.identity),
            item.status.value,
            item.observed_at,
            plain(notice.watcher),
            plain(believed),
            plain(item.source),
        )
        for notice, believed in found
        for item in notice.entries
    ]
    value = [{"believed": believed, **record.to_json(notice)} for notice, believed in found]
    out.table(("IDENTITY", "STATUS", "OBSERVED", "WATCHER", "BELIEVED", "SOURCE"), rows, {"notices": value})
    return 3 if any(believed.startswith("NO") for _, believed in found) else 0


@command
@click.argument("identities", metavar="[IDENTITY]...", nargs=-1)
@click.option("--watcher", required=True, help="Your name, as policies list it.")
@click.option("--status", default="certificateHold", show_default=True, help="What was said, as RFC 5280 spells it.")
@click.option("--source", default="", help="Which responder said so, e.g. its address.")
@click.option("--observed-at", metavar="TIME", help="When it said so  [default: the notice's time]")
@click.option("--continue", "earlier", type=path_type, help="Your earlier notice: its other entries are kept.")
@click.option(
    "--drop", "dropped", multiple=True, metavar="IDENTITY", help="An entry of the earlier notice to leave out."
)
@click.option("-o", "--output", type=path_type, required=True, help="Where to write the signed notice.")
@click.option("--key", "key_file", type=path_type, help="Ed25519 key that signs (made if absent).")
@click.option("--now", metavar="TIME", help="The notice's time  [default: now]")
@advised
def sign(out: Output, identities: tuple[str, ...], **options: Any) -> None:
    """Sign that hardware IDENTITIES (nvidia:..., snp:..., ek:...) were withdrawn. Your newest notice counts, whole."""
    from stannary.certify import revocation_notice as notices
    from stannary.certify.moments import format_moment
    from stannary.certify.withdrawals import CrlReason, Withdrawal

    try:
        status = CrlReason(options["status"])
    except ValueError as err:
        raise UsageError(
            "no such status", why=f"{options['status']!r:.40}", hint=f"one of {', '.join(CrlReason)}"
        ) from err
    if identities and not options["source"]:
        raise UsageError("who said so is not said", why="an entry names its responder", hint="add --source TEXT")
    issued = format_moment(moment(options["now"]))
    observed = format_moment(moment(options["observed_at"])) if options["observed_at"] else issued
    made = notices.RevocationNotice(
        options["watcher"],
        issued,
        tuple(Withdrawal(item, status, options["source"], observed) for item in identities),
    )
    if options["earlier"] is not None:
        made = _continued(made, options["earlier"], {*identities, *options["dropped"]})
    if not made.entries and options["earlier"] is None:
        raise UsageError(
            "a notice of nothing", why="no identity given", hint="name a hardware identity, or --continue FILE"
        )
    key = signing_key(options["key_file"])
    files.replace(options["output"], notices.sign(made, key).to_bytes())
    print_signed(out, options["output"], key, f"revocation_keys.{made.watcher}")


def _continued(made: RevocationNotice, earlier: Path, replaced: set[str]) -> RevocationNotice:
    from stannary.certify import revocation_notice as notices

    (envelope,) = envelopes((earlier,))
    before = notices.unverified(envelope)
    kept = tuple(item for item in before.entries if item.identity not in replaced)
    return replace(made, entries=(*kept, *made.entries))


for _item in (show, sign):
    revocations.add_command(_item)
