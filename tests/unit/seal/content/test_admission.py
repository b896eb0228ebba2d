"""What may be sealed: no pickle in any disguise, no archive, and nothing that is not what its name says."""

from __future__ import annotations

import bz2
import contextlib
import gzip
import io
import lzma
import pickle
import tarfile
import zipfile
import zlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.contents import of_bytes
from tests.unit.seal.world import pattern, safetensors_bytes

from stannary.errors import FormatError
from stannary.seal import sealing
from stannary.seal.content import admission, archives, pickles
from stannary.seal.content.kinds import FileKind
from stannary.seal.keys import OwnerKey
from stannary.seal.stores.directory import DirectoryStore


class Payload:
    """What an attacker would put in a model file."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        import os

        return os.system, ("echo never",)


def zipped(member: str, data: bytes) -> bytes:
    """Return a zip archive of one member."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr(member, data)
    return buffer.getvalue()


def tarred(data: bytes) -> bytes:
    """Return a tar archive of one member."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        info = tarfile.TarInfo("data")
        info.size = len(data)
        archive.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def small_window(data: bytes) -> bytes:
    """Compress with a header byte other than the usual one."""
    packer = zlib.compressobj(wbits=9)
    return packer.compress(data) + packer.flush()


EVIL = {protocol: pickle.dumps(Payload(), protocol=protocol) for protocol in range(6)}


def array(descr: str) -> bytes:
    """Return a numpy file's header with a dtype."""
    text = f"{{'descr': {descr}, 'fortran_order': False, 'shape': (1,), }}\n".encode()
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text


def old_tar(data: bytes) -> bytes:
    """Return a tar archive of 1979, without a magic number."""
    head = bytearray(512)
    head[:8], head[100:107], head[124:136] = b"data.pkl", b"0000644", b"%011o\0" % len(data)
    head[136:148], head[148:156] = b"0" * 11 + b"\0", b" " * 8
    head[148:155] = b"%06o\0" % sum(head)
    return bytes(head) + data + bytes(-len(data) % 512 + 1024)


def parquet(data: bytes) -> bytes:
    """Return bytes that begin and end as a parquet file does."""
    return b"PAR1" + data + (4).to_bytes(4, "little") + b"PAR1"


def commented(archive: bytes, comment: bytes) -> bytes:
    """Return a zip archive whose comment is anything."""
    return archive[:-2] + len(comment).to_bytes(2, "little") + comment


NUMPY_OBJECTS = array("'|O'")
PAD = b"\x8e" + (3_000_000).to_bytes(8, "little") + bytes(3_000_000) + b"0"  # BINBYTES8 and POP
ZIPPED = zipped("data.pkl", EVIL[2])

