"""The collateral client: asks vendors over HTTP for what evidence needs, and keeps what came.

Rules:
1. Nothing is trusted and nothing judged: an answer has to read as what was asked for, no more. It is signed
   by its vendor or worthless, so a mirror may serve plain HTTP; certificates of HTTPS are checked always.
2. No redirect is followed, bodies have a size, answers a time limit, and nothing is unpacked (wire/http.py).
3. 429 and 5xx are asked again, later each time, as long as the server says or KDS asks for (one chip
   certificate about every ten seconds); then the item is left out and said so, with what to do next. A host
   that gave no answer to all tries is asked once for each further item, without waiting.
4. Each item is kept as it comes, so a second run asks only for what is missing or out of date.
5. Evidence of a stranger decides how much is asked: MAX_REQUESTS bounds it.
"""

from __future__ import annotations

import base64
import binascii
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from stannary.certify.collateral.items import Item
from stannary.certify.collateral.join import end_of
from stannary.certify.collateral.plan import Request, Service, needs
from stannary.certify.layers import read_all
from stannary.certify.moments import format_moment
from stannary.certify.pki import revocation
from stannary.errors import FormatError, LimitExceeded, ServiceError
from stannary.formats import canonical
from stannary.wire.http import Asker, NoAnswer, Response
from stannary.wire.retry_after import retry_after_s

if TYPE_CHECKING:
    from stannary.certify.collateral.plan import Need
    from stannary.certify.collateral.store import CollateralStore
    from stannary.certify.envelope import Evidence

STALL_S = 20.0  # between two pieces of an answer
MAX_ANSWER_S = 60.0  # for one whole answer, so that a trickle ends too
MAX_ANSWER_BYTES = 1 << 20  # Intel's PCK list is below 100 KiB, a manifest in base64 below 50 KiB
MAX_CHAIN_BYTES = 64 * 1024
MAX_REQUESTS = 256  # eight GPUs and four switches need about forty
RETRIED = frozenset({429, 500, 502, 503, 504})
DELAYS_S: dict[Service, tuple[float, ...]] = {Service.AMD: (10.0, 20.0, 40.0)}
OTHER_DELAYS_S = (1.0, 3.0, 9.0)
MAX_RETRY_AFTER_S = 120.0


class Fetch(StrEnum):
    """What became of a need."""

    FETCHED = "fetched"
    KEPT = "kept"  # here already and not out of date
    CARRIED = "carried"  # inside the evidence
    MISSING = "missing"


