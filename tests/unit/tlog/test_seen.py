"""Whoever saw a log knows it again: smaller, forked or foreign logs are refused, and nothing seen is forgotten."""

from __future__ import annotations

from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from stannary.errors import EnvironmentProblem, Refuted, StannaryError
from stannary.formats import digest, note
from stannary.formats.dsse import public_bytes
from stannary.tlog.seen import Seen, SeenLog
from stannary.tlog.tree import Tree

KEY = Ed25519PrivateKey.generate()
VKEY = note.format_vkey("m", public_bytes(KEY))


def grown(*words: str) -> Tree:
    """Return a tree of so many leaves."""
    tree = Tree()
    tree.extend([digest.raw(digest.digest(word.encode())) for word in words])
    return tree


def signed(tree: Tree, key: Ed25519PrivateKey = KEY) -> str:
    """Return a tree's checkpoint."""
    return note.sign_checkpoint("m", tree.size, tree.root(), key)


def test_a_log_that_grows_is_followed(tmp_path: Path) -> None:
    """Each newer state is kept; the same one again changes nothing."""
    seen = SeenLog(tmp_path / "deep" / "seen.json", VKEY)
    assert seen.last() is None
    small, large = grown("a", "b", "c"), grown("a", "b", "c", "d", "e")
    seen.advance(signed(small), [])
    for _ in range(2):
        old = seen.last()
        assert old is not None
        seen.advance(signed(large), large.consistency(old.size, 5))
    assert seen.last() == Seen(5, large.root())


def test_a_log_that_was_rolled_back_or_forked_is_refused(tmp_path: Path) -> None:
    """A smaller log, another history, another key and a missing proof are refused; what was seen stays."""
    seen = SeenLog(tmp_path / "seen.json", VKEY)
    large, forked = grown("a", "b", "c", "d", "e"), grown("a", "b", "x", "d", "e", "f")
    seen.advance(signed(large), [])
    before = seen.last()
    longer = grown("a", "b", "c", "d", "e", "f")
    for text, proof in (
        (signed(grown("a", "b", "c")), []),
        (signed(forked), forked.consistency(5, 6)),
        (signed(grown("a", "b", "x", "d", "e")), []),
        (signed(longer), []),
        (signed(longer, Ed25519PrivateKey.generate()), longer.consistency(5, 6)),
    ):
        with pytest.raises(StannaryError) as refused:
            seen.advance(text, proof)
        assert isinstance(refused.value, Refuted)
    assert seen.last() == before


@pytest.mark.parametrize(
    "content", ["", "{", "[]", "[" * 4000, '{"size": -1, "root": "00"}', '{"size": 1e999, "root": ""}', "\0" * 99]
)
def test_a_damaged_memory_is_said(tmp_path: Path, content: str) -> None:
    """A file that cannot be read is no clean slate; it is named, with the command that sets it aside."""
    (tmp_path / "seen.json").write_text(content)
    with pytest.raises(EnvironmentProblem, match=r"seen\.json") as found:
        SeenLog(tmp_path / "seen.json", VKEY).last()
    assert found.value.hint.startswith(f"mv {tmp_path}/seen.json ")
