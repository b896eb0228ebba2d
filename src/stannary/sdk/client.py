"""A synchronous client of one market, for buyers.

Every method is one request (or one long poll) over wire/connection.py and returns a message of
wire/; errors are those of errors.py. Following a job to its end is `follow`.
"""

from __future__ import annotations

import functools
import hashlib
import math
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO
from urllib.parse import quote

from stannary import files, workdir
from stannary.errors import AuthError, EnvironmentProblem, FormatError, ServiceError, UsageError
from stannary.formats.canonical import Json
from stannary.formats.digest import PREFIX, Digest
from stannary.formats.dsse import Envelope
from stannary.sdk.profile import Settings
from stannary.tlog.seen import SeenLog, follow
from stannary.wire import admin, limits, message, routes
from stannary.wire.buyer import (
    Cost,
    DisputeList,
    Event,
    EventPage,
    JobPage,
    JobView,
    LogPage,
    Offers,
    Outputs,
    PriceQuote,
    QuoteRequest,
    Submit,
)
from stannary.wire.connection import Connection
from stannary.wire.market import MarketInfo

FOLLOW_WAIT_S = 5.0  # a cut connection is noticed by then
COMMAND_WAIT_S = 1.0  # the same for a command: what it prints is shown at each turn
LOOK_INTERVAL_S = 0.5
MAX_RECEIPT_BYTES = 128 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Turn:
    """One look at a job that is being followed."""

    events: list[Event]
    view: JobView


Progress = Callable[[int], None]  # bytes sent since the last call


