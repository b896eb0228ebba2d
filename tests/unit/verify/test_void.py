"""What a node says twice, or too late: listed as void, and nobody's receipt suffers."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from tests.unit.verify.world import World

from stannary.formats import predicates
from stannary.formats.jobspec import JobKind
from stannary.formats.predicates import Role, Verdict
from stannary.verify.receipt import verify_receipt
from stannary.verify.report import Report, Severity


def judged(world: World) -> Report:
    """Verify the world's receipt."""
    return verify_receipt(world.receipt(), world.trust(), world.now)


def refuted(report: Report) -> list[str]:
    """Name what refutes a receipt."""
    return [item.id for item in report.findings if item.severity is not Severity.NOTICE]


def voids(report: Report) -> list[str]:
    """Name the statements listed as void, without their place."""
    return [item.subject.partition(" ")[0] for item in report.findings if item.id == "statement.void"]


class Doubling(World):
    """Everybody says everything of one kind twice, in other words the second time."""

    doubled = ""

    def log(self, kind: str, predicate: Any, key: Any) -> Any:
        """Log the statement, and another of the same."""
        made = super().log(kind, predicate, key)
        if kind == self.doubled:
            changes: dict[str, dict[str, Any]] = {
                "contribution": {"finished_at": self.time(self.now)},
                "answer": {"answered_at": self.time(self.now)},
                "answer-commitment": {"commitment": "ab" * 32},
                "commitment": {"commitment": "cd" * 32},
            }
            super().log(kind, replace(predicate, **changes[kind]), key)
        return made


def test_the_first_of_two_statements_counts() -> None:
    """A second commitment, contribution, answer or answer commitment of one party changes nothing but a notice."""
    for kind in ("commitment", "contribution", "answer-commitment", "answer"):
        world = Doubling()
        world.doubled = kind
        report = judged(world.play())
        assert refuted(report) == [], kind
        assert report.verdict is Verdict.VERIFIED
        assert set(voids(report)) == {kind}


def test_an_answer_behind_the_silence_of_its_party_is_void() -> None:
    """Whoever speaks after the market signed that he was silent is not heard, and does not refute the receipt."""

    class Late(World):
        def say_silent(self, selection: Any, role: Role, node: Any, rank: int) -> None:
            """Sign the silence; the party commits to an answer right after it."""
            super().say_silent(selection, role, node, rank)
            audit = selection.audits[rank] if selection.audits else selection.alone
            late = predicates.AnswerCommitment(self.job_id, audit, selection.task, role, node.id, "ab" * 32)
            self.log("answer-commitment", late, node.key)

    report = judged(Late(silent={"n1"}).play())
    assert refuted(report) == []
    assert "answer-commitment" in voids(report)


def test_a_draw_of_an_epoch_given_up_is_no_draw_of_the_next() -> None:
    """A node that commits, is drawn, gives up and gets the task again is judged by the draw of its last commitment."""
    world = World(kind=JobKind.COMMAND, lanes=1)
    world.open()
    assignment = world._assign(0, 0, 0)
    node = world.node_of(0)
    given_up = predicates.Commitment(world.job_id, assignment.task, 7, node.id, "ab" * 32)
    world.commitments.append((world.tree.size, assignment.task, node))
    world.log("commitment", given_up, node.key)
    _, leaf = world._fix_candidates(world.num_draws)
    world._draw_tasks(leaf)
    world._work(assignment, node, lie=False)
    world.audit()
    world.close()
    report = judged(world)
    assert refuted(report) == []
    assert report.verdict is Verdict.VERIFIED
