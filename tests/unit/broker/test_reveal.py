"""The broker reveals one value per checkpoint, and only for one history."""

from __future__ import annotations

import hashlib
import resource

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from stannary import buyer
from stannary.broker.ledger import Bindings
from stannary.broker.reveal import PinnedKeys, Revealer
from stannary.errors import EnvironmentProblem, FormatError, Refuted, StannaryError
from stannary.formats import beacon, digest, dsse, note, statement
from stannary.formats.predicates import Job, Reveal
from stannary.tlog.tree import Tree
from stannary.wire.buyer import BeaconRequest

SEED = bytes(range(32))
LENGTH = 16
ORIGIN = "test.market"


def leaf(number: int, history: str = "") -> bytes:
    return hashlib.sha256(f"{history}{number}".encode()).digest()


class Market:
    """A log that grows, cosigned by one witness, and can be bent by a test."""

    def __init__(self, key: Ed25519PrivateKey, witness: Ed25519PrivateKey, history: str = "") -> None:
        self.key, self.witness, self.history = key, witness, history
        self.tree = Tree()

    def grow(self, size: int) -> Market:
        self.tree.extend([leaf(number, self.history) for number in range(self.tree.size, size)])
        return self

    def ask(self, index: int, old_size: int, *, cosigned: bool = True, candidates: int | None = None) -> BeaconRequest:
        """Show the log as it stands; the leaf at `candidates`, the last if not said, fixes the candidates."""
        size = self.tree.size
        text = note.sign_checkpoint(ORIGIN, size, self.tree.root(size), self.key)
        if cosigned:
            text = note.add_cosignatures(text, [note.cosign(text, "witness.test", self.witness, 1_700_000_000)])
        proof = self.tree.consistency(old_size, size) if old_size else []
        place = size - 1 if candidates is None else candidates
        return BeaconRequest(
            index=index,
            checkpoint=text,
            old_size=old_size,
            consistency=[item.hex() for item in proof],
            candidates=digest.from_raw(leaf(place, self.history)),
            candidates_index=place,
            inclusion=[item.hex() for item in self.tree.inclusion(place, size)],
        )


@pytest.fixture
def keys():
    return [Ed25519PrivateKey.from_private_bytes(bytes([number]) * 32) for number in range(3)]


@pytest.fixture
def market(keys):
    return Market(keys[0], keys[1]).grow(5)


@pytest.fixture
def revealer(keys, tmp_path):
    return open_revealer(keys, tmp_path)


def open_revealer(keys, tmp_path):
    order = Job(
        spec={},
        market=dsse.key_id(dsse.public_bytes(keys[0])),
        buyer=dsse.encode_base64(dsse.public_bytes(keys[2])),
        beacon_tip=beacon.tip(SEED, LENGTH),
        beacon_length=LENGTH,
        nonce="00",
        submitted_at="2026-11-22T00:00:00Z",
    )
    anchors = PinnedKeys(
        note.format_vkey(ORIGIN, dsse.public_bytes(keys[0])),
        (note.format_vkey("witness.test", dsse.public_bytes(keys[1]), note.KeyType.WITNESS),),
    )
    return Revealer("j-000000000000", order, SEED, keys[2], anchors, Bindings(tmp_path / buyer.REVEALS_FILE))


def test_a_reveal_belongs_to_the_chain_and_names_its_checkpoint(revealer, market, keys):
    """The value hashes to the signed tip and the statement binds it to the checkpoint's size and root."""
    envelope = revealer.answer(market.ask(0, 0))
    reveal = statement.open_envelope(envelope, "reveal", Reveal, dsse.public_bytes(keys[2])).predicate
    beacon.check(revealer.order.beacon_tip, reveal.value)
    assert reveal.checkpoint_size == 5


def test_the_same_request_gets_the_same_bytes(revealer, market):
    """A repeated request is answered with the very same statement."""
    assert revealer.answer(market.ask(0, 0)) == revealer.answer(market.ask(0, 0))


def test_one_value_serves_one_checkpoint(revealer, market):
    """A second checkpoint for a revealed index is refused, however well it is signed."""
    revealer.answer(market.ask(0, 0))
    with pytest.raises(Refuted, match="second time"):
        revealer.answer(market.grow(9).ask(0, 5))


def test_a_kill_before_the_answer_does_not_allow_a_second_binding(revealer, market, keys, tmp_path):
    """What was bound before a kill is bound after it."""
    first = revealer.answer(market.ask(0, 0))
    reopened = open_revealer(keys, tmp_path)
    assert reopened.answer(market.ask(0, 0)) == first
    with pytest.raises(Refuted):
        reopened.answer(market.grow(9).ask(0, 0))


def test_a_line_cut_short_by_a_kill_is_dropped(revealer, market, keys, tmp_path):
    """Half a line was never answered; the index is free again."""
    revealer.answer(market.ask(0, 0))
    path = tmp_path / buyer.REVEALS_FILE
    whole = path.read_bytes()
    path.write_bytes(whole + b'{"index":1,"ro')
    reopened = open_revealer(keys, tmp_path)
    reopened.answer(market.grow(9).ask(1, 5))
    assert path.read_bytes().startswith(whole)
    assert len(path.read_bytes().splitlines()) == 2


