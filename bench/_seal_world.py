"""What the seal benches share: a model in memory, the peers' environment, CPU clocks, raw ceilings."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
import time
import venv
from collections.abc import Callable
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ENVIRONMENT = HERE.parent / ".bench" / "peers"
# Installed without dependencies and joined with our own site-packages, so that peers run on the same torch.
PACKAGES = (
    "tensorizer==2.12.1", "cryptotensors==0.2.3", "pyrage==1.4.0", "safetensors==0.8.0", "libnacl", "psutil", "redis",
    "hiredis", "protobuf", "boto3", "botocore", "s3transfer", "jmespath", "python-dateutil", "six", "urllib3",
)  # fmt: skip
ROUNDS = 3


def peers_python() -> Path:
    """Return the interpreter of the peers' environment, made on first use from the package index."""
    python = ENVIRONMENT / "bin" / "python"
    marker = ENVIRONMENT / "installed"
    if not marker.exists() or marker.read_text() != repr(PACKAGES):
        venv.create(ENVIRONMENT, with_pip=True, clear=True)
        subprocess.run([str(python), "-m", "pip", "install", "-q", "--no-deps", *PACKAGES], check=True)
        site = next((ENVIRONMENT / "lib").glob("python3*")) / "site-packages"
        (site / "main.pth").write_text(sysconfig.get_paths()["purelib"])
        marker.write_text(repr(PACKAGES))
    return python


def peers(*arguments: str) -> dict[str, Any]:
    """Run the peers and return what they print."""
    command = [str(peers_python()), str(HERE / "_seal_peers.py"), *arguments]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, env=environment)
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def cpu_s(work: Callable[[], object], rounds: int = ROUNDS) -> float:
    """Return the least CPU seconds of several runs of `work`, all threads counted."""
    best = float("inf")
    for _ in range(rounds):
        began = time.process_time()
        work()
        best = min(best, time.process_time() - began)
    return best


def make_model(path: Path, megabytes: int) -> int:
    """Write a bf16 model of that size with Gaussian weights, 8 blocks; return its tensor bytes."""
    import torch
    from safetensors.torch import save_file

    torch.set_num_threads(1)
    torch.manual_seed(0)
    rows = megabytes * 1_000_000 // (10 * 2 * 4096)
    tensors = {f"model.layers.{block}.mlp.weight": torch.randn(rows, 4096).bfloat16() for block in range(8)}
    tensors["embed.weight"] = torch.randn(2 * rows, 4096).bfloat16()
    save_file({name: tensor * 0.02 for name, tensor in tensors.items()}, path)
    return sum(tensor.numel() * 2 for tensor in tensors.values())


def ceilings() -> dict[str, float]:
    """Return what this processor can do at all, GB/s per core: nothing built on these is faster."""
    import blake3
    from cryptography.cobblestone import Cobblestone256Decryptor, Cobblestone256Encryptor
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    size = 8 * 1024 * 1024
    plain = os.urandom(size)
    into, key = bytearray(size), Cobblestone256Encryptor.generate_key()
    encryptor = Cobblestone256Encryptor(key, b"")
    sealed = encryptor.update(plain) + encryptor.finalize()
    gcm = AESGCM(key).encrypt(bytes(12), plain, None)

    def cobblestone() -> None:
        decryptor = Cobblestone256Decryptor(key, b"")
        decryptor.update_into(sealed, into)
        decryptor.finalize()

    def copy() -> None:
        into[:] = plain

    descriptor = os.memfd_create("ceiling")
    os.pwrite(descriptor, sealed, 0)
    works: dict[str, Callable[[], object]] = {
        "AES-256-GCM open": lambda: AESGCM(key).decrypt_into(bytes(12), gcm, None, into),
        "Cobblestone-256 open": cobblestone,
        "BLAKE3": lambda: blake3.blake3(sealed).digest(),
        "copy": copy,
        "read from memory": lambda: os.preadv(descriptor, [into], 0),
    }
    result = {name: size / cpu_s(work, 12) / 1e9 for name, work in works.items()}
    os.close(descriptor)
    parts = ("read from memory", "BLAKE3", "Cobblestone-256 open")
    result["read, hash and open"] = 1 / sum(1 / result[name] for name in parts)
    return result


def processor() -> str:
    """Return the processor's name and the instructions that decide these figures."""
    text = Path("/proc/cpuinfo").read_text()
    name = next((line.split(":", 1)[1].strip() for line in text.splitlines() if line.startswith("model name")), "?")
    flags = next((line for line in text.splitlines() if line.startswith("flags")), "").split()
    has = [flag if flag in flags else f"no {flag}" for flag in ("vaes", "sha_ni", "avx512f")]
    return f"{name} ({', '.join(has)}), load {os.getloadavg()[0]:.1f}, Python {sys.version.split()[0]}"
