"""A job of which nothing is open taken to its end: what the evidence shows, and the file that holds it all.

What is done, in which order, is decided by jobs/course/concluding.py. What takes long (the conclusion, the file) is
computed in a thread, outside every transaction.
"""

from __future__ import annotations

import asyncio

from stannary.formats import instants, note, receipt
from stannary.formats.predicates import Receipt
from stannary.formats.receipt import EarlierCheckpoint, LoggedEnvelope
from stannary.jobs.course import concluding
from stannary.jobs.course.concluding import Concluded, JudgedJob
from stannary.jobs.course.state import JobOrder
from stannary.jobs.states import is_terminal
from stannary.market.engine import loading
from stannary.market.engine.loading import Evidence
from stannary.market.engine.moving import Mover
from stannary.market.exchange import Exchange
from stannary.market.journal import leaf_of
from stannary.rules import edition
from stannary.tlog.log import Log
from stannary.verify import conclusion
from stannary.verify.case import Case
from stannary.verify.conclusion import Ending
from stannary.verify.report import SUCCEEDED


async def end(exchange: Exchange, mover: Mover, order: JobOrder) -> bool:
    """Take a job to its end; tell whether it has ended: it has not while the log lacks any of it."""
    at_ms = exchange.now_ms
    while True:
        job, evidence = await exchange.store.aread(lambda c: loading.judged(c, order))
        if is_terminal(job.status):
            return True
        if evidence is None:
            decided = concluding.close(job)
        elif job.receipt is None:
            made = await asyncio.to_thread(conclude, job, evidence, at_ms, exchange.witness_words)
            decided = concluding.settle(job, made)
        else:
            assert evidence.receipt is not None
            index = await exchange.journal.logged(leaf_of(evidence.receipt))
            file_format = edition.of(order.spec).receipt_format
            data = await asyncio.to_thread(file_bytes, job.receipt, evidence, index, exchange.log, file_format)
            decided = concluding.publish(job, await asyncio.to_thread(exchange.blobs.put, data), len(data))
        if not decided:
            return False
        await mover.carry_out(job, decided)


def conclude(job: JudgedJob, evidence: Evidence, at_ms: int, witness: str) -> Concluded:
    """Return what the evidence of a job shows."""
    of_job, end = Case(evidence.statements), job.end
    made = conclusion.conclude(of_job, status=end.status, reason=end.reason)
    ending = Ending(
        status=end.status,
        reason=end.reason,
        witness=witness,
        started_at=instants.spell(job.begun_at_ms / 1000),
        finished_at=instants.spell(at_ms / 1000),
    )
    stated = conclusion.compose(of_job, made, ending, evidence.leaves)
    subjects = made.lineage.subjects if stated.status == SUCCEEDED else ()
    refuted = sorted({node for item in made.decisions.values() for node in item.refuted})
    return Concluded(stated, subjects, tuple(refuted))


def file_bytes(stated: Receipt, evidence: Evidence, index: int, log: Log, file_format: str) -> bytes:
    """Assemble the receipt file against the newest checkpoint; what was said behind the receipt is not in it."""
    assert evidence.receipt is not None
    proof = log.proof(index)
    size = note.parse_checkpoint(note.parse(proof[proof.index("\n\n") + 2 :]).text).size
    listed = set(stated.evidence)
    logged = [
        LoggedEnvelope(envelope, item.index, tuple(log.inclusion(item.index, size)))
        for item, envelope in zip(evidence.statements, evidence.envelopes, strict=True)
        if item.leaf in listed
    ]
    checkpoints = [
        EarlierCheckpoint(shown, tuple(log.consistency(old_size, size))) for shown, old_size in evidence.checkpoints
    ]
    return receipt.build(evidence.receipt, proof, logged, checkpoints, file_format=file_format)
