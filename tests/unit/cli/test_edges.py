"""The edges of the process: one JSON document whatever happens, and no verdict lost to a pipe, a disk or a folder."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from tests.unit.verify.world import World

from stannary.cli import ending, follow, session
from stannary.cli import main as edge
from stannary.cli.output import Output
from stannary.errors import JobNotFinished, MarketUnreachable, Refuted
from stannary.sdk import trustfile
from stannary.verify import trust
from stannary.wire.buyer import JobView, OutputRef, Outputs, Progress

JOB = "j-0123456789ab"
PYTHON = [sys.executable, "-m", "stannary.cli.main"]


@pytest.fixture(scope="module")
def world():
    played = World(rounds=1, lanes=2).play()
    file = played.receipt()
    played.receipt = lambda: file  # logged once, the same bytes whenever it is asked for
    return played


@pytest.fixture
def place(home, world, monkeypatch):
    (home / "job.receipt.json").write_bytes(world.receipt())
    (home / "trust.toml").write_text(trust.serialise(world.trust()))
    trustfile.save(world.trust())
    monkeypatch.chdir(home)
    return home


class Market:
    """A market that has one finished job, or fails as the test says."""

    def __init__(self, world: World, error: BaseException | None = None) -> None:
        self.world, self.error = world, error

    def __enter__(self) -> Market:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def jobs(self, limit: int) -> list[JobView]:
        raise self.error or AssertionError(limit)

    def job(self, job: str) -> JobView:
        return view()

    def outputs(self, job: str) -> Outputs:
        return Outputs(outputs=[OutputRef(name="a/b.txt", digest="sha256:" + "0" * 64, size_bytes=1)])

    def receipt(self, job: str) -> bytes:
        if self.error is not None:
            raise self.error
        return self.world.receipt()


def view(status: str = "succeeded") -> JobView:
    return JobView(
        id=JOB, name="hello", kind="train", status=status, verdict="verified", settlement="released",
        reason="exit-code", message="3", progress=Progress(round=1, rounds=1), escrow_usd_micros=0,
        paid_usd_micros=0, refunded_usd_micros=0, nodes=[], submitted_at="2026-11-22T00:00:00Z",
        finished_at="2026-11-22T00:00:00Z",
    )  # fmt: skip


# --- one document ---


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["ls", "--json", "--no-such-flag"], "E-USAGE"),
        (["--json"], "E-USAGE"),
        (["nonsense", "--json"], "E-USAGE"),
        (["verify", "--json"], "E-USAGE"),
        (["verify", "missing", "--json"], "E-USAGE"),
        (["ls", "-n", "many", "--json"], "E-USAGE"),
        (["get", "../..", "--json"], "E-USAGE"),
        (["--profile", "nobody", "ls", "--json"], "E-NOT-FOUND"),
    ],
)
def test_a_mistake_is_one_document(place, capfd, arguments, code):
    """Also before a command has read its options, --json gives the error as JSON, alone on stdout."""
    assert edge.run(arguments) != 0
    assert json.loads(capfd.readouterr().out)["error"]["code"] == code


@pytest.mark.parametrize(
    ("error", "code", "exit_code"),
    [
        (MarketUnreachable("no answer"), "E-MARKET-DOWN", 1),
        (Refuted("no"), "E-REFUTED", 3),
        (KeyboardInterrupt(), "E-INTERRUPTED", 130),
        (RuntimeError("a bug"), "E-GENERAL", 1),
        (OSError(28, "No space left on device", "/x"), "E-ENVIRONMENT", 1),
        (RecursionError(), "E-GENERAL", 1),
    ],
)
def test_a_failure_is_one_document(place, world, capfd, monkeypatch, error, code, exit_code):
    """A silent market, a refusal, Ctrl-C, a bug, a full disk: one document each, and the exit code."""
    monkeypatch.setattr(session, "connect", lambda: Market(world, error))
    assert edge.run(["ls", "--json"]) == exit_code
    printed = capfd.readouterr()
    assert json.loads(printed.out)["error"]["code"] == code
    assert ("a bug of ours" in printed.err) == (code == "E-GENERAL")


def test_a_result_that_cannot_be_spelled_is_one_document(capfd):
    """A bug in what is printed leaves the error on stdout, not nothing."""
    with pytest.raises(TypeError):
        Output(as_json=True).result({"x": object()})
    out = Output(as_json=True)
    with pytest.raises(TypeError):
        out.result({"x": object()})
    out.error(Refuted("no"))
    assert json.loads(capfd.readouterr().out)["error"]["code"] == "E-REFUTED"


def test_a_failed_job_is_one_document(place, world, capfd, monkeypatch):
    """The receipt's report is the document; the failure behind it is the exit code and three lines of talk."""
    monkeypatch.setattr(session, "connect", lambda: Market(world))
    monkeypatch.setattr("stannary.cli.commands.wait.follow", lambda *_: view("failed"))
    monkeypatch.setattr(session, "tender", lambda _: lambda: "")
    assert edge.run(["wait", JOB, "--json"]) == 100
    printed = capfd.readouterr()
    assert json.loads(printed.out)["status"] == "failed"
    assert "why   exit-code: 3" in printed.err, "the reason stands there once"


