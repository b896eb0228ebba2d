"""Sending files: in pieces, whatever their size, and never other bytes than were listed."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

from stannary.errors import StannaryError, UsageError
from stannary.sdk import submit
from stannary.sdk.client import Client
from stannary.sdk.submit import Overrides

TEXT = "run: python a.py\ninputs: {big: {path: big.bin}}\n"


class Market:
    """A connection that keeps what it is sent, after `before` has had its way with the disk."""

    def __init__(self, before: Callable[[], None] = lambda: None) -> None:
        self.before, self.sent = before, {}

    def has(self, path: str) -> bool:
        return False

    def put(self, path: str, chunks: Callable[[], Iterable[bytes]], size_bytes: int) -> None:
        self.before()
        data = b"".join(chunks())
        assert len(data) == size_bytes
        self.sent[path] = data


@pytest.fixture
def job(tmp_path: Path) -> Path:
    place = tmp_path / "job"
    place.mkdir()
    (place / "job.yaml").write_text(TEXT)
    (place / ".stannaryignore").write_text("big.bin\n")
    (place / "big.bin").write_bytes(b"0" * 700_000)
    return place


def send(job: Path, before: Callable[[], None] = lambda: None) -> dict[str, bytes]:
    prepared = submit.prepare(job / "job.yaml", Overrides())
    market = Market(before)
    submit.upload(Client(market), prepared, lambda _: None)
    return market.sent


def test_what_is_listed_is_sent(job: Path) -> None:
    """Every blob arrives whole."""
    assert sorted(map(len, send(job).values())) == [len(TEXT), 700_000]


def test_what_takes_seconds_is_told_before(job: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody waits for a large file, an input or a resolver without a word."""
    monkeypatch.setattr(submit.travel, "SLOW_BYTES", 600_000)
    (job / ".stannaryignore").unlink()
    (job / "more.bin").write_bytes(b"1" * 700_000)
    (job / "list.txt").write_text("tin==1.0 --hash=sha256:" + "0" * 64)
    (job / "job.yaml").write_text(TEXT + "setup: list.txt\n")
    monkeypatch.setattr(submit.lock, "_uv", lambda: None)
    told: list[str] = []
    submit.prepare(job / "job.yaml", Overrides(), tell=told.append)
    assert told == ["reading more.bin", "looking for the packages of list.txt", "reading input big"]


def change(path: Path, kind: str) -> None:
    data = path.read_bytes()
    if kind == "grows":
        path.write_bytes(data + b"1")
    elif kind == "shrinks":
        path.write_bytes(data[:-1])
    elif kind == "is written over":
        path.write_bytes(b"1" * len(data))
    else:
        path.unlink()
        {
            "vanishes": lambda: None,
            "becomes a fifo": lambda: os.mkfifo(path),
            "becomes a folder": path.mkdir,
            "becomes a link": lambda: path.symlink_to("/etc/hostname"),
        }[kind]()


@pytest.mark.parametrize(
    "kind",
    ["grows", "shrinks", "is written over", "vanishes", "becomes a fifo", "becomes a folder", "becomes a link"],
)  # fmt: skip
@pytest.mark.parametrize("name", ["big.bin", "job.yaml"])
def test_a_file_that_changes_after_it_was_listed(job: Path, kind: str, name: str) -> None:
    """Our error names the file and what to do; no whole upload of other bytes ever left."""
    changed = False

    def before() -> None:
        nonlocal changed
        if not changed:
            change(job / name, kind)
            changed = True

    with pytest.raises(UsageError) as caught:
        send(job, before)
        send(job, before)  # whichever is sent first, the changed one is met
    assert name in caught.value.why
    assert caught.value.hint


def test_a_file_that_grows_while_it_is_hashed(job: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A log that is being written is told as such; it is not read for ever."""
    taken = submit.workdir.grammar.refuse_pickle_bytes

    def write_on(name: str, head: bytes) -> None:
        with (job / "big.bin").open("ab") as file:
            file.write(b"x" * 3_000_000)
        taken(name, head)

    monkeypatch.setattr(submit.workdir.grammar, "refuse_pickle_bytes", write_on)
    (job / ".stannaryignore").write_text("job.yaml\nbig.bin\n")
    with pytest.raises(UsageError, match="changed while it was read"):
        submit.prepare(job / "job.yaml", Overrides())


@pytest.mark.parametrize("make", [os.mkfifo, lambda path: path.symlink_to(path), lambda path: path.mkdir()])
def test_an_input_that_is_no_file(job: Path, make: Callable[[Path], None]) -> None:
    """A fifo, a link to itself or a folder is refused at once."""
    (job / "big.bin").unlink()
    make(job / "big.bin")
    with pytest.raises(StannaryError) as caught:
        submit.prepare(job / "job.yaml", Overrides())
    assert "big.bin" in caught.value.why


@pytest.mark.skipif(not Path("/proc/self/mem").exists(), reason="needs /proc")
def test_an_input_that_fails_when_read(job: Path) -> None:
    """A disk that answers with an error is told with the file's name."""
    (job / "job.yaml").write_text("run: a\ninputs: {big: {path: /proc/self/mem}}\n")
    with pytest.raises(UsageError, match="cannot read") as caught:
        submit.prepare(job / "job.yaml", Overrides())
    assert "mem" in caught.value.why


@pytest.mark.slow
def test_a_large_input_in_little_memory(job: Path) -> None:
    """2 GB are listed and sent by a client that may take 640 MB of address space in all."""
    with (job / "big.bin").open("r+b") as file:
        file.truncate(2_000_000_000)  # sparse
    script = f"""
        import resource
        resource.setrlimit(resource.RLIMIT_AS, (640_000_000, 640_000_000))
        from pathlib import Path
        from stannary.sdk import submit
        from stannary.sdk.client import Client
        from stannary.sdk.submit import Overrides
        class Market:
            total = 0
            def has(self, path):
                return False
            def put(self, path, chunks, size_bytes):
                Market.total += sum(len(chunk) for chunk in chunks())
        prepared = submit.prepare(Path({str(job / "job.yaml")!r}), Overrides())
        submit.upload(Client(Market()), prepared, lambda _: None)
        print(Market.total)
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == str(2_000_000_000 + len(TEXT)), done.stderr[-2000:]
