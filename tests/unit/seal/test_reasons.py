"""Every check of the readers by its own reason: where one stands before another, both are asked for by name."""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from tests.unit.seal.world import Sealed

from stannary.errors import FormatError, LimitExceeded, NotFound, Refuted, StannaryError, UsageError
from stannary.formats import canonical, digest, dsse, statement
from stannary.formats.canonical import Json
from stannary.formats.digest import Digest
from stannary.formats.statement import Subject
from stannary.seal import head, manifest, message, opening, reader, wrap
from stannary.seal.content import tensors
from stannary.seal.content.kinds import FileKind
from stannary.seal.head import Head, SealedObject
from stannary.seal.keys import OwnerKey, ReceivingKey
from stannary.seal.manifest import Codec, DeltaBase, FileEntry, KeyGroup, Layout, Manifest, Shard, TensorEntry
from stannary.seal.reader import SealedArtifact
from stannary.seal.stores.directory import DirectoryStore
from stannary.seal.stores.mirrors import Mirrors
from stannary.seal.stores.source import head_name, object_name

OWNER = OwnerKey(bytes(range(32)))
PARENT = digest.digest(b"parent")
BIN = FileEntry("a.bin", 10, FileKind.BIN)
NOW = datetime(2026, 1, 1, tzinfo=UTC)
NODE = ReceivingKey(bytes(range(96)))


def shard(**changes: object) -> Shard:
    """Return a shard of ten bytes."""
    row = Shard(file=0, offset=0, size=10, stored=10, group=0, plain="0" * 64)
    return dataclasses.replace(row, **changes)  # type: ignore[arg-type]  # one helper, many fields


def listing(**changes: object) -> Manifest:
    """Return a manifest of one file of ten bytes, members changed."""
    whole = Manifest("0" * 64, Layout.FOLDER, "m", (BIN,), (), (), (KeyGroup("files", ""),), (shard(),))
    return dataclasses.replace(whole, **changes)  # type: ignore[arg-type]  # as above


def head_of(item: Manifest, *, parent: Digest | None = None, sealed: int | None = None) -> Head:
    """Return the head that fits a manifest."""
    lengths = [sealed or message.sealed_length(message.padded_length(max(0, row.stored))) for row in item.shards]
    objects = tuple(SealedObject("1" * 64, length) for length in lengths)
    return Head(item.artifact, OWNER.public.hex(), SealedObject("2" * 64, 100), objects, parent)


def test_plain_listing_is_accepted() -> None:
    """The manifest that the cases below change is a good one."""
    assert manifest.parse(listing().to_bytes(), head_of(listing())) == listing()


def tensor(name: str, begin: int, end: int, file: int = 0) -> TensorEntry:
    """Return a row of bytes as a tensor."""
    return TensorEntry(file, name, "U8", (end - begin,), begin, end)


def weights(*rows: TensorEntry, header: int = 10) -> Manifest:
    """Return a manifest of a safetensors file of ten bytes, all of them header."""
    return listing(files=(FileEntry("a.safetensors", 10, FileKind.SAFETENSORS, header),), tensors=rows)


