"""A real agent process against a scripted market: joining, work, questions, death, drain."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from tests.metered import check_chain
from tests.unit.run.wheels import make_wheel

from stannary.agent.join import Application, join
from stannary.errors import AuthError, ConflictError, FormatError, NotFound, Refuted, ServiceError
from stannary.formats import canonical, commitments, predicates, record
from stannary.formats.jobspec import Resources
from stannary.formats.predicates import Assurance
from stannary.wire import errors as wire_errors

from .scripted_market import FOREVER, TRUST, ScriptedMarket

ENGINE_CLASS = "cpu-fp32-scripted-000000000000"
HELLO = "echo working; printf '%s' \"$WORD\" > out.txt"
SALT = "ab" * 32


@pytest.fixture
def directory(market: ScriptedMarket, tmp_path: Path) -> Path:
    application = Application(market.token(), tmp_path / "node", "basalt", "n1", engine_class=ENGINE_CLASS)
    join(application, lambda _: None)
    return tmp_path / "node"


def run_join(market: ScriptedMarket, directory: Path, *more: str) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, "-m", "stannary.agent", "join", "--dir", str(directory)]
    said = ["--operator", "basalt", "--name", "n1", "--engine-class", ENGINE_CLASS, *more]
    return subprocess.run([*argv, *said], input=market.token(), capture_output=True, text=True, check=False)


Launch = Callable[[], "subprocess.Popen[bytes]"]


@pytest.fixture
def launch(directory: Path) -> Iterator[Launch]:
    started: list[subprocess.Popen[bytes]] = []

    def start() -> subprocess.Popen[bytes]:
        argv = [sys.executable, "-m", "stannary.agent", "run", "--dir", str(directory)]
        with (directory / "agent.log").open("ab") as log:
            started.append(subprocess.Popen(argv, stderr=log, stdout=log, env={**os.environ, "SECRET_TOKEN": "hidden"}))
        return started[-1]

    yield start
    for agent in started:
        with contextlib.suppress(ProcessLookupError):
            agent.kill()
        agent.wait()


def test_join_leaves_a_private_key_and_an_honest_word(market: ScriptedMarket, tmp_path: Path) -> None:
    """Joining makes a 0600 key, keeps the credential, and says NOT hardware-attested."""
    done = run_join(market, tmp_path / "n", "--kernel", "MKL_CBWR=COMPATIBLE")
    assert done.returncode == 0, done.stderr
    assert "NOT hardware-attested" in done.stderr
    assert json.loads(done.stdout)["engine_class"] == ENGINE_CLASS
    assert stat.S_IMODE((tmp_path / "n/key").stat().st_mode) == 0o600
    kept = json.loads((tmp_path / "n/node.json").read_text())
    assert (kept["operator"], kept["kernel"]) == ("basalt", {"MKL_CBWR": "COMPATIBLE"})
    again = run_join(market, tmp_path / "n")
    assert again.returncode == 1
    assert "holds a node already" in again.stderr


def test_join_refuses_another_market(market: ScriptedMarket, tmp_path: Path) -> None:
    """A server with another key than the token's gets neither token nor join statement."""
    honest = market.vkey
    other = ScriptedMarket()
    market.vkey = other.vkey  # tokens now name the other market's key, the address stays
    token = market.token()
    market.vkey = honest
    argv = [sys.executable, "-m", "stannary.agent", "join", "--dir", str(tmp_path / "n"), "--operator", "o"]
    words = [*argv, "--name", "n", "--engine-class", "x"]
    done = subprocess.run(words, input=token, capture_output=True, text=True, check=False)
    other.close()
    assert done.returncode == 6
    assert "not the market of the token" in done.stderr
    assert market.node_keys == {}


