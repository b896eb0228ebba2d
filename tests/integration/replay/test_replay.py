"""`stannary verify --replay`: a receipt's work is computed again in a sandbox, and a false unit is found."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.integration.replay.real_job import RealJob

from stannary.cli import main as edge
from stannary.verify import trust


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STANNARY_CONFIG_DIR", str(tmp_path / "config"))
    monkeypatch.setenv("STANNARY_DATA_DIR", str(tmp_path / "data"))


def verify(job: RealJob, directory: Path, capsys: pytest.CaptureFixture[str], *more: str):
    """Return the exit code and the JSON of a replay from the job's folder of blobs."""
    receipt, pins = directory / "job.receipt.json", directory / "pins.toml"
    receipt.write_bytes(job.receipt())
    pins.write_text(trust.serialise(job.trust()))
    capsys.readouterr()
    arguments = ["verify", str(receipt), "--trust-file", str(pins), "--now", "2027-06-01T00:00:00Z", "--json"]
    code = edge.run([*arguments, "--replay", "--artifacts", str(job.blobs), *more])
    printed = capsys.readouterr()
    return code, json.loads(printed.out), printed.err


def outcomes(value) -> dict[str, str]:
    """Return each replayed unit's outcome by its name inside the job."""
    return {item["task"].partition("/")[2]: item["outcome"] for item in value["replay"]}


def test_an_honest_job_gives_the_same_bits(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Every audited unit and every merge, computed again in the sandbox, is the same bit for bit."""
    job = RealJob(tmp_path / "blobs").play()
    code, value, said = verify(job, tmp_path, capsys)
    assert (code, set(outcomes(value).values())) == (0, {"same"}), said
    assert set(outcomes(value)) == {f"r{r}/{unit}/a0" for r in (0, 1) for unit in ("l0", "l1", "merge")}


def test_a_flipped_contribution_is_refuted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One flipped bit that the whole fleet vouched for passes the verifier and not the replay: exit code 3."""
    job = RealJob(tmp_path / "blobs", flipped="r0/l1/a0").play()
    code, value, _ = verify(job, tmp_path, capsys)
    assert (code, value["verdict"]) == (3, "refuted")
    assert [task for task, outcome in outcomes(value).items() if outcome == "different"] == ["r0/l1/a0"]
    assert {item["id"] for item in value["findings"] if item["severity"] == "refuted"} == {"replay.root"}


def test_another_class_is_compared_by_tolerance(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Rounds of another class of a measured family are compared by distance; merges could not be checked: exit 4."""
    job = RealJob(tmp_path / "blobs", engine_class="cpu-fp32-torch2.13.0-0123456789ab").play()
    code, value, _ = verify(job, tmp_path, capsys)
    found = outcomes(value)
    assert code == 4
    assert {task: outcome for task, outcome in found.items() if "merge" in task} == dict.fromkeys(
        ("r0/merge/a0", "r1/merge/a0"), "unchecked"
    )
    assert {outcome for task, outcome in found.items() if "merge" not in task} == {"same"}
    assert any("could not check" in item["observed"] for item in value["findings"])


def test_a_missing_or_wrong_blob_is_no_pass(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A unit whose inputs cannot be had, or have other bytes, could not be checked; the rest is replayed."""
    job = RealJob(tmp_path / "blobs").play()
    (theta,) = [item for item in job.contributions if item.endswith("r0/merge/a0")]
    digests = {item.name: item.digest for item in job.contributions[theta][1].outputs}
    job.path(digests["theta"]).write_bytes(b"other")
    job.path(digests["outer"]).unlink()
    code, value, said = verify(job, tmp_path, capsys)
    found = outcomes(value)
    assert code == 4
    assert {task for task, outcome in found.items() if outcome == "unchecked"} == {
        "r1/l0/a0",
        "r1/l1/a0",
        "r1/merge/a0",
    }
    assert {task for task, outcome in found.items() if outcome == "same"} == {"r0/l0/a0", "r0/l1/a0", "r0/merge/a0"}
    assert "other bytes" in said
