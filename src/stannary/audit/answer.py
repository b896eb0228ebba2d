"""Answers to audit questions.

A question names a step drawn after the commitment and a fresh audit salt; the answer is
H(audit salt, state bytes at the step). It can be given only by who has the state: whoever copied a
logged root, or computed the last step alone, has nothing to hash.
"""

from __future__ import annotations

import hashlib

from stannary.errors import FormatError
from stannary.formats.commitments import answer_before, answer_hash

MIN_SALT_BYTES = 16  # a guessable salt would let answers be prepared for states at likely steps


def answer(state: bytes, audit_salt: bytes) -> str:
    """Return the answer to an audit question in hex.

    Raises:
        FormatError: a salt too short to be fresh.
    """
    _check(audit_salt)
    return answer_hash(audit_salt, state)


def begin(audit_salt: bytes, num_state_bytes: int) -> hashlib._Hash:
    """Return the answer's hash up to the state, so that a state as large as the model need not be held.

    Raises:
        FormatError: a salt too short to be fresh.
    """
    _check(audit_salt)
    return answer_before(audit_salt, num_state_bytes)


def _check(audit_salt: bytes) -> None:
    if len(audit_salt) < MIN_SALT_BYTES:
        raise FormatError("audit salt is too short", why=f"{len(audit_salt)} bytes, at least {MIN_SALT_BYTES}")