DISGUISES = {
    **{f"protocol {protocol}": ("weights.bin", data) for protocol, data in EVIL.items()},
    **{f"json name, protocol {protocol}": ("config.json", data) for protocol, data in EVIL.items()},
    "harmless pickle": ("weights.bin", pickle.dumps({"a": [1, 2]}, protocol=4)),
    "payload, then garbage": ("weights.bin", EVIL[4][:-1] + b"\xff\xfe\xfd" * 50),
    "by hand": ("weights.bin", b"cos\nsystem\n(S'echo never'\ntR."),
    "inst": ("weights.bin", b"(S'echo never'\nios\nsystem\n."),
    "after other opcodes": ("weights.bin", b"I1\n0" * 30 + b"cos\nsystem\n(S'echo never'\ntR."),
    "torch zip": ("pytorch_model.bin", zipped("archive/data.pkl", EVIL[2])),
    "torch zip, other member name": ("model.bin", zipped("x", EVIL[2])),
    "zip behind other bytes": ("model.bin", pattern(5000) + zipped("data.pkl", EVIL[2])),
    "zip with a comment": ("model.bin", zipped("data.pkl", EVIL[2])[:-2] + b"\x05\x00hello"),
    "old torch": ("model.bin", pickle.dumps(0x1950A86A20F9469CFC6C, protocol=2) + EVIL[2]),
    "gzip": ("model.bin", gzip.compress(EVIL[4])),
    "bzip2": ("model.bin", bz2.compress(EVIL[4])),
    "xz": ("model.bin", lzma.compress(EVIL[4])),
    "lzma": ("model.bin", lzma.compress(EVIL[4], format=lzma.FORMAT_ALONE)),
    "zlib": ("model.bin", zlib.compress(EVIL[4] * 3)),
    "tar": ("model.bin", tarred(EVIL[4])),
    "numpy objects": ("a.npy", NUMPY_OBJECTS + EVIL[4]),
    "numpy objects, another spelling": ("a.npy", array("'|O8'") + EVIL[4]),
    "numpy objects by name": ("a.npy", array("'object'") + EVIL[4]),
    "numpy objects in a field": ("a.npy", array("[('a', '<f4'), ('b', [('c', '|O')])]") + EVIL[4]),
    "numpy header that does not read": ("a.npy", array("'|' + 'O'") + EVIL[4]),
    "behind three megabytes of bytes": ("model.bin", b"\x80\x05" + PAD + EVIL[4][2:]),
    "the same without a header": ("model.bin", PAD + EVIL[4][2:]),
    "behind a long line": ("model.bin", b"V" + b"x" * 3_000_000 + b"\n0" + EVIL[0]),
    "behind a long quoted line": ("model.bin", b"S'" + b"x" * 3_000_000 + b"'\n0" + EVIL[0]),
    "behind many opcodes": ("model.bin", b"N0" * 20_000 + EVIL[0]),
    "old tar": ("model.bin", old_tar(EVIL[4])),
    "zstd behind a skippable frame": ("model.bin", b"\x50\x2a\x4d\x18\x00\x00\x00\x00\x28\xb5\x2f\xfd"),
    "zlib of a small window": ("model.bin", small_window(EVIL[4] * 3)),
    "zip behind safetensors": (
        "m.safetensors", safetensors_bytes({"a": ("U8", [len(ZIPPED)], ZIPPED)}),
    ),
    "zip inside parquet's ends": ("t.parquet", b"PAR1" + commented(ZIPPED, b"\4\0\0\0PAR1")),
    "zip64": ("model.bin", pattern(100) + b"PK\x06\x07" + bytes(16) + b"PK\x05\x06" + b"\xff" * 16 + bytes(2)),
    "name .pt": ("model.pt", b"x"),
    "name .PKL": ("model.PKL", b"x"),
    "name .ckpt": ("model.ckpt", b"x"),
    "name .joblib": ("model.joblib", b"x"),
    "pickle named safetensors": ("model.safetensors", EVIL[4]),
    "zip named parquet": ("train.parquet", zipped("data.pkl", EVIL[4])),
    "pickle named jsonl": ("train.jsonl", EVIL[0]),
}  # fmt: skip


@pytest.mark.parametrize("disguise", DISGUISES)
def test_pickle_is_refused_in_any_disguise(tmp_path: Path, owner: OwnerKey, disguise: str) -> None:
    """Whatever it is called and wrapped in, a pickle is not sealed, alone or in a folder."""
    name, data = DISGUISES[disguise]
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "readme.md").write_text("# model")
    (folder / name).write_bytes(data)
    for path in (folder, folder / name):
        with pytest.raises(FormatError):
            sealing.seal(path, DirectoryStore(tmp_path / "store"), owner)
    assert not (tmp_path / "store").exists()


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("vocab.txt", b"cat\ndog\nelephant\n.\n"),
        ("merges.txt", b"#version: 0.2\nt h\ni n\n"),
        ("config.json", b'{"model_type": "llama"}'),
        ("tokenizer.model", b"\n\x0e\n\x05<unk>\x15\x00\x00\x00\x00\x18\x02"),
        ("README.md", b"cos\nand sin are functions.\n"),
        ("tokens.bin", bytes(range(256)) * 64),
        ("zeros.bin", bytes(10_000)),
        ("dots.bin", b"." * 100),
        ("a.npy", array("'<f4'") + bytes(4)),
        ("b.npy", array("[('x', '<i4', (2,)), ('y', '<U10'), ('z', '?')]") + bytes(4)),
        ("labels.bin", b"".join(number.to_bytes(4, "little") for number in (93, 0, 7, 2, 1, 0, 5))),
        ("bits.txt", b"0101001" * 1000),
        ("genome.txt", b"N" * 100_000 + b"ACGT" * 100),
        ("constant.bin", b"h\x00" * 100),
        ("pk.bin", pattern(40_000) + b"PK\x05\x06" + pattern(100)),
        ("cut-tar.bin", old_tar(b"")[:400]),
        ("magic.bin", b"\x60\x2a\x4d\x18" + pattern(100)),
        ("gz.bin", b"\x1f\x8b\x00\x01" + pattern(100)),
        ("data.parquet", parquet(pattern(70_000) + b"PK\x05\x06" + pattern(40_000))),
        ("x.jsonl", b'{"a": 1}'),
        ("empty.jsonl", b""),
    ],
)
def test_plain_content_is_admitted(tmp_path: Path, owner: OwnerKey, name: str, data: bytes) -> None:
    """Vocabularies, configs, token files and arrays of numbers are no pickles."""
    (tmp_path / name).write_bytes(data)
    assert sealing.seal(tmp_path / name, DirectoryStore(tmp_path / "store"), owner).size_bytes == len(data)


