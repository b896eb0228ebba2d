"""trust.toml on disk: the pinned keys every verification starts from.

What the content means is verify/trust.py; here it is only found, read and replaced.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from stannary import files
from stannary.errors import FormatError
from stannary.verify import trust
from stannary.verify.trust import TrustedMarket, TrustStore

TRUST_FILE = "trust.toml"
LOCK_FILE = ".trust.lock"


def path() -> Path:
    """Return where trust.toml lies."""
    return files.config_dir() / TRUST_FILE


def load() -> TrustStore:
    """Read the pinned keys; without a file nothing is trusted."""
    try:
        return trust.parse(path().read_text("utf-8"))
    except FileNotFoundError:
        return TrustStore()
    except UnicodeDecodeError as err:
        raise FormatError("trust store is not UTF-8", why=f"{path()}: {err}") from err


def pin(market: TrustedMarket) -> TrustStore:
    """Add a market to the pinned ones; UsageError if its name is pinned with another key."""
    return _change(lambda store: store.with_market(market))


def forget(name: str) -> TrustStore:
    """Take the market of this name out of the pinned ones."""
    return _change(lambda store: store.without(name))


def _change(change: Callable[[TrustStore], TrustStore]) -> TrustStore:
    """Change trust.toml, beside other commands; what says already what it should is not written (a read-only home)."""
    known = load()
    if change(known) == known:
        return known
    with files.locked(path().with_name(LOCK_FILE)):
        store = change(load())
        save(store)
    return store


def save(store: TrustStore) -> None:
    """Replace trust.toml."""
    files.replace(path(), trust.serialise(store).encode())
