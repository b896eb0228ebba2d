"""`stannary market node`: the nodes of a market, as its operator sees and rules them."""

from __future__ import annotations

from pathlib import Path

import click

from stannary.cli.command import command
from stannary.cli.commands.market_access import directory_option, operator_of
from stannary.cli.lazy import LazyGroup
from stannary.cli.output import Output, plain
from stannary.formats import quantity
from stannary.wire.admin import NodeView


@click.group(cls=LazyGroup)
def node() -> None:
    """Look after the nodes of a market you run."""


@command
@directory_option
def ls(out: Output, directory: Path | None) -> None:
    """List every node that ever joined: whose, what, whether it is here, what it holds."""
    with operator_of(directory) as operator:
        found = operator.nodes().nodes
    if not found:
        out.say("no node has joined; let one in: stannary market join-token --operator NAME")
    columns = ("NODE", "NAME", "OPERATOR", "TIER", "CLASS", "STATE", "LEASES", "SCU", "PER HOUR", "BOND")
    rows = [
        (
            item.node, item.name, item.operator, item.tier, item.engine_class, _state(item), str(item.leases),
            _grade(item), quantity.dollars(item.ask_usd_micros_per_hour), quantity.dollars(item.bond_usd_micros),
        )
        for item in found
    ]  # fmt: skip
    value = {"nodes": [item.model_dump(mode="json") for item in found]}
    out.table(columns, rows, value, narrow=("CLASS", "NAME", "OPERATOR"))


@command
@directory_option
@click.argument("node_id", metavar="NODE")
@click.option("--undo", is_flag=True, help="Give it work again.")
def drain(out: Output, directory: Path | None, node_id: str, undo: bool) -> None:
    """Give a node no new work; what it holds and what it owes goes on. It stays so until --undo."""
    with operator_of(directory) as operator:
        operator.drain(node_id, draining=not undo)
    what = "gets work again" if undo else "gets no new work"
    out.result({"node": node_id, "draining": not undo}, f"{plain(node_id)} {what}")


@command
@directory_option
@click.argument("node_id", metavar="NODE")
@click.option("--yes", is_flag=True, help="Do not ask.")
def revoke(out: Output, directory: Path | None, node_id: str, yes: bool) -> None:
    """Take a node's credential for ever: its leases end, and it cannot join again. Its bond stays."""
    if not yes:
        out.confirm(f"Revoke {plain(node_id)} for ever?", flag="--yes")
    with operator_of(directory) as operator:
        operator.revoke(node_id)
    out.result({"node": node_id, "revoked": True}, f"{plain(node_id)} is revoked")


node.add_command(ls)
node.add_command(drain)
node.add_command(revoke)


def _grade(view: NodeView) -> str:
    return quantity.scu(view.grade_ppm) if view.grade_ppm is not None else "-"


def _state(view: NodeView) -> str:
    if view.convicted or view.revoked:
        return "convicted" if view.convicted else "revoked"
    if view.suspended:
        return f"suspended, canary {view.canary}" if view.canary else "suspended"
    return "draining" if view.draining else view.state
