"""Placing: offers from credentials, the match, its statement; the same for quotes, without writing.

A job is placed once. Who later stands in for a lost node is a lease, not a placement.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, replace

from sqlalchemy.engine import Connection

from stannary.errors import NoCapacity
from stannary.formats import dsse, instants, statement
from stannary.formats.jobspec import JobSpec, Verification
from stannary.formats.predicates import Credential, Placement
from stannary.jobs.states import JobStatus
from stannary.market.engine import leasing
from stannary.market.engine.frame import JobFrame, Outcome, World, asked
from stannary.market.engine.outbox import post
from stannary.market.topics import WORK
from stannary.place import match, offers
from stannary.rules import price
from stannary.rules.price import AUDITS_IN_ESCROW, WorstCase
from stannary.rules.reasons import Reason
from stannary.rules.shape import shape_of
from stannary.store import blobs, jobs, nodes
from stannary.store.transitions import Cause, move_job

WAY = (JobStatus.PLACING, JobStatus.ATTESTING, JobStatus.STARTING, JobStatus.RUNNING)


@dataclass(frozen=True, slots=True)
class Estimate:
    """A match and what the job costs at most on it."""

    match: match.Match
    worst: WorstCase


def standing_offers(connection: Connection, now_ms: int, not_ready: Callable[[str], str]) -> list[offers.Offer]:
    """Return the offers of all nodes with a valid credential."""
    return [
        offers.from_credential(_credential(envelope), not_ready="draining" if draining else not_ready(node))
        for node, draining, envelope in nodes.credentialed(connection, now_ms=now_ms)
    ]


def with_presence(offer: offers.Offer, not_ready: str) -> offers.Offer:
    """Return an offer with what was heard of its node; what the store says of it stands before."""
    return offer if offer.not_ready or not not_ready else replace(offer, not_ready=not_ready)


def estimate(found: list[offers.Offer], spec: JobSpec) -> Estimate:
    """Match a spec and price its worst case.

    Raises:
        NoCapacity: no engine class can hold it.
    """
    return priced(match.match(found, asked(spec)), spec)


def priced(matched: match.Match, spec: JobSpec) -> Estimate:
    """Return a match with the worst case of its job."""
    verified = spec.trust.verify is not Verification.NONE
    ask = matched.highest_ask_usd_micros_per_hour
    return Estimate(matched, price.worst_case(shape_of(spec), ask, verified=verified))


def place(connection: Connection, frame: JobFrame, world: World, outcome: Outcome) -> None:
    """Place a queued job, or leave it queued until there is room for it."""
    row = jobs.get(connection, frame.job)
    found = standing_offers(connection, world.now_ms, lambda node: "" if node in world.live else "not heard from")
    try:
        matched = estimate(found, frame.spec).match
    except NoCapacity as err:
        if world.waited_ms(row.submitted_at_ms) > 1000 * world.settings.timing.placing_s:
            outcome.failure = (Reason.NO_CAPACITY, str(err))
        return
    verified = frame.verification is not Verification.NONE
    work = row.escrow_usd_micros // (1 + AUDITS_IN_ESCROW) if verified else row.escrow_usd_micros
    placement = Placement(
        job=frame.job,
        chosen=tuple(offer.node for offer in matched.chosen),
        rejected=matched.rejected,
        escrow_usd_micros=row.escrow_usd_micros,
        work_usd_micros=work,
        audit_usd_micros=row.escrow_usd_micros - work,
        placed_at=instants.spell(world.now_ms / 1000),
    )
    post(connection, world, "placement", placement, frame.job)
    jobs.place(connection, frame.job, placement.chosen)
    blobs.grant(connection, leasing.manifest_digests(frame), frame.job)
    message = f"placed on {len(placement.chosen)} nodes of class {matched.engine_class}"
    for status in WAY:
        move_job(connection, frame.job, status, Cause(world.now_ms, Reason.PLACED, message))
    outcome.moved = True
    outcome.rings.add(WORK)


@functools.lru_cache(maxsize=65_536)  # of our own signing; read once a node, not once a submit
def _credential(envelope: bytes) -> Credential:
    return statement.read(dsse.from_bytes(envelope).payload, "credential", Credential).predicate
