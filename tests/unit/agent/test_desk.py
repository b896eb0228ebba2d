"""What is on the desk is said under its own lease only."""

from __future__ import annotations

import threading
from typing import Any

from stannary.agent.desk import ANSWERS, Desk
from stannary.agent.pulse import Pulse
from stannary.formats.ids import LeaseType, TaskKind
from stannary.run.logs import TaskLog
from stannary.wire.node import Lease, LogUpload, ProgressReport


def lease(name: str) -> Lease:
    return Lease(
        lease_id=name, type=LeaseType.WORK, job="j-0123456789ab", task="j-0123456789ab/run/l0/a0", epoch=1,
        kind=TaskKind.COMMAND, deadline_at="2099-01-01T00:00:00Z",
    )  # fmt: skip


class Sent:
    """Keeps what goes to the market, by lease."""

    def __init__(self) -> None:
        self.sent: list[tuple[str, Any]] = []

    def upload_logs(self, lease_id: str, upload: LogUpload) -> None:
        self.sent.append((lease_id, [line.text for line in upload.lines]))

    def tell_progress(self, lease_id: str, report: ProgressReport) -> None:
        self.sent.append((lease_id, report.phase))


def test_lines_and_progress_of_the_next_lease_do_not_go_out_under_the_last_one() -> None:
    """The pulse may still hold the lease that ended a moment ago: what the next one prints is not for its buyer."""
    desk, client = Desk(), Sent()
    pulse: Any = Pulse.__new__(Pulse)
    pulse.desk, pulse.client = desk, client
    first, second, log = lease("l-1"), lease("l-2"), TaskLog(lambda: 0.0)
    desk.hold(first, TaskLog(lambda: 0.0))
    desk.finish(first)
    desk.hold(second, log)
    log.add("stdout", "a secret of the second buyer")
    desk.report(ProgressReport(step=0, steps=0, phase="fetch"))
    for ended in (first, second):
        pulse._ship(ended)
        pulse._send_progress(ended)
    assert client.sent == [("l-2", ["a secret of the second buyer"]), ("l-2", "fetch")]


def test_questions_are_taken_beside_the_work() -> None:
    """Who works gets no question, who answers gets no work; what each prints goes out under its own lease."""
    desk = Desk()
    work, question = lease("l-1"), lease("l-2").model_copy(update={"type": LeaseType.QUESTION, "job": "j-other"})
    for each in (work, question):
        desk.put(each)
    answered: list[Lease | None] = []

    def answer() -> None:
        desk.answer_here()
        answered.append(desk.take(ANSWERS))
        assert answered[0] is not None
        desk.hold(answered[0], TaskLog(lambda: 2.0))
        desk.report(ProgressReport(step=1, steps=2, phase="compute"))

    beside = threading.Thread(target=answer)
    beside.start()
    beside.join(60)
    assert answered == [question]
    assert desk.take() == work
    assert desk.take() is None
    desk.hold(work, TaskLog(lambda: 1.0))
    assert desk.in_hand() == [work, question]
    assert desk.progress_under(work) is None
    reported = desk.progress_under(question)
    assert reported is not None
    assert reported.step == 1
    assert desk.log_of("j-other") is desk.log_under(question) is not desk.log_under(work)
    assert desk.drop(["l-2"]) is None, "the work goes on"
    assert desk.drop(["l-1"]) == work
