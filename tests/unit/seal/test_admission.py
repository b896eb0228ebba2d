"""What may be sealed: no pickle in any disguise, no archive, and nothing that is not what its name says."""

from __future__ import annotations

import bz2
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
from tests.unit.seal.world import pattern

from stannary.errors import FormatError
from stannary.seal import admission, sealing
from stannary.seal.directory import DirectoryStore
from stannary.seal.keys import OwnerKey


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


EVIL = {protocol: pickle.dumps(Payload(), protocol=protocol) for protocol in range(6)}
NUMPY_OBJECTS = b"\x93NUMPY\x01\x00\x46\x00{'descr': '|O', 'fortran_order': False, 'shape': (1,), }"

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
        ("a.npy", b"\x93NUMPY\x01\x00\x46\x00{'descr': '<f4', 'fortran_order': False, 'shape': (1,), }\n" + bytes(4)),
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
    try:
        admission.check_not_pickle("x.bin", data)
        admission.check_not_archive("x.bin", data, data)
    except FormatError:
        pass


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("a.parquet", b"PAR1"),
        ("a.parquet", b"PAR1" + b"x" * 20),
        ("a.parquet", b"PAR1" + (99).to_bytes(4, "little") + b"PAR1"),
        ("a.jsonl", b"not json\n"),
        ("a.jsonl", b'{"a": 1}\n\x00\x00'),
        ("a.jsonl", b"\xff\xfe{}\n"),
        ("a.safetensors", b"PAR1"),
    ],
)
def test_content_of_another_kind_is_refused(tmp_path: Path, owner: OwnerKey, name: str, data: bytes) -> None:
    """A file must be what its name says."""
    (tmp_path / name).write_bytes(data)
    with pytest.raises(FormatError):
        sealing.seal(tmp_path / name, DirectoryStore(tmp_path / "store"), owner)
