"""Views: what a buyer is shown of his job is what the store holds of it, whichever way it was read."""

from __future__ import annotations

import base64
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import sqlalchemy as sa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from sqlalchemy.engine import Connection
from tests.integration.market.fake_buyer import command_spec, train_spec
from tests.unit.market import moment
from tests.unit.store import world as stored

from stannary.formats import canonical, digest, dsse, ids, jobspec, predicates, record, statement
from stannary.formats.ids import JobId, LeaseType, TaskId, TaskKind
from stannary.formats.jobspec import JobSpec
from stannary.formats.predicates import Assignment, Job, Verdict
from stannary.jobs.course.state import MERGE_LANE, Grant, Node
from stannary.jobs.states import JobStatus, LeaseState
from stannary.market.http import views
from stannary.market.intake import admission
from stannary.rules.kinds import MODEL
from stannary.store import envelopes, events, jobs, leases, loglines, nodes, tasks
from stannary.store.database import Store
from stannary.store.envelopes import Incoming
from stannary.store.leases import Fence
from stannary.store.loglines import LineSource, NewLine
from stannary.store.schema import jobs as jobs_table
from stannary.store.tasks import Contributed, NewTask
from stannary.store.transitions import move_job

KEY = Ed25519PrivateKey.from_private_bytes(bytes(32))
DIGEST = digest.digest(b"output")
FIRST, SECOND = "n-000000000001", "n-000000000002"


class Told:
    """One job of one buyer in a store."""

    def __init__(self, store: Store, spec: JobSpec) -> None:
        self.store, self.spec = store, spec
        order = Job(
            spec=jobspec.to_canonical(spec),
            market=dsse.key_id(dsse.public_bytes(KEY)),
            buyer=base64.b64encode(dsse.public_bytes(KEY)).decode(),
            beacon_tip="00" * 32,
            beacon_length=64,
            nonce="00" * 8,
            submitted_at="2026-11-22T00:00:00Z",
        )
        self.envelope = statement.sign("job", order, (), KEY)
        self.job = ids.job_id(digest.digest(self.envelope.payload))
        self.submission = stored.submission(
            1,
            job=str(self.job),
            name=spec.name,
            kind=spec.kind.value,
            verification=spec.trust.verify.value,
            leaf=str(digest.from_raw(self.envelope.leaf())),
            envelope=self.envelope.to_bytes(),
            submitted_at_ms=1_700_000_000_000,
        )
        self.do(self._furnish)

    def do(self, operation: Any) -> Any:
        """Write, and wait for it."""
        return self.store.write(operation).result(30)

    def _furnish(self, connection: Connection) -> None:
        stored.fund(connection)
        for name, operator in ((FIRST, "ann"), (SECOND, "bob")):
            stored.accounts.add_operator(connection, operator, at_ms=0)
            nodes.add(connection, stored.node(name, operator))
        (answer,) = jobs.submit(connection, [self.submission])
        assert isinstance(answer, jobs.Submitted)

    def view(self) -> Any:
        """Return the job as its buyer sees it."""
        return self.store.read(lambda c: views.job(c, jobs.get(c, self.job)))

    def outputs(self) -> list[tuple[str, str, int]]:
        """Return the listed results."""
        found = self.store.read(lambda c: views.outputs(c, jobs.get(c, self.job)))
        return [(item.name, item.digest, item.size_bytes) for item in found.outputs]

    def hand_in(self, task: TaskId, kind: TaskKind, place: tuple[int, int], names: tuple[str, ...]) -> None:
        """Plan a task, lease it, and hand in outputs of these names."""
        round_index, lane = place
        assignment = Assignment(JobId(self.job), task, kind, round_index, lane, 1, 0, 0)
        text = canonical.encode(record.to_json(assignment)).decode()
        attempt = int(task.rpartition("/a")[2])
        stored_lane = MERGE_LANE if kind is TaskKind.MERGE else lane
        new = NewTask(
            task,
            str(self.job),
            kind,
            round_index,
            stored_lane,
            attempt,
            1,
            text,
            predicates.assignment_digest(assignment),
        )
        outputs = [{"name": name, "digest": DIGEST, "size_bytes": len(name)} for name in names]

        def write(connection: Connection) -> None:
            tasks.plan(connection, new, at_ms=2)
            leases.grant(connection, Grant(f"w-{task}", LeaseType.WORK, task, FIRST, 9_000), stored.cause())
            fence = Fence(f"w-{task}", FIRST, 1)
            tasks.commit(connection, fence, "00" * 32, 3, stored.cause())
            tasks.contribute(connection, fence, Contributed(f"leaf {task}", 4, "root", outputs), stored.cause())

        self.do(write)


