"""Join tokens: all a machine needs to reach a market and know it again, in one word.

    snt_ + base64url(JSON {url, vkey, tls, secret}) without padding

`tls` is the SHA-256 of the market's certificate (hex; empty for plain HTTP on loopback), so that a
self-signed certificate is pinned by the very token an operator copied. The market keeps only the
token's digest; the join statement names that digest, never the token.
"""

from __future__ import annotations

import base64
import binascii
from typing import Annotated

from pydantic import StringConstraints

from stannary.errors import FormatError
from stannary.formats import digest
from stannary.formats.digest import Digest
from stannary.wire import message
from stannary.wire.message import Message, Name

PREFIX = "snt_"
MAX_TOKEN_CHARS = 2048


class JoinToken(Message):
    """The members of a join token."""

    url: Name
    vkey: Name
    tls: Annotated[str, StringConstraints(pattern=r"^([0-9a-f]{64})?$")]
    secret: Annotated[str, StringConstraints(min_length=16, max_length=128)]

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
    except binascii.Error as err:
        raise FormatError("not a join token", why=str(err), hint="copy the whole snt_... word") from err
    return message.read(JoinToken, data, max_bytes=MAX_TOKEN_CHARS)


def token_digest(text: str) -> Digest:
    """Return the digest a join statement names its token by (of the whole word, ASCII)."""
    return digest.digest(text.encode("ascii"))
