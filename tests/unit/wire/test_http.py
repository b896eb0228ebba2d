"""Short exchanges end in time and size whoever is asked; nothing is followed, unpacked or read that nobody needs."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import socket
import ssl
import threading
import time
from collections.abc import Iterator

import pytest
from tests.loopback import listening
from tests.unit.seal.stores.test_proxy import HOST, proxied, serving_tls
from tests.unit.seal.stores.test_server import serving

from stannary.errors import AuthError, ServiceError, UsageError
from stannary.wire import http
from stannary.wire.connection import Connection
from stannary.wire.http import Asker, NoAnswer

HANG_S = 30.0  # a limit of half a second that took so long did not hold
VARIABLES = ("http_proxy", "https_proxy", "all_proxy", "no_proxy")


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch) -> None:
    """No proxy but those a test names."""
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@contextlib.contextmanager
def host(*sent: bytes, then: bytes = b"") -> Iterator[tuple[str, list[bytes]]]:
    """Answer each request with `sent`, then with `then` again and again; yield the address and what was asked."""
    asked: list[bytes] = []
    over = threading.Event()

    def serve(connection: socket.socket) -> None:
        with contextlib.suppress(OSError), connection.makefile("rb") as lines:
            while line := lines.readline():
                head = [line, *iter(lines.readline, b"\r\n")]
                sizes = [int(line.split()[1]) for line in head if line.lower().startswith(b"content-length:")]
                asked.append(b"".join(head) + b"\r\n" + lines.read(sum(sizes)))
                connection.sendall(b"".join(sent))
                while then and not over.wait(0.02):
                    connection.sendall(then)

    with listening(serve) as url:
        try:
            yield url, asked
        finally:
            over.set()


def reply(body: bytes = b"", status: str = "200 OK", more: str = "") -> bytes:
    """Return a response."""
    return f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n{more}\r\n".encode() + body


def test_an_answer_comes_whole_with_its_status_and_headers() -> None:
    """Status, headers and body of any answer are handed on; no coding is asked for."""
    with (
        host(reply(b"moved", "302 Found", "Location: http://127.0.0.1:1/\r\n")) as (url, asked),
        Asker(20, 99) as asker,
    ):
        answer = asker.ask("POST", f"{url}/x?y", b"question", {"Content-Type": "text/plain"})
        assert (answer.status, answer.body) == (302, b"moved")  # and not followed
        assert answer.headers["location"] == "http://127.0.0.1:1/"
        assert asker.ask("GET", f"{url}/again").status == 302
    head = asked[0].lower()
    assert head.startswith(b"post /x?y http/1.1\r\n")
    assert head.endswith(b"\r\n\r\nquestion")
    assert b"accept-encoding: identity\r\n" in head
    assert b"content-type: text/plain\r\n" in head


@pytest.mark.parametrize(
    "sent",
    [
        b"",
        b"HTTP/1.1 ",
        b"HTTP/1.1 200 OK\r\nX: ",
        b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n\r\n",
        b"HTTP/1.1 500 No\r\nContent-Length: 100000\r\n\r\n",
    ],
)
@pytest.mark.parametrize("then", [b"", b"x"])
def test_who_drips_or_is_silent_costs_the_limit(sent: bytes, then: bytes) -> None:
    """A byte now and then keeps no exchange open, wherever it comes; nor does none."""
    began = time.monotonic()
    with host(sent, then=then) as (url, _), Asker(0.5, 10**6) as asker, pytest.raises(NoAnswer):
        asker.ask("GET", url)
    assert time.monotonic() - began < HANG_S


def test_each_exchange_has_the_limit_to_itself() -> None:
    """A client that was idle for longer than its limit asks again like a new one."""
    with host(reply(b"x")) as (url, _), Asker(20, 99) as asker:
        for _ in range(2):
            assert asker.ask("GET", url).body == b"x"
            asker._backend.until = time.monotonic() - 1


def test_an_answer_too_large_is_an_error_and_of_an_error_the_beginning_is_read() -> None:
    """What is cut off is not taken for whole; a long page of refusal still says its status."""
    with host(reply(bytes(100))) as (url, _), Asker(20, 99) as asker, pytest.raises(ServiceError, match="too large"):
        asker.ask("GET", url)
    with host(reply(bytes(100), "503 Busy")) as (url, _), Asker(20, 99) as asker:
        answer = asker.ask("GET", url)
    assert (answer.status, answer.body) == (503, bytes(99))


def test_nothing_is_unpacked() -> None:
    """A coded answer, for which nobody asked, is refused."""
    packed = reply(gzip.compress(bytes(10**6)), more="Content-Encoding: gzip\r\n")
    with host(packed) as (url, _), Asker(20, 10**7) as asker, pytest.raises(ServiceError, match="packed"):
        asker.ask("GET", url)


@pytest.mark.parametrize("url", ["http://127.0.0.1:1", "ftp://127.0.0.1/x", "nowhere", "http://[", "http://a:b/"])
def test_an_address_where_nobody_is_or_that_is_none(url: str) -> None:
    """It is our error, whatever the address is."""
    with Asker(20, 99) as asker, pytest.raises(ServiceError):
        asker.ask("GET", url)


def test_proxies_are_asked_only_where_that_is_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    """By whole address where it is, with name and password; and loopback never."""
    with host(reply(b"via")) as (url, asked):
        monkeypatch.setenv("http_proxy", url.replace("http://", "http://u:p%3Aw@"))
        with Asker(20, 99, proxied=True) as asker:
            assert asker.ask("GET", f"http://{HOST}/x").body == b"via"
            assert asker.ask("GET", f"{url}/straight").body == b"via"
        with Asker(20, 99) as asker, pytest.raises(NoAnswer):
            asker.ask("GET", f"http://{HOST}/x")
        monkeypatch.setenv("http_proxy", "socks5://127.0.0.1:1")
        with Asker(20, 99, proxied=True) as asker, pytest.raises(UsageError, match="proxy address"):
            asker.ask("GET", f"http://{HOST}/x")
    assert [head.split(b"\r\n")[0] for head in asked] == [
        f"GET http://{HOST}/x HTTP/1.1".encode(),
        b"GET /straight HTTP/1.1",
    ]
    assert b"Proxy-Authorization: Basic dTpwOnc=\r\n" in asked[0]
    assert b"Authorization" not in asked[1]


def test_certificates_are_checked_through_a_proxy_and_without(monkeypatch, tmp_path) -> None:
    """A host of https is believed under a root that is known, and under its own name only."""
    name = "head/" + "0" * 64
    with serving_tls(tmp_path, tmp_path) as target, proxied(target) as running:
        monkeypatch.setenv("https_proxy", running.url)
        straight = f"https://127.0.0.1:{target[1]}"
        with Asker(20, 99, proxied=True) as asker, pytest.raises(NoAnswer, match=r"(?i)certificate"):
            asker.ask("GET", f"https://{HOST}/{name}")
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "cert.pem"))
        with Asker(20, 99, proxied=True) as asker:
            assert asker.ask("GET", f"https://{HOST}/{name}").status == 404  # an empty mirror
            assert asker.ask("GET", f"{straight}/{name}").status == 404
            with pytest.raises(NoAnswer, match=r"(?i)certificate"):
                asker.ask("GET", f"https://other.test/{name}")
    assert {line.split(" HTTP/")[0] for line in running.asked} == {f"CONNECT {HOST}:443", "CONNECT other.test:443"}
    assert b"/head/" not in running.carried


def test_a_pinned_certificate_is_the_only_one(tmp_path) -> None:
    """The pinned one is believed without any root; another is named, and looked at anew when asked again."""
    name = "head/" + "0" * 64
    with serving_tls(tmp_path, tmp_path) as (host, port):
        pin = hashlib.sha256(ssl.PEM_cert_to_DER_cert((tmp_path / "cert.pem").read_text())).hexdigest()
        with Asker(20, 99, pin=pin) as asker:
            assert asker.ask("GET", f"https://{host}:{port}/{name}").status == 404
        with Asker(20, 99, pin="0" * 64) as asker:
            for _ in range(2):
                with pytest.raises(AuthError, match="not the pinned one"):
                    asker.ask("GET", f"https://{host}:{port}/{name}")
            with pytest.raises(NoAnswer):
                asker.ask("GET", "https://127.0.0.1:1/")


def test_no_root_certificates_are_read_where_nothing_goes_over_tls(monkeypatch, tmp_path) -> None:
    """Reading them takes longer than asking: not for a market on loopback, nor for anybody on plain HTTP."""

    def unwanted(*_: object, **__: object) -> None:
        raise AssertionError("root certificates were read")

    monkeypatch.setattr("ssl.create_default_context", unwanted)
    monkeypatch.setattr("ssl.SSLContext.load_verify_locations", unwanted)
    monkeypatch.setattr("httpcore2.default_ssl_context", unwanted)
    with serving(tmp_path) as url, Asker(20, 99) as asker, Connection(url) as connection:
        assert asker.ask("GET", f"{url}/none").status == 404
        assert not connection.has("/none")
    with pytest.raises(AssertionError, match="were read"), Asker(20, 99) as asker:
        asker.ask("GET", "https://127.0.0.1:1")


def test_every_client_says_who_asks() -> None:
    """Servers can tell our clients by name and version."""
    with host(reply(b"{}")) as (url, asked), Asker(20, 99) as asker, Connection(url) as connection:
        asker.ask("GET", url)
        connection.get_bytes("/x")
    assert all(f"User-Agent: {http.HEADERS['User-Agent']}\r\n".encode() in head for head in asked)
    assert len(asked) == 2
