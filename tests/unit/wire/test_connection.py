"""The connection: errors in our words, retries only where they are safe, no plain HTTP to the network."""

from __future__ import annotations

import contextlib
import gzip
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer, ThreadingHTTPServer

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from stannary import files
from stannary.errors import AuthError, ConflictError, LimitExceeded, MarketUnreachable, ServiceError, UsageError
from stannary.formats import dsse, note
from stannary.wire import connection as connections
from stannary.wire import errors, proof, routes
from stannary.wire.connection import Connection
from stannary.wire.market import MarketInfo

KEY = Ed25519PrivateKey.from_private_bytes(b"m" * 32)
VKEY = note.format_vkey("test.market", dsse.public_bytes(KEY))


class Script(BaseHTTPRequestHandler):
    """Proves its key, then answers from the server's script and notes what was asked."""

    protocol_version = "HTTP/1.1"

    def answer(self):
        if self.path.startswith(routes.MARKET_PROOF):
            nonce = self.path.partition("nonce=")[2]
            made = proof.sign(KEY, VKEY, nonce, self.client_address, self.connection.getsockname()).to_bytes()
            self.send_response(200)
            self.send_header("Content-Length", str(len(made)))
            self.end_headers()
            self.wfile.write(made)
            return
        length = int(self.headers.get("Content-Length") or 0)
        self.server.seen.append((self.command, self.path, self.headers.get("Authorization"), self.rfile.read(length)))
        status, body, *rest = self.server.script.pop(0) if self.server.script else (500, b"")
        self.send_response(status)
        for name, value in (rest[0] if rest else {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    do_GET = do_POST = do_PUT = do_HEAD = answer  # noqa: N815  names http.server looks for

    def log_message(self, *_):
        pass


@pytest.fixture
def server():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Script)  # kept connections: one thread each
    server.daemon_threads = True
    server.script, server.seen = [], []
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def connection(server):
    url = f"http://127.0.0.1:{server.server_port}"
    with Connection(url, token=files.Secret("stk_x"), vkey=VKEY, sleep=lambda _: None) as connection:
        yield connection


def body_of(err):
    return errors.to_body(err, "r-1").to_bytes()


def test_errors_of_the_market_are_raised_as_themselves(server, connection):
    """Class, words and detail cross the wire."""
    server.script = [(409, body_of(ConflictError("stale", why="epoch 1, now 2", hint="drop it")))]
    with pytest.raises(ConflictError) as caught:
        connection.send("POST", "/v1/x")
    assert (caught.value.what, caught.value.why, caught.value.hint) == ("stale", "epoch 1, now 2", "drop it")


def test_an_answer_that_is_not_the_markets_is_named(server, connection):
    """A proxy's page is a ServiceError with the status and what to do about it."""
    server.script = [(418, b"<html>")]
    with pytest.raises(ServiceError, match="not the market's own") as caught:
        connection.send("POST", "/v1/x")
    assert "proxy" in caught.value.hint


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_named_and_not_followed(server, connection, status):
    """A login page or a moved market: where it sends, what to do; the token goes nowhere else."""
    server.script = [(status, b"", {"Location": "http://login.example/"})]
    with pytest.raises(ServiceError, match="sends elsewhere") as caught:
        connection.get("/v1/market", MarketInfo)
    assert "http://login.example/" in caught.value.why
    assert "stannary market add" in caught.value.hint
    assert len(server.seen) == 1


def test_a_login_page_with_status_200_is_no_message(server, connection):
    """HTML in place of a message is said as such."""
    server.script = [(200, b"<html>please log in", {"Content-Type": "text/html; charset=utf-8"})]
    with pytest.raises(ServiceError, match="not the market's own"):
        connection.get("/v1/market", MarketInfo)


@pytest.mark.parametrize(
    "answer",
    [
        (302, b"", {"Location": "http://login.example/"}),
        (200, b"<html>please log in", {"Content-Type": "text/html"}),
    ],
)
def test_a_login_page_is_no_blob(server, connection, answer):
    """A page in place of a blob is nobody's lie: it is said as such, and not hashed."""
    server.script = [answer]
    with pytest.raises(ServiceError), connection.stream("/v1/blobs/x") as chunks:
        pytest.fail(f"taken for the blob: {list(chunks)}")


def test_get_is_retried_and_post_is_not(server, connection):
    """A 503 is waited out for GET; a POST without an idempotency key is sent once."""
    server.script = [(503, b""), (503, b""), (200, b"ok")]
    assert connection.send("GET", "/v1/x").content == b"ok"
    server.seen.clear()
    server.script = [(503, b""), (200, b"ok")]
    with pytest.raises(ServiceError):
        connection.send("POST", "/v1/x")
    assert len(server.seen) == 1


def test_a_post_with_an_idempotency_key_is_retried(server, connection):
    """The same key and body go out again."""
    info = MarketInfo(
        name="m", vkey="v", witness_vkeys=[], profile="local", version="0", terms_digest="sha256:" + "0" * 64
    )
    server.script = [(503, b""), (200, info.to_bytes())]
    assert connection.post("/v1/jobs", None, MarketInfo, key="k") == info
    assert len({seen[3] for seen in server.seen}) == 1 and len(server.seen) == 2


def test_an_upload_starts_anew_when_it_is_cut(server, connection):
    """Each attempt streams the whole blob from its beginning."""
    server.script = [(503, b""), (201, b"")]
    connection.put("/v1/blobs/x", lambda: iter([b"ab", b"cd"]), 4)
    assert [seen[3] for seen in server.seen] == [b"abcd", b"abcd"]


def test_head_says_whether_a_blob_is_there(server, connection):
    """404 is an answer, 401 is an error."""
    server.script = [(200, b""), (404, b""), (401, b"")]
    assert connection.has("/v1/blobs/x")
    assert not connection.has("/v1/blobs/x")
    with pytest.raises(AuthError):
        connection.has("/v1/blobs/x")


def test_silence_names_the_address_and_the_next_command():
    """Nobody listening is MarketUnreachable, in three useful lines."""
    with (
        Connection("http://127.0.0.1:9", sleep=lambda _: None) as connection,
        pytest.raises(MarketUnreachable) as caught,
    ):
        connection.send("GET", "/v1/market")
    assert "http://127.0.0.1:9" in caught.value.what
    assert caught.value.hint == "stannary market status"


@pytest.mark.parametrize("url", ["http://market.example", "ftp://127.0.0.1", "market.example", "http://"])
def test_plain_http_leaves_this_machine_never(url):
    """Tokens go in clear text to loopback only, and to nothing that is no HTTP address."""
    with pytest.raises(UsageError):
        Connection(url)


def test_a_proxy_of_the_environment_is_not_used(server, monkeypatch):
    """A token sent to loopback does not pass through somebody's proxy."""
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    server.script = [(200, b"ok")]
    url = f"http://127.0.0.1:{server.server_port}"
    with Connection(url, token=files.Secret("stk_x"), vkey=VKEY) as connection:
        assert connection.send("GET", "/").content == b"ok"
    assert server.seen[0][2] == "Bearer stk_x"


@pytest.fixture
def endless():
    """A server whose answers never end; it says how much it got rid of."""

    class Endless(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(int(self.path.rpartition("/")[2]))
            self.end_headers()
            self.server.sent = 0
            with contextlib.suppress(OSError):
                while True:
                    self.wfile.write(bytes(65_536))
                    self.server.sent += 65_536

        def log_message(self, *_):
            pass

    server = HTTPServer(("127.0.0.1", 0), Endless)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.parametrize("status", [200, 404])
def test_an_answer_without_end_takes_no_memory(endless, monkeypatch, status):
    """Whole answers and error bodies are cut off at their limit, not read to the end first."""
    monkeypatch.setattr(connections, "MAX_WHOLE_BYTES", 1_000_000)
    url = f"http://127.0.0.1:{endless.server_port}"
    with Connection(url, sleep=lambda _: None) as connection, pytest.raises(LimitExceeded, match="too large"):
        connection.get_bytes(f"/v1/{status}")
    assert endless.sent < 20_000_000  # what the sockets' buffers swallow on the way


def test_a_blob_without_end_is_cut_off(endless, monkeypatch):
    """A streamed blob ends at the largest size a blob may have."""
    monkeypatch.setattr(connections.limits, "MAX_BLOB_BYTES", 3_000_000)
    url = f"http://127.0.0.1:{endless.server_port}"
    with (
        Connection(url, sleep=lambda _: None) as connection,
        pytest.raises(LimitExceeded),
        connection.stream("/v1/200") as chunks,
    ):
        assert sum(map(len, chunks)) <= 3_000_000


def test_a_compressed_answer_is_not_unpacked(server, connection):
    """Nobody asked for compression: what comes so is foreign, and never unpacked."""
    server.script = [(200, gzip.compress(bytes(1_000_000)), {"Content-Encoding": "gzip"})]
    with pytest.raises(ServiceError):
        connection.get_bytes("/v1/x")
