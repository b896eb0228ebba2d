"""A cloud's instance metadata service: plain HTTP on a link-local address, no proxy, no redirect.

Nothing it says is believed: what comes from it is signed by others, or is refused by a verifier. The
whole exchange has one limit, whatever pace the service answers at.
"""

from __future__ import annotations

import http.client
from typing import Protocol

from stannary.certify.collect.deadline import within
from stannary.errors import ServiceError

ADDRESS = "169.254.169.254"
MAX_ANSWER_BYTES = 256 * 1024
METADATA_LIMIT_S = 15.0


class Metadata(Protocol):
    """Answers one request; raises ServiceError where it cannot."""

    def __call__(self, path: str, body: bytes = b"") -> bytes:
        """GET `path`, or POST a JSON `body` to it."""
        ...


class MetadataService:
    """The service at an address."""

    def __init__(self, address: str = ADDRESS, *, limit_s: float = METADATA_LIMIT_S) -> None:
        self._address, self._limit_s = address, limit_s

    def __call__(self, path: str, body: bytes = b"") -> bytes:
        """Exchange one request within the limit."""
        return within(lambda: self._exchange(path, body), "the instance metadata service", self._limit_s)

    def _exchange(self, path: str, body: bytes) -> bytes:
        connection = http.client.HTTPConnection(self._address, timeout=self._limit_s)
        headers = {"Metadata": "true", **({"Content-Type": "application/json"} if body else {})}
        try:
            connection.request("POST" if body else "GET", path, body or None, headers)
            with connection.getresponse() as answer:
                data = answer.read(MAX_ANSWER_BYTES + 1)
        except (OSError, http.client.HTTPException) as err:
            raise ServiceError("the instance metadata service did not answer", why=f"{path}: {err!r:.160}") from err
        finally:
            connection.close()
        if answer.status != http.client.OK:
            raise ServiceError("the instance metadata service refused", why=f"{path}: status {answer.status}")
        if len(data) > MAX_ANSWER_BYTES:
            raise ServiceError("the instance metadata service sent too much", why=f"{path}: over {MAX_ANSWER_BYTES:,}")
        return data
