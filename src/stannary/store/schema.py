"""Every table of a market, in the order a job meets them; those of money are in schema_money.py.

Rules:
- Secrets (API, join and session tokens, nonces) are stored as SHA-256 only: a copy of the database
  logs nobody in.
- Money is integer micro-dollars; times are integer milliseconds since 1970 UTC (`_at_ms`), given by
  the caller, so that a whole market runs under a virtual clock.
- What must never happen twice is a UNIQUE constraint, not a check in code: one job per idempotency
  key, one live work lease per task and per node, one ledger entry per key, one line per log seq.
- `events`, `ledger_entries`, `ledger_postings` and `settlement_lines` are append-only, and a state
  column changes only after its event was written: triggers refuse anything else (migrations/).

Change a table here *and* by a migration (docs/store.md); a test compares the two.
"""

from __future__ import annotations

from sqlalchemy import (
    JSON,
    BigInteger,
    CheckConstraint,
    Column,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    PrimaryKeyConstraint,
    Table,
    Text,
    UniqueConstraint,
    text,
)

from stannary.store import schema_money
from stannary.store.naming import metadata

balances = schema_money.balances
ledger_entries = schema_money.ledger_entries
ledger_postings = schema_money.ledger_postings
settlement_lines = schema_money.settlement_lines

# --- the database itself -----------------------------------------------------------------------

marks = Table(
    "marks",
    metadata,
    Column("store", Text, primary_key=True),  # random: names this database; there is one row
    Column("num_commits", BigInteger, nullable=False),  # of the writer, ever
)

# --- who ---------------------------------------------------------------------------------------

buyers = Table(
    "buyers",
    metadata,
    Column("buyer", Text, primary_key=True),
    Column("created_at_ms", BigInteger, nullable=False),
)

api_tokens = Table(
    "api_tokens",
    metadata,
    Column("token_hash", Text, primary_key=True),
    Column("buyer", Text, ForeignKey("buyers.buyer"), nullable=False, index=True),
    Column("created_at_ms", BigInteger, nullable=False),
    Column("revoked_at_ms", BigInteger),
    Column("last_used_at_ms", BigInteger),  # to the minute
)

operators = Table(
    "operators",
    metadata,
    Column("operator", Text, primary_key=True),
    Column("created_at_ms", BigInteger, nullable=False),
)

join_tokens = Table(
    "join_tokens",
    metadata,
    Column("token_hash", Text, primary_key=True),
    Column("operator", Text, ForeignKey("operators.operator"), nullable=False),
    Column("bond_usd_micros", BigInteger, nullable=False),
    Column("uses_left", Integer, nullable=False),
    Column("created_at_ms", BigInteger, nullable=False),
    Column("expires_at_ms", BigInteger, nullable=False),
    CheckConstraint("uses_left >= 0", name="uses_left"),
)

nodes = Table(
    "nodes",
    metadata,
    Column("node", Text, primary_key=True),
    Column("key", Text, nullable=False, unique=True),  # base64 of the raw public key
    Column("operator", Text, ForeignKey("operators.operator"), nullable=False, index=True),
    Column("kind", Text, nullable=False),
    Column("jurisdiction", Text, nullable=False),
    Column("terms", Text, nullable=False),
    Column("tier", Text, nullable=False),
    Column("engine_class", Text, nullable=False),
    Column("cpus", Integer, nullable=False),
    Column("memory_bytes", BigInteger, nullable=False),
    Column("ask_usd_micros_per_hour", BigInteger, nullable=False),
    Column("join_leaf", Text, nullable=False),
    Column("joined_at_ms", BigInteger, nullable=False),
    Column("draining", Integer, nullable=False, server_default=text("0")),
    Column("revoked_at_ms", BigInteger),
    Column("revoked_reason", Text),
    Column("convicted_at_ms", BigInteger),  # no new work from then on; revoked when the job is settled
)

