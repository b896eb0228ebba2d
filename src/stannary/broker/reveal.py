"""Decide on one beacon request: check the checkpoint, bind the value to it, sign the reveal.

Rules, in this order (docs/protocol.md, The broker):
1. The note is signed by the market key pinned when the job was sent, and cosigned by a pinned
   witness where the buyer pinned any.
2. A value that was revealed is given again for the same checkpoint and never for another.
3. The checkpoint is newer than the last one revealed for, and the consistency proof joins the two.
4. The checkpoint covers the candidates statement: the market chose who may audit before it could know
   whom the value draws. The reveal names the statement, so that no other can be shown for it later.
5. The binding is on disk before the value leaves.

A request that breaks a rule is Refuted: nothing is revealed. Pure but for the ledger it is given.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from stannary.errors import Refuted, StannaryError
from stannary.formats import beacon, digest, dsse, note, statement
from stannary.formats.predicates import Job, Reveal
from stannary.formats.statement import Subject
from stannary.tlog import tree

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    from stannary.broker.ledger import Bindings
    from stannary.formats.ids import JobId
    from stannary.formats.note import Checkpoint
    from stannary.wire.buyer import BeaconRequest


@dataclass(frozen=True, slots=True)
class PinnedKeys:
    """The keys a checkpoint must carry, pinned before the job was sent."""

    market_vkey: str
    witness_vkeys: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Revealer:
    """Answers the beacon requests of one job."""

    job: JobId
    order: Job
    seed: bytes
    key: Ed25519PrivateKey
    anchors: PinnedKeys
    ledger: Bindings

    def answer(self, request: BeaconRequest) -> dsse.Envelope:
        """Return the signed reveal.

        Raises:
            Refuted: the request breaks a rule; the reason says which.
            FormatError: a note or proof that cannot be read.
        """
        checkpoint = _checked(request.checkpoint, self.anchors)
        if not 0 <= request.index < self.order.beacon_length:
            raise Refuted("no such beacon value", why=f"index {request.index} of {self.order.beacon_length}")
        if self.ledger.find(request.index) is None:
            _check_growth(self.ledger, checkpoint, request)
            _check_candidates(checkpoint, request)
        binding = self.ledger.bind(request.index, checkpoint, digest.parse(request.candidates))
        reveal = Reveal(
            job=self.job,
            index=binding.index,
            value=beacon.value(self.seed, self.order.beacon_length, binding.index),
            checkpoint_size=binding.size,
            checkpoint_root=binding.root,
            candidates=binding.candidates,
        )
        return statement.sign("reveal", reveal, (_subject(reveal),), self.key)


def _checked(text: str, anchors: PinnedKeys) -> Checkpoint:
    checkpoint = note.verify_checkpoint(text, anchors.market_vkey)
    if not anchors.witness_vkeys:
        return checkpoint
    for vkey in anchors.witness_vkeys:
        with contextlib.suppress(Refuted):
            note.verify_cosignature(text, vkey)
            return checkpoint
    raise Refuted("no pinned witness has cosigned the checkpoint", why=f"size {checkpoint.size}")


def _check_growth(ledger: Bindings, checkpoint: Checkpoint, request: BeaconRequest) -> None:
    last = ledger.last
    if last is None:
        if request.old_size != 0:
            raise Refuted("consistency from another checkpoint", why=f"size {request.old_size}, nothing is revealed")
        return
    if request.old_size != last.size:
        raise Refuted("consistency from another checkpoint", why=f"size {request.old_size}, last was {last.size}")
    if checkpoint.size <= last.size:
        raise Refuted("the checkpoint is not newer", why=f"size {checkpoint.size}, last was {last.size}")
    proof: Sequence[bytes] = [bytes.fromhex(item) for item in request.consistency]
    tree.verify_consistency(last.size, digest.raw(last.root), checkpoint.size, checkpoint.root, proof)


def _check_candidates(checkpoint: Checkpoint, request: BeaconRequest) -> None:
    leaf, path = digest.raw(digest.parse(request.candidates)), [bytes.fromhex(item) for item in request.inclusion]
    try:
        tree.verify_inclusion(leaf, request.candidates_index, checkpoint.size, path, checkpoint.root)
    except StannaryError as err:
        raise Refuted("the checkpoint does not cover the candidates", why=str(err)) from err


def _subject(reveal: Reveal) -> Subject:
    return Subject(f"checkpoint/{reveal.checkpoint_size}", reveal.checkpoint_root)