@pytest.mark.parametrize("spec", [train_spec(rounds=5), command_spec(num_nodes=2)], ids=["train", "command"])
def test_a_job_just_accepted_looks_the_same_from_memory(store: Store, spec: JobSpec) -> None:
    """The answer to a submit, made without a read, is what reading the job gives."""
    told = Told(store, spec)
    assert views.submitted(told.submission, spec) == told.view()


BAD_PROGRESS: list[dict[str, Any]] = [
    {"loss": "nan"},
    {"loss": "-inf", "heldout": "1e400"},
    {"loss": "\x1b[2J" * 3000},
    {"heldout": "1,5"},
    {"loss": "[0.5]"},
    {"round": -1},
    {"round": "many"},
    {"round": 2**60},
]


def _store(connection: Any, job: str, values: dict[str, Any]) -> None:
    """Write what no function of the store would, as a damaged file or an older market has it."""
    connection.execute(sa.update(jobs_table).where(jobs_table.c.job == job).values(**values))


@pytest.mark.parametrize("progress", BAD_PROGRESS, ids=lambda item: next(iter(item)))
def test_a_stored_number_no_message_holds_is_shown_as_a_fault(store: Store, progress: dict[str, Any]) -> None:
    """A `nan` an older market kept breaks no view: the job is listed, and says what of it is bad."""
    told = Told(store, train_spec())
    told.do(lambda c: _store(c, told.job, progress))
    view = told.view()
    assert view.id == told.job
    assert view.progress.loss is None
    assert len(view.faults) == len(progress)
    assert all(name in " ".join(view.faults) for name in progress)
    assert view.to_bytes().decode().isprintable()


def test_a_job_whose_order_cannot_be_read_is_still_listed(store: Store) -> None:
    """One damaged envelope hides no other job and not its own: what the row says is shown, and why no more is."""
    told = Told(store, train_spec())
    told.do(lambda c: c.exec_driver_sql("UPDATE envelopes SET envelope = ?", (b"{}",)))
    view = told.view()
    assert (view.id, view.name, view.status) == (told.job, "train", "queued")
    assert "cannot be read" in view.faults[0]


def test_strangers_words_leave_the_store_harmless(store: Store) -> None:
    """Messages, events and log lines an older market kept as they came are shown with their controls spelled out."""
    told = Told(store, train_spec())
    odd = "\x00\x1b]0;owned\x07\u202ereversed\u2066"

    def write(connection: Connection) -> None:
        source = LineSource(str(told.job), odd, odd)
        loglines.append(
            connection, source, [NewLine(-62_135_596_800_000, odd, odd * 1000), NewLine(2**62, "stdout", "x")]
        )
        events.append(connection, told.job, events.Happening(odd, odd * 1000, 2**62, odd, FIRST))

    told.do(write)
    lines = store.read(lambda c: [views.line(item) for item in loglines.after(c, told.job, 0)])
    (event,) = store.read(lambda c: [views.event(item) for item in events.after(c, told.job, 0) if item.node == FIRST])
    for shown in (*lines, event):
        assert shown.to_bytes().decode().isprintable()
    assert [item.at for item in lines] == ["0001-01-01T00:00:00Z", "9999-12-31T23:59:59Z"]
    assert (event.at, event.task, event.node) == ("9999-12-31T23:59:59Z", None, FIRST)


