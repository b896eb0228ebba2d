"""What strikes of many buyers come to: whose voice counts, when a node is suspended, and how soon that is over."""

from __future__ import annotations

import itertools
import random
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.simulator import accusers

from stannary.formats.quantity import PPM
from stannary.jobs import standing
from stannary.jobs.standing import NodeStanding, StandingChange, StruckBy

SHARE, NOW = standing.SHARE_USD_MICROS, 10 * standing.WINDOW_MS
WHOLE = {f"other-{at}": SHARE for at in range(standing.OTHERS)}
SMALL = accusers.World(num_nodes=200, num_buyers=10, num_accounts=8, days=2)


def struck(*buyers: str, at_ms: int = NOW) -> NodeStanding:
    """Return a node struck once by each of these buyers."""
    return NodeStanding(tuple(StruckBy(f"j-{at}", buyer, at_ms) for at, buyer in enumerate(buyers)))


def whole(_: str) -> int:
    """Every buyer has a whole voice."""
    return PPM


def test_a_voice_is_bought_at_other_operators() -> None:
    """Money at the node's own operator or at one friend is worth little; shares at several make a whole one."""
    assert standing.weight_ppm({}, "ann") == 0
    assert standing.weight_ppm({"ann": 10**12}, "ann") == 0
    assert standing.weight_ppm({"friend": 10**12}, "ann") == PPM // standing.OTHERS
    assert standing.weight_ppm(WHOLE, "ann") == PPM
    assert standing.weight_ppm({**WHOLE, "more": 10 * SHARE}, "ann") == PPM
    assert standing.weight_ppm({"other": SHARE // 2, "owed": -5}, "ann") == PPM // 6


def test_one_buyer_suspends_nobody() -> None:
    """However many of his jobs strike a node, he is one voice."""
    assert standing.decide(struck(*["bob"] * 500), whole, NOW) is None
    assert standing.score_ppm(struck(*["bob"] * 500), whole, NOW) == PPM


def test_three_whole_voices_suspend() -> None:
    """Two and two thirds do not."""
    weights = {"ann": PPM, "bob": PPM, "cid": PPM, "dan": 2 * PPM // 3}
    assert standing.decide(struck("ann", "bob", "dan"), weights.__getitem__, NOW) is None
    assert standing.decide(struck("ann", "bob", "cid"), weights.__getitem__, NOW) is StandingChange.SUSPEND


def test_what_is_old_or_was_answered_counts_no_more() -> None:
    """Strikes of a month ago, and those from before the last restoration."""
    old = struck("ann", "bob", "cid", at_ms=NOW - standing.WINDOW_MS)
    assert standing.decide(old, whole, NOW) is None
    answered = replace(struck("ann", "bob", "cid"), restored_at_ms=NOW)
    assert standing.decide(answered, whole, NOW + standing.GRACE_MS) is None


def test_a_suspension_ends_at_once_with_an_agreement_and_by_itself_in_ten_minutes() -> None:
    """An agreement from before it proves nothing about now; whether nobody could look is not its own to say."""
    held = replace(struck("ann", "bob", "cid"), suspended_at_ms=NOW)
    assert standing.decide(held, whole, NOW + 10 * standing.HOLD_MS) is None
    assert standing.decide(replace(held, is_over=True), whole, NOW + 1) is StandingChange.RESTORE_UNSEEN
    assert standing.decide(replace(held, passed_at_ms=NOW - 1), whole, NOW + 1) is None
    assert standing.decide(replace(held, passed_at_ms=NOW + 1), whole, NOW + 1) is StandingChange.RESTORE_PASSED


def test_a_restored_node_is_left_alone_for_a_day() -> None:
    """New voices count once the day is over."""
    again = replace(struck("ann", "bob", "cid", at_ms=NOW + 1), restored_at_ms=NOW)
    assert standing.decide(again, whole, NOW + standing.GRACE_MS - 1) is None
    assert standing.decide(again, whole, NOW + standing.GRACE_MS) is StandingChange.SUSPEND


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 4 * standing.GRACE_MS)), max_size=60))
def test_no_day_holds_more_than_one_suspension(said: list[tuple[int, int]]) -> None:
    """Whatever buyers say and when: a node is out at most ten minutes at a time, and once a day."""
    node, stretches = NodeStanding(), []
    steps = sorted({at for _, at in said} | set(range(0, 6 * standing.GRACE_MS, standing.HOLD_MS // 2)))
    for now_ms in steps:
        new = tuple(StruckBy(f"j-{now_ms}", str(buyer), now_ms) for buyer, at in said if at == now_ms)
        is_over = node.suspended_at_ms is not None and now_ms >= node.suspended_at_ms + standing.HOLD_MS
        node = replace(node, strikes=(*node.strikes, *new), is_over=is_over)
        change = standing.decide(node, whole, now_ms)
        if change is StandingChange.SUSPEND:
            node = replace(node, suspended_at_ms=now_ms)
        elif change is not None:
            stretches.append((node.suspended_at_ms or 0, now_ms))
            node = replace(node, suspended_at_ms=None, restored_at_ms=now_ms)
    assert all(end - start <= standing.HOLD_MS * 3 // 2 for start, end in stretches)  # as often as it is looked
    for (_, before), (after, _) in itertools.pairwise(stretches):
        assert after - before >= standing.GRACE_MS


def test_no_strategy_of_many_accounts_holds_an_honest_node_longer() -> None:
    """The simulation of bench/standing.py, small: some settings do suspend nodes, and none for longer than that."""
    chance = random.Random(5)
    made = [accusers.play(SMALL, accusers.drawn(chance), seed) for seed in range(40)]
    assert sum(item.num_suspended > 0 for item in made) >= 5
    assert max(item.longest_min for item in made) <= 10
    assert max(item.most_a_day_min for item in made) <= 10


@pytest.mark.parametrize(("rule", "value"), [("HOLD_MS", 86_400_000), ("GRACE_MS", 0)])
def test_without_either_rule_they_would(rule: str, value: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without an end by itself, or without a day's rest, accounts hold a node for longer than ten minutes a day."""
    monkeypatch.setattr(standing, rule, value)
    strategy = accusers.Strategy(3, 1.0, 10, 8, is_joined=True, is_stubborn=True, is_burst=True)
    assert accusers.play(replace(SMALL, no_canary=0.5), strategy, 1).most_a_day_min > 10


@pytest.mark.parametrize("num_friends", [2, 3])
def test_a_friend_who_gives_the_money_back_buys_no_longer_suspension(num_friends: int) -> None:
    """Two friends wash two thirds of a voice, three a whole one: it costs less then, and lasts no longer."""
    strategy = accusers.Strategy(3, 1.0, 10, 8, is_joined=True, is_stubborn=True, is_burst=True)
    washed = replace(strategy, num_friends=num_friends)
    paid, free = accusers.play(SMALL, strategy, 1), accusers.play(SMALL, washed, 1)
    assert free.usd_spent == paid.usd_spent * (3 - num_friends) // 3
    assert free.num_suspended == paid.num_suspended > 0
    assert free.most_a_day_min <= 10


def test_who_has_no_turn_for_a_canary_is_restored_by_time() -> None:
    """A market that computes one a minute looks at few of many suspended at once; none waits for longer than that."""
    strategy = accusers.Strategy(3, 1.0, 10, 100, is_joined=True, is_stubborn=True, is_burst=True)
    made = accusers.play(replace(SMALL, num_accounts=80, computed_a_minute=1), strategy, 1)
    assert made.num_suspensions > made.num_unseen > 10
    assert made.longest_min <= 10


def test_voices_that_cost_nothing_suspend_nobody() -> None:
    """A thousand accounts that bought nothing anywhere."""
    strategy = accusers.Strategy(0, 0.0, 10, 1, is_joined=True, is_stubborn=True, is_burst=True)
    assert accusers.play(SMALL, strategy, 1).num_suspensions == 0
