"""Measuring what nodes' processors do: when they have joined, and again unannounced (rules/grade.py).

Rules:
- A test comes in place of work to a node that holds none, and it gets nothing new before it has shown its power: who
  refuses earns nothing, who takes long gets the grade of that.
- When the next is due nobody can know: the market draws it anew each time, from half to one and a half times the mean.
- The time is this clock's, from giving the nonce to having the answer whole; asked again, a node is given the same
  nonce and the same start, for AGAIN_S. Behind that, or behind a restart of the market, it begins anew.
- The answer is signed and its proof is looked at before a new credential says so; both are logged before it counts.
- A test renews nothing else: the credential ends when it would have.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace

from sqlalchemy.engine import Connection

from stannary import power
from stannary.errors import FormatError, NotFound, Refuted
from stannary.formats import bounds, digest, dsse, instants, statement
from stannary.formats.digest import Digest
from stannary.formats.predicates import Credential
from stannary.formats.shown import GradeTest, ShownPower
from stannary.market import clock
from stannary.market.exchange import Exchange
from stannary.market.journal import leaf_of
from stannary.rules import grade
from stannary.store import envelopes, nodes
from stannary.store.nodes import CredentialRow
from stannary.wire import node as wire
from stannary.wire.message import EnvelopeBody


def is_due(exchange: Exchange, node: str) -> bool:
    """Tell whether a node has to show its power now."""
    is_graded = exchange.directory.get(node).is_graded
    return exchange.gradings.is_due(node, exchange.clock.steady(), is_graded=is_graded)


def test(exchange: Exchange, node: str) -> wire.PowerTest:
    """Give a node its test; the clock runs."""
    processors = min(exchange.directory.get(node).cpus, power.MAX_PROCESSORS)
    nonce = exchange.gradings.give(node, exchange.clock.steady())
    return wire.PowerTest(nonce=nonce, processors=processors, seconds=power.SECONDS)


async def take(exchange: Exchange, node: str, answer: wire.PowerAnswer, arrived_s: float) -> wire.GradedNode:
    """Look at what a node did, and give it the credential that says so.

    Raises:
        ConflictError: no such test of it is under way.
        FormatError, AuthError: the statement is not its own, or fits neither test nor proof.
        Refuted: a row of the proof is not what its rounds come to.
    """
    envelope, row = answer.envelope.open(), await exchange.store.aread(lambda c: nodes.get(c, node))
    read = statement.open_envelope(envelope, "power", ShownPower, dsse.decode_base64(row.key, "node key"))
    said = read.predicate
    if read.subjects:
        raise FormatError("a power has no subjects", why=f"{len(read.subjects)} subjects", detail="subject")
    bounds.check(said, "power")
    clock.check_signed_now(said.measured_at, exchange.clock.now())
    if said.node != node:
        raise FormatError("the power is another node's", why=said.node, detail="node")
    took_ms = exchange.gradings.take(node, said.nonce, arrived_s)
    wanted = min(exchange.directory.get(node).cpus, power.MAX_PROCESSORS)
    await asyncio.to_thread(_check, said, answer.proof.encode(), wanted)
    leaf = leaf_of(envelope)

    def write(connection: Connection) -> Digest:
        return _grade(exchange, connection, (said, envelope, leaf), took_ms)

    issued = await exchange.store.awrite(write)
    for item in (leaf, issued):
        await exchange.journal.logged(item)
    await exchange.read_nodes([node])
    exchange.gradings.done(node, exchange.clock.steady())
    kept = await exchange.store.aread(lambda c: envelopes.get(c, issued))
    return wire.GradedNode(credential=EnvelopeBody.of(dsse.from_bytes(kept.envelope)))


def _check(said: ShownPower, data: bytes, processors: int) -> None:
    proof = power.parse(data)
    if said.root != digest.digest(data) or (said.rounds, said.cpus) != (proof.rounds, len(proof.chains)):
        raise FormatError("the power is not that of its proof", why=f"{said.rounds} rounds on {said.cpus}")
    if said.cpus != processors:
        raise FormatError("other processors were asked for", why=f"{said.cpus}, asked for {processors}", detail="cpus")
    if false := power.why_false(proof, said.nonce):
        raise Refuted("the proof of power does not hold", why=false)


def _grade(
    exchange: Exchange, connection: Connection, shown: tuple[ShownPower, dsse.Envelope, Digest], took_ms: int
) -> Digest:
    power_, envelope, leaf = shown
    held = nodes.credential_of(connection, power_.node)
    if held is None:
        raise NotFound("this node has no credential", why=power_.node)
    before = statement.read(dsse.from_bytes(held.envelope).payload, "credential", Credential).predicate
    earlier = (before.tests or ())[-grade.MAX_TESTS + 1 :]
    tests = (*earlier, GradeTest(leaf, took_ms))
    powers = [(_power(connection, item.power), item.took_ms) for item in earlier]
    price_ppm, limit_ppm = grade.of_tests([*powers, (power_, took_ms)])
    issued_at_ms = max(exchange.now_ms, held.issued_at_ms)
    credential = replace(
        before,
        issued_at=instants.spell(issued_at_ms / 1000),
        grade_ppm=price_ppm,
        best_grade_ppm=limit_ppm,
        tests=tests,
    )
    signed = exchange.journal.sign("credential", credential)
    incoming = [exchange.journal.incoming(envelope, "power"), exchange.journal.incoming(signed, "credential")]
    envelopes.add_many(connection, incoming)
    issued = leaf_of(signed)
    row = CredentialRow(issued, power_.node, signed.to_bytes(), issued_at_ms, held.expires_at_ms)
    nodes.add_credential(connection, row)
    return issued


def _power(connection: Connection, leaf: Digest) -> ShownPower:
    payload = dsse.from_bytes(envelopes.get(connection, leaf).envelope).payload
    return statement.read(payload, "power", ShownPower).predicate