credentials = Table(
    "credentials",
    metadata,
    Column("leaf", Text, primary_key=True),
    Column("node", Text, ForeignKey("nodes.node"), nullable=False),
    Column("envelope", LargeBinary, nullable=False),
    Column("issued_at_ms", BigInteger, nullable=False),
    Column("expires_at_ms", BigInteger, nullable=False),
    Index("ix_credentials_node_expires_at_ms", "node", "expires_at_ms"),
)

challenges = Table(
    "challenges",
    metadata,
    Column("nonce_hash", Text, primary_key=True),
    Column("node", Text, ForeignKey("nodes.node"), nullable=False),
    Column("expires_at_ms", BigInteger, nullable=False, index=True),
    Column("used_at_ms", BigInteger),
)

sessions = Table(
    "sessions",
    metadata,
    Column("token_hash", Text, primary_key=True),
    Column("node", Text, ForeignKey("nodes.node"), nullable=False, index=True),
    Column("created_at_ms", BigInteger, nullable=False),
    Column("expires_at_ms", BigInteger, nullable=False, index=True),
)

# --- what --------------------------------------------------------------------------------------

jobs = Table(
    "jobs",
    metadata,
    Column("job", Text, primary_key=True),
    Column("buyer", Text, ForeignKey("buyers.buyer"), nullable=False),
    Column("idempotency_key", Text, nullable=False),
    Column("payload_digest", Text, nullable=False),
    Column("job_digest", Text, nullable=False),
    Column("name", Text, nullable=False),
    Column("kind", Text, nullable=False),
    Column("verification", Text, nullable=False),
    Column("leaf", Text, nullable=False),  # of the buyer's envelope
    Column("envelope_seq", Integer, nullable=False, server_default=text("0")),  # in `envelopes`, with the spec in it
    Column("status", Text, nullable=False),
    Column("verdict", Text, nullable=False),
    Column("settlement", Text, nullable=False),
    Column("reason", Text, nullable=False, server_default=text("''")),
    Column("message", Text, nullable=False, server_default=text("''")),
    Column("first_open", Integer, nullable=False, server_default=text("0")),  # the first round not settled for good
    Column("round", Integer, nullable=False, server_default=text("0")),  # the last that has tasks
    Column("loss", Text),  # what a node last said of it
    Column("heldout", Text),
    Column("ending_status", Text),  # how a job that ends early is going to end
    Column("ending_reason", Text),
    Column("ending_message", Text),
    Column("escrow_usd_micros", BigInteger, nullable=False),
    Column("num_events", Integer, nullable=False, server_default=text("0")),
    Column("num_log_lines", Integer, nullable=False, server_default=text("0")),
    Column("num_log_bytes", BigInteger, nullable=False, server_default=text("0")),
    Column("num_dropped_log_lines", Integer, nullable=False, server_default=text("0")),
    Column("submitted_at_ms", BigInteger, nullable=False),
    Column("started_at_ms", BigInteger),
    Column("finished_at_ms", BigInteger),
    Column("receipt", Text),  # digest of the assembled receipt file, a blob
    UniqueConstraint("buyer", "idempotency_key"),
    Index("ix_jobs_buyer_submitted_at_ms_job", "buyer", "submitted_at_ms", "job"),
    Index(
        "ix_jobs_open",
        "status",
        sqlite_where=text("status NOT IN ('succeeded', 'failed', 'cancelled')"),
        postgresql_where=text("status NOT IN ('succeeded', 'failed', 'cancelled')"),
    ),
)

job_convictions = Table(
    "job_convictions",
    metadata,
    Column("job", Text, ForeignKey("jobs.job"), nullable=False),
    Column("node", Text, ForeignKey("nodes.node"), nullable=False),
    PrimaryKeyConstraint("job", "node"),
)

