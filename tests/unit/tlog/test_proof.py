"""tlog-proof texts: written, read, verified, and refused when anything in them changes."""

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from stannary.errors import FormatError, StannaryError
from stannary.formats import note
from stannary.formats.dsse import public_bytes
from stannary.tlog import proof
from stannary.tlog.proof import Proof
from stannary.tlog.tree import Tree

KEY = Ed25519PrivateKey.from_private_bytes(bytes(32))
VKEY = note.format_vkey("example.com/log", public_bytes(KEY))
LEAVES = [index.to_bytes(32, "big") for index in range(11)]
TREE = Tree(LEAVES)
SIGNED = note.sign_checkpoint("example.com/log", 11, TREE.root(), KEY)
TEXT = Proof(6, tuple(TREE.inclusion(6, 11)), SIGNED).to_text()


def test_the_text_follows_c2sp():
    """Header, index, one hash a line, an empty line, the checkpoint."""
    lines = TEXT.split("\n")
    assert lines[:2] == ["c2sp.org/tlog-proof@v1", "index 6"]
    assert lines[2 + len(TREE.inclusion(6, 11))] == ""
    assert TEXT.endswith(SIGNED)
    assert proof.parse(TEXT).to_text() == TEXT


def test_a_proof_verifies_its_leaf_and_no_other():
    """The leaf at the index verifies; another leaf, or the same under another key, does not."""
    assert proof.verify(TEXT, LEAVES[6], VKEY).size == 11
    with pytest.raises(StannaryError):
        proof.verify(TEXT, LEAVES[5], VKEY)
    with pytest.raises(StannaryError):
        proof.verify(TEXT, LEAVES[6], note.format_vkey("example.com/log", bytes(32)))


@given(st.integers(0, len(TEXT) - 1), st.characters(codec="ascii"))
def test_no_character_is_free_to_change(position, character):
    """Every single character of the text is covered."""
    changed = TEXT[:position] + character + TEXT[position + 1 :]
    if changed != TEXT:
        with pytest.raises(StannaryError):
            proof.verify(changed, LEAVES[6], VKEY)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "c2sp.org/tlog-proof@v1\n\n",
        TEXT.replace("index 6", "index 06"),
        TEXT.replace("index 6", "extra AAAA\nindex 6"),
        TEXT.replace("@v1", "@v2"),
        "c2sp.org/tlog-proof@v1\nindex 6\n" + "A\n" * 3 + "\n" + SIGNED,
    ],
)
def test_other_texts_are_format_errors(text):
    """Missing parts, other versions, spare zeros and unauthenticated extra data are refused."""
    with pytest.raises(FormatError):
        proof.parse(text)


@given(st.text(max_size=200))
def test_any_text_is_answered(text):
    """Whatever the text, the answer is our error."""
    with pytest.raises(StannaryError):
        proof.verify(text, LEAVES[6], VKEY)
