"""Canaries: a unit of a recipe of this package that the market itself orders of a suspended node (docs/receipt.md R19).

Rules:
1. All of it follows from one secret of 32 bytes, told when it is decided and signed in the order before (its tip): the
   recipe's seed, its corpus, the inner step and the salt of the question, the names of the audits. So no answer can be
   kept from another canary, and the market cannot look for an order that a node would fail.
2. The node is asked like any auditor, by an audit of a unit of a job whose buyer it does not know. What it finds is
   compared with what the market computes with the code of this package; where the market's machine is of another
   engine class, with what nodes of other operators find. One who agrees is enough to pass, two who agree with one
   another and not with it are needed to fail.
3. Insurance pays, at each one's price, by the least work among those who found the same, at most `MOST_USD_MICROS`
   each and never more than it holds: then the last in the log go short. Who is contradicted or silent is not paid.
4. Whatever it comes to, no bond is touched: it says how the node stands, and nothing else.

Market and verifier share these functions.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from stannary.errors import FormatError
from stannary.formats import beacon, digest, ids, jobspec
from stannary.formats.canonical import Json
from stannary.formats.digest import Digest
from stannary.formats.ids import AuditId, JobId, NodeId, TaskId
from stannary.formats.jobspec import JobSpec
from stannary.formats.lean import dataclass
from stannary.formats.predicates import Assignment, CanaryOutcome, SettlementLine
from stannary.formats.quantity import PPM
from stannary.formats.record import to_json
from stannary.formats.training import Training
from stannary.rules import draw, kinds, use
from stannary.rules.reasons import Reason
from stannary.rules.verdict import Opinion, bitwise

NONCE_BYTES = beacon.SEED_BYTES
CHAIN_LENGTH = 1  # nothing is drawn: the tip of the order is the digest of the nonce
RECIPE = "bytegpt"
STEPS = 20
CORPUS_BYTES = 16_384
WALL_S = 120
MEMORY_BYTES = DISK_BYTES = 1024**3
MOST_USD_MICROS = 10_000  # a cent, for seconds of work
MAJORITY = 2  # who contradict a node


@dataclass(frozen=True, slots=True)
class CanaryQuestion:
    """The inner step and the salt that are asked about."""

    step: int
    salt: bytes


@dataclass(frozen=True, slots=True)
class CanaryDue:
    """Who found what counts, and what it costs at most."""

    operator: str
    audit: AuditId
    work_us: int
    ask_usd_micros_per_hour: int


@dataclass(frozen=True, slots=True)
class CanaryFinding:
    """What a canary comes to, and whose answers are paid."""

    outcome: CanaryOutcome
    reason: Reason
    agreeing: tuple[NodeId, ...] = ()


def spec_of(nonce: bytes, code: Digest, root: Digest | None) -> JobSpec:
    """Return the spec of a canary: its seed and its corpus are the nonce's (R19.2).

    Args:
        nonce: the secret.
        code: of the built-in recipe.
        root: the root file system jobs run in here; None where nodes use their own.
    """
    corpus = corpus_of(nonce)
    recipe: dict[str, Json] = {
        "entry": f"builtin:{RECIPE}",
        "rounds": 1,
        "lanes": 1,
        "inner_steps": [STEPS],
        "seed": int.from_bytes(digest.hash_parts("stannary canary seed v1", nonce)[:4], "big"),
        "options": {},
        "training": to_json(Training()),
        "code": code,
    }
    trust: dict[str, Json] = {
        "tier": "T0",
        "policy": "standard" if root is not None else jobspec.LOCAL_POLICY,
        "privacy": "open",
        "verify": "replay",
        "audit_ppm": PPM,
        "gain_ppm": PPM,
        "detection_ppm": PPM,
        "regions": [],
        "exclude_operators": [],
        "max_price_usd_micros_per_hour": PPM * PPM,
        "assurance": "full",
    }
    members: dict[str, Json] = {
        "name": RECIPE,
        "kind": "train",
        "workdir": [],
        "envs": {},
        "num_nodes": 1,
        "resources": {"cpus": 1, "memory_bytes": MEMORY_BYTES, "disk_bytes": DISK_BYTES, "wall_s": WALL_S},
        "inputs": {"corpus": {"digest": digest.digest(corpus), "size_bytes": len(corpus), "source": "corpus"}},
        "outputs": [],
        "trust": trust,
        "budget_usd_micros": MOST_USD_MICROS,
        "recipe": recipe,
        "rules": jobspec.RULES,
    }
    if root is not None:
        members["root"] = root
    return jobspec.from_canonical(members)


def corpus_of(nonce: bytes) -> bytes:
    """Return the bytes a canary trains on (R19.2)."""
    return hashlib.shake_256(digest.hash_parts("stannary canary corpus v1", nonce)).digest(CORPUS_BYTES)


def assignment_of(job: JobId, spec: JobSpec) -> Assignment:
    """Return the unit that is asked about (R19.2)."""
    lane = kinds.of(spec).lane
    task = ids.task_id(lane, job, 0, 0)
    return Assignment(job=job, task=task, kind=lane, round=0, lane=0, num_steps=STEPS, first_step=0, tokens=0)


def question_of(nonce: bytes, task: TaskId) -> CanaryQuestion:
    """Return what is asked about the unit (R19.3)."""
    return CanaryQuestion(*draw.question(nonce, task, STEPS))


def audit_of(nonce: bytes, task: TaskId, node: str) -> AuditId:
    """Return the name of a node's audit (R19.3)."""
    return draw.audit_name(nonce, task, node)