@given(st.binary(min_size=0, max_size=3000))
def test_random_bytes_are_seldom_taken_for_a_pickle(data: bytes) -> None:
    """Whatever the bytes, the walk ends with a verdict and our error only."""
    with contextlib.suppress(FormatError):
        admission.check("x.bin", FileKind.BIN, of_bytes(data))


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("a.parquet", b"PAR1"),
        ("a.parquet", b"PAR1" + b"x" * 20),
        ("a.parquet", b"PAR1" + (99).to_bytes(4, "little") + b"PAR1"),
        ("a.jsonl", b"not json\n"),
        ("a.jsonl", b'{"a": 1}\n\x00\x00'),
        ("a.jsonl", b"\xff\xfe{}\n"),
        ("a.jsonl", b"\n{}\n"),
        ("a.jsonl", b'{"a": "' + b"x" * 1_100_000 + b"\n"),
        ("a.parquet", b"PAR1" + b"x" * 20 + b"PARE"),
        ("a.safetensors", b"PAR1"),
    ],
)
def test_content_of_another_kind_is_refused(tmp_path: Path, owner: OwnerKey, name: str, data: bytes) -> None:
    """A file must be what its name says."""
    (tmp_path / name).write_bytes(data)
    with pytest.raises(FormatError):
        sealing.seal(tmp_path / name, DirectoryStore(tmp_path / "store"), owner)


def test_long_first_line_is_read_whole(tmp_path: Path, owner: OwnerKey) -> None:
    """A first line longer than the probe is read to its end before it is judged."""
    path = tmp_path / "long.jsonl"
    path.write_bytes(b'{"a": "' + b"x" * 2_000_000 + b'"}\n{}\n')
    assert sealing.seal(path, DirectoryStore(tmp_path / "store"), owner).num_shards == 2


def test_walk_reads_arguments_across_its_window() -> None:
    """An import whose name lies across the border of two windows is seen as one elsewhere is."""
    for shift in range(pickles.WINDOW_BYTES - 20, pickles.WINDOW_BYTES + 4):
        data = b"\x8e" + (shift - 10).to_bytes(8, "little") + bytes(shift - 10) + b"0" + EVIL[0]
        assert "posix" in pickles.why_pickle(of_bytes(data))


def test_opcodes_without_end_are_a_pickle(monkeypatch: pytest.MonkeyPatch) -> None:
    """What still reads as a pickle after the limit is taken for one, so that the walk costs no hours."""
    monkeypatch.setattr(pickles, "MAX_OPCODES", 1000)
    assert "1,000 opcodes" in pickles.why_pickle(of_bytes(b"K\x01" * 1001))
    assert not pickles.why_pickle(of_bytes(b"K\x01" * 999))


def lzma_head(properties: int = 0x5D, dictionary: int = 1 << 23, length: int = 2**64 - 1, first: int = 0) -> bytes:
    """Return the first bytes of an .lzma file with any fields."""
    return bytes([properties]) + dictionary.to_bytes(4, "little") + length.to_bytes(8, "little") + bytes([first]) * 20


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (lzma_head(), "lzma"),
        (lzma_head(dictionary=3 << 20, length=5000), "lzma"),
        (lzma_head(dictionary=2**32 - 1), "lzma"),
        (lzma_head(properties=0x5E), ""),
        (lzma_head(dictionary=5 << 20), ""),
        (lzma_head(dictionary=1024), ""),
        (lzma_head(length=1 << 40), ""),
        (lzma_head(first=1), ""),
        (lzma_head()[:13], ""),
    ],
)
def test_lzma_is_told_by_its_fields(data: bytes, kind: str) -> None:
    """A format without a magic number is known when every field makes sense, as its own library does it."""
    assert archives.kind_of(of_bytes(data)) == kind
