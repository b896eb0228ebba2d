"""A node's papers: its signed joins and the credentials they brought, and what of them counts (docs/receipt.md R6.24).

Rules:
1. A credential is the market's word about a node, a join the node's own. What both say must be the same, the ask above
   all: a market cannot let a node work at a price that nobody signed.
2. A bond counts as far as both sign it: the market that it is posted, the node that it is at stake. A credential whose
   join names no bond has none that counts.
3. A word of a node is judged by the credential in force when it was logged: the newest logged before it, the first
   where there is none. So a renewal changes nothing of what was done before it.
4. An ask only falls while a job is open: a unit is paid by the lowest ask in force from the job's placement until it
   was committed to. Whoever joins again at a higher price with a lease in hand is paid the old one.
5. A node keeps its key and its operator for ever; under another operator it could audit itself.

The market gives credentials and refuses joins by this, the node checks what it was given, the verifier judges by it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, TypeVar

from stannary.formats.predicates import Credential, Join

SAME = (
    "node",
    "key",
    "operator",
    "jurisdiction",
    "terms",
    "kind",
    "engine_class",
    "cpus",
    "memory_bytes",
    "ask_usd_micros_per_hour",
)  # what a credential repeats of its join
BOND = "bond_usd_micros"  # signed by both: a receipt counts the lesser (rule 2), a node takes no other
KEPT = ("key", "operator")  # of all credentials of one node


class Paper(Protocol):
    """A credential and where it stands in the log."""

    @property
    def index(self) -> int: ...
    @property
    def predicate(self) -> Credential: ...


P = TypeVar("P", bound=Paper)


def differences(credential: Credential, join: Join, *, bond: bool = False) -> tuple[str, ...]:
    """Return the members of a credential that do not say what its node signed (rule 1), of its `bond` only if asked."""
    found = [name for name in (*SAME, *([BOND] if bond else [])) if getattr(credential, name) != getattr(join, name)]
    if [item.name for item in credential.members] != [item.name for item in join.members]:
        found.append("members")  # their tiers are the market's to say
    return tuple(found)


def bond_that_counts(credential: Credential, join: Join | None) -> int:
    """Return what of a credential's bond both sides signed, in micro-dollars (rule 2)."""
    signed = join.bond_usd_micros if join is not None else None
    return max(min(credential.bond_usd_micros, signed or 0), 0)


def in_force(held: Sequence[P], index: int) -> P:
    """Return the credential that is in force at a log index; `held` are a node's, in log order (rule 3)."""
    return next((item for item in reversed(held) if item.index < index), held[0])


def lowest_ask(held: Sequence[Paper], since: int, until: int) -> int:
    """Return the lowest ask in force between two log indexes, in micro-dollars an hour (rule 4)."""
    first = in_force(held, since)
    between = [item.predicate for item in held if since <= item.index < until]
    return min(item.ask_usd_micros_per_hour for item in (first.predicate, in_force(held, until).predicate, *between))
