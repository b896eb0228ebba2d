"""The log's side of a witness: sends checkpoints and checks what comes back, over TLS wherever it is not this machine.

Rules:
1. The witness's own word (409 with its size) decides where the consistency proof starts.
2. A cosignature is verified before it is handed on: a checkpoint with a bad one would spoil every receipt.
3. An https witness shows a certificate that the system's roots vouch for, or the one whose SHA-256 is given. Plain HTTP
   is for loopback.
4. A witness that holds another history, or a longer one, refuses (detail REFUSED); any other answer is none.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Sequence
from http import HTTPStatus
from urllib.parse import urlsplit

from stannary.errors import AuthError, ServiceError, UsageError
from stannary.formats import note
from stannary.formats.note import KeyType
from stannary.tlog.witness import format_request
from stannary.wire.http import Asker

TIMEOUT_S = 5.0  # the witness answers after two fsyncs
MAX_ANSWER_BYTES = 4096
REFUSED = "witness-refused"  # detail of what it says no to; what it does not answer has none
MAX_ATTEMPTS = 2  # one with the size we believe it has, one with the size it says it has
LOOPBACK = frozenset({"127.0.0.1", "::1", "localhost"})
_REFUSALS = frozenset({HTTPStatus.CONFLICT, HTTPStatus.UNPROCESSABLE_ENTITY})
_HEADERS = {"Content-Type": "text/plain", "Connection": "close"}  # nothing is left open between two checkpoints
_PIN = re.compile(r"[0-9a-f]{64}")


class WitnessClient:
    """A Cosigner (tlog/log.py) that asks one witness at `url`."""

    def __init__(self, url: str, vkey: str, *, tls_pin: str = "", timeout_s: float = TIMEOUT_S) -> None:
        """Check the address.

        Raises:
            UsageError: no http address on loopback, and no https address.
            FormatError: no verifier key.
        """
        parts = urlsplit(url)
        is_local = parts.scheme == "http" and parts.hostname in LOOPBACK
        if not parts.hostname or not (parts.scheme == "https" or is_local):
            hint = "write it like https://witness.example; plain HTTP is for loopback"
            raise UsageError("not a witness's address", why=f"{url!r:.120}", hint=hint)
        self._url = f"{url.rstrip('/')}/add-checkpoint"
        self._key = note.parse_vkey(vkey)
        self._asker = Asker(timeout_s, MAX_ANSWER_BYTES, pin=tls_pin)
        self._size = 0  # what we believe the witness holds
        self._lock = threading.Lock()

    @classmethod
    def parse(cls, text: str) -> WitnessClient:
        """Read `KEY@URL` or `KEY@URL#SHA256`, the SHA-256 being that of the certificate it must show.

        Raises:
            UsageError: it is neither.
            FormatError: KEY is no verifier key.
        """
        vkey, _, rest = text.partition("@")
        url, hash_sign, pin = rest.partition("#")
        if hash_sign and _PIN.fullmatch(pin) is None:
            hint = "KEY@URL#SHA256, 64 lower-case hex digits; without #SHA256 the system's roots vouch for it"
            raise UsageError("not the SHA-256 of a certificate", why=f"{pin!r:.80}", hint=hint)
        if note.parse_vkey(vkey).kind is not KeyType.WITNESS:
            raise UsageError(
                "not the key of a witness", why=f"{vkey:.120}", hint="the witness prints its key when it starts"
            )
        return cls(url, vkey, tls_pin=pin)

    @property
    def name(self) -> str:
        """Return the name that stands in its cosignatures."""
        return self._key.name

    @property
    def vkey(self) -> str:
        """Return its verifier key."""
        return str(self._key)

    def __call__(self, signed_note: str, size: int, consistency: Callable[[int], list[bytes]]) -> Sequence[str]:
        """Return the witness's cosignature line for `signed_note`.

        Raises:
            ServiceError: no answer, or a refusal; the log keeps the batch waiting.
            Refuted: an answer that is not this witness's signature.
        """
        with self._lock:
            for _ in range(MAX_ATTEMPTS):
                status, body = self._post(format_request(self._size, consistency(self._size), signed_note))
                if status == HTTPStatus.OK:
                    note.verify_cosignature(note.add_cosignatures(signed_note, [body]), self._key)
                    self._size = size
                    return (body,)
                held = body.strip()
                if status != HTTPStatus.CONFLICT or not held.isdecimal() or int(held) > size:
                    break
                self._size = int(held)
            raise ServiceError(
                "the witness refused the checkpoint",
                why=f"of {size:,} statements; its answer: HTTP {status}, {body.strip():.120}",
                detail=REFUSED if status in _REFUSALS else "",
            )

    def _post(self, request: bytes) -> tuple[int, str]:
        try:
            answer = self._asker.ask("POST", self._url, request, _HEADERS)
        except (ServiceError, AuthError) as err:
            raise ServiceError(
                f"the witness {self.name} does not answer",
                why=f"{self._url}: {err}",
                hint="look at its process, its address and its certificate",
            ) from err
        return answer.status, answer.body.decode("utf-8", "replace")
