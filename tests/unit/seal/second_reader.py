"""A second reader of seal/v1, written from docs/seal-v1.md and the texts it names, and from nothing else.

Nothing of `stannary` is imported. It reads whole artifacts from a folder, as the owner, and refuses by
`Refused` or by the errors of the libraries it uses. Sections of the document stand beside the code.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
import re
import unicodedata
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import blake3
import zstandard
from cryptography.cobblestone import Cobblestone256Decryptor
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

Json = dict[str, Any]

MIB = 1024 * 1024
WIDTHS = {
    "F4": 4,
    **dict.fromkeys(("F6_E2M3", "F6_E3M2"), 6),
    **dict.fromkeys(("BOOL", "U8", "I8", "F8_E5M2", "F8_E4M3", "F8_E8M0", "F8_E5M2FNUZ", "F8_E4M3FNUZ"), 8),
    **dict.fromkeys(("I16", "U16", "F16", "BF16"), 16),
    **dict.fromkeys(("I32", "U32", "F32"), 32),
    **dict.fromkeys(("I64", "U64", "F64", "C64"), 64),
}  # bits
DEVICES = re.compile(r"(?i)(con|prn|aux|nul|com[0-9]|lpt[0-9])(\..*)?")


class Refused(Exception):
    """A rule of the document does not hold."""


def need(holds: bool, what: str) -> None:
    """Refuse unless a rule holds."""
    if not holds:
        raise Refused(what)


def jcs(value: Any) -> bytes:
    """RFC 8785 for values without fractions."""

    def ordered(item: Any) -> Any:
        if isinstance(item, dict):
            return {name: ordered(item[name]) for name in sorted(item, key=lambda name: name.encode("utf-16-be"))}
        return [ordered(part) for part in item] if isinstance(item, list) else item

    return json.dumps(ordered(value), separators=(",", ":"), ensure_ascii=False).encode()


def strict(data: bytes, limit: int, *, canonical: bool = True) -> Json:
    """An object of integers and text with no name twice."""

    def members(pairs: list[tuple[str, Any]]) -> Json:
        need(len({name for name, _ in pairs}) == len(pairs), "duplicate member")
        return dict(pairs)

    def refuse(text: str) -> None:
        raise Refused(f"fraction {text}")

    need(len(data) <= limit, "too long")
    value = json.loads(data, object_pairs_hook=members, parse_float=refuse, parse_constant=refuse)
    need(isinstance(value, dict), "not an object")
    need(not canonical or jcs(value) == data, "not canonical")
    return dict(value)


def whole(value: object) -> int:
    """A whole number, not negative."""
    need(type(value) is int and 0 <= value < 2**53, f"{value!r} is no length")
    return value  # type: ignore[return-value]  # seen above


def decoded64(text: object) -> bytes:
    """Canonical base64."""
    need(isinstance(text, str), "not base64")
    data = base64.b64decode(str(text), validate=True)
    need(base64.b64encode(data).decode() == text, "not canonical base64")
    return data


# Section 2


def context(label: str, size: int, *names: bytes) -> bytes:
    """The context of a message."""
    framed = b"".join(len(name).to_bytes(4, "big") + name for name in names)
    return label.encode() + framed + size.to_bytes(8, "big")


def sealed_length(size: int) -> int:
    """The length of the message of a plaintext."""
    return 56 + size + 16 * (size // 16384 + 1)


def opened(sealed: bytes, key: bytes, ctx: bytes) -> bytes:
    """The plaintext of a message; nothing before the last tag held."""
    decryptor = Cobblestone256Decryptor(key, ctx)
    return decryptor.update(sealed) + decryptor.finalize()


# Section 3

OBJECT = re.compile(r"b3:([0-9a-f]{64}):([1-9][0-9]{0,9})")
HEX32 = re.compile(r"[0-9a-f]{64}")


@dataclass
class Store:
    """Objects in a folder (section 1)."""

    root: Path

    def ciphertext(self, name: object) -> bytes:
        """The bytes of an object name."""
        match = OBJECT.fullmatch(name) if isinstance(name, str) else None
        need(match is not None, f"object name {name!r}")
        assert match is not None
        data = (self.root / "b3" / match[1]).read_bytes()
        need(len(data) == int(match[2]) and blake3.blake3(data).hexdigest() == match[1], "other bytes")
        return data

    def head(self, digest: str) -> Json:
        """The head of an artifact digest, checked and its signature with it."""
        number = digest.removeprefix("sha256:")
        data = (self.root / "head" / number).read_bytes()
        need(hashlib.sha256(data).hexdigest() == number, "another head")
        head = strict(data, 16 * MIB)
        need(set(head) - {"parent"} == {"format", "suite", "artifact", "owner", "manifest", "shards"}, "head members")
        need((head["format"], head["suite"]) == ("seal/v1", "cobblestone-256+blake3"), "format or suite")
        need(all(isinstance(head[name], str) and HEX32.fullmatch(head[name]) for name in ("artifact", "owner")), "hex")
        need(isinstance(head["shards"], list) and len(head["shards"]) <= 131_072, "shards")
        names = [head["manifest"], *head["shards"]]
        need(all(isinstance(name, str) and OBJECT.fullmatch(name) for name in names), "object names")
        need("parent" not in head or re.fullmatch(r"sha256:[0-9a-f]{64}", head["parent"]) is not None, "parent")
        self._check_signature(head, number, sum(int(name.split(":")[2]) for name in names))
        return head

    def _check_signature(self, head: Json, number: str, sealed_bytes: int) -> None:
        envelope = strict((self.root / "head" / f"{number}.dsse").read_bytes(), 64 * 1024)
        need(set(envelope) == {"payload", "payloadType", "signatures"}, "envelope members")
        kind = envelope["payloadType"]
        need(kind == "application/vnd.in-toto+json" and len(envelope["signatures"]) == 1, "envelope")
        (signature,) = envelope["signatures"]
        public = bytes.fromhex(head["owner"])
        need(set(signature) == {"keyid", "sig"}, "signature members")
        need(signature["keyid"] == "ed25519:" + hashlib.sha256(public).hexdigest(), "another key")
        payload = decoded64(envelope["payload"])
        signed = b"DSSEv1 %d %b %d %b" % (len(kind), kind.encode(), len(payload), payload)
        Ed25519PublicKey.from_public_bytes(public).verify(decoded64(signature["sig"]), signed)
        claim = {
            "format": head["format"], "suite": head["suite"], "artifact": head["artifact"],
            "num_shards": len(head["shards"]), "sealed_bytes": sealed_bytes,
            **({"parent": head["parent"]} if "parent" in head else {}),
        }  # fmt: skip
        statement = {
            "_type": "https://in-toto.io/Statement/v1",
            "subject": [{"name": "seal/v1 head", "digest": {"sha256": number}}],
            "predicateType": "urn:stannary:sealed-artifact:v1",
            "predicate": claim,
        }
        need(payload == jcs(statement), "the owner signed something else")


# Section 4


def typed(row: object, required: dict[str, type], optional: dict[str, type] | None = None) -> Json:
    """A row with these members and no others."""
    optional = optional or {}
    need(isinstance(row, dict), "not a row")
    assert isinstance(row, dict)
    need(required.keys() <= row.keys() <= required.keys() | optional.keys(), f"members {sorted(row)}")
    for name, value in row.items():
        need(type(value) is {**required, **optional}[name], f"type of {name}")
    return row


def check_manifest(listing: Json, head: Json) -> None:
    """Every rule of section 4 about the manifest alone."""
    required: dict[str, type] = dict.fromkeys(("files", "folders", "tensors", "groups", "shards"), list)
    required |= dict.fromkeys(("format", "artifact", "layout", "name"), str)
    typed(listing, required, {"signature": str})
    need(listing["format"] == "seal/v1 manifest" and listing["artifact"] == head["artifact"], "another manifest")
    for row in listing["files"]:
        typed(row, {"path": str, "size": int, "kind": str, "header": int}, {"sha256": str})
        need(row["kind"] in {"safetensors", "parquet", "jsonl", "bin"} and whole(row["size"]) >= 0, "file")
    check_paths([row["path"] for row in listing["files"]] + listing["folders"])
    check_paths([listing["name"]])
    need("/" not in listing["name"] and listing["layout"] in {"file", "folder"}, "name or layout")
    if listing["layout"] == "file":
        need(len(listing["files"]) == 1 and not listing["folders"], "file layout")
        need("/" not in listing["files"][0]["path"], "file layout")
    ids = [typed(row, {"id": str, "keys": str})["id"] for row in listing["groups"]]
    need(len(set(ids)) == len(ids) and all(re.fullmatch(r"[A-Za-z0-9_.-]{1,100}", name) for name in ids), "groups")
    check_shards(listing, head)
    need({row["group"] for row in listing["shards"]} == set(range(len(ids))), "groups without shards")
    check_tensors(listing)


def check_shards(listing: Json, head: Json) -> None:
    """Shards tile the files in order and fit the head."""
    numbers = dict.fromkeys(("file", "offset", "size", "stored", "group"), int)
    rows = [typed(row, {**numbers, "plain": str, "codec": str}, {"base": dict}) for row in listing["shards"]]
    need(len(rows) == len(head["shards"]), "another number of shards")
    place = 0
    for number, file in enumerate(listing["files"]):
        end = 0
        while end < file["size"]:
            need(place < len(rows), "a hole")
            row = rows[place]
            need((row["file"], row["offset"]) == (number, end), "a gap or overlap")
            need(1 <= row["stored"] <= row["size"] <= 64 * MIB and end + row["size"] <= file["size"], "lengths")
            need(row["codec"] in {"raw", "bf16-split-zstd", "xor-sparse-zstd"}, "codec")
            need(row["codec"] != "raw" or row["stored"] == row["size"], "raw length")
            need((row["codec"] == "xor-sparse-zstd") == ("base" in row), "base")
            if "base" in row:
                base = typed(row["base"], {"file": int, "offset": int})
                need("parent" in head and min(base.values()) >= 0, "base")
            need(HEX32.fullmatch(row["plain"]) is not None, "plain")
            padded = -(-row["stored"] // 65536) * 65536
            need(int(head["shards"][place].split(":")[2]) == sealed_length(padded), "sealed length")
            end += row["size"]
            place += 1
    need(place == len(rows), "shards of no file")


def check_tensors(listing: Json) -> None:
    """Tensors tile the data area of their files."""
    rows = listing["tensors"]
    members = {"file": int, "name": str, "dtype": str, "shape": list, "begin": int, "end": int}
    for row in rows:
        check_tensor(typed(row, members))
        need(0 <= row["file"] < len(listing["files"]), "tensor of no file")
    need(len({(row["file"], row["name"]) for row in rows}) == len(rows), "a name twice")
    for number, file in enumerate(listing["files"]):
        own = [row for row in rows if row["file"] == number]
        if file["kind"] != "safetensors":
            need(not own and file["header"] == 0, "tensors of a plain file")
            continue
        tile(own, file["header"], file["size"])


def check_tensor(row: Json) -> None:
    """Section 6: name, dtype, shape."""
    need(1 <= len(row["name"].encode()) <= 65_536, "tensor name")
    need(not {"", ".", ".."} & set(row["name"].replace("\\", "/").split("/")), "tensor name climbs")
    need(len(row["shape"]) <= 64, "rank")
    extents = [whole(extent) for extent in row["shape"]]
    need(row["dtype"] in WIDTHS, "dtype")
    need(whole(row["begin"]) + math.prod(extents) * WIDTHS[row["dtype"]] / 8 == row["end"], "tensor length")


def tile(rows: list[Json], begin: int, end: int) -> None:
    """No overlap, hole or rest."""
    for row in sorted(rows, key=lambda row: (row["begin"], row["end"])):
        need(row["begin"] == begin, "overlap or hole")
        begin = row["end"]
    need(begin == end, "rest")


def check_paths(paths: list[object]) -> None:
    """Section 6."""
    folded: list[str] = []
    for path in paths:
        need(isinstance(path, str) and 1 <= len(path.encode()) <= 1024, "path")
        assert isinstance(path, str)
        need(unicodedata.is_normalized("NFC", path), "not NFC")
        for segment in path.split("/"):
            need(segment not in {"", ".", ".."} and len(segment.encode()) <= 255, "path climbs")
            need(not any(ord(char) < 32 or ord(char) == 127 or char in "\\:" for char in segment), "character")
            need(segment == segment.strip(" ") and not segment.endswith("."), "space or dot")
            need(DEVICES.fullmatch(segment) is None, "device")
        folded.append(path.casefold())
    need(len(set(folded)) == len(folded), "paths meet")
    need(not any(other.startswith(path + "/") for path in folded for other in folded), "a file is a folder")


# Section 5


def sections(data: bytes) -> tuple[bytes, bytes]:
    """The first section and the rest."""
    size = int.from_bytes(data[:4], "big")
    need(len(data) >= 4 + size, "cut")
    return data[4 : 4 + size], data[4 + size :]


def unframed(frame: bytes, size: int) -> bytes:
    """A zstd frame of exactly that content size."""
    if size == 0 and not frame:
        return b""
    need(zstandard.frame_content_size(frame) == size, "frame of another size")
    data = zstandard.ZstdDecompressor().decompress(frame, allow_extra_data=False)
    need(len(data) == size, "frame of another size")
    return data


def decoded(row: Json, stored: bytes, base: bytes) -> bytes:
    """What a shard decodes to."""
    size: int = row["size"]
    if row["codec"] == "raw":
        return stored
    if row["codec"] == "bf16-split-zstd":
        need(size % 2 == 0, "odd")
        frame, rest = sections(stored)
        need(len(rest) == size // 2, "rest")
        words = (
            (low & 0x80) << 8 | high << 7 | low & 0x7F
            for high, low in zip(unframed(frame, size // 2), rest, strict=True)
        )
        return b"".join(word.to_bytes(2, "little") for word in words)
    width = stored[0]
    need(width in {1, 2, 4} and size % width == 0 and len(base) == size, "delta")
    num = size // width
    frame, rest = sections(stored[1:])
    bits = unframed(frame, -(-num // 8))
    marked = [place for place in range(8 * len(bits)) if bits[place // 8] >> 7 - place % 8 & 1]
    need(not marked or marked[-1] < num, "bits past the end")
    need(len(rest) >= 4 and int.from_bytes(rest[:4], "big") == len(marked), "number of words")
    rest = rest[4:]
    result = bytearray(base)
    for plane in range(width):
        frame, rest = sections(rest)
        for place, value in zip(marked, unframed(frame, len(marked)), strict=True):
            result[place * width + plane] ^= value
    need(not rest, "bytes after the last section")
    return bytes(result)


# Sections 7 and 8


class Reader:
    """Reads artifacts of one owner."""

    def __init__(self, store: Path, secret: bytes) -> None:
        self.store = Store(store)
        self.secret = secret

    def derive(self, label: str, size: int, salt: bytes | None = None) -> bytes:
        """Section 7."""
        return HKDF(SHA256(), size, salt, b"stannary owner v1 " + label.encode()).derive(self.secret)

    def read(self, digest: str, depth: int = 0) -> tuple[Json, list[bytes]]:
        """The manifest and the bytes of every file."""
        need(depth <= 16, "too many deltas")
        head = self.store.head(digest)
        owner = Ed25519PrivateKey.from_private_bytes(self.derive("sign", 32)).public_key().public_bytes_raw()
        need(head["owner"] == owner.hex(), "another owner")
        number = bytes.fromhex(head["artifact"])
        listing = self._manifest(head, number)
        keys = self._keys(listing, number)
        parent: list[bytes] = []
        if any("base" in row for row in listing["shards"]):
            parent = self.read(head["parent"], depth + 1)[1]
        files = [bytearray() for _ in listing["files"]]
        for row, name, key in zip(listing["shards"], head["shards"], keys, strict=True):
            files[row["file"]] += self._shard(row, self.store.ciphertext(name), key, parent)
        result = [bytes(data) for data in files]
        for index, file in enumerate(listing["files"]):
            if file["kind"] == "safetensors":
                check_header(result[index], file, [row for row in listing["tensors"] if row["file"] == index])
        return listing, result

    def _manifest(self, head: Json, number: bytes) -> Json:
        sealed = self.store.ciphertext(head["manifest"])
        body = len(sealed) - 56
        need(body >= 16 and body % 16400 >= 16, "manifest length")
        size = body - 16 * (body // 16400 + 1)
        key = self.derive("manifest", 32, number)
        listing = strict(opened(sealed, key, context("seal/v1 manifest", size, number)), 64 * MIB)
        check_manifest(listing, head)
        return listing

    def _keys(self, listing: Json, number: bytes) -> list[bytes]:
        """The key of every shard, in order."""
        keys: dict[int, bytes] = {}
        for index, group in enumerate(listing["groups"]):
            own = [place for place, row in enumerate(listing["shards"]) if row["group"] == index]
            ctx = context("seal/v1 group", 32 * len(own), number, group["id"].encode())
            plain = opened(decoded64(group["keys"]), self.derive("group " + group["id"], 32, number), ctx)
            need(len(plain) == 32 * len(own), "number of keys")
            keys |= {place: plain[32 * turn : 32 * turn + 32] for turn, place in enumerate(own)}
        return [keys[place] for place in range(len(listing["shards"]))]

    @staticmethod
    def _shard(row: Json, sealed: bytes, key: bytes, parent: list[bytes]) -> bytes:
        padded = -(-row["stored"] // 65536) * 65536
        plain = opened(sealed, key, context("seal/v1 shard", padded))
        stored, padding = plain[: row["stored"]], plain[row["stored"] :]
        need(len(plain) == padded and not any(padding), "padding")
        base = b""
        if "base" in row:
            need(row["base"]["file"] < len(parent), "base")
            base = parent[row["base"]["file"]][row["base"]["offset"] : row["base"]["offset"] + row["size"]]
        data = decoded(row, stored, base)
        need(len(data) == row["size"] and blake3.blake3(data).hexdigest() == row["plain"], "another plaintext")
        return data


def check_header(data: bytes, file: Json, rows: list[Json]) -> None:
    """Sections 4 and 6: the index says what the file's own header says."""
    length = int.from_bytes(data[:8], "little")
    need(8 + length == file["header"] <= len(data) and length <= 100_000_000, "header length")
    need(data[8:9] == b"{", "header")
    listed = strict(data[8 : 8 + length], 100_000_000, canonical=False)
    metadata = listed.pop("__metadata__", {})
    need(isinstance(metadata, dict) and all(isinstance(item, str) for item in metadata.values()), "metadata")
    theirs = []
    for name, entry in listed.items():
        typed(entry, {"dtype": str, "shape": list, "data_offsets": list})
        begin, end = (whole(offset) + 8 + length for offset in entry["data_offsets"])
        row = {"name": name, "dtype": entry["dtype"], "shape": entry["shape"], "begin": begin, "end": end}
        check_tensor(row)
        theirs.append(row)
    ours = [{name: value for name, value in row.items() if name != "file"} for row in rows]
    order = lambda row: (row["begin"], row["end"], row["name"])  # noqa: E731  one key for both lists
    need(sorted(theirs, key=order) == sorted(ours, key=order), "index and header disagree")