def test_nodes_are_shown_with_what_they_do(store: Store) -> None:
    """Each lane's node, with its operator, its task while it holds one, and its conviction."""
    told = Told(store, train_spec())
    told.do(lambda c: jobs.place(c, told.job, [FIRST, SECOND]))
    task = ids.round_task(told.job, 0, 0)
    told.hand_in(task, TaskKind.ROUND, (0, 0), ("delta",))

    def ask(connection: Connection) -> None:
        leases.grant(connection, Grant("q-1", LeaseType.QUESTION, task, FIRST, 9_000), stored.cause())
        jobs.note_rounds(connection, told.job, first_open=0, last=1)
        jobs.note_figures(connection, told.job, {"loss": "2.5"})
        jobs.convict(connection, told.job, SECOND)

    told.do(ask)
    view = told.view()
    shown = [(item.node, item.operator, item.lane, item.state, item.task) for item in view.nodes]
    assert shown == [(FIRST, "ann", 0, "question", task), (SECOND, "bob", 1, "convicted", None)]
    assert (view.progress.round, view.progress.rounds, view.progress.loss) == (1, 2, "2.5")
    told.do(lambda c: leases.end(c, "q-1", LeaseState.EXPIRED, stored.cause()))
    assert [item.state for item in told.view().nodes] == ["idle", "convicted"]


@pytest.mark.parametrize("spec", [train_spec(rounds=5), command_spec(num_nodes=2)], ids=["train", "command"])
def test_a_job_that_succeeded_has_done_all_its_rounds(store: Store, spec: JobSpec) -> None:
    """Rounds end at N of N, whatever was the last one that had work."""
    told = Told(store, spec)
    told.do(lambda c: jobs.note_rounds(c, told.job, first_open=0, last=0))
    assert told.view().progress.round == 0
    way = (JobStatus.RUNNING, JobStatus.VERIFYING)
    for status in (*way, JobStatus.SUCCEEDED):
        told.do(lambda c, to=status: move_job(c, told.job, to, stored.cause()))
    progress = told.view().progress
    assert progress.round == progress.rounds


def test_outputs_of_a_command_are_named_by_lane(store: Store) -> None:
    """With several lanes each output carries its lane; only what counts, or was asked for unverified, is listed."""
    told = Told(store, command_spec(num_nodes=2))
    assert told.outputs() == []
    for lane in (0, 1):
        task = ids.command_task(told.job, lane)
        told.hand_in(task, TaskKind.COMMAND, (0, lane), ("a.txt", "b.bin"))
    assert told.outputs() == [(f"l{lane}/{name}", DIGEST, len(name)) for lane in (0, 1) for name in ("a.txt", "b.bin")]
    refuted = ids.command_task(told.job, 1)

    def convict(connection: Connection) -> None:
        tasks.draw(connection, refuted, number=0, selected=True, cause=stored.cause())
        tasks.judge(connection, refuted, Verdict.REFUTED, stored.cause())

    told.do(convict)
    assert [name for name, _, _ in told.outputs()] == ["l0/a.txt", "l0/b.bin"]


def test_a_train_jobs_output_is_its_newest_merge_that_counts(store: Store) -> None:
    """The model is the weights of the newest merge that stands; a refuted one leaves the one before."""
    told = Told(store, train_spec())
    assert told.outputs() == []
    merges = [ids.merge_task(told.job, index) for index in (0, 1)]
    for index, task in enumerate(merges):
        told.hand_in(task, TaskKind.MERGE, (index, 0), ("theta", "outer", "x" * index))
    told.do(lambda c: jobs.note_rounds(c, told.job, first_open=0, last=1))
    assert told.outputs() == [(MODEL, DIGEST, len("theta"))]

    def convict(connection: Connection) -> None:
        for task in merges:
            tasks.draw(connection, task, number=0, selected=True, cause=stored.cause())
            tasks.judge(connection, task, Verdict.REFUTED, stored.cause())

    told.do(convict)
    assert told.outputs() == []