disputes = Table(  # bonds that a conviction of a job disputes, until an appeal has said what becomes of them
    "disputes",
    metadata,
    Column("job", Text, ForeignKey("jobs.job"), nullable=False),
    Column("node", Text, ForeignKey("nodes.node"), nullable=False, index=True),
    Column("task", Text, ForeignKey("tasks.task"), nullable=False),
    Column("bond_usd_micros", BigInteger, nullable=False),
    Column("stage", Text, nullable=False),
    Column("opened_at_ms", BigInteger, nullable=False),
    Column("appeal", Text),  # leaf of the statement that says who may hear it
    Column("checkpoint", Text),  # note that covers it: the appeal is drawn from its root
    Column("begun_at_ms", BigInteger),  # of the stage it is in, where that has a time limit
    Column("ruling", Text),  # leaf
    Column("lines", JSON),  # how the money of the ruling goes
    Column("listened_s", Integer, nullable=False, server_default=text("0")),  # of the window of its hearing
    Column("num_replays", Integer, nullable=False, server_default=text("0")),  # begun by the market
    PrimaryKeyConstraint("job", "node"),
    Index(
        "ix_disputes_open",
        "stage",
        sqlite_where=text("stage NOT IN ('forfeited', 'released')"),
        postgresql_where=text("stage NOT IN ('forfeited', 'released')"),
    ),
)

strikes = Table(  # who stood alone in a buyer's own code, with which task
    "strikes",
    metadata,
    Column("job", Text, ForeignKey("jobs.job"), nullable=False),
    Column("node", Text, ForeignKey("nodes.node"), nullable=False),
    Column("task", Text, ForeignKey("tasks.task"), nullable=False),
    Column("struck_at_ms", BigInteger, nullable=False),
    Column("num_answered", Integer, nullable=False, server_default=text("0")),  # questions answered before
    Column("taken_back_at_ms", BigInteger),  # the program was not reproducible: it counts for nothing
    PrimaryKeyConstraint("job", "node", "task"),
    Index("ix_strikes_node", "node"),
)

standing_changes = Table(  # what strikes of many buyers came to (jobs/standing.py); the newest of a node counts
    "standing_changes",
    metadata,
    Column("number", Integer, primary_key=True, autoincrement=True),
    Column("node", Text, ForeignKey("nodes.node"), nullable=False),
    Column("at_ms", BigInteger, nullable=False),
    Column("change", Text, nullable=False),
    Column("score_ppm", BigInteger, nullable=False),
    Index("ix_standing_changes_node_number", "node", "number"),
)

watches = Table(  # jobs in which units of a struck operator's nodes are drawn more often (rules/stake.py)
    "watches",
    metadata,
    Column("job", Text, ForeignKey("jobs.job"), primary_key=True),
    Column("operator", Text, nullable=False, index=True),
    Column("granted_usd_micros", BigInteger, nullable=False),  # what insurance has put aside
    Column("used_usd_micros", BigInteger, nullable=False, server_default=text("0")),  # what that was reckoned to cost
)

canaries = Table(  # units of the market's own order that suspended nodes were asked (rules/canary.py)
    "canaries",
    metadata,
    Column("job", Text, ForeignKey("jobs.job"), primary_key=True),
    Column("task", Text, ForeignKey("tasks.task"), nullable=False),
    Column("node", Text, ForeignKey("nodes.node"), nullable=False),
    Column("nonce", Text, nullable=False),  # what all of it follows from: told when it is decided
    Column("asked_at_ms", BigInteger, nullable=False),
    Column("outcome", Text),
    Column("reason", Text),
    Column("statement", Text),  # leaf
    Column("lines", JSON),  # how its money goes
    Column("decided_at_ms", BigInteger),
    Index("ix_canaries_node_asked_at_ms", "node", "asked_at_ms"),
    Index(
        "ix_canaries_open",
        "job",
        sqlite_where=text("decided_at_ms IS NULL"),
        postgresql_where=text("decided_at_ms IS NULL"),
    ),
)

