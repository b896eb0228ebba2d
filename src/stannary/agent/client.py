"""A node's requests to its market: sessions by proof of possession, patience when there is no answer.

Rules:
1. A session token is earned by signing the market's nonce together with the market's key, and earned
   again when it expires. It lives in memory only.
2. Silence and 5xx are waited out, with growing, jittered pauses, for as long as the agent lives; once a
   minute one line says so. What is sent may be sent twice: the market knows it by lease and bytes.
3. A 409 or 404 means the work is no longer this node's: it is raised at once.
4. A market that does not know the node, or revoked it, says so for good: that is raised at once, too. So is a log
   that does not hold what this node has seen of it (tlog/seen.py).

One object serves several threads; each has a connection of its own.
"""

from __future__ import annotations

import base64
import os
import random
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from stannary import files
from stannary.agent.settings import NodeSettings
from stannary.errors import (
    AuthError,
    EnvironmentProblem,
    MarketUnreachable,
    NotFound,
    Refuted,
    ServiceError,
    StannaryError,
)
from stannary.files import Secret
from stannary.formats import bounds, dsse
from stannary.formats.digest import Digest
from stannary.formats.predicates import Output
from stannary.tlog.seen import SeenLog, follow
from stannary.wire import errors as wire_errors
from stannary.wire import limits, message, node, routes
from stannary.wire.buyer import JobManifest
from stannary.wire.connection import Connection

T = TypeVar("T")

FIRST_PAUSE_S = 0.5
LONGEST_PAUSE_S = 30.0
JITTER = 0.3  # pauses of a fleet must not fall together after an outage
SAID_EVERY_S = 60.0
MAX_MANIFEST_BYTES = 16 * 1024 * 1024  # a listing of 20,000 files

Tell = Callable[[str], None]
Moving = Callable[[], None]  # called as bytes move: the market waits for who says so (rules/pace.py)


