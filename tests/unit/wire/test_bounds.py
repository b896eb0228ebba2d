"""One schema a word: a message says of a member what the table of bounds says of it, and nothing is unbounded."""

from __future__ import annotations

import importlib
import json
import pkgutil
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import pytest

from stannary import wire
from stannary.errors import FormatError
from stannary.formats import bounds
from stannary.wire import message, node
from stannary.wire.message import Message

SHOWN = {"type": "string", "minLength": 1, "maxLength": bounds.MAX_SHOWN_CHARS}
# What shares a name with a member of the table, or of other messages, and is another thing: what it is there.
ANOTHER_THING = {
    "ApiToken.token": "a bearer's secret; a join statement's is a digest",
    "ApiTokenRequest.name": "a buyer's account",
    "ApiTokenView.id": "a token's; a job's elsewhere",
    "BlobRef.name": "an input, or the task that made it",
    "Challenge.nonce": "a session's, made by us; a job's is its buyer's choice",
    "CostLine.account": "operator:NAME, bond:NAME, buyer or insurance",
    "CostLine.reason": "a word of the settlement",
    "CostLine.task": "empty for what belongs to the whole job, or an audit or a node",
    "CostSplit.audit": "a part of the time in hundredths of a per cent",
    "Event.seq": "a row's number; a reading's counts one node's in one job",
    "Failure.message": "a stranger's, made harmless",
    "Failure.reason": "a node's word",
    "Heartbeat.leases": "ids",
    "HeartbeatAnswer.ended": "jobs; a result's is how its program ended",
    "Heartbeat.name": "what a node calls itself",
    "Heartbeat.state": "what a node says of itself",
    "JobPage.next": "a cursor",
    "JobView.kind": "a job's; a task's in a lease",
    "JobView.name": "a job's",
    "JoinRequest.token": "a whole join token",
    "JoinToken.operator": "empty in tokens of earlier releases",
    "JoinTokenAnswer.token": "a whole join token",
    "Lease.type": "what is asked for",
    "LedgerLine.key": "what an entry is for",
    "LedgerLine.reason": "the kind of an entry",
    "LedgerLine.seq": "a row's number",
    "LogLine.seq": "a row's number",
    "LogLine.text": "as it is kept",
    "ManifestInput.name": "an input's",
    "MarketInfo.name": "a market's",
    "MarketInfo.terms": "the text; a digest in statements",
    "NodeView.name": "what a node calls itself",
    "Offer.name": "what a node calls itself",
    "OutputRef.name": "a path, behind its lane",
    "PowerTest.nonce": "a test's, made by us; a job's is its buyer's choice",
    "Session.token": "a bearer's secret",
    "SessionRequest.nonce": "a session's",
}


def messages() -> list[type[Message]]:
    """Return every body there is."""
    for found in pkgutil.iter_modules(wire.__path__):
        importlib.import_module(f"stannary.wire.{found.name}")
    pending, known = [Message], set[type[Message]]()
    while pending:
        pending += (below := pending.pop().__subclasses__())
        known.update(below)
    return sorted((cls for cls in known if cls.__module__.startswith("stannary.")), key=lambda cls: cls.__name__)


def members() -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Yield message, member and schema of every text and number, those in lists too; a body inside has its own."""
    for cls in messages():
        schema = cls.model_json_schema()
        for name, given in schema.get("properties", {}).items():
            for found in _scalars(given, schema.get("$defs", {})):
                yield cls.__name__, name, found


def _scalars(given: dict[str, Any], defined: dict[str, Any]) -> Iterator[dict[str, Any]]:
    if "$ref" in given:
        name = given["$ref"].rpartition("/")[2]
        if "enum" in defined[name]:
            yield {"enum": name}
    elif "anyOf" in given:
        for one in given["anyOf"]:
            yield from _scalars(one, defined)
    elif given.get("type") == "array":
        yield from _scalars(given["items"], defined)
    elif given.get("type") in {"string", "integer", "number"}:
        kept = ("type", "pattern", "minLength", "maxLength", "minimum", "maximum", "exclusiveMaximum")
        yield {name: given[name] for name in kept if name in given}


def schema_of(bound: bounds.Bound) -> dict[str, Any]:
    """Return the schema of a bound of the table."""
    if isinstance(bound, bounds.Range):
        return {"type": "integer", "minimum": bound.low, "maximum": bound.high}
    if isinstance(bound, bounds.Words):
        return {"type": "string", "pattern": bound.anchored}
    assert bound is bounds.TIME, bound
    return {"type": "string", "pattern": bounds.INSTANT.anchored}


def test_a_member_of_the_table_is_bounded_as_there() -> None:
    """No message says again, or otherwise, how long a signed word is or how large a signed number."""
    second = {
        f"{cls}.{name}": given
        for cls, name, given in members()
        if name in bounds.TABLE and given not in (schema_of(bounds.TABLE[name]), SHOWN)
    }
    assert {place: given for place, given in second.items() if place not in ANOTHER_THING} == {}


def test_a_name_has_one_bound_in_all_messages() -> None:
    """Where two messages hold one thing, both bound it alike; what is another thing is listed, and no more."""
    found = {(cls, name): json.dumps(given, sort_keys=True) for cls, name, given in members() if given != SHOWN}
    known: dict[str, set[str]] = defaultdict(set)
    for (cls, name), said in found.items():
        if f"{cls}.{name}" not in ANOTHER_THING:
            known[name].add(said)
    assert {name: said for name, said in known.items() if len(said) > 1} == {}
    for name, bound in bounds.TABLE.items():
        if name in known:
            known[name].add(json.dumps(schema_of(bound), sort_keys=True))
    listed = {place: found[tuple(place.split("."))] for place in ANOTHER_THING}  # type: ignore[index]  # two words
    alike = [place for place, said in listed.items() if known[place.partition(".")[2]] == {said}]
    assert alike == []


def test_every_text_and_number_is_bounded() -> None:
    """A member without a limit would be as long as whoever writes it likes."""
    endless = [
        f"{cls}.{name}"
        for cls, name, given in members()
        if not (given.keys() & {"enum", "pattern", "maxLength"} or len(given.keys() & {"minimum", "maximum"}) == 2)
        and "exclusiveMaximum" not in given
    ]
    assert endless == []


def test_a_time_in_a_message_is_a_day_of_the_calendar() -> None:
    """What a statement could not say, no message says: 31 February has the digits of a time."""
    beat = node.HeartbeatAnswer(drop=[], interval_s=1.0, now="2026-02-28T00:00:00Z")
    assert message.read(node.HeartbeatAnswer, beat.to_bytes()) == beat
    with pytest.raises(FormatError, match="now"):
        message.read(node.HeartbeatAnswer, beat.to_bytes().replace(b"02-28", b"02-31"))