questions = Table(  # whether a job's program can be recomputed at all (rules/question.py)
    "questions",
    metadata,
    Column("job", Text, ForeignKey("jobs.job"), nullable=False),
    Column("number", Integer, nullable=False),
    Column("task", Text, ForeignKey("tasks.task"), nullable=False),
    Column("outcome", Text),  # the reason of the verdict that answered it
    Column("opened_at_ms", BigInteger, nullable=False),
    Column("closed_at_ms", BigInteger),
    PrimaryKeyConstraint("job", "number"),
)

job_reports = Table(  # operators who say that a task cannot run
    "job_reports",
    metadata,
    Column("job", Text, ForeignKey("jobs.job"), nullable=False),
    Column("task", Text, ForeignKey("tasks.task"), nullable=False),
    Column("operator", Text, nullable=False),
    PrimaryKeyConstraint("job", "task", "operator"),
)

job_nodes = Table(
    "job_nodes",
    metadata,
    Column("job", Text, ForeignKey("jobs.job"), nullable=False),
    Column("lane", Integer, nullable=False),
    Column("node", Text, ForeignKey("nodes.node"), nullable=False, index=True),
    PrimaryKeyConstraint("job", "lane"),
)

tasks = Table(
    "tasks",
    metadata,
    Column("task", Text, primary_key=True),
    Column("job", Text, ForeignKey("jobs.job"), nullable=False),
    Column("kind", Text, nullable=False),
    Column("round", Integer, nullable=False),
    Column("lane", Integer, nullable=False),  # -1 for a merge
    Column("attempt", Integer, nullable=False),
    Column("num_steps", Integer, nullable=False),
    Column("assignment", Text, nullable=False),  # canonical JSON, the bytes whose digest is signed
    Column("assignment_digest", Text, nullable=False),
    Column("state", Text, nullable=False),
    Column("epoch", Integer, nullable=False, server_default=text("0")),
    Column("node", Text, ForeignKey("nodes.node")),  # holder of the current epoch
    Column("price_usd_micros", BigInteger, nullable=False, server_default=text("0")),
    Column("commitment", Text),
    Column("commitment_index", Integer),  # log index
    Column("contribution", Text),  # leaf
    Column("contribution_index", Integer),  # log index: the order of admission
    Column("root", Text),
    Column("outputs", JSON),
    Column("draw_number", Integer),
    Column("verdict", Text, nullable=False, server_default=text("'pending'")),
    Column("reason", Text, nullable=False, server_default=text("''")),
    Column("planned_at_ms", BigInteger, nullable=False),
    Column("leased_at_ms", BigInteger),
    Column("contributed_at_ms", BigInteger),
    Column("ended", Text),  # how its program ended, as handed in
    Column("used", JSON),  # what its node measured of it, as committed to
    Column("grade_ppm", BigInteger),  # of its node when it was committed to
    UniqueConstraint("job", "round", "kind", "lane", "attempt"),
    Index("ix_tasks_job_state", "job", "state"),
    Index(
        "ix_tasks_agreed",
        "node",
        "contributed_at_ms",
        sqlite_where=text("reason = 'agreed'"),
        postgresql_where=text("reason = 'agreed'"),
    ),
    Index(
        "ix_tasks_planned", "state", sqlite_where=text("state = 'planned'"), postgresql_where=text("state = 'planned'")
    ),
)

