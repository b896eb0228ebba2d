"""The broker process: one thread per unfinished job, each in a long poll for beacon requests.

Rules:
1. Only jobs sent to this market (by its pinned key) are served from here.
2. A refused request is reported and waited out; the broker never answers it. A job the market never
   asks rightly for ends as the market's own deadline says (docs/threat-model.md).
3. Nothing is lost by a kill: what was revealed is in the ledger, what was asked is asked again.
4. One process answers for a job at a time, whoever started how many: it holds the job's lock.
5. It ends by itself only when no job is open, and not while somebody makes sure that it runs.

Deciding is reveal.py; keeping is ledger.py; starting this process is sdk/brokers.py or the user.
"""

from __future__ import annotations

import fcntl
import json
import os
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from stannary import buyer, files
from stannary.broker.ledger import Bindings
from stannary.broker.reveal import PinnedKeys, Revealer
from stannary.errors import FormatError, MarketUnreachable, NotFound, Refuted, ServiceError, StannaryError
from stannary.formats import instants
from stannary.wire import routes
from stannary.wire.buyer import Accepted, BeaconRequest, JobView, RevealSubmit
from stannary.wire.connection import Connection

POLL_WAIT_S = 25.0
SCAN_INTERVAL_S = 0.25  # how soon a new job is served; a reveal is not asked for earlier
REFUSED_DELAY_S = 5.0
DOWN_DELAY_S = 2.0
MAX_REPEAT_S = 3600.0  # a market that is away for days fills no disk with one line
UNKNOWN_AFTER_S = 900.0  # a market takes no order that was signed 300 s ago (rules/clocks.py CLOCK_SKEW_S)
LOCK_FILE, RECORD_FILE = "lock", "processes.json"  # as sdk/brokers.py keeps them


@dataclass(frozen=True, slots=True)
class Settings:
    """Whom the broker answers, and for whom."""

    directory: Path
    url: str
    token: files.Secret
    anchors: PinnedKeys
    tls_fingerprint: str = ""
    idle_exit_s: float = 0.0  # 0: stay
    account: str = ""  # serve the jobs of this profile only; empty: all of this market
    home: Path | None = None  # of who starts brokers (sdk/brokers.py)


