"""A node that speaks the whole public protocol, with a toy computation instead of torch.

`FakeNode` is honest. Dishonest ones override one method each (see the classes at the end): what a node
computes, what it answers, whether it speaks at all. Nothing in here knows the market's inside.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import secrets
from dataclasses import dataclass, field, replace
from typing import Any

import httpx2
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from tests.integration.market import toy_work

from stannary import errors
from stannary.formats import canonical, commitments, digest, dsse, ids, instants, predicates, record, statement
from stannary.formats.ids import LeaseType
from stannary.formats.jobspec import JobKind, JobSpec, from_canonical
from stannary.formats.predicates import (
    Answer,
    AnswerCommitment,
    Assignment,
    Commitment,
    Contribution,
    Join,
    NodeKind,
    Output,
    Reading,
    Role,
    Spent,
    Used,
)
from stannary.market.clock import Clock, SystemClock
from stannary.rules import edition
from stannary.settle import meter
from stannary.wire import errors as wire_errors
from stannary.wire import join_token as tokens
from stannary.wire import message, node, routes
from stannary.wire.market import MarketInfo

ENGINE_CLASS = "cpu-fp32-toy1.0-000000000000"
MAX_TRIES = 600
RETRY_S = 0.1
ENVIRONMENT = digest.digest(b"toy environment")


@dataclass
class Opening:
    """What opens an answer commitment; a real agent keeps it in its journal."""

    blind: str
    answer: str
    root: digest.Digest
    outputs: tuple[Output, ...]
    role: Role
    ended: str | None = None


@dataclass
class FakeNode:
    """One node of one operator."""

    base_url: str
    operator: str
    ask_usd_micros_per_hour: int = 100_000
    engine_class: str = ENGINE_CLASS
    jurisdiction: str = "none"
    transport: httpx2.AsyncBaseTransport | None = None
    clock: Clock = field(default_factory=SystemClock)
    poll_s: float = 5.0
    key: Ed25519PrivateKey = field(default_factory=Ed25519PrivateKey.generate)
    salts: dict[str, str] = field(default_factory=dict)
    openings: dict[str, Opening] = field(default_factory=dict)
    specs: dict[str, JobSpec] = field(default_factory=dict)
    readings: dict[str, tuple[int, str]] = field(default_factory=dict)
    market: MarketInfo | None = None
    refusals: list[errors.StannaryError] = field(default_factory=list)
    served: list[str] = field(default_factory=list)
    hands_back: set[str] = field(default_factory=set)  # tasks this node leaves to others

    def __post_init__(self) -> None:
        """Open the client."""
        self.public = dsse.public_bytes(self.key)
        self.id = ids.node_id(self.public)
        self.client = httpx2.AsyncClient(base_url=self.base_url, transport=self.transport, timeout=60.0)
        self.token = ""
        self.held: list[str] = []

    # --- HTTP

    async def call(self, path: str, body: message.Message | None = None) -> httpx2.Response:
        """POST a body; raise the market's own error."""
        content = body.to_bytes() if body is not None else b""
        return self._checked(await self._send("POST", path, content))

    async def get(self, path: str) -> httpx2.Response:
        """GET a path; raise the market's own error."""
        return self._checked(await self._send("GET", path))

    async def _send(self, method: str, path: str, content: bytes = b"") -> httpx2.Response:
        """Send a request, again and again while the market is away: every one of the protocol may be repeated."""
        for _ in range(MAX_TRIES):
            with contextlib.suppress(httpx2.TransportError):
                return await self.client.request(method, path, content=content, headers=self._headers())
            await self.clock.sleep(RETRY_S)
        raise errors.MarketUnreachable("the market is away", why=path)

    def _headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.token}"} if self.token else {}

    @staticmethod
    def _checked(response: httpx2.Response) -> httpx2.Response:
        if response.status_code >= 400:
            raise wire_errors.from_body(response.status_code, response.content)
        return response

    # --- joining

    async def join(self, token: str) -> node.JoinRequest:
        """Join with a token and open a session; return what was signed."""
        body = await self.sign_join(token)
        await self.send_join(body)
        await self.open_session()
        return body

    async def sign_join(self, token: str, **other: Any) -> node.JoinRequest:
        """Return a signed join, with members of a liar's."""
        info = message.read(MarketInfo, (await self.get(routes.MARKET)).content)
        claim = Join(
            node=self.id,
            key=base64.b64encode(self.public).decode(),
            operator=self.operator,
            jurisdiction=self.jurisdiction,
            terms=digest.parse(info.terms_digest),
            kind=NodeKind.MACHINE,
            members=(),
            engine_class=self.engine_class,
            cpus=2,
            memory_bytes=2**32,
            ask_usd_micros_per_hour=self.ask_usd_micros_per_hour,
            token=tokens.token_digest(token),
            joined_at=instants.spell(self.clock.now()),
            bond_usd_micros=tokens.parse(token).bond_usd_micros,
        )
        claim = replace(claim, **other)
        return node.JoinRequest(
            token=token, envelope=message.EnvelopeBody.of(statement.sign("join", claim, (), self.key))
        )

    async def send_join(self, body: node.JoinRequest) -> node.Joined:
        """Send a signed join."""
        joined = message.read(node.Joined, (await self.call(routes.JOIN, body)).content)
        assert joined.node == self.id
        self.market = joined.market
        return joined

    async def open_session(self) -> None:
        """Prove possession of the node key."""
        assert self.market is not None
        self.token = ""
        asked = await self.call(routes.SESSION_CHALLENGE, node.ChallengeRequest(node=self.id))
        nonce = message.read(node.Challenge, asked.content).nonce
        signature = base64.b64encode(self.key.sign(node.session_message(self.market.vkey, nonce))).decode()
        opened = await self.call(routes.SESSIONS, node.SessionRequest(node=self.id, nonce=nonce, signature=signature))
        self.token = message.read(node.Session, opened.content).token

    # --- the loop

    async def run(self) -> None:
        """Beat, and serve leases, until cancelled or, like a real agent, revoked."""
        beats = asyncio.create_task(self._beat())
        try:
            while True:
                await self._turn()
        except errors.AuthError as err:
            if err.detail != wire_errors.NODE_REVOKED:
                raise
        finally:
            beats.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await beats
            await self.client.aclose()

    async def _turn(self) -> None:
        try:
            lease = await self.next_lease()
            if lease is not None:
                await self.serve(lease)
        except errors.AuthError:
            await self.open_session()
        except (errors.ConflictError, errors.NotFound) as err:
            self.refusals.append(err)
        except (httpx2.TransportError, errors.ServiceError):
            await self.clock.sleep(0.1)  # market down: back off

    async def next_lease(self) -> node.Lease | None:
        """Ask for the next lease that is not already held."""
        response = await self.call(routes.LEASE_NEXT, node.NextLease(wait_s=self.poll_s, have=self.held[-64:]))
        if response.status_code == 204:
            return None
        return message.read(node.Lease, response.content)

    async def serve(self, lease: node.Lease) -> None:
        """Do what a lease asks for."""
        self.served.append(f"{lease.type.value} {lease.task}")
        serve = {
            LeaseType.WORK: self.work,
            LeaseType.AUDIT: self.audit,
            LeaseType.QUESTION: self.question,
            LeaseType.REVEAL: self.reveal,
        }[lease.type]
        try:
            await serve(lease)
        except (errors.ConflictError, errors.NotFound) as err:
            self.refusals.append(err)
        self.held.append(lease.lease_id)

    async def _beat(self) -> None:
        while True:
            interval_s = 10.0
            with contextlib.suppress(errors.StannaryError, httpx2.TransportError):
                interval_s = await self.beat()
            await self.clock.sleep(interval_s)

    async def beat(self, state: node.NodeState = node.NodeState.IDLE) -> float:
        """Send one heartbeat; return when the next is due."""
        response = await self.call(routes.HEARTBEAT, node.Heartbeat(state=state, leases=[], version="fake"))
        return message.read(node.HeartbeatAnswer, response.content).interval_s

    # --- work

    async def work(self, lease: node.Lease) -> None:
        """Do a task: commitment, blobs, contribution, reading."""
        if lease.task in self.hands_back:
            await self.call(routes.lease(routes.LEASE_RELEASE, lease.lease_id))
            return
        assignment = record.from_json(Assignment, lease.assignment)
        results = await self.results(lease, assignment)
        salt = self.salts.setdefault(lease.lease_id, secrets.token_hex(32))  # a lease served again: the same words
        await self.commit(
            lease, commitments.commitment_hash(self.id, salt, self.claimed_root(results, await self.ended(lease)))
        )
        for data in results.values():
            await self.put_blob(data)
        await self.contribute(lease, assignment, results, salt)
        await self.read_meter(lease)

    async def commit(self, lease: node.Lease, commitment: str) -> None:
        """Hand in the commitment."""
        job, used = ids.JobId(lease.job), await self.used(lease)
        made = Commitment(job, ids.TaskId(lease.task), lease.epoch, self.id, commitment, used)
        await self._post(routes.LEASE_COMMITMENT, lease, "commitment", made)

    async def contribute(self, lease: node.Lease, assignment: Assignment, results: dict[str, bytes], salt: str) -> None:
        """Hand in the result."""
        made = Contribution(
            job=assignment.job,
            task=assignment.task,
            epoch=lease.epoch,
            node=self.id,
            assignment=predicates.assignment_digest(assignment),
            salt=salt,
            root=toy_work.root(results, await self.ended(lease)),
            outputs=toy_work.listed(results),
            engine_class=self.engine_class,
            environment=ENVIRONMENT,
            sandbox="none",
            num_steps=assignment.num_steps,
            spent=Spent(1, 10, 1, 0, 0),
            metrics={"loss": "1.25"},
            finished_at=instants.spell(self.clock.now()),
            ended=await self.ended(lease),
        )
        await self._post(routes.LEASE_CONTRIBUTION, lease, "contribution", made)

    async def read_meter(self, lease: node.Lease) -> None:
        """Hand in a cumulative meter reading."""
        first = (0, meter.origin(ids.JobId(lease.job), self.id))
        seq, previous = self.readings.get(lease.job, first)
        made = Reading(
            ids.JobId(lease.job),
            self.id,
            seq,
            previous,
            Spent(seq + 1, 10 * (seq + 1), seq + 1, 0, 0),
            instants.spell(self.clock.now()),
        )
        await self._post(routes.LEASE_READING, lease, "reading", made)
        self.readings[lease.job] = (seq + 1, meter.reading_digest(made))

    # --- audits

    async def audit(self, lease: node.Lease) -> None:
        """Recompute a task and commit to the answer."""
        await self._answer_blindly(lease, Role.AUDITOR)

    async def question(self, lease: node.Lease) -> None:
        """Answer for a task this node contributed."""
        await self._answer_blindly(lease, Role.PROVER)

    async def _answer_blindly(self, lease: node.Lease, role: Role) -> None:
        assert lease.audit is not None
        assert lease.salt is not None
        assert lease.step is not None
        assignment = record.from_json(Assignment, lease.assignment)
        name = f"{lease.audit.audit_id} {role}"
        if name not in self.openings:
            self.openings[name] = await self.opening(lease, assignment, role)
        opening = self.openings[name]
        made = AnswerCommitment(
            job=assignment.job,
            audit=ids.AuditId(lease.audit.audit_id),
            task=assignment.task,
            role=role,
            node=self.id,
            commitment=commitments.answer_commitment_hash(self.id, opening.blind, opening.answer, opening.root),
        )
        await self._post(routes.LEASE_ANSWER_COMMITMENT, lease, "answer-commitment", made)

    async def opening(self, lease: node.Lease, assignment: Assignment, role: Role) -> Opening:
        """Compute the answer (a liar as prover repeats its lie: it kept its false results)."""
        blobs = await self.blobs(lease)
        run = await self.command_line(lease.job)
        results = (
            await self.results(lease, assignment) if role is Role.PROVER else toy_work.outputs(assignment, blobs, run)
        )
        inner = self.state(assignment, lease.step or 1, blobs, run, role)
        answer = commitments.answer_hash(bytes.fromhex(lease.salt or ""), inner)
        ended = await self.ended(lease)
        root = toy_work.root(results, ended)
        return Opening(secrets.token_hex(32), answer, root, toy_work.listed(results), role, ended)

    async def reveal(self, lease: node.Lease) -> None:
        """Open the answer whose commitment is logged."""
        assert lease.audit is not None
        opening = self.openings[f"{lease.audit.audit_id} {lease.audit.role}"]
        made = Answer(
            job=ids.JobId(lease.job),
            audit=ids.AuditId(lease.audit.audit_id),
            task=ids.TaskId(lease.task),
            role=opening.role,
            node=self.id,
            blind=opening.blind,
            answer=opening.answer,
            root=opening.root,
            outputs=opening.outputs,
            spent=Spent(0, 0, 1, 0, 10),
            answered_at=instants.spell(self.clock.now()),
            used=await self.used(lease) if opening.role is Role.AUDITOR else None,
            ended=opening.ended,
        )
        await self._post(routes.LEASE_ANSWER, lease, "answer", made)

    # --- what a dishonest node overrides

    async def results(self, lease: node.Lease, assignment: Assignment) -> dict[str, bytes]:
        """Compute a task's outputs."""
        return toy_work.outputs(assignment, await self.blobs(lease), await self.command_line(lease.job))

    async def ended(self, lease: node.Lease) -> str | None:
        """Return how the program of a task ended, where that is part of its result."""
        return toy_work.ended(await self.spec(lease.job), ids.place_of(lease.task)[0])

    def claimed_root(self, results: dict[str, bytes], ended: str | None) -> digest.Digest:
        """Return the root to commit to."""
        return toy_work.root(results, ended)

    def state(self, assignment: Assignment, step: int, blobs: toy_work.Blobs, run: str, role: Role) -> bytes:
        """Return the state a question asks for."""
        return toy_work.state(assignment, step, blobs, run)

    # --- fetching

    async def blobs(self, lease: node.Lease) -> dict[str, bytes]:
        """Fetch and check the inputs of a lease."""
        fetched = {}
        for item in lease.blobs:
            data = (await self.get(routes.blob(item.digest))).content
            assert digest.digest(data) == item.digest
            fetched[item.name] = data
        return fetched

    async def used(self, lease: node.Lease) -> Used | None:
        """Return what a task takes, where that is paid by; of a job it has no part in any more it knows nothing."""
        try:
            spec = await self.spec(lease.job)
        except errors.NotFound:
            return None
        return Used(10, 0, 10) if edition.of(spec).pays_by_use else None

    async def command_line(self, job: str) -> str:
        """Return the job's command, from its manifest."""
        spec = await self.spec(job)
        return spec.run or "" if spec.kind is JobKind.COMMAND else ""

    async def spec(self, job: str) -> JobSpec:
        """Return what the job's buyer signed, from its manifest."""
        if job not in self.specs:
            from stannary.wire.buyer import JobManifest

            manifest = message.read(
                JobManifest, (await self.get(routes.job(routes.JOB_MANIFEST, job))).content, max_bytes=2**24
            )
            payload = manifest.job.envelope.open().payload
            members: Any = canonical.decode_object(payload)
            self.specs[job] = from_canonical(members["predicate"]["spec"])
        return self.specs[job]

    async def put_blob(self, data: bytes) -> None:
        """Store an output."""
        path = routes.blob(digest.digest(data))
        self._checked(await self._send("PUT", path, data))

    async def _post(self, template: str, lease: node.Lease, kind: str, predicate: Any) -> dsse.Envelope:
        envelope = statement.sign(kind, predicate, (), self.key)
        await self.call(routes.lease(template, lease.lease_id), message.Signed.of(envelope))
        return envelope