HUGE = manifest.MAX_SHARD_BYTES + 1
SPARSE = shard(codec=Codec.XOR_SPARSE, stored=9)
MANIFESTS: dict[str, tuple[Manifest, str]] = {
    "two paths fold to one": (
        listing(files=(BIN, FileEntry("A.BIN", 0, FileKind.BIN))), "one on a case-folding disk",
    ),
    "a file that is a folder": (listing(folders=("a.bin/x",)), "both a file and a folder"),
    "two files in a file layout": (
        listing(layout=Layout.FILE, files=(BIN, FileEntry("b", 0, FileKind.BIN))), "a file layout holds one file",
    ),
    "a folder in a file layout": (listing(layout=Layout.FILE, folders=("x",)), "a file layout holds one file"),
    "a path in a file layout": (
        listing(layout=Layout.FILE, files=(dataclasses.replace(BIN, path="x/a.bin"),)), "a file layout holds one file",
    ),
    "a name that is a path": (listing(name="x/y"), "manifest name is a path"),
    "a name that climbs": (listing(name=".."), "leaves its folder"),
    "a group id of other letters": (listing(groups=(KeyGroup("a b", ""),)), "not distinct names"),
    "two groups of one id": (
        listing(groups=(KeyGroup("a", ""), KeyGroup("a", "")), shards=(shard(size=5, stored=5), shard(
            offset=5, size=5, stored=5, group=1))), "not distinct names",
    ),
    "no shards": (listing(groups=(), shards=()), "do not fill the files"),
    "a shard too few": (listing(shards=(shard(size=4, stored=4),)), "do not fill the files"),
    "a shard too many": (
        listing(shards=(shard(), shard(file=1))), "leave a gap or overlap",
    ),
    "a shard past the end": (listing(shards=(shard(size=11, stored=11),)), "passes the end"),
    "a shard too large": (
        listing(files=(dataclasses.replace(BIN, size=HUGE),), shards=(shard(size=HUGE, stored=HUGE),)),
        "shard length refused",
    ),
    "nothing stored": (listing(shards=(shard(stored=0, codec=Codec.BF16_SPLIT),)), "shard length refused"),
    "more stored than there is": (
        listing(shards=(shard(stored=11, codec=Codec.BF16_SPLIT),)), "shard length refused",
    ),
    "raw and shorter": (listing(shards=(shard(stored=9),)), "raw shard stores another length"),
    "no hash": (listing(shards=(shard(plain="0" * 63),)), "no plaintext hash"),
    "delta without a base": (listing(shards=(SPARSE,)), "a delta without a base"),
    "base without a delta": (listing(shards=(shard(base=DeltaBase(0, 0)),)), "a delta without a base"),
    "two tensors of one name": (weights(tensor("a", 10, 10), tensor("a", 10, 10)), "duplicate tensor name"),
    "tensor of no file": (weights(tensor("a", 10, 10, file=4)), "a file that is not there"),
    "tensor of a plain file": (listing(tensors=(tensor("a", 0, 10),)), "not safetensors"),
    "header of a plain file": (listing(files=(dataclasses.replace(BIN, header=1),)), "not safetensors"),
    "hole before a tensor": (weights(tensor("a", 9, 10), header=8), "leave a hole"),
    "rest after the tensors": (weights(tensor("a", 8, 9), header=8), "do not fill the file"),
}  # fmt: skip


@pytest.mark.parametrize("name", MANIFESTS)
def test_manifest_is_refused_for_its_reason(name: str) -> None:
    """Each rule of the manifest refuses what breaks it and nothing else."""
    item, reason = MANIFESTS[name]
    with pytest.raises(FormatError, match=reason):
        manifest.parse(item.to_bytes(), head_of(item))


@pytest.mark.parametrize("base", [DeltaBase(-1, 0), DeltaBase(0, -1)])
def test_delta_base_before_the_start(base: DeltaBase) -> None:
    """A base at a negative place is refused although there is a parent; one without a parent is, too."""
    item = listing(shards=(dataclasses.replace(SPARSE, base=base),))
    with pytest.raises(FormatError, match="without a parent"):
        manifest.parse(item.to_bytes(), head_of(item, parent=PARENT))
    good = listing(shards=(dataclasses.replace(SPARSE, base=DeltaBase(0, 0)),))
    assert manifest.parse(good.to_bytes(), head_of(good, parent=PARENT)) == good
    with pytest.raises(FormatError, match="without a parent"):
        manifest.parse(good.to_bytes(), head_of(good))


def test_sealed_length_must_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    """The head's length of a shard must be that of what the manifest says it stores."""
    with pytest.raises(FormatError, match="does not match the head"):
        manifest.parse(listing().to_bytes(), head_of(listing(), sealed=65_690))


def test_lists_have_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    """A list longer than its limit is refused before its rows are read."""
    monkeypatch.setattr(manifest, "MAX_GROUPS", 0)
    with pytest.raises(LimitExceeded, match="too many groups"):
        manifest.parse(listing().to_bytes(), head_of(listing()))


