"""What a node says of its work and of audits: signed once, kept before it is sent, and never said otherwise.

Two statements about one task and epoch, or in one audit, that say different things cost a node its bond
(docs/audits.md, Two stories).
So that no honest node ever makes them:
1. What was signed is found in the journal, under task and epoch or under audit and role, and is sent as the same bytes,
   whatever was lost beside it. Where the work was done again and came to something else, nothing is signed.
2. Salts and blinds follow from the node's key and what they are for. A journal that was lost, restored from a backup or
   copied makes no second story of the same result.
3. Work that the market says this node has committed to, and the journal does not know, is not begun: the directory is
   older than what was signed from it.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from stannary.agent.journal import EntryKind, Journal
from stannary.agent.meter import Meter
from stannary.errors import JobFailed
from stannary.formats import commitments, digest, dsse, instants, predicates, record, statement
from stannary.formats.canonical import Json
from stannary.formats.ids import AuditId, JobId, NodeId, TaskId
from stannary.formats.predicates import Answer, AnswerCommitment, Assignment, Commitment, Contribution, Used
from stannary.run.work import Recomputed, Result
from stannary.wire.node import AuditRef, Lease

OLDER = "directory-older"  # of a failure: the journal does not know what was signed (rule 3)
DIFFERS = "result-differs"  # the work was done again and came to something else (rule 1)


@dataclass(frozen=True, slots=True)
class Provenance:
    """Where a result was made: what a contribution says of it beside the result."""

    engine_class: str
    environment: digest.Digest
    sandbox: str


@dataclass(frozen=True, slots=True)
class Statements:
    """What one node signs of its work."""

    node: NodeId
    key: Ed25519PrivateKey
    journal: Journal
    meter: Meter

    def check_known(self, lease: Lease) -> None:
        """Refuse work that was committed to from a newer journal than this one (rule 3).

        Raises:
            JobFailed: it was.
        """
        if lease.committed is not None and self._signed(lease) is None:
            raise JobFailed(
                "this node has committed to the task already, and its directory does not know it",
                why=f"{lease.committed} is logged; the directory was restored from a backup, or copied",
                hint="run one agent of a node, from the directory it last ran from; else join anew",
                detail=OLDER,
            )

    def claim(
        self, lease: Lease, assignment: Assignment, result: Result, place: Provenance, *, used: Used | None
    ) -> dict[str, Json]:
        """Return commitment and contribution for a result, signed and kept, the same as were signed before (rule 1).

        Raises:
            JobFailed: another result was signed for this task and epoch.
        """
        kept, epoch = self._signed(lease), lease.epoch
        if kept is not None:
            said = statement.read(dsse.parse(kept["contribution"]).payload, "contribution", Contribution).predicate
            if said.root != result.root:
                raise JobFailed(
                    "the work came to something else than what this node has signed",
                    why=f"{result.root}, signed was {said.root}",
                    hint="nothing: another node does it",
                    detail=DIFFERS,
                )
            return kept
        salt = self._derived("salt", assignment.task, str(epoch))
        commitment = Commitment(
            job=assignment.job,
            task=assignment.task,
            epoch=epoch,
            node=self.node,
            commitment=commitments.commitment_hash(self.node, salt, result.root),
            used=used,
        )
        contribution = Contribution(
            job=assignment.job,
            task=assignment.task,
            epoch=epoch,
            node=self.node,
            assignment=predicates.assignment_digest(assignment),
            salt=salt,
            root=result.root,
            outputs=tuple(sorted(result.outputs, key=lambda item: item.name)),
            engine_class=place.engine_class,
            environment=place.environment,
            sandbox=place.sandbox,
            num_steps=result.num_steps,
            spent=self.meter.claim(assignment.job),
            metrics=dict(result.metrics),
            finished_at=instants.spell(time.time()),
            ended=result.ended,
        )
        claim: dict[str, Json] = {
            "commitment": statement.sign("commitment", commitment, (), self.key).to_json(),
            "contribution": statement.sign("contribution", contribution, (), self.key).to_json(),
            "outputs": [record.to_json(item) for item in contribution.outputs],
        }
        self.journal.put(EntryKind.RESULT, assignment.task, {**claim, "ended": result.ended, "epoch": epoch})
        return claim

    def answer(self, lease: Lease, audit: AuditRef, found: Recomputed, used: Used | None) -> dict[str, Json]:
        """Return a blinded answer and its opening, both kept before either is sent."""
        job, task = JobId(lease.job), TaskId(lease.task)
        blind = self._derived("blind", audit.audit_id, audit.role.value)
        hidden = commitments.answer_commitment_hash(self.node, blind, found.answer, found.root)
        commitment = AnswerCommitment(job, AuditId(audit.audit_id), task, audit.role, self.node, hidden)
        answer = Answer(
            job=job,
            audit=AuditId(audit.audit_id),
            task=task,
            role=audit.role,
            node=self.node,
            blind=blind,
            answer=found.answer,
            root=found.root,
            outputs=tuple(sorted(found.outputs, key=lambda item: item.name)),
            spent=self.meter.claim(job),
            answered_at=instants.spell(time.time()),
            used=used,
            ended=found.ended,
        )
        entry: dict[str, Json] = {
            "commitment": statement.sign("answer-commitment", commitment, (), self.key).to_json(),
            "answer": statement.sign("answer", answer, (), self.key).to_json(),
        }
        self.journal.put(EntryKind.ANSWER, answer_name(audit), entry)
        return entry

    def kept_answer(self, audit: AuditRef) -> dict[str, Json] | None:
        """Return what was signed in an audit, None if nothing was."""
        return self.journal.get(EntryKind.ANSWER, answer_name(audit))

    def _signed(self, lease: Lease) -> dict[str, Json] | None:
        kept = self.journal.get(EntryKind.RESULT, lease.task)
        if kept is None or kept.get("epoch") != lease.epoch:  # journals of before name none
            return self.journal.get(EntryKind.CLAIM, lease.lease_id)
        return {name: kept[name] for name in ("commitment", "contribution", "outputs")}

    def _derived(self, what: str, *named: str) -> str:
        """Return 32 bytes, in hex, that only this key gives, and gives again (rule 2)."""
        parts = (self.key.private_bytes_raw(), *(name.encode() for name in named))
        return digest.hash_parts(f"stannary {what} v1", *parts).hex()


def answer_name(audit: AuditRef) -> str:
    """Return the name under which an answer is kept."""
    return f"{audit.audit_id} {audit.role.value}"
