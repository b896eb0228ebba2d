"""Nonces that prove themselves: whom they are for and until when stands in them, under a key of this process.

Rules:
- Nothing is kept of a nonce that was given: whoever asks for millions costs no memory and no disk.
- The key is new with every start: a nonce from before it is asked for again.
- That a nonce is answered once is the store's to know, from the first answer signed by the node's key on.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets

from stannary.errors import AuthError
from stannary.wire.limits import SESSION_CHALLENGE_TTL_S

_LABEL = b"stannary challenge v1\0"
_RANDOM_BYTES, _TIME_BYTES, _MAC_BYTES = 8, 8, 16  # 32 together, as the protocol spells a nonce
_NONCE_BYTES = _RANDOM_BYTES + _TIME_BYTES + _MAC_BYTES


class Challenges:
    """Gives nonces and knows them again."""

    def __init__(self) -> None:
        self._key = secrets.token_bytes(32)

    def give(self, node: str, now_ms: int) -> tuple[str, int]:
        """Return a nonce for `node`, and when it expires (ms)."""
        expires_at_ms = now_ms + 1000 * SESSION_CHALLENGE_TTL_S
        body = secrets.token_bytes(_RANDOM_BYTES) + expires_at_ms.to_bytes(_TIME_BYTES, "big")
        return (body + self._mac(node, body)).hex(), expires_at_ms

    def check(self, nonce: str, node: str, now_ms: int) -> int:
        """Return when a nonce of ours expires (ms).

        Raises:
            AuthError: not ours, another node's, or expired.
        """
        try:
            raw = bytes.fromhex(nonce)
        except ValueError:
            raw = b""
        body, mac = raw[:-_MAC_BYTES], raw[-_MAC_BYTES:]
        is_ours = len(raw) == _NONCE_BYTES and raw.hex() == nonce and hmac.compare_digest(mac, self._mac(node, body))
        expires_at_ms = int.from_bytes(body[_RANDOM_BYTES:], "big") if is_ours else 0
        if expires_at_ms <= now_ms:
            raise AuthError(
                "this challenge is not valid", why="unknown, expired or answered before", hint="ask for a new one"
            )
        return expires_at_ms

    def _mac(self, node: str, body: bytes) -> bytes:
        return hmac.digest(self._key, _LABEL + body + node.encode(), hashlib.sha256)[:_MAC_BYTES]
