"""The peers of the seal benches, run by the interpreter of their own environment (see seal_world.peers_python).

    python _seal_peers.py speed FILE        seconds of CPU per gigabyte, sealing and loading
    python _seal_peers.py attacks FOLDER    which attacks each peer accepts

Prints one JSON document. Nothing of this repository is imported.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cryptotensors
import cryptotensors.torch
import pyrage
import safetensors.torch
import torch
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from tensorizer import DecryptionParams, EncryptionParams, TensorDeserializer, TensorSerializer

ROUNDS = 3
Tensors = dict[str, torch.Tensor]


class Plain:
    """safetensors as it is; `clone` because its tensors are views of a mapped file."""

    name = "plain safetensors"

    def save(self, tensors: Tensors, path: Path) -> None:
        safetensors.torch.save_file(tensors, path)

    def load(self, path: Path) -> Tensors:
        return {name: tensor.clone() for name, tensor in safetensors.torch.load_file(path).items()}


class Tensorizer:
    """tensorizer, encrypted with a key."""

    name = "tensorizer encrypted"

    def __init__(self) -> None:
        self.encryption = EncryptionParams.random()
        self.decryption = DecryptionParams.from_key(self.encryption.key)

    def save(self, tensors: Tensors, path: Path) -> None:
        serializer = TensorSerializer(str(path), encryption=self.encryption)
        serializer.write_state_dict(tensors)
        serializer.close()

    def load(self, path: Path) -> Tensors:
        return dict(TensorDeserializer(str(path), device="cpu", encryption=self.decryption).items())

    def save_plain(self, tensors: Tensors, path: Path) -> None:
        serializer = TensorSerializer(str(path))
        serializer.write_state_dict(tensors)
        serializer.close()


class CryptoTensors:
    """CryptoTensors, encrypted and signed, keys registered with the reader."""

    name = "CryptoTensors"

    def __init__(self) -> None:
        self.enc = {"kty": "oct", "alg": "aes256gcm", "k": _b64(os.urandom(32)), "kid": "enc"}
        self.sign = _signing_key()
        cryptotensors.register_direct_key_provider(keys=[self.enc, self.sign])

    def save(self, tensors: Tensors, path: Path) -> None:
        cryptotensors.torch.save_file(tensors, path, config={"enc_key": self.enc, "sign_key": self.sign})

    def load(self, path: Path) -> Tensors:
        return cryptotensors.torch.load_file(path)


class Age:
    """pyrage: a safetensors file encrypted to an age recipient."""

    name = "pyrage"

    def __init__(self) -> None:
        self.identity = pyrage.x25519.Identity.generate()

    def save(self, tensors: Tensors, path: Path) -> None:
        path.write_bytes(pyrage.encrypt(safetensors.torch.save(tensors), [self.identity.to_public()]))

    def load(self, path: Path) -> Tensors:
        return safetensors.torch.load(pyrage.decrypt(path.read_bytes(), [self.identity]))


PEERS = (Plain, Tensorizer, CryptoTensors, Age)


def _b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _signing_key() -> dict[str, str]:
    key = Ed25519PrivateKey.generate()
    public = key.public_key().public_bytes_raw()
    return {"kty": "okp", "alg": "ed25519", "d": _b64(key.private_bytes_raw()), "x": _b64(public), "kid": "sign"}


def cpu_s(work: Callable[[], object]) -> float:
    """Return the least CPU seconds of ROUNDS runs."""
    best = float("inf")
    for _ in range(ROUNDS):
        began = time.process_time()
        work()
        best = min(best, time.process_time() - began)
    return best


def speed(source: Path) -> dict[str, Any]:
    """Return GB/s per core of every peer, saving and loading the tensors of a file."""
    tensors = {name: tensor.clone() for name, tensor in safetensors.torch.load_file(source).items()}
    size = sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
    rows: dict[str, Any] = {}
    for kind in PEERS:
        peer = kind()
        path = source.with_name("peer.file")
        saved = cpu_s(lambda p=peer, f=path: p.save(tensors, f))
        loaded = cpu_s(lambda p=peer, f=path: p.load(f))
        result = peer.load(path)
        assert all(torch.equal(result[name], tensors[name]) for name in tensors), peer.name
        del result
        path.unlink()
        rows[peer.name] = {"seal": size / saved / 1e9, "load": size / loaded / 1e9}
    return rows


def attacks(folder: Path) -> dict[str, dict[str, str]]:
    """Return the outcome of every attack on every peer: ACCEPTED, refused, or why there is none."""
    old = {name: torch.full((256, 512), value) for name, value in (("layer.a", 1.0), ("layer.b", 2.0))}
    new = {name: torch.full((256, 512), value) for name, value in (("layer.a", 3.0), ("layer.b", 4.0))}
    table: dict[str, dict[str, str]] = {}
    for kind in PEERS:
        peer = kind()
        row = table[peer.name] = {}
        paths = {label: folder / f"{label}.file" for label in ("old", "new", "evil")}
        peer.save(old, paths["old"])
        peer.save(new, paths["new"])
        good, other = paths["new"].read_bytes(), paths["old"].read_bytes()

        def outcome(data: bytes, wanted: Tensors, peer: Any = peer, path: Path = paths["evil"]) -> str:
            path.write_bytes(data)
            try:
                loaded = peer.load(path)
                same = all(torch.equal(loaded[name], tensor) for name, tensor in wanted.items())
            except BaseException as err:  # noqa: BLE001  a peer may fail in any way it likes: that is a refusal
                return f"refused ({type(err).__name__})"
            return "no effect" if same else "ACCEPTED"

        row["swapped tensors"] = outcome(_swap_names(good), new)
        row["downgrade to plain"] = outcome(_downgrade(peer, old, folder), new)
        row["truncation"] = outcome(good[: len(good) * 2 // 3], new)
        row["splice"] = outcome(good[: len(good) // 2] + other[len(other) // 2 :], new)
        row["insider forges a shard"] = outcome(_forge(peer, old, folder), new)
        row["poisoned mirror"] = outcome(_flip(good), new)
        row["decompression bomb"] = "no compression"
        row["replayed older version"] = outcome(other, new)
        row["wrap for another audience"] = "no audiences"
    return table


def _swap_names(data: bytes) -> bytes:
    """Exchange the tensors: by their names where they can be seen, else by two chunks of ciphertext."""
    changed = data.replace(b"layer.a", b"layer.?").replace(b"layer.b", b"layer.a").replace(b"layer.?", b"layer.b")
    if changed != data:
        return changed
    chunk = len(data) // 4
    return data[:chunk] + data[2 * chunk : 3 * chunk] + data[chunk : 2 * chunk] + data[3 * chunk :]


def _flip(data: bytes) -> bytes:
    changed = bytearray(data)
    changed[len(changed) * 3 // 4] ^= 0x40
    return bytes(changed)


def _downgrade(peer: Any, tensors: Tensors, folder: Path) -> bytes:
    """Return the attacker's plain file in the container that peer reads."""
    path = folder / "plain.file"
    if isinstance(peer, Tensorizer):
        peer.save_plain(tensors, path)
    else:
        safetensors.torch.save_file(tensors, path)
    return path.read_bytes()


def _forge(peer: Any, tensors: Tensors, folder: Path) -> bytes:
    """Return other tensors sealed by somebody who was given the reading key, and no signing key."""
    path = folder / "forged.file"
    if isinstance(peer, CryptoTensors):
        config = {"enc_key": peer.enc, "sign_key": _signing_key()}
        cryptotensors.torch.save_file(tensors, path, config=config)
    else:
        peer.save(tensors, path)
    return path.read_bytes()


def main() -> None:
    """Run what was asked for."""
    torch.set_num_threads(1)
    with contextlib.redirect_stdout(sys.stderr):
        result = speed(Path(sys.argv[2])) if sys.argv[1] == "speed" else attacks(Path(sys.argv[2]))
    print(json.dumps(result))


if __name__ == "__main__":
    main()
