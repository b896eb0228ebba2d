"""Who stands on the stage: nodes and buyers with fixed keys, what they sign, and how a node departs from honest work.

A node is honest but for its manner: pairs of a pattern and a deed. The pattern is matched against what the node is
about to do, spelled as in the record ("work r0/l1/a0 e0", "audit r0/merge/a0", "reveal run/l0/a0"), the first that
matches counts:

    lies[:WORD]     hands in, or answers, what it did not compute; who lies by the same word tells the same lie
    guesses         answers with the right root and a made-up inner state
    silent          does nothing, and stays
    mute            commits to its work and never opens it
    slow:S          takes S seconds
    talking:S       the same, and reports its progress meanwhile
    back            hands the lease back
    fails:REASON    reports that the task cannot run
    dies            goes away with it
    killed          the market is killed between the log and the record of this statement; the node sends it again
    crawls:S        between the log and the record of this statement S seconds go by, in which all others go on
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from tests.integration.market import toy_work

from stannary.formats import commitments, digest, dsse, ids, instants, predicates, record, statement
from stannary.formats.jobspec import RULES, JobKind, JobSpec, Privacy, RecipeSpec, Resources, Trust, Verification
from stannary.formats.predicates import (
    Answer,
    AnswerCommitment,
    Assignment,
    Assurance,
    Commitment,
    Contribution,
    Join,
    NodeKind,
    Output,
    Reading,
    Role,
    Spent,
    Tier,
    Used,
)
from stannary.formats.workdir import WorkFile
from stannary.market import terms
from stannary.settle import meter
from stannary.wire import join_token, node

ENGINE_CLASS = "cpu-fp32-toy1.0-000000000000"
ENVIRONMENT = digest.digest(b"toy environment")
PROGRAM = b"print('recorded')\n"
WORKDIR = (WorkFile("main.py", 0o644, digest.digest(PROGRAM), len(PROGRAM)),)
BOND = 50_000
WORK_S, ANSWER_S, LINK_S = 5.0, 2.0, 1.0  # what an honest node takes: its work or audit, a question, a way


def derived(*words: object) -> bytes:
    """Return the 32 bytes that stand for chance here: keys, salts, seeds, lies."""
    return hashlib.sha256(" ".join(["recorded", *map(str, words)]).encode()).digest()


def key_of(name: str) -> Ed25519PrivateKey:
    """Return the key of who is called so."""
    return Ed25519PrivateKey.from_private_bytes(derived("key", name))


def short(task: str) -> str:
    """Return a task's name without its job's."""
    return task.partition("/")[2]


def spec(*, nodes: int = 1, run: str = "python main.py", verify: str = "rerun-compare", **changes: Any) -> JobSpec:
    """Return a command job; `changes` are members of JobSpec, of its Trust or of its Resources."""
    return _spec({"kind": JobKind.COMMAND, "num_nodes": nodes, "run": run, "verify": Verification(verify), **changes})


def train(*, rounds: int = 3, lanes: int = 3, verify: str = "replay", **changes: Any) -> JobSpec:
    """Return a train job; `changes` as above, and `is_ours`: of a recipe of the package."""
    is_ours = changes.pop("is_ours", False)
    recipe = RecipeSpec(
        entry="builtin:bytegpt" if is_ours else "main.py:recipe",
        rounds=rounds,
        lanes=lanes,
        inner_steps=(3, 4),
        seed=0,
        code=digest.digest(b"any code: nothing of it is run here") if is_ours else None,
    )
    if is_ours:
        changes["workdir"] = ()
    kind = {"kind": JobKind.TRAIN, "num_nodes": lanes, "recipe": recipe, "verify": Verification(verify)}
    return _spec({**kind, **changes})


def before(new: JobSpec, step_ms: int = 2000) -> JobSpec:
    """Return a job as an earlier release asked for it: under rules 2, every program its buyer's own."""
    recipe = new.recipe
    if recipe is not None:
        recipe = replace(recipe, entry="main.py:recipe", code=None, step_ms=step_ms)
    trust = replace(new.trust, assurance=None)
    return replace(new, recipe=recipe, workdir=WORKDIR, trust=trust, rules=None)


