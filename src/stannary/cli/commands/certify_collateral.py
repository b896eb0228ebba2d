"""`stannary certify collateral`: fetch what vendors sign about a machine's hardware."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from stannary.cli.command import command
from stannary.cli.commands.certify_files import MAKE_EVIDENCE, advised, moment, read_as
from stannary.cli.lazy import LazyGroup
from stannary.cli.output import Output, plain

if TYPE_CHECKING:
    from stannary.certify.collateral.client import Supplied

EXIT_INCOMPLETE = 1
path_type = click.Path(path_type=Path)


@click.group(cls=LazyGroup)
def collateral() -> None:
    """Fetch what vendors sign about a machine's hardware."""


@command
@click.argument("evidence_file", metavar="EVIDENCE", type=path_type)
@click.option("-o", "--output", type=path_type, required=True, metavar="DIR|FILE.json", help="Where items are kept.")
@click.option("--amd-url", metavar="URL", help="Mirror of AMD's key distribution service.")
@click.option("--intel-url", metavar="URL", help="Mirror of Intel's provisioning service (a PCCS), lists included.")
@click.option("--nvidia-rim-url", metavar="URL", help="Mirror of NVIDIA's reference manifests.")
@click.option("--ocsp-url", metavar="URL", help="Responder to ask instead of the one certificates name.")
@click.option("--refresh", is_flag=True, help="Ask again for what is here and not out of date.")
@click.option("--now", metavar="TIME", help="Time by which kept items are out of date  [default: now]")
@advised
def fetch(out: Output, evidence_file: Path, output: Path, **options: Any) -> int:
    """Fetch the collateral EVIDENCE needs; exit 1 if something is missing. What came is kept: run it again."""
    from stannary.certify import envelope
    from stannary.certify.collateral import client
    from stannary.certify.collateral.client import Fetch
    from stannary.certify.collateral.store import CollateralStore

    evidence = read_as(evidence_file, envelope.parse, MAKE_EVIDENCE)
    asked = client.Options(bases=_bases(options), refresh=options["refresh"], progress=out.say)
    found = []
    for item in client.fetch(evidence, CollateralStore(output), moment(options["now"]), asked):
        out.say(_line(item))
        found.append(item)
    missing = [item for item in found if item.state is Fetch.MISSING]
    value = {"file": str(output), "items": [_members(item) for item in found], "missing": len(missing)}
    lines = [f"{output}\n{len(found) - len(missing)} of {len(found)} items at hand"]
    for item in missing:
        lines += [f"missing  {_name(item)}", f"  why    {plain(item.why)}", f"  next   {plain(item.hint)}"]
    lines.append(f"next: stannary certify appraise {evidence_file} --challenge c.json --collateral {output}")
    out.result(value, "\n".join(lines))
    return EXIT_INCOMPLETE if missing else 0


@command
@click.argument("place", metavar="DIR|FILE", type=path_type)
@click.option("--now", metavar="TIME", help="Time to compare with  [default: now]")
@advised
def show(out: Output, place: Path, now: str | None) -> None:
    """List kept collateral and until when it stands."""
    from stannary.certify.collateral.store import CollateralStore

    items, at = CollateralStore(place).load().values(), moment(now)
    rows = [
        (
            item.kind,
            plain(item.name)[:40],
            item.fetched_at,
            item.next_update or "-",
            "yes" if item.is_fresh(at) else "NO",
        )
        for item in items
    ]
    value = [
        {"kind": item.kind, "name": item.name, "url": item.url, "fetched_at": item.fetched_at,
         "next_update": item.next_update, "is_fresh": item.is_fresh(at)}
        for item in items
    ]  # fmt: skip
    out.table(("KIND", "NAME", "FETCHED", "NEXT UPDATE", "FRESH"), rows, {"items": value})


def _bases(options: dict[str, Any]) -> dict[Any, str]:
    from stannary.certify.collateral.plan import Service

    named = {
        Service.AMD: options["amd_url"],
        Service.INTEL: options["intel_url"],
        # A caching service hands out Intel's root list too, beside the rest.
        Service.INTEL_ROOT: options["intel_url"],
        Service.RIM: options["nvidia_rim_url"],
        Service.OCSP: options["ocsp_url"],
    }
    return {service: url for service, url in named.items() if url}


def _name(item: Supplied) -> str:
    certificates = item.need.certificates
    return f"{item.need.kind} {certificates[0].common_name() if certificates else plain(item.need.name)[:48]}".strip()


def _line(item: Supplied) -> str:
    end = f", until {item.item.next_update}" if item.item is not None and item.item.next_update else ""
    return f"{item.state:<8} {plain(_name(item))}{end}"


def _members(item: Supplied) -> dict[str, str]:
    kept = item.item
    return {
        "kind": item.need.kind,
        "name": item.need.name,
        "state": item.state.value,
        "url": "" if kept is None else kept.url,
        "next_update": "" if kept is None else kept.next_update,
        "why": item.why,
        "next": item.hint,
    }


for _item in (fetch, show):
    collateral.add_command(_item)
