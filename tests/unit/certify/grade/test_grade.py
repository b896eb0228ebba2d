"""The power test: honest machines always pass, cheaters do not."""

from __future__ import annotations

import copy
import time

import numpy as np
import pytest

from stannary.certify.grade import draw, matrix, merkle, passes, prover, scu, transcript
from stannary.errors import FormatError

ANCHOR = b"\x33" * 48
N = 512


class Rounds:
    """A clock that lets `count` rounds pass."""

    def __init__(self, count: int) -> None:
        self._left, self._now = count, 0.0

    def __call__(self) -> float:
        self._now += 0.4
        return self._now


def _prove(make=None, *, anchor=ANCHOR, names=("cpu",), duration_s=2.0, opened=draw.FILE_OPENED):
    make = make or _honest
    return prover.prove(anchor, names, n=N, duration_s=duration_s, num_opened=opened, clock=Rounds(3), make=make)


def _honest(seed, shared, n, _device):
    return prover.NumpyMultiplier(matrix.matrix(seed, "A", n), matrix.matrix(shared, "B", n))


def test_hundred_honest_answers_pass():
    """An honest machine passes a hundred challenges of a hundred."""
    for index in range(100):
        anchor = index.to_bytes(48, "big")
        answer = _prove(anchor=anchor, duration_s=0.5, opened=draw.MIN_OPENED)
        assert transcript.verify(transcript.parse(answer), anchor) == ""


def test_torch_and_numpy_answer_alike():
    """int8 products on torch and numpy give the same digests bit for bit."""
    torch = pytest.importorskip("torch")
    torch.set_num_threads(1)
    seed = b"\x05" * 32
    A_nn, B_nn = matrix.matrix(seed, "A", N), matrix.matrix(seed, "B", N)
    order, weights = matrix.order(b"o" * 32, N), matrix.weights(b"w" * 32, N)
    plain = prover.NumpyMultiplier(A_nn, B_nn).digests(order, weights)
    fast = prover.TorchMultiplier(A_nn, B_nn, "cpu").digests(order, weights)
    exact = A_nn.astype(np.int64) @ B_nn[order].astype(np.int64)
    assert (plain == fast).all()
    assert (plain == matrix.digest_rows(exact.astype(np.int32), weights)).all()


