"""What a market says of itself, to anybody."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, StringConstraints

from stannary.wire.message import Count, DigestText, Hex32, LongText, Message, Name, Word

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
    appeal_s: Count = 86_400  # three operators have so long to hear about a disputed bond
    root: DigestText | None = None  # the root file system its jobs run in; None: each node's own system
    root_bytes: Count = 0  # the size of its tar, which anybody may fetch (GET /v1/blobs/{digest})
    grades: bool | None = None  # it measures what nodes' processors do; absent where it does not


class LogState(Message):
    """GET /v1/log/state?old=SIZE: who has seen SIZE statements checks that they still are there (tlog/seen.py)."""

    checkpoint: LongText
    consistency: Annotated[list[Hex32], Field(max_length=64)]
