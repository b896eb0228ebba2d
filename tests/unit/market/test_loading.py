"""What the last moves of a job rest on: nothing of it is on its way into the log, and one receipt is stated."""

from __future__ import annotations

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from sqlalchemy.engine import Connection
from tests.unit.market import moment
from tests.unit.store import world as stored

from stannary.formats import digest, dsse, statement
from stannary.market.engine import loading
from stannary.store import envelopes, readings
from stannary.store.database import Store
from stannary.store.envelopes import Incoming
from stannary.store.readings import ReadingRow

KEY = Ed25519PrivateKey.from_private_bytes(bytes(32))


def submitted(connection: Connection) -> None:
    """Take the job; its order is not in the log."""
    stored.fund(connection)
    stored.accounts.add_operator(connection, "ann", at_ms=0)
    for name in ("n-1", "n-2"):
        stored.nodes.add(connection, stored.node(name, "ann"))
    stored.jobs.submit(connection, [stored.submission(10, job=str(moment.JOB))])


def read(connection: Connection, node: str, envelope: dsse.Envelope) -> None:
    """Keep a last reading of a node."""
    spent = {"start_ms": 1}
    row = ReadingRow(moment.JOB, node, 0, "", str(digest.from_raw(envelope.leaf())), spent, 1, envelope.to_bytes())
    readings.add(connection, row)


def post(connection: Connection, kind: str, envelope: dsse.Envelope) -> None:
    """Put a statement into the outbox of the log."""
    leaf = str(digest.from_raw(envelope.leaf()))
    envelopes.add(connection, Incoming(leaf, kind, envelope.to_bytes(), 1, str(moment.JOB)))


def test_a_job_waits_for_the_log_until_its_receipt_is_stated(store: Store) -> None:
    """From then on it waits for that alone, and the log itself says where: a disk that is full holds up nothing."""
    order = moment.order()
    store.write(submitted).result(30)
    job, evidence = store.read(lambda c: loading.judged(c, order))
    assert (job.num_unlogged, job.receipt, evidence) == (1, None, None)
    stated = moment.receipt(moment.JOB)
    envelope = statement.sign("receipt", stated, (), KEY)
    store.write(lambda c: post(c, "receipt", envelope)).result(30)
    job, evidence = store.read(lambda c: loading.judged(c, order))
    assert (job.num_unlogged, job.receipt) == (0, stated)
    assert evidence is not None
    assert evidence.receipt == envelope


def test_a_last_reading_is_posted_once_and_never_behind_the_receipt(store: Store) -> None:
    """Readings that came too late for the receipt stay out of the log: it lists every word of the job."""
    order, (first, late) = moment.order(), (dsse.sign(name.encode(), KEY) for name in ("first", "late"))

    def unposted() -> tuple[bytes, ...]:
        return store.read(lambda c: loading.judged(c, order))[0].readings

    store.write(submitted).result(30)
    store.write(lambda c: read(c, "n-1", first)).result(30)
    assert unposted() == (first.to_bytes(),)
    store.write(lambda c: post(c, "reading", first)).result(30)
    assert unposted() == ()
    store.write(lambda c: post(c, "receipt", statement.sign("receipt", moment.receipt(moment.JOB), (), KEY))).result(30)
    store.write(lambda c: read(c, "n-2", late)).result(30)
    assert unposted() == ()
