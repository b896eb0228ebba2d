"""The verifier's side of the power test: numpy, no torch, at most two CPU-seconds for any prover.

Rules:
1. The seed of every chain follows from the anchor and the chain's place; nothing of it is read.
2. Every opened row is recomputed bit for bit from A, B and the round's seed, and its block must lie
   under the round's root. One wrong row refuses the chain.
3. The power claimed is work done over time *passed at the verifier*: a node's own clock can lie. Its
   own times are used only downwards: the lower 5 % quantile of its rounds.
4. Two chains of one device name are one device counted twice, and refused. Names are still only names: how many
   accelerators there are is for their own signed reports to say (`appraise.py`).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import numpy as np

from stannary.certify.grade import matrix, merkle
from stannary.certify.grade.draw import FILE_OPENED, GRINDING_BITS, MIN_OPENED, draw_rows, escape_probability
from stannary.certify.grade.scu import Grade, Power
from stannary.certify.octets import unhex
from stannary.errors import FormatError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from stannary.formats.canonical import Json

MAX_CHAINS = 32
MAX_ROUNDS = 100_000
MAX_ROOT_BYTES = 32
LOW_QUANTILE = 0.05
_DEVICE = re.compile(r"[0-9]{1,2}/(cpu|cuda)(:[0-9]{1,2})?", re.ASCII)


@dataclass(frozen=True, slots=True)
class ChainRecord:
    """One parsed chain."""

    device: str
    n: int
    roots: tuple[bytes, ...]
    times_ms: tuple[int, ...]
    opened: dict[tuple[int, int], tuple[bytes, tuple[bytes, ...]]]

    @property
    def operations(self) -> int:
        """Integer operations done: two a multiply-add."""
        return 2 * self.n**3 * len(self.roots)


@dataclass(frozen=True, slots=True)
class Transcript:
    """A parsed transcript: products of every device, and the other passes as declared."""

    opened_rows: int
    chains: tuple[ChainRecord, ...]
    passes: dict[str, Json]


def parse(members: dict[str, Json]) -> Transcript:
    """Read a transcript strictly."""
    if set(members) - {"version", "opened_rows", "chains", "passes"} or members.get("version") != 1:
        raise FormatError("not a power test transcript", why=", ".join(sorted(members))[:100])
    opened, chains, passes = members.get("opened_rows"), members.get("chains"), members.get("passes", {})
    if not isinstance(opened, int) or isinstance(opened, bool) or not MIN_OPENED <= opened <= 4096:
        raise FormatError("power test opens too few rows or too many", why=f"{opened!r:.20}, at least {MIN_OPENED}")
    if not isinstance(chains, list) or not 1 <= len(chains) <= MAX_CHAINS or not isinstance(passes, dict):
        raise FormatError("power test holds no chains or too many")
    return Transcript(opened, tuple(_chain(item) for item in chains), passes)


def verify_bench(members: dict[str, Json], anchor: bytes) -> Grade:
    """Check a transcript from a file: rows are drawn from the roots, so FILE_OPENED of them are needed."""
    transcript = parse(members)
    if transcript.opened_rows < FILE_OPENED:
        return Grade.refused(f"{transcript.opened_rows} rows opened, a file needs {FILE_OPENED}")
    problem = verify(transcript, anchor)
    if problem:
        return Grade.refused(problem)
    return Grade.measured(
        tuple(Power(item.device, item.operations, low_rate(item)) for item in transcript.chains),
        transcript.passes,
        escape=escape_probability(0.1, transcript.opened_rows, grinding_bits=GRINDING_BITS),
    )


def verify(transcript: Transcript, anchor: bytes, *, salt: bytes = b"") -> str:
    """Return why a transcript is refused, empty if every opened row holds (rule 2)."""
    chains = transcript.chains
    places = [item.device.partition("/")[0] for item in chains]
    if places != [str(index) for index in range(len(places))]:
        return "chains are not numbered from 0: one device would count twice"
    if len({item.device.partition("/")[2] for item in chains}) != len(chains):
        return "two chains name one device: it would count twice"
    if len({item.n for item in chains}) != 1:
        return "chains are of different sizes"
    n = chains[0].n
    picked = draw_rows(anchor, [item.roots for item in chains], n, transcript.opened_rows, salt=salt)
    claimed = np.empty(len(picked), dtype=np.uint32)
    for place, (index, number, row) in enumerate(picked):
        found = _opened_digest(chains[index], number, row)
        if isinstance(found, str):
            return f"device {chains[index].device}: {found}"
        claimed[place] = found
    wrong = np.flatnonzero(recompute(chains, anchor, picked) != claimed)
    if len(wrong):
        index, number, row = picked[int(wrong[0])]
        first = f"first row {row} of round {number} of device {chains[index].device}"
        return f"{len(wrong)} of {len(picked)} opened rows are wrong, {first}"
    return ""


def _opened_digest(chain: ChainRecord, number: int, row: int) -> int | str:
    """Return the digest a chain opened for a row, or why it did not."""
    block = row // merkle.BLOCK_ROWS
    entry = chain.opened.get((number, block))
    if entry is None:
        return f"row {row} of round {number} is not opened"
    data, siblings = entry
    if merkle.root_of(data, block, list(siblings)) != chain.roots[number]:
        return f"row {row} of round {number} is not under its root"
    inside = merkle.DIGEST_BYTES * (row % merkle.BLOCK_ROWS)
    return int.from_bytes(data[inside : inside + merkle.DIGEST_BYTES], "little")


def recompute(chains: tuple[ChainRecord, ...], anchor: bytes, picked: list[tuple[int, int, int]]) -> NDArray[np.uint32]:
    """Return the digests of the picked rows, (k,), in one product with the unordered B."""
    n = chains[0].n
    placed_kn = np.empty((len(picked), n), dtype=np.int8)
    rounds: dict[tuple[int, int], bytes] = {}
    for index, chain in enumerate(chains):
        seed = matrix.first_seed(anchor, chain.device)
        seeds = _seeds(seed, chain.roots, {number for other, number, _ in picked if other == index})
        rounds.update({(index, number): value for number, value in seeds.items()})
        mine = [place for place, (other, _, _) in enumerate(picked) if other == index]
        if mine:
            placed_kn[mine] = matrix.rows(seed, "A", n, [picked[place][2] for place in mine])
    orders = {key: matrix.order(value, n) for key, value in rounds.items()}
    for place, (index, number, _) in enumerate(picked):
        # A[i] @ B[pi] equals a' @ B where a'[pi[j]] = A[i, j].
        row_n = placed_kn[place].copy()
        placed_kn[place, orders[index, number]] = row_n
    C_kn = matrix.product(placed_kn, matrix.matrix(matrix.shared_seed(anchor), "B", n))
    found = np.empty(len(picked), dtype=np.uint32)
    for key, value in rounds.items():
        mine = [place for place, (index, number, _) in enumerate(picked) if (index, number) == key]
        found[mine] = matrix.digest_rows(C_kn[mine], matrix.weights(value, n))
    return found


def low_rate(chain: ChainRecord) -> float:
    """Return the lower 5 % quantile of the node's own round rates, operations a second (rule 3)."""
    times_s = np.quantile(np.asarray(chain.times_ms, dtype=np.float64) / 1000, 1 - LOW_QUANTILE)
    return float(2 * chain.n**3 / times_s)


