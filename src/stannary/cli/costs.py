"""What a job cost, node by node: from the receipt this client has verified, each line put to the node it is for.

A settlement line names an operator and a task or an audit; who did it stands in the evidence. The time is a node's own
meter, all phases, and the price per hour what its credential says: what is paid follows agreed steps, not the meter.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from stannary.cli.output import table_lines
from stannary.formats import bounds
from stannary.formats.ids import NodeId, TaskId
from stannary.formats.predicates import Role, SettlementLine
from stannary.formats.quantity import dollars
from stannary.verify.case import Case
from stannary.verify.report import Claims

COLUMNS = ("NODE", "OPERATOR", "PRICE", "TIME", "WORK", "AUDITS", "TOTAL")
MS_PER_S = 1000


@dataclass(slots=True)
class NodeCost:
    """One node's part."""

    node: str
    operator: str
    ask_usd_micros_per_hour: int
    duration_ms: int = 0
    work_usd_micros: int = 0
    audits_usd_micros: int = 0

    @property
    def total_usd_micros(self) -> int:
        """Return what it got."""
        return self.work_usd_micros + self.audits_usd_micros

    def to_json(self) -> dict[str, Any]:
        """Return the members of one entry of `nodes`."""
        names = ("node", "operator", "ask_usd_micros_per_hour", "duration_ms", "work_usd_micros", "audits_usd_micros")
        return {name: getattr(self, name) for name in names} | {"total_usd_micros": self.total_usd_micros}


def by_node(claims: Claims) -> list[NodeCost]:
    """Return every node that worked or audited, or was paid, the dearest first."""
    case = claims.case
    found: dict[NodeId, NodeCost] = {}
    for node, held in case.credentials.items():
        credential = held[-1].predicate
        found[node] = NodeCost(node, credential.operator, credential.ask_usd_micros_per_hour)
    for reading in sorted((item.predicate for item in case.readings), key=lambda item: item.seq):
        spent = reading.spent  # cumulative: the last one counts
        phases = (spent.start_ms, spent.compute_ms, spent.link_ms, spent.idle_ms, spent.audit_ms)
        found[reading.node].duration_ms = sum(bounds.MS.clamp(phase) for phase in phases)
    stopped = {item.predicate.task: item.predicate.node for item in case.stopped}
    auditors = {audit: node for audit, node, role in case.answers if role is Role.AUDITOR}
    for line in _paid(claims.receipt.settlement):
        if line.reason == "audit":
            node = auditors.get(line.task)  # type: ignore[call-overload]  # an audit's id, as text
            if node is not None:
                found[node].audits_usd_micros += line.usd_micros
        elif (made := _contributor(case, line.task) or stopped.get(TaskId(line.task))) is not None:
            found[made].work_usd_micros += line.usd_micros
    used = (item for item in found.values() if item.duration_ms or item.total_usd_micros)
    return sorted(used, key=lambda item: (-item.total_usd_micros, item.node))


def lines(nodes: Iterable[NodeCost], *, width: int) -> list[str]:
    """Return the table of nodes, as wide as the screen allows."""
    rows = [
        (
            item.node,
            item.operator,
            f"{dollars(item.ask_usd_micros_per_hour)}/h",
            duration(item.duration_ms),
            dollars(item.work_usd_micros),
            dollars(item.audits_usd_micros),
            dollars(item.total_usd_micros),
        )
        for item in nodes
    ]
    return table_lines(COLUMNS, rows, narrow=("OPERATOR",), width=width) if rows else []


def duration(milliseconds: int) -> str:
    """Spell a length of time as a clock shows it: `1:02:03`, or seconds with a tenth below a minute."""
    if milliseconds < 60 * MS_PER_S:
        return f"{milliseconds / MS_PER_S:.1f} s"
    minutes, seconds = divmod(milliseconds // MS_PER_S, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}"


def _paid(settlement: Iterable[SettlementLine]) -> Iterable[SettlementLine]:
    return (line for line in settlement if line.account.startswith("operator:") and line.usd_micros)


def _contributor(case: Case, task: str) -> NodeId | None:
    made = case.contributions.get(task)  # type: ignore[call-overload]  # a task's id, as text
    return made.predicate.node if made is not None else None
