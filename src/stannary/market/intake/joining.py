"""How a node gets in: join token, join statement, credential, sessions.

Rules:
- The token says for which operator; the statement, signed by the node's key, says the rest and names
  the token's digest. Both must agree. Under software evidence the tier is T0, and only a market of
  profile `local` lists T0 nodes.
- The same join sent again gets the same credential: the answer may have been lost.
- A node that joins again keeps what open jobs state of it (engine class, jurisdiction), and its ask does not rise: a
  class that changes under work would refute the receipts of everybody in it, and a unit is paid by the lowest ask in
  force since its job was placed (rules/papers.py). Operator and bond are kept for ever.
- The bond of a credential is the one the node signs and the market's ledger holds; a join of before, which names
  none, has a bond that counts under rules 2 alone.
- A join is used once: a credential never goes back behind what its node said last.
- Its power is measured behind the join (grading.py); what was measured before stays in the new credential.
- A session begins with a nonce that proves itself (challenges.py): what strangers ask for costs no row. It is spent
  by the first answer that is signed by the node's key.
"""

from __future__ import annotations

import secrets
from typing import Any

from cryptography.exceptions import InvalidSignature
from sqlalchemy.engine import Connection

from stannary.errors import AuthError, BelowPolicy, ConflictError, FormatError, NotFound
from stannary.formats import bounds, dsse, ed25519, ids, instants, predicates, statement
from stannary.formats.digest import Digest
from stannary.formats.predicates import Attestation, Credential, Join, Tier
from stannary.market import clock, terms
from stannary.market.exchange import Exchange
from stannary.market.http import access
from stannary.market.journal import leaf_of
from stannary.market.settings import MarketProfile
from stannary.market.topics import WORK
from stannary.settle import escrow
from stannary.store import accounts, envelopes, ledger, nodes
from stannary.store.nodes import CredentialRow, NodeRow
from stannary.wire import errors as wire_errors
from stannary.wire import join_token
from stannary.wire import node as wire
from stannary.wire.limits import SESSION_TTL_S
from stannary.wire.message import EnvelopeBody

MAX_NAMED = 3  # of jobs that stand against a change
ANEW = "stannary node join - with a new directory: a new key, a new offer"
EAR_NONE = "none"  # draft-ietf-rats-ear: software evidence affirms nothing


async def join(exchange: Exchange, asked: wire.JoinRequest) -> wire.Joined:
    """Let a node in and give it its credential.

    Raises:
        AuthError: the token is not valid, or not of this statement.
        BelowPolicy: this market lists no T0 nodes.
        Refuted, FormatError: the statement is not signed by its own key, or does not fit.
    """
    envelope = asked.envelope.open()
    made = _read(exchange, envelope, asked.token)
    if exchange.settings.profile is not MarketProfile.LOCAL:
        raise BelowPolicy(
            "this market lists no node below policy standard",
            why=f"software evidence is tier T0, and the market's profile is {exchange.settings.profile}",
            hint="join a market of profile local, or bring hardware evidence (a later release)",
        )
    leaf = leaf_of(envelope)

    def write(connection: Connection) -> Digest:
        known = _known(connection, made.node, leaf)
        if known is not None:
            return known
        grant = accounts.use_join_token(connection, asked.token, now_ms=exchange.now_ms)
        if grant.operator != made.operator:
            raise AuthError("the join token is of another operator", why=f"{made.operator}, not {grant.operator}")
        return _admit(exchange, connection, (made, envelope, leaf), grant.bond_usd_micros)

    credential = await exchange.store.awrite(write)
    await exchange.read_nodes([made.node])
    for item in (leaf, credential):
        await exchange.journal.logged(item)
    kept = await exchange.store.aread(lambda c: envelopes.get(c, credential))
    exchange.bell.ring(WORK)
    return wire.Joined(
        node=made.node, credential=EnvelopeBody.of(dsse.from_bytes(kept.envelope)), market=exchange.info()
    )