class MarketClient:
    """The market as one node sees it."""

    def __init__(
        self,
        settings: NodeSettings,
        key: Ed25519PrivateKey,
        stop: threading.Event,
        tell: Tell,
        *,
        seen: SeenLog | None = None,
    ) -> None:
        self.settings = settings
        self.key = key
        self.stop = stop
        self.tell = tell
        self.seen = seen
        self._local = threading.local()
        self._lock = threading.Lock()
        self._token: Secret | None = None
        self._generation = 0
        self._silent_since_s: float | None = None
        self._said_at_s = 0.0

    def heartbeat(
        self,
        state: node.NodeState,
        leases: list[str],
        version: str,
        jobs: Sequence[str] = (),
        *,
        wants_canary: bool = False,
    ) -> node.HeartbeatAnswer:
        """Say that this node lives; one attempt only, since the next beat is the retry."""
        held, here = leases[: limits.MAX_LEASES_HELD], list(jobs)[: limits.MAX_JOBS_HELD]
        name = self.settings.name if bounds.NAME.fits(self.settings.name) else ""  # of an earlier version, perhaps
        beat = node.Heartbeat(
            state=state, leases=held, version=version, jobs=here, name=name, wants_canary=wants_canary
        )
        return self._once(lambda link: link.post(routes.HEARTBEAT, beat, node.HeartbeatAnswer))

    def next_lease(self, wait_s: float, have: list[str]) -> node.Lease | node.PowerTest | None:
        """Ask for work by long poll; None if there is none yet. A test of this node's power may come in its place."""
        return self._patiently(lambda link: _next_lease(link, wait_s, have, tests=True))

    def look(self, have: list[str]) -> node.Lease | None:
        """Ask once for what is there now."""
        found = self._once(lambda link: _next_lease(link, 0.0, have))
        return found if isinstance(found, node.Lease) else None

    def next_test(self) -> node.PowerTest | None:
        """Ask whether the market wants to see this node's power now; one attempt."""

        def ask(link: Connection) -> node.PowerTest | None:
            answer = link.send("POST", routes.POWER_NEXT, content=b"{}", headers={"Content-Type": "application/json"})
            return None if answer.status_code == 204 else message.read(node.PowerTest, answer.content)

        return self._once(ask)

    def show_power(self, answer: node.PowerAnswer) -> node.GradedNode:
        """Hand in what this node did in a test; one attempt, for the market's clock runs."""
        return self._once(lambda link: link.post(routes.POWER, answer, node.GradedNode))

    def manifest(self, job: str) -> JobManifest:
        """Fetch what a node needs of a job."""
        path = routes.job(routes.JOB_MANIFEST, job)
        return self._patiently(
            lambda link: message.read(
                JobManifest, link.get_bytes(path, max_bytes=MAX_MANIFEST_BYTES), max_bytes=MAX_MANIFEST_BYTES
            )
        )

    def submit(self, template: str, lease_id: str, envelope: dsse.Envelope) -> None:
        """Hand in a signed statement under a lease; repeated until answered."""
        self._post(routes.lease(template, lease_id), message.Signed.of(envelope))

    def tell_progress(self, lease_id: str, report: node.ProgressReport) -> None:
        """Report progress; one attempt, the next report replaces it."""
        path = routes.lease(routes.LEASE_PROGRESS, lease_id)
        self._once(lambda link: _post(link, path, report))

    def upload_logs(self, lease_id: str, upload: node.LogUpload) -> None:
        """Send a batch of log lines; one attempt, the caller keeps them until this returns."""
        path = routes.lease(routes.LEASE_LOGS, lease_id)
        self._once(lambda link: _post(link, path, upload))

    def submit_once(self, template: str, lease_id: str, envelope: dsse.Envelope) -> None:
        """Hand in a reading: one attempt, the journal keeps it for the next."""
        path = routes.lease(template, lease_id)
        self._once(lambda link: _post(link, path, message.Signed.of(envelope)))

    def fail(self, lease_id: str, failure: node.Failure) -> None:
        """Say that a task cannot be done here."""
        self._post(routes.lease(routes.LEASE_FAIL, lease_id), failure)

    def leave(self, lease_id: str, outputs: Iterable[Output]) -> None:
        """Leave what was stored of a task that its buyer stopped."""
        stored = [node.StoredOutput(name=i.name, digest=i.digest, size_bytes=i.size_bytes) for i in outputs]
        self._post(routes.lease(routes.LEASE_PARTIAL, lease_id), node.Partial(outputs=stored))

    def release(self, lease_id: str) -> None:
        """Hand a lease back undone; one attempt, its deadline does the same."""
        self._once(lambda link: _post(link, routes.lease(routes.LEASE_RELEASE, lease_id), None))

    def fetch(self, digest: Digest, size_bytes: int, target: Path, moving: Moving) -> None:
        """Fetch a blob into a file that appears whole or not at all; `moving` hears of each piece.

        Raises:
            Refuted: the market gave other bytes than the digest names.
            EnvironmentProblem: the disk is full.
        """
        self._patiently(lambda link: _fetch(link, digest, size_bytes, target, moving))

    def store(self, digest: Digest, path: Path, moving: Moving) -> None:
        """Store a blob unless the market has it; `moving` hears of each piece."""

        def put(link: Connection) -> None:
            if not link.has(routes.blob(digest)):
                link.put(routes.blob(digest), lambda: _chunks(path, moving), path.stat().st_size)

        self._patiently(put)

    def close(self) -> None:
        """Close this thread's connection."""
        link = getattr(self._local, "link", None)
        if link is not None:
            link.close()
            self._local.link = None

    def _post(self, path: str, body: message.Message) -> None:
        self._patiently(lambda link: _post(link, path, body))

    def _patiently(self, ask: Callable[[Connection], T]) -> T:
        """Ask until there is an answer; MarketUnreachable only once the agent stops."""
        pause_s = FIRST_PAUSE_S
        while True:
            try:
                answer = self._once(ask)
            except (ServiceError, AuthError, EnvironmentProblem) as err:
                if is_for_good(err):
                    raise
                if isinstance(err, EnvironmentProblem) and err.detail != wire_errors.DISK_FULL:
                    raise  # our own disk, not the market's
                self._say_silent(err)
                # Not a secret: spreading pauses needs no cryptographic randomness.
                if self.stop.wait(pause_s * random.uniform(1 - JITTER, 1 + JITTER)):  # noqa: S311
                    raise MarketUnreachable("the agent stops while the market is silent", why=str(err)) from err
                pause_s = min(pause_s * 2, LONGEST_PAUSE_S)
            else:
                self._say_back()
                return answer

    def _once(self, ask: Callable[[Connection], T]) -> T:
        """Ask once, with a new session if the old one is refused."""
        generation = self._ensure_session()
        try:
            return ask(self._link())
        except AuthError:
            self._renew(generation)
            return ask(self._link())

    def _ensure_session(self) -> int:
        with self._lock:
            generation = self._generation
        return generation if generation > 0 else self._renew(0)

    def _renew(self, seen_generation: int) -> int:
        """Earn a session, unless another thread did since `seen_generation`."""
        with self._lock:
            if self._generation == seen_generation:
                self._token = self._open_session()
                self._generation += 1
            return self._generation

    def _open_session(self) -> Secret:
        known = self.settings
        with Connection(known.url, tls_fingerprint=known.tls_fingerprint, vkey=known.market_vkey) as link:
            try:
                if self.seen is not None:
                    follow(link, self.seen)
                return self._prove(link)
            except Refuted as err:  # a log that was rolled back: whatever is done for it may be undone
                raise AuthError(err.what, why=err.why, hint=err.hint, detail=wire_errors.LOG_BEHIND) from err
            except NotFound as err:  # a 404 elsewhere is about a lease; here it is about the node itself
                raise AuthError(err.what, why=err.why, hint=err.hint, detail=err.detail) from err

    def _prove(self, link: Connection) -> Secret:
        challenge = link.post(routes.SESSION_CHALLENGE, node.ChallengeRequest(node=self.settings.node), node.Challenge)
        signed = self.key.sign(node.session_message(self.settings.market_vkey, challenge.nonce))
        proof = node.SessionRequest(
            node=self.settings.node, nonce=challenge.nonce, signature=base64.b64encode(signed).decode()
        )
        return Secret(link.post(routes.SESSIONS, proof, node.Session).token)

    def _link(self) -> Connection:
        """Return this thread's connection, made anew for a new session."""
        if getattr(self._local, "generation", -1) != self._generation:
            self.close()
            url, pin, vkey = self.settings.url, self.settings.tls_fingerprint, self.settings.market_vkey
            self._local.link = Connection(url, token=self._token, tls_fingerprint=pin, vkey=vkey)
            self._local.generation = self._generation
        link: Connection = self._local.link
        return link

    def _say_silent(self, err: Exception) -> None:
        now_s = time.monotonic()
        with self._lock:
            if self._silent_since_s is None:
                self._silent_since_s = now_s
            elif now_s - self._said_at_s < SAID_EVERY_S:
                return
            self._said_at_s = now_s
            silent_s = now_s - self._silent_since_s
        self.tell(f"the market at {self.settings.url} gives no answer for {silent_s:.0f} s, trying again: {err}")

    def _say_back(self) -> None:
        with self._lock:
            was_silent, self._silent_since_s = self._silent_since_s is not None, None
        if was_silent:
            self.tell("the market answers again")