class LyingNode(FakeNode):
    """Hands in a result it did not compute, for rounds only, and stands by it when asked."""

    async def results(self, lease: node.Lease, assignment: Assignment) -> dict[str, bytes]:
        """Make up the delta."""
        honest = await super().results(lease, assignment)
        if assignment.kind is ids.TaskKind.MERGE:
            return honest
        return {name: data + b" skipped" for name, data in honest.items()}

    def state(self, assignment: Assignment, step: int, blobs: toy_work.Blobs, run: str, role: Role) -> bytes:
        """Stand by the lie as prover; audit honestly."""
        inner = super().state(assignment, step, blobs, run, role)
        return inner + b" skipped" if role is Role.PROVER and assignment.kind is not ids.TaskKind.MERGE else inner


class SilentLiar(LyingNode):
    """Hands in a result it did not compute and, drawn, says nothing."""

    async def question(self, lease: node.Lease) -> None:
        """Say nothing."""


class LyingMerger(FakeNode):
    """Computes rounds honestly and merges falsely."""

    async def results(self, lease: node.Lease, assignment: Assignment) -> dict[str, bytes]:
        """Make up the weights."""
        honest = await super().results(lease, assignment)
        if assignment.kind is not ids.TaskKind.MERGE:
            return honest
        return {name: data + b" tainted" for name, data in honest.items()}

    def state(self, assignment: Assignment, step: int, blobs: toy_work.Blobs, run: str, role: Role) -> bytes:
        """Stand by the lie as prover."""
        inner = super().state(assignment, step, blobs, run, role)
        return inner + b" tainted" if role is Role.PROVER and assignment.kind is ids.TaskKind.MERGE else inner


