"""The log's side of a witness: sends checkpoints over HTTP and checks what comes back.

Rules:
1. The witness's own word (409 with its size) decides where the consistency proof starts.
2. A cosignature is verified before it is handed on: a checkpoint with a bad one would spoil every receipt.
"""

from __future__ import annotations

import http.client
import threading
from collections.abc import Callable, Sequence
from http import HTTPStatus
from urllib.parse import urlsplit

from stannary.errors import ServiceError
from stannary.formats import note
from stannary.tlog.witness import format_request

TIMEOUT_S = 5.0  # the witness answers after two fsyncs
MAX_ANSWER_BYTES = 4096
REFUSED = "witness-refused"  # detail of what it says no to; what it does not answer has none
MAX_ATTEMPTS = 2  # one with the size we believe it has, one with the size it says it has


class WitnessClient:
    """A Cosigner (tlog/log.py) that asks one witness at `url`."""

    def __init__(self, url: str, vkey: str, *, timeout_s: float = TIMEOUT_S) -> None:
        parts = urlsplit(url)
        self._host, self._port = parts.hostname or "", parts.port
        self._path = parts.path.rstrip("/") + "/add-checkpoint"
        self._vkey = note.parse_vkey(vkey)
        self._timeout_s = timeout_s
        self._size = 0  # what we believe the witness holds
        self._lock = threading.Lock()

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
                    note.verify_cosignature(note.add_cosignatures(signed_note, [body]), self._vkey)
                    self._size = size
                    return (body,)
                held = body.strip()
                if status != HTTPStatus.CONFLICT or not held.isdecimal() or int(held) > size:
                    break
                self._size = int(held)
            raise ServiceError(
                "the witness refused the checkpoint",
                why=f"of {size:,} statements; its answer: HTTP {status}, {body.strip():.120}",
                detail=REFUSED,
            )

    def _post(self, request: bytes) -> tuple[int, str]:
        connection = http.client.HTTPConnection(self._host, self._port, timeout=self._timeout_s)
        try:
            connection.request("POST", self._path, request, {"Content-Type": "text/plain"})
            response = connection.getresponse()
            return response.status, response.read(MAX_ANSWER_BYTES).decode("utf-8", "replace")
        except (OSError, http.client.HTTPException) as err:
            raise ServiceError(
                "the witness does not answer",
                why=f"{self._host}:{self._port}: {err}",
                hint="look at the witness process of this market",
            ) from err
        finally:
            connection.close()
