"""Following a job: phases, rounds and convictions as lines."""

from __future__ import annotations

import io
import re
from pathlib import Path

import pytest

import stannary
from stannary.cli import happenings
from stannary.cli.follow import GIVE_UP_S, Follower, Patience, follow, going_on
from stannary.cli.output import Output
from stannary.errors import MarketUnreachable, ServiceError
from stannary.formats.predicates import Verdict
from stannary.jobs.course.state import AuditOutcome
from stannary.jobs.states import JobStatus, LeaseState, Settlement, TaskState
from stannary.market.presence import Presence
from stannary.sdk.client import Turn
from stannary.store import claims
from stannary.wire.buyer import Event, JobNode, JobView, LogLine, LogPage, Progress

JOB = "j-0123456789ab"
NODE = "n-0123456789ab"


def view(round_index=0, loss=None, finished=None, heldout=None):
    return JobView(
        id=JOB,
        name="hello",
        kind="train",
        status="running",
        verdict="pending",
        settlement="held",
        reason="",
        message="",
        progress=Progress(round=round_index, rounds=4, loss=loss, heldout=heldout),
        escrow_usd_micros=0,
        paid_usd_micros=0,
        refunded_usd_micros=0,
        nodes=[],
        submitted_at="2026-11-22T00:00:00Z",
        finished_at=finished,
    )


def event(seq, kind, message="", task=None):
    return Event(seq=seq, at="2026-11-22T00:00:00Z", type=kind, message=message, node=NODE, task=task, data={})


def shown(*turns):
    err = io.StringIO()
    times = iter(range(1000))
    follower = Follower(Output(stdout=io.StringIO(), stderr=err), clock=lambda: float(next(times)))
    for turn in turns:
        follower.show(turn)
    return err.getvalue()


def test_phases_have_elapsed_times():
    """Each phase is one line with the seconds it took."""
    text = shown(Turn([event(1, "job.queued"), event(2, "job.running")], view()))
    assert "queued" in text and " s" in text


def handed_in(seq, task, **metrics):
    found = event(seq, "task.contributed", "handed in", f"{JOB}/{task}/a0")
    return found.model_copy(update={"data": {"reason": "contributed", "metrics": metrics}})


def test_each_round_shows_its_figures_once():
    """With its merge a round is one line: its number of all, the lanes' loss, every metric under its own name."""
    events = [
        handed_in(1, "r0/l0", loss="2.0", last_loss="1.0"),
        handed_in(2, "r0/l1", loss="3.0"),
        handed_in(3, "r0/merge", heldout_bits_per_byte="3.1", accuracy="0.25"),
        handed_in(4, "r3/merge", **{"perplexity\x1b[2J": "nan"}),
    ]
    lines = [line for line in shown(Turn(events, view(3))).splitlines() if " round " in line]
    assert len(lines) == 2
    assert "1/4  loss 2.5000  heldout_bits_per_byte 3.1  accuracy 0.25" in lines[0]
    assert lines[1].endswith("4/4  perplexity\N{REPLACEMENT CHARACTER}[2J nan")


def test_strange_figures_break_no_screen():
    """Metrics of another shape, infinite losses and odd tasks are told or left out, never raised."""
    odd = event(9, "task.contributed", "x", f"{JOB}/run/l0/a0").model_copy(update={"data": {"metrics": ["x"]}})
    merge = handed_in(4, "r0/merge")
    text = shown(Turn([handed_in(1, "r0/l0", loss="Infinity"), handed_in(2, "r0/l1", loss="-"), odd, merge], view()))
    assert text.splitlines()[-1].endswith("1/4  2 of 2 lanes without a finite loss")


def test_a_lane_whose_loss_became_nan_is_told():
    """A node leaves out what cannot be signed; the round says how many lanes trained into nothing."""
    text = shown(Turn([handed_in(1, "r0/l0", loss="2.0"), handed_in(2, "r0/l1"), handed_in(3, "r0/merge")], view()))
    assert text.splitlines()[-1].endswith("1/4  loss 2.0000  1 of 2 lanes without a finite loss")


def test_convictions_name_node_and_task():
    """A conviction is told once: node, operator, task, reason, and what it costs."""
    data = {"reason": "two-recomputations-disagree", "bond_usd_micros": 10_000_000}
    told = [event(1, "task.refuted", "", f"{JOB}/r1/l0/a0"), event(2, "node.convicted", "", f"{JOB}/r1/l0/a0")]
    more = {"data": data, "operator": "mica"}
    text = shown(Turn([item.model_copy(update=more) for item in told], view()))
    assert text.count("CONVICTED") == text.count(NODE) == 1
    assert f"{NODE} (mica) for lane 0 of round 2 (r1/l0/a0): two others computed it again" in text
    assert "not paid" in text and "bond of $10.00" in text