def test_questions_are_answered_beside_the_work(market: ScriptedMarket, launch: Launch, directory: Path) -> None:
    """A piece that never ends is in hand: what was done before is answered for all the same, and the piece goes on."""
    done = market.add_command_job(HELLO, {"data/a.txt": b"x"}, envs={"WORD": "hello"})
    market.lease(done)
    launch()
    market.wait_for(lambda: market.count("contribution") == 1)
    endless = market.add_command_job(f"echo up; {FOREVER}")
    market.lease(endless)
    market.wait_for(lambda: "up" in market.lines)
    market.question(done, "prover", SALT)
    market.wait_for(lambda: market.count("answer-commitment") == 1)
    market.question(done, "prover", "", kind="reveal")
    market.wait_for(lambda: market.count("answer") == 1)
    shown = json.loads((directory / "in-hand.json").read_text())
    assert [item["type"] for item in shown if item["task"].startswith(endless)] == ["work"]
    answer = market.predicate("answer")
    assert answer.root == market.predicate("contribution").root
    assert commitments.answer_commitment_hash(answer.node, answer.blind, answer.answer, answer.root) == (
        market.predicate("answer-commitment").commitment
    )
    assert market.count("contribution") == 1
    assert market.failures == []


def test_a_question_whose_result_is_lost_is_computed_beside_the_work(
    market: ScriptedMarket, launch: Launch, directory: Path
) -> None:
    """A journal that lost what was handed in: the task is run again by a worker of its own while another never ends."""
    done = market.add_command_job(HELLO, {"data/a.txt": b"x"}, envs={"WORD": "hello"})
    market.lease(done)
    launch()
    market.wait_for(lambda: market.count("contribution") == 1)
    for path in (directory / "journal" / "result").glob("*.json"):
        path.unlink()
    market.lease(market.add_command_job(f"echo up; {FOREVER}"))
    market.wait_for(lambda: "up" in market.lines)
    market.question(done, "prover", SALT)
    market.wait_for(lambda: market.count("answer-commitment") == 1)
    market.question(done, "prover", "", kind="reveal")
    market.wait_for(lambda: market.count("answer") == 1)
    assert market.predicate("answer").root == market.predicate("contribution").root


def test_work_and_questions(market: ScriptedMarket, launch: Launch) -> None:
    """A command is run, committed before it is shown, metered, and answered for; an audit finds the same root."""
    job = market.add_command_job(HELLO, {"data/a.txt": b"x"}, envs={"WORD": "hello"})
    work = market.lease(job)
    launch()
    market.wait_for(lambda: market.count("contribution") == 1)
    made = market.predicate("contribution")
    order = [what for what, lease, _ in market.statements if lease == work and what != "reading"]
    assert order == ["commitment", "contribution"]
    assert market.predicate("commitment").commitment == commitments.commitment_hash(made.node, made.salt, made.root)
    assert market.blobs[made.outputs[0].digest] == b"hello"
    assert made.root == predicates.result_root(made.outputs)
    assert made.engine_class == ENGINE_CLASS
    assert made.sandbox.startswith(("bubblewrap-", "unshare+"))
    assert made.spent.compute_ms > 0
    assert made.spent.start_ms > 0
    assert market.lines == ["working"]

    market.question(job, "auditor", SALT)
    market.question(job, "prover", SALT)
    market.wait_for(lambda: market.count("answer-commitment") == 2)
    for role in ("auditor", "prover"):
        market.question(job, role, "", kind="reveal")
    market.wait_for(lambda: market.count("answer") == 2)
    state = canonical.encode([record.to_json(item) for item in made.outputs])
    hidden = {p.role: p.commitment for what, _, p in market.statements if what == "answer-commitment"}
    for opened in (predicate for what, _, predicate in market.statements if what == "answer"):
        assert opened.root == made.root
        assert opened.answer == commitments.answer_hash(bytes.fromhex(SALT), state)
        assert hidden[opened.role] == commitments.answer_commitment_hash(
            made.node, opened.blind, opened.answer, opened.root
        )


def test_bytes_that_move_are_told(market: ScriptedMarket, launch: Launch) -> None:
    """A market that lets a second input, or a result, wait until it hears that bytes move is not waited for in vain."""
    job = market.add_command_job(HELLO, {"a.txt": b"a", "b.txt": b"b"}, envs={"WORD": "hello"})
    inputs: set[str] = set()

    def refuse(method: str, path: str) -> None:
        if method == "GET" and path.startswith("/v1/blobs/"):
            inputs.add(path)
            if len(inputs) == 2:
                market.wait_for(lambda: "fetch" in market.phases)
        if method == "PUT":
            market.wait_for(lambda: "store" in market.phases)

    market.refuse = refuse
    market.lease(job)
    launch()
    market.wait_for(lambda: market.count("contribution") == 1)
    assert len(inputs) == 2