def test_a_disk_that_takes_half_a_line_leaves_the_ledger_whole(revealer, market, keys, tmp_path):
    """Nothing is revealed, and when there is room again the same value is, also by a broker that starts anew."""
    revealer.answer(market.ask(0, 0))
    path = tmp_path / buyer.REVEALS_FILE
    whole = path.read_bytes()
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(whole) + 10, before[1]))
    try:
        with pytest.raises(EnvironmentProblem, match="No space left"):
            revealer.answer(market.grow(9).ask(1, 5))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert path.read_bytes() == whole
    answer = revealer.answer(market.ask(1, 5))
    assert len(path.read_bytes().splitlines()) == 2
    assert open_revealer(keys, tmp_path).answer(market.ask(1, 5)) == answer


def test_damage_in_the_middle_stops_the_broker(revealer, market, keys, tmp_path):
    """A ledger with a line missing is refused rather than continued."""
    revealer.answer(market.ask(0, 0))
    revealer.answer(market.grow(9).ask(1, 5))
    path = tmp_path / buyer.REVEALS_FILE
    path.write_bytes(path.read_bytes().splitlines(keepends=True)[1])
    with pytest.raises(FormatError, match="damaged"):
        open_revealer(keys, tmp_path)


def test_a_log_that_forks_gets_nothing(revealer, market, keys):
    """A later checkpoint of another history is refused though both keys signed it."""
    revealer.answer(market.ask(0, 0))
    fork = Market(keys[0], keys[1], history="other").grow(9)
    with pytest.raises(Refuted):
        revealer.answer(fork.ask(1, 5))


def test_a_log_that_shrinks_gets_nothing(revealer, market, keys):
    """A checkpoint not newer than the last one is refused."""
    revealer.answer(market.grow(9).ask(0, 0))
    with pytest.raises(Refuted):
        revealer.answer(market.ask(1, 9))
    with pytest.raises(Refuted):
        revealer.answer(Market(keys[0], keys[1]).grow(5).ask(1, 0))


def test_values_are_not_skipped(revealer, market):
    """Asking for a later value first would reveal the earlier ones, and is refused."""
    with pytest.raises(Refuted, match="skips"):
        revealer.answer(market.ask(2, 0))


@pytest.mark.parametrize("index", [-1, LENGTH])
def test_indexes_outside_the_chain_are_refused(revealer, market, index):
    """The tip is public and the chain ends."""
    with pytest.raises(StannaryError):
        revealer.answer(market.ask(0, 0).model_copy(update={"index": index}))


def test_a_checkpoint_without_the_witness_is_refused(revealer, market):
    """The pinned witness must have cosigned."""
    with pytest.raises(Refuted, match="witness"):
        revealer.answer(market.ask(0, 0, cosigned=False))


def test_a_checkpoint_by_another_key_is_refused(revealer, keys):
    """Only the pinned market key counts."""
    stranger = Market(keys[2], keys[1]).grow(5)
    with pytest.raises(Refuted):
        revealer.answer(stranger.ask(0, 0))


def test_the_reveal_names_the_candidates_its_checkpoint_covers(revealer, market, keys):
    """What the buyer signs holds the leaf of the one list of candidates that goes with the value."""
    envelope = revealer.answer(market.ask(0, 0, candidates=2))
    reveal = statement.open_envelope(envelope, "reveal", Reveal, dsse.public_bytes(keys[2])).predicate
    assert reveal.candidates == digest.from_raw(leaf(2))


@pytest.mark.parametrize(
    "change",
    [
        {"candidates": digest.from_raw(leaf(99))},  # a list the log does not hold: it could be made afterwards
        {"candidates_index": 5},  # one beyond the checkpoint: it may rest on the beacon
        {"candidates_index": 3},
        {"inclusion": []},
    ],
)
def test_candidates_the_checkpoint_does_not_cover_get_nothing(revealer, market, tmp_path, change):
    """A market that could still choose who audits is told no value, and the value is not spent."""
    with pytest.raises(Refuted, match="does not cover the candidates"):
        revealer.answer(market.ask(0, 0).model_copy(update=change))
    assert not (tmp_path / buyer.REVEALS_FILE).exists()


def test_a_value_is_not_given_for_other_candidates(revealer, market):
    """A second list for a revealed index is refused, though the same checkpoint covers it."""
    revealer.answer(market.ask(0, 0, candidates=2))
    with pytest.raises(Refuted, match="second time"):
        revealer.answer(market.ask(0, 0, candidates=3))


def test_what_cannot_be_read_is_our_error_and_reveals_nothing(revealer, market, tmp_path):
    """A note that is none raises our error and leaves the ledger empty."""
    with pytest.raises(StannaryError):
        revealer.answer(market.ask(0, 0).model_copy(update={"checkpoint": "nonsense"}))
    assert not (tmp_path / buyer.REVEALS_FILE).exists()
