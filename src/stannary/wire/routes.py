"""Paths and headers of the protocol, so that no two processes spell one differently.

Constants hold the templates the server registers; the functions below fill them in for clients.
Ids in paths never hold a slash: a task id travels in bodies only.
"""

from __future__ import annotations

MARKET = "/v1/market"
MARKET_PROOF = "/v1/market/proof"
CHECKPOINT = "/checkpoint"  # C2SP tlog-tiles
TILE = "/tile/{path:path}"
LOG_PROOF = "/v1/log/proof/{leaf_hex}"
LOG_STATE = "/v1/log/state"  # ?old=SIZE: the newest checkpoint, and its consistency with what was seen

BLOB = "/v1/blobs/{digest}"
QUOTES = "/v1/quotes"
OFFERS = "/v1/offers"
JOBS = "/v1/jobs"
JOB = "/v1/jobs/{job}"
JOB_EVENTS = "/v1/jobs/{job}/events"
JOB_LOGS = "/v1/jobs/{job}/logs"
JOB_CANCEL = "/v1/jobs/{job}/cancel"
JOB_COST = "/v1/jobs/{job}/cost"
JOB_RECEIPT = "/v1/jobs/{job}/receipt"
JOB_OUTPUTS = "/v1/jobs/{job}/outputs"
JOB_BEACON = "/v1/jobs/{job}/beacon"
JOB_DISPUTES = "/v1/jobs/{job}/disputes"
JOB_RULING = "/v1/jobs/{job}/rulings/{node}"
JOB_MANIFEST = "/v1/jobs/{job}/manifest"

JOIN = "/v1/join"
SESSION_CHALLENGE = "/v1/sessions/challenge"
SESSIONS = "/v1/sessions"
HEARTBEAT = "/v1/heartbeat"
POWER = "/v1/power"
POWER_NEXT = "/v1/power/next"
LEASE_NEXT = "/v1/leases/next"
LEASE_READING = "/v1/leases/{lease}/reading"
LEASE_LOGS = "/v1/leases/{lease}/logs"
LEASE_PROGRESS = "/v1/leases/{lease}/progress"
LEASE_COMMITMENT = "/v1/leases/{lease}/commitment"
LEASE_CONTRIBUTION = "/v1/leases/{lease}/contribution"
LEASE_ANSWER_COMMITMENT = "/v1/leases/{lease}/answer-commitment"
LEASE_ANSWER = "/v1/leases/{lease}/answer"
LEASE_FAIL = "/v1/leases/{lease}/fail"
LEASE_RELEASE = "/v1/leases/{lease}/release"
LEASE_PARTIAL = "/v1/leases/{lease}/partial"

ADMIN_API_TOKENS = "/v1/admin/api-tokens"
ADMIN_API_TOKEN_REVOKE = "/v1/admin/api-tokens/{token}/revoke"  # noqa: S105  a path
ADMIN_JOIN_TOKENS = "/v1/admin/join-tokens"
ADMIN_NODES = "/v1/admin/nodes"
ADMIN_NODE_REVOKE = "/v1/admin/nodes/{node}/revoke"
ADMIN_NODE_DRAIN = "/v1/admin/nodes/{node}/drain"
ADMIN_LEDGER = "/v1/admin/ledger"
ADMIN_FAULTS = "/v1/admin/faults"
ADMIN_BLOBS = "/v1/admin/blobs"
ADMIN_BACKUP = "/v1/admin/backup"
ADMIN_ROOT = "/v1/admin/roots/{digest}"

IDEMPOTENCY_KEY = "Idempotency-Key"
REQUEST_ID = "X-Request-Id"


def job(template: str, job_id: str) -> str:
    """Fill a job's path: `routes.job(routes.JOB_EVENTS, job_id)`."""
    return template.replace("{job}", job_id)


def lease(template: str, lease_id: str) -> str:
    """Fill a lease's path."""
    return template.replace("{lease}", lease_id)


def blob(digest: str) -> str:
    """Return the path of a blob."""
    return BLOB.replace("{digest}", digest)


def admin_root(digest: str) -> str:
    """Return the path at which a root file system is published."""
    return ADMIN_ROOT.replace("{digest}", digest)


def node(template: str, node_id: str) -> str:
    """Fill a node's path."""
    return template.replace("{node}", node_id)


def api_token(template: str, token_id: str) -> str:
    """Fill an API token's path; its id is no secret."""
    return template.replace("{token}", token_id)
