"""Who may serve a job: the masks of its spec, and what changes by the minute."""

from __future__ import annotations

from dataclasses import replace

from tests.integration.market.fake_buyer import train_spec
from tests.unit.market import moment
from tests.unit.market.moment import CLASS

from stannary.formats.jobspec import RULES
from stannary.jobs.course import masks
from stannary.rules import price

NODE = moment.node("n-1", "ann")
ORDER = moment.order(train_spec())
WORLD = moment.world(NODE)
NOBODY: dict[str, str] = {}
OUT = {"n-1": "convicted in this job"}


def test_who_was_revoked_or_convicted_serves_nobody() -> None:
    """In whatever job he lied."""
    assert masks.why_not(NODE, ORDER, WORLD) == ""
    assert masks.why_not(replace(NODE, is_revoked=True), ORDER, WORLD) == "revoked"
    assert masks.why_not(replace(NODE, is_convicted=True), ORDER, WORLD) == "convicted"


def test_who_is_suspended_gets_nothing_new_in_a_buyers_own_code() -> None:
    """Neither work nor audits there; where a bond is at stake it may show that it computes right."""
    held = replace(NODE, is_suspended=True)
    own = moment.order(replace(train_spec(), rules=RULES))
    assert own.spec.recipe is not None
    ours = moment.order(replace(own.spec, recipe=replace(own.spec.recipe, entry="builtin:bytegpt")))
    assert masks.why_barred(held, own, WORLD, CLASS, NOBODY) == "suspended"
    assert masks.why_no_auditor(held, own, WORLD, NOBODY) == "suspended"
    assert masks.why_barred(held, ours, WORLD, CLASS, NOBODY) == ""


def test_a_credential_must_be_in_force() -> None:
    """Whose has ended is placed nowhere, gets no lost lane and judges nobody, however live he is."""
    ended = replace(NODE, expires_at_ms=WORLD.now_ms)
    for why in (
        masks.why_not(ended, ORDER, WORLD),
        masks.why_barred(ended, ORDER, WORLD, CLASS, NOBODY),
        masks.why_no_auditor(ended, ORDER, WORLD, NOBODY),
    ):
        assert why == "its credential has ended"
    assert masks.why_no_auditor(replace(ended, expires_at_ms=WORLD.now_ms + 1), ORDER, WORLD, NOBODY) == ""


def test_work_needs_the_jobs_class_and_no_conviction_in_it() -> None:
    """Whatever the task."""
    assert masks.why_barred(NODE, ORDER, WORLD, CLASS, NOBODY) == ""
    assert masks.why_barred(NODE, ORDER, WORLD, "cpu-b", NOBODY) == "another engine class"
    assert masks.why_barred(NODE, ORDER, WORLD, CLASS, OUT) == "convicted in this job"


def test_an_auditor_must_be_there_besides() -> None:
    """Who is not heard from would be waited for."""
    assert masks.why_no_auditor(NODE, ORDER, WORLD, NOBODY) == ""
    assert masks.why_no_auditor(NODE, ORDER, WORLD, OUT) == "convicted in this job"
    away = replace(WORLD, live=frozenset())
    assert masks.why_no_auditor(NODE, ORDER, away, NOBODY) == "not heard from, or draining"


def test_terms_a_market_does_not_accept_bar_a_node() -> None:
    """They are the market's to name, not the job's."""
    assert "terms" in masks.why_not(NODE, ORDER, replace(WORLD, terms=lambda _: frozenset({"others"})))


def test_who_raised_his_ask_is_not_paid_from_what_is_held_for_others() -> None:
    """A job is held for by the dearest who was there: who costs more than a quarter more neither gets it nor audits.

    Catches: reckoning by the buyer's ceiling, or by nothing; barring whoever was there, or was measured anew.
    """
    spec = replace(train_spec(), rules=RULES)
    held = price.worst_case(spec, NODE.hour_in(spec)).escrow_usd_micros
    order = replace(moment.order(spec), escrow_usd_micros=held)
    dear = replace(NODE, ask_usd_micros_per_hour=NODE.ask_usd_micros_per_hour * 4 // 3)
    regraded = replace(NODE, grade_ppm=NODE.grade_ppm * 6 // 5)
    assert [bool(masks.why_dear(node, order)) for node in (NODE, regraded, dear)] == [False, False, True]
    assert masks.why_no_auditor(dear, order, WORLD, NOBODY).startswith("an hour of it costs")
    assert masks.why_barred(dear, order, WORLD, CLASS, NOBODY).startswith("an hour of it costs")
    assert masks.why_barred(regraded, order, WORLD, CLASS, NOBODY) == ""
    assert masks.why_dear(dear, replace(order, escrow_usd_micros=None)) == ""