def _seeds(seed: bytes, roots: tuple[bytes, ...], wanted: set[int]) -> dict[int, bytes]:
    found, value = {}, seed
    for number, root in enumerate(roots):
        if number in wanted:
            found[number] = value
        value = matrix.next_seed(value, root)
    return found


def _chain(value: Json) -> ChainRecord:
    if not isinstance(value, dict) or set(value) != {"device", "n", "roots", "times_ms", "opened"}:
        raise FormatError("power test chain has missing or unknown members")
    device, n, roots, times, opened = (value[name] for name in ("device", "n", "roots", "times_ms", "opened"))
    if (
        not isinstance(device, str)
        or _DEVICE.fullmatch(device) is None
        or not isinstance(n, int)
        or isinstance(n, bool)
    ):
        raise FormatError("power test chain names no device or size")
    matrix.check_size(n)
    if not isinstance(roots, list) or not isinstance(times, list) or not 1 <= len(roots) <= MAX_ROUNDS:
        raise FormatError("power test chain has no rounds or too many")
    if len(times) != len(roots) or not all(type(item) is int and 0 < item < 10**9 for item in times):
        raise FormatError("power test chain does not time every round")
    if not isinstance(opened, dict) or len(opened) > 4096:
        raise FormatError("power test chain opens nothing or too much")
    raw = tuple(unhex(item, "root") for item in roots)
    if any(len(item) != MAX_ROOT_BYTES for item in raw):
        raise FormatError("power test root has another length")
    blocks = dict(_opened(name, item) for name, item in opened.items())
    return ChainRecord(device, n, raw, tuple(cast("list[int]", times)), blocks)


def _opened(name: str, value: Json) -> tuple[tuple[int, int], tuple[bytes, tuple[bytes, ...]]]:
    number, _, block = name.partition("/")
    if not (number.isascii() and number.isdigit() and block.isascii() and block.isdigit()) or len(name) > 20:
        raise FormatError("power test opens an unnamed block", why=name[:40])
    if not isinstance(value, dict) or set(value) != {"digests", "path"} or not isinstance(value["path"], list):
        raise FormatError("power test block has missing or unknown members", why=name[:40])
    data = unhex(value["digests"], "digests")
    siblings = tuple(unhex(item, "sibling") for item in value["path"])
    if len(data) != merkle.BLOCK_ROWS * merkle.DIGEST_BYTES or len(siblings) > 32:
        raise FormatError("power test block has another size", why=f"{len(data)} bytes, {len(siblings)} siblings")
    return (int(number), int(block)), (data, siblings)
