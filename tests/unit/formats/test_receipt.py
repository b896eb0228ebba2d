"""The receipt file: one spelling, one size, nothing that is not what it says."""

from __future__ import annotations

from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from stannary.errors import FormatError, LimitExceeded, UnsupportedFormat
from stannary.formats import canonical, dsse, receipt

KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
ENVELOPE = dsse.sign(b"{}", KEY).to_json()
HASH = dsse.encode_base64(bytes(32))


def file(**changes: Any) -> dict[str, Any]:
    """Return the members of a receipt file, with some changed."""
    evidence = [{"envelope": ENVELOPE, "index": index, "path": [HASH]} for index in (3, 8)]
    checkpoints = [{"note": "a note", "consistency": [HASH]}]
    members = {"receipt": ENVELOPE, "proof": "a proof", "evidence": evidence, "checkpoints": checkpoints}
    return {"format": receipt.FORMAT, **members, **changes}


def test_a_receipt_file_is_read_back_as_it_was_written() -> None:
    """Reading and writing are each other's inverse, byte for byte."""
    members = file()
    read = receipt.read(members)
    assert [item.index for item in read.evidence] == [3, 8]
    assert read.to_bytes() == canonical.encode(members)


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"format": "x"}, "not a receipt of this format"),
        ({"proof": 1}, "receipt proof is not text"),
        ({"more": 1}, "missing or unknown members"),
        ({"evidence": {}}, "evidence is not a list"),
        ({"evidence": [1]}, "evidence is not an object"),
        ({"evidence": [{"envelope": ENVELOPE, "index": -1, "path": []}]}, "evidence index is not a number"),
        ({"evidence": [{"envelope": ENVELOPE, "index": True, "path": []}]}, "evidence index is not a number"),
        ({"evidence": [{"envelope": ENVELOPE, "index": 1, "path": ["AAAA"]}]}, "path holds what is no hash"),
        ({"evidence": [{"envelope": ENVELOPE, "index": 1, "path": [1]}]}, "path"),
        ({"evidence": [{"envelope": ENVELOPE, "index": 1, "path": []}] * 2}, "evidence is not in log order"),
        ({"checkpoints": [{"note": 1, "consistency": []}]}, "checkpoint note is not text"),
    ],
)
def test_what_is_no_receipt_file_is_refused_by_name(changes: dict[str, Any], what: str) -> None:
    """Each member that is not what it should be is named."""
    with pytest.raises(FormatError, match=what):
        receipt.read(file(**changes))


def test_a_path_longer_than_any_tree_is_refused() -> None:
    """Nobody makes a verifier hash without end."""
    with pytest.raises(LimitExceeded, match="path is too long"):
        receipt.read(file(evidence=[{"envelope": ENVELOPE, "index": 1, "path": [HASH] * 200}]))


def test_a_receipt_of_an_earlier_release_is_told_apart() -> None:
    """What older software wrote is not called broken."""
    for name in receipt.EARLIER_FORMATS:
        with pytest.raises(UnsupportedFormat, match="earlier release"):
            receipt.read(file(format=name))