leases = Table(
    "leases",
    metadata,
    Column("lease", Text, primary_key=True),
    Column("type", Text, nullable=False),  # work | audit | question | reveal
    Column("job", Text, ForeignKey("jobs.job"), nullable=False, index=True),
    Column("task", Text, ForeignKey("tasks.task"), nullable=False, index=True),
    Column("audit", Text, ForeignKey("audits.audit"), index=True),
    Column("node", Text, ForeignKey("nodes.node"), nullable=False),
    Column("epoch", Integer, nullable=False),
    Column("state", Text, nullable=False),
    Column("reason", Text, nullable=False, server_default=text("''")),
    Column("body", JSON, nullable=False),  # what the node is told beside the columns (salt, step, blobs)
    Column("granted_at_ms", BigInteger, nullable=False),
    Column("deadline_at_ms", BigInteger, nullable=False),
    Column("ended_at_ms", BigInteger),
    # At most one live epoch of a task, and one piece of work per node: not a matter of careful code.
    Index(
        "uq_leases_live_work_task",
        "task",
        unique=True,
        sqlite_where=text("type = 'work' AND state = 'granted'"),
        postgresql_where=text("type = 'work' AND state = 'granted'"),
    ),
    Index(
        "uq_leases_live_work_node",
        "node",
        unique=True,
        sqlite_where=text("type = 'work' AND state = 'granted'"),
        postgresql_where=text("type = 'work' AND state = 'granted'"),
    ),
    Index(
        "ix_leases_live",
        "node",
        "deadline_at_ms",
        sqlite_where=text("state = 'granted'"),
        postgresql_where=text("state = 'granted'"),
    ),
)

# --- proof -------------------------------------------------------------------------------------

draws = Table(
    "draws",
    metadata,
    Column("job", Text, ForeignKey("jobs.job"), nullable=False),
    Column("number", Integer, nullable=False),
    Column("checkpoint", Text, nullable=False),  # note text shown to the buyer
    Column("checkpoint_size", BigInteger, nullable=False),
    Column("checkpoint_root", Text, nullable=False),
    Column("consistency", JSON, nullable=False),
    Column("requested_at_ms", BigInteger, nullable=False),
    Column("reveal", Text),  # leaf
    Column("value", Text),  # the revealed beacon value, hex
    Column("draw", Text),  # leaf
    Column("revealed_at_ms", BigInteger),
    PrimaryKeyConstraint("job", "number"),
)

draw_candidates = Table(
    "draw_candidates",
    metadata,
    Column("job", Text, ForeignKey("jobs.job"), nullable=False),
    Column("number", Integer, nullable=False),  # of the draw they are for
    Column("leaf", Text, nullable=False),
    Column("log_index", BigInteger),  # absent until a checkpoint that covers it is shown to the buyer
    Column("inclusion", JSON),  # its audit path in that checkpoint, hex
    PrimaryKeyConstraint("job", "number"),
)

audits = Table(
    "audits",
    metadata,
    Column("audit", Text, primary_key=True),
    Column("job", Text, ForeignKey("jobs.job"), nullable=False),
    Column("task", Text, ForeignKey("tasks.task"), nullable=False, index=True),
    Column("number", Integer, nullable=False),
    Column("draw_number", Integer, nullable=False),
    Column("canary", Integer, nullable=False, server_default=text("0")),
    Column("salt", Text, nullable=False),
    Column("step", Integer, nullable=False),
    Column("auditor", Text, ForeignKey("nodes.node")),
    Column("ranked", JSON, nullable=False),  # auditors in the order the draw gives
    Column("rank", Integer, nullable=False, server_default=text("0")),
    Column("price_usd_micros", BigInteger, nullable=False, server_default=text("0")),
    Column("outcome", Text, nullable=False, server_default=text("'open'")),
    Column("opened_at_ms", BigInteger, nullable=False),
    Column("closed_at_ms", BigInteger),
    UniqueConstraint("task", "number"),
    Index("ix_audits_job_outcome", "job", "outcome"),
)

answers = Table(
    "answers",
    metadata,
    Column("audit", Text, ForeignKey("audits.audit"), nullable=False),
    Column("role", Text, nullable=False),
    Column("node", Text, ForeignKey("nodes.node"), nullable=False),
    Column("commitment", Text, nullable=False),
    Column("commitment_leaf", Text, nullable=False),
    Column("committed_at_ms", BigInteger, nullable=False),
    Column("answer_leaf", Text),
    Column("answer", Text),
    Column("root", Text),
    Column("outputs", JSON),
    Column("answered_at_ms", BigInteger),
    Column("ended", Text),
    PrimaryKeyConstraint("audit", "role", "node"),
)

