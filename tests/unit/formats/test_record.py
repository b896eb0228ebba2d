"""Records, ids, statements and predicates: what is signed is what is understood."""

from dataclasses import dataclass, fields
from enum import StrEnum
from typing import Any, get_type_hints

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from stannary.errors import FormatError, LimitExceeded, Refuted
from stannary.formats import canonical, commitments, digest, dsse, ids, predicates, record, statement
from stannary.formats.digest import Digest

KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))


class Colour(StrEnum):
    RED = "red"


@dataclass(frozen=True, slots=True)
class Inner:
    count: int


@dataclass(frozen=True, slots=True)
class Sample:
    name: str
    colour: Colour
    root: Digest
    flag: bool
    inners: tuple[Inner, ...]
    by_name: dict[str, Inner]
    free: dict[str, Any]
    note: str | None = None


MEMBERS = {
    "name": "x",
    "colour": "red",
    "root": "sha256:" + "0" * 64,
    "flag": True,
    "inners": [{"count": 1}, {"count": 2}],
    "by_name": {"a": {"count": 3}},
    "free": {"x": [1]},
}


def test_a_record_is_read_and_written_alike():
    """Reading and writing gives the same members; an absent optional stays absent."""
    read = record.from_json(Sample, MEMBERS)
    assert read.inners == (Inner(1), Inner(2))
    assert read.by_name == {"a": Inner(3)}
    assert record.to_json(read) == MEMBERS
    assert record.from_json(Sample, {**MEMBERS, "note": "n"}).note == "n"


@pytest.mark.parametrize(
    ("change", "where"),
    [
        ({"extra": 1}, "sample has unknown members"),
        ({"name": 1}, "sample.name is not a str"),
        ({"flag": 1}, "sample.flag is not a bool"),
        ({"colour": "blue"}, "sample.colour is not a Colour"),
        ({"colour": ["red"]}, "sample.colour is not a Colour"),
        ({"inners": {}}, "sample.inners is not a list"),
        ({"inners": [{"count": 1}, {"count": True}]}, r"sample.inners\[1\].count is not a int"),
        ({"inners": [{"count": 1}, {}]}, r"sample.inners\[1\] lacks a member"),
        ({"inners": [3]}, r"sample.inners\[0\] is not an object"),
        ({"by_name": {"a": 1}}, "sample.by_name.a is not an object"),
        ({"free": []}, "sample.free is not an object"),
        ({"note": None}, "sample.note is null"),
    ],
)
def test_what_does_not_fit_is_refused_by_its_path(change, where):
    """Unknown, missing and ill-typed members are refused, and the message says where."""
    with pytest.raises(FormatError, match=where):
        record.from_json(Sample, {**MEMBERS, **change}, what="sample")


def test_missing_members_and_limits_are_refused():
    """Every required member must be there; lists and strings are bounded."""
    for name in MEMBERS:
        with pytest.raises(FormatError, match="lacks a member"):
            record.from_json(Sample, {key: value for key, value in MEMBERS.items() if key != name})
    with pytest.raises(LimitExceeded):
        record.from_json(Sample, {**MEMBERS, "inners": [{"count": 1}] * (record.MAX_ITEMS + 1)})
    with pytest.raises(LimitExceeded):
        record.from_json(Sample, {**MEMBERS, "name": "x" * (record.MAX_STRING + 1)})
    with pytest.raises(FormatError):
        record.from_json(Sample, [])


READING = predicates.Reading(
    ids.JobId("j-0"), ids.NodeId("n-0"), 1, "00", predicates.Spent(1, 2, 3, 4, 5), "2026-01-01T00:00:00Z"
)


def test_a_statement_is_read_from_the_signed_bytes():
    """Kind, subjects and predicate come back; read and read_any agree."""
    subject = statement.Subject("model", digest.digest(b"m"))
    envelope = statement.sign("reading", READING, (subject,), KEY)
    read = statement.open_envelope(envelope, "reading", predicates.Reading, dsse.public_bytes(KEY))
    assert (read.kind, read.subjects, read.predicate) == ("reading", (subject,), READING)
    assert statement.read_any(envelope.payload, {"reading": predicates.Reading}) == read