async def challenge(exchange: Exchange, node: str) -> wire.Challenge:
    """Give a node a nonce to sign; nothing is kept of it.

    Raises:
        NotFound: nobody of that name ever joined; `node-unknown` tells the agent to stop asking.
    """
    try:
        await exchange.store.aread(lambda c: nodes.get(c, node))
    except NotFound as err:
        raise NotFound(
            "this market knows no such node",
            why=node,
            hint="stannary node join - with a new directory",
            detail=wire_errors.NODE_UNKNOWN,
        ) from err
    nonce, expires_at_ms = exchange.challenges.give(node, exchange.now_ms)
    return wire.Challenge(nonce=nonce, expires_at=instants.spell(expires_at_ms / 1000))


async def open_session(exchange: Exchange, asked: wire.SessionRequest) -> wire.Session:
    """Open a session for whoever signed the nonce with the node's key.

    Raises:
        AuthError: the nonce is spent, expired or another node's, the signature does not hold, or the node was
            revoked (`node-revoked`: said to nobody but the holder of its key).
        NotFound: no such node.
    """
    now_ms = exchange.now_ms
    expires_at_ms = exchange.challenges.check(asked.nonce, asked.node, now_ms)
    row = await exchange.store.aread(lambda c: nodes.get(c, asked.node))
    signed = wire.session_message(exchange.identity.vkey, asked.nonce)
    try:
        key = ed25519.load(dsse.decode_base64(row.key, "node key"))
        key.verify(dsse.decode_base64(asked.signature, "signature"), signed)
    except InvalidSignature as err:
        raise AuthError("the session signature does not hold", why=f"not by the key of {asked.node}") from err
    if row.revoked_at_ms is not None:
        raise AuthError(
            "this node was revoked",
            why=f"{asked.node}: {row.revoked_reason}",
            hint="ask the market's operator",
            detail=wire_errors.NODE_REVOKED,
        )
    token, ends_at_ms = "sts_" + secrets.token_urlsafe(32), now_ms + 1000 * SESSION_TTL_S

    def write(connection: Connection) -> None:
        nodes.spend_challenge(connection, asked.nonce, asked.node, now_ms=now_ms, expires_at_ms=expires_at_ms)
        nodes.add_session(connection, token, asked.node, now_ms=now_ms, expires_at_ms=ends_at_ms)

    await exchange.store.awrite(write)
    access.remember_session(exchange, token, asked.node, ends_at_ms)
    exchange.roster.beat(asked.node, "idle", exchange.clock.steady())
    return wire.Session(token=token, expires_at=instants.spell(ends_at_ms / 1000))


def _read(exchange: Exchange, envelope: dsse.Envelope, token: str) -> Join:
    read = statement.read(envelope.payload, "join", Join)
    claimed = read.predicate
    if read.subjects:
        raise FormatError("a join has no subjects", why=f"{len(read.subjects)} subjects", detail="subject")
    bounds.check(claimed, "join")
    key = dsse.decode_base64(claimed.key, "node key")
    dsse.verify(envelope, key)
    expected = {
        "node": (claimed.node, ids.node_id(key)),
        "terms": (claimed.terms, terms.DIGEST),
    }
    for name, (observed, wanted) in expected.items():
        if observed != wanted:
            raise FormatError(f"the join statement's {name} is wrong", why=f"{observed}, expected {wanted}")
    if not token.isascii() or claimed.token != join_token.token_digest(token):
        raise AuthError("the join statement was made for another token")
    clock.check_signed_now(claimed.joined_at, exchange.clock.now())
    return claimed


def _known(connection: Connection, node: str, leaf: str) -> Digest | None:
    try:
        row = nodes.get(connection, node)
    except NotFound:
        return None
    held = nodes.credential_of(connection, node)
    return Digest(held.leaf) if row.join_leaf == leaf and held is not None else None


