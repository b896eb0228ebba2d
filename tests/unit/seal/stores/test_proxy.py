"""Transfers of sealed objects through a proxy that is watched."""

from __future__ import annotations

import contextlib
import datetime
import ipaddress
import select
import socket
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from tests.unit.seal.stores.test_server import serving
from tests.unit.seal.world import Sealed, small_model

from stannary.seal.reader import SealedArtifact
from stannary.seal.stores.http import HttpSource
from stannary.seal.stores.mirrors import Mirrors
from stannary.seal.stores.server import MirrorServer
from stannary.seal.stores.source import SourceFailure

HOST = "mirror.test"  # no name server knows it: only a proxy can lead there


@pytest.fixture(autouse=True)
def clean(monkeypatch):
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


class WatchedProxy:
    """An HTTP proxy that leads every name to one address and remembers what it was asked."""

    def __init__(self, target: tuple[str, int], authorization: str = "") -> None:
        self.asked: list[str] = []
        self.carried = bytearray()
        self._target, self._authorization = target, authorization
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._open: list[socket.socket] = [self._listener]
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        for item in self._open:
            with contextlib.suppress(OSError):
                item.shutdown(socket.SHUT_RDWR)
            item.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                self._open.append(client)
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with contextlib.suppress(OSError, ValueError):  # ValueError: select on what close() has closed
            head = b""
            while b"\r\n\r\n" not in head:
                head += client.recv(4096)
            line = head.split(b"\r\n")[0].decode()
            self.asked.append(line)
            if self._authorization and f"Proxy-Authorization: {self._authorization}".encode() not in head:
                client.sendall(b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n")
                client.close()
                return
            host = socket.create_connection(self._target)
            self._open.append(host)
            if line.startswith("CONNECT "):
                client.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
            else:
                host.sendall(head.replace(f"http://{HOST}".encode(), b"", 1))
            self._relay(client, host)

    def _relay(self, client: socket.socket, host: socket.socket) -> None:
        while True:
            for source in select.select([client, host], [], [])[0]:
                data = source.recv(65536)
                if not data:
                    client.close()
                    host.close()
                    return
                self.carried += data
                (host if source is client else client).sendall(data.replace(f"http://{HOST}".encode(), b""))


@contextlib.contextmanager
def proxied(target: tuple[str, int], authorization: str = "") -> Iterator[WatchedProxy]:
    running = WatchedProxy(target, authorization)
    try:
        yield running
    finally:
        running.close()


def address(url: str) -> tuple[str, int]:
    host, _, port = url.removeprefix("http://").rstrip("/").partition(":")
    return host, int(port)


def opened(model: Sealed, url: str) -> bool:
    """Read the whole artifact from `url` and compare."""
    artifact = SealedArtifact(Mirrors(model.digest, (HttpSource(url),), pause=lambda _: None), model.owner)
    got = bytearray(artifact.manifest.files[0].size)
    artifact.read_range(0, 0, memoryview(got))
    return bytes(got) == small_model()


def test_plain_http_is_asked_of_the_proxy_by_whole_address(model, monkeypatch):
    """A host only the proxy can find is read through it, every request by its whole address."""
    with serving(model.root) as url, proxied(address(url)) as running:
        monkeypatch.setenv("http_proxy", running.url)
        assert opened(model, f"http://{HOST}")
    assert running.asked
    assert all(line.startswith(f"GET http://{HOST}/") for line in running.asked)


def test_https_goes_through_a_tunnel_that_shows_nothing(model, monkeypatch, tmp_path):
    """The proxy sees the host's name in CONNECT and neither a path nor a byte of the exchange."""
    with serving_tls(model.root, tmp_path) as target, proxied(target) as running:
        monkeypatch.setenv("HTTPS_PROXY", running.url)
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "cert.pem"))
        assert opened(model, f"https://{HOST}")
    assert {line.split(" HTTP/")[0] for line in running.asked} == {f"CONNECT {HOST}:443"}
    assert b"/head/" not in running.carried


def test_tunnel_keeps_the_hosts_own_certificate(model, monkeypatch, tmp_path):
    """A proxy that leads to a host with another certificate is not believed."""
    with serving_tls(model.root, tmp_path, name="other.test") as target, proxied(target) as running:
        monkeypatch.setenv("https_proxy", running.url)
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "cert.pem"))
        with pytest.raises(SourceFailure, match="failed"):
            HttpSource(f"https://{HOST}").read("head/x", 100)


def test_name_and_password_of_a_proxy(model, monkeypatch):
    """They are sent to the proxy; without them its refusal is named as its own."""
    expected = "Basic dTpwOnc="  # u, "p:w"
    with serving(model.root) as url, proxied(address(url), expected) as running:
        monkeypatch.setenv("http_proxy", running.url.replace("http://", "http://u:p%3Aw@"))
        assert opened(model, f"http://{HOST}")
        monkeypatch.setenv("http_proxy", running.url)
        with pytest.raises(SourceFailure, match="asks for a name and password"):
            HttpSource(f"http://{HOST}").read("head/x", 100)


@contextlib.contextmanager
def serving_tls(root: Path, folder: Path, name: str = HOST) -> Iterator[tuple[str, int]]:
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    start = datetime.datetime.now(datetime.UTC) - datetime.timedelta(hours=1)
    made = (
        x509.CertificateBuilder().subject_name(subject).issuer_name(subject).public_key(key.public_key())
        .serial_number(1).not_valid_before(start).not_valid_after(start + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName(
            [x509.DNSName(name), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )  # fmt: skip
    pem = folder / "cert.pem"
    form = serialization.PrivateFormat.PKCS8
    pem.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    (folder / "key.pem").write_bytes(key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption()))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem, folder / "key.pem")
    server = MirrorServer(("127.0.0.1", 0), root)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield "127.0.0.1", server.server_address[1]
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
