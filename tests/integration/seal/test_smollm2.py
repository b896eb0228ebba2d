"""A real chat model: sealed to a real S3 server, opened through a lossy link after two kills, says the same."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from tests.integration.seal.bucket import seaweedfs
from tests.integration.seal.client import COMMAND, stannary
from tests.integration.seal.killing import kill_midway, random_shares
from tests.integration.seal.smollm2 import model_folder, says
from tests.integration.seal.wan import A_ADDRESS, WanLink

PROMPT = "What is the capital of France?"
SHARD_BYTES = 2 * 1024 * 1024

pytestmark = [
    pytest.mark.slow,
    pytest.mark.needs_root,
    pytest.mark.skipif(os.geteuid() != 0 or not Path("/dev/net/tun").exists(), reason="needs root and /dev/net/tun"),
]


def test_smollm2_survives_the_way(tmp_path: Path) -> None:
    """Sealed to S3, opened by digest at 1 % loss after two kills: every byte and every word the same."""
    model = model_folder(tmp_path / "model")
    folder = tmp_path / "out"
    folder.mkdir()
    target = folder / "model"
    with WanLink() as link, seaweedfs(tmp_path / "weed", address=A_ADDRESS, prefix=link.a) as server:
        environment = {**os.environ, **server.environment, "STANNARY_DATA_DIR": str(tmp_path / "data")}
        sealing = [
            "seal",
            str(model),
            "-o",
            server.url,
            "--shard-bytes",
            str(SHARD_BYTES),
            "--codec",
            "small",
            "--json",
        ]
        sealed = json.loads(stannary(*sealing, environment=environment, prefix=link.a))
        arguments = ["open", sealed["digest"], "--from", server.url, "-o", str(target), "--jobs", "16", "--json"]
        for share in random_shares(8, 2):
            kill_midway([*link.b, *COMMAND, *arguments], environment, folder, share=share, total=sealed["num_shards"])
        report = json.loads(stannary(*arguments, environment=environment, prefix=link.b))
    assert report["resumed_shards"] > 0
    for path in model.rglob("*"):
        assert path.is_dir() or (target / path.relative_to(model)).read_bytes() == path.read_bytes()
    answer = says(target, PROMPT)
    assert answer == says(model, PROMPT)
    assert "Paris" in answer
