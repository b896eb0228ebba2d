"""Ledger, envelopes, audits, logs, blobs and readings as kept."""

from __future__ import annotations

import pytest
from sqlalchemy.engine import Connection
from tests.unit.store import world
from tests.unit.store.world import JOB, TASK

from stannary.errors import ConflictError, NotFound, UsageError
from stannary.formats.predicates import Role, SettlementLine
from stannary.jobs.course.state import AuditOutcome
from stannary.settle import escrow
from stannary.settle.ledger import Entry, Purpose, buyer_escrow, operator_available, transfer
from stannary.store import audits, blobs, envelopes, ledger, loglines, readings
from stannary.store.audits import NewAudit, NewDraw, Opened
from stannary.store.database import Store
from stannary.store.loglines import LineSource, NewLine
from stannary.store.readings import ReadingRow


def do(store: Store, step: object) -> object:
    return store.write(step).result(30)  # type: ignore[arg-type]  # a function of a connection


def payment(operator: str, usd_micros: int) -> Entry:
    """Pay an operator out of the job's escrow."""
    way = (buyer_escrow("buyer"), operator_available(operator))
    return transfer(f"pay:{TASK}", "work", way, usd_micros, Purpose(JOB, TASK))


def test_the_durable_ledger_pays_once_and_adds_up(furnished: Store) -> None:
    """Posting again changes nothing, differing conflicts, and the sum of all accounts stays zero."""
    assert do(furnished, lambda c: ledger.post(c, payment("ann", 40), at_ms=1)) is True
    assert do(furnished, lambda c: ledger.post(c, payment("ann", 40), at_ms=2)) is False
    with pytest.raises(ConflictError):
        do(furnished, lambda c: ledger.post(c, payment("bob", 40), at_ms=3))
    assert sum(furnished.read(ledger.all_balances).values()) == 0
    posted = furnished.read(lambda c: ledger.newest(c, limit=1000))
    assert [entry.key for _, entry in posted if entry.job == JOB] == [f"hold:{JOB}", f"pay:{TASK}"]
    assert furnished.read(lambda c: ledger.escrow_left(c, JOB)) == 60


def test_the_newest_entries_of_the_ledger_are_shown(furnished: Store) -> None:
    """However many there are, the operator sees the last ones under their own numbers."""
    for number in range(5):
        entry = escrow.deposit(f"more-{number}", "buyer", 1)
        do(furnished, lambda c, e=entry: ledger.post(c, e, at_ms=1))
    everything = furnished.read(lambda c: ledger.newest(c, limit=1000))
    assert [number for number, _ in everything] == [1, 2, 3, 4, 5, 6, 7]
    assert furnished.read(lambda c: ledger.newest(c, limit=2)) == everything[-2:]
    assert everything[-1][1].key == "deposit:more-4"


def test_a_job_is_not_paid_from_anothers_escrow(furnished: Store) -> None:
    """Both lie in one account of the buyer, yet neither can spend the other's."""
    do(furnished, lambda c: ledger.post(c, escrow.hold("j-other", "buyer", 500), at_ms=1))
    with pytest.raises(UsageError, match="not enough money"):
        do(furnished, lambda c: ledger.post(c, payment("ann", 101), at_ms=2))


def test_envelopes_get_one_log_index(furnished: Store) -> None:
    """A leaf is kept once and logged at one place; the same again changes nothing."""
    incoming = envelopes.Incoming("sha256:a", "commitment", b"{}", 0, JOB)
    assert do(furnished, lambda c: envelopes.add(c, incoming)) is True
    assert do(furnished, lambda c: envelopes.add(c, incoming)) is False
    order, other = furnished.read(envelopes.leaves_to_log)
    assert (order.leaf, order.kind, other.leaf, other.job) == (world.submission().leaf, "job", "sha256:a", JOB)
    for _ in range(2):
        do(furnished, lambda c: envelopes.set_indexes(c, {order.seq: 4, other.seq: 5}))
    with pytest.raises(ConflictError):
        do(furnished, lambda c: envelopes.set_indexes(c, {order.seq: 6}))
    assert furnished.read(envelopes.leaves_to_log) == []
    assert [(kept.kind, kept.log_index) for kept in furnished.read(lambda c: envelopes.of_job(c, JOB))] == [
        ("job", 4), ("commitment", 5),
    ]  # fmt: skip
    assert furnished.read(lambda c: envelopes.order_of(c, JOB)) == world.submission().envelope
    for missing in ("sha256:none", order.leaf):  # an order is found by its job
        with pytest.raises(NotFound):
            furnished.read(lambda c, leaf=missing: envelopes.get(c, leaf))
    with pytest.raises(NotFound):
        furnished.read(lambda c: envelopes.order_of(c, "j-none"))