class Client:
    """What a buyer may ask of a market."""

    def __init__(self, connection: Connection, seen: SeenLog | None = None) -> None:
        self._connection = connection
        self._seen = seen

    @classmethod
    def open(cls, settings: Settings) -> Client:
        """Connect by a profile's settings.

        Raises:
            UsageError: no market is configured.
            AuthError: there is no API token.
        """
        if not settings.has_market:
            raise UsageError(
                "no market is configured",
                why=f"profile {settings.profile.name}",
                hint="stannary run --example hello starts a private one",
            )
        if settings.token is None:
            raise AuthError(
                "no API token for this market",
                why=f"profile {settings.profile.name}, {settings.token_file} does not exist",
                hint="ask the market's operator for one, then: STANNARY_TOKEN=... stannary ls",
            )
        market = settings.profile
        link = Connection(market.url, token=settings.token, tls_fingerprint=market.tls_pin, vkey=market.vkey)
        return cls(link, seen_of(market.vkey) if market.vkey else None)

    @classmethod
    def visit(cls, settings: Settings) -> Client:
        """Connect as a stranger, who may have what is published; UsageError: no market is configured."""
        if settings.token is not None or not settings.has_market:
            return cls.open(settings)
        market = settings.profile
        return cls(Connection(market.url, tls_fingerprint=market.tls_pin, vkey=market.vkey))

    @property
    def url(self) -> str:
        """The market's address."""
        return self._connection.url

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def market(self) -> MarketInfo:
        """Return what the market says of itself."""
        return self._connection.get(routes.MARKET, MarketInfo)

    def offers(self) -> Offers:
        """Return what nodes sell."""
        return self._connection.get(routes.OFFERS, Offers)

    def quote(self, spec: dict[str, Json]) -> PriceQuote:
        """Return the worst-case cost of a canonical spec, and where it would run."""
        return self._connection.post(routes.QUOTES, QuoteRequest(spec=spec), PriceQuote, is_repeatable=True)

    def submit(self, envelope: Envelope, key: str) -> JobView:
        """Send a signed job; the same `key` and envelope again give the same answer.

        Raises:
            Refuted: the market's log does not hold what this user has seen of it (tlog/seen.py); nothing was sent.
            ServiceError: what the market answered cannot be read; a FormatError is its own word, and a no.
        """
        if self._seen is not None:
            follow(self._connection, self._seen)
        headers = {"Content-Type": "application/json", routes.IDEMPOTENCY_KEY: key}
        body = Submit.of(envelope).to_bytes()
        answer = self._connection.send("POST", routes.JOBS, content=body, headers=headers, retry=True)
        try:
            return message.read(JobView, answer.content)
        except FormatError as err:
            raise ServiceError("the market's answer to the job cannot be read", why=str(err)) from err

    def job(self, job: str) -> JobView:
        """Return a job."""
        return self._connection.get(routes.job(routes.JOB, job), JobView)

    def jobs(self, limit: int = 50) -> Iterator[JobView]:
        """Yield the newest jobs first, page by page."""
        cursor: str | None = None
        while limit > 0:
            params: dict[str, str | int] = {"limit": min(limit, limits.MAX_PAGE_ITEMS)}
            if cursor:
                params["cursor"] = cursor
            page = self._connection.get(routes.JOBS, JobPage, params=params)
            yield from page.jobs[:limit]
            limit -= len(page.jobs)
            cursor = page.next
            if cursor is None or not page.jobs:
                return

    def cancel(self, job: str) -> JobView:
        """Ask for a job to be cancelled."""
        return self._connection.post(routes.job(routes.JOB_CANCEL, job), None, JobView, is_repeatable=True)

    def cost(self, job: str) -> Cost:
        """Return a job's ledger lines and time split."""
        return self._connection.get(routes.job(routes.JOB_COST, job), Cost)

    def receipt(self, job: str) -> bytes:
        """Return the receipt file's bytes; JobNotFinished before the end."""
        return self._connection.get_bytes(routes.job(routes.JOB_RECEIPT, job), max_bytes=MAX_RECEIPT_BYTES)

    def disputes(self, job: str) -> DisputeList:
        """Return the bonds a job disputes."""
        return self._connection.get(routes.job(routes.JOB_DISPUTES, job), DisputeList)

    def ruling(self, job: str, node: str) -> bytes:
        """Return a ruling file's bytes; NotFound before it is ruled."""
        return _ruling(self._connection, job, node)

    def outputs(self, job: str) -> Outputs:
        """Return the stored results."""
        return self._connection.get(routes.job(routes.JOB_OUTPUTS, job), Outputs)

    def events(self, job: str, after: int = 0, wait_s: float = 0.0) -> EventPage:
        """Return events after a sequence number, waiting up to `wait_s` for the first."""
        params: dict[str, str | int | float] = {"after": after, "wait": wait_s}
        return self._connection.get(routes.job(routes.JOB_EVENTS, job), EventPage, params=params, wait_s=wait_s)

    def logs(
        self, job: str, *, after: int | None = None, tail: int | None = None, since: str = "", wait_s: float = 0.0
    ) -> LogPage:
        """Return log lines: after a number, the last `tail`, or since a time."""
        params: dict[str, str | int | float] = {"wait": wait_s}
        params |= {name: value for name, value in (("after", after), ("tail", tail)) if value is not None}
        if since:
            params["since"] = since
        return self._connection.get(routes.job(routes.JOB_LOGS, job), LogPage, params=params, wait_s=wait_s)

    def follow(self, job: str, after: int = 0, clock: Callable[[], float] = time.monotonic) -> Iterator[Turn]:
        """Yield what happened since the last turn and where the job stands, until it has ended."""
        looked_at = -math.inf
        view: JobView | None = None
        while True:
            wait_s = COMMAND_WAIT_S if view is not None and view.is_program else FOLLOW_WAIT_S
            page = self.events(job, after, wait_s if view is not None else 0.0)
            after = page.next
            if view is None or clock() - looked_at >= LOOK_INTERVAL_S or not page.events or _may_end(page.events):
                view, looked_at = self.job(job), clock()
            if view.finished_at is not None:
                # What was written between the page above and the end.
                rest = self.events(job, after).events
                yield Turn([*page.events, *rest], view)
                return
            yield Turn(page.events, view)

    def upload(
        self, digest: Digest, size_bytes: int, opened: Callable[[], BinaryIO], progress: Progress, *, name: str
    ) -> bool:
        """Store a blob unless the market has it; return whether it was sent.

        Raises:
            UsageError: the file `name` has other bytes than when it was hashed; the market keeps none of them.
        """
        path = routes.blob(digest)
        if self._connection.has(path):
            progress(size_bytes)
            return False

        def chunks() -> Iterable[bytes]:
            with opened() as file:
                for chunk in _steady(file, digest, size_bytes, name):
                    progress(len(chunk))
                    yield chunk

        self._connection.put(path, chunks, size_bytes)
        return True

    def blob_bytes(self, named: Digest) -> int:
        """Return the size of a blob."""
        return int(self._connection.send("HEAD", routes.blob(named)).headers.get("Content-Length", "0"))

    def part_of(self, named: Digest) -> Callable[[int], AbstractContextManager[Iterator[bytes]]]:
        """Return what gives a blob's bytes from a place on."""
        return functools.partial(self._connection.stream, routes.blob(named))

    def download(self, digest: Digest, target: Path, size_bytes: int) -> None:
        """Fetch a blob into a new file; its bytes are hashed on the way and it appears whole or not at all.

        Raises:
            Refuted: the market sent other bytes than the digest names.
        """
        fresh = target.with_name(f".{target.name}.part")
        try:
            with fresh.open("wb") as file:
                self._connection.fetch(digest, size_bytes, file)
            fresh.replace(target)
        except OSError as err:
            raise EnvironmentProblem(
                "cannot write a result",
                why=f"{target}: {err.strerror or err}",
                hint="free space, or name another directory with -o DIR",
            ) from err
        finally:
            fresh.unlink(missing_ok=True)


