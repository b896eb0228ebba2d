"""A market beyond loopback: TLS by a certificate that is known by its fingerprint and nothing else."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from tests.integration.market.world import Process

from stannary.agent import settings as node_settings
from stannary.agent.client import MarketClient
from stannary.agent.join import Application, join
from stannary.errors import AuthError, MarketUnreachable, UsageError
from stannary.files import Secret
from stannary.wire import admin, join_token, routes
from stannary.wire.connection import Connection
from stannary.wire.market import MarketInfo
from stannary.wire.node import NodeState

NO_PIN = "0" * 64


@pytest.fixture(scope="module")
def process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    made = Process(tmp_path_factory.mktemp("tls"), host="127.0.0.2")
    made.start()
    yield made
    assert made.stop() == 0


@pytest.fixture
def operator(process: Process) -> Iterator[Connection]:
    token = Secret(Path(process.card["admin_token_file"]).read_text(encoding="ascii").strip())
    with Connection(process.card["url"], token=token, tls_fingerprint=process.card["tls_fingerprint"]) as link:
        yield link


def applied(word: str, directory: Path) -> node_settings.NodeSettings:
    """Join with a token."""
    return join(Application(word, directory, "basalt", "n1", engine_class="cpu-toy"), lambda _: None)


def a_token(operator: Connection) -> str:
    asked = admin.JoinTokenRequest(operator="basalt", bond_usd_micros=0)
    return operator.post(routes.ADMIN_JOIN_TOKENS, asked, admin.JoinTokenAnswer).token


def test_a_node_knows_its_market_by_the_pin(process: Process, operator: Connection, tmp_path: Path) -> None:
    """The join token carries the fingerprint; joining, sessions and heartbeats go over TLS pinned to it."""
    settings = applied(a_token(operator), tmp_path / "node")
    assert settings.url.startswith("https://127.0.0.2:")
    assert settings.tls_fingerprint == process.card["tls_fingerprint"]
    client = MarketClient(settings, node_settings.load_key(tmp_path / "node"), threading.Event(), lambda _: None)
    assert client.heartbeat(NodeState.IDLE, [], "test").drop == []
    client.close()
    held = replace(settings, tls_fingerprint=NO_PIN)
    other = MarketClient(held, node_settings.load_key(tmp_path / "node"), threading.Event(), lambda _: None)
    with pytest.raises(AuthError, match="not the pinned one"):
        other.heartbeat(NodeState.IDLE, [], "test")


def test_a_wrong_fingerprint_in_a_token_joins_nobody(operator: Connection, tmp_path: Path) -> None:
    """A token whose fingerprint is not the server's gives it neither the token's secret nor a join."""
    before = operator.get(routes.ADMIN_NODES, admin.NodeList).nodes
    bent = replace_pin(a_token(operator))
    with pytest.raises(AuthError, match="not the pinned one"):
        applied(bent, tmp_path / "node")
    assert operator.get(routes.ADMIN_NODES, admin.NodeList).nodes == before


def replace_pin(word: str) -> str:
    return join_token.parse(word).model_copy(update={"tls": NO_PIN}).spell()


def test_a_buyer_knows_his_market_by_the_pin(process: Process) -> None:
    """With the pin a buyer is answered; with another, without one, or without TLS, he sends nothing."""
    url, pin = process.card["url"], process.card["tls_fingerprint"]
    with Connection(url, tls_fingerprint=pin) as link:
        assert link.get(routes.MARKET, MarketInfo).vkey == process.card["vkey"]
    with pytest.raises(AuthError, match="not the pinned one"):
        Connection(url, tls_fingerprint=NO_PIN)
    with Connection(url, sleep=lambda _: None) as link, pytest.raises(MarketUnreachable, match="CERTIFICATE_VERIFY"):
        link.get(routes.MARKET, MarketInfo)
    with pytest.raises(UsageError, match="plain HTTP"):
        Connection(url.replace("https", "http"))
