"""Joining a market: one token, one key made here, one credential back.

Rules:
1. The market is known by the token: its address, its key, its certificate. A market with another key
   than the token's is refused before anything is said; on plain HTTP it proves that it holds it.
2. The key is made in the node's directory, 0600, and never leaves it.
3. The join statement names operator, jurisdiction, price, the bond its token shows and the digest of the terms; the
   credential that comes back must be the market's, and say the same (rules/papers.py).
4. Evidence is software here: the output says `NOT hardware-attested`, and so does the credential.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from stannary import files
from stannary.agent import power, roots
from stannary.agent import settings as node_settings
from stannary.agent.client import MarketClient
from stannary.agent.settings import NODE_FILE, NodeSettings
from stannary.errors import ConflictError, Refuted, StannaryError, UsageError
from stannary.formats import bounds, digest, dsse, ids, instants, note, statement
from stannary.formats.predicates import Credential, Join, Member, NodeKind
from stannary.rules import papers, systems
from stannary.run.engine_class import measure_engine_class, measure_in_root
from stannary.run.sandbox import cgroup, choice
from stannary.wire import join_token, message, node, routes
from stannary.wire.connection import Connection
from stannary.wire.market import MarketInfo

Tell = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Application:
    """What an operator says of a node."""

    token: str
    directory: Path
    operator: str
    name: str
    terms: str = ""  # digest of what the operator agreed to; empty: whatever the market has
    jurisdiction: str = "none"
    kind: NodeKind = NodeKind.MACHINE
    members: tuple[Member, ...] = ()
    ask_usd_micros_per_hour: int = 100_000
    engine_class: str = ""  # measured here if empty
    cpus: int = 0  # cores this node sells; all that are usable here if 0
    memory_bytes: int = 0  # memory this node sells; all that is usable here if 0
    kernel: dict[str, str] = field(default_factory=dict)
    find_links: str = ""
    index_url: str = ""
    no_index: bool = False


def join(application: Application, tell: Tell) -> NodeSettings:
    """Join a market and keep everything in the node's directory.

    Raises:
        ConflictError: the directory holds a node already.
        AuthError: the token's market has another key or certificate, or the token is used up.
        Refuted: the credential is not what was applied for.
    """
    token = join_token.parse(application.token)
    if (application.directory / NODE_FILE).exists():
        raise ConflictError(
            "this directory holds a node already", why=str(application.directory), hint="choose another --dir"
        )
    _check_share(application)
    kernel = node_settings.check_kernel(application.kernel)
    files.make_private_dir(application.directory)
    key = node_settings.create_key(application.directory)
    with Connection(token.url, tls_fingerprint=token.tls, vkey=token.vkey) as link:
        market = join_token.market_of(link, token)
        engine_class = _engine_class(application, market, link, tell)
    with Connection(token.url, tls_fingerprint=token.tls, vkey=token.vkey) as link:
        market = join_token.market_of(link, token)
        if market.root is not None and not systems.is_of_root(engine_class, digest.parse(market.root)):
            raise ConflictError("the market has published another root file system meanwhile", hint="join again")
        if application.terms and application.terms != market.terms_digest:
            raise ConflictError(
                "the market has other terms by now",
                why=f"{market.terms_digest}, agreed to were {application.terms}",
                hint="read them and join again: stannary node join -",
            )
        claim = _claim(application, key, market, engine_class)
        bounds.check(claim, "join")  # before the token is spent on what the market refuses
        body = node.JoinRequest(
            token=application.token, envelope=message.EnvelopeBody.of(statement.sign("join", claim, (), key))
        )
        joined = link.post(routes.JOIN, body, node.Joined)
    credential = joined.credential.open()
    checked = check_credential(credential, claim, market.vkey)
    settings = NodeSettings(
        name=application.name,
        node=claim.node,
        url=token.url,
        tls_fingerprint=token.tls,
        market_vkey=token.vkey,
        market_profile=market.profile,
        operator=application.operator,
        engine_class=engine_class,
        kernel=kernel,
        find_links=application.find_links,
        index_url=application.index_url,
        no_index=application.no_index,
        root=market.root or "",
        root_bytes=market.root_bytes,
    )
    node_settings.store(application.directory, settings, credential.to_bytes())
    _say(tell, checked, market)
    return settings


def measure(directory: Path, settings: NodeSettings, tell: Tell) -> Credential | None:
    """Show this node's power right behind its join, if the market wants to see it; return the credential it then has.

    What goes wrong is told: it is asked again when the agent runs.
    """
    client = MarketClient(settings, node_settings.load_key(directory), threading.Event(), tell)
    try:
        with Connection(settings.url, tls_fingerprint=settings.tls_fingerprint, vkey=settings.market_vkey) as link:
            is_graded = link.get(routes.MARKET, MarketInfo).grades
        test = client.next_test() if is_graded else None
        if test is None:
            return None
        return power.show(directory, test, client, choice.choose(settings.market_profile, tell), tell)
    except StannaryError as err:
        tell(f"the test of this node's power came to nothing, it is asked again: {err}")
        return None
    finally:
        client.close()


def _engine_class(application: Application, market: MarketInfo, link: Connection, tell: Tell) -> str:
    """Return what decides the bits of this node's work: measured in the root file system that the market publishes,
    which is fetched for it, or of this machine's own system where it publishes none."""
    if market.root is None:
        return application.engine_class or measure_engine_class(application.kernel)
    named = digest.parse(market.root)
    place = roots.bring(named, market.root_bytes, link, tell)
    if systems.is_of_root(application.engine_class, named):
        return application.engine_class
    return measure_in_root(place, named, application.kernel, choice.choose(market.profile, tell))