class Operator:
    """What a market's operator may ask of it, by the admin token."""

    def __init__(self, url: str, token: files.Secret, vkey: str, tls_pin: str = "") -> None:
        self._connection = Connection(url, token=token, tls_fingerprint=tls_pin, vkey=vkey)

    def __enter__(self) -> Operator:
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()

    def api_token(self, name: str, deposit_usd_micros: int) -> admin.ApiToken:
        """Open a buyer's account and return its token."""
        body = admin.ApiTokenRequest(name=name, deposit_usd_micros=deposit_usd_micros)
        return self._connection.post(routes.ADMIN_API_TOKENS, body, admin.ApiToken)

    def api_tokens(self, account: str | None = None) -> admin.ApiTokenList:
        """Return the API tokens of an account, or of all; the tokens themselves nobody has but their owners."""
        params = {"account": account} if account is not None else None
        return self._connection.get(routes.ADMIN_API_TOKENS, admin.ApiTokenList, params=params)

    def revoke_api_token(self, token_id: str) -> admin.ApiTokenView:
        """Make an API token worthless, at once."""
        path = routes.api_token(routes.ADMIN_API_TOKEN_REVOKE, quote(token_id, safe=""))
        return message.read(admin.ApiTokenView, self._connection.send("POST", path, content=b"{}").content)

    def join_token(self, request: admin.JoinTokenRequest) -> admin.JoinTokenAnswer:
        """Return a token that lets nodes in."""
        return self._connection.post(routes.ADMIN_JOIN_TOKENS, request, admin.JoinTokenAnswer)

    def market(self) -> MarketInfo:
        """Return what the market says of itself."""
        return self._connection.get(routes.MARKET, MarketInfo)

    def nodes(self) -> admin.NodeList:
        """Return all nodes."""
        return self._connection.get(routes.ADMIN_NODES, admin.NodeList)

    def ledger(self, account: str | None = None) -> admin.LedgerPage:
        """Return every account's balance, and the newest entries in order, or those of one account."""
        params = {"account": account} if account is not None else None
        return self._connection.get(routes.ADMIN_LEDGER, admin.LedgerPage, params=params)

    def disputes(self, job: str) -> DisputeList:
        """Return the bonds a job disputes."""
        return self._connection.get(routes.job(routes.JOB_DISPUTES, job), DisputeList)

    def ruling(self, job: str, node: str) -> bytes:
        """Return a ruling file's bytes; NotFound before it is ruled."""
        return _ruling(self._connection, job, node)

    def faults(self) -> admin.FaultList:
        """Return the jobs the market itself could not bring to their ends, newest first."""
        return self._connection.get(routes.ADMIN_FAULTS, admin.FaultList)

    def blobs(self) -> admin.StorageUse:
        """Return how much the market stores, and how long it keeps what jobs claim."""
        return self._connection.get(routes.ADMIN_BLOBS, admin.StorageUse)

    def publish_root(self, named: Digest, path: Path, progress: Callable[[int], None]) -> None:
        """Have the market serve a root file system, and its jobs run in it from now on.

        Args:
            named: the digest of its tar.
            path: where the tar lies.
            progress: hears of the bytes of each piece that is sent.
        """

        def chunks() -> Iterator[bytes]:
            with path.open("rb") as file:
                while chunk := file.read(limits.BLOB_CHUNK_BYTES):
                    yield chunk
                    progress(len(chunk))

        self._connection.put(routes.admin_root(named), chunks, path.stat().st_size)

    def revoke(self, node: str) -> None:
        """Take a node's credential back."""
        path = routes.node(routes.ADMIN_NODE_REVOKE, quote(node, safe=""))
        self._connection.send("POST", path, content=b"{}")

    def drain(self, node: str, *, draining: bool = True) -> None:
        """Give a node no new work from now on, or some again."""
        body = admin.DrainRequest(draining=draining).to_bytes()
        path = routes.node(routes.ADMIN_NODE_DRAIN, quote(node, safe=""))
        self._connection.send("POST", path, content=body, headers={"Content-Type": "application/json"})


def seen_of(vkey: str) -> SeenLog:
    """Return what this user has seen of a market's log."""
    name = hashlib.sha256(vkey.encode()).hexdigest()[:16]
    return SeenLog(files.data_dir() / "logs" / f"{name}.json", vkey)


def _steady(file: BinaryIO, digest: Digest, size_bytes: int, name: str) -> Iterator[bytes]:
    """Yield the bytes of a file that still is what its digest says.

    The last piece is held back until all have been hashed, so no whole upload of other bytes is ever sent.
    """
    state = hashlib.sha256()
    num_bytes = 0
    held = b""
    try:
        while chunk := file.read(limits.BLOB_CHUNK_BYTES):
            num_bytes += len(chunk)
            if num_bytes > size_bytes:
                break
            state.update(chunk)
            if held:
                yield held
            held = chunk
    except OSError as err:
        raise EnvironmentProblem(
            "cannot read a file that is being sent", why=f"{name!r:.160}: {err}", hint="check the disk, then run again"
        ) from err
    if num_bytes != size_bytes or PREFIX + state.hexdigest() != digest:
        raise workdir.changed(name, size_bytes, num_bytes)
    if held:
        yield held


def _may_end(events: Iterable[Event]) -> bool:
    return any(event.type.startswith("job.") for event in events)


def _ruling(connection: Connection, job: str, node: str) -> bytes:
    path = routes.node(routes.job(routes.JOB_RULING, job), node)
    return connection.get_bytes(path, max_bytes=MAX_RECEIPT_BYTES)