def test_requirements_reach_a_command(
    market: ScriptedMarket, launch: Launch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What `setup:` pins is fetched, unpacked and found; a wheel that becomes more than the job's disk is refused."""
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "wheels"))
    entry_points = {"tin-1.0.dist-info/entry_points.txt": b"[console_scripts]\nsmelt = tin:main\n"}
    main = b"def main():\n    print('cassiterite')\nif __name__ == '__main__':\n    main()\n"
    tin = make_wheel(tmp_path / "wheels", "tin", {"tin.py": main, **entry_points})
    boom = make_wheel(tmp_path / "wheels", "boom", {"boom.py": bytes(64 * 1024**2)})
    line = "{ python -m tin; smelt; } > out.txt"
    market.lease(market.add_command_job(line, {"r.txt": tin}, setup="r.txt"))
    launch()
    market.wait_for(lambda: market.count("contribution") == 1)
    assert market.blobs[market.predicate("contribution").outputs[0].digest] == b"cassiterite\ncassiterite\n"
    market.lease(market.add_command_job("true > out.txt", {"r.txt": boom}, setup="r.txt"))
    market.wait_for(lambda: len(market.failures) == 1)
    assert "resources.disk" in market.failures[0]["message"]
    assert [path.name for path in (tmp_path / "node/environments").iterdir() if path.name.startswith(".")] == []


def test_killed_in_mid_task(market: ScriptedMarket, launch: Launch, directory: Path) -> None:
    """After kill -9 between commitment and contribution the agent goes on with the very same statements."""
    job = market.add_command_job(HELLO, envs={"WORD": "hello"})
    work = market.lease(job)
    blocked = ServiceError("not now")
    market.refuse = lambda method, path: blocked if path.endswith("/contribution") else None
    first = launch()
    market.wait_for(lambda: market.count("commitment") == 1)
    first.kill()
    first.wait()
    market.refuse = lambda method, path: None
    launch()
    market.wait_for(lambda: market.count("contribution") == 1)
    sent = market.envelopes[("commitment", work)]
    assert len(sent) >= 2
    assert len(set(sent)) == 1
    made = market.predicate("contribution")
    assert market.predicate("commitment").commitment == commitments.commitment_hash(made.node, made.salt, made.root)


COIN = "head -c 8 /dev/urandom > out.txt"  # a buyer's program that never says the same twice


def wipe(path: Path) -> None:
    for file in path.glob("*"):
        file.unlink()


@pytest.mark.parametrize(
    ("what", "role"),
    [("commitment", ""), ("contribution", ""), ("answer-commitment", "auditor"), ("answer", "auditor")],
)
def test_killed_around_every_word_it_says_it_once(market: ScriptedMarket, launch: Launch, what: str, role: str) -> None:
    """Killed between keeping and sending, then between sending and the answer: the same bytes, though nothing repeats.

    The buyer's program flips a coin: whatever is signed anew would be another story.
    """
    job = market.add_command_job(COIN)
    lease = market.question(job, role, SALT) if role else market.lease(job)
    blocked = ServiceError("not now")
    reached: list[str] = []

    def before(method: str, path: str) -> ServiceError | None:
        if not path.endswith(f"/{what}"):
            return None
        reached.append(path)
        with market.changed:
            market.changed.notify_all()
        return blocked

    market.refuse = before
    agent = launch()
    if what == "answer":
        market.wait_for(lambda: market.count("answer-commitment") == 1)
        lease = market.question(job, role, SALT, kind="reveal")
    market.wait_for(lambda: bool(reached))
    agent.kill()
    agent.wait()
    market.refuse = lambda method, path: None
    market.loses = {what}  # taken, and its answer is lost
    agent = launch()
    market.wait_for(lambda: market.count(what) >= 1)
    agent.kill()
    agent.wait()
    market.loses = set()
    if not any(item["lease_id"] == lease for item in market.leases):
        market.leases.append(market.lost.pop())  # the market, killed too, hands it out again
    num_sent = len(market.envelopes[(what, lease)])
    launch()
    market.wait_for(lambda: len(market.envelopes[(what, lease)]) > num_sent)
    assert len(set(market.envelopes[(what, lease)])) == 1