def is_tip(nonce: str, tip: str) -> bool:
    """Tell whether a nonce, in hex, is the one an order was signed with (R19.1)."""
    try:
        return beacon.tip(digest.unhex(nonce), CHAIN_LENGTH) == tip
    except FormatError:
        return False


def finding(node: str, heard: Sequence[Opinion], others: Sequence[str]) -> CanaryFinding | None:
    """Return what answers come to by themselves, None where they leave it open (R19.4).

    Args:
        node: who is suspended.
        heard: what it and others answered, in log order, of each operator one.
        others: nodes of other operators among them.
    """
    mine = next((item for item in heard if item.node == node), None)
    if mine is None:
        return None
    beside = [item for item in heard if item.node in others]
    same = [item for item in beside if bitwise(item, mine)]
    if same:
        agreeing = tuple(NodeId(item.node) for item in heard if item is mine or item in same)
        return CanaryFinding(CanaryOutcome.PASSED, Reason.AGREED, agreeing)
    camp = max(([other for other in beside if bitwise(item, other)] for item in beside), key=len, default=[])
    if len(camp) < MAJORITY:
        return None
    return CanaryFinding(CanaryOutcome.FAILED, Reason.CONTRADICTED, tuple(NodeId(item.node) for item in camp))


def prices(due: Sequence[CanaryDue]) -> list[int]:
    """Return what each of those who found the same is owed, in micro-dollars (R19.5)."""
    least = min((item.work_us for item in due), default=0)
    return [min(use.price_of(least, item.ask_usd_micros_per_hour), MOST_USD_MICROS) for item in due]


def lines(due: Sequence[CanaryDue], from_insurance: int) -> tuple[SettlementLine, ...]:
    """Return how the money of a canary goes (R19.5); the lines sum to nothing.

    Args:
        due: who is paid, in log order.
        from_insurance: what insurance gives: what they are owed, or all it holds.
    """
    owed = prices(due)
    from_insurance = min(from_insurance, sum(owed))
    made = [SettlementLine("insurance", "", "canary", -from_insurance)] if from_insurance else []
    left = from_insurance
    for item, price in zip(due, owed, strict=True):
        paid = min(left, price)
        left -= paid
        made.append(SettlementLine(f"operator:{item.operator}", item.audit, "canary", paid))
    return tuple(made)
