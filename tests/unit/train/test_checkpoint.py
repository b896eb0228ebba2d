"""Checkpoints: one spelling, readable by everybody, refusing what is not one."""

from __future__ import annotations

import json
import pickle

import pytest
import safetensors.torch
import torch
from hypothesis import given
from hypothesis import strategies as st

from stannary.errors import FormatError, StannaryError
from stannary.train import checkpoint

TENSORS = {"b.weight": torch.arange(6.0).reshape(2, 3), "a": torch.tensor(1.5), "c": torch.empty(0, 4)}
GOOD = checkpoint.encode(TENSORS, {"recipe": "{}"})


def with_header(header: object, body: bytes = b"\0" * 8) -> bytes:
    encoded = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(encoded).to_bytes(8, "little") + encoded + body


def entry(shape=(2,), begin=0, end=8, dtype="F32"):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, end]}


def test_equal_weights_are_equal_bytes():
    """Order of insertion and memory layout leave no trace."""
    turned = {name: TENSORS[name] for name in reversed(TENSORS)}
    turned["b.weight"] = TENSORS["b.weight"].T.contiguous().T
    assert checkpoint.encode(turned, {"recipe": "{}"}) == GOOD


def test_what_was_written_is_read_back():
    """Values, shapes, dtypes and metadata survive, and the bytes are the same again."""
    read = checkpoint.decode(GOOD)
    assert read.metadata == {"recipe": "{}"}
    assert list(read.tensors) == sorted(TENSORS)
    assert all(torch.equal(read.tensors[name], TENSORS[name]) for name in TENSORS)
    assert checkpoint.encode(read.tensors, read.metadata) == GOOD


def test_the_safetensors_library_agrees():
    """Any safetensors reader loads what we write, and we read what it writes."""
    loaded = safetensors.torch.load(GOOD)
    assert all(torch.equal(loaded[name], TENSORS[name]) for name in TENSORS)
    theirs = checkpoint.decode(safetensors.torch.save(TENSORS))
    assert checkpoint.encode(theirs.tensors, {"recipe": "{}"}) == GOOD


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_a_pickle_is_refused_by_its_first_bytes(protocol):
    """No loader down the line is handed one."""
    with pytest.raises(FormatError, match="pickle refused"):
        checkpoint.decode(pickle.dumps({"w": [1.0]}, protocol=protocol))


def test_a_torch_archive_is_refused(tmp_path):
    """What torch.save writes, new and old, is a pickle."""
    for zipped in (True, False):
        torch.save(TENSORS, tmp_path / "x", _use_new_zipfile_serialization=zipped)
        with pytest.raises(FormatError, match="pickle refused"):
            checkpoint.decode((tmp_path / "x").read_bytes())


@pytest.mark.parametrize("name", ["model.pt", "MODEL.PTH", "a/b.pkl", "x.ckpt"])
def test_a_pickle_is_refused_by_name(name):
    """The name alone is enough."""
    with pytest.raises(FormatError, match="pickle refused"):
        checkpoint.refuse_pickle(b"", name)


def test_a_header_of_640_bytes_is_no_pickle():
    """Its length field begins 80 02, as a pickle of protocol 2 does."""
    tensors = {f"t{index}": torch.zeros(1) for index in range(9)}
    sizes = {len(checkpoint.encode(tensors, {"pad": "x" * pad})) - 36: pad for pad in range(300)}
    data = checkpoint.encode(tensors, {"pad": "x" * sizes[8 + 640]})
    assert data[:2] == b"\x80\x02"
    assert len(checkpoint.decode(data).tensors) == 9


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "cut short"),
        (GOOD[:40], "cut short"),
        (GOOD + b"\0", "length differs"),
        (GOOD[:-1], "length differs"),
        ((2**63).to_bytes(8, "little") + b"{}", "header too large"),
        (with_header(b'{"a":1,"a":2}'), "not canonical|duplicate|twice"),
        (with_header({"a": entry(begin=4, end=12)}), "gap or an overlap"),
        (with_header({"a": entry(), "b": entry()}), "gap or an overlap"),
        (with_header({"a": entry(shape=(3,))}), "shape and length"),
        (with_header({"a": entry(shape=(2**32, 2**32))}), "shape and length"),
        (with_header({"a": entry(begin=8, end=0)}), "malformed"),
        (with_header({"a": entry(dtype="F7")}), "dtype is unknown"),
        (with_header({"a": {**entry(), "more": 1}}), "missing or unknown"),
        (with_header({"a": entry(shape=(-2,))}), "list of sizes"),
        (with_header({"a": entry(shape=(True, 2))}), "list of sizes"),
        (with_header({"../a": entry()}), "name is malformed"),
        (with_header({"__metadata__": {"a": 1}, "b": entry()}), "metadata is not text"),
        (with_header({"a": entry(shape=(1,) * 9, end=4)}, b"\0" * 4), "malformed"),
    ],
)
def test_a_malformed_checkpoint_is_refused(data, says):
    """Every way to lie in a header is an error of ours that says which."""
    with pytest.raises(FormatError) as caught:
        checkpoint.decode(data)
    assert any(word in str(caught.value) for word in says.split("|"))


@given(
    st.binary(max_size=200)
    | st.builds(
        lambda at, byte: GOOD[:at] + bytes([byte]) + GOOD[at + 1 :], st.integers(0, len(GOOD) - 1), st.integers(0, 255)
    )
)
def test_any_bytes_give_a_checkpoint_or_our_error(data):
    """The reader survives whatever a node hands in."""
    try:
        read = checkpoint.decode(data)
    except StannaryError:
        return
    assert set(read.tensors) <= {"a", "b.weight", "c"} or len(read.tensors) <= 3


def test_a_tensor_without_a_checkpoint_form_is_refused():
    """Complex numbers and odd names are refused on the way out too."""
    with pytest.raises(FormatError, match="no checkpoint form"):
        checkpoint.encode({"z": torch.zeros(1, dtype=torch.complex64)})
    with pytest.raises(FormatError, match="malformed"):
        checkpoint.encode({"__metadata__": torch.zeros(1)})
