"""What an auditor sees of an audit: nothing that tells a first opinion from a second one or a canary."""

from __future__ import annotations

import functools
import hashlib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
from sqlalchemy.engine import Connection
from tests.integration.market.fake_buyer import PROGRAM
from tests.unit.market.moment import CLASS, JOB, ROOT, node, state, world
from tests.unit.store import world as stored

from stannary.formats import canonical, digest, ids, predicates, record
from stannary.formats.ids import TaskId, TaskKind
from stannary.formats.predicates import Assignment, Drawable
from stannary.jobs.course import asking, drawing, hearing
from stannary.jobs.course.actions import OpenAudit
from stannary.jobs.course.draft import CourseDraft
from stannary.jobs.course.state import CandidateList, DrawRow
from stannary.jobs.states import JobStatus, TaskState
from stannary.market.engine import applying, giving
from stannary.rules import draw
from stannary.store import audits, blobs, leases, nodes, tasks
from stannary.store.database import Store
from stannary.store.transitions import Cause
from stannary.wire import node as wire

TASK = ids.round_task(JOB, 0, 0)
AUDITOR, OTHER = "n-2", "n-3"
BEACONS = 64
SIGMAS = 5.0


class Seen(Exception):
    """Carries a view out of a transaction that must leave nothing behind."""

    def __init__(self, view: wire.Lease) -> None:
        super().__init__("undo")
        self.view = view


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    """A store with one task of a job, handed in and drawn."""
    with Store.open(tmp_path_factory.mktemp("store") / "market.db") as opened:
        opened.write(_furnish).result(30)
        yield opened


def _furnish(connection: Connection) -> None:
    stored.fund(connection)
    for name, operator in (("n-1", "ann"), (AUDITOR, "bob"), (OTHER, "cid")):
        stored.accounts.add_operator(connection, operator, at_ms=0)
        nodes.add(connection, stored.node(name, operator))
    stored.jobs.submit(connection, [stored.submission(10, job=str(JOB))])
    blobs.add(connection, digest.digest(PROGRAM), len(PROGRAM), "buyer:buyer", at_ms=0)
    assignment = Assignment(JOB, TASK, TaskKind.ROUND, 0, 0, 3, 0, 0)
    text = canonical.encode(record.to_json(assignment)).decode()
    new = tasks.NewTask(TASK, JOB, TaskKind.ROUND, 0, 0, 0, 3, text, predicates.assignment_digest(assignment))
    tasks.plan(connection, new, at_ms=1)


@functools.cache  # the tests look at the same beacons
def view_of(store: Store, seed: int, *, asked: tuple[str, ...], number: int, canary: bool) -> wire.Lease:
    """Return what the first of `asked` is told under one beacon, when he is asked as the `number`-th."""
    value = hashlib.sha256(b"%d" % seed).hexdigest()
    row = DrawRow(JOB, 0, "note", 9, ROOT, [], 1, "l", value, "l", 1)
    listed = {0: CandidateList(digest.digest(b"candidates"), 1)}

    def look(connection: Connection) -> None:
        task = replace(tasks.get(connection, TASK), node="n-1", state=TaskState.DRAWN)
        entry = Drawable(TASK, ids.NodeId("n-1"), "n-1", CLASS, 3, task.commitment_index or 0)
        tables = {"draws": (row,), "listed": listed, "drawn": {0: (entry,)}, "tasks": {TASK: task}}
        drawn = state(status=JobStatus.RUNNING, **tables)
        moment = world(*(node(name, name) for name in ("n-1", AUDITOR, OTHER)))
        draft = CourseDraft(drawn, moment)
        selection = drawing.selection_of(draft, row, task)
        for before in range(number):  # whom he follows
            drawing.open_audit(draft, drawing.Question(task, row, selection, (OTHER,), before))
        drawing.open_audit(draft, drawing.Question(task, row, selection, asked, number, canary))
        hearing.advance(draft)
        for action in draft.actions:
            if isinstance(action, OpenAudit):
                audits.open_audit(connection, action.new, at_ms=1)
        (offered,) = (item for item in asking.offers(draft.state()) if item.audit.auditor == asked[0])
        grant = asking.take(drawn.order, offered, moment)
        lease = leases.grant(connection, applying.with_inputs(connection, grant), Cause(moment.now_ms, "asked"))
        raise Seen(giving.view(lease, task))

    with pytest.raises(Seen) as seen:
        store.write(look).result(30)
    return seen.value.view


@pytest.mark.parametrize("kind", ["canary", "second opinion"])
def test_a_canary_looks_like_any_other_audit(store: Store, kind: str) -> None:
    """Under every beacon the lease of a canary, or of a second opinion, is byte for byte that of a first opinion."""
    for seed in range(BEACONS):
        first = view_of(store, seed, asked=(AUDITOR, OTHER), number=0, canary=False)
        later = view_of(store, seed, asked=(AUDITOR,), number=1, canary=kind == "canary")
        assert later.to_bytes() == first.to_bytes()


def test_names_of_audits_have_no_order(store: Store) -> None:
    """Over many beacons every hex digit of an audit's and a lease's name is as likely as any other."""
    for kind, number, canary in (("first", 0, False), ("canary", 1, True)):
        asked = (AUDITOR,) if canary else (AUDITOR, OTHER)
        views = [view_of(store, seed, asked=asked, number=number, canary=canary) for seed in range(BEACONS)]
        readers: tuple[Callable[[wire.Lease], str], ...] = (
            lambda view: view.audit.audit_id.rpartition("/q")[2] if view.audit is not None else "",
            lambda view: view.lease_id.partition("-")[2],
        )
        for read in readers:
            names = [read(view) for view in views]
            assert len({len(name) for name in names}) == 1
            digits = Counter("".join(names))
            total = sum(digits.values())
            spread = SIGMAS * (total * (1 / 16) * (15 / 16)) ** 0.5
            assert all(abs(digits[digit] - total / 16) <= spread for digit in "0123456789abcdef"), (kind, digits)


def test_nothing_an_auditor_is_told_counts_audits() -> None:
    """The wire's audit reference has the audit's name and the role, and no member a number could hide in."""
    assert set(wire.AuditRef.model_fields) == {"audit_id", "role"}


def test_an_auditor_cannot_tell_its_audit_from_another_candidates() -> None:
    """The name depends on the auditor and not on its rank: reordering candidates changes no name."""
    task = predicates.Drawable(TaskId(TASK), ids.NodeId("n-1"), "ann", "cpu-a", 3, 1)
    listed = [predicates.Candidate(ids.NodeId(name), name, "cpu-a") for name in ("n-2", "n-3", "n-4")]
    made = predicates.Draw(JOB, 0, ROOT, 9, ROOT, (task,), ROOT)
    randomness = draw.beacon("11" * 32, ROOT)
    (whole,) = draw.select(made, listed, randomness, 1_000_000)
    (fewer,) = draw.select(made, listed[1:], randomness, 1_000_000)
    named = dict(zip((item.node for item in whole.auditors), whole.audits, strict=True))
    assert [named[item.node] for item in fewer.auditors] == list(fewer.audits)
    assert len({*whole.audits, whole.alone}) == 4
    assert replace(whole, canary=True).audits == whole.audits
