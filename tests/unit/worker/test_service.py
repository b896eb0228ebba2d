"""What a worker answers."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

SIZE_BYTES = 2_000_000_000


def test_a_command_with_a_large_input_in_little_memory(tmp_path: Path) -> None:
    """A job may ask for less memory than its input has bytes: 2 GB are checked and 1 kB of them read in 512 MB."""
    (tmp_path / "blobs").mkdir()
    (tmp_path / "workdir").mkdir()
    with (tmp_path / "blobs" / "fresh").open("wb") as file:
        file.truncate(SIZE_BYTES)  # sparse
    with (tmp_path / "blobs" / "fresh").open("rb") as file:
        name = hashlib.file_digest(file, "sha256").hexdigest()
    (tmp_path / "blobs" / "fresh").rename(tmp_path / "blobs" / name)
    script = f"""
        import io, resource
        from pathlib import Path
        resource.setrlimit(resource.RLIMIT_AS, (512_000_000, 512_000_000))
        from stannary.worker.service import Service
        from stannary.formats import jobfile, jobspec
        from stannary.formats.jobspec import Input
        from stannary.border import frames
        text = {{"run": "head -c 1000 $STANNARY_INPUT_BIG > out.bin", "outputs": ["out.bin"],
                 "inputs": {{"big": {{"path": "x"}}}}}}
        spec = jobfile.parse(text).resolve((), {{"big": Input("sha256:{name}", {SIZE_BYTES}, "file x")}})
        replies = io.BytesIO()
        service = Service(Path({str(tmp_path)!r}), io.BytesIO(), replies)
        service.handle({{"op": "command", "spec": jobspec.to_canonical(spec), "inputs": {{"big": "{name}"}}}})
        replies.seek(0)
        print(len(frames.read(replies).body), frames.read(replies).header["ok"])
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "1000 True", done.stderr[-2000:]