class FalseAccuser(FakeNode):
    """Works honestly, and as auditor says of everything that it is wrong."""

    async def opening(self, lease: node.Lease, assignment: Assignment, role: Role) -> Opening:
        """Disagree as auditor."""
        honest = await super().opening(lease, assignment, role)
        if role is Role.PROVER:
            return honest
        false = {"delta": secrets.token_bytes(32)}
        root = toy_work.root(false, honest.ended)
        return Opening(honest.blind, secrets.token_hex(32), root, toy_work.listed(false), role, honest.ended)


class LazyAuditor(FakeNode):
    """Knows the prover's root and outputs (told by a friend, say), copies them, and guesses the inner state."""

    async def opening(self, lease: node.Lease, assignment: Assignment, role: Role) -> Opening:
        """Copy the right root without the work behind it."""
        honest = await super().opening(lease, assignment, role)
        if role is Role.PROVER:
            return honest
        return Opening(honest.blind, secrets.token_hex(32), honest.root, honest.outputs, role)


class SilentProver(FakeNode):
    """Works, and never answers a question about its work."""

    async def question(self, lease: node.Lease) -> None:
        """Say nothing."""


class SilentAuditor(FakeNode):
    """Works, and never audits."""

    async def audit(self, lease: node.Lease) -> None:
        """Say nothing."""


class DyingNode(FakeNode):
    """Takes its first work lease and vanishes."""

    async def work(self, lease: node.Lease) -> None:
        """Die in mid-task."""
        raise asyncio.CancelledError
