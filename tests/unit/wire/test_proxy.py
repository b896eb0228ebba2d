"""Which host goes through which proxy, and which proxies are refused."""

from __future__ import annotations

import pytest

from stannary.errors import UsageError
from stannary.wire import proxy


@pytest.fixture(autouse=True)
def clean(monkeypatch):
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


def test_loopback_and_exempted_hosts_go_straight(monkeypatch):
    """Loopback never goes through a proxy, nor what no_proxy names."""
    monkeypatch.setenv("http_proxy", "http://proxy.test:3128")
    monkeypatch.setenv("no_proxy", "inside.test")
    for host in ("127.0.0.1", "127.9.9.9", "::1", "localhost", "a.localhost", "inside.test", "b.inside.test"):
        assert proxy.find("http", host) is None, host
    assert proxy.find("http", "outside.test") == proxy.Proxy("proxy.test", 3128)
    assert proxy.find("https", "outside.test") is None


@pytest.mark.parametrize("bad", ["socks5://h:1", "https://h:1", "http://h:port", "http://:1", "ftp://h"])
def test_proxy_of_another_kind_is_refused(bad):
    """What is no HTTP proxy is named, never passed over and gone around."""
    with pytest.raises(UsageError, match="proxy address"):
        proxy.parse(bad)


def test_password_is_not_shown():
    """A proxy's representation keeps its password."""
    assert "dTpw" not in repr(proxy.parse("http://u:p@h:1"))