def test_manifest_members_have_types() -> None:
    """Text is text and a list is a list."""
    members = canonical.decode_object(listing().to_bytes())
    for name, value, reason in (
        ("name", 3, "name is not text"),
        ("folders", [3], "folder is not text"),
        ("files", {}, "files is not a list"),
        ("layout", ["folder"], "layout is unknown"),
        ("format", "seal/v1", "another artifact or format"),
        ("artifact", "1" * 64, "another artifact or format"),
    ):
        with pytest.raises(FormatError, match=reason):
            manifest.parse(canonical.encode({**members, name: value}), head_of(listing()))


def test_key_group_of_another_number_of_keys() -> None:
    """A group whose message holds more keys than it has shards is refused."""
    key = bytes(32)
    sealed = message.seal(bytes(64), key, manifest.group_context("0" * 64, "files", 1))
    item = listing(groups=(KeyGroup("files", dsse.encode_base64(sealed)),))
    with pytest.raises(FormatError, match="another number of keys"):
        manifest.open_group(item, 0, [0], key)


HEAD = head_of(listing())


def signed(item: Head, *, subject: bytes | None = None, **claim: object) -> bytes:
    """Return the owner's signature over a head, or over something near it."""
    stated = dataclasses.replace(head._claim(item), **claim)  # type: ignore[arg-type]  # members of the claim
    subjects = (Subject(head.SUBJECT_NAME, digest.digest(subject or item.to_bytes())),)
    return statement.sign(head.KIND, stated, subjects, OWNER.signing).to_bytes()


def test_head_is_checked_step_by_step() -> None:
    """Another digest, a long or oddly written signature, one over something else: each for its own reason."""
    text, name = HEAD.to_bytes(), digest.digest(HEAD.to_bytes())
    assert head.check(text, signed(HEAD), name) == HEAD
    other = dataclasses.replace(HEAD, artifact="3" * 64)
    cases: list[tuple[bytes, bytes, type[StannaryError], str]] = [
        (other.to_bytes(), signed(other), Refuted, "another artifact"),
        (text, signed(HEAD) + b" " * head.MAX_ENVELOPE_BYTES, LimitExceeded, "signature too large"),
        (text, signed(HEAD) + b" ", FormatError, "not canonical"),
        (text, signed(HEAD, subject=b"other"), Refuted, "signed another head"),
        (text, signed(HEAD, sealed_bytes=1), Refuted, "signed another head"),
        (text, signed(HEAD, parent=PARENT), Refuted, "signed another head"),
    ]
    for data, envelope, error, reason in cases:
        with pytest.raises(error, match=reason):
            head.check(data, envelope, name)


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("format", "seal/v2", "not a seal/v1 head"),
        ("suite", "cobblestone-128+blake3", "not a seal/v1 head"),
        ("shards", {}, "shards is not a list"),
        ("shards", [3], "not the name of a sealed object"),
        ("shards", ["b3:" + "0" * 64 + ":99999999999"], "not the name of a sealed object"),
        ("shards", ["b3:" + "0" * 64 + ":99999999"], "sealed object too large"),
        ("shards", ["b3:" + "0" * 64 + ":012"], "not the name of a sealed object"),
        ("artifact", 3, "artifact is not 32 bytes"),
        ("artifact", "A" * 64, "artifact is not 32 bytes"),
        ("owner", "0" * 63, "owner is not 32 bytes"),
        ("parent", "sha256:0", "not a digest"),
        ("more", 1, "missing or unknown members"),
    ],
)
def test_head_members_are_refused_for_their_reason(name: str, value: Json, reason: str) -> None:
    """Each member of a head has its form."""
    members = canonical.decode_object(HEAD.to_bytes())
    with pytest.raises(FormatError, match=reason):
        head.parse(canonical.encode({**members, name: value}))


def test_head_has_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """More shards than may be are refused before they are read."""
    monkeypatch.setattr(head, "MAX_SHARDS", 0)
    with pytest.raises(LimitExceeded, match="too many shards"):
        head.parse(HEAD.to_bytes())


