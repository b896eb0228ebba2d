"""The parts of one running market, joined: what every route and worker is handed."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from functools import partial

from stannary import __version__
from stannary.market import terms
from stannary.market.bell import Bell
from stannary.market.blobstore import BlobStore
from stannary.market.clock import RisingClock, now_ms
from stannary.market.directory import Directory
from stannary.market.http.rates import Rates
from stannary.market.identity import Identity
from stannary.market.intake.blobkeeping import Blobkeeping
from stannary.market.intake.challenges import Challenges
from stannary.market.journal import Journal
from stannary.market.offerbook import OfferBook
from stannary.market.presence import Roster
from stannary.market.settings import Settings
from stannary.market.topics import account_topic, node_topic
from stannary.store import nodes
from stannary.store.database import Store
from stannary.tlog.log import Log
from stannary.verify.trust import LOCAL_WITNESS
from stannary.wire.market import MarketInfo


@dataclass(slots=True)
class Exchange:
    """One market."""

    settings: Settings
    clock: RisingClock
    identity: Identity
    store: Store
    log: Log
    journal: Journal
    bell: Bell
    roster: Roster
    blobs: BlobStore
    directory: Directory
    offers: OfferBook
    witness_vkeys: tuple[str, ...]
    url: str = ""
    tls_fingerprint: str = ""
    witness_words: str = LOCAL_WITNESS  # how receipts name the witnesses that are asked
    buyers: dict[str, str] = field(default_factory=dict)  # token hash -> buyer
    token_uses: dict[str, int] = field(default_factory=dict)  # token hash -> last used (ms), since the last write of it
    num_taken_back: int = 0  # tokens and sessions; what was read before the last of them is not remembered
    buyer_keys: dict[str, str] = field(default_factory=dict)  # buyer -> base64 public key, from his first job on
    buyer_blobs: set[tuple[str, str]] = field(default_factory=set)  # (buyer, digest) known to be his
    keyid: str = ""  # of the market's own statements, derived once
    blobkeeping: Blobkeeping = field(init=False)
    challenges: Challenges = field(default_factory=Challenges)
    rates: Rates = field(default_factory=Rates)
    sessions: dict[str, tuple[str, int]] = field(default_factory=dict)  # token hash -> node, expires at (ms)

    def __post_init__(self) -> None:
        """Derive what never changes."""
        self.blobkeeping = Blobkeeping(self.store, self.clock)
        self.keyid = self.identity.keyid

    @property
    def now_ms(self) -> int:
        """Milliseconds since 1970 UTC."""
        return now_ms(self.clock)

    def forget_token(self, hashed: str, buyer: str) -> None:
        """Drop a revoked API token, and wake whoever waits with it."""
        self.num_taken_back += 1
        self.buyers.pop(hashed, None)
        self.bell.ring(account_topic(buyer))

    async def read_nodes(self, names: Collection[str] | None = None) -> None:
        """Read how nodes stand, all of them if none is named; whoever changes one calls this."""
        for name in names if names is not None else [None]:
            self.directory.take(await self.store.aread(partial(nodes.standing, node=name)))

    async def forget_nodes(self, revoked: Collection[str]) -> None:
        """Drop the cached sessions of nodes that were revoked, and wake who waits with one."""
        self.num_taken_back += 1
        for hashed in [key for key, (holder, _) in self.sessions.items() if holder in revoked]:
            del self.sessions[hashed]
        self.bell.ring(*map(node_topic, revoked))
        await self.read_nodes(revoked)

    def info(self) -> MarketInfo:
        """Return what the market says of itself."""
        return MarketInfo(
            name=self.identity.name,
            vkey=self.identity.vkey,
            witness_vkeys=list(self.witness_vkeys),
            profile=self.settings.profile.value,
            version=__version__,
            terms_digest=terms.DIGEST,
            terms=terms.TEXT,
        )