def _spec(changes: dict[str, Any]) -> JobSpec:
    trust: dict[str, Any] = {
        "tier": Tier.T0,
        "policy": "local",
        "privacy": Privacy.OPEN,
        "verify": Verification.REPLAY,
        "audit_ppm": 1_000_000,
        "gain_ppm": 600_000,
        "detection_ppm": 990_000,
        "regions": (),
        "exclude_operators": (),
        "max_price_usd_micros_per_hour": 500_000,
        "assurance": Assurance.FULL,
    }
    resources: dict[str, Any] = {"cpus": 1, "memory_bytes": 2**28, "disk_bytes": 2**28, "wall_s": 60}
    members: dict[str, Any] = {
        "name": "recorded",
        "workdir": WORKDIR,
        "envs": {},
        "inputs": {},
        "outputs": (),
        "budget_usd_micros": 10_000_000,
        "rules": RULES,
    }
    for name, value in changes.items():
        next((group for group in (trust, resources) if name in group), members)[name] = value
    return JobSpec(**members, trust=Trust(**trust), resources=Resources(**resources))


@dataclass(frozen=True, slots=True)
class Node:
    """One node of one operator, as a run describes it."""

    name: str
    manner: tuple[tuple[str, str], ...] = ()
    operator: str = ""  # its own name where none is given
    ask: int = 100_000
    bond: int = BOND
    engine_class: str = ENGINE_CLASS
    jurisdiction: str = "none"

    def deed(self, doing: str) -> tuple[str, str]:
        """Return what it does instead of what it is about to do, and the deed's word; empty for what it should."""
        for pattern, deed in self.manner:
            if fnmatchcase(doing, pattern):
                name, _, word = deed.partition(":")
                return name, word
        return "", ""


@dataclass(slots=True)
class Opening:
    """What opens an answer commitment."""

    role: Role
    blind: str
    answer: str
    outputs: tuple[Output, ...]