def test_reader_refuses_what_cannot_be(model: Sealed) -> None:
    """No source, no parent, too many deltas, ranges outside, jobs outside: each is an error of ours."""
    artifact = model.open()
    size = artifact.manifest.files[0].size
    with pytest.raises(UsageError, match="no source"):
        reader.open_artifact(model.digest, [], model.owner)
    with pytest.raises(FormatError, match="no parent"):
        artifact.parent()
    with pytest.raises(LimitExceeded, match="deltas upon deltas"):
        SealedArtifact(artifact.mirrors, model.owner, depth=reader.MAX_CHAIN + 1)
    for file, offset, count in ((-1, 0, 1), (1, 0, 1), (0, -1, 1), (0, size, 1), (0, size - 1, 2)):
        with pytest.raises(FormatError, match="outside its file"):
            artifact.read_range(file, offset, memoryview(bytearray(count)))
    for jobs in (0, -1, reader.MAX_JOBS + 1):
        with pytest.raises(UsageError, match="number of jobs"):
            reader.check_jobs(jobs)
        with pytest.raises(UsageError, match="number of jobs"):
            artifact.read_shards([], jobs=jobs)


@pytest.mark.parametrize("length", [0, 55, 56, 71, 56 + 16_400, 56 + 16_415])
def test_manifest_of_an_impossible_length(length: int) -> None:
    """No message has such a length: the manifest was cut."""
    with pytest.raises(Refuted, match="is cut"):
        reader._manifest_plain_bytes(length)


@pytest.mark.parametrize("plain", [0, 1, 16_383, 16_384, 40_000])
def test_manifest_length_is_found(plain: int) -> None:
    """The plaintext length follows from the sealed one."""
    assert reader._manifest_plain_bytes(message.sealed_length(plain)) == plain


def test_header_length_is_part_of_the_index(model: Sealed) -> None:
    """A file whose length field names another header than the index is refused: its tensors lie elsewhere."""
    artifact = model.open()
    good = bytearray(artifact.manifest.files[0].header)
    artifact.read_range(0, 0, memoryview(good))
    artifact.check_header(0, bytes(good))
    shorter = (len(good) - 8 - 1).to_bytes(8, "little") + good[8:]
    with pytest.raises(Refuted, match="disagree"):
        artifact.check_header(0, bytes(shorter))
    renamed = good.replace(b"embed.weight", b"embed.weighs")
    with pytest.raises(Refuted, match="disagree"):
        artifact.check_header(0, bytes(renamed))


@pytest.mark.parametrize("part", ["head", "manifest"])
def test_liar_about_head_or_manifest_is_named(model: Sealed, tmp_path: Path, part: str) -> None:
    """A mirror that serves another head or manifest is named, and the honest one is used."""
    import shutil

    bad = tmp_path / "bad"
    shutil.copytree(model.root, bad)
    name = head_name(model.digest) if part == "head" else object_name(model.open().head.manifest)
    data = (bad / name).read_bytes()
    (bad / name).write_bytes(data[:99] + bytes([data[99] ^ 1]) + data[100:])
    named = []
    for roots in ((bad, model.root), (model.root, bad)):  # mirrors take turns: in one of the orders the liar is first
        mirrors = Mirrors(model.digest, tuple(map(DirectoryStore, roots)), pause=lambda _: None)
        assert SealedArtifact(mirrors, model.owner).manifest.name == "model.safetensors"
        named += [(item.mirror, item.object) for item in mirrors.blames]
    assert named == [(str(bad), name)]


def test_mirror_that_fails_is_asked_again_when_another_lacks_the_object(model: Sealed, tmp_path: Path) -> None:
    """An empty mirror does not end the search while another one may yet answer."""
    from stannary.seal.stores.source import SourceFailure

    (tmp_path / "empty").mkdir()

    class Flaky(DirectoryStore):
        """Fails the first time it is asked for a name."""

        def read(self, name: str, limit: int) -> bytes:
            if name not in asked:
                asked.add(name)
                raise SourceFailure("not now")
            return super().read(name, limit)

    for order in (1, -1):
        asked: set[str] = set()
        sources = (Flaky(model.root), DirectoryStore(tmp_path / "empty"))[::order]
        artifact = SealedArtifact(Mirrors(model.digest, sources, pause=lambda _: None), model.owner)
        assert artifact.manifest.name == "model.safetensors"