def test_a_result_that_is_lost_is_not_signed_anew(market: ScriptedMarket, launch: Launch, directory: Path) -> None:
    """Outputs gone after the commitment: the same result is handed in as it was signed, another one by nobody."""
    for run, same in ((HELLO, True), (COIN, False)):
        job = market.add_command_job(run, envs={"WORD": "hello"})
        lease = market.lease(job)
        blocked = ServiceError("not now")
        market.refuse = lambda method, path, blocked=blocked: blocked if method in ("PUT", "HEAD") else None
        before = market.count("commitment")
        agent = launch()
        market.wait_for(lambda before=before: market.count("commitment") == before + 1)
        agent.kill()
        agent.wait()
        wipe(directory / "outbox")
        market.refuse = lambda method, path: None
        agent = launch()
        market.wait_for(lambda same=same: market.count("contribution") == 1 and (same or len(market.failures) == 1))
        agent.kill()
        agent.wait()
        assert len(set(market.envelopes[("commitment", lease)])) == 1
    assert market.failures[0]["reason"] == "result-differs"


def test_an_older_directory_signs_no_second_story(market: ScriptedMarket, launch: Launch, directory: Path) -> None:
    """Its journal restored from before a commitment, a node says so and hands the work back."""
    job = market.add_command_job(COIN)
    lease = market.lease(job)
    blocked = ServiceError("not now")
    market.refuse = lambda method, path: blocked if path.endswith("/contribution") else None
    agent = launch()
    market.wait_for(lambda: market.count("commitment") == 1)
    agent.kill()
    agent.wait()
    for kind in ("claim", "result"):
        wipe(directory / "journal" / kind)
    market.refuse = lambda method, path: None
    launch()
    market.wait_for(lambda: len(market.failures) == 1)
    assert market.failures[0]["reason"] == "directory-older"
    assert len(market.envelopes[("commitment", lease)]) == 1
    assert market.count("contribution") == 0


def test_a_node_has_one_agent(market: ScriptedMarket, launch: Launch, directory: Path) -> None:
    """A second one from the same directory is refused, and says why."""
    launch()
    market.wait_for(lambda: market.num_polls > 0)
    argv = [sys.executable, "-m", "stannary.agent", "run", "--dir", str(directory)]
    second = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=120)
    assert second.returncode == ConflictError("").exit_code
    assert "an agent of n1 runs already" in second.stderr


def test_reveals_do_not_wait_for_a_long_task(market: ScriptedMarket, launch: Launch) -> None:
    """An answer is opened while the worker computes; one that the journal lost is reported, not forgotten."""
    job = market.add_command_job(HELLO, envs={"WORD": "hello"})
    market.question(job, "auditor", SALT)
    launch()
    market.wait_for(lambda: market.count("answer-commitment") == 1)
    long = market.lease(market.add_command_job(FOREVER))
    market.wait_for(lambda: any(long in beat["leases"] for beat in market.beats))
    market.question(job, "auditor", "", kind="reveal")
    market.wait_for(lambda: market.count("answer") == 1)
    assert market.count("contribution") == 0
    market.question(job, "auditor", "", number=7, kind="reveal")
    with market.changed:
        market.leases = [lease for lease in market.leases if lease["lease_id"] != long]
        market.drop = [long]
    market.wait_for(lambda: len(market.failures) == 1)
    assert market.failures[0]["reason"] == "answer-lost"


