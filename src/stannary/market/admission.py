"""Orders coming in: quotes, and jobs accepted once, with their money held.

Rules:
- The envelope must be signed by the buyer key inside it, and that key must be the one that signed the
  buyer's jobs before; the spec must be canonical, for this market, with all its blobs stored.
- Escrow is the worst case: all work at the dearest eligible ask, every task audited twice. A budget or
  deposit below it is refused with the amount that is needed.
- A job is acknowledged after its transaction is durable. The same key and body get the same answer.
"""

from __future__ import annotations

from sqlalchemy.engine import Connection

from stannary.errors import AuthError, ConflictError, FormatError, NotFound, UsageError
from stannary.formats import beacon, canonical, digest, dsse, ids, jobspec, statement
from stannary.formats.jobspec import JobSpec
from stannary.formats.predicates import Credential, Job
from stannary.market.engine import placing
from stannary.market.engine.frame import JobFrame
from stannary.market.engine.loop import Engines
from stannary.market.exchange import Exchange
from stannary.market.journal import leaf_of
from stannary.market.presence import Presence
from stannary.place.offers import Offer
from stannary.store import blobs, envelopes, jobs, nodes
from stannary.store.jobs import Submission, Submitted
from stannary.verify import settlement, soundness
from stannary.wire import buyer as wire
from stannary.wire import errors as wire_errors
from stannary.wire import rfc3339

MAX_KEY_CHARS = 255
MAX_CLOCK_SKEW_S = 300
SPARE_VALUES = 16  # beacon values beyond one a task, for what is done again


def quote(exchange: Exchange, connection: Connection, members: dict[str, object]) -> wire.Quote:
    """Return what a spec would cost at worst, on which nodes, and why not on the others."""
    spec = jobspec.from_canonical(canonical.decode(canonical.encode(members)))  # type: ignore[arg-type]  # checked by encode
    found = _offers(exchange, connection)
    made = placing.estimate(found, spec)
    dearest = max(work.num_steps * work.step_ms for work in placing.works(spec))
    price = settlement.price_of(1, dearest, made.match.highest_ask_usd_micros_per_hour)
    bonds = [_bond(connection, offer.node) for offer in made.match.chosen]
    stake = min(soundness.stake_ppm(bond, price) for bond in bonds)
    return wire.Quote(
        chosen=[offer.node for offer in made.match.chosen],
        rejected=[wire.RejectedNode(node=item.node, reason=item.reason) for item in made.match.rejected],
        offers=[offer_view(exchange, offer) for offer in found],
        work_usd_micros=made.worst.work_usd_micros,
        audit_usd_micros=made.worst.audit_usd_micros,
        escrow_usd_micros=made.worst.escrow_usd_micros,
        audit_ppm=spec.trust.audit_ppm,
        required_ppm=soundness.required_ppm(spec.trust.gain_ppm, spec.trust.detection_ppm, stake),
    )


def offer_view(exchange: Exchange, offer: Offer) -> wire.Offer:
    """Return an offer as buyers see it."""
    state = offer.not_ready.replace(" ", "-") or exchange.roster.state(offer.node)
    return wire.Offer(
        node=offer.node,
        operator=offer.operator,
        jurisdiction=offer.jurisdiction,
        tier=offer.tier.value,
        attestation="software",
        engine_class=offer.engine_class,
        cpus=offer.cpus,
        memory_bytes=offer.memory_bytes,
        ask_usd_micros_per_hour=offer.ask_usd_micros_per_hour,
        state=state,
    )


def offers(exchange: Exchange, connection: Connection) -> list[wire.Offer]:
    """Return every standing offer."""
    return [offer_view(exchange, item) for item in _offers(exchange, connection)]


async def submit(
    exchange: Exchange, engines: Engines, buyer: str, idempotency_key: str, envelope: dsse.Envelope
) -> str:
    """Accept a job; return its id once it is durable.

    Raises:
        FormatError, SpecError, Refuted: not a job signed by its buyer.
        ConflictError: the key stands for another job, or blobs are missing.
        UsageError: budget or deposit too small; the message names the amount needed.
        NoCapacity: no engine class can hold the job.
    """
    if not 1 <= len(idempotency_key) <= MAX_KEY_CHARS or not idempotency_key.isprintable():
        raise UsageError("a job needs an Idempotency-Key", why=f"{len(idempotency_key)} characters, 1 to 255")
    order = statement.read(envelope.payload, "job", Job).predicate
    dsse.verify(envelope, dsse.decode_base64(order.buyer, "buyer key"))
    spec = jobspec.from_canonical(order.spec)
    job_digest = digest.digest(envelope.payload)
    job = ids.job_id(job_digest)
    body = digest.digest(envelope.to_bytes())

    def examine(connection: Connection) -> int | None:
        if _before(connection, job, buyer, idempotency_key, body):
            return None
        _check_order(exchange, order, spec)
        return _price(exchange, connection, buyer, order, spec)

    escrow_usd_micros = await exchange.store.aread(examine)
    if escrow_usd_micros is None:
        return job
    submission = Submission(
        job=job,
        buyer=buyer,
        idempotency_key=idempotency_key,
        payload_digest=body,
        job_digest=job_digest,
        leaf=leaf_of(envelope),
        name=spec.name,
        kind=spec.kind.value,
        verification=spec.trust.verify.value,
        envelope=envelope.to_bytes(),
        spec=canonical.encode(order.spec).decode("utf-8"),
        escrow_usd_micros=escrow_usd_micros,
        submitted_at_ms=exchange.now_ms,
    )
    try:
        answer: Submitted = await exchange.store.awrite_bulk(jobs.submit, submission)
    except UsageError as err:
        raise UsageError(err.what, why=err.why, hint=err.hint, detail=wire_errors.DEPOSIT_TOO_SMALL) from err
    except ConflictError as err:
        raise ConflictError(err.what, why=err.why, hint=err.hint, detail=wire_errors.IDEMPOTENCY_CONFLICT) from err
    if answer.created:
        exchange.buyer_keys.setdefault(buyer, order.buyer)
        engines.add(answer.job, JobFrame(job, job_digest, submission.leaf, buyer, order, spec))
        exchange.journal.wake()
    return answer.job


