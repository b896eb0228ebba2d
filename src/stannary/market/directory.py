"""All nodes of the market in memory, as their newest credentials say: who may work, in which engine class.

Read once at the start; whatever joins, is convicted or revoked afterwards is read again alone (`refresh`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TypeVar

from sqlalchemy.engine import Connection

from stannary.errors import NotFound
from stannary.formats import dsse, statement
from stannary.formats.predicates import Credential, Join
from stannary.jobs.course.state import Node
from stannary.rules import grade, papers
from stannary.store import nodes
from stannary.store.nodes import StandingNode

P = TypeVar("P", Credential, Join)


class Directory:
    """The nodes of one market."""

    def __init__(self, *, measures: bool = False) -> None:
        self._measures = measures  # a node whose power is not measured does not work here
        self._nodes: dict[str, Node] = {}
        self._of_class: dict[str, dict[str, Node]] = {}  # in node order
        self.version = 0  # grows whenever a node changes: what was derived from them is old then

    def get(self, node: str) -> Node:
        """Return one node; NotFound if it never joined."""
        found = self._nodes.get(node)
        if found is None:
            raise NotFound("no such node", why=node)
        return found

    def grade_of(self, node: str) -> int | None:
        """Return the grade a node's work is paid by; None if nobody measured it."""
        found = self._nodes.get(node)
        return found.grade_ppm if found is not None and found.is_graded else None

    def of_class(self, engine_class: str) -> Iterable[Node]:
        """Return the nodes of one engine class, in node order."""
        return self._of_class.get(engine_class, {}).values()

    def __iter__(self) -> Iterator[Node]:
        """Yield every node."""
        return iter(self._nodes.values())

    def read(self, connection: Connection) -> None:
        """Read every node."""
        self.take(nodes.standing(connection))

    def take(self, rows: Iterable[StandingNode]) -> None:
        """Take what was read of some nodes."""
        for row in rows:
            node = _node(row, measures=self._measures)
            known = self._nodes.get(node.node)
            self._nodes[node.node] = node
            beside = self._of_class.setdefault(node.engine_class, {})
            if known is not None and known.engine_class != node.engine_class:
                del self._of_class[known.engine_class][known.node]
            beside[node.node] = node
            if known is None or known.engine_class != node.engine_class:
                self._of_class[node.engine_class] = dict(sorted(beside.items()))
        self.version += 1

    def offers(self, now_ms: int) -> list[Node]:
        """Return all nodes that may work now."""
        return [node for node in self._nodes.values() if not node.why_out(now_ms)]


def _node(row: StandingNode, *, measures: bool) -> Node:
    said = _read(row.envelope, "credential", Credential)
    signed = _read(row.join, "join", Join) if row.join is not None else None
    return Node(
        node=said.node,
        operator=said.operator,
        jurisdiction=said.jurisdiction,
        terms=said.terms,
        tier=said.tier,
        engine_class=said.engine_class,
        cpus=said.cpus,
        memory_bytes=said.memory_bytes,
        ask_usd_micros_per_hour=said.ask_usd_micros_per_hour,
        bond_usd_micros=said.bond_usd_micros,
        expires_at_ms=row.expires_at_ms,
        is_revoked=row.is_revoked,
        is_convicted=row.is_convicted,
        is_suspended=row.is_suspended,
        signed_bond_usd_micros=papers.bond_that_counts(said, signed),
        grade_ppm=grade.in_price(said),
        best_grade_ppm=grade.in_limits(said),
        is_graded=bool(said.tests),
        is_awaited=measures and not said.tests,
    )


def _read(envelope: bytes, kind: str, cls: type[P]) -> P:
    return statement.read(dsse.from_bytes(envelope).payload, kind, cls).predicate
