"""The lines that say what a job sends to strangers."""

from __future__ import annotations

from stannary.cli import travels
from stannary.sdk import submit
from stannary.sdk.submit import Overrides


def test_count_size_largest_and_what_stays(tmp_path):
    """The plan says how much travels, what is largest, what stays behind, and which file decides."""
    (tmp_path / "job.yaml").write_text("run: python a.py\n")
    (tmp_path / "a.py").write_bytes(b"#" * 3000)
    (tmp_path / "t.py").write_text('x = "ghp_' + "aB3d" * 9 + '"\n')
    (tmp_path / ".env").write_text("x")
    (tmp_path / ".git").mkdir()
    prepared = submit.prepare(tmp_path / "job.yaml", Overrides())
    text = "\n".join(travels.lines(prepared))
    assert "3 files" in text
    assert "a.py 2.9 KiB" in text
    assert ".env, .git/" in text
    assert ".stannaryignore" in text
    assert "t.py: line 1 has the shape of a GitHub token" in text
    members = travels.to_json(prepared)
    assert {item["path"] for item in members["stays"]} == {".env", ".git"}
    assert members["num_files"] == 3


def test_no_line_is_wider_than_a_screen(tmp_path):
    """Long names and many files wrap between words, at 80 columns."""
    (tmp_path / "job.yaml").write_text("run: python a.py\n")
    for index in range(12):
        (tmp_path / f"{'long' * 8}{index}.key").write_text("x")
        (tmp_path / f"{'word' * 7}{index}.bin").write_bytes(b"x" * 100_000)
    lines = travels.lines(submit.prepare(tmp_path / "job.yaml", Overrides()))
    assert max(map(len, lines)) < 80
    assert any("and 6 more" in line for line in lines)


def test_clutter_is_named_once_and_inputs_not_at_all(tmp_path):
    """A cache in every folder takes one word; a file that is sent as an input does not stay."""
    (tmp_path / "job.yaml").write_text("run: python a.py\ninputs: {big: {path: big.bin}}\n")
    (tmp_path / "big.bin").write_text("x")
    for index in range(9):
        (tmp_path / f"p{index}" / "__pycache__").mkdir(parents=True)
    text = "\n".join(travels.lines(submit.prepare(tmp_path / "job.yaml", Overrides())))
    assert "stays     __pycache__/  (" in text
    assert "input     big  file big.bin" in text
