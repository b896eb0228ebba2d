"""Makes the seal/v1 vectors: a second writer of the format, from docs/seal-v1.md alone.

    python tests/vectors/seal/generate.py [FOLDER]

Nothing of `stannary` is imported: messages are built from HKDF and AES-GCM with fixed salts, so the same
bytes come out every time and `make vectors` can end in `git diff --exit-code`. Salts and keys that are
fixed are for vectors only. `wrap.json` was made once (HPKE cannot be made with fixed randomness) and is kept.

    store/           good artifacts, and artifacts that the owner signed although they break a rule
    vectors.json     keys, files and refusals expected
"""

from __future__ import annotations

import base64
import hashlib
import json
import shutil
import struct
import sys
from pathlib import Path
from typing import Any

import blake3
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256, SHA512
from cryptography.hazmat.primitives.kdf.hkdf import HKDF, HKDFExpand

HERE = Path(__file__).resolve().parent
SECRET = bytes(range(32))
CHUNK, PAD = 16384, 65536

Json = dict[str, Any]


def jcs(value: Any) -> bytes:
    """Canonical JSON; every name here is ASCII, so code point order is UTF-16 order."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def fixed(label: str, size: int = 32) -> bytes:
    """Fixed bytes in place of random ones."""
    return hashlib.shake_256(label.encode()).digest(size)


def derive(label: str, size: int = 32, salt: bytes | None = None) -> bytes:
    """Section 7."""
    return HKDF(SHA256(), size, salt, b"stannary owner v1 " + label.encode()).derive(SECRET)


def message(plain: bytes, key: bytes, context: bytes, salt: bytes) -> bytes:
    """Cobblestone-256 (C2SP chunked-encryption) with a given salt."""
    info = b"c2sp.org/chunked-encryption@v1+AEAD_AES_256_GCM\0" + salt + context
    okm = HKDFExpand(SHA512(), 76, info).derive(key)
    cipher, base = AESGCM(okm[:32]), int.from_bytes(okm[32:44], "big")
    chunks = [plain[start : start + CHUNK] for start in range(0, len(plain) + 1, CHUNK)]
    body = [cipher.encrypt((base ^ number).to_bytes(12, "big"), chunk, None) for number, chunk in enumerate(chunks)]
    return salt + okm[44:] + b"".join(body)


def context(label: str, size: int, *names: bytes) -> bytes:
    """Section 2."""
    return label.encode() + b"".join(struct.pack(">I", len(name)) + name for name in names) + struct.pack(">Q", size)


def frame(data: bytes, declared: int | None = None) -> bytes:
    """A zstd frame of raw blocks with its content size declared (RFC 8878): the same bytes from every library."""
    size = len(data) if declared is None else declared
    head = b"\x28\xb5\x2f\xfd" + bytes([0xA0]) + struct.pack("<I", size)
    blocks = [data[start : start + 0x10000] for start in range(0, len(data), 0x10000)] or [b""]
    parts = [
        struct.pack("<I", len(block) << 3 | (number == len(blocks) - 1))[:3] + block
        for number, block in enumerate(blocks)
    ]
    return head + b"".join(parts)


def section(data: bytes) -> bytes:
    """Section 5."""
    return struct.pack(">I", len(data)) + data


class Writer:
    """Writes artifacts into a store."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.owner = Ed25519PrivateKey.from_private_bytes(derive("sign"))
        for folder in ("head", "b3"):
            (root / folder).mkdir(parents=True)

    def put(self, sealed: bytes) -> str:
        """Store a ciphertext and return its object name."""
        name = blake3.blake3(sealed).hexdigest()
        (self.root / "b3" / name).write_bytes(sealed)
        return f"b3:{name}:{len(sealed)}"

    def shard(self, label: str, stored: bytes, padding: bytes | None = None) -> tuple[str, bytes]:
        """Seal what a shard stores; return its object name and key."""
        filler = bytes(-len(stored) % PAD) if padding is None else padding
        key = fixed("key " + label)
        size = len(stored) + len(filler)
        return self.put(message(stored + filler, key, context("seal/v1 shard", size), fixed(label, 24))), key

    def artifact(self, label: str, manifest: Json, shards: list[tuple[str, bytes]], parent: str | None = None) -> Json:
        """Seal groups and manifest, write and sign the head."""
        number = fixed("artifact " + label)
        for index, group in enumerate(manifest["groups"]):
            keys = b"".join(
                key for row, (_, key) in zip(manifest["shards"], shards, strict=False) if row["group"] == index
            )
            ctx = context("seal/v1 group", len(keys), number, group["id"].encode())
            sealed = message(keys, derive("group " + group["id"], salt=number), ctx, fixed(label + group["id"], 24))
            group["keys"] = base64.b64encode(sealed).decode()
        plain = jcs({**manifest, "format": "seal/v1 manifest", "artifact": number.hex()})
        ctx = context("seal/v1 manifest", len(plain), number)
        sealed = self.put(message(plain, derive("manifest", salt=number), ctx, fixed("manifest " + label, 24)))
        head = {
            "format": "seal/v1", "suite": "cobblestone-256+blake3", "artifact": number.hex(),
            "owner": self.owner.public_key().public_bytes_raw().hex(), "manifest": sealed,
            "shards": [name for name, _ in shards], **({"parent": parent} if parent else {}),
        }  # fmt: skip
        digest = self.publish(head)
        groups = {group["id"]: derive("group " + group["id"], salt=number).hex() for group in manifest["groups"]}
        return {
            "digest": digest, "artifact": number.hex(), "groups": groups,
            "manifest_key": derive("manifest", salt=number).hex(),
        }  # fmt: skip

    def publish(self, head: Json) -> str:
        """Write a head and the owner's signature (section 3)."""
        data = jcs(head)
        name = hashlib.sha256(data).hexdigest()
        objects = [head["manifest"], *head["shards"]]
        claim = {
            "format": head["format"], "suite": head["suite"], "artifact": head["artifact"],
            "num_shards": len(head["shards"]), "sealed_bytes": sum(int(item.split(":")[2]) for item in objects),
            **({"parent": head["parent"]} if "parent" in head else {}),
        }  # fmt: skip
        payload = jcs(
            {
                "_type": "https://in-toto.io/Statement/v1",
                "subject": [{"name": "seal/v1 head", "digest": {"sha256": name}}],
                "predicateType": "urn:stannary:sealed-artifact:v1",
                "predicate": claim,
            }
        )
        kind = b"application/vnd.in-toto+json"
        signature = self.owner.sign(b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(payload), payload))
        public = self.owner.public_key().public_bytes_raw()
        envelope = {
            "payload": base64.b64encode(payload).decode(),
            "payloadType": kind.decode(),
            "signatures": [
                {
                    "keyid": "ed25519:" + hashlib.sha256(public).hexdigest(),
                    "sig": base64.b64encode(signature).decode(),
                }
            ],
        }
        (self.root / "head" / name).write_bytes(data)
        (self.root / "head" / f"{name}.dsse").write_bytes(jcs(envelope))
        return "sha256:" + name


