"""Following a job: phases, rounds and convictions as lines."""

from __future__ import annotations

import io

from stannary.cli.follow import Follower
from stannary.cli.output import Output
from stannary.sdk.client import Turn
from stannary.wire.buyer import Event, JobView, Progress

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
    text = shown(Turn([event(1, "job.placing"), event(2, "job.running")], view()))
    assert "placing" in text and " s" in text


def test_each_round_shows_its_loss_once():
    """A round's loss is printed when it is known, once."""
    first, second = view(1, "2.5", heldout="3.1"), view(2, "2.1", heldout="2.9")
    turns = [Turn([], view(0, "5.5")), Turn([], first), Turn([], first), Turn([], second)]
    text = shown(*turns)
    assert "5.5" not in text, "a round at work has no figure yet"
    assert text.count("loss 2.5") == 1
    assert "2/4  loss 2.1" in text


def test_convictions_name_node_and_task():
    """A refuted task is a line of its own."""
    text = shown(Turn([event(1, "task.refuted", "recomputed otherwise", f"{JOB}/r1/l0/a0")], view()))
    assert "CONVICTED" in text and NODE in text and "r1/l0/a0" in text


def test_messages_cannot_forge_lines():
    """What the market says stays on its line."""
    text = shown(Turn([event(1, "task.refuted", "x\nVerified. job j-1")], view()))
    assert "\nVerified" not in text