def test_a_beacon_value_is_revealed_once(furnished: Store) -> None:
    """The same value again is the same answer, another one a conflict; the draw follows it once."""
    do(furnished, lambda c: audits.request_draw(c, NewDraw(JOB, 0, "note", 5, "root", ["p"], 1)))
    with pytest.raises(ConflictError):
        do(furnished, lambda c: audits.set_draw(c, JOB, 0, "leaf", at_ms=2))
    for _ in range(2):
        do(furnished, lambda c: audits.reveal(c, JOB, 0, leaf="l", value="aa", at_ms=2))
    with pytest.raises(ConflictError):
        do(furnished, lambda c: audits.reveal(c, JOB, 0, leaf="l", value="bb", at_ms=2))
    do(furnished, lambda c: audits.set_draw(c, JOB, 0, "leaf", at_ms=3))
    draw = furnished.read(lambda c: audits.get_draw(c, JOB, 0))
    assert (draw.value, draw.draw, draw.consistency) == ("aa", "leaf", ["p"])


def test_answers_are_committed_to_before_they_are_opened(furnished: Store) -> None:
    """No answer without its commitment, no second commitment, nothing after the audit is closed."""
    audit = f"{TASK}/q0011223344556677"
    new = NewAudit(audit, JOB, TASK, 0, 0, True, "salt", 1, "n-2", ["n-2", "n-3"], 7)
    do(furnished, lambda c: audits.open_audit(c, new, at_ms=1))
    opened = Opened("leaf", "answer", "root", [])

    def commit(c: Connection, commitment: str = "c") -> None:
        audits.commit_answer(c, audit, Role.AUDITOR, "n-2", commitment=commitment, leaf="x", at_ms=2)

    def open_it(c: Connection) -> None:
        audits.open_answer(c, audit, Role.AUDITOR, "n-2", opened, at_ms=3)

    with pytest.raises(ConflictError, match="no commitment"):
        do(furnished, open_it)
    do(furnished, commit)
    do(furnished, commit)
    with pytest.raises(ConflictError, match="once"):
        do(furnished, lambda c: commit(c, "d"))
    do(furnished, open_it)
    (answer,) = furnished.read(lambda c: audits.answers_of(c, audit))
    assert (answer.role, answer.answer) == (Role.AUDITOR, "answer")
    do(furnished, lambda c: audits.close(c, audit, AuditOutcome.AGREED, at_ms=5))
    with pytest.raises(ConflictError, match="closed"):
        do(furnished, lambda c: audits.close(c, audit, AuditOutcome.AGREED, at_ms=5))
    with pytest.raises(ConflictError, match="closed"):
        do(furnished, lambda c: commit(c, "e"))
    # the prover answers once for all audits of its task: that its first auditor is gone must not cost it its pay
    prover = {"commitment": "p", "leaf": "y", "at_ms": 6}
    do(furnished, lambda c: audits.commit_answer(c, audit, Role.PROVER, "n-1", **prover))  # type: ignore[arg-type]  # spelled above
    assert furnished.read(lambda c: audits.of_job(c, JOB, only_open=True)) == []
    assert furnished.read(lambda c: audits.of_job(c, JOB))[0].canary is True


