"""Challenges: what a verifier asks a node to bind, and what it remembers of the question.

The public part travels to the node. The private part stays with the verifier: the secret of a
credential (activation), the boot session of the appraisal that is renewed. A nonce is used once and
for CHALLENGE_TTL_S; `spent` is the ledger that makes it so (see `folder.py` for the one on disk).
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from stannary.certify.anchor import NONCE_BYTES
from stannary.certify.evidence.basis import Activation, BootSession
from stannary.certify.moments import format_moment, parse_moment
from stannary.certify.octets import unhex
from stannary.errors import FormatError
from stannary.formats import canonical, record

if TYPE_CHECKING:
    from stannary.certify.pki.certificates import Certificate

CHALLENGE_TTL_S = 60  # longer makes relays easier; a hand-carried challenge may ask for more
MAX_TTL_S = 3600
MAX_CHALLENGE_BYTES = 64 * 1024
KIND = "stannary-challenge-v1"


@dataclass(frozen=True, slots=True)
class Challenge:
    """The public part: a fresh nonce, its window, and a credential to activate if one was made."""

    kind: str
    nonce: str
    issued_at: str
    expires_at: str
    credential: str = ""
    profile: str = "scu-2026.1"

    @property
    def nonce_bytes(self) -> bytes:
        """The nonce."""
        raw = unhex(self.nonce, "nonce")
        if len(raw) != NONCE_BYTES:
            raise FormatError("challenge nonce has another length", why=f"{len(raw)} bytes")
        return raw

    @property
    def id(self) -> str:
        """A name that shows nothing of the nonce."""
        return hashlib.sha256(b"stannary-challenge-id" + self.nonce_bytes).hexdigest()[:32]

    def to_bytes(self) -> bytes:
        """Return canonical JSON."""
        return canonical.encode(record.to_json(self))

    def window_problem(self, now: datetime) -> str:
        """Say why the challenge is not open at `now`, empty if it is."""
        start, end = parse_moment(self.issued_at), parse_moment(self.expires_at)
        if not timedelta(0) < end - start <= timedelta(seconds=MAX_TTL_S):
            return "challenge has an impossible window"
        if now < start:
            return f"challenge was issued at {self.issued_at}, after the evaluation time"
        return "" if now <= end else f"challenge ended {self.expires_at}"


@dataclass(frozen=True, slots=True)
class Memory:
    """The private part of a challenge; empty strings and -1 where there is nothing to remember."""

    challenge: str
    ak_name: str = ""
    ek_certificate: str = ""
    secret: str = ""
    reset_count: int = -1
    restart_count: int = -1

    def __repr__(self) -> str:
        return f"Memory(challenge={self.challenge!r}, secret=***)"

    def activation(self) -> Activation | None:
        """Return what an activated credential must show."""
        if not self.secret:
            return None
        return Activation(unhex(self.ak_name, "AK name"), self.ek_certificate, unhex(self.secret, "secret"))

    def session(self) -> BootSession | None:
        """Return the boot session that must still be running."""
        return None if self.reset_count < 0 else BootSession(self.reset_count, self.restart_count)


def issue(now: datetime, *, ttl_s: int = CHALLENGE_TTL_S, nonce: bytes | None = None) -> tuple[Challenge, Memory]:
    """Make a first challenge."""
    challenge = _issue(now, ttl_s, nonce, credential="")
    return challenge, Memory(challenge.id)


def renew(
    now: datetime, ek: Certificate, ak_name: bytes, session: BootSession, *, ttl_s: int = CHALLENGE_TTL_S
) -> tuple[Challenge, Memory]:
    """Make a challenge that also activates a credential and asks for the same boot."""
    from stannary.certify.activation import make_credential

    credential, secret = make_credential(ek, ak_name)
    challenge = _issue(now, ttl_s, None, credential=credential.hex())
    memory = Memory(
        challenge.id, ak_name.hex(), ek.fingerprint, secret.hex(), session.reset_count, session.restart_count
    )
    return challenge, memory


def parse(data: bytes) -> Challenge:
    """Read a challenge."""
    challenge = record.from_json(Challenge, canonical.decode_object(data, max_bytes=MAX_CHALLENGE_BYTES))
    if challenge.kind != KIND:
        raise FormatError("not a stannary challenge", why=f"{challenge.kind!r:.40}")
    _ = challenge.nonce_bytes
    return challenge


def parse_memory(data: bytes) -> Memory:
    """Read the private part."""
    return record.from_json(Memory, canonical.decode_object(data, max_bytes=MAX_CHALLENGE_BYTES))


def _issue(now: datetime, ttl_s: int, nonce: bytes | None, *, credential: str) -> Challenge:
    if not 1 <= ttl_s <= MAX_TTL_S:
        raise FormatError("challenge lifetime out of range", why=f"{ttl_s} s, 1 to {MAX_TTL_S}")
    return Challenge(
        kind=KIND,
        nonce=(os.urandom(NONCE_BYTES) if nonce is None else nonce).hex(),
        issued_at=format_moment(now),
        expires_at=format_moment(now + timedelta(seconds=ttl_s)),
        credential=credential,
    )
