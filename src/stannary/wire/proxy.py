"""Which proxy a host is reached through, from the variables that other tools read too.

`https_proxy`, `http_proxy` and `no_proxy`, in small letters or capitals (HTTP_PROXY is not read inside a
CGI script, where a visitor sets it). Loopback is never asked of a proxy: it would be the proxy's own.

HTTPS goes through a tunnel (CONNECT), so that the proxy sees a host's name and no byte of the exchange;
plain HTTP is asked of the proxy by whole address (RFC 9112 section 3.2.2). A proxy is believed no more
than a mirror is: what it alters is refused by the reader.
"""

from __future__ import annotations

import base64
import ipaddress
import urllib.parse
import urllib.request
from dataclasses import dataclass, field

from stannary.errors import UsageError

PORTS = {"http": 80, "https": 443}
HINT = "http_proxy=http://HOST:PORT, or no_proxy=HOST to go without"


@dataclass(frozen=True, slots=True)
class Proxy:
    """An HTTP proxy; `authorization` is the value of its header, empty for none."""

    host: str
    port: int
    authorization: str = field(default="", repr=False)
    scheme: str = "http"

    def headers(self) -> list[tuple[str, str]]:
        """Return the headers that a proxy asks for."""
        return [("Proxy-Authorization", self.authorization)] if self.authorization else []


def find(scheme: str, host: str, *, schemes: tuple[str, ...] = ("http",)) -> Proxy | None:
    """Return the proxy for a host, None to go straight.

    Raises:
        UsageError: a variable names something that is no proxy of `schemes`.
    """
    configured = urllib.request.getproxies_environment()
    address = configured.get(scheme) or configured.get("all")
    if not address or _is_loopback(host) or urllib.request.proxy_bypass(host):
        return None
    return parse(address, schemes)


def parse(address: str, schemes: tuple[str, ...] = ("http",)) -> Proxy:
    """Read a proxy's address: `http://[user:password@]host[:port]`, the scheme may be left out."""
    parts = urllib.parse.urlsplit(address if "://" in address else f"http://{address}")
    try:
        port = parts.port or PORTS.get(parts.scheme, 0)
    except ValueError as err:
        raise UsageError("proxy address does not read", why="its port is no number", hint=HINT) from err
    if parts.scheme not in schemes or not parts.hostname:
        raise UsageError("proxy address refused", why=f"{parts.scheme}: only HTTP proxies are known", hint=HINT)
    authorization = ""
    if parts.username is not None:
        user, password = urllib.parse.unquote(parts.username), urllib.parse.unquote(parts.password or "")
        authorization = "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode("ascii")
    return Proxy(parts.hostname, port, authorization, parts.scheme)


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")
