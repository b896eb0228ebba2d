"""Memory: gibibytes are sealed and opened inside a quarter of one, by the kernel's own count.

One gibibyte here; with STANNARY_SLOW=1 (make e2e-seal) four, which takes minutes.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.integration.seal.client import COMMAND

MIB = 1024 * 1024
SIZE_BYTES = (4096 if os.environ.get("STANNARY_SLOW") == "1" else 1024) * MIB
OVER_DESTINATION_BYTES = 256 * MIB
CGROUP_V1 = Path("/sys/fs/cgroup/memory")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.needs_root,
    pytest.mark.timeout(900),
    pytest.mark.skipif(os.geteuid() != 0 or not CGROUP_V1.is_dir(), reason="needs root and the v1 memory controller"),
]


class MemoryGroup:
    """A memory cgroup below our own."""

    def __init__(self, limit_bytes: int) -> None:
        groups = Path("/proc/self/cgroup").read_text().splitlines()
        own = next(line.split(":")[2] for line in groups if ":memory:" in line)
        self.path = CGROUP_V1 / own.lstrip("/") / f"seal-{os.getpid()}-{limit_bytes // MIB}"
        self.path.mkdir()
        (self.path / "memory.limit_in_bytes").write_text(str(limit_bytes))

    def run(self, *command: str, environment: dict[str, str]) -> str:
        """Run a command inside; fail if it failed or the kernel killed for memory."""
        script = f'echo 0 > {self.path}/cgroup.procs && exec "$@"'
        done = subprocess.run(
            ["/bin/sh", "-c", script, "sh", *command], env=environment, capture_output=True, text=True, check=False
        )
        kills = (self.path / "memory.oom_control").read_text().split("oom_kill ")[-1].strip()
        assert (done.returncode, kills) == (0, "0"), done.stderr
        return done.stdout

    def peak_bytes(self) -> int:
        """Return the peak of memory that is not page cache: rss, sampled by the kernel's counter at the limit."""
        return int((self.path / "memory.max_usage_in_bytes").read_text())

    def close(self) -> None:
        """Remove the group."""
        self.path.rmdir()


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Path]:
    """A folder with a model of that size in 16 tensors, removed afterwards."""
    path = tmp_path / "model.safetensors"
    rows = SIZE_BYTES // 16
    header = {
        f"model.layers.{block}.w": {"dtype": "U8", "shape": [rows], "data_offsets": [block * rows, (block + 1) * rows]}
        for block in range(16)
    }
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        block = os.urandom(64 * MIB)
        for number in range(SIZE_BYTES // len(block)):
            file.write(number.to_bytes(8, "little") + block[8:])
    yield tmp_path
    for item in tmp_path.rglob("*"):
        if item.is_file():
            item.unlink()


def test_gibibytes_in_a_quarter_of_one(place: Path) -> None:
    """Sealing and opening need 256 MiB whatever the size; loading needs the tensors and 256 MiB."""
    environment = {**os.environ, "STANNARY_DATA_DIR": str(place / "data"), "OMP_NUM_THREADS": "1"}
    model, store = place / "model.safetensors", place / "store"
    small = MemoryGroup(OVER_DESTINATION_BYTES)
    sealing = ["seal", str(model), "-o", str(store), "--no-sign-model", "--json"]
    digest = json.loads(small.run(*COMMAND, *sealing, environment=environment))["digest"]
    model.unlink()
    small.run(*COMMAND, "open", digest, "--from", str(store), "-o", str(place / "out"), environment=environment)
    assert small.peak_bytes() <= OVER_DESTINATION_BYTES
    small.close()
    assert (place / "out").stat().st_size > SIZE_BYTES
    (place / "out").unlink()
    large = MemoryGroup(SIZE_BYTES + OVER_DESTINATION_BYTES)
    load = "import sys, stannary.seal; print(len(stannary.seal.load(sys.argv[1], sys.argv[2])))"
    assert large.run(sys.executable, "-c", load, digest, str(store), environment=environment).strip() == "16"
    assert large.peak_bytes() <= SIZE_BYTES + OVER_DESTINATION_BYTES
    large.close()
