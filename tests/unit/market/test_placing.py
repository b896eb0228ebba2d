"""How long a queued job waits for capacity: as long as the market was there to find some."""

from __future__ import annotations

from tests.unit.market.moment import JOB, NOW_MS, frame, world
from tests.unit.store import world as stored

from stannary.market.engine import placing
from stannary.market.engine.frame import Outcome
from stannary.market.settings import Timing
from stannary.store import jobs
from stannary.store.database import Store

PATIENCE_MS = int(1000 * Timing().placing_s)


def test_the_markets_absence_is_not_a_lack_of_capacity(store: Store) -> None:
    """A job queued before a long downtime waits on; it fails only after the market listened for its whole patience."""

    def place(resumed_at_ms: int, now_ms: int) -> tuple[str, str] | None:
        outcome = Outcome()
        moment = world(now_ms=now_ms, resumed_at_ms=resumed_at_ms)
        store.write(lambda c: placing.place(c, frame(), moment, outcome)).result(30)
        return outcome.failure

    def furnish(connection: object) -> None:
        stored.fund(connection)  # type: ignore[arg-type]  # the writer's connection
        new = stored.submission(10, job=str(JOB), submitted_at_ms=NOW_MS - 10 * PATIENCE_MS)
        jobs.submit(connection, [new])  # type: ignore[arg-type]  # as above

    store.write(furnish).result(30)
    assert place(NOW_MS, NOW_MS + 1) is None
    assert place(NOW_MS, NOW_MS + PATIENCE_MS) is None
    failure = place(NOW_MS, NOW_MS + PATIENCE_MS + 1)
    assert failure is not None
    assert failure[0] == "no-capacity"
