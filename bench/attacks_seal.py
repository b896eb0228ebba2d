"""The attack table: what each format takes for right that is wrong.

    python bench/attacks_seal.py

Every attack is carried out on real files of this format and of each peer, in one process group. ACCEPTED
means the reader returned other tensors than the ones sealed, without an error. Exit code 1 if ours has a
hole. The same attacks on ours are kept as tests (tests/unit/seal/test_tamper.py).
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch
import zstandard
from bench import _seal_world as world
from safetensors.torch import save_file

from stannary.errors import StannaryError
from stannary.formats.digest import Digest
from stannary.seal import codec, message, sealing, torch_tensors, wrap
from stannary.seal.keys import OwnerKey, ReceivingKey
from stannary.seal.reader import SealedArtifact
from stannary.seal.sealing import SealOptions
from stannary.seal.stores.directory import DirectoryStore
from stannary.seal.stores.mirrors import Mirrors
from stannary.seal.stores.source import envelope_name, head_name, object_name

OWNER = OwnerKey(bytes(range(32)))
NODE = ReceivingKey(bytes(range(96)))
SHARD_BYTES = 256 * 1024
OURS = "seal/v1"

Tensors = dict[str, torch.Tensor]


class World:
    """Two versions of one model in one store, and a copy of the store for the attacker to work on."""

    def __init__(self, folder: Path) -> None:
        self.store = folder / "evil"
        self.old = self._sealed(folder, "old", (1.0, 2.0))
        self.new = self._sealed(folder, "new", (3.0, 4.0))
        self.wanted = self.tensors((3.0, 4.0))

    @staticmethod
    def tensors(values: tuple[float, float]) -> Tensors:
        """Return two tensors of one shape."""
        return {name: torch.full((256, 512), value) for name, value in zip(("layer.a", "layer.b"), values, strict=True)}

    def artifact(self, digest: Digest) -> SealedArtifact:
        """Open from the attacker's store."""
        return SealedArtifact(Mirrors(digest, (DirectoryStore(self.store),), pause=lambda _: None), OWNER)

    def path(self, digest: Digest, number: int) -> Path:
        """Return where a shard of an artifact lies."""
        return self.store / object_name(self.artifact(digest).head.shards[number])

    def outcome(self) -> str:
        """Load the new version from the attacker's store."""
        try:
            loaded = torch_tensors.load(self.artifact(self.new))
        except StannaryError as err:
            return f"refused ({err.code})"
        same = all(torch.equal(loaded[name], tensor) for name, tensor in self.wanted.items())
        return "no effect" if same else "ACCEPTED"

    def _sealed(self, folder: Path, name: str, values: tuple[float, float]) -> Digest:
        path = folder / f"{name}.safetensors"
        save_file(self.tensors(values), path)
        return sealing.seal(path, DirectoryStore(self.store), OWNER, SealOptions(shard_bytes=SHARD_BYTES)).digest


def swap(world_: World) -> None:
    """Exchange the shards of the two tensors."""
    paths = [world_.path(world_.new, number) for number in (1, 3)]
    first, second = (path.read_bytes() for path in paths)
    paths[0].write_bytes(second)
    paths[1].write_bytes(first)


def downgrade(world_: World) -> None:
    """Put the attacker's plain file where the head was."""
    save_file(world_.tensors((1.0, 2.0)), world_.store / head_name(world_.new))


def truncate(world_: World) -> None:
    """Cut a shard at a chunk boundary."""
    path = world_.path(world_.new, 2)
    path.write_bytes(path.read_bytes()[: 56 + 4 * 16_400])


def splice(world_: World) -> None:
    """Put the second half of an older shard behind the first half of the new one."""
    new, old = world_.path(world_.new, 1), world_.path(world_.old, 1)
    half = new.stat().st_size // 2
    new.write_bytes(new.read_bytes()[:half] + old.read_bytes()[half:])


def forge(world_: World) -> None:
    """Seal other weights with the very key of the shard, as any recipient of it can."""
    artifact = world_.artifact(world_.new)
    shard = artifact.manifest.shards[1]
    other = torch.full((shard.size // 4,), 1.0).numpy().tobytes()
    forged, _ = message.ShardSealer(shard.size).seal(memoryview(other), artifact.shard_key(1))
    world_.path(world_.new, 1).write_bytes(forged)


def poison(world_: World) -> None:
    """Flip a bit."""
    path = world_.path(world_.new, 1)
    data = bytearray(path.read_bytes())
    data[len(data) * 3 // 4] ^= 0x40
    path.write_bytes(data)


def replay(world_: World) -> None:
    """Serve the older version, head and signature included, under the newer digest."""
    for name in (head_name, envelope_name):
        shutil.copy(world_.store / name(world_.old), world_.store / name(world_.new))


def bomb() -> str:
    """Give the decoder a frame of 32 KiB that unfolds to a gigabyte."""
    compressor = zstandard.ZstdCompressor(level=3, write_content_size=True).compressobj(size=1 << 30)
    frame = b"".join(compressor.compress(bytes(1 << 20)) for _ in range(1 << 10)) + compressor.flush()
    stored = len(frame).to_bytes(4, "big") + frame + bytes(1000)
    try:
        codec.decode_bf16_split(stored, memoryview(bytearray(2000)))
    except StannaryError as err:
        return f"refused ({err.code})"
    return "ACCEPTED"


def other_audience(world_: World) -> str:
    """Open a wrap that was made for another job."""
    now = datetime.now(UTC)
    head = world_.artifact(world_.new).head
    terms = ("job-1", now + timedelta(hours=1))
    data = wrap.wrap(head, OWNER, ("index", "tensors"), wrap.public_key(NODE.public), terms)
    for given in (data, data.replace(b"job-1", b"job-2")):
        try:
            wrap.unwrap(given, NODE, artifact=world_.new, audience="job-2", now=now)
        except StannaryError as err:
            result = f"refused ({err.code})"
        else:
            return "ACCEPTED"
    return result


ATTACKS: dict[str, Callable[[World], None]] = {
    "swapped tensors": swap,
    "downgrade to plain": downgrade,
    "truncation": truncate,
    "splice": splice,
    "insider forges a shard": forge,
    "poisoned mirror": poison,
    "replayed older version": replay,
}
ORDER = (
    "swapped tensors", "downgrade to plain", "truncation", "splice", "insider forges a shard", "poisoned mirror",
    "decompression bomb", "replayed older version", "wrap for another audience",
)  # fmt: skip


def ours(folder: Path) -> dict[str, str]:
    """Carry out every attack on seal/v1, each on a fresh store."""
    result: dict[str, str] = {}
    for number, (name, attack) in enumerate(ATTACKS.items()):
        place = folder / str(number)
        place.mkdir()
        target = World(place)
        assert target.outcome() == "no effect"
        attack(target)
        result[name] = target.outcome()
    result["decompression bomb"] = bomb()
    result["wrap for another audience"] = other_audience(World(folder))
    return result


def main() -> int:
    """Print the table."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        table = {OURS: ours(folder), **world.peers("attacks", str(folder))}
    width = 26
    print(f"{'':<{width}}" + "".join(f"{column:<{width}}" for column in table))
    for attack in ORDER:
        print(f"{attack:<{width}}" + "".join(f"{row[attack][: width - 2]:<{width}}" for row in table.values()))
    holes = [attack for attack in ORDER if not table[OURS][attack].startswith("refused")]
    print("ours: no hole" if not holes else f"ours: {', '.join(holes)}")
    return 1 if holes else 0


if __name__ == "__main__":
    sys.exit(main())
