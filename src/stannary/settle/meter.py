"""The meter: a hash chain of cumulative readings, one chain for each node in a job.

Rules (docs/receipt.md R6.18):
- Readings are numbered from 0 without gaps; each names the digest of the one before, the first the
  digest that `origin` gives (so a chain cannot be moved to another job or node).
- Every part of `Spent` is cumulative and never falls. `read_at` may: it is the node's own word, which is held to the
  log's time (rules/clocks.py rule 1), and a clock that was set back between two readings is no false meter.
- A cumulative reading cannot claim more time than has passed since the first one, plus what the
  start cost: a node that runs its meter fast is caught by the clock of the market.
- Two readings of one number are an equivocation; the store refuses the second.
"""

from __future__ import annotations

from dataclasses import fields

from stannary.errors import Refuted
from stannary.formats import canonical, digest, record
from stannary.formats.digest import Digest
from stannary.formats.ids import JobId, NodeId
from stannary.formats.predicates import Reading, Spent

CLOCK_SLACK_MS = 5_000  # between two clocks and two whole-second times

NOTHING = Spent(start_ms=0, compute_ms=0, link_ms=0, idle_ms=0, audit_ms=0)


def origin(job: JobId, node: NodeId) -> Digest:
    """Return what the first reading of a node in a job names as its previous one (R6.18)."""
    return digest.from_raw(digest.hash_parts("stannary meter v1", job.encode(), node.encode()))


def reading_digest(reading: Reading) -> Digest:
    """Return the digest by which the next reading names this one (R6.18)."""
    return digest.digest(canonical.encode(record.to_json(reading)))


def total_ms(spent: Spent) -> int:
    """Return all milliseconds of a reading: its parts are disjoint."""
    return sum(getattr(spent, part.name) for part in fields(Spent))


def check_next(last: Reading | None, following: Reading, *, elapsed_ms: int) -> None:
    """Refuse a reading that does not continue the chain.

    Args:
        last: the newest reading kept, None before the first.
        following: the reading to add.
        elapsed_ms: time since the node's first lease in the job, by the market's clock.

    Raises:
        Refuted: wrong number, wrong link, a part that falls, or more time than has passed.
    """
    seq = 0 if last is None else last.seq + 1
    previous = origin(following.job, following.node) if last is None else reading_digest(last)
    if following.seq != seq:
        raise _refuted(following, f"number {following.seq}, expected {seq}")
    if following.previous != previous:
        raise _refuted(following, "it does not name the reading before it")
    if last is not None and (following.job, following.node) != (last.job, last.node):
        raise _refuted(following, "it belongs to another chain")
    before = NOTHING if last is None else last.spent
    for part in fields(Spent):
        if getattr(following.spent, part.name) < getattr(before, part.name):
            raise _refuted(following, f"{part.name} fell to {getattr(following.spent, part.name)}")
    if total_ms(following.spent) > elapsed_ms + CLOCK_SLACK_MS:
        raise _refuted(following, f"{total_ms(following.spent)} ms metered in {elapsed_ms} ms")


def _refuted(reading: Reading, why: str) -> Refuted:
    return Refuted("a meter reading does not hold", why=f"{reading.node} in {reading.job}: {why}")