def test_readings_are_a_chain(market: ScriptedMarket, launch: Launch) -> None:
    """Readings are cumulative, numbered without a gap, each naming the hash of the one before, across a kill.

    They cover what the contribution claims, and more: the compute lost in the kill is in them, and claimed by nobody.
    """
    job = market.add_command_job("sleep 1; printf x > out.txt")
    market.lease(job)
    first = launch()
    blocked = ServiceError("not now")
    market.refuse = lambda method, path: blocked if path.endswith("/commitment") else None
    market.wait_for(lambda: market.count("reading") >= 2)
    lost = market.predicate("reading").spent.compute_ms
    assert lost > 0
    first.kill()
    first.wait()
    market.refuse = lambda method, path: None
    with market.changed:
        market.leases = []
    market.lease(job, task=job + "/run/l0/a1")
    launch()
    market.wait_for(lambda: market.count("contribution") == 1)
    readings = [predicate for what, _, predicate in market.statements if what == "reading"]
    unique = {reading.seq: reading for reading in readings}
    assert all(unique[reading.seq] == reading for reading in readings)
    spent = check_chain([unique[seq] for seq in sorted(unique)], elapsed_ms=60_000)
    assert spent.compute_ms >= market.predicate("contribution").spent.compute_ms + lost


def test_a_refused_reading_is_not_repeated(market: ScriptedMarket, launch: Launch, directory: Path) -> None:
    """A market that refuses a reading hears no more of that chain; the work goes on and is handed in."""
    asked: list[str] = []

    def refuse(method: str, path: str) -> Refuted | None:
        asked.append(path)
        return Refuted("a meter reading does not hold", why="number 0, expected 7") if "/reading" in path else None

    market.refuse = refuse
    first, second = (market.add_command_job(f"printf {word} > out.txt") for word in "ab")
    market.lease(first)
    market.lease(second)
    launch()
    market.wait_for(lambda: market.count("contribution") == 2)
    assert sum("/reading" in path for path in asked) == 2  # one for each job
    assert (directory / "agent.log").read_text().count("the market refuses them") == 2


def test_stale_work_is_dropped(market: ScriptedMarket, launch: Launch) -> None:
    """A lease that went to another node is dropped without a word, and the next one is served."""
    job = market.add_command_job(HELLO, envs={"WORD": "a"})
    stale = market.lease(job)
    refused = ConflictError("stale", detail="stale-epoch")
    market.refuse = lambda method, path: refused if stale in path and path.endswith("/commitment") else None
    launch()
    market.wait_for(lambda: any(stale not in beat["leases"] and len(market.beats) > 3 for beat in market.beats[-1:]))
    with market.changed:
        market.leases = [lease for lease in market.leases if lease["lease_id"] != stale]
    market.lease(job, task=job + "/run/l1/a0")
    market.wait_for(lambda: market.count("contribution") == 1)
    assert market.failures == []


def test_taken_back_while_running(market: ScriptedMarket, launch: Launch) -> None:
    """A lease the heartbeat takes back ends the work at once, hands nothing in, and the agent goes on."""
    job = market.add_command_job(FOREVER)
    lost = market.lease(job)
    launch()
    market.wait_for(lambda: any(lost in beat["leases"] for beat in market.beats))
    with market.changed:
        market.leases = []
        market.drop = [lost]
    market.wait_for(lambda: market.beats[-1]["leases"] == [])
    other = market.add_command_job(HELLO, envs={"WORD": "b"})
    market.lease(other)
    market.wait_for(lambda: market.count("contribution") == 1)
    assert market.failures == []
    assert market.predicate("contribution").job == other


def test_what_a_program_left_when_its_buyer_stopped_it_goes_to_the_market(
    market: ScriptedMarket, launch: Launch
) -> None:
    """Asked to end, it writes what it has: file and line arrive though the job is over; the next one is served."""
    last = "trap 'echo half > out.txt; echo bye; exit 0' TERM; echo up; while :; do sleep 0.1; done"
    job = market.add_command_job(last, trust=replace(TRUST, assurance=Assurance.FULL), rules=3)
    stopped = market.lease(job)
    launch()
    market.wait_for(lambda: "up" in market.lines)
    with market.changed:
        market.leases, market.drop, market.stopped, market.ended = [], [stopped], [stopped], [job]
    market.wait_for(lambda: stopped in market.partial)
    (left,) = market.partial[stopped]
    assert (left["name"], market.blobs[left["digest"]]) == ("out.txt", b"half\n")
    assert "bye" in market.lines
    other = market.add_command_job(HELLO, envs={"WORD": "b"})
    market.lease(other)
    market.wait_for(lambda: market.count("contribution") == 1)
    assert (market.failures, market.predicate("contribution").job) == ([], other)


