"""Which kinds of files there are in an artifact."""

from __future__ import annotations

from enum import StrEnum


class FileKind(StrEnum):
    """The only kinds of content that are sealed. There is no pickle here and never will be."""

    SAFETENSORS = "safetensors"
    PARQUET = "parquet"
    JSONL = "jsonl"
    BIN = "bin"
