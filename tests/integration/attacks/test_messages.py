"""Every message of a node, sent wrong by a node with a valid key and session: each is refused, none does harm."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Awaitable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from tests.integration.market import toy_work
from tests.integration.market import world as worlds
from tests.integration.market.fake_buyer import train_spec
from tests.integration.market.fake_node import FakeNode, Opening

from stannary import errors
from stannary.formats import digest, dsse, ids, predicates, record, statement
from stannary.formats.ids import LeaseType
from stannary.formats.predicates import Answer, AnswerCommitment, Assignment, Commitment, Contribution, Role, Used
from stannary.verify import receipt as verifier
from stannary.verify.trust import TrustStore, pin
from stannary.wire import message, node, routes

REFUSALS = (errors.ConflictError, errors.FormatError, errors.Refuted, errors.NotFound, errors.AuthError)


@dataclass
class Attacker(FakeNode):
    """Tries what a paid attacker would at every step, then does the step honestly."""

    stranger: Ed25519PrivateKey = field(default_factory=Ed25519PrivateKey.generate)
    taken: list[str] = field(default_factory=list)  # attacks that were let through
    tried: set[str] = field(default_factory=set)
    victims: list[node.Lease] = field(default_factory=list)  # leases of another node, as a leak would show them

    async def _post(self, template: str, lease: node.Lease, kind: str, predicate: Any) -> dsse.Envelope:
        """Attack around each honest statement."""
        attack = {"commitment": self.bad_commitments, "contribution": self.bad_contributions}
        attack |= {"answer-commitment": self.bad_answer_commitments, "answer": self.bad_answers}
        before = attack.get(kind)
        if before is not None:
            await before(lease, predicate)
        envelope = await super()._post(template, lease, kind, predicate)
        await self.again(template, lease, kind, envelope)
        return envelope

    async def bad_commitments(self, lease: node.Lease, honest: Commitment) -> None:
        """Lie about who, what and when."""
        path, kind = routes.LEASE_COMMITMENT, "commitment"
        await self.refused("contribution first", self.early_contribution(lease))
        await self.refused("another's signature", self.send(path, lease, kind, honest, self.stranger))
        await self.refused("next epoch", self.send(path, lease, kind, replace(honest, epoch=honest.epoch + 1)))
        other = ids.TaskId(honest.task.replace("/l0/", "/l9/").replace("/l1/", "/l9/").replace("merge", "l9"))
        await self.refused("another task", self.send(path, lease, kind, replace(honest, task=other)))
        await self.refused(
            "another node", self.send(path, lease, kind, replace(honest, node=ids.NodeId("n-" + "0" * 12)))
        )
        await self.refused("another job", self.send(path, lease, kind, replace(honest, job=ids.JobId("j-" + "0" * 12))))
        used = Used(1, 0, 1) if honest.used is None else None
        await self.refused("a use too many or too few", self.send(path, lease, kind, replace(honest, used=used)))
        await self.refused("not a hash", self.send(path, lease, kind, replace(honest, commitment="AB" * 32)))
        await self.refused("another kind", self.send(path, lease, "answer", honest))
        for victim in self.victims:
            await self.refused("a lease of another node", self.send(path, victim, kind, honest))

    async def early_contribution(self, lease: node.Lease) -> None:
        """Hand in what was never committed to."""
        assignment = record.from_json(Assignment, lease.assignment)
        results = await self.results(lease, assignment)
        made = self.contribution(lease, assignment, results)
        await self.send(routes.LEASE_CONTRIBUTION, lease, "contribution", made)

    def contribution(self, lease: node.Lease, assignment: Assignment, results: dict[str, bytes]) -> Contribution:
        """Return a contribution nobody committed to."""
        return Contribution(
            job=assignment.job, task=assignment.task, epoch=lease.epoch, node=self.id,
            assignment=predicates.assignment_digest(assignment), salt=secrets.token_hex(32),
            root=toy_work.root(results), outputs=toy_work.listed(results), engine_class=self.engine_class,
            environment=digest.digest(b""), sandbox="none", num_steps=assignment.num_steps,
            spent=predicates.Spent(0, 0, 0, 0, 0), metrics={}, finished_at="2026-01-01T00:00:00Z",
        )  # fmt: skip

    async def bad_contributions(self, lease: node.Lease, honest: Contribution) -> None:
        """Open something else than was committed to."""
        path, kind = routes.LEASE_CONTRIBUTION, "contribution"
        copied = (replace(honest.outputs[0], digest=digest.digest(b"another's")), *honest.outputs[1:])
        extra = (*honest.outputs, replace(honest.outputs[0], name="zzz"))
        variants = {
            "another salt": replace(honest, salt=secrets.token_hex(32)),
            "another's output": replace(honest, outputs=copied),
            "another's output and root": replace(honest, outputs=copied, root=predicates.result_root(copied)),
            "an output too many": replace(honest, outputs=extra, root=predicates.result_root(extra)),
            "another assignment": replace(honest, assignment=digest.digest(b"")),
            "another class": replace(honest, engine_class="gpu-fp8-fast"),
            "an end where none belongs": replace(honest, ended="exit-0"),
            "fewer steps": replace(honest, num_steps=honest.num_steps + 1),
            "next epoch's": replace(honest, epoch=honest.epoch + 1),
        }
        for name, made in variants.items():
            await self.refused(name, self.send(path, lease, kind, made))
        await self.refused("a stranger's contribution", self.send(path, lease, kind, honest, self.stranger))

    async def bad_answer_commitments(self, lease: node.Lease, honest: AnswerCommitment) -> None:
        """Speak in another role, for another audit."""
        path, kind = routes.LEASE_ANSWER_COMMITMENT, "answer-commitment"
        role = Role.AUDITOR if honest.role is Role.PROVER else Role.PROVER
        await self.refused("another role", self.send(path, lease, kind, replace(honest, role=role)))
        audit = ids.AuditId(honest.audit.rpartition("/q")[0] + "/q7")
        await self.refused("another audit", self.send(path, lease, kind, replace(honest, audit=audit)))
        await self.refused("a stranger's answer", self.send(path, lease, kind, honest, self.stranger))
        await self.refused("opened too early", self.early_answer(lease, honest))

    async def early_answer(self, lease: node.Lease, honest: AnswerCommitment) -> None:
        """Open under the question's lease, before anything is committed to."""
        opening = self.openings[f"{honest.audit} {honest.role}"]
        await self.send(routes.LEASE_ANSWER, lease, "answer", self.answered(honest, opening))

    def answered(self, committed: AnswerCommitment, opening: Opening) -> Answer:
        """Return an opened answer."""
        return Answer(
            committed.job, committed.audit, committed.task, committed.role, self.id, opening.blind, opening.answer,
            opening.root, opening.outputs, predicates.Spent(0, 0, 0, 0, 0), "2026-01-01T00:00:00Z", opening.ended,
        )  # fmt: skip

    async def bad_answers(self, lease: node.Lease, honest: Answer) -> None:
        """Open another answer than the one committed to, once the other side's is known."""
        path = routes.LEASE_ANSWER
        variants = {
            "another answer": replace(honest, answer=secrets.token_hex(32)),
            "another root": replace(honest, root=digest.digest(b"")),
            "outputs of another root": replace(honest, outputs=()),
            "an end where none belongs": replace(honest, ended="exit-0"),
            "another blind": replace(honest, blind=secrets.token_hex(32)),
            "an answer's use too many or too few": replace(honest, used=Used(1, 0, 1) if honest.used is None else None),
        }
        for name, made in variants.items():
            await self.refused(name, self.send(path, lease, "answer", made))

    async def again(self, template: str, lease: node.Lease, kind: str, envelope: dsse.Envelope) -> None:
        """Say the same again (taken as before), and something else (refused)."""
        await self.call(routes.lease(template, lease.lease_id), message.Signed.of(envelope))
        if kind == "commitment":
            made = statement.read(envelope.payload, kind, Commitment).predicate
            other = replace(made, commitment=secrets.token_hex(32))
            await self.refused("a second commitment", self.send(template, lease, kind, other))
        if kind == "answer-commitment":
            said = statement.read(envelope.payload, kind, AnswerCommitment).predicate
            second = replace(said, commitment=secrets.token_hex(32))
            await self.refused("a second answer", self.send(template, lease, kind, second))

    async def send(
        self, template: str, lease: node.Lease, kind: str, predicate: Any, key: Ed25519PrivateKey | None = None
    ) -> None:
        """Sign and send one statement."""
        envelope = statement.sign(kind, predicate, (), key or self.key)
        await self.call(routes.lease(template, lease.lease_id), message.Signed.of(envelope))

    async def refused(self, name: str, sending: Awaitable[None]) -> None:
        """Note an attack that is let through."""
        self.tried.add(name)
        try:
            await sending
        except REFUSALS:
            return
        self.taken.append(name)