def test_what_was_done_when_its_buyer_stopped_it_goes_to_the_market(market: ScriptedMarket, launch: Launch) -> None:
    """It is handed in before the next beat could say that it is not wanted: the refusal has the node ask why."""
    trust = replace(TRUST, assurance=Assurance.FULL)
    job = market.add_command_job("echo whole > out.txt", trust=trust, rules=3)
    stopped = market.lease(job)

    def refuse(_method: str, path: str) -> ConflictError | None:
        if not (stopped in path and path.endswith("/commitment")):
            return None
        market.drop, market.stopped, market.ended = [stopped], [stopped], [job]  # not one beat earlier
        return ConflictError("revoked", detail="stale-epoch")

    market.refuse = refuse
    launch()
    market.wait_for(lambda: stopped in market.partial)
    (left,) = market.partial[stopped]
    assert (left["name"], market.blobs[left["digest"]]) == ("out.txt", b"whole\n")
    assert market.failures == []


def test_failure_is_told(market: ScriptedMarket, launch: Launch) -> None:
    """A task that cannot be done is reported with its reason and the end of its log; the next one is served."""
    roomy = Resources(cpus=1, memory_bytes=256 * 1024**2, disk_bytes=8 * 1024**2, wall_s=30)
    grow = "python3 -c 'x = bytearray(1 << 30); x[::4096] = b\"1\" * (1 << 18)'; exit 1"
    failing = [
        ("echo broken >&2; exit 3", roomy, {"command-failed"}),
        (FOREVER, replace(roomy, wall_s=2), {"wall-limit"}),
        (grow, roomy, {"out-of-memory", "command-failed"}),
    ]
    launch()
    for number, (run, resources, reasons) in enumerate(failing, start=1):
        market.lease(market.add_command_job(run, resources=resources))
        market.wait_for(lambda number=number: len(market.failures) == number)  # type: ignore[misc]  # a default argument
        assert market.failures[-1]["reason"] in reasons
    assert market.lines.count("broken") == 1 and market.failures[0]["log_tail"] == "", "no line comes twice"
    market.lease(market.add_command_job(HELLO, envs={"WORD": "c"}, resources=roomy))
    market.wait_for(lambda: market.count("contribution") == 1)


def test_a_failure_that_nobody_takes_ends_no_agent(market: ScriptedMarket, launch: Launch) -> None:
    """A market that refuses the word of a failure is told the next result all the same, by the same process."""
    refused: list[str] = []

    def refuse(method: str, path: str) -> FormatError | None:
        if not path.endswith("/fail"):
            return None
        refused.append(path)
        return FormatError("the failure has a bad name")

    market.refuse = refuse
    market.lease(market.add_command_job("exit 3"))
    agent = launch()
    market.wait_for(lambda: len(refused) == 1)
    market.lease(market.add_command_job("echo done > out.txt"))
    market.wait_for(lambda: market.count("contribution") == 1)
    assert agent.poll() is None


def test_drain(market: ScriptedMarket, launch: Launch) -> None:
    """SIGTERM finishes the lease in hand, says `draining`, and ends; a second one hands it back at once."""
    job = market.add_command_job("sleep 3; printf x > out.txt")
    work = market.lease(job)
    agent = launch()
    market.wait_for(lambda: any(work in lease for what, lease, _ in market.statements if what == "reading"))
    agent.send_signal(signal.SIGTERM)
    assert agent.wait(60) == 0
    assert market.count("contribution") == 1
    assert market.beats[-1]["state"] == "left"
    assert "draining" in [beat["state"] for beat in market.beats]

    held = market.lease(market.add_command_job(FOREVER))
    agent = launch()
    market.wait_for(lambda: any(held in beat["leases"] for beat in market.beats))
    agent.send_signal(signal.SIGTERM)
    market.wait_for(lambda: market.beats[-1]["state"] == "draining")
    agent.send_signal(signal.SIGTERM)
    assert agent.wait(60) == 0
    assert market.released == [held]


