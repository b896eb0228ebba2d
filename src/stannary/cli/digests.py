"""The digest of an artifact as people type it."""

from __future__ import annotations

from stannary.errors import FormatError
from stannary.formats import digest
from stannary.formats.digest import Digest

LIST_HINT = "stannary artifact ls --from DIR|URL lists the digests of a store"


def artifact_digest(text: str) -> Digest:
    """Return what was typed as a digest; the error says where digests are to be found."""
    try:
        return digest.parse(text)
    except FormatError as err:
        raise FormatError(err.what, why=err.why, hint=LIST_HINT) from err
