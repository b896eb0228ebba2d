"""Group keys wrapped to somebody's key: HPKE (RFC 9180) with X-Wing (ML-KEM-768 and X25519).

Rules:
1. `info` is the JCS of everything a wrap is for: artifact digest, group ids, audience, expiry. The
   opener builds it from what *it* expects, so a wrap for another artifact or audience does not open even
   if its open part was edited; the open part must agree as well, so no byte of it is free.
2. A wrap never lies inside the artifact: who may read can change, the digest does not.
3. HPKE's base mode names no sender. A false wrap gives keys that open nothing, because the artifact is
   pinned by its digest; who may be given one, and the log of it, are the broker's (next plane).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime, timedelta

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric import mlkem, x25519
from cryptography.hazmat.primitives.hpke import (
    AEAD,
    KDF,
    KEM,
    MLKEM768X25519PublicKey,
    Suite,
)

from stannary.errors import AuthError, FormatError, Refuted, UsageError
from stannary.formats import canonical, digest, dsse
from stannary.formats.canonical import Json
from stannary.formats.digest import Digest
from stannary.seal.head import Head
from stannary.seal.keys import KeyRing, ReceivingKey, Release
from stannary.seal.message import KEY_BYTES

FORMAT = "seal/v1 wrap"
MLKEM_PUBLIC_BYTES = 1184
X25519_PUBLIC_BYTES = 32
MAX_WRAP_BYTES = 1024 * 1024  # 4096 groups are 400 KiB
MAX_LIFE = timedelta(days=30)

_SUITE = Suite(KEM.MLKEM768_X25519, KDF.HKDF_SHA256, AEAD.AES_256_GCM)
_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ")
_AUDIENCE = re.compile(r"[A-Za-z0-9_.:/@-]{1,200}")


@dataclass(frozen=True, slots=True)
class Terms:
    """What a wrap is for; all of it goes into `info`."""

    artifact: Digest
    groups: tuple[str, ...]
    audience: str
    expires_at: str

    def info(self) -> bytes:
        """Return the HPKE info bytes."""
        return canonical.encode(
            {
                "format": FORMAT,
                "artifact": self.artifact,
                "groups": list(self.groups),
                "audience": self.audience,
                "expires_at": self.expires_at,
            }
        )


def wrap(
    head: Head, keys: KeyRing, groups: tuple[str, ...], recipient: MLKEM768X25519PublicKey, terms: tuple[str, datetime]
) -> bytes:
    """Wrap the manifest key and the keys of `groups` for a recipient.

    Args:
        terms: the audience the keys are for, and until when (aware UTC).
    """
    audience, expires_at = terms
    if _AUDIENCE.fullmatch(audience) is None:
        raise UsageError("audience refused", why=f"{audience!r:.80}", hint="letters, digits and _.:/@-")
    listed = tuple(sorted(set(groups)))
    stated = Terms(digest.digest(head.to_bytes()), listed, audience, expires_at.strftime("%Y-%m-%dT%H:%M:%SZ"))
    bundle: dict[str, Json] = {
        "manifest": keys.manifest_key(head).hex(),
        "groups": {group: keys.group_key(head, group).hex() for group in listed},
    }
    sealed = _SUITE.encrypt(canonical.encode(bundle), recipient, stated.info())
    members: dict[str, Json] = {
        "format": FORMAT,
        "artifact": stated.artifact,
        "groups": list(listed),
        "audience": audience,
        "expires_at": stated.expires_at,
        "sealed": dsse.encode_base64(sealed),
    }
    return canonical.encode(members)


def unwrap(data: bytes, key: ReceivingKey, *, artifact: Digest | None, audience: str, now: datetime) -> Release:
    """Open a wrap that must be for `artifact` (None: whichever it states) and `audience` and not expired at `now`.

    Raises:
        FormatError: not a wrap.
        AuthError: expired, or alive longer than MAX_LIFE.
        Refuted: for another artifact, audience, key or group list, or changed bytes.
    """
    members = canonical.decode_object(data, max_bytes=MAX_WRAP_BYTES)
    if set(members) != {"format", "artifact", "groups", "audience", "expires_at", "sealed"}:
        raise FormatError("wrap has missing or unknown members", why=", ".join(sorted(members))[:200])
    if members["format"] != FORMAT or canonical.encode(members) != data:
        raise FormatError("not a seal/v1 wrap", why=f"format {members['format']!r:.40}")
    groups, expires_at, stated = members["groups"], members["expires_at"], members["artifact"]
    if (
        not isinstance(groups, list)
        or not isinstance(stated, str)
        or not isinstance(expires_at, str)
        or _TIME.fullmatch(expires_at) is None
    ):
        raise FormatError("wrap member of the wrong type")
    listed = tuple(item for item in groups if isinstance(item, str))
    if listed != tuple(groups):
        raise FormatError("wrap groups are not names")
    terms = Terms(digest.parse(artifact or stated), listed, audience, expires_at)
    if (stated, members["audience"]) != (terms.artifact, terms.audience):
        raise Refuted(
            "the wrap is for something else",
            why=f"{members['audience']!r:.60}, {stated!r:.80}",
            hint="name the digest and audience it was made for, or ask the owner for another",
        )
    _check_life(expires_at, now)
    try:
        plain = _SUITE.decrypt(dsse.decode_base64(members["sealed"], "sealed"), key.private, terms.info())
    except (InvalidTag, ValueError) as err:
        raise Refuted("the wrap does not open", why="another key, or its terms or bytes were changed") from err
    return _read_bundle(plain, terms)


def public_key(data: bytes) -> MLKEM768X25519PublicKey:
    """Read a public key."""
    if len(data) != MLKEM_PUBLIC_BYTES + X25519_PUBLIC_BYTES:
        raise FormatError("not an X-Wing public key", why=f"{len(data)} bytes")
    try:
        return MLKEM768X25519PublicKey(
            mlkem.MLKEM768PublicKey.from_public_bytes(data[:MLKEM_PUBLIC_BYTES]),
            x25519.X25519PublicKey.from_public_bytes(data[MLKEM_PUBLIC_BYTES:]),
        )
    except ValueError as err:
        raise FormatError("not an X-Wing public key", why=str(err)[:200]) from err


def _check_life(expires_at: str, now: datetime) -> None:
    try:
        end = datetime.fromisoformat(expires_at)
    except ValueError as err:
        raise FormatError("wrap expiry is not a time", why=expires_at) from err
    if now >= end:
        raise AuthError("the wrap has expired", why=f"at {expires_at}", hint="ask the owner for a new one")
    if end - now > MAX_LIFE:
        raise AuthError("the wrap lives too long", why=f"until {expires_at}, limit {MAX_LIFE.days} days")


def _read_bundle(plain: bytes, terms: Terms) -> Release:
    members = canonical.decode_object(plain, max_bytes=MAX_WRAP_BYTES)
    groups = members.get("groups")
    if set(members) != {"manifest", "groups"} or not isinstance(groups, dict) or set(groups) != set(terms.groups):
        raise FormatError("wrapped bundle has missing or unknown members")
    return Release(terms.artifact, _key(members["manifest"]), {name: _key(value) for name, value in groups.items()})


def _key(value: Json) -> bytes:
    if not isinstance(value, str) or re.fullmatch(rf"[0-9a-f]{{{2 * KEY_BYTES}}}", value) is None:
        raise FormatError("wrapped key is not 32 bytes in hex")
    return bytes.fromhex(value)