def test_what_is_missing_is_named(model: Sealed) -> None:
    """An artifact that is nowhere and a shard that is gone are told apart, each with the next step."""
    nowhere = Mirrors(digest.digest(b"other"), (DirectoryStore(model.root),), pause=lambda _: None)
    with pytest.raises(NotFound, match="no such artifact there") as caught:
        SealedArtifact(nowhere, model.owner)
    assert caught.value.hint == f"stannary artifact ls --from {model.root}"
    artifact = model.open()
    (model.root / object_name(artifact.head.shards[2])).unlink()
    with pytest.raises(NotFound, match="lacks a part") as caught:
        artifact.read_range(0, 0, memoryview(bytearray(artifact.manifest.files[0].size)))
    assert object_name(artifact.head.shards[2]) in caught.value.why


def wrapped(sealed: Sealed) -> dict[str, Json]:
    """Return the members of a wrap for the node."""
    terms = ("job-1", NOW + timedelta(hours=1))
    data = wrap.wrap(sealed.open().head, sealed.owner, ("index",), wrap.public_key(NODE.public), terms)
    return canonical.decode_object(data)


def unwrapped(sealed: Sealed, data: bytes) -> object:
    """Open a wrap as the node."""
    return wrap.unwrap(data, NODE, artifact=sealed.digest, audience="job-1", now=NOW)


def test_wrap_members_are_refused_for_their_reason(model: Sealed) -> None:
    """Each member of a wrap has its form, whatever HPKE would say of it."""
    members = wrapped(model)
    assert unwrapped(model, canonical.encode(members))
    changes: list[tuple[dict[str, Json], str]] = [
        ({"format": "seal/v2 wrap"}, "not a seal/v1 wrap"),
        ({"groups": "index"}, "wrong type"),
        ({"groups": ["index", 3]}, "groups are not names"),
        ({"expires_at": 3}, "wrong type"),
        ({"expires_at": "2026-01-01"}, "wrong type"),
        ({"expires_at": "2026-13-01T00:00:00Z"}, "not a time"),
        ({"sealed": "!"}, "sealed is not base64"),
        ({"more": 1}, "missing or unknown members"),
    ]
    for change, reason in changes:
        with pytest.raises(FormatError, match=reason):
            unwrapped(model, canonical.encode({**members, **change}))
    with pytest.raises(FormatError, match="not a seal/v1 wrap"):
        unwrapped(model, canonical.encode(members) + b"\n")
    with pytest.raises(FormatError, match="not a seal/v1 wrap"):
        unwrapped(model, json.dumps(members).encode())


def test_wrapped_bundle_has_its_form(model: Sealed) -> None:
    """What was sealed for us by anybody (HPKE names no sender) is read as strictly as the rest."""
    terms = wrap.Terms(model.digest, ("index",), "job-1", "2026-01-01T01:00:00Z")
    key = "00" * 32
    good: dict[str, Json] = {"manifest": key, "groups": {"index": key}}
    bundles: list[tuple[dict[str, Json], str]] = [
        ({**good, "groups": {}}, "bundle has missing"),
        ({**good, "groups": {"index": key, "more": key}}, "bundle has missing"),
        ({**good, "groups": ["index"]}, "bundle has missing"),
        ({**good, "more": key}, "bundle has missing"),
        ({**good, "manifest": key[2:]}, "not 32 bytes"),
        ({**good, "groups": {"index": 3}}, "not 32 bytes"),
    ]
    for bundle, reason in bundles:
        sealed = wrap._SUITE.encrypt(canonical.encode(bundle), wrap.public_key(NODE.public), terms.info())
        members = {**canonical.decode_object(terms.info()), "sealed": dsse.encode_base64(sealed)}
        with pytest.raises(FormatError, match=reason):
            unwrapped(model, canonical.encode(members))


