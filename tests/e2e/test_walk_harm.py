"""Walk 5: a buyer and four nodes mean harm; market, other buyers and honest nodes go on, and no liar is paid."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from tests.e2e.realm import CAN_RUN, COMMAND_JOB, NEEDS_ROOT, PORT, STOP_S, Host, Realm, wait_for

pytestmark = [pytest.mark.slow, pytest.mark.needs_root, pytest.mark.timeout(900)]

SCRIPT = Path(__file__).with_name("harmful.py")
# The lease of a node that says nothing lapses after six times what its task should take: 30 s here.
TIMING = ("start_link_s=1",)
HARMFUL = {"mica": "wrong", "pyrite": "nan", "slag": "oversized"}
# As many as a unit of mica's may need: who contradicts it may not do it, and two without a part may be asked about it.
HONEST = ("basalt", "granite", "marl", "gneiss")
# The disk is less than what slag hands in: that is refused at the door, and so mica alone stands alone.
JOB = COMMAND_JOB.replace("python work.py", "mkdir out && echo 42 > out/answer.txt").replace("disk: 256", "disk: 32")
PAID = {f"operator:{operator}" for operator in HONEST}
LANES_JOB = JOB.replace("kind: command\n", "kind: command\nnum_nodes: 3\n")
SHORT_JOB = JOB.replace("wall_s: 300", "wall_s: 4")
# The client without what keeps a broker.
REVEALS_NOTHING = """
import sys
from stannary.sdk import brokers
brokers.ensure = lambda *_: None
brokers.open_jobs = lambda _: []
brokers.Keeper.tend = lambda _: ""
from stannary.cli.main import main
main(sys.argv[1:])
"""
SNOOP = r"""
import os, pathlib, sys
for place in sys.argv[1:]:
    for seen in (place, "/proc/1/root" + place, "/proc/self/cwd/../../../../.." + place):
        for folder, _, names in os.walk(seen):
            for name in names:
                print("FOUND", folder, name, pathlib.Path(folder, name).read_bytes(), flush=True)
for entry in pathlib.Path("/proc").glob("[0-9]*"):
    for name in ("environ", "cmdline", "mountinfo"):
        try:
            print("SEEN", (entry / name).read_bytes(), flush=True)
        except OSError:
            pass
print("\x1b]0;pwned\x07\x1b[2J\u202edone", flush=True)
out = pathlib.Path("out")
out.mkdir()
(out / "answer.txt").write_text("42\n")
(out / "\u202egpj\x1b[2J.txt").write_text("x")
(out / ("n" * 200)).write_text("long")
"""
FLOOD = r"""
import resource, socket, ssl, sys, time
resource.setrlimit(resource.RLIMIT_NOFILE, (4096, 4096))
host, port = sys.argv[1], int(sys.argv[2])
context = ssl._create_unverified_context()
held = []
print("flooding", flush=True)
while True:
    try:
        link = socket.create_connection((host, port), 5)
        if len(held) % 2:
            link.settimeout(5)
            link = context.wrap_socket(link)
            link.sendall(b"POST /v1/jobs HTTP/1.1\r\nHost: x\r\nContent-Length: 999999\r\nX-A: " + b"a" * 2000)
        held.append(link)
        if len(held) > 600:
            held.pop(0).close()
    except OSError:
        time.sleep(0.05)  # the attacker's own pace, which no test waits for: he tries again until he is ended
