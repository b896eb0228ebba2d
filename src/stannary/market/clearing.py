"""Blobs nobody claims are deleted after a time of grace, and rights to blobs when they open nothing any more.

Rules:
- A blob is claimed by a job that is placed or was handed it, by an open job whose order names it, and by the job whose
  receipt it is. Claimed blobs are never deleted here.
- A job's claims are taken back when their time is over: jobs/retention.py says when. Row and file go later, as those
  of all that nobody claims, the row first: a crash in between leaves a file nobody knows, and loses none.
- What a node stored and no contribution claims goes after a day, what a buyer stored for no job after a week. Stored
  again, its time begins anew.
- What is about to be deleted is doomed first: orders that name it are told that it is missing, uploads of it to come
  again; DOOM_S later, when everybody who looked before has ended, what is still unclaimed is deleted. What is being
  uploaded is not doomed.
- A file the database does not know (a kill or a full disk came between the two) is deleted at the next start, before
  anything is stored.
- The right of a node to read a job's manifest goes with the job's end: it lasts as long as a lease of it is held.
"""

from __future__ import annotations

import logging
from functools import partial

from sqlalchemy.engine import Connection

from stannary.errors import StannaryError
from stannary.formats import digest
from stannary.formats.digest import Digest
from stannary.jobs.retention import spent
from stannary.market.blobstore import BlobStore
from stannary.market.engine.giving import manifest_digests
from stannary.market.engine.loop import Engines
from stannary.market.exchange import Exchange
from stannary.market.intake.blobkeeping import BUYER_GRACE_S, NODE_GRACE_S
from stannary.market.settings import kept_words
from stannary.store import blobs, claims, jobs
from stannary.store.database import Store

DOOM_S = 120.0  # longer than a submit lasts
INTERVAL_S = 3600.0
BATCH = 1000  # blobs of one look

log = logging.getLogger("stannary.market")


async def keep(exchange: Exchange, engines: Engines) -> None:
    """Clear away for ever."""
    while True:
        try:
            await release(exchange, engines)
            while await clear(exchange, engines) == BATCH:
                continue
            await clear_readers(exchange)
        except StannaryError as err:
            log.warning("unclaimed blobs stay for now: %s", err)
        except Exception:  # a process edge: one batch that cannot go must not keep all later ones
            log.exception("unclaimed blobs stay for now")
        await exchange.clock.sleep(INTERVAL_S)


async def clear_strays(store: Store, files: BlobStore) -> None:
    """Delete the files of blobs that the database does not know; nobody may be storing any."""
    num_strays = 0
    for first, found in files.folders():
        low, high = f"{digest.PREFIX}{first}", f"{digest.PREFIX}{first}g"  # behind all hex digits
        known = await store.aread(partial(blobs.stored, low=low, high=high))
        strays = [name for name in found if name not in known]
        num_strays += len(strays)
        for name in strays:
            files.remove(name)
    if num_strays:
        log.warning("%d files of blobs the database does not know are deleted", num_strays)


async def clear_readers(exchange: Exchange) -> None:
    """Drop the rights to read manifests of jobs that have ended."""
    while owners := await exchange.store.aread(lambda c: blobs.readers_of_ended(c, limit=BATCH)):
        await exchange.store.awrite(partial(blobs.drop_owners, owners=owners))


async def release(exchange: Exchange, engines: Engines) -> None:
    """Take back the claims of jobs to what nobody can ask them for any more."""
    store, retention = exchange.store, exchange.settings.retention
    ended_ms, void_ms = exchange.clock.ago_ms(retention.ended_s), exchange.clock.ago_ms(retention.void_s)
    while ended := await store.aread(partial(claims.ended, before_ms=ended_ms, limit=BATCH)):
        for job in ended:
            await _release_ended(exchange, job)
    for job in await store.aread(partial(claims.with_void, before_ms=void_ms)):
        kept = await store.aread(partial(claims.kept, job=job))
        going = spent(kept, _named(engines), void_ms)
        await store.awrite(partial(_release_spent, job=job, version=kept.version, going=going))


async def _release_ended(exchange: Exchange, job: str) -> None:
    made = await exchange.store.aread(partial(claims.made, job=job))
    message = f"its files and results are gone: {kept_words(exchange.settings.retention)}"

    def write(connection: Connection) -> bool:
        claimed = claims.of_job(connection, job, limit=BATCH)
        claims.release(connection, job, claimed, made)
        claims.say_gone(connection, job, message, at_ms=exchange.now_ms)
        return len(claimed) == BATCH

    while await exchange.store.awrite(write):
        continue


def _release_spent(connection: Connection, job: str, version: int, going: frozenset[str]) -> None:
    if jobs.get(connection, job).num_events == version:  # else it has moved on: there is another look in an hour
        claims.release(connection, job, going, going)


async def clear(exchange: Exchange, engines: Engines) -> int:
    """Doom a batch of what nobody claims, wait, and delete what still is unclaimed; return how many were doomed."""
    keeping = exchange.blobkeeping
    grace = exchange.clock.ago_ms(NODE_GRACE_S), exchange.clock.ago_ms(BUYER_GRACE_S)

    def unclaimed(connection: Connection) -> list[str]:
        return blobs.collectable(connection, node_before_ms=grace[0], buyer_before_ms=grace[1])

    found = set(await exchange.store.aread(unclaimed)) - _named(engines)
    chosen = [name for name in sorted(found) if name not in keeping.uploading][:BATCH]
    if not chosen:
        return 0
    keeping.doomed = frozenset(chosen)
    try:
        exchange.buyer_blobs -= {pair for pair in exchange.buyer_blobs if pair[1] in keeping.doomed}
        await exchange.clock.sleep(DOOM_S)
        going = set(chosen) - _named(engines)
        gone = await exchange.store.awrite(lambda c: blobs.forget(c, sorted(going & set(unclaimed(c)))))
        for name in gone:
            exchange.blobs.remove(Digest(name))
    finally:
        keeping.doomed = frozenset()
    log.info("%d blobs nobody claims are cleared away", len(gone))
    return len(chosen)


def _named(engines: Engines) -> set[str]:
    return {name for order in engines.orders.values() for name in manifest_digests(order.spec)}
