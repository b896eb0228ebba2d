"""Signed notes: an independent vector, and every change refused."""

import hashlib

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from stannary.errors import FormatError, LimitExceeded, Refuted, StannaryError
from stannary.formats import note
from stannary.formats.dsse import encode_base64, public_bytes
from stannary.formats.note import KeyType

LOG = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
ONE = Ed25519PrivateKey.from_private_bytes(b"\x01" * 32)
TWO = Ed25519PrivateKey.from_private_bytes(b"\x02" * 32)
LOG_KEY = note.format_vkey("example.com/log", public_bytes(LOG))
ONE_KEY = note.format_vkey("one.example", public_bytes(ONE), KeyType.WITNESS)
ROOT = hashlib.sha256(b"root").digest()
SIGNED = note.sign_checkpoint("example.com/log", 42, ROOT, LOG)
COSIGNED = note.add_cosignatures(
    SIGNED,
    [note.cosign(SIGNED, "two.example", TWO, 1_800_000_000), note.cosign(SIGNED, "one.example", ONE, 1_790_000_000)],
)


def test_the_published_verifier_key_parses():
    """The verifier key printed in the Go checksum database's documentation is read and spelled the same."""
    text = "sum.golang.org+033de0ae+Ac4zctda0e5eza+HJyk9SxEdh+s3Ux18htTTAD8OuAn8"
    assert str(note.parse_vkey(text)) == text
    assert note.parse_vkey(text).kind is KeyType.LOG


def test_a_note_has_the_bytes_of_the_spec():
    """Text, empty line, em dash, name, and base64 of key hash and signature."""
    text = f"example.com/log\n42\n{encode_base64(ROOT)}\n"
    key_hash = hashlib.sha256(b"example.com/log\n\x01" + public_bytes(LOG)).digest()[:4]
    assert f"{text}\n\u2014 example.com/log {encode_base64(key_hash + LOG.sign(text.encode()))}\n" == SIGNED


def test_a_cosignature_covers_its_time():
    """The signed message is `cosignature/v1`, the time, and the note's text."""
    line = note.parse(COSIGNED).signatures[1]
    message = b"cosignature/v1\ntime 1790000000\n" + note.parse(SIGNED).text.encode()
    assert line.signature == (1_790_000_000).to_bytes(8, "big") + ONE.sign(message)
    assert note.verify_cosignature(COSIGNED, ONE_KEY) == 1_790_000_000


def test_a_checkpoint_is_read_back():
    """Origin, size and root come from the signed text; bytes and text are alike."""
    for written in (SIGNED, COSIGNED, COSIGNED.encode()):
        checkpoint = note.verify_checkpoint(written, LOG_KEY)
        assert (checkpoint.origin, checkpoint.size, checkpoint.root) == ("example.com/log", 42, ROOT)


def test_cosignatures_are_sorted_and_replaced():
    """One spelling for one note: sorted by name, one for each witness."""
    assert [item.name for item in note.parse(COSIGNED).signatures] == ["example.com/log", "one.example", "two.example"]
    again = note.add_cosignatures(COSIGNED, [note.cosign(SIGNED, "one.example", ONE, 1_790_000_005)])
    assert note.verify_cosignature(again, ONE_KEY) == 1_790_000_005
    assert len(note.parse(again).signatures) == 3


def test_signatures_of_keys_not_at_hand_are_named():
    """Lines nobody can check are reported, so that a receipt can refuse them."""
    assert note.unchecked_signatures(COSIGNED, [LOG_KEY, ONE_KEY]) == ("two.example",)
    assert note.unchecked_signatures(SIGNED, [LOG_KEY]) == ()


def test_keys_serve_their_purpose_only():
    """A log key is no witness key, and the other way round, even with the same bytes."""
    as_witness = note.format_vkey("example.com/log", public_bytes(LOG), KeyType.WITNESS)
    with pytest.raises(Refuted):
        note.verify_checkpoint(SIGNED, as_witness)
    with pytest.raises(Refuted):
        note.verify_cosignature(COSIGNED, note.format_vkey("one.example", public_bytes(ONE)))
    with pytest.raises(Refuted):
        note.verify_cosignature(SIGNED, ONE_KEY)


@given(st.integers(0, len(COSIGNED) - 1), st.characters())
def test_no_character_is_free_to_change(position, character):
    """Whichever character changes, log signature, cosignature or format refuses it."""
    changed = COSIGNED[:position] + character + COSIGNED[position + 1 :]
    if changed == COSIGNED:
        return
    two = note.format_vkey("two.example", public_bytes(TWO), KeyType.WITNESS)
    with pytest.raises(StannaryError):
        note.verify_checkpoint(changed, LOG_KEY)
        note.verify_cosignature(changed, ONE_KEY)
        note.verify_cosignature(changed, two)


@pytest.mark.parametrize(
    "text",
    [
        "a\n1\n",
        "a\n01\nAAAA\n",
        "a\n-1\nAAAA\n",
        f"a\n1\n{'A' * 43}=\nextension\n",
        "a\n1\nAAAA\n",
        "a b\n1\n" + "A" * 43 + "=\n",
        f"a\n{2**53}\n{'A' * 43}=\n",
    ],
)
def test_other_texts_are_no_checkpoints(text):
    """Missing lines, spare zeros, extension lines, short roots and sizes beyond JSON are refused."""
    with pytest.raises(FormatError):
        note.parse_checkpoint(text)


@pytest.mark.parametrize(
    "key",
    [
        "",
        "a+b",
        "a+00000000+AAAA",
        LOG_KEY.replace("+", "+0", 1),
        LOG_KEY[:-4],
        LOG_KEY.replace("example.com", "example.org"),
        "x y" + LOG_KEY[LOG_KEY.index("+") :],
    ],
)
def test_other_texts_are_no_verifier_keys(key):
    """A key that does not match its hash, or is cut short, is refused."""
    with pytest.raises(FormatError):
        note.parse_vkey(key)


def test_sizes_are_bounded():
    """Large notes and long signature lists are refused before they cost."""
    with pytest.raises(LimitExceeded):
        note.parse("x" * (note.MAX_NOTE_BYTES + 1))
    with pytest.raises(LimitExceeded):
        note.parse("x\n\n" + "line\n" * (note.MAX_SIGNATURES + 1))


@given(st.binary(max_size=200))
def test_any_bytes_are_answered(data):
    """Whatever the bytes, the answer is our error."""
    with pytest.raises(StannaryError):
        note.verify_checkpoint(data, LOG_KEY)


def test_lines_out_of_order_and_other_lines_are_refused():
    """One note has one spelling: witnesses rise by name, and each line below the text is a signature."""
    *head, one, two = COSIGNED.splitlines(keepends=True)
    with pytest.raises(FormatError, match="not in order"):
        note.parse("".join([*head, two, one]))
    with pytest.raises(FormatError, match="not in order"):
        note.parse(COSIGNED + two)
    with pytest.raises(FormatError, match="not a note signature"):
        note.parse(COSIGNED + "one.example again\n")


def test_the_first_signature_is_the_logs():
    """A checkpoint whose text names the log and whose first line another key signed proves nothing."""
    *text, _own, one, _two = COSIGNED.splitlines(keepends=True)
    with pytest.raises(Refuted, match="not signed by this log"):
        note.verify_checkpoint("".join([*text, one]), LOG_KEY)
