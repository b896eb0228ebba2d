"""Posting the market's statements: signed and kept for the log in the running transaction."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy.engine import Connection

from stannary.formats import digest, dsse
from stannary.formats.digest import Digest
from stannary.market.engine.frame import World
from stannary.store import envelopes
from stannary.store.envelopes import Incoming

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

    from stannary.formats.statement import Subject


def post(
    connection: Connection,
    world: World,
    kind: str,
    predicate: DataclassInstance,
    job: str,
    *,
    subjects: tuple[Subject, ...] = (),
) -> Digest:
    """Sign a statement and put it into the outbox; return its leaf."""
    envelope: dsse.Envelope = world.sign(kind, predicate, subjects)
    leaf = digest.from_raw(envelope.leaf())
    envelopes.add(connection, Incoming(leaf, kind, envelope.to_bytes(), world.now_ms, job))
    return leaf