@dataclass(slots=True)
class Player:
    """A node on the stage: its key, what it holds, what it computed."""

    cast: Node
    key: Ed25519PrivateKey = field(init=False)
    id: ids.NodeId = field(init=False)
    present: bool = True
    state: str = "idle"
    served: set[str] = field(default_factory=set)  # leases it knows of
    results: dict[str, Mapping[str, bytes]] = field(default_factory=dict)  # task -> what it handed in
    endings: dict[str, str | None] = field(default_factory=dict)  # task -> how its program ended
    openings: dict[str, Opening] = field(default_factory=dict)
    readings: dict[str, tuple[int, str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Derive the key."""
        self.key = key_of(self.cast.name)
        self.id = ids.node_id(dsse.public_bytes(self.key))

    @property
    def operator(self) -> str:
        """Return whose node it is."""
        return self.cast.operator or f"op-{self.cast.name}"

    def join(self, token: str, now_s: float, *, signs_bond: bool) -> dsse.Envelope:
        """Sign a join; of jobs under rules 2 as nodes did before they signed their bond."""
        claim = Join(
            node=self.id,
            key=base64.b64encode(dsse.public_bytes(self.key)).decode(),
            operator=self.operator,
            jurisdiction=self.cast.jurisdiction,
            terms=digest.parse(terms.DIGEST),
            kind=NodeKind.MACHINE,
            members=(),
            engine_class=self.cast.engine_class,
            cpus=2,
            memory_bytes=2**32,
            ask_usd_micros_per_hour=self.cast.ask,
            token=join_token.token_digest(token),
            joined_at=instants.spell(now_s),
            bond_usd_micros=self.cast.bond if signs_bond else None,
        )
        return statement.sign("join", claim, (), self.key)

    def work(self, lease: node.Lease, blobs: toy_work.Blobs, run: str, deed: tuple[str, str]) -> Mapping[str, bytes]:
        """Compute a task, or make its results up."""
        assignment = record.from_json(Assignment, lease.assignment)
        found = toy_work.outputs(assignment, blobs, run)
        if deed[0] == "lies":
            found = {name: b"false " + self._lie(deed[1], lease.task, name) for name in found}
        self.results[lease.task] = found
        return found

    def commitment(self, lease: node.Lease, used: Used | None) -> dsse.Envelope:
        """Sign the commitment to a result."""
        root = toy_work.root(self.results[lease.task], self.endings.get(lease.task))
        hashed = commitments.commitment_hash(self.id, self._salt(lease), root)
        made = Commitment(ids.JobId(lease.job), ids.TaskId(lease.task), lease.epoch, self.id, hashed, used)
        return statement.sign("commitment", made, (), self.key)

    def contribution(self, lease: node.Lease, now_s: float) -> dsse.Envelope:
        """Sign the result."""
        assignment = record.from_json(Assignment, lease.assignment)
        results = self.results[lease.task]
        made = Contribution(
            job=assignment.job,
            task=assignment.task,
            epoch=lease.epoch,
            node=self.id,
            assignment=predicates.assignment_digest(assignment),
            salt=self._salt(lease),
            root=toy_work.root(results, self.endings.get(lease.task)),
            outputs=toy_work.listed(results),
            engine_class=self.cast.engine_class,
            environment=ENVIRONMENT,
            sandbox="none",
            num_steps=assignment.num_steps,
            spent=Spent(1, 10, 1, 0, 0),
            metrics={"loss": "1.25"},
            finished_at=instants.spell(now_s),
            ended=self.endings.get(lease.task),
        )
        return statement.sign("contribution", made, (), self.key)

    def reading(self, job: str, now_s: float) -> dsse.Envelope:
        """Sign the next reading of the meter."""
        seq, previous = self.readings.get(job, (0, meter.origin(ids.JobId(job), self.id)))
        spent = Spent(seq + 1, 10 * (seq + 1), seq + 1, 0, 0)
        made = Reading(ids.JobId(job), self.id, seq, previous, spent, instants.spell(now_s))
        self.readings[job] = (seq + 1, meter.reading_digest(made))
        return statement.sign("reading", made, (), self.key)

    def answer_commitment(
        self, lease: node.Lease, blobs: toy_work.Blobs, run: str, deed: tuple[str, str]
    ) -> dsse.Envelope:
        """Compute an answer and sign the commitment to it."""
        assert lease.audit is not None
        audit, role = lease.audit.audit_id, lease.audit.role
        assignment = record.from_json(Assignment, lease.assignment)
        inner = toy_work.state(assignment, lease.step or 1, blobs, run)
        results: Mapping[str, bytes] = toy_work.outputs(assignment, blobs, run)
        if role is Role.PROVER:  # a liar stands by its lie: it kept what it handed in
            results = self.results[lease.task]
        if deed[0] == "lies":
            results = {name: b"false " + self._lie(deed[1], lease.task, name) for name in results}
        if deed[0] in {"lies", "guesses"}:
            inner = self._lie(deed[1], lease.task, "inner")
        opening = Opening(
            role=role,
            blind=derived("blind", self.cast.name, audit).hex(),
            answer=commitments.answer_hash(bytes.fromhex(lease.salt or ""), inner),
            outputs=toy_work.listed(results),
        )
        self.openings[f"{audit} {role}"] = opening
        root = predicates.result_root(opening.outputs, self.endings.get(lease.task))
        made = AnswerCommitment(
            job=assignment.job,
            audit=ids.AuditId(audit),
            task=assignment.task,
            role=role,
            node=self.id,
            commitment=commitments.answer_commitment_hash(self.id, opening.blind, opening.answer, root),
        )
        return statement.sign("answer-commitment", made, (), self.key)

    def answer(self, lease: node.Lease, now_s: float, used: Used | None) -> dsse.Envelope:
        """Sign the answer that opens a commitment."""
        assert lease.audit is not None
        opening = self.openings[f"{lease.audit.audit_id} {lease.audit.role}"]
        made = Answer(
            job=ids.JobId(lease.job),
            audit=ids.AuditId(lease.audit.audit_id),
            task=ids.TaskId(lease.task),
            role=opening.role,
            node=self.id,
            blind=opening.blind,
            answer=opening.answer,
            root=predicates.result_root(opening.outputs, self.endings.get(lease.task)),
            outputs=opening.outputs,
            spent=Spent(0, 0, 1, 0, 10),
            answered_at=instants.spell(now_s),
            used=used if opening.role is Role.AUDITOR else None,
            ended=self.endings.get(lease.task),
        )
        return statement.sign("answer", made, (), self.key)

    def _salt(self, lease: node.Lease) -> str:
        return derived("salt", self.cast.name, lease.task, lease.epoch).hex()

    def _lie(self, word: str, task: str, what: str) -> bytes:
        return derived("lie", word or self.cast.name, task, what)
