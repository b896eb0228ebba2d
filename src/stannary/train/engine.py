"""The engine class: the name of everything besides inputs that decides the bits of a result.

Results are compared bit for bit inside one class only, and with the thread count the job's spec signs. The name ends
in a hash over torch's version, the dtype, the kernel settings in the environment AND the bits of a fixed probe
computation at each of PROBED_THREADS, whatever the machine's cores: kernels that agree on one thread may share out
their sums differently on eight. So machines whose kernels differ get different classes without being asked, one that
claims another's class gives itself away in its first audit, and machines of any number of cores are of one class if
their kernels agree.

`python -m stannary.train.engine` prints the class of this process.
"""

from __future__ import annotations

import functools
import hashlib
import os
import sys

import torch
from torch import Tensor
from torch.nn import functional

from stannary.train import checkpoint

PROBE_SEED = 20_240_601
PROBED_THREADS = (1, 2, 4, 8, 16)  # the name says the most; more threads than cores give the same bits, later
CLASS_HEX = 12

# Variables that choose other kernels (bench/audit_distance.py: each but one gives other weights).
KERNEL_VARIABLES = ("ATEN_CPU_CAPABILITY", "MKL_CBWR", "MKL_ENABLE_INSTRUCTIONS", "ONEDNN_MAX_CPU_ISA")


def pin(threads: int = 1) -> None:
    """Fix threads, algorithms and precision of this process; call it before anything is computed."""
    torch.set_num_threads(threads)
    _forbid_chance()
    torch.set_default_dtype(torch.float32)
    torch.set_float32_matmul_precision("highest")  # no TF32, no bf16 passes in fp32 products
    torch.set_flush_denormal(False)


def _forbid_chance() -> None:
    """Do what torch.use_deterministic_algorithms does, but leave its compiler out until a recipe compiles.

    That call imports the compiler to tell it, which takes a worker longer than all the rest of torch. The compiler
    reads the same from its variable when it is imported.
    """
    os.environ["TORCHINDUCTOR_DETERMINISTIC"] = "1"
    if "torch._inductor.config" in sys.modules:
        torch.use_deterministic_algorithms(True)
    torch.set_deterministic_debug_mode("error")


@functools.cache
def engine_class() -> str:
    """Return e.g. `cpu-fp32-torch2.13.0-t16.1f2e3d4c5b6a`: probed with up to 16 threads.

    The process must be pinned; it stays in its class for life, hence the cache.
    """
    version = torch.__version__.split("+", maxsplit=1)[0]
    facts = [torch.__version__, "float32", *(f"{name}={os.environ.get(name, '')}" for name in KERNEL_VARIABLES)]
    state = hashlib.sha256("\n".join(facts).encode())
    pinned = torch.get_num_threads()
    try:
        for threads in PROBED_THREADS:
            torch.set_num_threads(threads)
            state.update(probe())
    finally:
        torch.set_num_threads(pinned)
    return f"cpu-fp32-torch{version}-t{PROBED_THREADS[-1]}.{state.hexdigest()[:CLASS_HEX]}"


def probe() -> bytes:
    """Return the bits of a fixed forward and backward pass through the kernels a language model uses.

    Leaves the global random state as it was. B batch, T time, D width.
    """
    generator = torch.Generator().manual_seed(PROBE_SEED)
    x_BTD = torch.randn(4, 33, 96, generator=generator)
    weights = {
        "qkv": torch.randn(288, 96, generator=generator) * 0.1,
        "up": torch.randn(384, 96, generator=generator) * 0.1,
        "down": torch.randn(96, 384, generator=generator) * 0.1,
        "head": torch.randn(256, 96, generator=generator) * 0.1,
        "gain": torch.ones(96),
    }
    for weight in weights.values():
        weight.requires_grad_(True)
    targets_BT = torch.randint(0, 256, (4, 33), generator=generator)
    with torch.random.fork_rng(devices=[]), torch.enable_grad():
        loss = _probe_loss(weights, x_BTD, targets_BT)
        loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it without annotations
    gradients = {name: weight.grad for name, weight in weights.items() if weight.grad is not None}
    return checkpoint.encode({"loss": loss.reshape(1), **gradients})


def _probe_loss(weights: dict[str, Tensor], x_BTD: Tensor, targets_BT: Tensor) -> Tensor:
    batch, time, width = x_BTD.shape
    h_BTD = functional.layer_norm(x_BTD, (width,), weights["gain"])
    q_BTD, k_BTD, v_BTD = functional.linear(h_BTD, weights["qkv"]).chunk(3, dim=-1)
    heads = [part.view(batch, time, 4, width // 4).transpose(1, 2) for part in (q_BTD, k_BTD, v_BTD)]
    mixed = functional.scaled_dot_product_attention(heads[0], heads[1], heads[2], is_causal=True)
    x_BTD = x_BTD + mixed.transpose(1, 2).reshape(batch, time, width)
    x_BTD = x_BTD + functional.linear(functional.gelu(functional.linear(x_BTD, weights["up"])), weights["down"])
    logits = functional.linear(functional.rms_norm(x_BTD, (width,)), weights["head"])
    return functional.cross_entropy(logits.flatten(0, 1), targets_BT.flatten()) + logits.softmax(-1).square().sum()


def main() -> None:
    """Print the engine class of this process."""
    pin()
    sys.stdout.write(engine_class() + "\n")


if __name__ == "__main__":
    main()