def model(words: list[int]) -> tuple[bytes, int]:
    """A safetensors file of two bf16 tensors in two blocks; returns it and its header's length."""
    half = len(words) // 2
    header = {
        f"model.layers.{block}.w": {"dtype": "BF16", "shape": [half], "data_offsets": [start, start + 2 * half]}
        for block, start in ((0, 0), (1, 2 * half))
    }
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    start = struct.pack("<Q", len(text)) + text
    return start + struct.pack(f"<{len(words)}H", *words), len(start)


def row(offset: int, plain: bytes, group: int, stored: int | None = None, **more: Any) -> Json:
    """One shard of file 0."""
    size = len(plain)
    return {
        "file": 0, "offset": offset, "size": size, "stored": size if stored is None else stored, "group": group,
        "plain": blake3.blake3(plain).hexdigest(), "codec": "raw", **more,
    }  # fmt: skip


def listing(data: bytes, header: int, shards: list[Json]) -> Json:
    """The manifest of a model file."""
    half = (len(data) - header) // 2
    return {
        "layout": "file", "name": "model.safetensors", "folders": [],
        "files": [{"path": "model.safetensors", "size": len(data), "kind": "safetensors", "header": header}],
        "tensors": [
            {
                "file": 0, "name": f"model.layers.{block}.w", "dtype": "BF16", "shape": [half // 2],
                "begin": header + half * block, "end": header + half * (block + 1),
            }
            for block in (0, 1)
        ],
        "groups": [{"id": "index"}, {"id": "layers.0"}, {"id": "layers.1"}],
        "shards": shards,
    }  # fmt: skip


def split(plain: bytes) -> tuple[bytes, bytes]:
    """The two planes of bf16-split-zstd."""
    words = struct.unpack(f"<{len(plain) // 2}H", plain)
    return bytes(word >> 7 & 0xFF for word in words), bytes(word >> 8 & 0x80 | word & 0x7F for word in words)


def xor_sparse(plain: bytes, base: bytes) -> bytes:
    """xor-sparse-zstd in words of two bytes."""
    kind = f"<{len(plain) // 2}H"
    pairs = zip(struct.unpack(kind, plain), struct.unpack(kind, base), strict=True)
    words = [left ^ right for left, right in pairs]
    bits = "".join("1" if word else "0" for word in words)
    bits += "0" * (-len(bits) % 8)
    values = [word for word in words if word]
    planes = [bytes(word >> 8 * plane & 0xFF for word in values) for plane in (0, 1)]
    bitmap = section(frame(int(bits, 2).to_bytes(len(bits) // 8, "big")))
    return b"\x02" + bitmap + struct.pack(">I", len(values)) + b"".join(section(frame(plane)) for plane in planes)


def generate(folder: Path) -> None:
    """Write everything."""
    store = folder / "store"
    shutil.rmtree(store, ignore_errors=True)
    writer = Writer(store)
    words = list(struct.unpack("<4000H", fixed("weights", 8000)))
    data, header = model(words)
    parts = [(0, data[:header]), (header, data[header : header + 4000]), (header + 4000, data[header + 4000 :])]
    rows = [row(offset, plain, number) for number, (offset, plain) in enumerate(parts)]
    shards = [writer.shard(f"shard {number}", plain) for number, (_, plain) in enumerate(parts)]
    raw = writer.artifact("raw", listing(data, header, rows), shards)

    tuned_words = [word ^ 1 if place % 5 == 0 and place < 2000 else word for place, word in enumerate(words)]
    tuned, _ = model(tuned_words)
    piece = tuned[header : header + 4000]
    coded = xor_sparse(piece, parts[1][1])
    delta_row = row(header, piece, 1, len(coded), codec="xor-sparse-zstd", base={"file": 0, "offset": header})
    delta_shards = [shards[0], writer.shard("delta", coded), shards[2]]
    delta = writer.artifact("delta", listing(tuned, header, [rows[0], delta_row, rows[2]]), delta_shards, raw["digest"])

    # Raw blocks make the frame longer than its content: a run of one exponent keeps `stored` below `size`.
    calm = struct.pack("<2000H", *(0x3F80 | word & 0x7F for word in words[:2000]))
    run = b"\x28\xb5\x2f\xfd\xa0" + struct.pack("<I", 2000) + struct.pack("<I", 2000 << 3 | 2 | 1)[:3] + b"\x7f"
    coded = section(run) + split(calm)[1]
    coded_data = data[:header] + calm + parts[2][1]
    split_row = row(header, calm, 1, len(coded), codec="bf16-split-zstd")
    split_rows = [rows[0], split_row, rows[2]]
    split_shard = writer.shard("split", coded)
    bf16 = writer.artifact("split", listing(coded_data, header, split_rows), [shards[0], split_shard, shards[2]])

    files = {"config.json": b'{"a":1}', "onnx/empty.bin": b""}
    config = files["config.json"]
    tree = {
        "layout": "folder", "name": "model", "folders": ["hollow"], "tensors": [], "groups": [{"id": "files"}],
        "files": [{"path": path, "size": len(body), "kind": "bin", "header": 0} for path, body in files.items()],
        "shards": [row(0, config, 0)],
    }  # fmt: skip
    folder_case = writer.artifact("folder", tree, [writer.shard("config", config)])

    good = {
        "raw": {**raw, "files": {"model.safetensors": base64.b64encode(data).decode()}},
        "delta": {**delta, "files": {"model.safetensors": base64.b64encode(tuned).decode()}},
        "split": {**bf16, "files": {"model.safetensors": base64.b64encode(coded_data).decode()}},
        "folder": {**folder_case, "files": {path: base64.b64encode(body).decode() for path, body in files.items()}},
    }
    signed = signed_nonsense(writer, (data, header), rows, shards)
    bomb = writer.shard("bomb", section(run[:5] + struct.pack("<I", 2**31) + run[9:]) + split(calm)[1])
    signed["zstd frame that lies about its size"] = writer.artifact(
        "bomb", listing(coded_data, header, split_rows), [shards[0], bomb, shards[2]]
    )["digest"]
    wrong = [rows[0], {**split_row, "plain": "0" * 64}, rows[2]]
    signed["coded shard of another plaintext"] = writer.artifact(
        "plain", listing(coded_data, header, wrong), [shards[0], split_shard, shards[2]]
    )["digest"]
    far = {**delta_row, "base": {"file": 0, "offset": len(data) - 3999}}
    signed["base past the end of the parent"] = writer.artifact(
        "far", listing(tuned, header, [rows[0], far, rows[2]]), delta_shards, raw["digest"]
    )["digest"]
    missing = {**delta_row, "base": {"file": 1, "offset": 0}}
    signed["base in a file that is not there"] = writer.artifact(
        "missing", listing(tuned, header, [rows[0], missing, rows[2]]), delta_shards, raw["digest"]
    )["digest"]
    public = writer.owner.public_key().public_bytes_raw().hex()
    document = {
        "secret": SECRET.hex(),
        "owner": public,
        "good": good,
        "signed_nonsense": signed,
        "tampered": tampered(raw),
    }
    (folder / "vectors.json").write_bytes(json.dumps(document, indent=1, sort_keys=True).encode() + b"\n")


def signed_nonsense(
    writer: Writer, model_: tuple[bytes, int], rows: list[Json], shards: list[tuple[str, bytes]]
) -> dict[str, str]:
    """Artifacts that their owner signed and a reader must refuse all the same."""
    data, header = model_
    result: dict[str, str] = {}

    def case(name: str, change: Any, given: list[tuple[str, bytes]] | None = None) -> None:
        manifest = json.loads(json.dumps(listing(data, header, rows)))
        change(manifest)
        result[name] = writer.artifact(name, manifest, given or shards)["digest"]

    def tensor(**members: Any) -> Any:
        return lambda manifest: manifest["tensors"][0].update(members)

    def shard(number: int, **members: Any) -> Any:
        return lambda manifest: manifest["shards"][number].update(members)

    case("tensor name that climbs", tensor(name="../../x"))
    case("duplicate tensor name", tensor(name="model.layers.1.w"))
    case("unknown dtype", tensor(dtype="F31"))
    case("overlapping tensors", tensor(end=header + 4002, shape=[2001]))
    case("index that disagrees with the file", tensor(name="model.layers.7.w"))
    case("path that climbs", lambda manifest: manifest["files"][0].update(path="../model.safetensors"))
    case("overlapping shards", shard(1, offset=header - 2))
    case("shards that leave a gap", shard(1, size=3998, stored=3998))
    case("stored length that is not the sealed one", shard(1, stored=70000))
    case("delta without a parent", shard(1, codec="xor-sparse-zstd", base={"file": 0, "offset": header}))
    case("unknown codec", shard(1, codec="pickle"))
    case("unknown member", lambda manifest: manifest.update(extra=1))
    case("group without shards", lambda manifest: manifest["groups"].append({"id": "more"}))

    def folder(*paths: str) -> Any:
        more = [{"path": path, "size": 0, "kind": "bin", "header": 0} for path in paths]
        return lambda manifest: manifest.update(layout="folder", files=[*manifest["files"], *more])

    case("two paths that fold to one", folder("MODEL.SAFETENSORS"))
    case("a path that is a file and a folder", folder("model.safetensors/x"))
    case("a path that is not NFC", folder("e\u0301"))
    case("a path that is a device on Windows", folder("sub/nul.txt"))
    case("a name that is a path", lambda manifest: manifest.update(name="sub/model.safetensors"))
    case("raw shard that stores less", shard(1, stored=3999))
    case("header of a plain file", lambda manifest: (folder("y")(manifest), manifest["files"][1].update(header=1)))
    loud = writer.shard("loud", data[:header], bytes(PAD - header - 1) + b"\x01")
    case("padding that is not zero", lambda manifest: None, [loud, *shards[1:]])
    return result


def tampered(raw: Json) -> list[Json]:
    """Edits of the store of the `raw` artifact, each to be refused: object, operation, argument."""
    head = f"head/{raw['digest'][7:]}"
    edits = [(target, "flip", place) for target in ("head", "signature") for place in (0, 57, 200, -1)]
    edits += [(target, "flip", place) for target in ("manifest", "shard 1") for place in (0, 23, 24, 55, 56, 1000, -1)]
    edits += [(target, "cut", place) for target in ("head", "signature", "manifest", "shard 1") for place in (0, 1, 55)]
    edits += [("shard 1", "cut", 56 + 16400), ("shard 1", "cut", -1), ("shard 1", "append", 1), ("head", "append", 1)]
    edits += [("shard 1", "replace", 2), ("shard 2", "replace", 1), ("manifest", "replace", 1)]
    return [{"head": head, "object": target, "operation": what, "argument": value} for target, what, value in edits]


if __name__ == "__main__":
    generate(Path(sys.argv[1]) if len(sys.argv) > 1 else HERE)
