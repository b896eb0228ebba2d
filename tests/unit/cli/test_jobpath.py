"""What `stannary run` makes of what it is given."""

from __future__ import annotations

from pathlib import Path

import pytest

from stannary.cli import jobpath
from stannary.errors import SpecError, UsageError


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("name", "text", "command"),
    [
        ("train.py", "print()", "run: python train.py"), ("a b.sh", "echo", "run: sh '\"'\"'a b.sh'\"'\"'"),
        ("tool", "#!/bin/sh\n", "run: ./tool"), ("n.ipynb", "{}", "run: ./n.ipynb"),
    ],
)  # fmt: skip
def test_a_script_is_told_how_to_become_a_job(here: Path, name: str, text: str, command: str) -> None:
    """The hint writes the job file that runs the script, and runs it."""
    (here / name).write_text(text)
    with pytest.raises(SpecError, match="script") as caught:
        jobpath.find(Path(name))
    assert command in caught.value.hint
    assert caught.value.hint.endswith("> job.yaml && stannary run job.yaml")


def test_a_job_file_that_is_there_is_not_written_over(here: Path) -> None:
    """The hint never replaces a job file."""
    (here / "job.yaml").write_text("run: a\n")
    (here / "a.py").write_text("")
    with pytest.raises(SpecError) as caught:
        jobpath.find(Path("a.py"))
    assert "> job.yaml" not in caught.value.hint
    assert "run: python a.py" in caught.value.hint


def test_nothing_a_missing_file_a_folder(here: Path) -> None:
    """Each says the next command: an example, the file that lies there, or how to write one."""
    with pytest.raises(UsageError) as caught:
        jobpath.find(None)
    assert caught.value.hint == "stannary run --example hello"
    with pytest.raises(SpecError, match="no such job file") as caught:
        jobpath.find(Path("job.yaml"))
    assert "echo 'run: python main.py' > job.yaml" in caught.value.hint
    (here / "train.yaml").write_text("run: a\n")
    with pytest.raises(SpecError) as caught:
        jobpath.find(Path("job.yaml"))
    assert caught.value.hint == "stannary run train.yaml"
    (here / "job.yaml").write_text("run: a\n")
    with pytest.raises(SpecError, match="folder") as caught:
        jobpath.find(Path())
    assert caught.value.hint == "stannary run job.yaml"
    assert jobpath.find(Path("job.yaml")) == Path("job.yaml")


@pytest.mark.parametrize("name", ["a\0b", "x" * 5000, "loop"])
def test_names_that_lead_nowhere(here: Path, name: str) -> None:
    """A NUL, an over-long name or a link to itself is no such file."""
    (here / "loop").symlink_to("loop")
    with pytest.raises(SpecError, match="no such job file"):
        jobpath.find(Path(name))