def test_detaching_is_one_document(capfd):
    """Ctrl-C while a job is followed says that it goes on, as JSON too."""
    assert follow.detached(JOB, Output(as_json=True)) == 130
    assert json.loads(capfd.readouterr().out) == {"job": JOB, "detached": True}


# --- no verdict is lost ---


def concluded(world, capfd):
    code = ending.conclude(Market(world), view(), Output(as_json=True))
    return code, json.loads(capfd.readouterr().out)


def test_a_receipt_is_kept_where_the_job_was_run(place, world, capfd):
    """Ordinarily the receipt lies in the working directory."""
    code, said = concluded(world, capfd)
    assert (code, said["receipt"]) == (0, f"{JOB}.receipt.json")
    assert (place / said["receipt"]).read_bytes() == world.receipt()


def test_a_deleted_folder_loses_no_verdict(place, world, capfd, monkeypatch, tmp_path):
    """From a folder that is gone the receipt goes to the data folder, and the words say where."""
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    code = ending.conclude(Market(world), view(), Output())
    printed = capfd.readouterr()
    kept = place / "data" / "receipts" / f"{JOB}.receipt.json"
    assert code == 0
    assert kept.read_bytes() == world.receipt()
    assert str(kept) in printed.err
    assert str(kept) in printed.out.replace("\n", " ")
    monkeypatch.chdir(place)


def test_a_folder_in_the_way_loses_no_verdict(place, world, capfd):
    """Where the name is taken by a folder the receipt goes to the data folder too."""
    (place / f"{JOB}.receipt.json").mkdir()
    code, said = concluded(world, capfd)
    assert (code, said["report"]["verdict"]) == (0, "verified")
    assert Path(said["receipt"]).read_bytes() == world.receipt()


def test_a_full_disk_loses_no_verdict(place, world, capfd, monkeypatch):
    """Where nothing can be written at all the verdict is said, and how to fetch the receipt again."""

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("stannary.files.replace", full)
    code = ending.conclude(Market(world), view(), Output(as_json=True))
    printed = capfd.readouterr()
    assert (code, json.loads(printed.out)["receipt"]) == (0, None)
    assert f"stannary wait {JOB}" in printed.err


def test_a_job_without_a_receipt_says_so(place, world, capfd):
    """A job that was never placed has none; the document says null."""
    out = Output(as_json=True)
    assert ending.conclude(Market(world, JobNotFinished("none")), view(), out) == 0
    assert json.loads(capfd.readouterr().out)["receipt"] is None


def test_results_are_not_written_over_a_file(place, world, capfd, monkeypatch):
    """`get -o FILE` names the mistake before anything is fetched; a name in the way is the machine's refusal."""
    monkeypatch.setattr(session, "connect", lambda: Market(world))
    (place / "file").write_text("mine")
    assert edge.run(["get", JOB, "-o", "file"]) == 2
    assert f"stannary get {JOB} -o DIR" in capfd.readouterr().err
    (place / "a").write_text("mine")
    assert edge.run(["get", JOB]) == 1
    printed = capfd.readouterr().err
    assert "a bug of ours" not in printed
    assert printed.startswith("E-ENVIRONMENT")
    assert (place / "a").read_text() == "mine"


