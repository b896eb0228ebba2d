"""The first schema: everything a market keeps.

Revision: 0001, after nothing.

A migration is history: never edit it once released, write the next one (docs/store.md).
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

APPEND_ONLY = ("events", "ledger_entries", "ledger_postings", "settlement_lines")

# A state may change only when the newest event of its job announces exactly that change.
ANNOUNCED = (
    ("jobs", "status", "'job.' || NEW.status", "events.task IS NULL"),
    ("jobs", "verdict", "'verdict.' || NEW.verdict", "events.task IS NULL"),
    ("jobs", "settlement", "'settlement.' || NEW.settlement", "events.task IS NULL"),
    ("tasks", "state", "'task.' || NEW.state", "events.task = NEW.task"),
    ("leases", "state", "'lease.' || NEW.state", "events.task = NEW.task"),
)


def upgrade() -> None:
    """Make every table, then the triggers that keep history from being rewritten."""
    _buyers()
    _nodes()
    _jobs()
    _tasks()
    _audits()
    _leases()
    _journal()
    _money()
    _append_only()
    _announced()


def _buyers() -> None:
    """Buyers, operators and their tokens' digests."""
    op.create_table(
        "buyers",
        sa.Column("buyer", sa.Text(), nullable=False),
        sa.Column("created_at_ms", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("buyer", name=op.f("pk_buyers")),
    )
    op.create_table(
        "api_tokens",
        sa.Column("token_hash", sa.Text(), nullable=False),
        sa.Column("buyer", sa.Text(), nullable=False),
        sa.Column("created_at_ms", sa.BigInteger(), nullable=False),
        sa.Column("revoked_at_ms", sa.BigInteger(), nullable=True),
        sa.ForeignKeyConstraint(["buyer"], ["buyers.buyer"], name=op.f("fk_api_tokens_buyer")),
        sa.PrimaryKeyConstraint("token_hash", name=op.f("pk_api_tokens")),
    )
    op.create_index(op.f("ix_api_tokens_buyer"), "api_tokens", ["buyer"], unique=False)
    op.create_table(
        "operators",
        sa.Column("operator", sa.Text(), nullable=False),
        sa.Column("created_at_ms", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("operator", name=op.f("pk_operators")),
    )
    op.create_table(
        "join_tokens",
        sa.Column("token_hash", sa.Text(), nullable=False),
        sa.Column("operator", sa.Text(), nullable=False),
        sa.Column("bond_usd_micros", sa.BigInteger(), nullable=False),
        sa.Column("uses_left", sa.Integer(), nullable=False),
        sa.Column("created_at_ms", sa.BigInteger(), nullable=False),
        sa.Column("expires_at_ms", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("uses_left >= 0", name=op.f("ck_join_tokens_uses_left")),
        sa.ForeignKeyConstraint(["operator"], ["operators.operator"], name=op.f("fk_join_tokens_operator")),
        sa.PrimaryKeyConstraint("token_hash", name=op.f("pk_join_tokens")),
    )


def _nodes() -> None:
    """Nodes, their credentials, challenges and sessions."""
    op.create_table(
        "nodes",
        sa.Column("node", sa.Text(), nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("operator", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("jurisdiction", sa.Text(), nullable=False),
        sa.Column("terms", sa.Text(), nullable=False),
        sa.Column("tier", sa.Text(), nullable=False),
        sa.Column("engine_class", sa.Text(), nullable=False),
        sa.Column("cpus", sa.Integer(), nullable=False),
        sa.Column("memory_bytes", sa.BigInteger(), nullable=False),
        sa.Column("ask_usd_micros_per_hour", sa.BigInteger(), nullable=False),
        sa.Column("join_leaf", sa.Text(), nullable=False),
        sa.Column("joined_at_ms", sa.BigInteger(), nullable=False),
        sa.Column("draining", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("revoked_at_ms", sa.BigInteger(), nullable=True),
        sa.Column("revoked_reason", sa.Text(), nullable=True),
        sa.ForeignKeyConstraint(["operator"], ["operators.operator"], name=op.f("fk_nodes_operator")),
        sa.PrimaryKeyConstraint("node", name=op.f("pk_nodes")),
        sa.UniqueConstraint("key", name=op.f("uq_nodes_key")),
    )
    op.create_index(op.f("ix_nodes_operator"), "nodes", ["operator"], unique=False)
    op.create_table(
        "credentials",
        sa.Column("leaf", sa.Text(), nullable=False),
        sa.Column("node", sa.Text(), nullable=False),
        sa.Column("envelope", sa.LargeBinary(), nullable=False),
        sa.Column("issued_at_ms", sa.BigInteger(), nullable=False),
        sa.Column("expires_at_ms", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["node"], ["nodes.node"], name=op.f("fk_credentials_node")),
        sa.PrimaryKeyConstraint("leaf", name=op.f("pk_credentials")),
    )
    op.create_index("ix_credentials_node_expires_at_ms", "credentials", ["node", "expires_at_ms"], unique=False)
    op.create_table(
        "challenges",
        sa.Column("nonce_hash", sa.Text(), nullable=False),
        sa.Column("node", sa.Text(), nullable=False),
        sa.Column("expires_at_ms", sa.BigInteger(), nullable=False),
        sa.Column("used_at_ms", sa.BigInteger(), nullable=True),
        sa.ForeignKeyConstraint(["node"], ["nodes.node"], name=op.f("fk_challenges_node")),
        sa.PrimaryKeyConstraint("nonce_hash", name=op.f("pk_challenges")),
    )
    op.create_index(op.f("ix_challenges_expires_at_ms"), "challenges", ["expires_at_ms"], unique=False)
    op.create_table(
        "sessions",
        sa.Column("token_hash", sa.Text(), nullable=False),
        sa.Column("node", sa.Text(), nullable=False),
        sa.Column("created_at_ms", sa.BigInteger(), nullable=False),
        sa.Column("expires_at_ms", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["node"], ["nodes.node"], name=op.f("fk_sessions_node")),
        sa.PrimaryKeyConstraint("token_hash", name=op.f("pk_sessions")),
    )
    op.create_index(op.f("ix_sessions_expires_at_ms"), "sessions", ["expires_at_ms"], unique=False)
    op.create_index(op.f("ix_sessions_node"), "sessions", ["node"], unique=False)


def _jobs() -> None:
    """Jobs and where they were placed."""
    op.create_table(
        "jobs",
        sa.Column("job", sa.Text(), nullable=False),
        sa.Column("buyer", sa.Text(), nullable=False),
        sa.Column("idempotency_key", sa.Text(), nullable=False),
        sa.Column("payload_digest", sa.Text(), nullable=False),
        sa.Column("job_digest", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("verification", sa.Text(), nullable=False),
        sa.Column("leaf", sa.Text(), nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("verdict", sa.Text(), nullable=False),
        sa.Column("settlement", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), server_default=sa.text("''"), nullable=False),
        sa.Column("message", sa.Text(), server_default=sa.text("''"), nullable=False),
        sa.Column("progress", sa.JSON(), server_default=sa.text("'{}'"), nullable=False),
        sa.Column("escrow_usd_micros", sa.BigInteger(), nullable=False),
        sa.Column("num_events", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("num_log_lines", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("num_log_bytes", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("num_dropped_log_lines", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("submitted_at_ms", sa.BigInteger(), nullable=False),
        sa.Column("started_at_ms", sa.BigInteger(), nullable=True),
        sa.Column("finished_at_ms", sa.BigInteger(), nullable=True),
        sa.Column("receipt", sa.Text(), nullable=True),
        sa.ForeignKeyConstraint(["buyer"], ["buyers.buyer"], name=op.f("fk_jobs_buyer")),
        sa.PrimaryKeyConstraint("job", name=op.f("pk_jobs")),
        sa.UniqueConstraint("buyer", "idempotency_key", name=op.f("uq_jobs_buyer_idempotency_key")),
    )
    op.create_index("ix_jobs_buyer_submitted_at_ms_job", "jobs", ["buyer", "submitted_at_ms", "job"], unique=False)
    op.create_index(
        "ix_jobs_open",
        "jobs",
        ["status"],
        unique=False,
        sqlite_where=sa.text("status NOT IN ('succeeded', 'failed', 'cancelled')"),
        postgresql_where=sa.text("status NOT IN ('succeeded', 'failed', 'cancelled')"),
    )
    op.create_table(
        "job_nodes",
        sa.Column("job", sa.Text(), nullable=False),
        sa.Column("lane", sa.Integer(), nullable=False),
        sa.Column("node", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["job"], ["jobs.job"], name=op.f("fk_job_nodes_job")),
        sa.ForeignKeyConstraint(["node"], ["nodes.node"], name=op.f("fk_job_nodes_node")),
        sa.PrimaryKeyConstraint("job", "lane", name=op.f("pk_job_nodes")),
    )
    op.create_index(op.f("ix_job_nodes_node"), "job_nodes", ["node"], unique=False)


def _tasks() -> None:
    """Units of work."""
    op.create_table(
        "tasks",
        sa.Column("task", sa.Text(), nullable=False),
        sa.Column("job", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("round", sa.Integer(), nullable=False),
        sa.Column("lane", sa.Integer(), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("num_steps", sa.Integer(), nullable=False),
        sa.Column("assignment", sa.Text(), nullable=False),
        sa.Column("assignment_digest", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("epoch", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("node", sa.Text(), nullable=True),
        sa.Column("price_usd_micros", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("commitment", sa.Text(), nullable=True),
        sa.Column("commitment_index", sa.Integer(), nullable=True),
        sa.Column("contribution", sa.Text(), nullable=True),
        sa.Column("contribution_index", sa.Integer(), nullable=True),
        sa.Column("root", sa.Text(), nullable=True),
        sa.Column("outputs", sa.JSON(), nullable=True),
        sa.Column("draw_number", sa.Integer(), nullable=True),
        sa.Column("verdict", sa.Text(), server_default=sa.text("'pending'"), nullable=False),
        sa.Column("reason", sa.Text(), server_default=sa.text("''"), nullable=False),
        sa.Column("planned_at_ms", sa.BigInteger(), nullable=False),
        sa.Column("leased_at_ms", sa.BigInteger(), nullable=True),
        sa.Column("contributed_at_ms", sa.BigInteger(), nullable=True),
        sa.ForeignKeyConstraint(["job"], ["jobs.job"], name=op.f("fk_tasks_job")),
        sa.ForeignKeyConstraint(["node"], ["nodes.node"], name=op.f("fk_tasks_node")),
        sa.PrimaryKeyConstraint("task", name=op.f("pk_tasks")),
        sa.UniqueConstraint(
            "job", "round", "kind", "lane", "attempt", name=op.f("uq_tasks_job_round_kind_lane_attempt")
        ),
    )
    op.create_index("ix_tasks_job_state", "tasks", ["job", "state"], unique=False)
    op.create_index(
        "ix_tasks_planned",
        "tasks",
        ["state"],
        unique=False,
        sqlite_where=sa.text("state = 'planned'"),
        postgresql_where=sa.text("state = 'planned'"),
    )


def _audits() -> None:
    """Draws, audits and answers."""
    op.create_table(
        "draws",
        sa.Column("job", sa.Text(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("checkpoint", sa.Text(), nullable=False),
        sa.Column("checkpoint_size", sa.BigInteger(), nullable=False),
        sa.Column("checkpoint_root", sa.Text(), nullable=False),
        sa.Column("consistency", sa.JSON(), nullable=False),
        sa.Column("requested_at_ms", sa.BigInteger(), nullable=False),
        sa.Column("reveal", sa.Text(), nullable=True),
        sa.Column("value", sa.Text(), nullable=True),
        sa.Column("draw", sa.Text(), nullable=True),
        sa.Column("revealed_at_ms", sa.BigInteger(), nullable=True),
        sa.ForeignKeyConstraint(["job"], ["jobs.job"], name=op.f("fk_draws_job")),
        sa.PrimaryKeyConstraint("job", "number", name=op.f("pk_draws")),
    )
    op.create_table(
        "audits",
        sa.Column("audit", sa.Text(), nullable=False),
        sa.Column("job", sa.Text(), nullable=False),
        sa.Column("task", sa.Text(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("draw_number", sa.Integer(), nullable=False),
        sa.Column("canary", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("salt", sa.Text(), nullable=False),
        sa.Column("step", sa.Integer(), nullable=False),
        sa.Column("auditor", sa.Text(), nullable=True),
        sa.Column("ranked", sa.JSON(), nullable=False),
        sa.Column("rank", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("price_usd_micros", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("outcome", sa.Text(), server_default=sa.text("'open'"), nullable=False),
        sa.Column("opened_at_ms", sa.BigInteger(), nullable=False),
        sa.Column("closed_at_ms", sa.BigInteger(), nullable=True),
        sa.ForeignKeyConstraint(["auditor"], ["nodes.node"], name=op.f("fk_audits_auditor")),
        sa.ForeignKeyConstraint(["job"], ["jobs.job"], name=op.f("fk_audits_job")),
        sa.ForeignKeyConstraint(["task"], ["tasks.task"], name=op.f("fk_audits_task")),
        sa.PrimaryKeyConstraint("audit", name=op.f("pk_audits")),
        sa.UniqueConstraint("task", "number", name=op.f("uq_audits_task_number")),
    )
    op.create_index("ix_audits_job_outcome", "audits", ["job", "outcome"], unique=False)
    op.create_index(op.f("ix_audits_task"), "audits", ["task"], unique=False)
    op.create_table(
        "answers",
        sa.Column("audit", sa.Text(), nullable=False),
        sa.Column("role", sa.Text(), nullable=False),
        sa.Column("node", sa.Text(), nullable=False),
        sa.Column("commitment", sa.Text(), nullable=False),
        sa.Column("commitment_leaf", sa.Text(), nullable=False),
        sa.Column("committed_at_ms", sa.BigInteger(), nullable=False),
        sa.Column("answer_leaf", sa.Text(), nullable=True),
        sa.Column("answer", sa.Text(), nullable=True),
        sa.Column("root", sa.Text(), nullable=True),
        sa.Column("outputs", sa.JSON(), nullable=True),
        sa.Column("answered_at_ms", sa.BigInteger(), nullable=True),
        sa.ForeignKeyConstraint(["audit"], ["audits.audit"], name=op.f("fk_answers_audit")),
        sa.ForeignKeyConstraint(["node"], ["nodes.node"], name=op.f("fk_answers_node")),
        sa.PrimaryKeyConstraint("audit", "role", "node", name=op.f("pk_answers")),
    )


def _leases() -> None:
    """Who holds what."""
    op.create_table(
        "leases",
        sa.Column("lease", sa.Text(), nullable=False),
        sa.Column("type", sa.Text(), nullable=False),
        sa.Column("job", sa.Text(), nullable=False),
        sa.Column("task", sa.Text(), nullable=False),
        sa.Column("audit", sa.Text(), nullable=True),
        sa.Column("node", sa.Text(), nullable=False),
        sa.Column("epoch", sa.Integer(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), server_default=sa.text("''"), nullable=False),
        sa.Column("body", sa.JSON(), nullable=False),
        sa.Column("granted_at_ms", sa.BigInteger(), nullable=False),
        sa.Column("deadline_at_ms", sa.BigInteger(), nullable=False),
        sa.Column("ended_at_ms", sa.BigInteger(), nullable=True),
        sa.ForeignKeyConstraint(["audit"], ["audits.audit"], name=op.f("fk_leases_audit")),
        sa.ForeignKeyConstraint(["job"], ["jobs.job"], name=op.f("fk_leases_job")),
        sa.ForeignKeyConstraint(["node"], ["nodes.node"], name=op.f("fk_leases_node")),
        sa.ForeignKeyConstraint(["task"], ["tasks.task"], name=op.f("fk_leases_task")),
        sa.PrimaryKeyConstraint("lease", name=op.f("pk_leases")),
    )
    op.create_index(op.f("ix_leases_audit"), "leases", ["audit"], unique=False)
    op.create_index(op.f("ix_leases_job"), "leases", ["job"], unique=False)
    op.create_index(
        "ix_leases_live",
        "leases",
        ["node", "deadline_at_ms"],
        unique=False,
        sqlite_where=sa.text("state = 'granted'"),
        postgresql_where=sa.text("state = 'granted'"),
    )
    op.create_index(op.f("ix_leases_task"), "leases", ["task"], unique=False)
    op.create_index(
        "uq_leases_live_work_node",
        "leases",
        ["node"],
        unique=True,
        sqlite_where=sa.text("type = 'work' AND state = 'granted'"),
        postgresql_where=sa.text("type = 'work' AND state = 'granted'"),
    )
    op.create_index(
        "uq_leases_live_work_task",
        "leases",
        ["task"],
        unique=True,
        sqlite_where=sa.text("type = 'work' AND state = 'granted'"),
        postgresql_where=sa.text("type = 'work' AND state = 'granted'"),
    )


def _journal() -> None:
    """Signed envelopes, events, log lines, stored bytes."""
    op.create_table(
        "envelopes",
        sa.Column("seq", sa.Integer(), autoincrement=True, nullable=False),
        sa.Column("leaf", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("job", sa.Text(), nullable=True),
        sa.Column("envelope", sa.LargeBinary(), nullable=False),
        sa.Column("log_index", sa.BigInteger(), nullable=True),
        sa.Column("received_at_ms", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("seq", name=op.f("pk_envelopes")),
        sa.UniqueConstraint("leaf", name=op.f("uq_envelopes_leaf")),
        sqlite_autoincrement=True,
    )
    op.create_index(
        "ix_envelopes_job",
        "envelopes",
        ["job"],
        unique=False,
        sqlite_where=sa.text("kind <> 'job'"),
        postgresql_where=sa.text("kind <> 'job'"),
    )
    op.create_index(
        "ix_envelopes_unlogged",
        "envelopes",
        ["seq"],
        unique=False,
        sqlite_where=sa.text("log_index IS NULL"),
        postgresql_where=sa.text("log_index IS NULL"),
    )
    op.create_index(
        "uq_envelopes_log_index",
        "envelopes",
        ["log_index"],
        unique=True,
        sqlite_where=sa.text("log_index IS NOT NULL"),
        postgresql_where=sa.text("log_index IS NOT NULL"),
    )
    op.create_table(
        "events",
        sa.Column("job", sa.Text(), nullable=False),
        sa.Column("seq", sa.Integer(), nullable=False),
        sa.Column("at_ms", sa.BigInteger(), nullable=False),
        sa.Column("type", sa.Text(), nullable=False),
        sa.Column("task", sa.Text(), nullable=True),
        sa.Column("node", sa.Text(), nullable=True),
        sa.Column("message", sa.Text(), nullable=False),
        sa.Column("data", sa.JSON(), nullable=False),
        sa.ForeignKeyConstraint(["job"], ["jobs.job"], name=op.f("fk_events_job")),
        sa.PrimaryKeyConstraint("job", "seq", name=op.f("pk_events")),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "log_lines",
        sa.Column("job", sa.Text(), nullable=False),
        sa.Column("seq", sa.Integer(), nullable=False),
        sa.Column("at_ms", sa.BigInteger(), nullable=False),
        sa.Column("node", sa.Text(), nullable=False),
        sa.Column("task", sa.Text(), nullable=False),
        sa.Column("stream", sa.Text(), nullable=False),
        sa.Column("text", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["job"], ["jobs.job"], name=op.f("fk_log_lines_job")),
        sa.PrimaryKeyConstraint("job", "seq", name=op.f("pk_log_lines")),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "blobs",
        sa.Column("digest", sa.Text(), nullable=False),
        sa.Column("size_bytes", sa.BigInteger(), nullable=False),
        sa.Column("stored_at_ms", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("digest", name=op.f("pk_blobs")),
    )
    op.create_table(
        "blob_owners",
        sa.Column("digest", sa.Text(), nullable=False),
        sa.Column("owner", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["digest"], ["blobs.digest"], name=op.f("fk_blob_owners_digest")),
        sa.PrimaryKeyConstraint("digest", "owner", name=op.f("pk_blob_owners")),
        sqlite_with_rowid=False,
    )
    op.create_index("ix_blob_owners_owner", "blob_owners", ["owner"], unique=False)


def _money() -> None:
    """Readings, accounts, double entry, settlement."""
    op.create_table(
        "readings",
        sa.Column("job", sa.Text(), nullable=False),
        sa.Column("node", sa.Text(), nullable=False),
        sa.Column("seq", sa.Integer(), nullable=False),
        sa.Column("previous", sa.Text(), nullable=False),
        sa.Column("digest", sa.Text(), nullable=False),
        sa.Column("spent", sa.JSON(), nullable=False),
        sa.Column("read_at_ms", sa.BigInteger(), nullable=False),
        sa.Column("envelope", sa.LargeBinary(), nullable=False),
        sa.ForeignKeyConstraint(["job"], ["jobs.job"], name=op.f("fk_readings_job")),
        sa.ForeignKeyConstraint(["node"], ["nodes.node"], name=op.f("fk_readings_node")),
        sa.PrimaryKeyConstraint("job", "node", "seq", name=op.f("pk_readings")),
    )
    op.create_table(
        "balances",
        sa.Column("account", sa.Text(), nullable=False),
        sa.Column("usd_micros", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("usd_micros >= 0 OR account = 'world'", name=op.f("ck_balances_not_overdrawn")),
        sa.PrimaryKeyConstraint("account", name=op.f("pk_balances")),
    )
    op.create_table(
        "ledger_entries",
        sa.Column("entry", sa.Integer(), autoincrement=True, nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("at_ms", sa.BigInteger(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("job", sa.Text(), nullable=True),
        sa.Column("task", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("entry", name=op.f("pk_ledger_entries")),
        sa.UniqueConstraint("key", name=op.f("uq_ledger_entries_key")),
    )
    op.create_index(
        "ix_ledger_entries_job",
        "ledger_entries",
        ["job"],
        unique=False,
        sqlite_where=sa.text("reason <> 'hold'"),
        postgresql_where=sa.text("reason <> 'hold'"),
    )
    op.create_table(
        "ledger_postings",
        sa.Column("entry", sa.Integer(), nullable=False),
        sa.Column("account", sa.Text(), nullable=False),
        sa.Column("usd_micros", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["account"], ["balances.account"], name=op.f("fk_ledger_postings_account")),
        sa.ForeignKeyConstraint(["entry"], ["ledger_entries.entry"], name=op.f("fk_ledger_postings_entry")),
        sa.PrimaryKeyConstraint("entry", "account", name=op.f("pk_ledger_postings")),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "settlement_lines",
        sa.Column("job", sa.Text(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("account", sa.Text(), nullable=False),
        sa.Column("task", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("usd_micros", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["job"], ["jobs.job"], name=op.f("fk_settlement_lines_job")),
        sa.PrimaryKeyConstraint("job", "number", name=op.f("pk_settlement_lines")),
    )


def _append_only() -> None:
    """Refuse to change or delete what was written once."""
    for table in APPEND_ONLY:
        for verb in ("UPDATE", "DELETE"):
            op.execute(
                f"CREATE TRIGGER {table}_refuse_{verb.lower()} BEFORE {verb} ON {table} "
                f"BEGIN SELECT RAISE(ABORT, '{table} is append-only'); END"
            )


def _announced() -> None:
    """Refuse a change of state that has no event."""
    for table, column, kind, subject in ANNOUNCED:
        op.execute(
            f"CREATE TRIGGER {table}_{column}_announced BEFORE UPDATE OF {column} ON {table} "  # noqa: S608
            f"WHEN NEW.{column} <> OLD.{column} AND NOT EXISTS ("
            "SELECT 1 FROM events JOIN jobs ON jobs.job = events.job AND events.seq = jobs.num_events "
            f"WHERE events.job = NEW.job AND events.type = {kind} AND {subject}) "
            f"BEGIN SELECT RAISE(ABORT, 'a change of {table}.{column} needs its event'); END"
        )