def test_other_statements_are_refused():
    """Another kind, an unknown member, another spelling, or a foreign type is refused."""
    payload = statement.sign("reading", READING, (), KEY).payload
    members = canonical.decode_object(payload)
    bad = [
        {**members, "x": 1},
        {**members, "_type": "y"},
        {**members, "subject": {}},
        {**members, "subject": [1]},
        {**members, "subject": [{"name": "a", "digest": {"sha512": "00"}}]},
        {**members, "subject": [{"name": "a", "digest": {"sha256": "00"}}]},
        {**members, "predicate": []},
    ]
    for item in bad:
        with pytest.raises(FormatError):
            statement.read(canonical.encode(item), "reading", predicates.Reading)
    for spelled in (payload + b" ", payload.replace(b'"seq":1', b'"seq": 1'), b"[]"):
        with pytest.raises(FormatError):
            statement.read(spelled, "reading", predicates.Reading)
    with pytest.raises(FormatError):
        statement.read(payload, "answer", predicates.Answer)
    with pytest.raises(FormatError):
        statement.read_any(payload, {"answer": predicates.Answer})
    with pytest.raises(FormatError):
        statement.read(b'{"predicateType":"urn:other:v1"}', "answer", predicates.Answer)


def test_every_predicate_has_a_schema():
    """Each predicate's annotations have a JSON form, so that none is refused for a bug of ours."""
    for cls in vars(predicates).values():
        if isinstance(cls, type) and cls.__module__ == predicates.__name__ and hasattr(cls, "__dataclass_fields__"):
            assert set(get_type_hints(cls)) == {field.name for field in fields(cls)}
            with pytest.raises(FormatError):
                record.from_json(cls, {})


def test_ids_follow_from_keys_and_digests():
    """Names are derived, parse back, and nothing else parses."""
    job = ids.job_id(digest.digest(b"job"))
    assert ids.node_id(bytes(32)).startswith("n-")
    for task in (ids.round_task(job, 3, 1, 2), ids.merge_task(job, 0), ids.command_task(job, 4)):
        assert ids.parse_task(task) == task
        audit = ids.audit_id(task, bytes(range(32)))
        assert audit == f"{task}/q0001020304050607"
        assert ids.task_of(audit) == task
    for wrong in (
        "",
        "j-1/r0/l0/a0",
        f"{job}/r0/l0",
        f"{job}/r0/l0/a0/q1",
        f"{job}/r0/l0/a0\n",
        f"{job}/r-1/l0/a0",
        f"{job}/r\u0663/l0/a0",
    ):
        with pytest.raises(FormatError):
            ids.parse_task(wrong)


def test_commitments_bind_node_salt_and_root():
    """A commitment or answer of one node never opens as another's, nor with another salt, answer or root."""
    one, two = ids.NodeId("n-1"), ids.NodeId("n-2")
    root, other = digest.digest(b"r"), digest.digest(b"s")
    hashes = {
        commitments.commitment_hash(one, "00" * 32, root),
        commitments.commitment_hash(two, "00" * 32, root),
        commitments.commitment_hash(one, "01" * 32, root),
        commitments.commitment_hash(one, "00" * 32, other),
        commitments.answer_commitment_hash(one, "00" * 32, "00" * 32, root),
        commitments.answer_commitment_hash(two, "00" * 32, "00" * 32, root),
        commitments.answer_commitment_hash(one, "00" * 32, "01" * 32, root),
        commitments.answer_hash(b"a", b"bc"),
        commitments.answer_hash(b"ab", b"c"),
    }
    assert len(hashes) == 9


@pytest.mark.parametrize("text", ["AA" * 32, "aa" * 31 + " aa", "aa" * 31, "\u0661" * 64, ""])
def test_a_secret_has_one_spelling(text):
    """A salt, blind or answer that is not 64 lower-case hex digits opens nothing, though Python would read it."""
    node, root = ids.NodeId("n-1"), digest.digest(b"r")
    with pytest.raises(FormatError):
        commitments.commitment_hash(node, text, root)
    for blind, answer in ((text, "aa" * 32), ("aa" * 32, text)):
        with pytest.raises(FormatError):
            commitments.answer_commitment_hash(node, blind, answer, root)


def test_a_result_root_covers_names_digests_and_sizes():
    """Order of listing is free; everything else changes the root."""
    first = predicates.Output("a", digest.digest(b"1"), 1)
    second = predicates.Output("b", digest.digest(b"2"), 2)
    root = predicates.result_root((first, second))
    assert root == predicates.result_root((second, first))
    assert root != predicates.result_root((first,))
    assert root != predicates.result_root((first, predicates.Output("b", second.digest, 3)))


def test_a_wrong_key_is_refuted():
    """A statement opens with the key the caller names and no other."""
    with pytest.raises(Refuted):
        statement.open_envelope(
            statement.sign("reading", READING, (), KEY), "reading", predicates.Reading, bytes(31) + b"\1"
        )
