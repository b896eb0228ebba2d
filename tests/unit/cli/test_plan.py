"""The plan of a dry run, and the exit code it gives."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path

import pytest

from stannary.cli import plan
from stannary.cli.commands import run
from stannary.cli.output import Output
from stannary.errors import NoCapacity, SpecError
from stannary.sdk import submit
from stannary.sdk.submit import Overrides, Prepared
from stannary.wire.buyer import Offer, PricedWord, PriceQuote, RejectedNode
from stannary.wire.market import MarketInfo


def offer(node: str) -> Offer:
    return Offer(
        node=node, operator="basalt", jurisdiction="DE", tier="T0", attestation="software", engine_class="c", cpus=4,
        memory_bytes=8 << 30, ask_usd_micros_per_hour=100_000, state="idle",
    )  # fmt: skip


def quote(escrow_usd_micros: int) -> PriceQuote:
    nodes = [f"n-{index:012x}" for index in range(3)]
    return PriceQuote(
        chosen=[nodes[0]], rejected=[RejectedNode(node=nodes[1], reason="too dear\x1b[2J")],
        offers=[offer(node) for node in nodes], work_usd_micros=1_000, audit_usd_micros=2_000,
        escrow_usd_micros=escrow_usd_micros, audit_ppm=1, required_ppm=10_000, reveal_s=3_660,
        words=[
            PricedWord(assurance=word, audit_ppm=ppm, expected_usd_micros=1_500, worst_usd_micros=escrow_usd_micros)
            for word, ppm in (("sampled", 10_000), ("verified", 1_000_000), ("full", 1_000_000))
        ],
    )  # fmt: skip


@pytest.fixture
def prepared(tmp_path: Path) -> Prepared:
    (tmp_path / "job.yaml").write_text("run: python a.py\nbudget: 0.50\n")
    (tmp_path / "a.py").write_text("print()\n")
    (tmp_path / ".env").write_text("x")
    return submit.prepare(tmp_path / "job.yaml", Overrides())


ROOT = "sha256:" + "ab" * 32


class Market:
    def __init__(self, answer: PriceQuote | Exception) -> None:
        self.answer = answer
        self.root: str | None = None

    def market(self) -> MarketInfo:
        return MarketInfo(
            name="m", vkey="m+0+A", witness_vkeys=[], profile="local", version="1", terms_digest=ROOT, root=self.root
        )

    def quote(self, spec: object) -> PriceQuote:
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


def shown(prepared: Prepared, answer: PriceQuote | Exception, *, as_json: bool = False) -> tuple[int, str, str]:
    stdout, stderr = io.StringIO(), io.StringIO()
    code = run._show_plan(Market(answer), prepared, Output(as_json=as_json, stdout=stdout, stderr=stderr))
    return code, stdout.getvalue(), stderr.getvalue()


def test_what_travels_who_could_run_it_and_the_worst_case(prepared: Prepared) -> None:
    """Chosen, fitting and rejected nodes with price and machine, files that travel and stay, the cost at worst."""
    code, text, _ = shown(prepared, quote(3_000))
    assert code == 0
    assert "chosen    n-000000000000  basalt" in text
    assert "could too n-000000000002" in text
    assert "rejected  n-000000000001: too dear" in text
    assert "class     c\n            1 operator, 3 nodes, from $0.10/h; nobody of another operator" in text
    assert "\x1b" not in text
    assert "4 cpus, 8.0 GiB" in text
    assert "2 files" in text
    assert ".env" in text
    assert "at most         $0.003   of a budget of $0.50" in text
    assert "pay for 20 units" in text
    assert "away for 1 h 1 min when it is asked" in " ".join(text.split())
    assert "yours to fetch for ever" in " ".join(text.split())


def test_the_rate_is_solved_for_the_word_and_each_word_has_its_price(prepared: Prepared) -> None:
    """Rate and cost of all three words stand in the plan, and the rate that will be signed."""
    _, text, _ = shown(prepared, quote(3_000))
    assert "audited   1.00 % of 1 unit, for assurance: sampled; always the" in text
    assert "price     of what is measured: expected reckons with" in text
    for word, rate in (("sampled", "1.00 %"), ("verified", "100.00 %"), ("full", "100.00 %")):
        assert f"    {word:<9} {rate:>9}  expected $0.0015, at most $0.003" in text
    _, text, _ = shown(prepared, quote(3_000), as_json=True)
    members = json.loads(text)
    assert (members["assurance"], members["audit_ppm"]) == ("sampled", 10_000)
    assert [item["assurance"] for item in members["words"]] == ["sampled", "verified", "full"]


def test_the_markets_root_is_filled_in(prepared: Prepared) -> None:
    """A job names the root file system its market publishes when it is priced."""
    market = Market(quote(3_000))
    for published in (ROOT, None):
        market.root = published
        assert submit.priced(market, prepared)[0].spec.root == published  # type: ignore[arg-type]  # as much


def test_a_rate_of_the_buyers_own_may_raise_and_never_lower(prepared: Prepared) -> None:
    """Below what the word needs it is refused; above it stands."""
    trust = prepared.spec.trust
    low, high = (
        replace(prepared, spec=replace(prepared.spec, trust=replace(trust, audit_ppm=ppm)), has_own_rate=True)
        for ppm in (9_999, 500_000)
    )
    with pytest.raises(SpecError, match=r"trust\.audit is below what assurance: sampled needs"):
        shown(low, quote(3_000))
    assert "audited   50.00 %" in shown(high, quote(3_000))[1]


def test_no_job_is_made_under_rules_of_an_earlier_release(prepared: Prepared) -> None:
    """A spec of rules 2 is not priced, and so not signed; the refusal names the command that makes it anew."""
    old = replace(prepared.spec, trust=replace(prepared.spec.trust, assurance=None), rules=None)
    with pytest.raises(SpecError, match="no new job is taken under rules 2") as caught:
        shown(replace(prepared, spec=old), quote(3_000))
    assert "stannary run JOB.yaml" in caught.value.hint


def test_over_budget_is_no_success(prepared: Prepared) -> None:
    """A plan the budget does not cover ends with the code of the refusal it would meet, and says what would do."""
    code, text, talk = shown(prepared, quote(600_000))
    assert code == 2
    assert "at most" in text
    assert "does not cover" in talk
    assert "--budget 0.60" in talk
    assert len(talk.splitlines()) == 3


def test_over_budget_in_json_is_one_document(prepared: Prepared) -> None:
    """With --json the problem is a member of the one document."""
    code, text, _ = shown(prepared, quote(600_000), as_json=True)
    assert code == 2
    assert json.loads(text)["problems"][0]["code"] == "E-USAGE"
    assert plan.over_budget(quote(500_000), prepared.spec) is None


def test_what_travels_is_told_also_where_nobody_can_run_it(prepared: Prepared) -> None:
    """A refusal of the market does not hide what would be sent."""
    stderr = io.StringIO()
    with pytest.raises(NoCapacity):
        run._show_plan(Market(NoCapacity("nobody")), prepared, Output(stdout=io.StringIO(), stderr=stderr))
    assert "travels   2 files" in stderr.getvalue()


def test_nothing_is_said_between_reading_and_sending_into_a_log() -> None:
    """Lines of a command whose talk goes to a file wait until the files are sent; errors do not lose them."""
    stderr = io.StringIO()
    with pytest.raises(NoCapacity), run.HeldTalk(Output(stderr=stderr)) as talk:
        talk.say("  market    here")
        assert stderr.getvalue() == ""
        raise NoCapacity("nobody")
    assert stderr.getvalue() == "  market    here\n"
