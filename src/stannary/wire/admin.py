"""Bodies between the market's operator and the market."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from stannary.wire import limits
from stannary.wire.message import (
    AccountText,
    Ask,
    Count,
    Instant,
    JobText,
    LongText,
    Message,
    Money,
    Name,
    NodeName,
    NodeText,
    OperatorText,
    Shown,
    UsdMicros,
    Word,
)

MAX_JOIN_TOKEN_TTL_S = 7 * 86_400
MAX_JOIN_TOKEN_USES = 10_000


class ApiTokenRequest(Message):
    """POST /v1/admin/api-tokens: a buyer's account, with money in it."""

    name: AccountText
    deposit_usd_micros: Money


class ApiToken(Message):
    """The token, shown once; the market keeps its hash."""

    token: Name
    account: AccountText


class ApiTokenView(Message):
    """An API token as the market's operator sees it; `id` names it and opens nothing."""

    id: Word
    account: Shown
    created_at: Instant
    last_used_at: Instant | None = None  # to the minute
    revoked_at: Instant | None = None


class ApiTokenList(Message):
    """GET /v1/admin/api-tokens: the newest first."""

    tokens: list[ApiTokenView]


class JoinTokenRequest(Message):
    """POST /v1/admin/join-tokens: let `uses` nodes of one operator in; the bond is per node."""

    operator: OperatorText
    bond_usd_micros: Money
    ttl_s: Annotated[int, Field(ge=1, le=MAX_JOIN_TOKEN_TTL_S)] = limits.JOIN_TOKEN_TTL_S
    uses: Annotated[int, Field(ge=1, le=MAX_JOIN_TOKEN_USES)] = 1


class JoinTokenAnswer(Message):
    """A join token (wire/join_token.py), shown once."""

    token: Annotated[str, Field(max_length=2048)]
    expires_at: Instant


class NodeView(Message):
    """A node as the market's operator sees it."""

    node: NodeText
    operator: Shown
    tier: Name
    engine_class: Shown
    state: Word
    revoked: bool
    convicted: bool
    draining: bool = False  # by its own word, or the operator's
    suspended: bool = False  # strikes of many buyers: nothing new in their own code until it is looked at
    canary: Word | None = None  # how its canary stands (jobs/canary.py), while it is suspended
    struck_by: Count = 0  # buyers whose strikes count against it
    voices_ppm: Count = 0  # what they weigh together: from 3,000,000 on it is suspended
    last_seen_at: Instant | None = None
    leases: Count
    bond_usd_micros: Money
    ask_usd_micros_per_hour: Ask
    grade_ppm: Count | None = None  # what its work is paid by (rules/grade.py); none: nobody measured it
    name: NodeName = ""


class DrainRequest(Message):
    """POST /v1/admin/nodes/{node}/drain: give it no new work from now on, or some again."""

    draining: bool


class NodeList(Message):
    """GET /v1/admin/nodes."""

    nodes: list[NodeView]


class LedgerLine(Message):
    """One double entry: `usd_micros` moved from one account to another."""

    seq: Count
    key: Name  # what the entry is for; posted once
    debit: Name
    credit: Name
    usd_micros: UsdMicros
    reason: Name
    job: JobText | None = None


class LedgerPage(Message):
    """GET /v1/admin/ledger: balances by account (they sum to zero) and the newest entries in order."""

    balances: dict[str, int]
    entries: list[LedgerLine]


class Fault(Message):
    """A job the market itself could not bring to its end; its buyer has his escrow back."""

    job: JobText
    buyer: Shown
    message: LongText
    at: Instant
    refunded_usd_micros: UsdMicros


class FaultList(Message):
    """GET /v1/admin/faults: the newest first."""

    faults: list[Fault]


class StorageUse(Message):
    """GET /v1/admin/blobs: what the market stores, and how long it keeps what jobs claim (absent: for ever)."""

    num_blobs: Count
    size_bytes: Count
    ended_s: Count | None = None  # what an ended job used and made
    void_s: Count | None = None  # what an open job made in vain


class BackupRequest(Message):
    """POST /v1/admin/backup: back the market up into a folder on its own machine."""

    directory: Annotated[str, Field(min_length=1, max_length=4096, pattern=r"^/[^\x00]*$")]


class BackupMade(Message):
    """What a backup holds."""

    log_size: Count
    num_blobs: Count
    num_missing_blobs: Count
