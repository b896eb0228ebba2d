"""Every screen at 80 and 120 columns: no line wraps, no id is cut, and no stranger's word acts on the terminal."""

from __future__ import annotations

import io
import json
import sys
import unicodedata
from pathlib import Path

import pytest
from tests.unit.verify.world import World

from stannary import files
from stannary.cli import costs, plan, session
from stannary.cli.main import run
from stannary.cli.output import UNPRINTABLE
from stannary.errors import JobNotFinished, NotFound
from stannary.formats.jobspec import JobKind
from stannary.sdk import profile, trustfile
from stannary.wire.buyer import (
    Cost,
    CostLine,
    CostSplit,
    JobView,
    LogLine,
    LogPage,
    Offer,
    Offers,
    OutputRef,
    Outputs,
    Progress,
    RejectedNode,
)

JOB = "j-0123456789ab"
HOSTILE = (
    "\x1b[2J\x1b[1;1Hgone",
    "line\nVerified. job j-0123456789ab",
    "back\r\x08\x08over",
    "\u202egnp.exe",
    "\u2066\u200b\u2028\x9b31m",
    "\U000e0041tag",
    "x" * 200,
    "\u6f22\u5b57" * 60,
    "e\u0301\u0301\u0301" * 40,
)


class Terminal(io.StringIO):
    """A stream somebody looks at."""

    def isatty(self) -> bool:
        return True


class Market:
    """A market whose every word is a stranger's."""

    def __init__(self, word: str, world: World | None = None) -> None:
        self.word, self.world = word, world

    def __enter__(self) -> Market:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def offers(self) -> Offers:
        return Offers.model_construct(offers=[self.offer(f"n-{number:012x}") for number in range(3)])

    def offer(self, node: str) -> Offer:
        return Offer.model_construct(
            node=node, operator=self.word, jurisdiction=self.word, tier="T0", attestation="software",
            engine_class=self.word, cpus=128, memory_bytes=2**40, ask_usd_micros_per_hour=12_345_678, state="draining",
        )  # fmt: skip

    def jobs(self, limit: int) -> list[JobView]:
        return [self.view()] * min(limit, 3)

    def view(self) -> JobView:
        return JobView.model_construct(
            id=JOB, name=self.word, kind="train", status="succeeded", verdict="unverified", settlement="released",
            reason=self.word, message=self.word, progress=Progress(round=12, rounds=12), escrow_usd_micros=1,
            paid_usd_micros=1_234_567, refunded_usd_micros=0, nodes=[], submitted_at="2026-11-22T00:00:00Z",
            finished_at="2026-11-22T00:00:00Z",
        )  # fmt: skip

    def logs(self, job: str, **_: object) -> LogPage:
        line = LogLine.model_construct(
            seq=1, at="2026-11-22T00:00:00Z", node="n-000000000001", task=f"{JOB}/run/l0/a0", stream="stdout",
            text=self.word,
        )  # fmt: skip
        return LogPage.model_construct(lines=[line] if not _.get("after") else [], next=1)

    def cost(self, job: str) -> Cost:
        line = CostLine.model_construct(account=f"operator:{self.word}", task=self.word, reason="work", usd_micros=7)
        split = CostSplit(useful=10_000, start=0, link=0, idle=0, audit=0, churn=0)
        return Cost(lines=[line], escrow_usd_micros=9, paid_usd_micros=7, refunded_usd_micros=2, split=split)

    def receipt(self, job: str) -> bytes:
        if self.world is None:
            raise JobNotFinished("not yet")
        return self.world.receipt()


@pytest.fixture
def screen(monkeypatch):
    def look(market: Market, *arguments: str, width: int = 80, watched: bool = True) -> list[str]:
        stdout, stderr = (Terminal(), Terminal()) if watched else (io.StringIO(), io.StringIO())
        monkeypatch.setattr(session, "connect", lambda: market)
        monkeypatch.setattr(sys, "stdout", stdout)
        monkeypatch.setattr(sys, "stderr", stderr)
        monkeypatch.setenv("COLUMNS", str(width))
        assert run(list(arguments)) == 0
        return (stdout.getvalue() + stderr.getvalue()).split("\n")

    return look


def columns_of(line: str) -> int:
    return sum(
        0 if unicodedata.category(char) in ("Mn", "Me") else 2 if unicodedata.east_asian_width(char) in "WF" else 1
        for char in line
    )