class Victim(FakeNode):
    """Honest; its leases become known to the attacker."""

    watcher: Attacker | None = None

    async def serve(self, lease: node.Lease) -> None:
        """Serve, and be watched."""
        if self.watcher is not None and lease.type is LeaseType.WORK:
            self.watcher.victims[:] = [lease]
        await super().serve(lease)


def test_no_wrong_message_is_taken(tmp_path: Path) -> None:
    """Wrong, misattributed and replayed statements are refused; the job ends verified, and nobody is convicted."""

    async def scenario() -> None:
        async with worlds.inside(tmp_path) as world:
            attacker = await world.node("eve", Attacker, run=False, ask_usd_micros_per_hour=90_000)
            for operator in ("north", "south"):
                victim = await world.node(operator, Victim)
                victim.watcher = attacker
            world.start(attacker.run())
            ada = await world.buyer()
            job = (await ada.submit(train_spec())).id
            world.start(ada.broker(job))
            view = await ada.finished(job)
            assert attacker.taken == []
            assert len(attacker.tried) >= 25, attacker.tried
            assert (view.status, view.verdict) == ("succeeded", "verified")
            trust = TrustStore(()).with_market(pin(world.vkey, world.witness_vkeys))
            report = verifier.verify_receipt(await ada.receipt(job), trust, int(time.time()))
            assert report.verdict == "verified"
            assert report.claims is not None
            assert report.claims.convictions == ()

    asyncio.run(scenario())


def test_revoked_node_is_heard_no_more(tmp_path: Path) -> None:
    """A session, however fresh, ends with its node's revocation; its key opens no other."""

    async def scenario() -> None:
        async with worlds.inside(tmp_path, witness=False) as world:
            made = await world.node("north", run=False)
            await made.beat()
            await world.admin("POST", routes.ADMIN_NODE_REVOKE.format(node=made.id))
            for attempt in (made.beat(), made.next_lease(), made.open_session()):
                refusal: list[str] = []
                try:
                    await attempt
                except (errors.AuthError, errors.NotFound, errors.ConflictError) as err:
                    refusal.append(str(err))
                assert refusal

    asyncio.run(scenario())