def test_results_nobody_checked_yet_are_told(place, world, capfd, monkeypatch):
    """What a job that still runs has handed in is fetched with a word that its check is not over."""
    early = Market(world)
    early.job = lambda job: view("running").model_copy(update={"finished_at": None})
    early.download = lambda digest, target, size: target.write_bytes(b"x")
    monkeypatch.setattr(session, "connect", lambda: early)
    assert edge.run(["get", JOB]) == 0
    assert f"stannary wait {JOB}" in capfd.readouterr().err
    early.job = lambda job: view()
    assert edge.run(["get", JOB]) == 0
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(("status", "hint"), [("failed", "logs"), ("cancelled", "logs"), ("running", "wait")])
def test_no_results_say_whether_to_wait(place, world, capfd, monkeypatch, status, hint):
    """`get` of a job that has ended without results does not ask to wait for them."""
    empty = Market(world)
    ended = view(status).model_copy(update={} if status != "running" else {"finished_at": None})
    empty.outputs, empty.job = lambda job: Outputs(outputs=[]), lambda job: ended
    monkeypatch.setattr(session, "connect", lambda: empty)
    assert edge.run(["get", JOB]) == 102
    printed = capfd.readouterr().err
    assert status in printed and f"stannary {hint} {JOB}" in printed


def test_a_deleted_folder_is_named(place, capfd, monkeypatch, tmp_path):
    """A job file that is read from a folder nobody has any more says so, not that its work directory is missing."""
    monkeypatch.chdir(place)
    (place / "job.yaml").write_text("run: python a.py\n")
    gone = place / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    assert edge.run(["run", "--dry-run", "../job.yaml"]) == 2
    assert "the current directory has been deleted" in capfd.readouterr().err


# --- pipes, closed streams, other encodings: real processes ---


def shell(place: Path, command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    run = " ".join(PYTHON)
    script = f"set -o pipefail; STANNARY='{run}'; {command}"
    return subprocess.run(
        ["bash", "-c", script], cwd=place, env={**os.environ, **environment}, capture_output=True, encoding="utf-8",
        errors="replace", timeout=120, check=False,
    )  # fmt: skip


VERIFY = "verify job.receipt.json --trust-file trust.toml"


@pytest.mark.parametrize(
    ("command", "code"),
    [
        (f"$STANNARY {VERIFY} >&-", 0),
        (f"$STANNARY {VERIFY} --now 2020-01-01T00:00:00Z >&-", 4),
        (f"$STANNARY {VERIFY} 2>&-", 0),
        (f"$STANNARY {VERIFY} --json >&- 2>&- <&-", 0),
        (f"$STANNARY {VERIFY} | head -n 1", 0),
        (f"$STANNARY {VERIFY} | true", 0),
        (f"$STANNARY {VERIFY} --now 2020-01-01T00:00:00Z | true", 4),
        (f"$STANNARY {VERIFY} 2>&1 | true", 0),
        ("$STANNARY --help | true", 0),
        (f"$STANNARY {VERIFY} > /dev/full", 1),
        (f"$STANNARY {VERIFY} --json > /dev/full", 1),
    ],
)
def test_a_reader_who_left_changes_no_exit_code(place, command, code):
    """Closed streams, `| head` and full disks: the verdict's own exit code, and never a traceback or a bug of ours."""
    done = shell(place, command)
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    assert "a bug of ours" not in done.stderr
    assert "Exception ignored" not in done.stderr
    if "/dev/full" in command:
        assert "No space left" in done.stderr


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
@pytest.mark.parametrize("arguments", [VERIFY, f"{VERIFY} --json", "--help", "verify --help", "verify missing-\u6f22"])
def test_every_terminal_can_be_written_to(place, encoding, arguments):
    """ASCII and Latin-1 terminals get other characters, not an error of Python's."""
    done = shell(place, f"$STANNARY {arguments}", PYTHONIOENCODING=encoding, LC_ALL="C.UTF-8")
    assert done.returncode == (2 if "missing" in arguments else 0), done.stderr
    assert "Traceback" not in done.stderr
    assert "a bug of ours" not in done.stderr
    if encoding == "ascii":
        assert (done.stdout + done.stderr).isascii()
    if "--json" in arguments:
        assert json.loads(done.stdout)["verdict"] == "verified"


def test_a_live_line_leaves_nothing_behind(monkeypatch):
    """A status line is cut to the screen, taken away before the next line, and after an error."""
    import io

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setenv("COLUMNS", "80")
    err = Terminal()
    out = Output(stdout=io.StringIO(), stderr=err)
    out.status("x" * 500)
    assert len(err.getvalue().split("\x1b[2K")[-1]) == 79
    out.error(Refuted("no"))
    assert "\r\x1b[2KE-REFUTED" in err.getvalue()