def test_results_that_are_no_longer_kept_are_said_to_be(monkeypatch, capsys, tmp_path):
    """`get` of a job whose time is over says since when, by which setting, and what is left of it."""

    class Forgetful(Market):
        def outputs(self, job: str) -> Outputs:
            listed = [OutputRef(name="model.safetensors", digest="sha256:" + "0" * 64, size_bytes=1)]
            why = "they are kept for 30 d after a job's end (the market's --retention ended_s)"
            return Outputs(outputs=listed, gone_at="2026-12-22T00:00:00Z", gone_why=why)

        def job(self, job: str) -> JobView:
            return self.view()

        def download(self, *_: object) -> None:
            raise NotFound("no such blob of yours")

    monkeypatch.setattr(session, "connect", lambda: Forgetful("oak"))
    assert run(["get", JOB, "-o", str(tmp_path)]) == NotFound.exit_code
    told = capsys.readouterr().err
    assert f"the results of {JOB} are kept no longer" in told
    assert "since 2026-12-22T00:00:00Z: they are kept for 30 d" in told
    assert f"stannary wait {JOB}" in told


def test_what_was_left_at_a_stop_is_said_to_be_partial(monkeypatch, capsys, tmp_path):
    """`get` fetches it, says what it is, and `--json` has it beside each file."""

    class Stopped(Market):
        def outputs(self, job: str) -> Outputs:
            return Outputs(outputs=[OutputRef(name="half", digest="sha256:" + "0" * 64, size_bytes=0, partial=True)])

        def job(self, job: str) -> JobView:
            return self.view()

        def download(self, _named: object, target: Path, _size: object) -> None:
            target.write_bytes(b"")

    monkeypatch.setattr(session, "connect", lambda: Stopped("oak"))
    assert run(["get", JOB, "-o", str(tmp_path), "--json"]) == 0
    printed = capsys.readouterr()
    assert json.loads(printed.out)["outputs"][0]["partial"] is True
    assert "partial, what there was when it was stopped or cut" in printed.err


@pytest.mark.parametrize("width", [80, 120])
@pytest.mark.parametrize("word", ["oak", *HOSTILE])
@pytest.mark.parametrize("command", ["offers", "ls"])
def test_tables_fit_and_strangers_words_do_nothing(screen, command, word, width):
    """No row is wider than the screen, each stands on one line, ids are whole, and nothing in it is a control."""
    lines = screen(Market(word), command, width=width)
    assert max(map(columns_of, lines)) <= width, max(lines, key=columns_of)
    rows = [line for line in lines if line.startswith(("n-", "j-"))]
    assert len(rows) == 3
    assert all(row.split()[0] in (JOB, *(f"n-{number:012x}" for number in range(3))) for row in rows)
    assert not [char for line in lines for char in line if unicodedata.category(char) in UNPRINTABLE]
    assert not any(line.startswith("Verified.") for line in lines)


@pytest.mark.parametrize("word", HOSTILE)
@pytest.mark.parametrize("command", [("logs", JOB), ("cost", JOB), ("logs", JOB, "-t"), ("cost", JOB, "--lines")])
def test_texts_of_strangers_do_nothing(screen, command, word):
    """A log line and a ledger line stay one line each, without controls, on a terminal and in a file."""
    for watched in (True, False):
        lines = screen(Market(word), *command, watched=watched)
        assert not [char for line in lines for char in line if unicodedata.category(char) in UNPRINTABLE]
        assert not any(line.startswith("Verified.") for line in lines)


@pytest.mark.parametrize("word", HOSTILE)
def test_json_of_strangers_words_is_safe_and_whole(screen, word):
    """--json gives back every character, and writes none that a terminal would act on."""
    (text,) = ["\n".join(screen(Market(word), "offers", "--json"))]
    document, _, _ = text.rpartition("}")
    assert json.loads(document + "}")["offers"][0]["operator"] == word
    assert not [char for char in text if char != "\n" and unicodedata.category(char) in UNPRINTABLE]


def test_a_file_gets_whole_cells_and_no_escape_codes(screen):
    """Outside a terminal nothing is shortened for a screen, and nothing moves a cursor."""
    lines = screen(Market("o" * 60), "offers", watched=False)
    assert sum("o" * 60 in line for line in lines) == 3


@pytest.fixture
def world():
    return World(rounds=2, lanes=3, liars={"n3"}).play()


def pin(world):
    trustfile.save(world.trust())


