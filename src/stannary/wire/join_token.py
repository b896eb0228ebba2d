"""Join tokens: all a machine needs to reach a market and know it again, in one word.

    snt_ + base64url(JSON {url, vkey, tls, secret, operator, bond_usd_micros}) without padding

`tls` is the SHA-256 of the market's certificate (hex; empty for plain HTTP on loopback), so that a
self-signed certificate is pinned by the very token an operator copied. `operator` and the bond are said
so that they can be shown before anything is signed; what counts is what the market keeps beside the
token's digest. The join statement names that digest, never the token.
"""

from __future__ import annotations

import base64
import binascii
from typing import Annotated

from pydantic import StringConstraints

from stannary.errors import AuthError, FormatError, Refuted
from stannary.formats import bounds, digest
from stannary.formats.digest import Digest
from stannary.wire import message, routes
from stannary.wire.connection import Connection
from stannary.wire.market import MarketInfo
from stannary.wire.message import Message, Money, Name

PREFIX = "snt_"
MAX_TOKEN_CHARS = 2048


class JoinToken(Message):
    """The members of a join token."""

    url: Name
    vkey: Name
    tls: Annotated[str, StringConstraints(pattern=f"^(?:{bounds.HEX32.pattern})?$")]
    secret: Annotated[str, StringConstraints(min_length=16, max_length=128)]
    operator: Annotated[str, StringConstraints(pattern=f"^(?:{bounds.OPERATOR.pattern})?$")] = ""  # empty in old tokens
    bond_usd_micros: Money = 0

    def spell(self) -> str:
        """Return the token as one word."""
        return PREFIX + base64.urlsafe_b64encode(self.to_bytes()).decode("ascii").rstrip("=")


def parse(text: str) -> JoinToken:
    """Read a token.

    Raises:
        FormatError: anything that is not a join token.
    """
    if not text.startswith(PREFIX) or len(text) > MAX_TOKEN_CHARS or not text.isascii():
        raise FormatError("not a join token", why=f"it starts with {text[:4]!r}", hint="copy the whole snt_... word")
    body = text[len(PREFIX) :]
    try:
        data = base64.b64decode(body + "=" * (-len(body) % 4), altchars=b"-_", validate=True)
        return message.read(JoinToken, data, max_bytes=MAX_TOKEN_CHARS)
    except (binascii.Error, FormatError) as err:
        raise FormatError("not a join token", why=str(err), hint="copy the whole snt_... word") from err


def token_digest(text: str) -> Digest:
    """Return the digest a join statement names its token by (of the whole word, ASCII)."""
    return digest.digest(text.encode("ascii"))


def market_of(link: Connection, token: JoinToken) -> MarketInfo:
    """Ask the market at the other end who it is, and return that if it is the token's.

    Raises:
        AuthError: another key, or no proof of it.
        Refuted: the terms it shows are not those it names.
    """
    try:
        market, why = link.get(routes.MARKET, MarketInfo), ""
    except AuthError as err:  # it could not prove that it holds the key
        market, why = None, err.why
    if market is None or market.vkey != token.vkey:
        raise AuthError(
            "this is not the market of the token",
            why=why or f"it says its key is {market.vkey if market else '':.80}",
            hint="ask the market's operator for a new token",
        )
    shown = digest.digest(market.terms.encode("utf-8"))
    if market.terms and shown != market.terms_digest:
        raise Refuted("the market shows other terms than it names", why=f"{shown}, named {market.terms_digest}")
    return market