def _admit(
    exchange: Exchange, connection: Connection, joined: tuple[Join, dsse.Envelope, Digest], bond_usd_micros: int
) -> Digest:
    made, envelope, leaf = joined
    now_ms = exchange.now_ms
    expires_at_ms = now_ms + int(1000 * exchange.settings.credential_ttl_s)
    if made.bond_usd_micros not in (None, bond_usd_micros):
        why = f"{made.bond_usd_micros} micro-dollars signed, {bond_usd_micros} posted for this token"
        raise FormatError("the join states another bond", why=why, detail="bond_usd_micros")
    _check_unchanged(connection, made, leaf, bond_usd_micros)
    nodes.add(connection, _row(made, leaf, now_ms))
    if bond_usd_micros:
        ledger.post(connection, escrow.post_bond(made.node, made.operator, bond_usd_micros), at_ms=now_ms)
    credential = Credential(
        node=made.node,
        key=made.key,
        operator=made.operator,
        jurisdiction=made.jurisdiction,
        terms=made.terms,
        kind=made.kind,
        members=tuple(predicates.Member(item.name, Tier.T0) for item in made.members),
        tier=Tier.T0,
        attestation=Attestation.SOFTWARE,
        ear_status=EAR_NONE,
        engine_class=made.engine_class,
        cpus=made.cpus,
        memory_bytes=made.memory_bytes,
        ask_usd_micros_per_hour=made.ask_usd_micros_per_hour,
        bond_usd_micros=bond_usd_micros,
        join=leaf,
        issued_at=instants.spell(now_ms / 1000),
        expires_at=instants.spell(expires_at_ms / 1000),
        **_tests_of(nodes.credential_of(connection, made.node)),
    )
    signed = exchange.journal.sign("credential", credential)
    issued = leaf_of(signed)
    envelopes.add_many(
        connection, [exchange.journal.incoming(envelope, "join"), exchange.journal.incoming(signed, "credential")]
    )
    nodes.add_credential(connection, CredentialRow(issued, made.node, signed.to_bytes(), now_ms, expires_at_ms))
    return issued


def _check_unchanged(connection: Connection, made: Join, leaf: str, bond_usd_micros: int) -> None:
    """Refuse what a node may not change by joining again: never, or while jobs are open that state it.

    Raises:
        ConflictError: it says what, and which jobs must end before it may.
    """
    try:
        known = nodes.get(connection, made.node)
        held = nodes.credential_of(connection, made.node)
    except NotFound:
        return
    if envelopes.some(connection, [leaf]):
        raise ConflictError("this join was used before", why=f"{made.node} has joined again since", hint=ANEW)
    posted = _bond_of(held) if held is not None else bond_usd_micros
    if posted != bond_usd_micros:
        why = f"{posted} micro-dollars posted, {bond_usd_micros} for this token"
        raise ConflictError("a node keeps the bond it posted", why=why, hint=ANEW)
    changed = [
        f"{name} {getattr(known, name)} to {getattr(made, name)}"
        for name in ("engine_class", "jurisdiction")
        if getattr(known, name) != getattr(made, name)
    ]
    if made.ask_usd_micros_per_hour > known.ask_usd_micros_per_hour:
        rise = f"{known.ask_usd_micros_per_hour} to {made.ask_usd_micros_per_hour}"
        changed.append(f"ask_usd_micros_per_hour {rise}: it may fall")
    classes = [known.engine_class, made.engine_class]
    engaging = nodes.engaging(connection, classes, limit=MAX_NAMED + 1) if changed else []
    if engaging:
        named = ", ".join(engaging[:MAX_NAMED]) + (" and others" if len(engaging) > MAX_NAMED else "")
        raise ConflictError(
            "a node's offer does not change while jobs of its engine class are open",
            why=f"{made.node}: {', '.join(changed)}",
            hint=f"when these have ended: {named}. Or at once, {ANEW}",
        )


def _tests_of(held: CredentialRow | None) -> dict[str, Any]:
    """Return what a new credential says of a node's power: what the last one did (rules/grade.py rule 3)."""
    if held is None:
        return {}
    said = statement.read(dsse.from_bytes(held.envelope).payload, "credential", Credential).predicate
    return {name: getattr(said, name) for name in ("grade_ppm", "best_grade_ppm", "tests")}


def _bond_of(held: CredentialRow) -> int:
    payload = dsse.from_bytes(held.envelope).payload
    return statement.read(payload, "credential", Credential).predicate.bond_usd_micros


def _row(made: Join, leaf: str, now_ms: int) -> NodeRow:
    return NodeRow(
        node=made.node,
        key=made.key,
        operator=made.operator,
        kind=made.kind,
        jurisdiction=made.jurisdiction,
        terms=made.terms,
        tier=Tier.T0,
        engine_class=made.engine_class,
        cpus=made.cpus,
        memory_bytes=made.memory_bytes,
        ask_usd_micros_per_hour=made.ask_usd_micros_per_hour,
        join_leaf=leaf,
        joined_at_ms=now_ms,
    )