def test_idle_drain_is_prompt(market: ScriptedMarket, launch: Launch) -> None:
    """An idle agent does not wait for the end of its long poll."""
    market.holds_polls = True
    agent = launch()
    market.wait_for(lambda: market.num_polls > 0)
    agent.send_signal(signal.SIGTERM)
    assert agent.wait(120) == 0
    assert market.num_polls == 1


def test_market_down(market: ScriptedMarket, launch: Launch, directory: Path) -> None:
    """While the market is silent the agent lives, says so once, and works when it is back."""
    down = ServiceError("down")
    market.refuse = lambda method, path: down
    agent = launch()
    deadline = time.monotonic() + 30
    log = directory / "agent.log"
    while "gives no answer" not in log.read_text() and time.monotonic() < deadline:
        market.changed.acquire()
        market.changed.wait(0.2)
        market.changed.release()
    assert agent.poll() is None
    assert log.read_text().count("gives no answer") == 1
    market.refuse = lambda method, path: None
    market.lease(market.add_command_job(HELLO, envs={"WORD": "d"}))
    market.wait_for(lambda: market.count("contribution") == 1)
    assert "answers again" in log.read_text()


def test_session_is_renewed(market: ScriptedMarket, launch: Launch) -> None:
    """When the market forgets a session the agent proves itself again and nothing is lost."""
    launch()
    market.wait_for(lambda: len(market.beats) > 0)
    market.sessions.clear()
    market.lease(market.add_command_job(HELLO, envs={"WORD": "e"}))
    market.wait_for(lambda: market.count("contribution") == 1)


def test_an_unexplained_refusal_does_not_spin(market: ScriptedMarket, launch: Launch) -> None:
    """A node whose proof is refused for a reason that may pass backs off instead of asking in a loop."""
    asked: list[str] = []

    def refuse(method: str, path: str) -> AuthError | None:
        asked.append(path)
        return AuthError("not now")

    market.refuse = refuse
    agent = launch()
    market.wait_for(lambda: len(asked) >= 2)
    before = len(asked)
    with market.changed:
        market.changed.wait(1.0)
    assert agent.poll() is None
    assert len(asked) - before < 10


def test_an_unknown_node_stops(market: ScriptedMarket, launch: Launch, directory: Path) -> None:
    """A node its market never heard of ends with exit code 6 and says what to do."""
    gone = NotFound("this market knows no such node", hint="stannary node join", detail=wire_errors.NODE_UNKNOWN)
    market.refuse = lambda method, path: gone if "/sessions" in path else None
    assert launch().wait(60) == 6
    log = (directory / "agent.log").read_text()
    assert "E-AUTH  this market knows no such node" in log
    assert "next  stannary node join" in log


def test_a_revoked_node_stops_in_mid_task(market: ScriptedMarket, launch: Launch, directory: Path) -> None:
    """A node revoked while it works lets the work go, hands nothing in, and ends with exit code 6."""
    market.lease(market.add_command_job(FOREVER))
    agent = launch()
    market.wait_for(lambda: any(beat["leases"] for beat in market.beats))
    revoked = AuthError("this node was revoked", why="refuted in j-0", detail=wire_errors.NODE_REVOKED)
    market.refuse = lambda method, path: revoked if path.endswith("/sessions") else None
    market.sessions.clear()
    assert agent.wait(60) == 6
    assert "refuted in j-0" in (directory / "agent.log").read_text()
    assert (market.count("contribution"), market.failures, market.released) == (0, [], [])


def test_job_sees_nothing_of_the_agent(market: ScriptedMarket, launch: Launch) -> None:
    """A job finds neither the agent's environment nor its directory, key, or another path into it."""
    look = "(env; cat /proc/*/environ; ls / /job /job/* ) > out.txt 2>&1; true"
    market.lease(market.add_command_job(look, envs={"WORD": "mine", "MKL_CBWR": "AVX2"}))
    launch()
    market.wait_for(lambda: market.count("contribution") == 1)
    seen = market.blobs[market.predicate("contribution").outputs[0].digest]
    assert b"WORD=mine" in seen
    assert b"hidden" not in seen
    assert b"SECRET_TOKEN" not in seen
    assert b"node.json" not in seen


