"""Two stories: what of a node's statements contradict one another (docs/receipt.md R18.8; docs/audits.md).

Rules:
1. A node speaks once of what it did under one task and epoch, and once, with one role, in one audit: a commitment and a
   contribution, an answer commitment and an answer.
2. Two that say different things there contradict one another, whoever wrote the program: both are signed, and nothing
   needs to be computed again. What a contribution says is its root, what an answer says its root and answer; a
   commitment says its hash. Other times, figures or salts under the same word are no other story.
3. A node that hands a task back, or says that it failed, signs nothing: that is no story.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from stannary.formats.ids import NodeId, TaskId
from stannary.formats.predicates import Answer, AnswerCommitment, Commitment, Contribution

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Story = Commitment | Contribution | AnswerCommitment | Answer


def about(said: Story) -> tuple[object, ...]:
    """Return what a node says one thing about only (rule 1)."""
    if isinstance(said, Commitment | Contribution):
        return type(said), said.task, said.node, said.epoch
    return type(said), said.audit, said.node, said.role


def word(said: Story) -> tuple[str, ...]:
    """Return what a statement says, by which it contradicts others (rule 2)."""
    match said:
        case Contribution(root=root):
            return (root,)
        case Answer(root=root, answer=answer):
            return root, answer
        case _:
            return (said.commitment,)


def tellers(said: Iterable[DataclassInstance]) -> frozenset[tuple[TaskId, NodeId]]:
    """Return task and node of each pair of statements that contradict one another."""
    first: dict[tuple[object, ...], Story] = {}
    found = set()
    for item in said:
        if isinstance(item, Story) and word(first.setdefault(about(item), item)) != word(item):
            found.add((item.task, item.node))
    return frozenset(found)
