"""The power test: what a verifier pays, what an honest machine gets, what cheaters pass."""

from __future__ import annotations

import json
import os
import time

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np

from stannary.certify.grade import draw, matrix, passes, prover, transcript

ANCHOR = b"\x21" * 48
SIZES = ((2048, 1), (4096, 1), (8192, 1), (8192, 8))
NUM_PROVERS = 10_000


class Recorded:
    """A prover whose answers are made row by row by the verifier's own code: times only the verifier."""

    def __init__(self, n: int) -> None:
        self._n = n

    def digests(self, _order_n: np.ndarray, _u_n: np.ndarray) -> np.ndarray:
        """Return zeros; the openings are wrong, the cost of finding out is the same."""
        return np.zeros(self._n, dtype=np.uint32)


def verifier() -> None:
    """CPU-seconds of a verification, by matrix size."""
    for n, num_devices in SIZES:
        names = [f"cpu:{index}" for index in range(num_devices)]
        answer = prover.prove(ANCHOR, names, n=n, duration_s=0.5, num_opened=draw.FILE_OPENED,
                              make=lambda _seed, _shared, size, _device: Recorded(size))  # fmt: skip
        record = transcript.parse(answer)
        start = time.process_time()
        transcript.verify(record, ANCHOR)
        spent = time.process_time() - start
        print(f"verifier n={n:>5}, {num_devices} devices, {draw.FILE_OPENED} rows: {spent:.2f} CPU-s (target 2), "
              f"answer {len(json.dumps(answer)) / 1024:.0f} KiB")  # fmt: skip


def honest() -> None:
    """This machine's own power, and a hundred honest answers."""
    answer = prover.prove(ANCHOR, ["cpu"], n=2048, duration_s=3.0, num_opened=draw.FILE_OPENED)
    grade = transcript.verify_bench(answer, ANCHOR)
    gops = grade.int8_tops() * 1000
    print(f"this machine: {gops:.1f} int8 GOP/s (torch on one core), {grade.problem or 'verified'}; "
          f"memory {passes.memory_mb_per_s(ANCHOR):,} MB/s, disk {passes.disk_mb_per_s(ANCHOR):,} MB/s")  # fmt: skip
    passed = 0
    for index in range(100):
        anchor = index.to_bytes(48, "big")
        made = prover.prove(anchor, ["cpu"], n=512, duration_s=0.02, num_opened=draw.MIN_OPENED)
        passed += transcript.verify(transcript.parse(made), anchor) == ""
    print(f"honest re-pass: {passed} of 100")


def cheaters() -> None:
    """10,000 provers who fake a tenth of their rows, and products in fewer bits."""
    generator, n, rounds = np.random.default_rng(11), 4096, 5
    roots = [bytes([index]) * 32 for index in range(rounds)]
    survived = 0
    for trial in range(NUM_PROVERS):
        faked = generator.random((rounds, n)) < 0.1
        picked = draw.draw_rows(ANCHOR, [roots], n, draw.MIN_OPENED, salt=trial.to_bytes(8, "big"))
        survived += not any(faked[number, row] for _, number, row in picked)
    print(f"10 % faked rows, {draw.MIN_OPENED} opened: {survived} of {NUM_PROVERS:,} pass "
          f"(expected {NUM_PROVERS * 0.9**draw.MIN_OPENED:.1f}, target 10)")  # fmt: skip
    import torch

    A, B = (matrix.matrix(b"\1" * 32, name, 1024).astype(np.float32) for name in "AB")
    u = matrix.weights(b"\1" * 32, 1024)
    true = matrix.digest_rows((A.astype(np.float64) @ B.astype(np.float64)).astype(np.int32), u)
    eighth = [torch.from_numpy(item).to(torch.float8_e4m3fn).to(torch.float32).numpy() for item in (A, B)]
    cheap = {
        "int4": (A // 16 * 16) @ (B // 16 * 16),
        "fp8": eighth[0] @ eighth[1],
        "bf16": torch.from_numpy(A @ B).to(torch.bfloat16).to(torch.float32).numpy(),
    }
    for name, C in cheap.items():
        rows = int((matrix.digest_rows(C.astype(np.int32), u) == true).sum())
        print(f"{name} products: {rows} of 1,024 rows pass")


def main() -> None:
    """Print every figure."""
    verifier()
    honest()
    cheaters()


if __name__ == "__main__":
    main()