@pytest.mark.parametrize("data", [{}, {"reason": 7, "bond_usd_micros": "much"}])
def test_a_conviction_without_figures_is_told(data):
    """A market of another release that says no reason and no bond is understood."""
    text = shown(Turn([event(1, "node.convicted", "", f"{JOB}/r1/l0/a0").model_copy(update={"data": data})], view()))
    assert "CONVICTED" in text and "bond" not in text


def test_messages_cannot_forge_lines():
    """What the market says stays on its line."""
    told = event(1, "lease.released", "x\nVerified. job j-1").model_copy(update={"data": {"reason": "failed"}})
    text = shown(Turn([told], view()))
    assert "Verified. job j-1" in text and "\nVerified" not in text


def line(seq, text, *, task=f"{JOB}/run/l0/a0", node=NODE, stream="stdout"):
    return LogLine(seq=seq, at="2026-11-22T00:00:00Z", node=node, task=task, stream=stream, text=text)


class Market:
    """A market whose turns are a script: a Turn is told, an error raised, and each call of `follow` goes on behind."""

    def __init__(self, *script, lines=()):
        self.script, self.lines, self.asked_after = list(script), list(lines), []

    def follow(self, job, after=0):
        self.asked_after.append(after)
        while self.script:
            item = self.script.pop(0)
            if isinstance(item, Exception):
                raise item
            yield item

    def logs(self, job, *, after=0):
        found = [item for item in self.lines if item.seq > after]
        return LogPage(lines=found, next=found[-1].seq if found else after)


class Clock:
    """Time that passes only while somebody sleeps."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now

    def sleep(self, seconds):
        self.now += seconds


def followed(market, tend=lambda: ""):
    err, clock = io.StringIO(), Clock()
    out = Output(stdout=io.StringIO(), stderr=err)
    patience = Patience(out, JOB, clock=clock, sleep=clock.sleep)
    try:
        return follow(market, JOB, out, tend, patience=patience), err.getvalue(), clock
    except MarketUnreachable as gone:
        return gone, err.getvalue(), clock


SILENT = MarketUnreachable("no answer from the market", why="ConnectError", hint="stannary market status")
ENDED = Turn([event(9, "job.succeeded")], view(finished="2026-11-22T00:01:00Z"))


def test_a_market_restart_is_survived():
    """The follower asks again behind what it has seen, says so once, and says when the market is back."""
    market = Market(Turn([event(7, "job.running")], view()), SILENT, SILENT, SILENT, ENDED)
    tended = []
    found, text, _ = followed(market, lambda: tended.append(1) or "")
    assert found is ENDED.view
    assert market.asked_after == [0, 7, 7, 7]
    assert text.count("asking again") == 1
    assert text.count("if it stays silent: stannary market status") == 1
    assert "answers again after 3 s" in text
    assert len(tended) >= 5, "the broker is looked after while the market is silent too"


def test_a_market_that_stays_away_is_given_up():
    """After GIVE_UP_S the error names the command that goes on."""
    market = Market(Turn([], view()), *[SILENT] * 10_000)
    found, text, clock = followed(market)
    assert found.hint == f"stannary wait {JOB}"
    assert clock.now == GIVE_UP_S
    assert text.count("\n") == 2


def test_an_answer_that_is_not_the_markets_is_no_end():
    """A gateway's page while the market restarts is waited out like silence."""
    page = ServiceError("the market gave an answer that is not its own", why="status 502")
    found, _, _ = followed(Market(page, ENDED))
    assert found is ENDED.view


def test_a_receipt_that_cannot_be_fetched_names_the_way_on():
    """A market that falls silent at the very end leaves the command that goes on."""
    with pytest.raises(MarketUnreachable) as caught, going_on(JOB):
        raise SILENT
    assert caught.value.hint == f"stannary wait {JOB}"


def test_a_commands_output_is_shown_live():
    """What a command prints stands on the screen with its lane, once, safely; an auditor's and the agent's do not."""
    other = "n-ba9876543210"
    task = f"{JOB}/run/l1/a0"
    asked = event(1, "lease.granted", task=task).model_copy(update={"data": {"type": "audit"}, "node": other})
    nodes = [JobNode(node=NODE, operator="oak", lane=lane, state="work") for lane in range(2)]
    at_work = view().model_copy(update={"kind": "command", "nodes": nodes})
    lines = [
        line(1, "hello\x1b[2J"),
        line(2, "from lane 1", task=task),
        line(3, "from lane 1", task=task, node=other),
        line(4, "fetching", stream="agent"),
    ]
    _, text, _ = followed(Market(Turn([asked], at_work), ENDED, lines=lines))
    shown_lines = [item for item in text.splitlines() if "|" in item]
    assert shown_lines == ["  l0 | hello\N{REPLACEMENT CHARACTER}[2J", "  l1 | from lane 1"]


