"""Assembly of a market process: parts opened in order, served, closed in reverse.

One process, one event loop; the store's writer and the log's writer are threads of their own, the
witness a child process. Plain HTTP on loopback only; on any other address TLS with a self-signed
certificate whose fingerprint stands in market.json and in every join token.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import gc
import logging
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import uvicorn

from stannary import files
from stannary.errors import EnvironmentProblem, UsageError
from stannary.formats import note
from stannary.market import agreement, clearing, forgetting, identity
from stannary.market.bell import Bell
from stannary.market.blobstore import BlobStore
from stannary.market.clock import CLOCK_FILE, Clock, RisingClock, SystemClock
from stannary.market.directory import Directory
from stannary.market.engine.appealing import Appeals
from stannary.market.engine.canaries import Canaries
from stannary.market.engine.loop import Engines
from stannary.market.exchange import Exchange
from stannary.market.http import app, holder
from stannary.market.http.gate import Gate, Guarded, raise_descriptors
from stannary.market.journal import Journal
from stannary.market.offerbook import OfferBook
from stannary.market.presence import Roster
from stannary.market.settings import Settings
from stannary.market.witness import WitnessProcess
from stannary.store import nodes
from stannary.store.database import Store
from stannary.tlog.log import Log
from stannary.tlog.witness_client import WitnessClient
from stannary.tlog.witnesses import Witnesses
from stannary.verify import trust
from stannary.wire.card import Card

DATABASE = "market.db"
PORT_FILE = "port"
KEEP_ALIVE_S = 65
BACKLOG = 2048
STOP_TIMEOUT_S = 3
GC_ALLOCATIONS = 20_000  # between two looks for cycles: most of 700 new objects belong to requests under way
SWITCH_INTERVAL_S = 0.001  # the writer lets go of the interpreter lock at each statement, and waits this long for it

log = logging.getLogger("stannary.market")


@asynccontextmanager
async def opened(settings: Settings, clock: Clock | None = None) -> AsyncIterator[tuple[Exchange, Engines]]:
    """Open a market without a server (tests mount its application directly)."""
    moment = RisingClock(clock if clock is not None else SystemClock(), settings.directory / CLOCK_FILE)
    owner = identity.load(settings.directory, settings.name)
    store = Store.open(settings.directory / DATABASE)
    with contextlib.ExitStack() as closing:
        closing.callback(store.close)
        others = [WitnessClient.parse(text) for text in settings.witnesses]
        witness = WitnessProcess(settings.directory / "witness", owner.vkey) if settings.witness else None
        if witness is not None:
            closing.callback(witness.stop)
        witness_vkeys = _named_once([*([witness.vkey] if witness is not None else []), *(w.vkey for w in others)])
        cosigner = Witnesses(witness, others) if others else witness
        tlog = Log.open(settings.directory / "log", settings.name, owner.key, cosigner)
        closing.callback(tlog.close)
        await store.aread(lambda c: agreement.check(c, tlog))
        await asyncio.to_thread(agreement.check_witnesses, tlog, witness.vkey if witness is not None else None)
        files_of_blobs = BlobStore(settings.directory / "blobs")
        await clearing.clear_strays(store, files_of_blobs)
        moment.lift(note.stamped_at(tlog.checkpoint()))
        bell = Bell(moment)
        roster, directory = Roster(settings.timing), Directory(measures=settings.grade_every_s > 0)
        for node in await store.aread(nodes.drained):
            roster.drain(node)
        exchange = Exchange(
            settings=settings,
            clock=moment,
            identity=owner,
            store=store,
            log=tlog,
            journal=Journal(owner, store, tlog, bell, moment),
            bell=bell,
            roster=roster,
            blobs=files_of_blobs,
            directory=directory,
            offers=OfferBook(directory, roster, moment),
            witness_vkeys=witness_vkeys,
            witness_words=trust.words_of(w.name for w in others),
        )
        await exchange.read_root()
        engines = Engines(exchange)
        async with _working(exchange, engines, moment):
            yield exchange, engines


async def serve(settings: Settings) -> None:
    """Run a market until SIGTERM or SIGINT."""
    async with opened(settings) as (exchange, engines):
        listener = _listen(settings.host, settings.port or _last_port(settings.directory))
        port = listener.getsockname()[1]
        files.replace(settings.directory / PORT_FILE, f"{port}\n".encode())
        scheme, certificate = _secure(settings, exchange)
        exchange.url = f"{scheme}://{_bracketed(settings.address)}:{port}"
        server = _server(app.build(exchange, engines), certificate)
        serving = asyncio.create_task(server.serve(sockets=[]))  # its connections come through the gate
        while not server.started and not serving.done():  # uvicorn offers no event to wait for
            await asyncio.sleep(0.01)
        async with _admitting(server, listener):
            if server.started:
                _announce(settings, exchange, f"{scheme}://{_bracketed(settings.local_host)}:{port}")
            await _while_sound(exchange.store, server, serving)


async def _while_sound(store: Store, server: uvicorn.Server, serving: asyncio.Task[None]) -> None:
    """Serve until told to stop, or until a large database, checked meanwhile, turns out to be damaged.

    Raises:
        EnvironmentProblem: it is.
    """
    checked = store.check_pages()
    if checked is None:
        await serving
        return
    log.warning("the database is large: its pages are checked while the market serves")
    checking = asyncio.wrap_future(checked)
    await asyncio.wait({serving, checking}, return_when=asyncio.FIRST_COMPLETED)
    if checking.done() and checking.exception() is not None:
        log.critical("the market stops: %s", checking.exception())
        server.should_exit = True
    elif checking.done():
        log.warning("the database's pages are whole")
    await serving
    if checking.done():
        checking.result()


@asynccontextmanager
async def _admitting(server: uvicorn.Server, listener: socket.socket) -> AsyncIterator[None]:
    gate = Gate(raise_descriptors())
    listener.setblocking(False)
    listener.listen(BACKLOG)

    def connection() -> Guarded:
        made = Guarded(config=server.config, server_state=server.server_state, app_state=server.lifespan.state)
        made.gate = gate
        return made

    keepers = [
        asyncio.create_task(gate.admit(listener, connection, server.config.ssl), name="gate"),
        asyncio.create_task(gate.keep(), name="gate sweep"),
    ]
    try:
        yield
    finally:
        for keeper in keepers:
            keeper.cancel()
        await asyncio.gather(*keepers, return_exceptions=True)
        listener.close()


@asynccontextmanager
async def _working(exchange: Exchange, engines: Engines, moment: RisingClock) -> AsyncIterator[None]:
    await engines.start()
    workers = [
        asyncio.create_task(moment.keep(), name="clock"),
        asyncio.create_task(exchange.journal.run(), name="journal"),
        asyncio.create_task(engines.keep_deadlines(), name="deadlines"),
        asyncio.create_task(engines.keep_queue(), name="queue"),
        asyncio.create_task(Appeals(exchange, engines.mover).keep(), name="appeals"),
        asyncio.create_task(Canaries(exchange).keep(), name="canaries"),
        asyncio.create_task(clearing.keep(exchange, engines), name="blobs"),
        asyncio.create_task(forgetting.keep(exchange), name="forgetting"),
    ]
    try:
        yield
    finally:
        await engines.stop()
        for worker in workers:
            worker.cancel()
        await asyncio.gather(*workers, return_exceptions=True)


def _named_once(vkeys: list[str]) -> tuple[str, ...]:
    """Return the witnesses' keys; two of one name would replace one another under a checkpoint."""
    names = [note.parse_vkey(vkey).name for vkey in vkeys]
    if len(set(names)) != len(names):
        raise UsageError(
            "two witnesses have one name", why=", ".join(names), hint="each is started with a --name of its own"
        )
    return tuple(vkeys)


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _last_port(directory: Path) -> int:
    """Return the port of the last start, 0 before the first: nodes and join tokens hold the address."""
    try:
        return int((directory / PORT_FILE).read_text(encoding="ascii"))
    except (FileNotFoundError, ValueError):
        return 0


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
    except OSError as err:
        listener.close()
        who = holder.of_port(port) if err.errno == errno.EADDRINUSE else ""
        raise EnvironmentProblem(
            "the market cannot listen",
            why=f"{host}:{port}: {err.strerror}{f', by {who}' if who else ''}",
            hint="end what listens there, or choose another --port and let the nodes join again",
        ) from err
    return listener


