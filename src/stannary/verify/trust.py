"""The pinned store: which markets' logs and which witnesses are trusted. The only source of trust in a receipt.

    [[market]]
    name = "local.market"
    vkey = "local.market+b21f8dbb+AcoD..."
    witnesses = ["local.witness+9f2c2ae5+BPeD..."]
    independent = []             # names of witnesses that are not run by the market

Rules (docs/receipt.md R4.1):
1. A market is found by name *and* key; a log of the same name with another key is unknown.
2. A witness pinned with a market must have cosigned what its log claims, and each that is pinned as independent, unless
   a policy says how many are enough. Who has not is named.
3. Unknown members are refused: a misspelled pin must not silently trust less, or more, than was meant.

Reading and writing the file is left to the caller (cli, sdk).
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterable
from dataclasses import replace

from stannary.errors import FormatError, LimitExceeded, UsageError
from stannary.formats import note
from stannary.formats.dsse import key_id
from stannary.formats.ids import KeyId
from stannary.formats.lean import dataclass
from stannary.formats.note import KeyType

MAX_TRUST_BYTES = 1024 * 1024
LOCAL_WITNESS = "local, not independent"  # what a receipt says where nobody but the market's own witness is asked
_MEMBERS = {"name", "vkey", "witnesses", "independent"}


@dataclass(frozen=True, slots=True)
class TrustedMarket:
    """One market whose log key was pinned, and the witnesses that must have cosigned it."""

    name: str
    vkey: str
    witnesses: tuple[str, ...] = ()
    independent: tuple[str, ...] = ()

    @property
    def public_key(self) -> bytes:
        """Return the raw key that signs log and statements."""
        return note.parse_vkey(self.vkey).public

    @property
    def key_id(self) -> KeyId:
        """Return the DSSE key id of the market's statements."""
        return key_id(self.public_key)

    @property
    def witness_words(self) -> str:
        """Return what the reader's own pins say of the witnesses."""
        return words_of(self.independent)


@dataclass(frozen=True, slots=True)
class TrustStore:
    """All pinned markets."""

    markets: tuple[TrustedMarket, ...] = ()

    def market(self, name: str, key_hash: bytes) -> TrustedMarket | None:
        """Return the pinned market that signs under this name and key hash (rule 1)."""
        for item in self.markets:
            key = note.parse_vkey(item.vkey)
            if key.name == name and key.key_hash == key_hash:
                return item
        return None

    def with_market(self, market: TrustedMarket) -> TrustStore:
        """Return the store with `market` pinned.

        Raises:
            UsageError: the name is pinned with another key; a changed key is a decision, not an update.
        """
        _check_market(market)
        for index, item in enumerate(self.markets):
            if item.name == market.name:
                if item.vkey != market.vkey:
                    raise UsageError(
                        f"another key is pinned for {market.name}",
                        why=f"{item.vkey:.80}",
                        hint=f"if the change is known to be right: stannary trust rm {market.name}",
                    )
                return replace(self, markets=(*self.markets[:index], market, *self.markets[index + 1 :]))
        return replace(self, markets=(*self.markets, market))

    def without(self, name: str) -> TrustStore:
        """Return the store without the market of this name."""
        return replace(self, markets=tuple(item for item in self.markets if item.name != name))


def words_of(names: Iterable[str]) -> str:
    """Return how a receipt names the witnesses that are asked beside the market's own."""
    return ", ".join(sorted(names)) or LOCAL_WITNESS


def names_in(words: str) -> tuple[str, ...]:
    """Return the witnesses a receipt names (`words_of`)."""
    return tuple(words.split(", ")) if words != LOCAL_WITNESS else ()


def pin(vkey: str, witnesses: tuple[str, ...] = (), independent: tuple[str, ...] = ()) -> TrustedMarket:
    """Return a pin made from a market's verifier key and its witnesses' keys."""
    market = TrustedMarket(note.parse_vkey(vkey).name, vkey, witnesses, independent)
    _check_market(market)
    return market


def parse(text: str) -> TrustStore:
    """Read the content of trust.toml.

    Raises:
        FormatError: not TOML, unknown or ill-typed members, keys that do not parse, a name pinned twice.
    """
    if len(text) > MAX_TRUST_BYTES:
        raise LimitExceeded("trust store too large", why=f"{len(text):,} characters, limit {MAX_TRUST_BYTES:,}")
    try:
        members = tomllib.loads(text)
    except tomllib.TOMLDecodeError as err:
        raise FormatError("trust store is not TOML", why=str(err)) from err
    listed = members.get("market", [])
    if set(members) - {"market"} or not isinstance(listed, list):
        raise FormatError("trust store has unknown members", why=", ".join(sorted(members))[:200])
    store = TrustStore(tuple(_read_market(item) for item in listed))
    names = [item.name for item in store.markets]
    if len(set(names)) != len(names):
        raise FormatError("trust store pins a market twice", why=", ".join(sorted(names))[:200])
    return store


def serialise(store: TrustStore) -> str:
    """Return the content of trust.toml."""
    blocks = [
        "[[market]]\n"
        f"name = {json.dumps(item.name)}\n"
        f"vkey = {json.dumps(item.vkey)}\n"
        f"witnesses = {json.dumps(list(item.witnesses))}\n"
        f"independent = {json.dumps(list(item.independent))}\n"
        for item in store.markets
    ]
    return "\n".join(blocks)


def _read_market(value: object) -> TrustedMarket:
    if not isinstance(value, dict) or not {"name", "vkey"} <= set(value) <= _MEMBERS:
        raise FormatError("trusted market has missing or unknown members", why=f"{value!r:.120}")
    name, vkey = value["name"], value["vkey"]
    if not isinstance(name, str) or not isinstance(vkey, str):
        raise FormatError("trusted market is ill-typed", why=f"{value!r:.120}")
    market = TrustedMarket(name, vkey, _texts(value.get("witnesses", [])), _texts(value.get("independent", [])))
    _check_market(market)
    return market


def _texts(value: object) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise FormatError("not a list of strings", why=f"{value!r:.120}")
    return tuple(value)


def _check_market(market: TrustedMarket) -> None:
    key = note.parse_vkey(market.vkey)
    if key.kind is not KeyType.LOG or key.name != market.name:
        raise FormatError("not the log key of this market", why=f"{market.name}: {market.vkey:.80}")
    names = []
    for item in market.witnesses:
        witness = note.parse_vkey(item)
        if witness.kind is not KeyType.WITNESS:
            raise FormatError("not a witness key", why=f"{item:.80}")
        if witness.public == key.public:
            raise FormatError("a log cannot witness itself", why=f"{item:.80}")
        names.append(witness.name)
    if len(set(names)) != len(names) or not set(market.independent) <= set(names):
        raise FormatError("witnesses are not named once each", why=", ".join(names)[:200])
