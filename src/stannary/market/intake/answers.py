"""What prover and auditors say in an audit: a blinded answer first, then the answer that opens it."""

from __future__ import annotations

from sqlalchemy.engine import Connection

from stannary.errors import FormatError, Refuted
from stannary.formats import commitments, dsse, predicates
from stannary.formats.ids import LeaseType
from stannary.formats.predicates import Answer, AnswerCommitment, Role
from stannary.market.engine import recording
from stannary.market.intake.statements import Intake, check_live, expect
from stannary.store import audits


async def answer_commitment(intake: Intake, node: str, lease: str, envelope: dsse.Envelope) -> int:
    """Take a blinded answer; return its log index."""
    sent, made = await intake.open(node, lease, envelope, ("answer-commitment", AnswerCommitment))
    kind = LeaseType.QUESTION if made.role is Role.PROVER else LeaseType.AUDIT
    expect(sent, kind, job=made.job, task=made.task, node=made.node, audit=made.audit)
    return await intake.take(
        sent,
        made,
        lambda c: check_live(c, sent),
        lambda c, _: recording.record_answer_commitment(c, made, sent.leaf, intake.exchange.now_ms),
    )


async def answer(intake: Intake, node: str, lease: str, envelope: dsse.Envelope) -> int:
    """Take an answer that opens its commitment; return its log index."""
    sent, made = await intake.open(node, lease, envelope, ("answer", Answer))
    intake.check_room(made.job, envelope)
    expect(sent, LeaseType.REVEAL, job=made.job, task=made.task, node=made.node, audit=made.audit)
    if sent.lease.body.get("role") != made.role.value:
        raise FormatError("the answer is of another role", why=made.role.value)
    if made.role is Role.AUDITOR:
        intake.check_used(made.job, made.used)
    elif made.used is not None:
        raise FormatError("a prover's answer says no use", why="its commitment does", detail="used")

    def admit(connection: Connection) -> None:
        check_live(connection, sent)
        intake.check_time(connection, node, made.answered_at)
        intake.check_ended(made)
        _check_opening(connection, made)

    return await intake.take(
        sent, made, admit, lambda c, _: recording.record_answer(c, made, sent.leaf, intake.exchange.now_ms)
    )


def _check_opening(connection: Connection, made: Answer) -> None:
    given = {(row.role, row.node): row for row in audits.answers_of(connection, made.audit)}
    committed = given.get((made.role, made.node))
    opened = commitments.answer_commitment_hash(made.node, made.blind, made.answer, made.root)
    if committed is None or committed.commitment != opened:
        raise Refuted("the answer does not open its commitment", why=made.audit)
    if predicates.result_root(made.outputs, made.ended) != made.root:
        raise Refuted("the root is not that of the result", why=made.root)
