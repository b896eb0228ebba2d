"""Orders coming in: quotes, and jobs accepted once, with their money held.

Rules:
- The envelope must be signed by the buyer key inside it, and that key must be the one that signed the
  buyer's jobs before; the spec must be canonical, for this market, with all its blobs stored.
- Escrow is the worst case: all work at the dearest eligible ask, every task audited twice. A budget or
  deposit below it is refused with the amount that is needed.
- A job is acknowledged after its transaction is durable. The same key and body get the same answer.
"""

from __future__ import annotations

import asyncio
import math
from dataclasses import dataclass

from sqlalchemy.engine import Connection

from stannary.errors import AuthError, ConflictError, FormatError, NotFound, StannaryError, UsageError
from stannary.formats import beacon, bounds, canonical, digest, dsse, ids, jobspec, receipt, statement
from stannary.formats.jobspec import JobSpec, Verification
from stannary.formats.predicates import Assurance, Job
from stannary.formats.quantity import PPM
from stannary.jobs.course.state import JobOrder, Node
from stannary.market import clock
from stannary.market.engine.loop import Engines
from stannary.market.exchange import Exchange
from stannary.market.http import views
from stannary.market.http.rates import LARGE_BYTES
from stannary.market.journal import leaf_of
from stannary.market.offerbook import Estimate, asked
from stannary.rules import assurance, blame, edition, stake
from stannary.rules.masks import why_not
from stannary.rules.price import dearest_unit, expected_audits, expected_work, rate_of
from stannary.rules.shape import shape_of
from stannary.rules.stake import HELD_UNITS
from stannary.store import blobs, envelopes, jobs
from stannary.store.jobs import Submission, Submitted
from stannary.verify import soundness
from stannary.wire import buyer as wire
from stannary.wire import errors as wire_errors
from stannary.wire.message import Signed

MAX_KEY_CHARS = 255
MAX_KNOWN_BLOBS = 200_000  # pairs of buyer and digest in memory, about 40 MiB


def quote(exchange: Exchange, members: dict[str, object]) -> wire.PriceQuote:
    """Return what a spec would cost at worst, on which nodes, and why not on the others."""
    spec = jobspec.from_canonical(canonical.decode(canonical.encode(members)))  # type: ignore[arg-type]  # checked by encode
    edition.check_new(spec)
    _check_length(spec)
    made = exchange.offers.estimate(spec)
    required = _required_ppm(exchange, spec, made)
    return wire.PriceQuote(
        chosen=[offer.node for offer in made.match.chosen],
        rejected=[wire.RejectedNode(node=item.node, reason=bounds.shown(item.reason)) for item in made.match.rejected],
        offers=offers(exchange),
        work_usd_micros=bounds.COUNT.clamp(made.worst.work_usd_micros),
        audit_usd_micros=bounds.COUNT.clamp(made.worst.audit_usd_micros),
        escrow_usd_micros=bounds.COUNT.clamp(made.worst.escrow_usd_micros),
        audit_ppm=spec.trust.audit_ppm,
        required_ppm=required,
        reveal_s=int(exchange.settings.timing.reveal_s),
        kept_s=int(kept_s) if (kept_s := exchange.settings.retention.ended_s) < math.inf else None,
        words=[_priced(spec, made, word, _least_ppm(spec, word, required)) for word in Assurance],
    )


def _required_ppm(exchange: Exchange, spec: JobSpec, made: Estimate) -> int:
    """Return the rate below which cheating pays, at the least bond and the dearest task of whoever may get work."""
    gain_ppm, detection_ppm = spec.trust.gain_ppm, spec.trust.detection_ppm
    if not blame.convicts(spec):  # a unit with less behind it has a rate of its own (rules/stake.py)
        return soundness.required_ppm(gain_ppm, detection_ppm, HELD_UNITS * PPM)
    wanted = asked(spec)
    dearest = dearest_unit(spec, made.hour_usd_micros)
    listed = [node for node, _ in exchange.offers.standing() if node.engine_class == made.match.engine_class]
    able = [node for node in listed if not why_not(node, wanted)]
    stakes = (blame.at_stake(spec, node.bond_in(spec), dearest) for node in able)
    least = min(soundness.stake_ppm(stake, dearest) for stake in stakes)
    return soundness.required_ppm(gain_ppm, detection_ppm, least)


def _least_ppm(spec: JobSpec, word: Assurance, required_ppm: int) -> int:
    if word is Assurance.SAMPLED:
        return min(required_ppm, PPM)  # where no rate deters, every unit is recomputed
    return assurance.least_ppm(word, shape_of(spec).num_tasks, spec.trust.detection_ppm)


