"""A cloud's instance metadata service: plain HTTP on a link-local address, no proxy, no redirect.

Nothing it says is believed: what comes from it is signed by others, or is refused by a verifier. The
whole exchange has one limit, whatever pace the service answers at.
"""

from __future__ import annotations

from http import HTTPStatus
from typing import Protocol

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
        from stannary.wire.http import Asker, NoAnswer

        headers = {"Metadata": "true", **({"Content-Type": "application/json"} if body else {})}
        try:
            with Asker(self._limit_s, MAX_ANSWER_BYTES) as asker:
                answer = asker.ask("POST" if body else "GET", f"http://{self._address}{path}", body, headers)
        except NoAnswer as err:
            raise ServiceError("the instance metadata service did not answer", why=f"{path}: {err.why}") from err
        if answer.status != HTTPStatus.OK:
            raise ServiceError("the instance metadata service refused", why=f"{path}: status {answer.status}")
        return answer.body