class Cheap:
    """Multiplies in fewer bits than it says."""

    def __init__(self, seed, shared, n, cheat):
        self._A_nn, self._B_nn = matrix.matrix(seed, "A", n), matrix.matrix(shared, "B", n)
        self._cheat = cheat

    def digests(self, order, weights):
        """Answer with a cheap product."""
        import torch

        A, B = self._A_nn.astype(np.float32), self._B_nn[order].astype(np.float32)
        if self._cheat == "int4":
            C = ((A // 16 * 16) @ (B // 16 * 16)).astype(np.int32)
        elif self._cheat == "fp8":
            A8, B8 = (torch.from_numpy(item).to(torch.float8_e4m3fn).to(torch.float32) for item in (A, B))
            C = (A8 @ B8).numpy().astype(np.int32)
        else:
            C = (
                (torch.from_numpy(A) @ torch.from_numpy(B))
                .to(torch.bfloat16)
                .to(torch.float32)
                .numpy()
                .astype(np.int32)
            )
        return matrix.digest_rows(C, weights)


@pytest.mark.parametrize("cheat", ["int4", "fp8", "bf16"])
def test_cheap_products_pass_no_row(cheat):
    """Products in int4, fp8 or bf16 are wrong in every row."""
    seed = matrix.first_seed(ANCHOR, "0/cpu")
    order, weights = matrix.order(seed, N), matrix.weights(seed, N)
    cheap = Cheap(seed, seed, N, cheat).digests(order, weights)
    true = _honest(seed, seed, N, "cpu").digests(order, weights)
    assert int((cheap == true).sum()) == 0
    answer = _prove(lambda seed, shared, n, _device: Cheap(seed, shared, n, cheat))
    assert "opened rows are wrong" in transcript.verify_bench(answer, ANCHOR).problem


def test_one_row_in_ten_faked_survives_less_than_once_in_a_thousand():
    """Of 10,000 provers who fake a tenth of their rows at most ten pass the openings."""
    generator = np.random.default_rng(7)
    rounds, n = 5, 4096
    roots = [bytes([index]) * 32 for index in range(rounds)]
    passed = 0
    for trial in range(10_000):
        faked = generator.random((rounds, n // 64)) < 0.1  # whole blocks, the cheapest way to fake
        picked = draw.draw_rows(ANCHOR, [roots], n, draw.MIN_OPENED, salt=trial.to_bytes(8, "big"))
        passed += not any(faked[number, row // 64] for _, number, row in picked)
    assert passed <= 10  # 0.9 ** 80 * 10,000 = 2.2 expected
    assert draw.escape_probability(0.1, draw.MIN_OPENED) <= 1e-3
    assert draw.escape_probability(0.1, draw.FILE_OPENED, grinding_bits=draw.GRINDING_BITS) <= 1e-3


def test_answer_to_another_anchor_is_refused():
    """A transcript made for one nonce and key does not answer another."""
    assert transcript.verify_bench(_prove(), b"\x34" * 48).problem


def test_few_openings_in_a_file_are_refused():
    """A file that opens only as many rows as a live exchange leaves room for grinding."""
    answer = _prove(opened=draw.MIN_OPENED)
    assert "a file needs" in transcript.verify_bench(answer, ANCHOR).problem
    with pytest.raises(FormatError):
        transcript.parse({**answer, "opened_rows": 79})


def test_one_device_cannot_answer_twice():
    """Two chains must be two places; a copied chain is refused."""
    answer = _prove(names=("cpu:0", "cpu:1"))
    assert not transcript.verify_bench(answer, ANCHOR).problem
    copied = copy.deepcopy(answer)
    copied["chains"][1] = copied["chains"][0]
    assert transcript.verify_bench(copied, ANCHOR).problem
    copied["chains"][1] = {**copied["chains"][0], "device": "1/cpu:1"}
    assert "opened rows are wrong" in transcript.verify_bench(copied, ANCHOR).problem
    assert "name one device" in transcript.verify_bench(_prove(names=("cpu", "cpu")), ANCHOR).problem


def test_changed_digest_root_or_path_is_refused():
    """Whatever is changed in an answer, it is refused."""
    answer = _prove()
    for change in ("digests", "path"):
        changed = copy.deepcopy(answer)
        for block in changed["chains"][0]["opened"].values():
            block[change] = "00" * 256 if change == "digests" else ["11" * 32] * len(block["path"])
        assert "not under its root" in transcript.verify_bench(changed, ANCHOR).problem
    changed = copy.deepcopy(answer)
    changed["chains"][0]["roots"][0] = "22" * 32
    assert transcript.verify_bench(changed, ANCHOR).problem


def test_verifier_needs_no_torch_and_two_seconds():
    """A prover of any size costs the verifier at most two CPU-seconds; here a small one."""
    answer = _prove()
    start = time.process_time()
    assert transcript.verify_bench(answer, ANCHOR).problem == ""
    assert time.process_time() - start < 2.0


def test_power_is_never_above_the_verifiers_own_clock():
    """A node that says its rounds took a millisecond gets what passed at the verifier."""
    answer = _prove()
    answer["chains"][0]["times_ms"] = [1] * len(answer["chains"][0]["roots"])
    grade = transcript.verify_bench(answer, ANCHOR)
    work = 2 * N**3 * len(answer["chains"][0]["roots"])
    assert grade.int8_tops(10.0) == pytest.approx(work / 10.0 / 1e12)
    assert grade.int8_tops() > grade.int8_tops(10.0)


def test_scu_is_capped_by_the_roofline():
    """A fast GPU behind slow memory is worth its memory; what was not measured is said so."""
    reference = dict(scu.REFERENCE)
    assert scu.scu("train", reference) == pytest.approx(1.0)
    thin = {**reference, "network_gb_per_s": 0.1}
    assert scu.scu("train", thin) == pytest.approx(1.25 * 0.1 / 25)
    assert scu.scu("train", {"int8_tops": 1.0}) is None
    assert scu.scu_text("train", {"int8_tops": 1.0}) == "not measured"


def test_merkle_paths_bind_place_and_bytes():
    """A block is under the root only at its own place."""
    data = bytes(range(256)) * 8
    tree = merkle.levels(data)
    block = data[256:512]
    assert merkle.root_of(block, 1, merkle.path(tree, 1)) == tree[-1][0]
    assert merkle.root_of(block, 2, merkle.path(tree, 2)) != tree[-1][0] or data[:256] == block
    with pytest.raises(FormatError):
        merkle.root_of(block, 99, merkle.path(tree, 1))


def test_memory_and_disk_passes_measure(tmp_path):
    """Both passes give positive rates from what they really moved."""
    assert passes.memory_mb_per_s(ANCHOR, size=8 << 20) > 0
    assert passes.disk_mb_per_s(ANCHOR, tmp_path, size=1 << 20) > 0
