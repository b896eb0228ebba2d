"""Several stores that are said to hold one artifact, and none of which is believed.

Rules:
1. A mirror that served bytes of another hash is named in a blame record and never asked again: a whole answer,
   of the right length, that says it is octets. Anything else (a log-in page, a coding on the way, a cut, a copy
   that ends early) is a broken path, for which nobody is blamed.
2. A mirror that fails or stalls is set aside for this object and asked again later, within the limits of
   patience.py; the object is then a ServiceError. A host that lacks the object may show it a moment after it was
   put, so it is asked as often; a folder is asked once. When all lack it, it is NotFound.
3. Mirrors take turns by object, so that several of them share the load; those that failed least go
   first, so a stalling mirror costs its time limit once and not for every object.
"""

from __future__ import annotations

import collections
import os
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from typing import TypeVar

from stannary.errors import FormatError, LimitExceeded, NotFound, Refuted, StannaryError
from stannary.formats import digest
from stannary.formats.digest import Digest
from stannary.seal import head as head_format
from stannary.seal.blame import Blame
from stannary.seal.head import Head, SealedObject
from stannary.seal.message import BadBytes, ShardOpener, check_name
from stannary.seal.stores.patience import PAUSE_S, Patience, Pause
from stannary.seal.stores.source import Busy, Source, SourceFailure, envelope_name, head_name, object_name

LOCAL_JOBS = 4  # more threads than this wait for memory, not for cores
REMOTE_JOBS = 12  # 8-16 connections fill a lossy link
HEAD = "head"  # not an object's name: mirrors may hold another head or signature and still the right objects
# A head's digest tells no length. So what neither begins nor ends as a head does may be a page or a cut.
_HEAD_BEGINS, _HEAD_ENDS = b'{"artifact":"', b"}"

T = TypeVar("T")


