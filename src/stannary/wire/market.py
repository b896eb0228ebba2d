"""What a market says of itself, to anybody."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, StringConstraints

from stannary.wire.message import DigestText, Message, Name, Word

MAX_TERMS_CHARS = 32_768  # some ten pages


class MarketInfo(Message):
    """GET /v1/market. Believe it only as far as `vkey` is already pinned."""

    name: Name
    vkey: Name
    witness_vkeys: Annotated[list[Name], Field(max_length=16)]
    profile: Word  # local | private | shared
    version: Name
    terms_digest: DigestText
    terms: Annotated[str, StringConstraints(max_length=MAX_TERMS_CHARS)] = ""  # the text; empty at earlier releases
