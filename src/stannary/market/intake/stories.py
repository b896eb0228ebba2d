"""A node's second story about one thing: kept as evidence, once a job, and its bond disputed (rules/stories.py).

Rules:
- The first word counts, as it always did (docs/receipt.md R6.22): the job goes on by it, and whoever sends a second one
  is told that it is refused.
- Kept and logged is one second story of a node in a job, while the job's receipt is not made: two signatures prove what
  they prove, and more of them would only fill the receipt.
- A bond is in question under rules that dispute bonds; a job of rules 2 refuses the second word and no more.
"""

from __future__ import annotations

from sqlalchemy.engine import Connection

from stannary.formats.predicates import Answer, AnswerCommitment, Commitment, Contribution
from stannary.jobs.appealing import DisputeRow
from stannary.jobs.course.state import JobOrder, Node
from stannary.jobs.states import DisputeStage, JobStatus
from stannary.rules import edition, stories
from stannary.rules.stories import Story
from stannary.store import audits, disputes, envelopes, jobs, nodes, tasks
from stannary.store.envelopes import Incoming

OPEN = frozenset({JobStatus.RUNNING, JobStatus.CANCELLING})


def keep(
    connection: Connection, order: JobOrder | None, node: Node, made: Story, incoming: Incoming, now_ms: int
) -> bool:
    """Keep a statement that contradicts what its node has said, and dispute its bond; return whether it does."""
    if order is None or not edition.of(order.spec).disputes_bonds:
        return False
    before = _said(connection, made)
    if before is None or before == stories.word(made):
        return False
    is_known = any(row.node == made.node for row in disputes.of_job(connection, order.job))
    if not is_known and jobs.get(connection, order.job).status in OPEN:
        envelopes.add(connection, incoming)
        bond = node.bond_in(order.spec)
        row = DisputeRow(order.job, made.node, made.task, bond, DisputeStage.DISPUTED, now_ms)
        disputes.open_(connection, row, f"it signed two different {incoming.kind}s for {made.task}")
        nodes.convict(connection, made.node, at_ms=now_ms)
    return True


def _said(connection: Connection, made: Story) -> tuple[str, ...] | None:
    """Return what a node said before of the same thing, None if nothing."""
    match made:
        case Commitment() | Contribution():
            task = tasks.get(connection, made.task)
            if (task.node, task.epoch) != (made.node, made.epoch):
                return None
            known = task.commitment if isinstance(made, Commitment) else task.root
            return (known,) if known is not None else None
        case AnswerCommitment() | Answer():
            rows = audits.answers_of(connection, made.audit)
            given = next((row for row in rows if (row.role, row.node) == (made.role, made.node)), None)
            if given is None:
                return None
            if isinstance(made, AnswerCommitment):
                return (given.commitment,)
            return (given.root, given.answer) if given.root is not None and given.answer is not None else None
