"""The node's side of the power test: rounds on every accelerator at once, then the opened rows.

Each device runs its own chain; all run in the same window, so one card cannot answer for two. With
torch the products run where the tensors are (`torch._int_mm`, int8 -> int32); without it numpy does
them on the CPU, slowly and honestly.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import numpy as np

from stannary.certify.grade import matrix, merkle
from stannary.certify.grade.draw import draw_rows
from stannary.errors import EnvironmentProblem

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from stannary.formats.canonical import Json

MAX_ROUNDS = 100_000


class Multiplier(Protocol):
    """Computes one round's row digests on one device."""

    def digests(self, order_n: NDArray[np.int64], u_n: NDArray[np.uint32]) -> NDArray[np.uint32]:
        """Return D_r, (n,), of C_r = A @ B[order]."""
        ...


class NumpyMultiplier:
    """Exact float32 blocks on the CPU."""

    def __init__(self, A_nn: NDArray[np.int8], B_nn: NDArray[np.int8]) -> None:
        self._A_nn, self._B_nn = A_nn, B_nn

    def digests(self, order_n: NDArray[np.int64], u_n: NDArray[np.uint32]) -> NDArray[np.uint32]:
        """Multiply and fold."""
        return matrix.digest_rows(matrix.product(self._A_nn, self._B_nn[order_n]), u_n)


class TorchMultiplier:
    """`torch._int_mm` on one device."""

    def __init__(self, A_nn: NDArray[np.int8], B_nn: NDArray[np.int8], device: str) -> None:
        import torch

        self._torch = torch
        self._device = torch.device(device)
        self._A_nn = torch.from_numpy(A_nn.copy()).to(self._device)
        self._B_nn = torch.from_numpy(B_nn.copy()).to(self._device)

    def digests(self, order_n: NDArray[np.int64], u_n: NDArray[np.uint32]) -> NDArray[np.uint32]:
        """Multiply and fold where the matrices are."""
        torch = self._torch
        order = torch.from_numpy(order_n).to(self._device)
        C_nn = torch._int_mm(self._A_nn, self._B_nn.index_select(0, order))
        kept_nn = C_nn.bitwise_right_shift_(matrix.SHIFT).bitwise_and_(matrix.MASK)
        u = torch.from_numpy(u_n.astype(np.int64)).to(self._device)
        # Two 16-bit halves of u: sums stay below 2**38, exact in float64, and GPUs lack int64 matmul.
        halves_n2 = torch.stack([u & 0xFFFF, u >> 16], dim=1).to(torch.float64)
        folded = torch.empty((len(u_n), 2), dtype=torch.float64, device=self._device)
        for start in range(0, len(u_n), 2048):
            folded[start : start + 2048] = kept_nn[start : start + 2048].to(torch.float64) @ halves_n2
        low, high = folded.cpu().numpy().astype(np.uint64).T
        total: NDArray[np.uint64] = low + (high << np.uint64(16))
        return (total & np.uint64(0xFFFFFFFF)).astype(np.uint32)


@dataclass(slots=True)
class Chain:
    """One device's rounds."""

    device: str
    n: int
    seed: bytes
    roots: list[bytes] = field(default_factory=list)
    trees: list[list[list[bytes]]] = field(default_factory=list)
    digests: list[bytes] = field(default_factory=list)
    times_ms: list[int] = field(default_factory=list)

    def run_round(self, multiplier: Multiplier, round_seed: bytes, clock: Callable[[], float]) -> bytes:
        """Run one round and return the next round's seed."""
        start = clock()
        folded = multiplier.digests(matrix.order(round_seed, self.n), matrix.weights(round_seed, self.n))
        data = folded.astype("<u4").tobytes()
        tree = merkle.levels(data)
        self.roots.append(tree[-1][0])
        self.trees.append(tree)
        self.digests.append(data)
        self.times_ms.append(max(1, round((clock() - start) * 1000)))
        return matrix.next_seed(round_seed, tree[-1][0])

    def to_json(self, rows: Sequence[tuple[int, int]]) -> dict[str, Json]:
        """Return the chain with the blocks of the opened rows."""
        opened: dict[str, Json] = {}
        size = merkle.BLOCK_ROWS * merkle.DIGEST_BYTES
        for number, row in rows:
            block = row // merkle.BLOCK_ROWS
            data = self.digests[number][block * size : (block + 1) * size]
            siblings: list[Json] = [item.hex() for item in merkle.path(self.trees[number], block)]
            opened[f"{number}/{block}"] = {"digests": data.hex(), "path": siblings}
        return {
            "device": self.device,
            "n": self.n,
            "roots": [item.hex() for item in self.roots],
            "times_ms": [*self.times_ms],
            "opened": opened,
        }


def devices() -> list[str]:
    """Return the accelerators torch sees; the CPU where there is none."""
    try:
        import torch
    except ImportError:
        return ["cpu"]
    return [f"cuda:{index}" for index in range(torch.cuda.device_count())] or ["cpu"]


def multiplier(seed: bytes, shared: bytes, n: int, device: str) -> Multiplier:
    """Return what multiplies on `device`; A and B are made once for all rounds."""
    A_nn, B_nn = matrix.matrix(seed, "A", n), matrix.matrix(shared, "B", n)
    try:
        return TorchMultiplier(A_nn, B_nn, device)
    except ImportError as err:
        if device != "cpu":
            raise EnvironmentProblem("cannot use an accelerator", why="torch is not installed") from err
        return NumpyMultiplier(A_nn, B_nn)


def prove(
    anchor: bytes,
    names: Sequence[str],
    *,
    n: int,
    duration_s: float,
    num_opened: int,
    clock: Callable[[], float] = time.monotonic,
    make: Callable[[bytes, bytes, int, str], Multiplier] = multiplier,
) -> dict[str, Json]:
    """Run all devices for `duration_s` and return the transcript."""
    matrix.check_size(n)
    chains = [
        Chain(f"{index}/{name}", n, matrix.first_seed(anchor, f"{index}/{name}")) for index, name in enumerate(names)
    ]
    barrier, failures = threading.Barrier(len(chains)), []

    def work(chain: Chain, name: str) -> None:
        try:
            engine = make(chain.seed, matrix.shared_seed(anchor), n, name)
            engine.digests(np.arange(n), matrix.weights(chain.seed, n))  # kernels and pages are warm afterwards
            barrier.wait()
            stop, round_seed = clock() + duration_s, chain.seed
            while (clock() < stop and len(chain.roots) < MAX_ROUNDS) or not chain.roots:
                round_seed = chain.run_round(engine, round_seed, clock)
        except (RuntimeError, EnvironmentProblem, threading.BrokenBarrierError) as err:
            barrier.abort()
            failures.append(f"{name}: {err}")

    threads = [threading.Thread(target=work, args=pair) for pair in zip(chains, names, strict=True)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise EnvironmentProblem("the power test did not run", why="; ".join(failures)[:300])
    picked = draw_rows(anchor, [chain.roots for chain in chains], n, num_opened)
    listed: list[Json] = [
        chain.to_json([(number, row) for place, number, row in picked if place == index])
        for index, chain in enumerate(chains)
    ]
    return {"version": 1, "opened_rows": num_opened, "chains": listed}