def _secure(settings: Settings, exchange: Exchange) -> tuple[str, tuple[Path, Path] | None]:
    if settings.is_loopback:
        return "http", None
    cert, key, fingerprint = identity.certificate(settings.directory, settings.address, exchange.clock.now())
    exchange.tls_fingerprint = fingerprint
    return "https", (cert, key)


def _server(application: object, certificate: tuple[Path, Path] | None) -> uvicorn.Server:
    config = uvicorn.Config(
        application,  # type: ignore[arg-type]  # an ASGI application; uvicorn's union is narrower than starlette's
        loop="uvloop",
        http="httptools",
        ws="none",
        lifespan="off",
        access_log=False,
        proxy_headers=False,  # nobody stands before a market; a header must not say who asks
        log_config=None,
        backlog=BACKLOG,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=STOP_TIMEOUT_S,
        server_header=False,
        ssl_certfile=str(certificate[0]) if certificate is not None else None,
        ssl_keyfile=str(certificate[1]) if certificate is not None else None,
    )
    return uvicorn.Server(config)


def _announce(settings: Settings, exchange: Exchange, local_url: str) -> None:
    directory = settings.directory
    card = Card(
        url=exchange.url,
        name=exchange.identity.name,
        vkey=exchange.identity.vkey,
        witness_vkeys=exchange.witness_vkeys,
        tls_fingerprint=exchange.tls_fingerprint,
        pid=os.getpid(),
        admin_token_file=str(directory / identity.ADMIN_TOKEN_FILE),
        local_url=local_url if local_url != exchange.url else None,
    )
    identity.write_card(directory, card)
    sys.stdout.write(card.line() + "\n")
    sys.stdout.flush()
    sys.stderr.write(f"buyers add this market by:  {card.add_command()}\n")


def run(settings: Settings) -> None:
    """Run a market in this process; uvicorn turns SIGTERM and SIGINT into an orderly stop."""
    for number in (signal.SIGTERM, signal.SIGINT):
        # uvicorn stops at the first and raises it again when it has: by then it must not end us in mid-cleanup
        signal.signal(number, lambda _number, _frame: None)
    logging.getLogger("uvicorn.error").setLevel(logging.ERROR)  # strangers' malformed requests must not fill the disk
    gc.freeze()  # what was imported stays
    gc.set_threshold(GC_ALLOCATIONS, *gc.get_threshold()[1:])
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    with asyncio.Runner(loop_factory=_loop) as runner:
        runner.run(serve(settings))


def _loop() -> asyncio.AbstractEventLoop:
    import uvloop

    loop: asyncio.AbstractEventLoop = uvloop.new_event_loop()
    return loop
