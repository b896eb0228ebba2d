"""A small market for agents: it speaks the public protocol over real HTTP and does what the test says.

It judges nothing; it keeps every statement it was sent, in order, and gives out the leases it was given.
"""

from __future__ import annotations

import base64
import hashlib
import json
import secrets
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from stannary.errors import AuthError, ConflictError, NotFound, ServiceError, StannaryError
from stannary.formats import canonical, digest, dsse, ids, jobspec, note, predicates, record, statement
from stannary.formats.ids import TaskKind
from stannary.formats.jobspec import JobKind, JobSpec, Privacy, Resources, Trust, Verification
from stannary.formats.predicates import Assignment, Attestation, Credential, Job, Join, Tier
from stannary.formats.workdir import WorkFile
from stannary.tlog import tree
from stannary.wire import errors as wire_errors
from stannary.wire import join_token, node, proof, routes

FOREVER = "tail -f /dev/null"  # a command that only stays alive
FAR = "2099-01-01T00:00:00Z"
TRUST = Trust(Tier.T0, "local", Privacy.OPEN, Verification.RERUN_COMPARE, 10**6, 600_000, 990_000, (), (), 10**6)


@dataclass
class ScriptedMarket:
    """The market's whole state."""

    key: Ed25519PrivateKey = field(default_factory=Ed25519PrivateKey.generate)
    leases: list[dict[str, Any]] = field(default_factory=list)
    blobs: dict[str, bytes] = field(default_factory=dict)
    manifests: dict[str, dict[str, Any]] = field(default_factory=dict)
    statements: list[tuple[str, str, Any]] = field(default_factory=list)  # (what, lease, predicate)
    envelopes: dict[tuple[str, str], list[str]] = field(default_factory=dict)
    lines: list[str] = field(default_factory=list)
    phases: list[str] = field(default_factory=list)  # of the reports of progress
    failures: list[dict[str, Any]] = field(default_factory=list)
    released: list[str] = field(default_factory=list)
    beats: list[dict[str, Any]] = field(default_factory=list)
    drop: list[str] = field(default_factory=list)
    stopped: list[str] = field(default_factory=list)  # of these, what its buyer stopped
    partial: dict[str, list[dict[str, Any]]] = field(default_factory=dict)  # by lease, what was left of it
    loses: set[str] = field(default_factory=set)  # statements that are taken and whose answer never comes
    lost: list[dict[str, Any]] = field(default_factory=list)  # leases that ended so
    ended: list[str] = field(default_factory=list)  # jobs a beat is told of, if it names them
    sessions: dict[str, str] = field(default_factory=dict)  # token to node
    holders: dict[str, str] = field(default_factory=dict)  # lease to the node it was given first; others get another
    nonces: set[str] = field(default_factory=set)
    node_keys: dict[str, bytes] = field(default_factory=dict)
    refuse: Callable[[str, str], StannaryError | None] = lambda method, path: None
    profile: str = "private"
    num_polls: int = 0
    one_each: bool = False  # a node that was given a lease gets no other
    holds_polls: bool = False  # a poll for leases is not answered
    changed: threading.Condition = field(default_factory=threading.Condition)

    def __post_init__(self) -> None:
        self.vkey = note.format_vkey("scripted.market", dsse.public_bytes(self.key))
        market = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle_one(self) -> None:
                length = int(self.headers.get("Content-Length") or 0)
                body = self.rfile.read(length)
                try:
                    if self.path.startswith(routes.MARKET_PROOF):
                        self.prove()
                        return
                    refused = market.refuse(self.command, self.path)
                    if refused is not None:
                        raise refused
                    status, answer = market.answer(self.command, self.path, body, self.headers.get("Authorization", ""))
                except StannaryError as err:
                    status, answer = wire_errors.status_of(err), wire_errors.to_body(err, "r-1").to_bytes()
                self.send_response(status)
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                if self.command != "HEAD" and status != 204:
                    self.wfile.write(answer)

            def prove(self) -> None:
                nonce = self.path.partition("nonce=")[2]
                made = proof.sign(market.key, market.vkey, nonce, self.client_address, self.connection.getsockname())
                self.send_response(200)
                self.send_header("Content-Length", str(len(made.to_bytes())))
                self.end_headers()
                self.wfile.write(made.to_bytes())

            do_GET = do_POST = do_PUT = do_HEAD = handle_one  # noqa: N815  the server's own spelling

            def log_message(self, *_: object) -> None:
                """Say nothing."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        self.thread.start()

    def close(self) -> None:
        with self.changed:
            self.holds_polls = False
            self.changed.notify_all()
        self.server.shutdown()
        self.server.server_close()
        self.thread.join(5)

    def token(self) -> str:
        return join_token.JoinToken(url=self.url, vkey=self.vkey, tls="", secret=secrets.token_hex(16)).spell()

    def wait_for(self, done: Callable[[], bool], timeout_s: float = 180.0) -> None:
        """Wait for something the agent sends to make `done` true."""
        deadline = time.monotonic() + timeout_s
        with self.changed:
            while not done():
                left = deadline - time.monotonic()
                assert left > 0, f"timeout; statements {[s[:2] for s in self.statements]}, failures {self.failures}"
                self.changed.wait(min(left, 1.0))

    def count(self, what: str) -> int:
        return sum(1 for name, _, _ in self.statements if name == what)

    def predicate(self, what: str) -> Any:
        return next(predicate for name, _, predicate in reversed(self.statements) if name == what)

    # --- jobs and leases

    def add_command_job(self, run: str, files: dict[str, bytes] | None = None, **more: Any) -> str:
        """Sign and keep a command job; return its id."""
        files = files or {}
        entries = tuple(WorkFile(path, 0o644, self.put(data), len(data)) for path, data in sorted(files.items()))
        resources = Resources(cpus=1, memory_bytes=512 * 1024**2, disk_bytes=8 * 1024**2, wall_s=3600)
        spec = JobSpec(
            name="scripted", kind=JobKind.COMMAND, workdir=entries, envs=more.pop("envs", {}), num_nodes=1,
            resources=more.pop("resources", resources), inputs={}, outputs=more.pop("outputs", ("out.txt",)),
            trust=more.pop("trust", TRUST), budget_usd_micros=10**6, run=run, **more,
        )  # fmt: skip
        buyer = Ed25519PrivateKey.generate()
        job = Job(
            spec=jobspec.to_canonical(spec), market=dsse.key_id(dsse.public_bytes(self.key)),
            buyer=dsse.encode_base64(dsse.public_bytes(buyer)), beacon_tip="0" * 64, beacon_length=4, nonce="0" * 32,
            submitted_at=FAR,
        )  # fmt: skip
        envelope = statement.sign("job", job, (), buyer)
        name = ids.job_id(digest.digest(envelope.payload))
        listed = [{"path": e.path, "mode": e.mode, "digest": e.digest, "size_bytes": e.size_bytes} for e in entries]
        self.manifests[name] = {"job": {"envelope": envelope.to_json()}, "workdir": listed, "inputs": []}
        return name

    def put(self, data: bytes) -> digest.Digest:
        named = digest.digest(data)
        self.blobs[named] = data
        return named

    def lease(self, job: str, kind: str = "work", *, task: str = "", **more: Any) -> str:
        """Give out a lease for a command task; return its id."""
        task = task or ids.command_task(ids.JobId(job), 0)
        assignment = Assignment(ids.JobId(job), ids.TaskId(task), TaskKind.COMMAND, 0, 0, 1, 0, 0)
        lease: dict[str, Any] = {
            "lease_id": secrets.token_hex(8), "type": kind, "epoch": 1, "job": job, "task": task, "kind": "command",
            "deadline_at": FAR, "blobs": [], **more,
        }  # fmt: skip
        if kind != "reveal":
            lease["assignment"] = record.to_json(assignment)
        with self.changed:
            self.leases.append(lease)
            self.changed.notify_all()
        return str(lease["lease_id"])

    def question(self, job: str, role: str, salt: str, number: int = 0, kind: str = "") -> str:
        task = ids.command_task(ids.JobId(job), 0)
        audit = {"audit_id": f"{task}/q{number:016x}", "role": role}
        kind = kind or ("audit" if role == "auditor" else "question")
        more = {"audit": audit} if kind == "reveal" else {"audit": audit, "salt": salt, "step": 1}
        return self.lease(job, kind, **more)

    # --- HTTP

    def answer(  # noqa: PLR0911  one line a route
        self, method: str, path: str, body: bytes, authorization: str
    ) -> tuple[int, bytes]:
        path = path.partition("?")[0]
        with self.changed:
            self.changed.notify_all()
        if path == "/v1/market":
            return 200, _json(self.info())
        if path == routes.LOG_STATE:  # nothing is ever logged here
            empty = note.sign_checkpoint("scripted.market", 0, tree.EMPTY_ROOT, self.key)
            return 200, _json({"checkpoint": empty, "consistency": []})
        if path == "/v1/join":
            return 200, _json(self.join(json.loads(body)))
        if path.startswith("/v1/sessions"):
            return 200, _json(self.session(path, json.loads(body)))
        who = self.sessions.get(authorization.removeprefix("Bearer "))
        if who is None:
            raise AuthError("the session is over", detail=wire_errors.SESSION_EXPIRED)
        if path.startswith("/v1/blobs/"):
            return self.blob(method, path.rpartition("/")[2], body)
        if path.endswith("/manifest"):
            return 200, _json(self.manifests[path.split("/")[3]])
        if path == "/v1/heartbeat":
            beat = json.loads(body)
            self.beats.append(beat)
            ended = [job for job in beat.get("jobs", ()) if job in self.ended]
            return 200, _json({"drop": self.drop, "stopped": self.stopped, "interval_s": 0.5, "ended": ended})
        if path == "/v1/leases/next":
            return self.next(who, json.loads(body))
        _, _, _, lease_id, what = path.split("/")
        with self.changed:
            answered = self.take(who, lease_id, what, json.loads(body))
            self.changed.notify_all()
        return 200, _json(answered)

    def info(self) -> dict[str, Any]:
        return {"name": "scripted.market", "vkey": self.vkey, "witness_vkeys": [], "profile": self.profile,
                "version": "0", "terms_digest": digest.digest(b"terms")}  # fmt: skip

    def join(self, body: dict[str, Any]) -> dict[str, Any]:
        envelope = dsse.parse(body["envelope"])
        claim = statement.read(envelope.payload, "join", Join).predicate
        public = dsse.decode_base64(claim.key, "key")
        dsse.verify(envelope, public)
        self.node_keys[claim.node] = public
        credential = Credential(
            node=claim.node, key=claim.key, operator=claim.operator, jurisdiction=claim.jurisdiction, terms=claim.terms,
            kind=claim.kind, members=claim.members, tier=Tier.T0, attestation=Attestation.SOFTWARE, ear_status="none",
            engine_class=claim.engine_class, cpus=claim.cpus, memory_bytes=claim.memory_bytes,
            ask_usd_micros_per_hour=claim.ask_usd_micros_per_hour, bond_usd_micros=0,
            join=digest.from_raw(envelope.leaf()), issued_at="2026-01-01T00:00:00Z", expires_at=FAR,
        )  # fmt: skip
        signed = statement.sign("credential", credential, (), self.key)
        return {"node": claim.node, "credential": signed.to_json(), "market": self.info()}

    def session(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        if path.endswith("/challenge"):
            nonce = secrets.token_hex(32)
            self.nonces.add(nonce)
            return {"nonce": nonce, "expires_at": FAR}
        self.nonces.remove(body["nonce"])  # single use
        signed = base64.b64decode(body["signature"])
        key = Ed25519PublicKey.from_public_bytes(self.node_keys[body["node"]])
        key.verify(signed, node.session_message(self.vkey, body["nonce"]))
        token = secrets.token_hex(16)
        self.sessions[token] = body["node"]
        return {"token": token, "expires_at": FAR}

    def blob(self, method: str, named: str, body: bytes) -> tuple[int, bytes]:
        if method == "PUT":
            assert "sha256:" + hashlib.sha256(body).hexdigest() == named
            self.blobs[named] = body
        elif named not in self.blobs:
            raise NotFound("no such blob")
        return 200, self.blobs[named]

    def next(self, who: str, body: dict[str, Any]) -> tuple[int, bytes]:
        deadline = time.monotonic() + body["wait_s"]
        with self.changed:
            self.num_polls += 1
            self.changed.notify_all()
            while self.holds_polls:  # never answered: who ends all the same has not waited for an answer
                self.changed.wait()
            while True:
                for lease in self.leases:
                    if lease["lease_id"] in body.get("have", []):
                        continue
                    is_full = self.one_each and lease["lease_id"] not in self.holders and who in self.holders.values()
                    if not is_full and self.holders.setdefault(lease["lease_id"], who) == who:
                        return 200, _json(lease)
                left = deadline - time.monotonic()
                if left <= 0:
                    return 204, b""
                self.changed.wait(left)

    def take(self, who: str, lease_id: str, what: str, body: dict[str, Any]) -> dict[str, Any]:
        known = [lease for lease in self.leases if lease["lease_id"] == lease_id]
        if what == "partial":
            self.partial[lease_id] = body["outputs"]
            return {}
        if what == "logs" and lease_id in self.stopped:
            self.lines += [line["text"] for line in body["lines"]]
            return {}
        if not known:
            raise ConflictError("another node has it", detail=wire_errors.STALE_EPOCH)
        if what == "logs":
            self.lines += [line["text"] for line in body["lines"]]
        elif what == "fail":
            self.failures.append(body)
            self.leases.remove(known[0])
        elif what == "release":
            self.released.append(lease_id)
            self.leases.remove(known[0])
        elif what == "progress":
            self.phases.append(body["phase"])
        else:
            envelope = dsse.parse(body["envelope"])
            cls = {"commitment": predicates.Commitment, "contribution": predicates.Contribution,
                   "answer-commitment": predicates.AnswerCommitment, "answer": predicates.Answer,
                   "reading": predicates.Reading}[what]  # fmt: skip
            payload = dsse.verify(envelope, self.node_keys[who])
            self.statements.append((what, lease_id, statement.read(payload, what, cls).predicate))
            self.envelopes.setdefault((what, lease_id), []).append(canonical.encode(envelope.to_json()).decode())
            if what == "commitment":
                known[0]["committed"] = self.statements[-1][2].commitment
            if what in ("contribution", "answer-commitment", "answer"):
                self.leases.remove(known[0])
                self.lost += [known[0]] if what in self.loses else []
            if what in self.loses:
                with self.changed:
                    self.changed.notify_all()
                    self.changed.wait_for(lambda: not self.loses, 60.0)
                raise ServiceError("lost")
        return {"log_index": len(self.statements)}


def _json(value: Any) -> bytes:
    return json.dumps(value).encode()