envelopes = Table(
    "envelopes",
    metadata,
    Column("seq", Integer, primary_key=True, autoincrement=True),
    Column("leaf", Text, nullable=False),  # digest spelling of SHA-256(PAE)
    Column("kind", Text, nullable=False),
    Column("job", Text),  # absent for join and credential
    Column("envelope", LargeBinary, nullable=False),
    Column("log_index", BigInteger),  # absent until the log has it
    Column("received_at_ms", BigInteger, nullable=False),
    Index(
        "uq_envelopes_log_index",
        "log_index",
        unique=True,
        sqlite_where=text("log_index IS NOT NULL"),
        postgresql_where=text("log_index IS NOT NULL"),
    ),
    # A job's own envelope is found by its number (jobs.envelope_seq), and is there once as its job is: a submit writes
    # two random pages less.
    Index(
        "uq_envelopes_leaf",
        "leaf",
        unique=True,
        sqlite_where=text("kind <> 'job'"),
        postgresql_where=text("kind <> 'job'"),
    ),
    Index(
        "ix_envelopes_job",
        "job",
        sqlite_where=text("kind <> 'job'"),
        postgresql_where=text("kind <> 'job'"),
    ),
    Index(
        "ix_envelopes_unlogged",
        "seq",
        sqlite_where=text("log_index IS NULL"),
        postgresql_where=text("log_index IS NULL"),
    ),
    sqlite_autoincrement=True,
)

events = Table(
    "events",
    metadata,
    Column("job", Text, ForeignKey("jobs.job"), nullable=False),
    Column("seq", Integer, nullable=False),
    Column("at_ms", BigInteger, nullable=False),
    Column("type", Text, nullable=False),
    Column("task", Text),
    Column("node", Text),
    Column("message", Text, nullable=False),
    Column("data", JSON, nullable=False),
    PrimaryKeyConstraint("job", "seq"),
    sqlite_with_rowid=False,
)

log_lines = Table(
    "log_lines",
    metadata,
    Column("job", Text, ForeignKey("jobs.job"), nullable=False),
    Column("seq", Integer, nullable=False),
    Column("at_ms", BigInteger, nullable=False),
    Column("node", Text, nullable=False),
    Column("task", Text, nullable=False),
    Column("stream", Text, nullable=False),
    Column("text", Text, nullable=False),
    PrimaryKeyConstraint("job", "seq"),
    sqlite_with_rowid=False,
)

# --- bytes -------------------------------------------------------------------------------------

blobs = Table(
    "blobs",
    metadata,
    Column("digest", Text, primary_key=True),
    Column("size_bytes", BigInteger, nullable=False),
    Column("stored_at_ms", BigInteger, nullable=False),
)

blob_owners = Table(
    "blob_owners",
    metadata,
    Column("digest", Text, ForeignKey("blobs.digest"), nullable=False),
    Column("owner", Text, nullable=False),  # a job id, `buyer:<id>` or `node:<id>`
    PrimaryKeyConstraint("digest", "owner"),
    Index("ix_blob_owners_owner", "owner"),
    sqlite_with_rowid=False,
)

# --- money -------------------------------------------------------------------------------------

readings = Table(
    "readings",
    metadata,
    Column("job", Text, ForeignKey("jobs.job"), nullable=False),
    Column("node", Text, ForeignKey("nodes.node"), nullable=False),
    Column("seq", Integer, nullable=False),
    Column("previous", Text, nullable=False),
    Column("digest", Text, nullable=False),
    Column("spent", JSON, nullable=False),
    Column("read_at_ms", BigInteger, nullable=False),
    Column("envelope", LargeBinary, nullable=False),
    PrimaryKeyConstraint("job", "node", "seq"),
)
