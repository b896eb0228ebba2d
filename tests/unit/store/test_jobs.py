"""Job submits: idempotent, funded, each judged alone."""

from __future__ import annotations

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.unit.store import world

from stannary.errors import AuthError, ConflictError, StannaryError, UsageError
from stannary.jobs.states import JobStatus
from stannary.settle.ledger import buyer_available, buyer_escrow
from stannary.store import envelopes, events, jobs, ledger
from stannary.store.database import Store
from stannary.store.jobs import Submission, Submitted


def submit(store: Store, *items: Submission) -> list[Submitted | StannaryError]:
    return store.write(lambda c: jobs.submit(c, items)).result(30)


def test_a_submit_writes_all_that_belongs_to_it(store: Store) -> None:
    """Job, first event, envelope for the log and escrow are there together."""
    store.write(world.fund).result(30)
    assert submit(store, world.submission()) == [Submitted(world.JOB, created=True)]
    job = store.read(lambda c: jobs.get(c, world.JOB))
    assert (job.status, job.num_events, job.escrow_usd_micros) == (JobStatus.QUEUED, 1, 100)
    (event,) = store.read(lambda c: events.after(c, world.JOB, 0))
    said = (event.seq, event.at_ms, event.type, event.message, event.data)
    assert said == (1, job.submitted_at_ms, "job.queued", "submitted", {"reason": "submitted"})
    assert store.read(lambda c: events.after(c, world.JOB, 1)) == []
    assert store.read(lambda c: events.after(c, "j-none", 0)) == []
    assert [(item.leaf, item.job) for item in store.read(envelopes.leaves_to_log)] == [(job.leaf, job.job)]
    balances = store.read(ledger.all_balances)
    assert balances[buyer_escrow("buyer")] == 100
    assert balances[buyer_available("buyer")] == world.DEPOSIT - 100


def test_the_same_submit_again_is_the_same_answer(store: Store) -> None:
    """A repeated request is answered from the first one, within one batch and later."""
    store.write(world.fund).result(30)
    once = world.submission()
    assert submit(store, once, once) == [Submitted(once.job, created=True), Submitted(once.job, created=False)]
    assert submit(store, once) == [Submitted(once.job, created=False)]
    assert store.read(lambda c: ledger.all_balances(c)[buyer_escrow("buyer")]) == 100


def test_one_key_stands_for_one_payload(store: Store) -> None:
    """The same idempotency key with another payload is a conflict; another buyer's key is his own."""
    store.write(world.fund).result(30)
    submit(store, world.submission(1))
    other = world.submission(2, idempotency_key="key-1")
    (refused,) = submit(store, other)
    assert isinstance(refused, ConflictError)
    assert "key-1" in refused.why
    (same_job,) = submit(store, world.submission(1, idempotency_key="another"))
    assert isinstance(same_job, ConflictError)


def test_each_submit_is_judged_alone(store: Store) -> None:
    """Lack of money, an unknown buyer and a conflict in one batch leave the good ones to pass."""
    store.write(world.fund).result(30)
    answers = submit(
        store,
        world.submission(1, escrow_usd_micros=world.DEPOSIT - 10),
        world.submission(2, escrow_usd_micros=11),
        world.submission(3, buyer="nobody"),
        world.submission(4, escrow_usd_micros=10),
        world.submission(5, escrow_usd_micros=0),
    )
    assert [type(answer) for answer in answers] == [Submitted, UsageError, AuthError, Submitted, Submitted]
    assert store.read(lambda c: ledger.all_balances(c)[buyer_available("buyer")]) == 0


@settings(max_examples=settings.default.max_examples // 4, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.integers(1, 40), st.integers(0, 300)), min_size=1, max_size=200))
def test_a_bulk_answers_as_one_by_one_would(store: Store, wishes: list[tuple[int, int]]) -> None:
    """However submits are batched, answers and balances are those of taking them one at a time."""
    items = [
        world.submission(number, escrow_usd_micros=amount, payload_digest=str(amount)) for number, amount in wishes
    ]

    class Enough(Exception):
        """Undo the trial."""

    def trial(batched: bool) -> list[str]:
        seen: list[str] = []

        def run(connection: object) -> None:
            world.fund(connection)  # type: ignore[arg-type]  # a Connection
            batches = [items] if batched else [[item] for item in items]
            for batch in batches:
                seen.extend(str(answer) for answer in jobs.submit(connection, batch))  # type: ignore[arg-type]
            seen.append(str(ledger.all_balances(connection)))  # type: ignore[arg-type]
            raise Enough

        assert isinstance(store.write(run).exception(30), Enough)
        return seen

    assert trial(batched=True) == trial(batched=False)


def test_lists_are_paged_newest_first(store: Store) -> None:
    """A cursor goes through all of a buyer's jobs without loss or repetition."""
    store.write(world.fund).result(30)
    submit(store, *(world.submission(number, submitted_at_ms=number // 2) for number in range(1, 8)))
    seen: list[str] = []
    before = None
    while page := store.read(lambda c, before=before: jobs.of_buyer(c, "buyer", limit=3, before=before)):
        seen += [job.job for job in page]
        before = (page[-1].submitted_at_ms, page[-1].job)
    assert seen == [f"j-{number:012x}" for number in range(7, 0, -1)]