GHOSTS = {
    "background": "({loop}) & ",
    "session": "setsid sh -c '{loop}' & ",
    "double fork": "sh -c '(setsid sh -c \"{loop}\" &) &' ; ",
    "deaf to SIGTERM": '(trap "" TERM INT HUP; {loop}) & ',
}


def processes_with(word: str) -> list[int]:
    """Return the processes of this machine whose environment or command line holds a word."""
    found = []
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if (
                entry.name.isdigit()
                and word.encode() in (entry / "cmdline").read_bytes() + (entry / "environ").read_bytes()
            ):
                found.append(int(entry.name))
    return found


@pytest.mark.parametrize("way", sorted(GHOSTS))
def test_nothing_of_a_command_outlives_its_task(market: ScriptedMarket, launch: Launch, way: str) -> None:
    """What a command left running is gone when its result is handed in, and says no word in the next job's log."""
    mark = f"GHOST{os.getpid()}x{sorted(GHOSTS).index(way)}"
    loop = "while :; do echo ghost; sleep 0.05; done"
    run = GHOSTS[way].format(loop=loop) + "printf x > out.txt"
    market.lease(market.add_command_job(run, envs={"MARK": mark}))
    launch()
    market.wait_for(lambda: market.count("contribution") == 1)
    assert processes_with(mark) == []
    with market.changed:
        market.lines.clear()
    market.lease(market.add_command_job("echo mine; sleep 1; echo mine; printf y > out.txt"))
    market.wait_for(lambda: market.count("contribution") == 2)
    assert market.lines == ["mine", "mine"]


def test_nothing_of_a_job_outlives_it(market: ScriptedMarket, launch: Launch, directory: Path) -> None:
    """When the market says that a job is over its files are gone; others, and inputs kept by digest, stay."""
    shared = {"shared.txt": b"the same in both"}
    first, second = (market.add_command_job(HELLO, shared, envs={"WORD": word}) for word in "ab")
    for job in (first, second):
        market.lease(job)
    launch()
    market.wait_for(lambda: market.count("contribution") == 2)
    market.wait_for(lambda: sorted(market.beats[-1]["jobs"]) == sorted([first, second]))
    held = {path.stat().st_ino for path in directory.glob("**/blobs/*") if path.read_bytes() == b"the same in both"}
    assert len(held) == 1  # one file, however many jobs use it
    with market.changed:
        market.ended = [first]
    market.wait_for(lambda: market.beats[-1]["jobs"] == [second])
    market.lease(market.add_command_job(HELLO, envs={"WORD": "c"}))  # its turn comes after the removal
    market.wait_for(lambda: market.count("contribution") == 3)
    assert not (directory / "jobs" / first).exists()
    assert (directory / "jobs" / second / "workdir/shared.txt").exists()
    market.wait_for(lambda: not list((directory / "outbox").iterdir()))


def test_what_a_killed_agent_left_is_asked_about(market: ScriptedMarket, launch: Launch, directory: Path) -> None:
    """After kill -9 the directories of jobs are named in the next beats, and go if the market says so."""
    job = market.add_command_job(f"chmod -R a-w . ; {FOREVER}")
    work = market.lease(job)
    first = launch()
    market.wait_for(lambda: any(work in beat["leases"] for beat in market.beats))
    market.wait_for((directory / "jobs" / job / "workdir").exists)
    first.kill()
    first.wait()
    with market.changed:
        market.leases, market.ended = [], [job]
    launch()
    market.wait_for(lambda: job in market.beats[-1]["jobs"])
    market.wait_for(lambda: job not in market.beats[-1]["jobs"])
    market.lease(market.add_command_job(HELLO, envs={"WORD": "d"}))
    market.wait_for(lambda: market.count("contribution") == 1)
    assert not (directory / "jobs" / job).exists()


def test_a_node_sells_no_more_cores_than_it_may_use(market: ScriptedMarket, tmp_path: Path) -> None:
    """Offering more than affinity and control group allow is refused before a token is used; fewer is taken."""
    refused = run_join(market, tmp_path / "n", "--cpus", "5000")
    assert refused.returncode != 0
    assert "fewer cores" in refused.stderr
    assert market.node_keys == {}
    assert run_join(market, tmp_path / "n", "--cpus", "1").returncode == 0