@pytest.mark.parametrize("width", [80, 120])
def test_cost_sums_by_node(screen, world, width):
    """Each node is one row: price per hour, time, work, audits, total; the totals are what the receipt pays."""
    pin(world)
    lines = screen(Market("oak", world), "cost", JOB, width=width)
    assert lines[0].split() == list(costs.COLUMNS)
    assert max(map(columns_of, lines)) <= width
    rows = {line.split()[0]: line.split() for line in lines if line.startswith("n-")}
    assert world.nodes["n1"].id in rows
    assert rows[world.nodes["n1"].id][2] == "$0.36/h"
    value = json.loads("\n".join(screen(Market("oak", world), "cost", JOB, "--json", watched=False)))
    from stannary.verify.receipt import verify_receipt

    said = verify_receipt(world.receipt(), world.trust(), world.now).claims.receipt
    operators = sum(line.usd_micros for line in said.settlement if line.account.startswith("operator:"))
    assert sum(node["total_usd_micros"] for node in value["nodes"]) == operators
    liar = next(node for node in value["nodes"] if node["node"] == world.nodes["n3"].id)
    assert liar["work_usd_micros"] == 0
    assert all(node["duration_ms"] > 0 for node in value["nodes"])


def test_cost_of_a_job_that_has_no_receipt_yet(screen):
    """Before the end the ledger's own lines are shown."""
    lines = screen(Market("oak"), "cost", JOB)
    assert any(line.startswith("operator:oak") for line in lines)


def test_a_long_settlement_shows_durations_as_a_clock():
    """Seconds below a minute, then hours, minutes, seconds."""
    assert [costs.duration(ms) for ms in (900, 59_900, 61_000, 3_723_000)] == ["0.9 s", "59.9 s", "0:01:01", "1:02:03"]


@pytest.mark.parametrize("width", [80, 120])
@pytest.mark.parametrize("word", ["asks $0.50/h, at most $0.10/h is allowed", *HOSTILE])
def test_rejections_are_told_by_reason(monkeypatch, word, width):
    """A hundred nodes refused for one reason are one entry that names a few; hostile reasons stay in their lines."""
    monkeypatch.setenv("COLUMNS", str(width))
    rejected = [{"node": f"n-{number:012x}", "reason": word} for number in range(100)]
    rejected.append({"node": "n-ffffffffffff", "reason": "draining"})
    lines = plan._rejections([RejectedNode.model_construct(**item) for item in rejected])
    assert lines[0].startswith("  rejected  n-000000000000, n-000000000001, n-000000000002 and 97 more: ".rstrip()[:40])
    assert lines[-1].endswith("n-ffffffffffff: draining")
    if " " in word or len(word) < 60:
        assert max(map(columns_of, lines)) <= width
    assert not [char for line in lines for char in line if unicodedata.category(char) in UNPRINTABLE]


def test_the_final_block_fits(monkeypatch):
    """The end of a job with a conviction has no line over 80 columns."""
    from stannary.cli import summary
    from stannary.verify.receipt import verify_receipt

    monkeypatch.setenv("COLUMNS", "80")
    for world in (World(liars={"n3"}).play(), World(kind=JobKind.COMMAND).play()):
        report = verify_receipt(world.receipt(), world.trust(), world.now)
        lines = summary.text(report, receipt_file=f"{JOB}.receipt.json", has_results=True, facts=True)
        assert max(map(len, lines)) <= 80, max(lines, key=len)


def test_one_damaged_node_hides_no_other(home, capsys):
    """A node.json cut short, or a pid file of nonsense, is that node's trouble: the list shows it beside the others."""
    for name, text in (
        ("good", '{"node":"n-000000000000","operator":"basalt","url":"https://m"}'),
        ("torn", '{"node"'),
    ):
        place = home / "data" / "node" / name
        place.mkdir(parents=True)
        (place / "node.json").write_text(text)
        (place / "agent.pid").write_text("{")
    assert run(["node", "ls", "--json"]) == 0
    good, torn = json.loads(capsys.readouterr().out)["nodes"]
    assert (good["node"], good["operator"], good["state"]) == ("n-000000000000", "basalt", "stopped")
    assert torn["node"].startswith("unreadable: ")


def test_one_open_token_hides_no_market(home, capsys):
    """A token that others can read stops the commands that would use it, and not the list of markets."""
    for name in ("one", "two"):
        profile.store(profile.Profile(name, "https://m.example"), files.Secret("stk_x"), make_default=True)
    profile.token_path("one").chmod(0o644)
    assert run(["market", "ls", "--json"]) == 0
    listed = {item["profile"]: item["has_token"] for item in json.loads(capsys.readouterr().out)["markets"]}
    assert listed == {"one": True, "two": True, "local": False}