def is_for_good(err: StannaryError) -> bool:
    """Tell whether the market will not have this node again, so that asking more helps nobody."""
    return isinstance(err, AuthError) and err.detail in wire_errors.FOR_GOOD


def _next_lease(
    link: Connection, wait_s: float, have: list[str], *, tests: bool = False
) -> node.Lease | node.PowerTest | None:
    body = node.NextLease(wait_s=wait_s, have=have[-limits.MAX_LEASES_HELD :], tests=tests).to_bytes()
    headers = {"Content-Type": "application/json"}
    answer = link.send("POST", routes.LEASE_NEXT, content=body, headers=headers, wait_s=wait_s)
    if answer.status_code == 204:
        return None
    if answer.status_code == 202:
        return message.read(node.PowerTest, answer.content)
    return message.read(node.Lease, answer.content, max_bytes=limits.MAX_ENVELOPE_BODY_BYTES)


def _post(link: Connection, path: str, body: message.Message | None) -> None:
    """POST where the answer's body says nothing a node needs."""
    content = body.to_bytes() if body is not None else b"{}"
    link.send("POST", path, content=content, headers={"Content-Type": "application/json"})


def _fetch(link: Connection, digest: Digest, size_bytes: int, target: Path, moving: Moving) -> None:
    fresh = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        with fresh.open("wb") as file:
            link.fetch(digest, size_bytes, file, moving)
        files.show_alike(fresh, 0o444)
        fresh.rename(target)
    except OSError as err:
        raise EnvironmentProblem("cannot keep a blob", why=str(err), hint="free disk space") from err
    finally:
        fresh.unlink(missing_ok=True)


def _chunks(path: Path, moving: Moving) -> Iterator[bytes]:
    with path.open("rb") as file:
        while chunk := file.read(limits.BLOB_CHUNK_BYTES):
            yield chunk
            moving()