def test_wrap_is_made_for_a_plain_audience_and_key(model: Sealed) -> None:
    """An audience of other letters and a key of another length are refused by the maker."""
    public = wrap.public_key(NODE.public)
    for audience in ("a b", "", "x" * 201, "é"):
        with pytest.raises(UsageError, match="audience refused"):
            wrap.wrap(model.open().head, model.owner, ("index",), public, (audience, NOW))
    for data in (b"", NODE.public[:-1], NODE.public + b"\0"):
        with pytest.raises(FormatError, match=f"X-Wing public key: {len(data)} bytes"):
            wrap.public_key(data)


def test_sparse_file_and_equal_shards(seal_bytes: Callable[..., Sealed]) -> None:
    """A run of equal shards comes back whole, each under a name of its own when nothing was known before."""
    sealed = seal_bytes(bytes(65536 * 3), "zeros.bin")
    objects = sealed.open().head.shards
    assert len({item.blake3 for item in objects}) == len(objects) == 3


def header(**rows: Json) -> bytes:
    """Return a safetensors header, as canonical JSON."""
    return canonical.encode(dict(rows))


def row(begin: int, end: int, **changes: Json) -> dict[str, Json]:
    """Return one tensor of bytes in a header."""
    return {"dtype": "U8", "shape": [end - begin], "data_offsets": [begin, end], **changes}


HEADERS: dict[str, tuple[bytes, int, str]] = {
    "not an object": (b"[]", 0, "does not start with {"),
    "white space first": (b" {}", 0, "does not start with {"),
    "overlap": (header(a=row(0, 4), b=row(3, 7)), 7, "tensors overlap"),
    "hole": (header(a=row(0, 4), b=row(5, 7)), 7, "leave a hole"),
    "hole at the start": (header(a=row(1, 4)), 4, "leave a hole"),
    "rest": (header(a=row(0, 4)), 5, "do not fill the file"),
    "past the end": (header(a=row(0, 4)), 3, "do not fill the file"),
    "no tensors but bytes": (header(), 1, "do not fill the file"),
    "climbing name": (header(**{"../x": row(0, 4)}), 4, "tensor name refused"),
    "empty segment": (header(**{"a//x": row(0, 4)}), 4, "would leave its folder"),
    "unknown dtype": (header(a=row(0, 4, dtype="C128")), 4, "unknown dtype"),
    "half a byte": (header(a=row(0, 2, dtype="F4", shape=[3])), 2, "does not match its shape"),
    "a scalar of half a byte": (header(a=row(0, 1, dtype="F4", shape=[])), 1, "does not match its shape"),
    "a quarter of a byte": (header(a=row(0, 3, dtype="F6_E2M3", shape=[3])), 3, "does not match its shape"),
    "bytes of halves": (header(a=row(0, 4, dtype="F4")), 4, "does not match its shape"),
    "dtype that is no text": (header(a=row(0, 4, dtype=["U8"])), 4, "dtype is not a string"),
    "too many dimensions": (header(a=row(0, 1, shape=[1] * 65)), 1, "shape refused"),
    "negative extent": (header(a=row(0, 4, shape=[-4])), 4, "not of whole numbers"),
    "two negative extents": (header(a=row(0, 4, shape=[-2, -2])), 4, "not of whole numbers"),
    "extent that is true": (header(a=row(0, 4, shape=[True, 4])), 4, "not of whole numbers"),
    "extent that is text": (header(a=row(0, 4, shape=["4"])), 4, "not of whole numbers"),
    "shape that is no list": (header(a=row(0, 4, shape=4)), 4, "not a list of the right length"),
    "three offsets": (header(a=row(0, 4, data_offsets=[0, 4, 4])), 4, "not a list of the right length"),
    "one offset": (header(a=row(0, 4, data_offsets=[4])), 4, "not a list of the right length"),
    "end before the beginning": (header(a=row(0, 4, data_offsets=[4, 0])), 4, "ends before it begins"),
    "another length": (header(a=row(0, 4, shape=[3])), 4, "does not match its shape"),
    "a product beyond all numbers": (header(a=row(0, 4, shape=[2**53 - 1] * 16)), 4, "does not match its shape"),
    "a member more": (header(a=row(0, 4, more=1)), 4, "missing or unknown members"),
    "a member less": (header(a={"dtype": "U8", "shape": [4]}), 4, "missing or unknown members"),
    "no row": (header(a=4), 4, "missing or unknown members"),
    "metadata that is no map": (header(__metadata__=["x"]), 0, "map of text to text"),
    "metadata that is no text": (header(__metadata__={"x": 1}), 0, "map of text to text"),
    "two tensors of one name": (b'{"a":' + canonical.encode(row(0, 4)) + b',"a":' + canonical.encode(row(4, 8)) + b"}",
                                8, "duplicate JSON member"),
    "a fraction": (b'{"a":{"dtype":"U8","shape":[4.0],"data_offsets":[0,4]}}', 4, "fraction"),
}  # fmt: skip


