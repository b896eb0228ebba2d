"""The lossy wide-area link: an artifact opens through it after two kills, and BBR is on the sender's socket."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest
from tests.integration.seal.client import COMMAND, stannary
from tests.integration.seal.killing import kill_midway, random_shares
from tests.integration.seal.wan import A_ADDRESS, WanLink

SHARD_BYTES = 512 * 1024
NUM_SHARDS = 64
PORT = 8190

pytestmark = [
    pytest.mark.needs_root,
    pytest.mark.slow,
    pytest.mark.skipif(os.geteuid() != 0 or not Path("/dev/net/tun").exists(), reason="needs root and /dev/net/tun"),
]


def test_opens_through_one_per_cent_loss_after_two_kills(tmp_path: Path) -> None:
    """200 Mbit/s, 100 ms, 1 % loss, kill -9 twice: equal bytes, no finished shard fetched again."""
    environment = {**os.environ, "STANNARY_DATA_DIR": str(tmp_path / "data")}
    path = tmp_path / "tokens.bin"
    path.write_bytes(random.Random(5).randbytes(NUM_SHARDS * SHARD_BYTES))
    store = tmp_path / "store"
    sealing = ["seal", str(path), "-o", str(store), "--shard-bytes", str(SHARD_BYTES), "--json"]
    digest = json.loads(stannary(*sealing, environment=environment))["digest"]
    folder = tmp_path / "out"
    folder.mkdir()
    target = folder / "tokens.bin"
    with WanLink() as link:
        serving = [*link.a, *COMMAND, "artifact", "serve", str(store), "--host", A_ADDRESS, "--port", str(PORT)]
        server = subprocess.Popen(serving, env=environment, stderr=subprocess.PIPE, text=True)
        try:
            assert server.stderr is not None
            assert "serving" in server.stderr.readline()
            arguments = ["open", digest, "--from", f"http://{A_ADDRESS}:{PORT}", "-o", str(target), "--json"]
            killed = [*link.b, *COMMAND, *arguments]
            listed = 0
            for share in random_shares(3, 2):
                listed = kill_midway(killed, environment, folder, share=share, total=NUM_SHARDS)
            report = json.loads(stannary(*arguments, environment=environment, prefix=link.b))
            modes = subprocess.run([*link.a, *_congestion_probe()], capture_output=True, text=True, check=True).stdout
        finally:
            server.kill()
            server.communicate()
    assert target.read_bytes() == path.read_bytes()
    assert report["resumed_shards"] == listed
    assert modes.strip() in {"True", "unavailable"}


def _congestion_probe() -> list[str]:
    """Return a program that tells whether a sending socket of ours takes BBR where the kernel has it."""
    script = (
        "import socket; from pathlib import Path; from stannary.seal.stores.link import prefer_bbr\n"
        "have = 'bbr' in Path('/proc/sys/net/ipv4/tcp_available_congestion_control').read_text()\n"
        "print(prefer_bbr(socket.socket()) if have else 'unavailable')"
    )
    return [sys.executable, "-c", script]
