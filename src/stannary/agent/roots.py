"""The root file system a node's jobs run in: fetched from its market by digest, unpacked once for all nodes here."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path

from stannary.agent.settings import NodeSettings
from stannary.formats import digest
from stannary.formats.digest import Digest
from stannary.run.root.shelf import Shelf
from stannary.wire import routes
from stannary.wire.connection import Connection

Tell = Callable[[str], None]


def bring(named: Digest, size_bytes: int, link: Connection, tell: Tell) -> Path:
    """Return the directory of a root, fetched over this connection where it is not here yet (run/root/shelf.py)."""
    return Shelf.own().take(named, size_bytes, functools.partial(link.stream, routes.blob(named)), tell)


def of_node(settings: NodeSettings, tell: Tell) -> Path | None:
    """Return the directory a node's jobs run in, None where they see this machine's own system.

    It was fetched when the node joined; who has removed it since waits for it again.
    """
    if not settings.root:
        return None
    named = digest.parse(settings.root)
    url, pin, vkey = settings.url, settings.tls_fingerprint, settings.market_vkey
    with Connection(url, tls_fingerprint=pin, vkey=vkey) as link:  # asks nothing where it is here
        return bring(named, settings.root_bytes, link, tell)