@pytest.mark.parametrize("name", HEADERS)
def test_header_is_refused_for_its_reason(name: str) -> None:
    """Each rule of the safetensors header refuses what breaks it."""
    text, data_bytes, reason = HEADERS[name]
    with pytest.raises(FormatError, match=reason):
        tensors.parse_header(text, tensors.LENGTH_BYTES + len(text) + data_bytes)


def test_headers_that_are_right() -> None:
    """Spaces behind the header, tensors out of order, empty ones and scalars are as they should be."""
    text = header(b=row(4, 8), a=row(0, 4), none=row(4, 4), also=row(8, 8), one=row(8, 9, shape=[])) + b"   "
    start = tensors.LENGTH_BYTES + len(text)
    listed = tensors.parse_header(text, start + 9)
    assert [item.name for item in listed] == ["a", "none", "b", "also", "one"]
    assert [item.begin - start for item in listed] == [0, 4, 4, 8, 8]


def test_header_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lengths that cannot be are refused from the first eight bytes; so are more tensors than may be."""
    for prefix, size, reason in (
        (b"\2\0\0", 100, "shorter than its length field"),
        ((2).to_bytes(8, "little"), 7, "shorter than its length field"),
        ((1).to_bytes(8, "little"), 100, "header of 1 bytes"),
        ((93).to_bytes(8, "little"), 100, "header of 93 bytes"),
        ((tensors.MAX_HEADER_BYTES + 1).to_bytes(8, "little"), 2**40, "header too large"),
    ):
        with pytest.raises(FormatError, match=reason):
            tensors.header_length(prefix, size)
    assert tensors.header_length((92).to_bytes(8, "little"), 100) == 92
    monkeypatch.setattr(tensors, "MAX_TENSORS", 1)
    text = header(a=row(0, 4), b=row(4, 8))
    with pytest.raises(LimitExceeded, match="too many tensors"):
        tensors.parse_header(text, tensors.LENGTH_BYTES + len(text) + 8)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"begin": -4, "end": 0}, "does not match its shape"),
        ({"shape": (-4,)}, "shape refused"),
        ({"shape": (-2, -2)}, "shape refused"),
        ({"dtype": "u8"}, "unknown dtype"),
        ({"name": "a/.."}, "would leave its folder"),
    ],
)
def test_row_of_the_index_is_refused_for_its_reason(changes: dict[str, object], reason: str) -> None:
    """A tensor of the sealed index keeps the rules of the header, negative numbers included."""
    good = tensors.Tensor("a", "U8", (4,), 0, 4)
    assert tensors.check_tensor(good) == good
    with pytest.raises(FormatError, match=reason):
        tensors.check_tensor(dataclasses.replace(good, **changes))  # type: ignore[arg-type]  # one test, many fields


@pytest.mark.parametrize(("dtype", "width"), tensors.DTYPES.items())
def test_dtype_widths_are_those_of_torch(dtype: str, width: int) -> None:
    """Every dtype has the width torch gives it: a wrong one would shift all that follows."""
    from stannary.seal.torch_tensors import _dtype

    assert _dtype(dtype).itemsize == width


@pytest.mark.parametrize("dtype", [*tensors.DTYPES, *tensors.SUB_BYTE_BITS])
@pytest.mark.parametrize("count", [0, 1, 3, 4, 8, 24])
def test_lengths_are_those_of_the_library(dtype: str, count: int) -> None:
    """Of every dtype, the lengths that fit a shape are those that the reference library takes."""
    import safetensors

    bits = tensors.SUB_BYTE_BITS.get(dtype) or 8 * tensors.DTYPES[dtype]
    for num_bytes in {count * bits // 8, -(-count * bits // 8), count * bits // 8 + 1}:
        text = header(a=row(0, num_bytes, dtype=dtype, shape=[count]))
        data = len(text).to_bytes(8, "little") + text + bytes(num_bytes)
        try:
            safetensors.deserialize(data)
        except safetensors.SafetensorError:
            with pytest.raises(FormatError):
                tensors.parse_header(text, len(data))
        else:
            assert tensors.parse_header(text, len(data))[0].dtype == dtype


@pytest.mark.parametrize(
    ("part", "reason"),
    [
        (b'"%x":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},', "too many tensors"),
        (b'"%x":{"dtype":"U8","shape":[1],"data_\\u006fffsets":[0,1]},', "too many tensors"),
        (b'"%x":{},', "too many tensors"),
        (b"%d,", "too crowded"),
    ],
)
def test_a_header_made_to_be_costly_is_refused_before_it_is_parsed(
    part: bytes, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A hundred megabytes of tensors or of extents are refused by counting, which is quick."""
    monkeypatch.setattr(canonical, "decode_object", None)
    text = b"{" + part % 1 * (1_000_000 if b"{" in part else tensors.MAX_COMMAS + 1) + b"}"
    with pytest.raises(LimitExceeded, match=reason):
        tensors.parse_header(text, tensors.LENGTH_BYTES + len(text) + 1)


