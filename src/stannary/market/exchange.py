"""The parts of one running market, joined: what every route and worker is handed."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from functools import partial

from stannary import __version__
from stannary.formats.digest import Digest
from stannary.jobs.canary import CanaryWord
from stannary.market import terms
from stannary.market.bell import Bell
from stannary.market.blobstore import BlobStore
from stannary.market.clock import RisingClock, now_ms
from stannary.market.directory import Directory
from stannary.market.gradings import Gradings
from stannary.market.http.rates import Rates
from stannary.market.identity import Identity
from stannary.market.intake.blobkeeping import Blobkeeping
from stannary.market.intake.challenges import Challenges
from stannary.market.journal import Journal
from stannary.market.offerbook import OfferBook
from stannary.market.presence import Roster
from stannary.market.settings import Settings
from stannary.market.topics import account_topic, node_topic
from stannary.store import blobs, nodes
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
    root: tuple[Digest, int] | None = None  # the root file system in force and its size
    roots: frozenset[str] = frozenset()  # every one that was ever published: anybody may fetch them
    canary_words: Mapping[str, CanaryWord] = field(default_factory=dict)  # suspended nodes -> how theirs stands
    canary_wishes: set[str] = field(default_factory=set)  # nodes that asked for another
    keyid: str = ""  # of the market's own statements, derived once
    blobkeeping: Blobkeeping = field(init=False)
    challenges: Challenges = field(default_factory=Challenges)
    gradings: Gradings = field(init=False)
    rates: Rates = field(default_factory=Rates)
    sessions: dict[str, tuple[str, int]] = field(default_factory=dict)  # token hash -> node, expires at (ms)

    def __post_init__(self) -> None:
        """Derive what never changes."""
        self.gradings = Gradings(self.settings.grade_every_s)
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

    async def read_root(self) -> None:
        """Read which root file systems are published; whoever publishes one calls this."""
        found, self.roots = await self.store.aread(lambda c: (blobs.root_in_force(c), blobs.roots(c)))
        self.root = (Digest(found[0]), found[1]) if found is not None else None

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
            appeal_s=int(self.settings.timing.appeal_s),
            root=self.root[0] if self.root is not None else None,
            root_bytes=self.root[1] if self.root is not None else 0,
            grades=True if self.settings.grade_every_s > 0 else None,
        )