def _before(connection: Connection, job: str, buyer: str, idempotency_key: str, body: str) -> bool:
    """Tell whether exactly this submit was accepted before; what differs, `jobs.submit` refuses."""
    try:
        row = jobs.get(connection, job)
    except NotFound:
        return False
    return (row.buyer, row.idempotency_key, row.payload_digest) == (buyer, idempotency_key, body)


def _check_order(exchange: Exchange, order: Job, spec: JobSpec) -> None:
    if order.market != exchange.identity.keyid:
        raise FormatError("the job is for another market", why=f"{order.market}, here {exchange.identity.keyid}")
    if abs(rfc3339.parse(order.submitted_at) - exchange.clock.now()) > MAX_CLOCK_SKEW_S:
        raise FormatError("the job was not signed now", why=order.submitted_at, hint="set this machine's clock (NTP)")
    rounds = spec.recipe.rounds if spec.recipe is not None else 1
    units = rounds * (spec.num_nodes + 1)
    if not min(units + SPARE_VALUES, beacon.LENGTH) <= order.beacon_length <= beacon.MAX_LENGTH:
        raise FormatError(
            "the beacon chain is too short or too long", why=f"{order.beacon_length} values, {units} tasks"
        )
    if len(order.beacon_tip) != 64 or len(order.nonce) < 16:
        raise FormatError("the job's beacon tip or nonce is malformed", why=f"{order.beacon_tip:.80}")


def _price(exchange: Exchange, connection: Connection, buyer: str, order: Job, spec: JobSpec) -> int:
    """Check blobs, buyer key and budget against the store; return the escrow."""
    known = exchange.buyer_keys.get(buyer) or _key_of(connection, buyer)
    if known is not None and known != order.buyer:
        raise AuthError(
            "the job is signed by another key than this account's jobs before",
            why=f"account {buyer}",
            hint="use the machine that holds the key, or another account",
        )
    if known is not None:
        exchange.buyer_keys[buyer] = known
    _check_blobs(connection, buyer, spec)
    worst = placing.estimate(_offers(exchange, connection), spec).worst
    if worst.escrow_usd_micros > spec.budget_usd_micros:
        raise UsageError(
            "the budget is too small for the worst case",
            why=f"${spec.budget_usd_micros / 1e6:.6f}, ${worst.escrow_usd_micros / 1e6:.6f} is needed",
            hint=f"set budget: {_dollars_up(worst.escrow_usd_micros)} or more; what is not used comes back",
            detail=wire_errors.BUDGET_TOO_SMALL,
        )
    return worst.escrow_usd_micros


def _check_blobs(connection: Connection, buyer: str, spec: JobSpec) -> None:
    wanted = sorted(
        {*(str(item.digest) for item in spec.workdir), *(str(item.digest) for item in spec.inputs.values())}
    )
    missing = [item for item in wanted if not blobs.may_have(connection, item, [f"buyer:{buyer}"])]
    if missing:
        raise ConflictError(
            f"{len(missing)} blobs of the job are not stored",
            why=", ".join(missing[:3]),
            hint="PUT them to /v1/blobs/{digest} first",
            detail=wire_errors.BLOB_MISSING,
        )


def _key_of(connection: Connection, buyer: str) -> str | None:
    newest = jobs.of_buyer(connection, buyer, limit=1)
    if not newest:
        return None
    payload = dsse.from_bytes(envelopes.get(connection, newest[0].leaf).envelope).payload
    return statement.read(payload, "job", Job).predicate.buyer


def _offers(exchange: Exchange, connection: Connection) -> list[Offer]:
    now = exchange.clock.now()

    def not_ready(node: str) -> str:
        presence = exchange.roster.presence(node, now)
        if presence is not Presence.LIVE:
            return presence.value
        return "draining" if exchange.roster.state(node) == "draining" else ""

    return placing.standing_offers(connection, exchange.now_ms, not_ready)


def _bond(connection: Connection, node: str) -> int:
    held = nodes.credential_of(connection, node)
    if held is None:
        return 0
    payload = dsse.from_bytes(held.envelope).payload
    return statement.read(payload, "credential", Credential).predicate.bond_usd_micros


def _dollars_up(usd_micros: int) -> str:
    return f"{-(-usd_micros // 10_000) / 100:.2f}"