def test_reading_a_header_leaves_the_collector_as_it_was() -> None:
    """The garbage collector rests while a header is read, and runs again behind it, whatever the header was."""
    good = header(a=row(0, 4))
    for text, reads in ((good, True), (good[:-1], False)):
        with contextlib.nullcontext() if reads else pytest.raises(FormatError):
            tensors.parse_header(text, tensors.LENGTH_BYTES + len(text) + 4)
        assert gc.isenabled()
    gc.disable()
    try:
        tensors.parse_header(good, tensors.LENGTH_BYTES + len(good) + 4)
        assert not gc.isenabled()
    finally:
        gc.enable()


def test_metadata_may_hold_what_looks_like_many_tensors() -> None:
    """Configurations that tools keep as text, braces, commas and all, are no tensors."""
    told = json.dumps({"config": '{"data_offsets": [1, 2]},' * (tensors.MAX_TENSORS + 1)})
    text = b'{"__metadata__":' + told.encode() + b',"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}'
    assert [item.name for item in tensors.parse_header(text, tensors.LENGTH_BYTES + len(text) + 1)] == ["a"]


def test_a_header_of_the_largest_size_is_read(seal_bytes: Callable[..., Sealed], tmp_path: Path) -> None:
    """A header as long as the library takes is sealed and comes back; a byte more is refused."""
    text = header(a=row(0, 4)).ljust(tensors.MAX_HEADER_BYTES)
    assert len(text) == 100_000_000
    sealed = seal_bytes(len(text).to_bytes(8, "little") + text + b"abcd", shard_bytes=32 * 1024 * 1024)
    opening.open_to(sealed.open(), tmp_path / "out")
    assert (tmp_path / "out").stat().st_size == 8 + len(text) + 4
    with pytest.raises(LimitExceeded, match="header too large"):
        tensors.header_length((len(text) + 1).to_bytes(8, "little"), 2**40)
