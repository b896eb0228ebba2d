"""`stannary policy`: explain and test trust policies."""

from __future__ import annotations

from pathlib import Path

import click

from stannary.cli.command import command
from stannary.cli.commands.certify_files import advised
from stannary.cli.lazy import LazyGroup
from stannary.cli.output import Output

EXIT_BELOW_POLICY = 4


@click.group(cls=LazyGroup)
def policy() -> None:
    """Explain and test trust policies: typed TOML, named by the hash of what they say."""


@command
@click.argument("name", metavar="NAME|FILE", default="standard")
@advised
def explain(out: Output, name: str) -> None:
    """Say in words what a policy requires, and its id."""
    from stannary.certify import policy as policies
    from stannary.formats import record

    loaded = policies.load(name)
    rows = policies.explain(loaded)
    text = "\n".join(f"{what:<22}{requirement}" for what, requirement in rows)
    out.result({"id": loaded.id, "policy": record.to_json(loaded)}, text)


@command
@click.argument("name", metavar="NAME|FILE")
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
@advised
def test(out: Output, name: str, folder: Path) -> int:
    """Appraise the evidence kept in DIR (certify appraise --keep) under a policy; exit 4 if any falls below."""
    from stannary.certify import policy as policies
    from stannary.certify.folder import Folder
    from stannary.certify.reappraise import again
    from stannary.certify.tiers import verdict

    loaded, store = policies.load(name), Folder(folder)
    rows, value = [], []
    for entry in store.entries():
        result = again(store, entry, loaded, frozenset())
        now = "refused" if result.decision.refused else result.decision.tier.name
        word = verdict(accepted=result.accepted, refused=result.decision.refused)
        rows.append((entry.appraised_at, entry.node_key[:16], entry.tier, now, word, result.reason[:80]))
        value.append({"evidence": entry.evidence, "was": entry.tier, "now": now, "accepted": result.accepted,
                      "reason": result.reason})  # fmt: skip
    out.table(
        ("APPRAISED", "KEY", "WAS", "NOW", "VERDICT", "BECAUSE"), rows, {"policy": loaded.id, "appraisals": value}
    )
    return 0 if all(item["accepted"] for item in value) else EXIT_BELOW_POLICY


policy.add_command(explain)
policy.add_command(test)