class Broker:
    """Serves all orders of one buyer at one market until stopped."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._key = buyer.load_key(settings.directory)
        self._stop = threading.Event()
        self._served: dict[str, threading.Thread] = {}
        self._skipped: set[str] = set()

    def stop(self) -> None:
        """Ask all threads to end."""
        self._stop.set()

    def run(self) -> None:
        """Look for orders until stopped, or until idle for `idle_exit_s`."""
        idle_since = time.monotonic()
        while not self._stop.is_set():
            self._adopt()
            if any(thread.is_alive() for thread in self._served.values()):
                idle_since = time.monotonic()
            elif self._settings.idle_exit_s and time.monotonic() - idle_since > self._settings.idle_exit_s:
                if self._may_leave():
                    return
                idle_since = time.monotonic()
            self._stop.wait(SCAN_INTERVAL_S)

    def _may_leave(self) -> bool:
        """Look a last time for orders, under the lock of who starts brokers; strike the record if there are none.

        Who took this process for a living one while it was leaving would have a job that nobody answers for.
        The lock stays ours until the process has ended.
        """
        home = self._settings.home
        if home is None:
            return True
        fd = os.open(home / LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(fd)
            return False
        self._adopt()
        if any(thread.is_alive() for thread in self._served.values()):
            os.close(fd)
            return False
        (home / RECORD_FILE).unlink(missing_ok=True)
        return True

    def _adopt(self) -> None:
        for place in buyer.list_orders(self._settings.directory):
            if place.name in self._served or place.name in self._skipped or (place / buyer.ENDED_FILE).exists():
                continue
            try:
                order = buyer.load_order(place)
            except NotFound:
                continue  # the client is still writing it
            except StannaryError as err:
                report("skipped", place.name, str(err))
                self._skipped.add(place.name)
                continue
            is_foreign = self._settings.account and order.account not in {"", self._settings.account}
            if order.market_vkey != self._settings.anchors.market_vkey or is_foreign:
                self._skipped.add(place.name)
                continue
            thread = threading.Thread(target=self._serve, args=(order,), name=order.job, daemon=True)
            self._served[place.name] = thread
            thread.start()

    def _serve(self, order: buyer.Order) -> None:
        waiting = Waiting(order.job)
        while not self._stop.is_set():
            try:
                with order.served(), self._connected() as market:
                    serve_order(order, self._revealer(order), market, self._stop)
                    return
            except FormatError as err:  # a seed or ledger that is damaged; other jobs go on
                report("failed", order.job, str(err))
                return
            except (StannaryError, OSError) as err:  # a thread's edge: no market, another certificate, another broker
                waiting.say(str(err))
                self._stop.wait(DOWN_DELAY_S)

    def _revealer(self, order: buyer.Order) -> Revealer:
        ledger = Bindings(order.directory / buyer.REVEALS_FILE)
        return Revealer(order.job, order.statement, order.seed(), self._key, self._settings.anchors, ledger)

    def _connected(self) -> Connection:
        used = self._settings
        vkey = used.anchors.market_vkey
        return Connection(used.url, token=used.token, tls_fingerprint=used.tls_fingerprint, vkey=vkey)


def serve_order(
    order: buyer.Order,
    revealer: Revealer,
    market: Connection,
    stop: threading.Event,
    clock: Callable[[], float] = time.monotonic,
) -> None:
    """Answer the beacon requests of one job until it ends or `stop` is set.

    Args:
        order: the job, as it was signed.
        revealer: decides what is answered.
        market: where the job was sent.
        stop: set to end.
        clock: seconds that nobody sets. An order given up too soon would be paid unseen.
    """
    path = routes.job(routes.JOB_BEACON, order.job)
    signed_s = clock() - max(0.0, time.time() - instants.parse(order.statement.submitted_at))  # on that clock
    waiting = Waiting(order.job, clock)
    while not stop.is_set():
        try:
            request = market.poll(path, BeaconRequest, wait_s=POLL_WAIT_S)
            if request is None:
                if _has_ended(order, market):
                    return
                continue
            envelope = revealer.answer(request)
            market.post(path, RevealSubmit.of(envelope), Accepted, is_repeatable=True)
            report("revealed", order.job, f"value {request.index} for checkpoint {request.old_size}..")
        except Refuted as err:
            report("refused", order.job, str(err))
            stop.wait(REFUSED_DELAY_S)
        except NotFound as err:
            if clock() - signed_s > UNKNOWN_AFTER_S:
                report("unknown", order.job, str(err))
                order.give_up()
                return
            stop.wait(SCAN_INTERVAL_S)  # the order is on disk before it is sent
        except (MarketUnreachable, ServiceError) as err:
            waiting.say(str(err))
            stop.wait(DOWN_DELAY_S)
        except StannaryError as err:
            waiting.say(str(err))
            if _has_ended(order, market):
                return
            stop.wait(DOWN_DELAY_S)


class Waiting:
    """Says what a job waits for: at once where it is new, the same thing at intervals that double."""

    def __init__(self, job: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._job = job
        self._clock = clock
        self._said = ""
        self._again_s = 0.0
        self._gap_s = DOWN_DELAY_S

    def say(self, message: str) -> None:
        """Report it, if it is time."""
        now_s = self._clock()
        if message == self._said and now_s < self._again_s:
            return
        self._gap_s = min(2 * self._gap_s, MAX_REPEAT_S) if message == self._said else DOWN_DELAY_S
        self._said, self._again_s = message, now_s + self._gap_s
        report("waiting", self._job, message)


def report(event: str, job: str, message: str) -> None:
    """Write one JSON line to stderr, the broker's log. Never a beacon value or token."""
    line = {"at": int(time.time()), "event": event, "job": job, "message": message}
    sys.stderr.write(json.dumps(line) + "\n")
    sys.stderr.flush()


def _has_ended(order: buyer.Order, market: Connection) -> bool:
    """Ask whether the job is over, and note it so that no later broker asks again."""
    try:
        view = market.get(routes.job(routes.JOB, order.job), JobView)
    except NotFound:
        # The order was written before it was sent; perhaps the market has it in a moment.
        return False
    except StannaryError:
        return False
    if view.finished_at is None:
        return False
    order.end()
    return True