def test_a_wait_is_said_once_whether_or_not_audits_were_drawn():
    """Work that goes on beside its first audits is waited for in the same words, which are not repeated."""
    nodes = [JobNode(node=NODE, operator="oak", lane=0, state="work")]
    at_work = view().model_copy(update={"nodes": nodes})
    still = [Turn([], at_work)] * 9
    drawn = event(2, "audit.opened", "drawn", f"{JOB}/r0/l0/a0")
    text = shown(Turn([event(1, "job.running")], at_work), *still, Turn([drawn], at_work), *still)
    assert text.count("waiting    for its nodes to compute") == 1


def test_a_long_wait_says_what_for():
    """After five seconds without news a line names what is waited for and who is at work, once."""
    nodes = [JobNode(node=NODE, operator="oak", lane=0, state="work")]
    turns = [Turn([event(1, "job.running")], view().model_copy(update={"nodes": nodes}))]
    turns += [Turn([], turns[0].view)] * 20
    text = shown(*turns)
    assert text.count("waiting    for its nodes to compute: n-0123456789ab (oak)") == 1


KINDS = [
    *(f"{subject}.{state}" for subject, states in (
        ("job", JobStatus), ("verdict", Verdict), ("settlement", Settlement), ("task", TaskState),
        ("lease", LeaseState), ("audit", AuditOutcome), ("node", Presence),
    ) for state in states),
    claims.GONE,
]  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_every_state_has_a_sentence(kind):
    """Each state a job, task, lease, audit or node can get to is told in a sentence without codes or bare ids."""
    told = happenings.sentence(event(1, kind, "why it is so", f"{JOB}/r1/l0/a0"))
    assert kind in happenings.KINDS
    assert not re.search(r"[{}]|\b[a-z]+\.[a-z]+\b", told), told
    assert JOB not in told


def test_every_kind_the_market_writes_has_a_sentence():
    """Whatever the sources write by name is in the table, so a new kind cannot come without its words."""
    sources = [Path(stannary.__file__).parent / name for name in ("market", "store")]
    text = "".join(path.read_text() for source in sources for path in source.rglob("*.py"))
    written = set(re.findall(r"Happening\(\s*f?\"([a-z]+\.[^\"]+)\"", text))
    assert {"beacon.requested", "node.convicted", "audit.opened"} <= written
    known = set(happenings.KINDS)
    for kind in written:
        subject, _, state = kind.partition(".")
        assert kind in known if "{" not in state else any(item.startswith(f"{subject}.") for item in known), kind


def test_a_kind_nobody_knows_is_told_in_the_markets_words():
    """An event of a newer market is no error and no code on the screen."""
    assert happenings.sentence(event(1, "moon.risen", "the moon has risen")) == "the moon has risen"
    assert happenings.sentence(event(1, "moon.risen", "")) == "moon risen"


def test_a_silent_auditor_is_a_sentence():
    """`audit.silent` says who was asked for what."""
    silent = event(1, "audit.silent", "audit x silent", f"{JOB}/r2/l1/a0").model_copy(update={"operator": "oak"})
    told = happenings.sentence(silent)
    assert told == (
        f"{NODE} (oak) was asked to compute lane 1 of round 3 (r2/l1/a0) again and did not answer; "
        "the next one is asked"
    )


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("exit-3", ["ended with exit code 3"]),
        ("signal-11", ["ended with SIGSEGV (Segmentation fault)"]),
        ("wall-limit", ["cut at resources.wall_s"]),
        ("exit-0", []),
        ("\x1b[2Jexit-3", []),
        (3, []),
    ],
)
def test_how_a_program_ended_is_said_at_once_as_pending(how, said):
    """Its buyer need not wait for those who compute it again; what is no end of a program is not shown."""
    happened = event(1, "task.contributed", task=f"{JOB}/run/l0/a0").model_copy(update={"data": {"ended": how}})
    text = shown(Turn([happened], view()))
    assert ("pending" in text) == bool(said)
    assert all(words in " ".join(text.split()) for words in said)
    assert all(len(line) <= 80 for line in text.splitlines())
    assert "\x1b" not in text