def test_logs_are_capped_and_say_so(furnished: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lines beyond the cap are counted, and the reader's last line says how many were dropped."""
    monkeypatch.setattr(loglines, "MAX_LINES", 3)
    source = LineSource(JOB, TASK, "n-1")
    lines = [NewLine(number, "stdout", f"line {number}") for number in range(5)]
    assert do(furnished, lambda c: loglines.append(c, source, lines[:2])) == 2
    assert do(furnished, lambda c: loglines.append(c, source, lines[2:])) == 1
    texts = [line.text for line in furnished.read(lambda c: loglines.after(c, JOB, 0))]
    assert texts[:3] == ["line 0", "line 1", "line 2"]
    assert texts[3].startswith("2 later lines were not kept")
    assert furnished.read(lambda c: loglines.after(c, JOB, 4)) == []
    assert furnished.read(lambda c: loglines.tail_start(c, JOB, 2)) == 1
    assert [line.seq for line in furnished.read(lambda c: loglines.after(c, JOB, 0, since_ms=2))] == [3, 4]


def test_log_bytes_are_capped_too(furnished: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """A long line is cut visibly, and bytes run out as lines do, for good."""
    monkeypatch.setattr(loglines, "MAX_LINE", 10)
    monkeypatch.setattr(loglines, "MAX_BYTES", 30)
    source = LineSource(JOB, TASK, "n-1")
    lines = [NewLine(1, "stderr", "x" * 50), NewLine(2, "stderr", "y" * 50)]
    assert do(furnished, lambda c: loglines.append(c, source, lines)) == 1
    assert do(furnished, lambda c: loglines.append(c, source, [NewLine(3, "stderr", "z")])) == 0
    first, notice = furnished.read(lambda c: loglines.after(c, JOB, 0))
    assert first.text == "x" * 10 + loglines.CUT
    assert notice.text.startswith("2 later lines")


def test_blobs_open_to_their_owners_only(furnished: Store) -> None:
    """Knowing a digest gives nothing; owning it, through a job too, does."""
    do(furnished, lambda c: blobs.add(c, "d", 3, "buyer:buyer", at_ms=1))
    do(furnished, lambda c: blobs.add(c, "d", 3, "buyer:buyer", at_ms=2))
    assert not furnished.read(lambda c: blobs.may_have(c, "d", ["node:n-1", JOB]))
    do(furnished, lambda c: blobs.grant(c, ["d"], JOB))
    assert furnished.read(lambda c: blobs.may_have(c, "d", ["node:n-1", JOB]))
    with pytest.raises(ConflictError):
        do(furnished, lambda c: blobs.add(c, "d", 4, JOB, at_ms=1))


def test_readings_and_settlements_are_written_once(furnished: Store) -> None:
    """The same again changes nothing; another under the same number is a conflict."""
    reading = ReadingRow(JOB, "n-1", 0, "p", "d", {"compute_ms": 5}, 1, b"{}")
    for _ in range(2):
        do(furnished, lambda c: readings.add(c, reading))
    with pytest.raises(ConflictError):
        do(furnished, lambda c: readings.add(c, ReadingRow(JOB, "n-1", 0, "p", "e", {}, 1, b"{}")))
    assert furnished.read(lambda c: readings.last(c, JOB, "n-1")) == reading
    assert furnished.read(lambda c: readings.of_job(c, JOB)) == [reading]
    following = ReadingRow(JOB, "n-1", 1, "d", "f", {"compute_ms": 6}, 2, b"{}")
    do(furnished, lambda c: readings.add(c, following))
    assert furnished.read(lambda c: readings.of_job(c, JOB)) == [following]  # however many a node sends
    lines = [SettlementLine("operator:ann", TASK, "work", 40), SettlementLine("buyer", "", "refund", 60)]
    for _ in range(2):
        do(furnished, lambda c: readings.settle(c, JOB, lines))
    with pytest.raises(ConflictError):
        do(furnished, lambda c: readings.settle(c, JOB, lines[:1]))
    assert furnished.read(lambda c: readings.settlement(c, JOB)) == lines
