"""What the last moves of a job rest on: nothing of it is on its way into the log, and one receipt is stated."""

from __future__ import annotations

from dataclasses import replace

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from sqlalchemy.engine import Connection
from tests.unit.market import moment
from tests.unit.rules.test_papers import HELD, JOIN
from tests.unit.store import world as stored

from stannary.formats import digest, dsse, ids, statement
from stannary.formats.digest import Digest
from stannary.formats.predicates import Credential, Join, Reading, Spent
from stannary.market.engine import loading
from stannary.store import envelopes, nodes, readings
from stannary.store.database import Store
from stannary.store.envelopes import Incoming
from stannary.store.nodes import CredentialRow
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


def lodge(connection: Connection, kind: str, said: Join | Credential | Reading, index: int | None) -> Digest:
    """Keep a statement, in the log at an index or on its way there; return its leaf."""
    envelope = statement.sign(kind, said, (), KEY)
    leaf = digest.from_raw(envelope.leaf())
    job = said.job if isinstance(said, Reading) else None
    envelopes.add(connection, Incoming(leaf, kind, envelope.to_bytes(), 1, job))
    if isinstance(said, Credential):
        row = CredentialRow(leaf, said.node, envelope.to_bytes(), 0 if index is not None else 1, 10**15)
        nodes.add_credential(connection, row)
    if index is not None:
        seq = next(item.seq for item in envelopes.leaves_to_log(connection) if item.leaf == leaf)
        envelopes.set_indexes(connection, {seq: index})
    return leaf


def test_a_renewal_that_the_log_has_not_taken_is_no_evidence(store: Store) -> None:
    """Neither the credential on its way nor its join, logged or not: a receipt that listed them would be refuted."""
    store.write(submitted).result(30)
    store.write(lambda c: post(c, "receipt", statement.sign("receipt", moment.receipt(moment.JOB), (), KEY))).result(30)
    first, again = (replace(JOIN, node=ids.NodeId("n-1"), cpus=number) for number in (1, 2))

    def fill(connection: Connection) -> list[Digest]:
        join = lodge(connection, "join", first, 7)
        held = replace(HELD, node=ids.NodeId("n-1"), join=join)
        expected = [join, lodge(connection, "credential", held, 8)]
        newer = lodge(connection, "join", again, 10)
        lodge(connection, "credential", replace(held, cpus=2, join=newer), None)
        read = Reading(moment.JOB, ids.NodeId("n-1"), 1, "", Spent(1, 1, 1, 1, 1), "2026-01-01T00:00:00Z")
        return [*expected, lodge(connection, "reading", read, 9)]

    leaves = store.write(fill).result(30)
    _, evidence = store.read(lambda c: loading.judged(c, moment.order()))
    assert evidence is not None
    assert list(evidence.leaves) == leaves


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