"""


class Harm:
    """A market with honest nodes, and who comes to it."""

    def __init__(self, realm: Realm) -> None:
        self.market = realm.market(*(word for item in TIMING for word in ("--timing", item)))
        self.honest = realm.host("honest")
        self.villain = realm.host("villain")
        self.ada = self.market.buyer("ada")
        self.mallory = self.market.buyer("mallory")
        self.engine_class: tuple[str, ...] = ()  # measured once; all are on this machine
        for operator in HONEST:
            self.join(self.honest, operator, "0.20")
            self.honest.start("node", "run", "--name", operator, log=f"{operator}.log")
            kept = json.loads((self.honest.data / "node" / operator / "node.json").read_text())
            self.engine_class = ("--", "--engine-class", kept["engine_class"])

    def join(self, host: Host, operator: str, ask: str) -> None:
        words = ("node", "join", "-", "--name", operator, "--ask", ask, "--cpus", "1", "--accept-terms")
        joined = host.stannary(*words, *self.engine_class, stdin=self.market.join_token(operator) + "\n")
        assert joined.returncode == 0, joined.stderr

    def states(self) -> dict[str, str]:
        return {item["operator"]: item["state"] for item in self.ada.json("offers")["offers"]}


@pytest.fixture(scope="module")
def harm(tmp_path_factory):
    if not CAN_RUN:
        pytest.skip(NEEDS_ROOT)
    with Realm(tmp_path_factory.mktemp("harm")) as realm:
        made = Harm(realm)
        wait_for(lambda: set(made.states().values()) == {"idle"}, "the honest nodes")
        yield made


def program(host: Host, *words: str) -> list[str]:
    """Return the command line of a Python program at a host."""
    return ["ip", "netns", "exec", host.namespace, sys.executable, "-P", *words]


def unrevealing(harm: Harm, *words: str) -> str:
    """Run Mallory's own client and return what it prints."""
    done = subprocess.run(
        program(harm.mallory, "-c", REVEALS_NOTHING, *words),
        cwd=harm.mallory.cwd,
        env=harm.mallory.environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@contextmanager
def harmful(harm: Harm, operators: dict[str, str], ask: str) -> Iterator[None]:
    """Have nodes that mean harm for the time of a `with`; who asks least gets the work."""
    running = []
    try:
        for operator, how in operators.items():
            harm.join(harm.villain, operator, ask)
            words = program(harm.villain, str(SCRIPT), str(harm.villain.data / "node" / operator), how)
            with (harm.villain.cwd / f"{operator}.log").open("ab") as log:
                running.append(subprocess.Popen(words, env=harm.villain.environment, stdout=log, stderr=log))
        wait_for(lambda: {"idle"} == {harm.states().get(operator) for operator in operators}, "the harmful nodes")
        yield
    finally:
        for process in running:
            process.terminate()  # in order: one that vanished would be asked to audit until it counts as lost
        for process in running:
            try:
                process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


@contextmanager
def flooded(harm: Harm) -> Iterator[subprocess.Popen[bytes]]:
    """Have Mallory flood the market with connections and half requests for the time of a `with`."""
    words = program(harm.mallory, "-c", FLOOD, harm.market.address, str(PORT))
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as flood:
        try:
            assert flood.stdout is not None and flood.stdout.readline() == b"flooding\n"
            yield flood
        finally:
            flood.kill()


def ran(harm: Harm, text: str, name: str) -> tuple[str, str, dict[str, Any]]:
    """Run a job of Ada's; return its id, what was said, and what its receipt proves."""
    before = set(harm.ada.cwd.glob("*.receipt.json"))
    done = harm.ada.stannary("run", harm.ada.job(text, name=name), timeout_s=600)
    logs = "".join(path.read_text() for path in harm.villain.cwd.glob("*.log"))
    assert done.returncode == 0, done.stderr + logs
    (receipt,) = set(harm.ada.cwd.glob("*.receipt.json")) - before
    return receipt.name.split(".")[0], done.stderr, harm.ada.json("verify", receipt.name)


def paid_for_work(told: dict[str, Any]) -> set[str]:
    """Return the operators who are paid for work; audits are another matter."""
    lines = told["claims"]["receipt"]["settlement"]
    return {line["account"] for line in lines if line["reason"] == "work" and line["usd_micros"] > 0}


def test_a_job_sees_nothing_of_a_node(harm):
    """What a job finds on a node's disk and in its processes holds no key, token or path of it; screens stay whole."""
    mallory, node = harm.mallory, harm.honest.data / "node"
    secrets = [path.read_bytes() for path in node.rglob("*key*") if path.is_file()]
    assert secrets
    name = mallory.job(COMMAND_JOB.replace("python work.py", f"python work.py {harm.honest.data} {harm.market.data}"))
    (mallory.cwd / "work.py").write_text(SNOOP)
    text = (mallory.cwd / name).read_text().replace("[out/answer.txt]", "[out]")
    (mallory.cwd / name).write_text(text)
    done = mallory.stannary("run", name)
    assert done.returncode == 0, done.stderr
    (receipt,) = mallory.cwd.glob("*.receipt.json")
    job = receipt.name.split(".")[0]
    found = mallory.stannary("logs", job)
    assert "SEEN" in found.stdout, "it did look"
    for secret in (*(repr(item)[2:-1] for item in secrets), "FOUND", "STANNARY_DATA_DIR", harm.honest.cwd.as_posix()):
        assert secret not in found.stdout
    screens = [
        done,
        found,
        mallory.stannary("ls"),
        mallory.stannary("get", job, "-o", "got"),
        mallory.stannary("cost", job),
    ]
    logs = [path.read_text() for path in harm.honest.cwd.glob("*.log")]
    for shown in (*(item.stdout + item.stderr for item in screens), *logs):
        assert not {"\x1b", "\x07", "\u202e"} & set(shown), shown
    assert (mallory.cwd / "got/out/answer.txt").read_text() == "42\n"


def test_who_reveals_nothing_holds_up_nobody(harm):
    """A buyer's jobs of which no audit can be drawn wait for him alone: others' jobs are done meanwhile."""
    name = harm.mallory.job(JOB)
    assert harm.mallory.stannary("broker", "stop").returncode == 0
    sent = [unrevealing(harm, "run", name, "--detach").strip() for _ in range(3)]
    ran(harm, JOB, "job.yaml")
    listed = {item["id"]: item["status"] for item in json.loads(unrevealing(harm, "ls", "--json"))["jobs"]}
    assert not {listed[job] for job in sent} & {"succeeded", "failed", "cancelled"}, listed
    assert len(harm.ada.json("ls")["jobs"]) == 1, "whose jobs are whose"


@pytest.fixture(scope="module")
def lanes(harm):
    """Ada's job, each lane of which goes first to a node that means harm, in a flood of Mallory's."""
    with flooded(harm) as flood, harmful(harm, HARMFUL, "0.01"):
        found = ran(harm, LANES_JOB, "lanes.yaml")
        assert flood.poll() is None, "it floods to the end"
        return found


def test_the_result_is_the_honest_one(harm, lanes):
    """Each lane of the job holds what honest work gives."""
    job, _, told = lanes
    assert told["verdict"] == "verified"
    harm.ada.json("get", job, "-o", "lanes")
    answers = (harm.ada.cwd / "lanes").rglob("answer.txt")
    assert [path.read_text() for path in answers] == ["42\n"] * 3


def test_liars_are_struck_and_nobody_honest(lanes):
    """Who handed in something else in the buyer's own code is struck, and told with its operator; nobody else is."""
    _, said, told = lanes
    claims = told["claims"]
    assert claims["convicted"] == {}, "no bond rests on a buyer's program"
    assert {claims["operators"][node] for node in claims["struck"]} == {"mica"}
    strikes = [line for line in said.splitlines() if "! strike " in line]  # one for each unit it lied about
    assert strikes and all("(mica) for the command of lane" in line for line in strikes)


def test_harm_is_not_paid(lanes):
    """Nobody is paid for lies, for metrics that are no numbers, or for more bytes than were asked for."""
    assert paid_for_work(lanes[2]) and paid_for_work(lanes[2]) <= PAID


def test_silence_is_unpaid_and_no_crime(harm, lanes):
    """Work that a node takes and says nothing of goes to another; silence convicts nobody."""
    with harmful(harm, {"shade": "silent"}, "0.001"):
        _, said, told = ran(harm, SHORT_JOB, "short.yaml")
    assert "(shade) did not finish" in said
    assert told["claims"]["convicted"] == {}
    assert paid_for_work(told) and paid_for_work(told) <= PAID


def test_the_market_goes_on(harm, lanes):
    """After all that the market answers, blames itself for nothing, and honest nodes are offered."""
    states = harm.states()
    assert {states[operator] for operator in HONEST} <= {"idle", "busy"}
    where = ("--dir", str(harm.market.directory))
    assert harm.market.json("market", "status", *where)["answers"] is True
    assert harm.market.json("market", "faults", *where)["faults"] == []