def _check_share(application: Application) -> None:
    usable, usable_bytes = cgroup.usable_cpus(), cgroup.usable_memory_bytes()
    if application.cpus > usable:
        raise UsageError(
            "this machine has fewer cores",
            why=f"{application.cpus} offered, {usable} usable here (affinity and control group counted)",
            hint=f"--cpus {usable}, or leave it out",
        )
    if application.memory_bytes > usable_bytes:
        raise UsageError(
            "this machine has less memory",
            why=f"{application.memory_bytes:,} bytes offered, {usable_bytes:,} usable here (control group counted)",
            hint=f"--memory-bytes {usable_bytes}, or leave it out",
        )


def check_credential(envelope: dsse.Envelope, claim: Join, market_vkey: str) -> Credential:
    """Return a credential that is the market's and says what was applied for.

    Raises:
        Refuted: another signer, or any member that the node did not sign so; the bond is one.
    """
    public = note.parse_vkey(market_vkey).public
    credential = statement.open_envelope(envelope, "credential", Credential, public).predicate
    for name in papers.differences(credential, claim, bond=True):
        raise Refuted(
            "the credential is not what was applied for",
            why=f"{name}: {getattr(credential, name)!r:.80}, applied for {getattr(claim, name)!r:.80}",
        )
    return credential


def _claim(application: Application, key: Ed25519PrivateKey, market: MarketInfo, engine_class: str) -> Join:
    public = dsse.public_bytes(key)
    return Join(
        node=ids.node_id(public),
        key=dsse.encode_base64(public),
        operator=application.operator,
        jurisdiction=application.jurisdiction,
        terms=digest.parse(market.terms_digest),
        kind=application.kind,
        members=application.members,
        engine_class=engine_class,
        cpus=application.cpus or cgroup.usable_cpus(),
        memory_bytes=application.memory_bytes or cgroup.usable_memory_bytes(),
        ask_usd_micros_per_hour=application.ask_usd_micros_per_hour,
        token=join_token.token_digest(application.token),
        joined_at=instants.spell(time.time()),
        bond_usd_micros=join_token.parse(application.token).bond_usd_micros,
    )


def _say(tell: Tell, credential: Credential, market: MarketInfo) -> None:
    attested = "NOT hardware-attested" if credential.attestation == "software" else credential.attestation.value
    tell(f"joined {market.name} as {credential.operator}: node {credential.node}, tier {credential.tier}, {attested}")
    tell(f"  terms {credential.terms}")
    tell(f"  engine class {credential.engine_class}; credential until {credential.expires_at}; no inbound port")
