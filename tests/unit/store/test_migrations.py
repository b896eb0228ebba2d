"""Migrations: they make the tables of schema.py, once, whole, and refuse the future."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from stannary.errors import EnvironmentProblem
from stannary.store import engine as engines
from stannary.store import envelopes, events, jobs, migrate
from stannary.store.database import Store
from stannary.store.schema import metadata


def test_migrations_make_exactly_the_schema(store: Store) -> None:
    """The database built by migrations differs in nothing from the tables the code uses."""
    assert store.read(lambda c: compare_metadata(MigrationContext.configure(c), metadata)) == []


def test_opening_again_changes_nothing(tmp_path: Path) -> None:
    """A database at the newest schema is opened as it is."""
    listing = sa.text("SELECT name, sql FROM sqlite_master ORDER BY name")
    with Store.open(tmp_path / "market.db") as store:
        before = store.read(lambda c: c.execute(listing).all())
    with Store.open(tmp_path / "market.db") as store:
        assert store.read(lambda c: c.execute(listing).all()) == before


def test_a_database_of_a_newer_release_is_refused(tmp_path: Path) -> None:
    """An unknown revision is named, not guessed at, and the file is let go."""
    path = tmp_path / "market.db"
    with Store.open(path) as store:
        store.write(lambda c: c.exec_driver_sql("UPDATE alembic_version SET version_num = '9999'")).result(30)
    for _ in range(2):
        with pytest.raises(EnvironmentProblem, match="newer stannary") as refused:
            Store.open(path)
        assert "9999" in refused.value.why


def test_a_disk_without_room_makes_no_half_schema(tmp_path: Path) -> None:
    """A migration that cannot finish leaves the old schema whole."""
    path = tmp_path / "market.db"
    with pytest.raises(EnvironmentProblem, match="full"):
        Store.open(path, max_pages=10)
    engine = engines.reader(path)
    with engine.connect() as connection:
        assert sa.inspect(connection).get_table_names() == []
    engine.dispose()
    migrate.upgrade(engines.writer(path))
    Store.open(path).close()


def test_what_a_job_said_of_its_course_is_kept(tmp_path: Path) -> None:
    """A market of before this release goes on where it was: rounds, figures, its ending, convictions and reports."""
    path = tmp_path / "market.db"
    engine = engines.writer(path)
    migrate.upgrade(engine, to="0005")
    progress = {
        "first_open": 2, "round": 3, "loss": "1.5", "convicted": ["n-1"],
        "failures": {"j-a/r0/l0/a0": ["ann", "bob"]},
        "ending": {"status": "failed", "reason": "stalled", "message": "nothing moved"},
    }  # fmt: skip
    with engine.connect() as connection, connection.begin():
        connection.exec_driver_sql("PRAGMA defer_foreign_keys = ON")
        connection.exec_driver_sql("INSERT INTO buyers VALUES ('ada', 1)")
        connection.exec_driver_sql(
            "INSERT INTO jobs (job, buyer, idempotency_key, payload_digest, job_digest, name, kind, verification, leaf,"
            " status, verdict, settlement, progress, escrow_usd_micros, submitted_at_ms)"
            " VALUES ('j-a', 'ada', 'k', 'd', 'd', 'n', 'train', 'replay', 'l',"
            " 'cancelling', 'pending', 'held', ?, 5, 1)",
            (json.dumps(progress),),
        )
        connection.exec_driver_sql(
            "INSERT INTO nodes (node, key, operator, kind, jurisdiction, terms, tier, engine_class, cpus, memory_bytes,"
            " ask_usd_micros_per_hour, join_leaf, joined_at_ms)"
            " VALUES ('n-1', 'k', 'ann', 'machine', 'none', 't', 'T0', 'c', 1, 1, 1, 'l', 1)"
        )
        connection.exec_driver_sql("INSERT INTO operators VALUES ('ann', 1)")
        connection.exec_driver_sql(
            "INSERT INTO tasks (task, job, kind, round, lane, attempt, num_steps, assignment, assignment_digest, state,"
            " planned_at_ms) VALUES ('j-a/r0/l0/a0', 'j-a', 'round', 0, 0, 0, 1, '{}', 'd', 'planned', 1)"
        )
    engine.dispose()
    with Store.open(path) as store:
        row = store.read(lambda c: jobs.get(c, "j-a"))
        assert (row.first_open, row.round, row.loss, row.heldout) == (2, 3, "1.5", None)
        assert row.ending is not None
        assert (row.ending.status, row.ending.reason, row.ending.message) == ("failed", "stalled", "nothing moved")
        assert store.read(lambda c: jobs.convicted(c, "j-a")) == {"n-1"}
        listed = sa.text("SELECT task, operator FROM job_reports ORDER BY operator")
        assert store.read(lambda c: c.execute(listed).all()) == [("j-a/r0/l0/a0", "ann"), ("j-a/r0/l0/a0", "bob")]


def test_a_job_keeps_its_envelope_and_its_first_event(tmp_path: Path) -> None:
    """A market of before this release finds each job's envelope by its number, logs what was not logged, tells once."""
    path = tmp_path / "market.db"
    engine = engines.writer(path)
    migrate.upgrade(engine, to="0006")
    with engine.connect() as connection, connection.begin():
        connection.exec_driver_sql("INSERT INTO buyers VALUES ('ada', 1)")
        for number, job in enumerate(("j-a", "j-b")):
            connection.exec_driver_sql(
                "INSERT INTO jobs (job, buyer, idempotency_key, payload_digest, job_digest, name, kind, verification,"
                " leaf, status, verdict, settlement, escrow_usd_micros, num_events, submitted_at_ms)"
                " VALUES (?, 'ada', ?, 'd', 'd', 'n', 'train', 'replay', ?, 'queued', 'pending', 'held', 5, 1, 7)",
                (job, job, f"l-{job}"),
            )
            connection.exec_driver_sql(
                "INSERT INTO events (job, seq, at_ms, type, message, data)"
                " VALUES (?, 1, 7, 'job.queued', 'submitted', '{\"reason\": \"submitted\"}')",
                (job,),
            )
            for seq, leaf, kind in ((2 * number + 3, f"l-{job}", "job"), (2 * number + 4, f"c-{job}", "commitment")):
                connection.exec_driver_sql(
                    "INSERT INTO envelopes VALUES (?, ?, ?, ?, ?, ?, 7)",
                    (seq, leaf, kind, job, leaf.encode(), None if job == "j-b" else seq),
                )
    engine.dispose()
    with Store.open(path) as store:
        assert store.read(lambda c: envelopes.order_of(c, "j-b")) == b"l-j-b"
        assert store.read(lambda c: envelopes.get(c, "c-j-a")).log_index == 4
        assert [item.leaf for item in store.read(lambda c: envelopes.of_job(c, "j-a"))] == ["l-j-a", "c-j-a"]
        assert [item.seq for item in store.read(envelopes.leaves_to_log)] == [5, 6]
        (told,) = store.read(lambda c: events.after(c, "j-a", 0))
        assert (told.seq, told.type, told.at_ms) == (1, "job.queued", 7)
        fresh = envelopes.Incoming("c", "commitment", b"c", 8, "j-a")
        store.write(lambda c: envelopes.add(c, fresh)).result(30)
        assert [item.seq for item in store.read(envelopes.leaves_to_log)] == [5, 6, 7]
