"""Error bodies: one StannaryError to JSON and back, the same fields people see on a terminal.

    {"error": {"message", "why", "hint", "code", "type", "param"}, "request_id"}

`code` is the stable E-... code, `type` the class's name, `param` the error's `detail`: a stable word
(`stale-epoch`) or the member at fault. The HTTP status is the class's `http_status`. A body that is
not ours (a proxy's page, a cut connection) becomes a ServiceError naming the status.
"""

from __future__ import annotations

from pydantic import ValidationError

from stannary import errors
from stannary.wire.message import LongText, Message, Name, Text

STALE_EPOCH = "stale-epoch"  # 409: the lease is no longer the node's; drop the work
NOT_YOUR_LEASE = "not-your-lease"
IDEMPOTENCY_CONFLICT = "idempotency-key"  # 409: same key, another body
SESSION_EXPIRED = "session-expired"  # 401: answer a new challenge
NODE_UNKNOWN = "node-unknown"  # 404: no such node ever joined here; the agent stops
NODE_REVOKED = "node-revoked"  # 401: the node lost its right to work; the agent stops
BUDGET_TOO_SMALL = "budget"  # 400: the worst case does not fit the spec's budget
DEPOSIT_TOO_SMALL = "deposit"  # 400: the account cannot cover the escrow
BLOB_MISSING = "blob-missing"  # 409: PUT the named blobs first
DISK_FULL = "disk-full"  # 507
QUOTA = "quota"  # 413: this node has stored too much that no contribution claims
CLOCK = "clock"  # 400: what was signed bears a time too far from the market's
RATE = "rate"  # 429: too many requests of one token
LOG_BEHIND = "log-behind"  # 409: somebody has seen more of this log than it holds
FOR_GOOD = frozenset({NODE_UNKNOWN, NODE_REVOKED, LOG_BEHIND})  # asking again changes nothing

_SERVER_ERROR = 500
_INSUFFICIENT_STORAGE = 507  # RFC 4918 section 11.5
_TOO_MANY_REQUESTS = 429  # RFC 6585 section 4


# A refusal by something in front of the market, which speaks no language of ours.
_FOREIGN = {
    401: "a proxy or gateway asks for a login of its own; go round it or log in there",
    403: "a proxy or gateway forbids the address; use the market's own one",
    404: "another service answers there; check the address: stannary config show",
    407: "a proxy asks for a login; the market must be reached without one",
    413: "a proxy refuses bodies of this size; reach the market without it",
    429: "too many requests: wait a minute, then run the same command again",
    502: "the market is restarting, or its gateway cannot reach it: try again",
    503: "the market is restarting, or its gateway cannot reach it: try again",
    504: "the market is restarting, or its gateway cannot reach it: try again",
}


class ErrorDetail(Message):
    """What failed, why, and the next thing to do."""

    message: LongText
    why: LongText = ""
    hint: LongText = ""
    code: Name
    type: Name
    param: Text = ""


class ErrorBody(Message):
    """The body of every answer with a status of 400 and above."""

    error: ErrorDetail
    request_id: Name


def to_body(err: errors.StannaryError, request_id: str) -> ErrorBody:
    """Return the body for an error."""
    cut = 16_000
    detail = ErrorDetail(
        message=err.what[:cut],
        why=err.why[:cut],
        hint=err.hint[:cut],
        code=err.code,
        type=type(err).__name__,
        param=err.detail[:4000],
    )
    return ErrorBody(error=detail, request_id=request_id)


def status_of(err: errors.StannaryError) -> int:
    """Return the HTTP status of an error."""
    return {DISK_FULL: _INSUFFICIENT_STORAGE, RATE: _TOO_MANY_REQUESTS}.get(err.detail, err.http_status)


def redirected(url: str, status: int, location: str) -> errors.StannaryError:
    """Return the error of an address that sends elsewhere: a login page, a moved market, http in place of https."""
    return errors.ServiceError(
        "the market's address sends elsewhere",
        why=f"{url} answers {status}, to {location or 'nowhere'!r}"[:300],
        hint="log in to the network if it asks for it; if the market has moved: stannary market add URL --key KEY",
    )


def foreign(status: int, body: bytes) -> errors.StannaryError:
    """Return the error of an answer that no market gives."""
    return errors.ServiceError(
        "an answer that is not the market's own",
        why=f"status {status}, body {body[:80]!r}",
        hint=_FOREIGN.get(status, "something between you and the market answers; check the address and any proxy"),
    )


def from_body(status: int, body: bytes) -> errors.StannaryError:
    """Return the error a server answered with, to be raised by the client."""
    try:
        read = ErrorBody.model_validate_json(body)
    except ValidationError:
        return foreign(status, body)
    detail = read.error
    why = detail.why
    if status >= _SERVER_ERROR and read.request_id not in detail.hint:  # what its operator finds in the market's log
        why = f"{why} (request {read.request_id})".strip()
    return errors.by_code(detail.code)(detail.message, why=why, hint=detail.hint, detail=detail.param)