def test_a_cost_without_a_settlement_is_what_is_held(store: Store) -> None:
    """Before the end nothing is paid and no line is shown; after it the receipt's figures are."""
    told = Told(store, train_spec())
    held = told.store.read(lambda c: views.cost(c, jobs.get(c, told.job)))
    assert (held.lines, held.escrow_usd_micros, held.paid_usd_micros, held.split) == ([], 100, 0, None)
    said = moment.receipt(told.job)
    signed = statement.sign("receipt", said, (), KEY)
    incoming = Incoming(str(digest.from_raw(signed.leaf())), "receipt", signed.to_bytes(), 5, str(told.job))
    told.do(lambda c: envelopes.add(c, incoming))
    cost = told.store.read(lambda c: views.cost(c, jobs.get(c, told.job)))
    assert (cost.paid_usd_micros, cost.refunded_usd_micros) == (60, 40)
    assert cost.split is not None
    assert (cost.split.useful, cost.split.churn) == (5_000, 1_000)


def test_events_and_log_lines_keep_within_the_wire(store: Store) -> None:
    """Times are spelled, empty members absent, and a long message is cut to what a client takes."""
    told = Told(store, train_spec())
    told.do(lambda c: events.append(c, told.job, events.Happening("note", "said", 1_700_000_000_999)))
    row = told.store.read(lambda c: events.after(c, told.job, 0))[-1]
    event = views.event(replace(row, message="x" * 10_000))
    assert (event.type, event.at, len(event.message), event.task) == ("note", "2023-11-14T22:13:20Z", 4096, None)
    told.do(lambda c: events.append(c, told.job, events.Happening("note", "said", 1_700_000_000_999, node=SECOND)))
    (named,) = told.store.read(lambda c: events.after(c, told.job, row.seq))
    assert (event.operator, views.event(named).operator) == (None, "bob")
    lines = [NewLine(1_700_000_000_000, "stdout", "hello")]
    told.do(lambda c: loglines.append(c, LineSource(told.job, "", ""), lines))
    line = views.line(told.store.read(lambda c: loglines.after(c, told.job, 0))[0])
    assert (line.node, line.task, line.stream, line.text) == (None, None, "stdout", "hello")


def test_status_and_reason_are_those_of_the_last_move(store: Store) -> None:
    """What the buyer reads of a job's state is what its last transition said."""
    told = Told(store, train_spec())
    told.do(lambda c: move_job(c, told.job, JobStatus.RUNNING, replace(stored.cause("placed"), message="on two nodes")))
    view = told.view()
    assert (view.status, view.reason, view.message) == ("running", "placed", "on two nodes")


ODD_WORDS = {"empty": "", "long": "x" * 5000, "controls": "\x1b[2J\u202e\x00", "surrogate": "\ud800"}


@pytest.mark.parametrize("odd", ODD_WORDS.values(), ids=ODD_WORDS.keys())
def test_an_offer_of_an_older_market_is_shown(odd: str) -> None:
    """A class, jurisdiction or number no join may bear today hides neither its own offer nor another's."""
    offer = Node(
        node=ids.NodeId(FIRST),
        operator=odd,
        jurisdiction=odd,
        terms="",
        tier=predicates.Tier.T0,
        engine_class=odd,
        cpus=-1,
        memory_bytes=2**63,
        ask_usd_micros_per_hour=-(2**53),
        bond_usd_micros=0,
        expires_at_ms=0,
    )
    exchange: Any = SimpleNamespace(roster=SimpleNamespace(state=lambda _: "idle", name=lambda _: ""))
    shown = admission.offer_view(exchange, offer, "")
    assert shown.to_bytes().decode().isprintable()
    assert shown.engine_class
    assert (shown.cpus, shown.memory_bytes, shown.ask_usd_micros_per_hour) == (1, 2**53 - 1, 1)
