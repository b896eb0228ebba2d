"""What opens nothing any more is forgotten, in store and memory: at the start and every INTERVAL_S, under any load.

That is: expired sessions, answered challenges past their time, join tokens that are used up or expired. In the same
transaction it is written down when each API token was last used: one of its own a request would be too dear.
"""

from __future__ import annotations

import logging

from sqlalchemy.engine import Connection

from stannary.errors import StannaryError
from stannary.market.exchange import Exchange
from stannary.store import accounts, nodes

INTERVAL_S = 60.0

log = logging.getLogger("stannary.market")


async def keep(exchange: Exchange) -> None:
    """Forget for ever."""
    while True:
        try:
            await forget(exchange)
        except StannaryError as err:
            log.warning("what has expired stays for now: %s", err)
        except Exception:  # a process edge: one minute's fault must not let sessions pile up for good
            log.exception("what has expired stays for now")
        await exchange.clock.sleep(INTERVAL_S)


async def forget(exchange: Exchange) -> None:
    """Forget what has expired by now."""
    now_ms, uses = exchange.now_ms, dict(exchange.token_uses)

    def write(connection: Connection) -> None:
        nodes.forget_expired(connection, now_ms=now_ms)
        accounts.forget_join_tokens(connection, now_ms=now_ms)
        accounts.note_uses(connection, uses)

    await exchange.store.awrite(write)
    for hashed in [key for key, at_ms in exchange.token_uses.items() if uses.get(key) == at_ms]:
        del exchange.token_uses[hashed]
    for hashed in [key for key, (_, expires_at_ms) in exchange.sessions.items() if expires_at_ms <= now_ms]:
        del exchange.sessions[hashed]