@dataclass(frozen=True, slots=True)
class Supplied:
    """One need and what became of it; `why` and `hint` where it is missing."""

    need: Need
    state: Fetch
    item: Item | None = None
    why: str = ""
    hint: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How to ask: mirrors by service, whether fresh items are asked for again, and how to wait."""

    bases: Mapping[Service, str] = field(default_factory=dict)
    refresh: bool = False
    sleep: Callable[[float], None] = time.sleep
    progress: Callable[[str], None] = lambda _: None


def fetch(evidence: Evidence, store: CollateralStore, now: datetime, options: Options) -> Iterator[Supplied]:
    """Fetch what the evidence needs and is not kept, one outcome a need, in the order they are met.

    Raises:
        LimitExceeded: the evidence names more than MAX_REQUESTS artifacts.
    """
    items, settled = store.load(must_exist=False), set[tuple[str, str]]()
    layers = read_all(evidence)
    with Asker(MAX_ANSWER_S, MAX_ANSWER_BYTES, stall_s=STALL_S, proxied=True) as asker:
        caller = Caller(asker, options)
        while pending := [need for need in needs(layers, items) if need.key not in settled]:
            need = pending[0]  # one at a time: what is met may show further needs
            settled.add(need.key)
            if len(settled) > MAX_REQUESTS:
                raise LimitExceeded(
                    "evidence asks for too much collateral",
                    why=f"more than {MAX_REQUESTS} artifacts",
                    hint="an honest machine needs a few dozen: look at what sent this",
                )
            outcome = _settle(caller, need, items.get(need.key), now)
            if outcome.state is Fetch.FETCHED and outcome.item is not None:
                store.put(outcome.item)
                items[need.key] = outcome.item
            yield outcome


def _settle(caller: Caller, need: Need, kept: Item | None, now: datetime) -> Supplied:
    if need.is_carried:
        return Supplied(need, Fetch.CARRIED)
    if kept is not None and kept.is_fresh(now) and not caller.options.refresh:
        return Supplied(need, Fetch.KEPT, kept)
    if not need.requests:
        return Supplied(need, Fetch.MISSING, why=need.reason, hint=need.hint)
    why, hint = "", ""
    for request in need.requests:
        url = request.url(caller.options.bases)
        try:
            answer = caller.ask(request, url)
            data, chain = _read(need, request, answer)
            end = end_of(need, data, chain)
        except (ServiceError, FormatError) as err:
            why, hint = f"{url}: {err}", err.hint or "look at what the address answers; a mirror may be out of order"
            continue
        item = Item(need.kind, need.name, data, chain, url, format_moment(now), end)
        return Supplied(need, Fetch.FETCHED, item)
    return Supplied(need, Fetch.MISSING, why=why, hint=hint)


@dataclass(slots=True)
class Caller:
    """Asks servers, and remembers which of them did not answer."""

    asker: Asker
    options: Options
    silent: set[str] = field(default_factory=set)

    def ask(self, request: Request, url: str) -> Response:
        """Send one request, again where that may help (rule 3).

        Raises:
            ServiceError: no usable answer; the hint says what to do.
        """
        host, tries = urlsplit(url).netloc, 0
        while True:
            try:
                return _send(self.asker, request, url)
            except _Again as err:
                busy = DELAYS_S.get(request.service, OTHER_DELAYS_S) if err.is_busy else OTHER_DELAYS_S
                delays_s = () if host in self.silent else busy
                if tries >= len(delays_s):
                    self.silent.add(host)
                    raise ServiceError("no answer", why=err.why, hint=err.hint) from err
                wait_s = min(max(delays_s[tries], err.after_s), MAX_RETRY_AFTER_S)
                tries += 1
            self.options.progress(f"{host}: no answer yet; again in {wait_s:.0f} s")
            self.options.sleep(wait_s)


class _Again(ServiceError):
    """A failure that may pass."""

    def __init__(self, why: str, hint: str, *, after_s: float = 0.0, is_busy: bool = False) -> None:
        super().__init__("no answer", why=why, hint=hint)
        self.after_s, self.is_busy = after_s, is_busy


def _send(asker: Asker, request: Request, url: str) -> Response:
    headers = {"Accept": "*/*"}
    if request.body:  # RFC 6960 appendix A.1
        headers = {"Content-Type": "application/ocsp-request", "Accept": "application/ocsp-response"}
    try:
        answer = asker.ask("POST" if request.body else "GET", url, request.body, headers)
    except NoAnswer as err:
        hint = "check the network and the address; what was fetched is kept, so run the command again"
        raise _Again(err.why, hint) from err
    _check_status(answer)
    return answer


def _check_status(answer: Response) -> None:
    status = answer.status
    if status in RETRIED:
        hint = "wait a minute and run the command again: what was fetched is kept"
        after_s = retry_after_s(answer.headers.get("retry-after"), datetime.now(UTC))
        raise _Again(f"HTTP {status}", hint, after_s=after_s, is_busy=True)
    if 300 <= status < 400:
        where = urlsplit(answer.headers.get("location", "")).netloc or "elsewhere"
        hint = "give the address that answers itself as base URL"
        raise ServiceError("redirect not followed", why=f"HTTP {status} to {where[:80]}", hint=hint)
    if status == 404:
        hint = "the vendor does not know this part: check firmware and driver versions against its support list"
        raise ServiceError("the vendor has no such artifact", why="HTTP 404", hint=hint)
    if status != 200:
        raise ServiceError(
            "refused by the server", why=f"HTTP {status}", hint="check the base URL and its access rules"
        )


def _read(need: Need, request: Request, answer: Response) -> tuple[bytes, bytes]:
    """Return the artifact inside an answer, and its signer's chain."""
    body, chain = answer.body, b""
    if request.chain_header:
        text = answer.headers.get(request.chain_header, "")
        if not text or len(text) > MAX_CHAIN_BYTES:
            raise FormatError("answer lacks its signer's chain", why=f"no header {request.chain_header}")
        chain = unquote(text).encode("utf-8")
    if request.service is Service.RIM:
        return _manifest(need.name, body), chain
    return (revocation.crl_der(body) if need.kind.endswith("-crl") else body), chain


def _manifest(identifier: str, body: bytes) -> bytes:
    members = canonical.decode_object(body)
    text = members.get("rim")
    if members.get("id") != identifier or not isinstance(text, str):
        raise FormatError("answer is of another manifest", why=f"{members.get('id')!r:.80}, asked for {identifier}")
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as err:
        raise FormatError("manifest is not base64", why=str(err)) from err