class Mirrors:
    """Reads objects of one artifact from any of its mirrors. Thread safe."""

    def __init__(self, artifact: Digest, sources: tuple[Source, ...], *, pause: Pause | None = None) -> None:
        self.artifact = digest.parse(artifact)
        self.blames: list[Blame] = []
        self.fetched_bytes = 0
        self._sources = sources
        self._dropped: set[str] = set()
        self._failures: collections.Counter[str] = collections.Counter()
        self._turn = 0
        self._lock = threading.Lock()
        self._pause = pause or threading.Event().wait

    def of(self, artifact: Digest) -> Mirrors:
        """Return the same mirrors for another artifact (a parent); wrong bytes are remembered together."""
        other = Mirrors(artifact, self._sources, pause=self._pause)
        other.blames, other._dropped, other._failures = self.blames, self._dropped, self._failures
        return other

    def default_jobs(self) -> int:
        """Return how many transfers run at once unless the caller says."""
        return REMOTE_JOBS if any(map(_is_remote, self._sources)) else max(1, min(LOCAL_JOBS, os.cpu_count() or 1))

    def head(self) -> Head:
        """Return the head, checked against the artifact digest, with its owner's signature from any mirror."""
        data = self._try_all(HEAD, self._read_head)

        def attempt(source: Source) -> Head:
            envelope = source.read(envelope_name(self.artifact), head_format.MAX_ENVELOPE_BYTES)
            return head_format.check(data, envelope, self.artifact)

        return self._try_all(HEAD, attempt)

    def _read_head(self, source: Source) -> bytes:
        data = source.read(head_name(self.artifact), head_format.MAX_HEAD_BYTES)
        observed = digest.digest(data)
        if observed == self.artifact:
            return data
        doubt = _doubt(source)
        if not doubt and not (data.startswith(_HEAD_BEGINS) and data.endswith(_HEAD_ENDS)):
            doubt = f"{len(data):,} bytes that are no whole head: {data[:20]!r} to {data[-5:]!r}"
        if not doubt:
            self._blame(source, head_name(self.artifact), self.artifact, observed)
        elif _is_remote(source):
            raise SourceFailure("something else stands in place of the head", why=doubt)
        raise Refuted("this is another artifact", why=f"the head hashes to {observed}, asked for {self.artifact}")

    def object(self, item: SealedObject) -> bytes:
        """Return a small object whole, checked against its name."""

        def attempt(source: Source) -> bytes:
            data = source.read(object_name(item), item.length)
            check_name(data, item)
            self._count(len(data))
            return data

        return self._try_all(object_name(item), attempt)

    def open_shard(self, item: SealedObject, key: bytes, into: memoryview) -> None:
        """Fetch, check and decrypt one shard into `into`. Nothing counts before this returns."""

        def attempt(source: Source) -> None:
            opener = ShardOpener(item, key, into)
            received = 0
            try:
                for piece in source.stream(object_name(item), item.length):
                    opener.feed(piece)
                    received += len(piece)
            finally:
                self._count(received)
            opener.finish()

        self._try_all(object_name(item), attempt)

    def _try_all(self, what: str, attempt: Callable[[Source], T]) -> T:
        last: StannaryError | None = None
        lacking: set[str] = set()
        patience = Patience(self._pause, PAUSE_S)
        while True:
            busy: Busy | None = None
            for source in self._in_turn(lacking):
                try:
                    return attempt(source)
                except StannaryError as err:
                    last = self._judge(source, what, err, last)
                    if not _is_remote(source) and isinstance(err, NotFound | Refuted):
                        lacking.add(source.url)  # a folder has it, or has something else, or does not have it
                    busy = err if isinstance(err, Busy) else busy
            if not self._in_turn(lacking) or not patience.wait(busy):
                break
        if last is None:
            last = Refuted("every mirror served wrong bytes", why=", ".join(sorted(self._dropped))[:200])
        if isinstance(last, NotFound):
            raise self._missing(what) from last
        raise last

    def _judge(self, source: Source, what: str, err: StannaryError, earlier: StannaryError | None) -> StannaryError:
        """Return what a failed attempt says, for the end; raise what no other mirror can help with."""
        if isinstance(err, BadBytes):
            return self._wrong_bytes(source, what, err)
        if isinstance(err, NotFound | SourceFailure | LimitExceeded):
            self._set_aside(source)
            return (earlier or err) if isinstance(err, NotFound) else _failure(err)  # the latter says more
        if what == HEAD and isinstance(err, Refuted | FormatError):
            return err
        raise err  # the right bytes do not open

    def _wrong_bytes(self, source: Source, what: str, err: BadBytes) -> StannaryError:
        """Judge other bytes (rule 1)."""
        doubt = _doubt(source) or (err.why if err.observed.length != err.expected.length else "")
        if not doubt:
            self._blame(source, what, err.expected.spell(), err.observed.blake3)
            return err
        self._set_aside(source)
        if not _is_remote(source):
            return err
        return SourceFailure("something else came in place of the object", why=f"{what}: {doubt}")

    def _missing(self, what: str) -> NotFound:
        urls = [source.url for source in self._sources]
        if what == HEAD:
            return NotFound(
                "no such artifact there",
                why=f"{self.artifact} in {', '.join(urls)[:200]}",
                hint=f"stannary artifact ls --from {urls[0]:.200}",
            )
        return NotFound(
            "the store lacks a part of the artifact",
            why=f"{what} in {', '.join(urls)[:200]}",
            hint="name a mirror that has it with --from, or seal it again",
        )

    def _in_turn(self, lacking: set[str]) -> list[Source]:
        """Return the mirrors to ask: neither caught lying nor without the object."""
        with self._lock:
            alive = [source for source in self._sources if source.url not in self._dropped | lacking]
            self._turn += 1
            first = self._turn % len(alive) if alive else 0
            return sorted(alive[first:] + alive[:first], key=lambda source: self._failures[source.url])

    def _set_aside(self, source: Source) -> None:
        with self._lock:
            self._failures[source.url] += 1

    def _blame(self, source: Source, name: str, expected: str, observed: str) -> None:
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        with self._lock:
            if source.url not in self._dropped:
                self._dropped.add(source.url)
                self.blames.append(Blame(self.artifact, source.url, name, expected, observed, now))

    def _count(self, num_bytes: int) -> None:
        with self._lock:
            self.fetched_bytes += num_bytes


def _doubt(source: Source) -> str:
    return str(getattr(source, "doubt", ""))


def _is_remote(source: Source) -> bool:
    return "://" in source.url


def _failure(err: SourceFailure | LimitExceeded) -> SourceFailure:
    """Return a longer answer as a failing host: a page in place of the object, or one coded on the way."""
    if isinstance(err, SourceFailure):
        return err
    return SourceFailure("the store sent more than was asked for", why=err.why)