# Section 7: wraps


def unwrapped(data: bytes, seed: bytes, *, artifact: str, audience: str, now: str) -> Json:
    """The keys in a wrap; `now` is spelled as the expiry is, so that text compares as time."""
    from cryptography.hazmat.primitives.asymmetric import mlkem, x25519
    from cryptography.hazmat.primitives.hpke import AEAD, KDF, KEM, MLKEM768X25519PrivateKey, Suite

    members = strict(data, MIB)
    need(set(members) == {"format", "artifact", "groups", "audience", "expires_at", "sealed"}, "wrap members")
    need(members["format"] == "seal/v1 wrap", "format")
    need((members["artifact"], members["audience"]) == (artifact, audience), "for something else")
    need(re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", members["expires_at"]) is not None, "expiry")
    need(now < members["expires_at"], "expired")
    info = {name: value for name, value in members.items() if name != "sealed"}
    private = MLKEM768X25519PrivateKey(
        mlkem.MLKEM768PrivateKey.from_seed_bytes(seed[:64]), x25519.X25519PrivateKey.from_private_bytes(seed[64:])
    )
    suite = Suite(KEM.MLKEM768_X25519, KDF.HKDF_SHA256, AEAD.AES_256_GCM)
    bundle = strict(suite.decrypt(decoded64(members["sealed"]), private, jcs(info)), MIB)
    need(set(bundle) == {"manifest", "groups"} and set(bundle["groups"]) == set(members["groups"]), "bundle")
    return bundle
