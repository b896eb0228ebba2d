"""How long a queued job waits for capacity: as long as the market was there to find some."""

from __future__ import annotations

from tests.unit.market.moment import NOW_MS, state, world

from stannary.jobs.course.decide import decide
from stannary.jobs.course.state import Timing

PATIENCE_MS = int(1000 * Timing().placing_s)


def test_the_markets_absence_is_not_a_lack_of_capacity() -> None:
    """A job queued before a long downtime waits on; it fails only after the market listened for its whole patience."""

    def reasons(resumed_at_ms: int, now_ms: int) -> list[str]:
        queued = state(submitted_at_ms=NOW_MS - 10 * PATIENCE_MS)
        decided = decide(queued, world(now_ms=now_ms, resumed_at_ms=resumed_at_ms))
        return [action.ending.reason for action in decided if hasattr(action, "ending")]

    assert reasons(NOW_MS, NOW_MS + 1) == []
    assert reasons(NOW_MS, NOW_MS + PATIENCE_MS) == []
    assert reasons(NOW_MS, NOW_MS + PATIENCE_MS + 1) == ["no-capacity"]