def _priced(spec: JobSpec, made: Estimate, word: Assurance, audit_ppm: int) -> wire.PricedWord:
    shape, chosen = shape_of(spec), made.match.chosen
    is_by_use = edition.of(spec).pays_by_use
    dearest = max(rate_of(item.ask_usd_micros_per_hour, item.grade_ppm if is_by_use else PPM) for item in chosen)
    expected = expected_work(spec, dearest)
    if spec.trust.verify is not Verification.NONE:
        mean_ppm = stake.mean_ppm(spec, shape.num_tasks, audit_ppm, len(chosen))
        expected += expected_audits(spec, mean_ppm, len({offer.operator for offer in chosen}), dearest)
    return wire.PricedWord(
        assurance=word.value,
        audit_ppm=audit_ppm,
        expected_usd_micros=bounds.COUNT.clamp(expected),
        worst_usd_micros=bounds.COUNT.clamp(made.worst.escrow_usd_micros),
    )


def offer_view(exchange: Exchange, offer: Node, not_ready: str) -> wire.Offer:
    """Return an offer as buyers see it; `not_ready` says why its node takes no work now, empty if it does."""
    state = not_ready.replace(" ", "-") or exchange.roster.state(offer.node)
    return wire.Offer(
        node=offer.node,
        operator=bounds.shown(offer.operator),
        jurisdiction=bounds.shown(offer.jurisdiction),
        tier=offer.tier.value,
        attestation="software",
        engine_class=bounds.shown(offer.engine_class),
        cpus=bounds.CPUS.clamp(offer.cpus),
        memory_bytes=bounds.MEMORY_BYTES.clamp(offer.memory_bytes),
        ask_usd_micros_per_hour=bounds.ASK.clamp(offer.ask_usd_micros_per_hour),
        state=state,
        name=exchange.roster.name(offer.node),
    )


def offers(exchange: Exchange) -> list[wire.Offer]:
    """Return every standing offer."""
    return [offer_view(exchange, node, not_ready) for node, not_ready in exchange.offers.standing()]


@dataclass(frozen=True, slots=True)
class AcceptedJob:
    """A durable job; `view` is what there is to say of it, None when it came before and has moved since."""

    job: str
    view: wire.JobView | None


async def submit(exchange: Exchange, engines: Engines, buyer: str, idempotency_key: str, signed: Signed) -> AcceptedJob:
    """Accept a job, once it is durable. Decided from memory: a submit asks the store for nothing it has told before.

    Raises:
        FormatError, SpecError, Refuted: not a job signed by its buyer.
        ConflictError: the key stands for another job, or blobs are missing.
        UsageError: budget or deposit too small; the message names the amount needed.
        NoCapacity: no engine class can hold the job.
    """
    if not 1 <= len(idempotency_key) <= MAX_KEY_CHARS or not idempotency_key.isprintable():
        raise UsageError("a job needs an Idempotency-Key", why=f"{len(idempotency_key)} characters, 1 to 255")
    if len(signed.envelope.payload) > LARGE_BYTES:
        async with exchange.rates.large:
            envelope, order, spec = await asyncio.to_thread(_opened, signed)
    else:
        envelope, order, spec = _opened(signed)
    job_digest = digest.digest(envelope.payload)
    job, written = ids.job_id(job_digest), envelope.to_bytes()
    body = digest.digest(written)
    try:
        _check_order(exchange, order, spec)
        escrow_usd_micros = await _price(exchange, buyer, order, spec)
    except StannaryError:
        # What was accepted once is answered as then, whatever has changed since: clocks, offers, keys.
        if await exchange.store.aread(lambda c: _before(c, job, buyer, idempotency_key, body)):
            return AcceptedJob(job, None)
        raise
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
        envelope=written,
        escrow_usd_micros=escrow_usd_micros,
        submitted_at_ms=exchange.now_ms,
    )
    try:
        answer: Submitted = await exchange.store.awrite_bulk(jobs.submit, submission)
    except UsageError as err:
        raise UsageError(err.what, why=err.why, hint=err.hint, detail=wire_errors.DEPOSIT_TOO_SMALL) from err
    except ConflictError as err:
        raise ConflictError(err.what, why=err.why, hint=err.hint, detail=wire_errors.IDEMPOTENCY_CONFLICT) from err
    if not answer.created:
        return AcceptedJob(answer.job, None)
    exchange.buyer_keys.setdefault(buyer, order.buyer)
    engines.add(answer.job, JobOrder(job, job_digest, submission.leaf, buyer, order, spec, escrow_usd_micros))
    exchange.journal.wake()
    return AcceptedJob(answer.job, views.submitted(submission, spec))


def _opened(signed: Signed) -> tuple[dsse.Envelope, Job, JobSpec]:
    """Read an order and check that its buyer signed it; nothing of the market is asked."""
    envelope = signed.envelope.open()
    order = statement.read(envelope.payload, "job", Job).predicate
    dsse.verify(envelope, dsse.decode_base64(order.buyer, "buyer key"))
    return envelope, order, jobspec.from_canonical(order.spec)


def _before(connection: Connection, job: str, buyer: str, idempotency_key: str, body: str) -> bool:
    """Tell whether exactly this submit was accepted before; what differs, `jobs.submit` refuses."""
    try:
        row = jobs.get(connection, job)
    except NotFound:
        return False
    return (row.buyer, row.idempotency_key, row.payload_digest) == (buyer, idempotency_key, body)


