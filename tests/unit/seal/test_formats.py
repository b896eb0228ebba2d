"""Headers, names, manifests and heads: what a strict reader refuses."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import struct
from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.unit.seal.world import Entries, Sealed, pattern, safetensors_bytes

from stannary.errors import FormatError, LimitExceeded, StannaryError
from stannary.formats import canonical
from stannary.seal import head, manifest, plan
from stannary.seal.content import names, tensors
from stannary.seal.content.kinds import FileKind
from stannary.seal.manifest import Codec, DeltaBase, KeyGroup, Manifest, Shard

ONE: Entries = {"a": ("F32", [2], pattern(8))}


def parsed(data: bytes) -> tuple[tensors.Tensor, ...]:
    """Read the header of a whole file."""
    length = tensors.header_length(data[:8], len(data))
    return tensors.parse_header(data[8 : 8 + length], len(data))


def with_header(text: str, data: bytes = b"") -> bytes:
    """Write a file with any header text."""
    encoded = text.encode()
    return struct.pack("<Q", len(encoded)) + encoded + data


def entry(**changes: object) -> str:
    """Return a header with one tensor of eight bytes, members changed."""
    return json.dumps({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8], **changes}})


def test_header_reads() -> None:
    """A plain file reads in byte order with offsets from the start of the file."""
    data = safetensors_bytes({"b": ("BF16", [2, 2], pattern(8)), "a": ("I64", [], pattern(8))}, {"k": "v"})
    listed = parsed(data)
    assert [(item.name, item.dtype, item.shape) for item in listed] == [("b", "BF16", (2, 2)), ("a", "I64", ())]
    assert listed[-1].end == len(data)


@pytest.mark.parametrize(
    ("text", "data"),
    [
        ("{" + ",".join([entry()[1:-1]] * 2) + "}", pattern(8)),
        (entry(dtype="F31"), pattern(8)),
        (entry(dtype=3), pattern(8)),
        (entry(shape=[3]), pattern(8)),
        (entry(shape=[-2]), pattern(8)),
        (entry(shape=[2.0]), pattern(8)),
        (entry(shape=[True, 2]), pattern(8)),
        (entry(shape=[1] * 17), pattern(8)),
        (entry(data_offsets=[8, 0]), pattern(8)),
        (entry(data_offsets=[0, 8, 9]), pattern(8)),
        (entry(data_offsets=[0, 2**60]), pattern(8)),
        (entry(data_offsets=[8, 16]), pattern(16)),
        (entry(), pattern(9)),
        (entry(), pattern(7)),
        (entry(extra=1), pattern(8)),
        ('{"a":{"dtype":"F32","shape":[2]}}', pattern(8)),
        ('{"a":[]}', b""),
        ('[]', b""),
        ('{"__metadata__":{"a":1}}', b""),
        ('{"__metadata__":[]}', b""),
        ("{", b""),
        (' {"a":1}', b""),
    ],
)  # fmt: skip
def test_bad_header_is_refused(text: str, data: bytes) -> None:
    """Duplicates, unknown dtypes, lies about lengths, holes, odd members: all refused as malformed."""
    with pytest.raises(FormatError):
        parsed(with_header(text, data))


def test_overlap_and_hole_are_refused() -> None:
    """Two tensors over the same bytes, or bytes of no tensor, are refused."""
    row = {"dtype": "U8", "shape": [4]}
    for offsets in ([[0, 4], [2, 6]], [[0, 4], [5, 9]], [[0, 4], [0, 4]]):
        members = {name: {**row, "data_offsets": place} for name, place in zip("ab", offsets, strict=True)}
        with pytest.raises(FormatError):
            parsed(with_header(json.dumps(members), b"x" * max(stop for _, stop in offsets)))


@pytest.mark.parametrize(
    "name",
    ["../../x", "a/../b", "/a", "a//b", "", ".", "a/.", "..\\x", "a\\..\\b", "\\\\host\\x", "a/..\\b", "x" * 70_000],
)
def test_tensor_name_that_is_a_path_out_is_refused(name: str) -> None:
    """Names that would leave a folder as file names, on any system, and endless ones are refused."""
    with pytest.raises(FormatError):
        names.check_tensor_name(name)
    with pytest.raises(FormatError):
        parsed(safetensors_bytes({name: ("U8", [1], b"x")}))


@pytest.mark.parametrize(
    "name",
    ["model.layers.0.self_attn.q_proj.weight", "a/b:0", "lora_A.default", "w[0]", "ü", "層.0.重み", "a\\b", "x" * 600,
     " ", "a\nb", "x\0y", "\x1b[2J", "e\u0301", "😀" * 100, '"', "__metadata", "..."],
)  # fmt: skip
def test_tensor_names_are_any_text(name: str) -> None:
    """Names as frameworks write them, and any other text the reference library reads, pass the header and the index."""
    assert names.check_tensor_name(name) == name
    (listed,) = parsed(safetensors_bytes({name: ("U8", [1], b"x")}))
    assert listed.name == name


def test_tensor_name_that_is_no_text_is_refused() -> None:
    """Half a surrogate pair is not UTF-8."""
    with pytest.raises(FormatError):
        names.check_tensor_name("\ud800")
    with pytest.raises(FormatError):
        parsed(with_header('{"\\ud800": {"dtype": "U8", "shape": [1], "data_offsets": [0, 1]}}', b"x"))


@pytest.mark.parametrize(
    "path",
    ["", "/a", "a/", "a//b", "..", "a/../b", "./a", "a\\b", "a:b", "a\x00", "a\x1b[2J", "con", "x/NUL.txt", "a.", "a ",
     " a", "e\u0301", "x" * 256, "/".join(["d"] * 600), "\udc80"],
)  # fmt: skip
def test_path_outside_the_grammar_is_refused(path: str) -> None:
    """Paths that climb, are absolute, are two names on some disk, or hold control characters are refused."""
    with pytest.raises(FormatError):
        names.check_path(path)


def test_paths_that_meet_are_refused() -> None:
    """Names that fold to one, and a file that is also a folder, are refused."""
    for paths in (["a", "A"], ["a/b", "A/B"], ["a", "a/b"], ["straße", "STRASSE"]):
        with pytest.raises(FormatError):
            names.check_paths(paths)
    names.check_paths(["a/b", "a/c", "b"])


@given(st.binary(max_size=400))
def test_any_bytes_as_a_header(data: bytes) -> None:
    """Whatever the bytes are, only our errors come out."""
    for reader in (lambda: parsed(data), lambda: tensors.parse_header(b"{" + data, 10**6), lambda: head.parse(data)):
        with contextlib.suppress(StannaryError):
            reader()


def test_giant_header_is_refused_before_it_is_read() -> None:
    """A length field of gigabytes costs nothing."""
    with pytest.raises(LimitExceeded):
        tensors.header_length((2**40).to_bytes(8, "little"), 2**41)
    with pytest.raises(FormatError):
        tensors.header_length((100).to_bytes(8, "little"), 50)


def test_head_is_strict(model: Sealed) -> None:
    """Unknown members, another format, white space, odd spellings of names: refused."""
    good = model.open().head
    text = good.to_bytes()
    assert head.parse(text) == good
    shard = good.shards[0].spell()
    for bad in (
        text.replace(b"{", b"{ ", 1),
        text.replace(b'"format":"seal/v1"', b'"format":"seal/v2"'),
        text.replace(b'"suite"', b'"sweet"'),
        text.replace(b"{", b'{"extra":1,', 1),
        text.replace(shard.encode(), shard.upper().encode()),
        text.replace(shard.encode(), b"b3:" + b"0" * 64 + b":0"),
        text.replace(shard.encode(), b"b3:" + b"0" * 64 + b":999999999"),
    ):
        with pytest.raises(FormatError):
            head.parse(bad)


Change = Callable[[Manifest], Manifest]


def _shard(index: int, **changes: object) -> Change:
    def change(item: Manifest) -> Manifest:
        rows = list(item.shards)
        rows[index] = dataclasses.replace(rows[index], **changes)  # type: ignore[arg-type]  # one test, many fields
        return dataclasses.replace(item, shards=tuple(rows))

    return change


def _tensor(index: int, **changes: object) -> Change:
    def change(item: Manifest) -> Manifest:
        rows = list(item.tensors)
        rows[index] = dataclasses.replace(rows[index], **changes)  # type: ignore[arg-type]  # one test, many fields
        return dataclasses.replace(item, tensors=tuple(rows))

    return change


@pytest.mark.parametrize(
    "change",
    [
        _shard(1, offset=0),
        _shard(1, size=10),
        _shard(0, size=2**40, stored=2**40),
        _shard(0, stored=0),
        _shard(0, group=99),
        _shard(0, plain="x"),
        _shard(0, codec=Codec.XOR_SPARSE),
        _shard(0, codec=Codec.XOR_SPARSE, base=DeltaBase(0, 0)),
        _shard(0, base=DeltaBase(0, 0)),
        _shard(0, file=7),
        lambda item: dataclasses.replace(item, shards=item.shards[:-1]),
        lambda item: dataclasses.replace(item, shards=item.shards[::-1]),
        lambda item: dataclasses.replace(item, artifact="0" * 64),
        lambda item: dataclasses.replace(item, name="a/b"),
        lambda item: dataclasses.replace(item, files=(dataclasses.replace(item.files[0], path="../x"),)),
        lambda item: dataclasses.replace(item, files=(dataclasses.replace(item.files[0], size=1),)),
        lambda item: dataclasses.replace(item, files=(dataclasses.replace(item.files[0], header=9),)),
        lambda item: dataclasses.replace(item, files=item.files * 2),
        lambda item: dataclasses.replace(item, groups=(*item.groups, KeyGroup("more", ""))),
        lambda item: dataclasses.replace(item, groups=tuple(KeyGroup("same", row.keys) for row in item.groups)),
        _tensor(0, name="../../x"),
        _tensor(0, dtype="F31"),
        _tensor(0, shape=(1,)),
        _tensor(0, begin=0),
        _tensor(0, file=3),
        lambda item: dataclasses.replace(item, tensors=item.tensors[1:]),
        lambda item: dataclasses.replace(item, tensors=(item.tensors[0], *item.tensors)),
    ],
)  # fmt: skip
def test_inconsistent_manifest_is_refused(model: Sealed, change: Change) -> None:
    """A manifest that leaves gaps, overlaps, names too much or too little is refused, signed or not."""
    artifact = model.open()
    with pytest.raises(FormatError):
        manifest.parse(change(artifact.manifest).to_bytes(), artifact.head)


def test_manifest_with_unknown_members_is_refused(model: Sealed) -> None:
    """Nothing rides along unread."""
    artifact = model.open()
    members = canonical.decode_object(artifact.manifest.to_bytes())
    for changed in ({**members, "extra": 1}, {**members, "format": "x"}, {**members, "layout": "heap"}):
        with pytest.raises(FormatError):
            manifest.parse(canonical.encode(changed), artifact.head)


def test_shard_fields_are_checked_against_the_head(model: Sealed) -> None:
    """Shard count and sealed lengths must be those of the public head."""
    artifact = model.open()
    shorter = dataclasses.replace(artifact.head, shards=artifact.head.shards[:-1])
    with pytest.raises(FormatError):
        manifest.parse(artifact.manifest.to_bytes(), shorter)
    assert isinstance(artifact.manifest.shards[0], Shard)


LEAVES = st.one_of(
    st.none(), st.booleans(), st.integers(-(2**53) + 1, 2**53 - 1), st.text(max_size=8), st.just([]), st.just({})
)


@given(choice=st.data())
@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=5 * settings.default.max_examples // 2
)
def test_manifest_with_any_member_changed(model: Sealed, choice: st.DataObject) -> None:
    """Any value put anywhere into a manifest is refused with our error, or was the value already."""
    artifact = model.open()
    members = canonical.decode_object(artifact.manifest.to_bytes())
    before = canonical.encode(members)
    place: object = members
    while True:
        keys = list(range(len(place))) if isinstance(place, list) else list(place) if isinstance(place, dict) else []
        key = choice.draw(st.sampled_from(keys))
        inner = place[key]  # type: ignore[index]  # a key of that very container
        if not isinstance(inner, dict | list) or not inner or choice.draw(st.booleans()):
            place[key] = choice.draw(LEAVES)  # type: ignore[index]  # as above
            break
        place = inner
    after = canonical.encode(members)
    with contextlib.suppress(StannaryError):
        assert manifest.parse(after, artifact.head).to_bytes() == after
        assert after == before or _harmless(artifact.manifest, manifest.parse(after, artifact.head))


def _harmless(old: Manifest, new: Manifest) -> bool:
    """Names, signatures, hashes and group ids are the owner's to choose; what is read where is not."""
    layout = [(item.file, item.offset, item.size, item.stored) for item in old.shards]
    return layout == [(item.file, item.offset, item.size, item.stored) for item in new.shards]


def test_many_dataset_files_share_groups() -> None:
    """Dataset files have groups of their own up to a number and share them beyond: manifests limit groups."""
    first, again = (next(plan.cut_file(number, FileKind.JSONL, 10, 65536)) for number in (7, 7 + plan.MAX_DATA_GROUPS))
    assert (first.group, again.group) == ("data.7", "data.7")
    assert plan.MAX_DATA_GROUPS * 2 <= manifest.MAX_GROUPS
    assert next(plan.cut_file(7, FileKind.BIN, 10, 65536)).group == "files"
