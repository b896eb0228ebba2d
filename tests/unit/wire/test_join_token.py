"""Join tokens, and the market they name."""

from __future__ import annotations

import pytest

from stannary.errors import AuthError, FormatError, Refuted
from stannary.formats import digest
from stannary.wire import join_token
from stannary.wire.join_token import JoinToken
from stannary.wire.market import MarketInfo

TOKEN = JoinToken(
    url="http://127.0.0.1:1", vkey="m+1+k", tls="", secret="s" * 16, operator="basalt", bond_usd_micros=10_000_000
)
TERMS = "1. The operator answers for the node.\n"


class Link:
    """A connection at whose other end a market says what a test wants."""

    def __init__(self, **said: str) -> None:
        self.said = said

    def get(self, path: str, cls: type[MarketInfo]) -> MarketInfo:
        """Answer GET /v1/market."""
        words = {"name": "m", "vkey": TOKEN.vkey, "profile": "local", "version": "1", "terms": TERMS}
        words["terms_digest"] = digest.digest(TERMS.encode())
        return cls.model_validate({**words, "witness_vkeys": [], **self.said})


def test_a_token_says_operator_and_bond():
    """What a token is worth can be shown before anything is signed."""
    read = join_token.parse(TOKEN.spell())
    assert (read.operator, read.bond_usd_micros) == ("basalt", 10_000_000)


def test_a_token_of_an_earlier_release_is_read():
    """A token without operator and bond is a token still."""
    read = join_token.parse(JoinToken(url="http://127.0.0.1:1", vkey="v", tls="", secret="s" * 16).spell())
    assert read.operator == ""


@pytest.mark.parametrize("word", ["", "snt_", "snt_x", "sna_abc", "snt_" + "A" * 3000, "snt_\u00e9"])
def test_what_is_no_token_is_refused(word):
    """Anything else is one error that says what to copy."""
    with pytest.raises(FormatError, match=r"join token"):
        join_token.parse(word)


def test_terms_are_those_the_market_names():
    """The text that is shown hashes to the digest that will be signed; other text is refused before it is shown."""
    assert join_token.market_of(Link(), TOKEN).terms == TERMS
    with pytest.raises(Refuted, match="other terms"):
        join_token.market_of(Link(terms="1. Nothing can be lost.\n"), TOKEN)


def test_another_market_is_not_asked_for_terms():
    """A market with another key than the token's is refused."""
    with pytest.raises(AuthError, match="not the market of the token"):
        join_token.market_of(Link(vkey="other+1+k"), TOKEN)