def _check_order(exchange: Exchange, order: Job, spec: JobSpec) -> None:
    bounds.check(order, "job")
    if order.market != exchange.keyid:
        raise FormatError("the job is for another market", why=f"{order.market}, here {exchange.keyid}")
    clock.check_signed_now(order.submitted_at, exchange.clock.now())
    edition.check_new(spec)
    assurance.check_rate(spec)
    _check_root(exchange, spec)
    _check_length(spec)
    shape = shape_of(spec)
    if not shape.least_beacon_values <= order.beacon_length <= beacon.MAX_LENGTH:
        raise FormatError(
            "the beacon chain is too short or too long", why=f"{order.beacon_length} values, {shape.num_units} tasks"
        )


def _check_root(exchange: Exchange, spec: JobSpec) -> None:
    """Refuse a job in another root file system than the one in force."""
    wanted = exchange.root[0] if exchange.root is not None else None
    if spec.root != wanted:
        raise ConflictError(
            "the job names another root file system than this market's",
            why=f"{spec.root or 'none'}, the market's is {wanted or 'none'}",
            hint="make the job anew: the market's is filled in when it is signed",
        )


def _check_length(spec: JobSpec) -> None:
    """Refuse a job of so many tasks that its receipt would be none."""
    shape = shape_of(spec)
    audit_ppm = stake.mean_ppm(spec, shape.num_units, spec.trust.audit_ppm, shape.num_lanes)
    units, expected = shape.num_units, receipt.num_statements(shape.num_rounds, shape.num_units, audit_ppm)
    if expected > receipt.MAX_EVIDENCE:
        raise UsageError(
            "the job's receipt would be longer than any verifier reads",
            why=f"about {expected:,} statements for {units:,} tasks, at most {receipt.MAX_EVIDENCE:,}",
            hint="make several jobs of it: fewer rounds, lanes or audits",
        )


async def _price(exchange: Exchange, buyer: str, order: Job, spec: JobSpec) -> int:
    """Check blobs, buyer key and budget; return the escrow."""
    await _check_key(exchange, buyer, order)
    await _check_blobs(exchange, buyer, spec)
    made = exchange.offers.estimate(spec)
    _check_sampled(exchange, spec, made)
    worst = made.worst
    if worst.escrow_usd_micros > spec.budget_usd_micros:
        raise UsageError(
            "the budget is too small for the worst case",
            why=f"${spec.budget_usd_micros / 1e6:.6f}, ${worst.escrow_usd_micros / 1e6:.6f} is needed",
            hint=f"set budget: {_dollars_up(worst.escrow_usd_micros)} or more; what is not used comes back",
            detail=wire_errors.BUDGET_TOO_SMALL,
        )
    return worst.escrow_usd_micros


def _check_sampled(exchange: Exchange, spec: JobSpec, made: Estimate) -> None:
    """Refuse a rate that is none for its word at the stake of now (rules/assurance.py rule 1)."""
    word = spec.trust.assurance
    if word is not Assurance.SAMPLED or spec.trust.verify is Verification.NONE:
        return
    least = _least_ppm(spec, word, _required_ppm(exchange, spec, made))
    if spec.trust.audit_ppm < least:
        raise assurance.too_low(spec.trust.audit_ppm, word, least)


async def _check_key(exchange: Exchange, buyer: str, order: Job) -> None:
    known = exchange.buyer_keys.get(buyer) or await exchange.store.aread(lambda c: _key_of(c, buyer))
    if known is None:
        return
    if known != order.buyer:
        raise AuthError(
            "the job is signed by another key than this account's jobs before",
            why=f"account {buyer}",
            hint="use the machine that holds the key, or another account",
        )
    exchange.buyer_keys[buyer] = known


async def _check_blobs(exchange: Exchange, buyer: str, spec: JobSpec) -> None:
    wanted = {*(str(item.digest) for item in spec.workdir), *(str(item.digest) for item in spec.inputs.values())}
    unsure = sorted(item for item in wanted if (buyer, item) not in exchange.buyer_blobs)
    if not unsure:
        return

    def look(connection: Connection) -> list[str]:
        doomed = exchange.blobkeeping.doomed  # being cleared away: to be sent again
        return [i for i in unsure if i in doomed or not blobs.may_have(connection, i, [f"buyer:{buyer}"])]

    missing = await exchange.store.aread(look)
    if missing:
        raise ConflictError(
            f"{len(missing)} blobs of the job are not stored",
            why=", ".join(missing[:3]),
            hint="PUT them to /v1/blobs/{digest} first",
            detail=wire_errors.BLOB_MISSING,
        )
    if len(exchange.buyer_blobs) + len(unsure) > MAX_KNOWN_BLOBS:
        exchange.buyer_blobs.clear()
    exchange.buyer_blobs.update((buyer, item) for item in unsure)


def _key_of(connection: Connection, buyer: str) -> str | None:
    newest = jobs.of_buyer(connection, buyer, limit=1)
    if not newest:
        return None
    payload = dsse.from_bytes(envelopes.order_of(connection, newest[0].job)).payload
    return statement.read(payload, "job", Job).predicate.buyer


def _dollars_up(usd_micros: int) -> str:
    return f"{-(-usd_micros // 10_000) / 100:.2f}"
