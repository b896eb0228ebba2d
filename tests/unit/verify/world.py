"""A whole small job in memory: market, buyer, witness, nodes of several operators, log, audits, money.

    world = World(rounds=2, liars={"n3"})      # n3 hands in other bytes than it should
    world.play()
    report = verify_receipt(world.receipt(), world.trust(), world.now)

Every statement passes through `World.log`, which applies `world.bend[kind]` first: a function from the honest predicate
to another one, or to None to leave the statement out. Whoever signs it still signs it, so a bent world is an adversary
with real keys. `bend_file` changes the parsed receipt file before it becomes bytes.

The work is simulated by digests: what a round "computes" is a function of its assignment, and a liar's is another.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, Self

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from stannary.formats import beacon, commitments, digest, dsse, ids, jobspec, note, predicates, statement
from stannary.formats.digest import Digest
from stannary.formats.ended import WELL
from stannary.formats.ids import NodeId, TaskId, TaskKind
from stannary.formats.jobspec import JobKind, JobSpec, Privacy, RecipeSpec, Resources, Trust, Verification
from stannary.formats.note import KeyType
from stannary.formats.predicates import Assurance, Role, Spent, Tier, Verdict
from stannary.formats.quantity import PPM
from stannary.formats.receipt import EarlierCheckpoint, LoggedEnvelope, ReceiptFile
from stannary.formats.shown import GradeTest, ShownPower
from stannary.formats.workdir import WorkFile
from stannary.rules import blame, draw, edition, first, grade, stake, use, verdict
from stannary.rules.ending import has_broken_off, is_stated, may_break_off
from stannary.rules.shape import num_steps
from stannary.rules.stake import UnitDone
from stannary.rules.use import DrawnUse, StepRates
from stannary.tlog.proof import Proof
from stannary.tlog.tree import Tree
from stannary.verify import conclusion, trust
from stannary.verify.case import Case, read
from stannary.verify.conclusion import Ending

START = 1_790_000_000  # some day in 2026
CHAIN_LENGTH = 64
CLASS = "cpu-fp32-test-000000000000"
TERMS = digest.digest(b"terms")


def key_of(name: str) -> Ed25519PrivateKey:
    """Return the same key for the same name, so that failures repeat."""
    return Ed25519PrivateKey.from_private_bytes(hashlib.sha256(name.encode()).digest())


@dataclass
class Node:
    """A node of the world."""

    name: str
    operator: str
    engine_class: str = CLASS
    ask: int = 360_000
    bond: int = 100_000
    key: Ed25519PrivateKey = field(init=False)
    id: NodeId = field(init=False)
    compute_ms: int = 0
    meter_percent: int = 100  # what it says of what it used: 200 is twice as much
    tests: list[tuple[int, int, int]] = field(default_factory=list)  # of its power: rounds, its and the market's ms

    def __post_init__(self) -> None:
        self.key = key_of(f"node {self.name}")
        self.id = ids.node_id(dsse.public_bytes(self.key))


NODES = (("n0", "oak"), ("n1", "elm"), ("n2", "ash"), ("n3", "fir"), ("n4", "yew"), ("n5", "oak"))


class World:
    """One job from order to receipt; every step can be played alone."""

    credential_s = 100_000

    def __init__(
        self,
        *,
        name: str = "local.market",
        rounds: int = 2,
        lanes: int = 3,
        kind: JobKind = JobKind.TRAIN,
        verify: Verification | None = None,
        audit_ppm: int = 1_000_000,
        assurance: Assurance | None = None,
        liars: Iterable[str] = (),
        false_accusers: Iterable[str] = (),
        silent: Iterable[str] = (),
        fails_canaries: Iterable[str] = (),
        seed: int = 0,
    ) -> None:
        self.name, self.rounds, self.lanes, self.kind = name, rounds, lanes, kind
        self.verify = verify or (Verification.REPLAY if kind is JobKind.TRAIN else Verification.RERUN_COMPARE)
        self.audit_ppm, self.seed = audit_ppm, seed
        self.assurance = assurance  # None: a job under rules 2
        self.taking: draw.Draws | None = None
        self.broken_off: set[TaskId] = set()
        self.liars, self.false_accusers, self.silent = set(liars), set(false_accusers), set(silent)
        self.fails_canaries = set(fails_canaries)  # answer honestly, except where the answer is already known
        self.canaries: list[tuple[TaskId, str]] = []
        self.bend: dict[str, Callable[[Any], Any]] = {}
        self.bend_file: Callable[[ReceiptFile], ReceiptFile] = lambda file: file
        self.end, self.false_end = WELL, ""  # how programs end, and how liars say they do (empty: the same)
        self.now = START
        self.market_key, self.witness_key = key_of(f"market {name}"), key_of("witness")
        self.buyer_key = key_of("buyer")
        self.nodes = {item: Node(item, operator) for item, operator in NODES}
        self.tree = Tree()
        self.entries: list[tuple[int, dsse.Envelope]] = []
        self.notes: dict[int, str] = {}
        self.contributions: dict[TaskId, tuple[int, predicates.Contribution]] = {}
        self.assignments: dict[TaskId, predicates.Assignment] = {}
        self.commitments: list[tuple[int, TaskId, Node]] = []
        self.verdicts: dict[TaskId, Verdict] = {}
        self.thetas: dict[int, tuple[Digest, Digest]] = {}
        self.drawn_up_to = 0
        self.num_draws = 0
        self.draw = digest.digest(b"no draw yet")
        self.ranked_instead: tuple[predicates.Candidate, ...] = ()  # whom a dishonest market ranks after the reveal
        self.skips: set[str] = set()  # nodes a dishonest market passes over when they come first
        self.says_silences = True  # a dishonest market passes over without a word
        self.watch: predicates.Watch | None = None  # whom the market says are drawn more often
        self.step_ms = 40  # what a step takes, by an honest meter
        self.job_id = ids.JobId("")

    # --- the whole story ---

    def play(self) -> World:
        """Play the whole job: every round audited before its merge, every merge before the next round."""
        self.open()
        is_checked = first.is_checked(self.spec())
        if is_checked:
            self.run_lanes(0, lanes=range(1))
            self.audit()
        if self.kind is JobKind.COMMAND:
            self.run_lanes(0, lanes=range(is_checked, self.lanes))
            self.audit()
        else:
            for round_index in range(self.rounds):
                self.run_lanes(round_index, lanes=range(is_checked and not round_index, self.lanes))
                self.audit()
                self.merge(round_index)
                self.audit()
        self.close()
        return self

    def play_remerged(self) -> Self:
        """Merge round 0 and begin round 1 before a liar of round 0 is convicted; both are done again."""
        self.open()
        self.run_lanes(0)
        self.merge(0)
        self.run_lanes(1)
        self.audit()
        self.merge(0, attempt=1)
        self.audit()
        self.run_lanes(1, attempt=1)
        self.audit()
        self.merge(1)
        self.audit()
        self.close()
        return self

    def receipt(self, *, status: str = "succeeded", reason: str = "completed") -> bytes:
        """Compose, log and assemble the receipt as an honest market would (then bent)."""
        case = self.case()
        concluded = conclusion.conclude(case, status=status, reason=reason)
        witness = self.trust().markets[0].witness_words
        ending = Ending(status, reason, witness, self.time(START + 1), self.time(self.now))
        leaves = [digest.from_raw(envelope.leaf()) for _, envelope in self.entries]
        said = conclusion.compose(case, concluded, ending, leaves)
        subjects = concluded.lineage.subjects if status == "succeeded" else ()
        return self.assemble(said, subjects)

    def assemble(self, said: predicates.Receipt, subjects: Sequence[statement.Subject]) -> bytes:
        """Sign and log a receipt predicate and build the file around it."""
        said = self.bend.get("receipt", lambda item: item)(said)
        envelope = statement.sign("receipt", said, tuple(subjects), self.market_key)
        index = self.append(envelope.leaf())
        used = sorted(self.notes)
        final = self.checkpoint()
        size = self.tree.size
        del self.notes[size]
        file = ReceiptFile(
            receipt=envelope,
            proof=Proof(index, tuple(self.tree.inclusion(index, size)), final).to_text(),
            evidence=tuple(LoggedEnvelope(item, at, tuple(self.tree.inclusion(at, size))) for at, item in self.entries),
            checkpoints=tuple(
                EarlierCheckpoint(self.notes[old], tuple(self.tree.consistency(old, size))) for old in used
            ),
            format=edition.of(self.spec()).receipt_format,
        )
        return self.bend_file(file).to_bytes()

    def case(self) -> Case:
        """Return the case as it stands."""
        return Case([read(index, envelope) for index, envelope in self.entries])

    def trust(self) -> trust.TrustStore:
        """Return a store that pins this world's market and witness."""
        return trust.TrustStore().with_market(trust.pin(self.vkey, (self.witness_vkey,)))

    @property
    def vkey(self) -> str:
        return note.format_vkey(self.name, dsse.public_bytes(self.market_key))

    @property
    def witness_vkey(self) -> str:
        return note.format_vkey("local.witness", dsse.public_bytes(self.witness_key), KeyType.WITNESS)

    # --- steps ---

    def open(self) -> None:
        """Join and credential every node, take the order, place it."""
        for node in self.nodes.values():
            self._credential(node)
        self._take_order()
        chosen = tuple(self.node_of(lane).id for lane in range(self.lanes))
        rest = tuple(
            predicates.Rejection(node.id, "not needed") for node in self.nodes.values() if node.id not in chosen
        )
        placement = predicates.Placement(self.job_id, chosen, rest, 30_000, 10_000, 20_000, self.time(self.now))
        self.log("placement", placement, self.market_key)

    def _take_order(self) -> None:
        key = dsse.public_bytes(self.buyer_key)
        order = predicates.Job(
            spec=jobspec.to_canonical(self.spec()),
            market=dsse.key_id(dsse.public_bytes(self.market_key)),
            buyer=dsse.encode_base64(key),
            beacon_tip=beacon.tip(self.beacon_seed, CHAIN_LENGTH),
            beacon_length=CHAIN_LENGTH,
            nonce=hashlib.sha256(b"nonce %d" % self.seed).hexdigest()[:32],
            submitted_at=self.time(START),
        )
        order = self.bend.get("job", lambda item: item)(order)
        envelope = statement.sign("job", order, (), self.buyer_key)
        self.job_id = ids.job_id(digest.digest(envelope.payload))
        self.entries.append((self.append(envelope.leaf()), envelope))

    def run_lanes(self, round_index: int, attempt: int = 0, *, lanes: Iterable[int] | None = None) -> None:
        """Assign, commit and contribute one round (or the commands) on every lane, or on these."""
        for lane in range(self.lanes) if lanes is None else lanes:
            node = self.node_of(lane)
            self._work(self._assign(round_index, lane, attempt), node, lie=node.name in self.liars)

    def stop(self, lane: int) -> None:
        """Assign a lane, and stop what its node has in hand after a while."""
        assignment, node, since = self._assign(0, lane, 0), self.node_of(lane), self.time(self.now)
        node.compute_ms += 8_000
        self.now += 10
        reading = predicates.Reading(
            self.job_id, node.id, 0, "0" * 64, Spent(0, node.compute_ms, 0, 0, 0), self.time(self.now)
        )
        leaf = digest.from_raw(self.log("reading", reading, node.key).leaf())
        made = predicates.Stopped(self.job_id, assignment.task, node.id, leaf, since, self.time(self.now))
        self.log("stopped", made, self.market_key)

    def merge(self, round_index: int, attempt: int = 0, *, by: str = "n4") -> None:
        """Assign and contribute the merge of a round from all work not refuted or unverified so far."""
        task = ids.merge_task(self.job_id, round_index, attempt)
        excused = (Verdict.REFUTED, Verdict.UNVERIFIED)
        latest = {
            self.assignments[name].lane: (index, made)
            for name, (index, made) in self.contributions.items()
            if self.assignments[name].kind is TaskKind.ROUND and self.assignments[name].round == round_index
        }
        admitted = sorted(
            (index, made) for index, made in latest.values() if self.verdicts.get(made.task) not in excused
        )
        theta, outer = self.thetas.get(round_index - 1, (None, None))
        assignment = predicates.Assignment(
            job=self.job_id, task=task, kind=TaskKind.MERGE, round=round_index, lane=0, num_steps=len(admitted),
            first_step=0, tokens=0, theta=theta, outer=outer,
            admitted=tuple(predicates.Admitted(made.task, made.root, index, 1_000_000) for index, made in admitted),
            excluded=tuple(made.task for _, made in latest.values() if self.verdicts.get(made.task) in excused),
        )  # fmt: skip
        self._logged_assignment(assignment)
        node = self.nodes[by]
        made = self._work(assignment, node, lie=by in self.liars)
        by_name = {item.name: item.digest for item in made.outputs}
        self.thetas[round_index] = (by_name["theta"], by_name["outer"])

    def audit(self) -> None:
        """Checkpoint, reveal, draw, and play every audit drawn to its verdict."""
        if self.verify is Verification.NONE:
            return
        number = self.num_draws
        listed, leaf = self._fix_candidates(number)
        _, made, randomness = self._draw_tasks(leaf)
        candidates = self.ranked_instead or listed.candidates
        if self.taking is None:
            self.taking = draw.Draws(self.spec(), self.broken_off)
        own, late = self.taking.take(made, candidates, randomness)
        for taken in (*own, *late):
            if taken.selection.drawn:
                self._audit(taken.selection)

    def close(self) -> None:
        """Log the last reading of every node."""
        for node in self.nodes.values():
            spent = Spent(120, node.compute_ms, 60, 45, 30)
            reading = predicates.Reading(self.job_id, node.id, 1, "0" * 64, spent, self.time(self.now))
            self.log("reading", reading, node.key)

    # --- the log ---

    def log(self, kind: str, predicate: Any, key: Ed25519PrivateKey) -> dsse.Envelope:
        """Bend, sign and log one statement."""
        bent = self.bend.get(kind, lambda item: item)(predicate)
        envelope = statement.sign(kind, predicate if bent is None else bent, (), key)
        if bent is not None:
            self.entries.append((self.append(envelope.leaf()), envelope))
        return envelope

    def append(self, leaf: bytes) -> int:
        """Append a leaf; each statement takes ten seconds of the world's time."""
        self.now += 10
        return self.tree.append(leaf)

    def checkpoint(self) -> str:
        """Sign and cosign the log as it stands."""
        self.now += 10
        size = self.tree.size
        text = note.sign_checkpoint(self.name, size, self.tree.root(), self.market_key)
        line = note.cosign(text, "local.witness", self.witness_key, self.now)
        self.notes[size] = note.add_cosignatures(text, [line])
        return self.notes[size]

    # --- details ---

    def _fix_candidates(self, number: int, convicted: Iterable[str] = ()) -> tuple[predicates.Candidates, Digest]:
        """Log who may audit what the next draw draws; return it, as bent, and its leaf."""
        gone = set(convicted)
        ordered = sorted(self.nodes.values(), key=lambda node: node.id)
        listed = predicates.Candidates(
            job=self.job_id, index=number,
            candidates=tuple(
                predicates.Candidate(node.id, node.operator, node.engine_class)
                for node in ordered if node.name not in gone
            ),
            left_out=tuple(
                predicates.Rejection(node.id, "convicted in this job") for node in ordered if node.name in gone
            ),
            fixed_at=self.time(self.now),
            watch=self.watch,
        )  # fmt: skip
        envelope = self.log("candidates", listed, self.market_key)
        bent = statement.read(envelope.payload, "candidates", predicates.Candidates).predicate
        return bent, digest.from_raw(envelope.leaf())

    def _draw_tasks(self, candidates: Digest) -> tuple[list[tuple[int, TaskId, Any]], predicates.Draw, bytes]:
        """Take a checkpoint, have it revealed for, and log the draw of all it covers; return also its beacon."""
        size, root = self.tree.size, digest.from_raw(self.tree.root())
        self.checkpoint()
        number, self.num_draws = self.num_draws, self.num_draws + 1
        value = beacon.value(self.beacon_seed, CHAIN_LENGTH, number)
        said = predicates.Reveal(self.job_id, number, value, size, root, candidates)
        reveal = self.log("reveal", said, self.buyer_key)
        fresh = [item for item in self.commitments if self.drawn_up_to <= item[0] < size]
        self.drawn_up_to = size
        assigned = [(self.assignments[task], node) for _, task, node in fresh]
        listed = [self._drawn_use(item, node) for item, node in assigned]
        far = use.far_out(listed, self._handed_in(fresh), self.spec().resources)
        units = [
            (node.id, took.work_us(self.spec().resources)) for took, (_, node) in zip(listed, assigned, strict=True)
        ]
        watched = stake.watched(units, self.watch, self.spec().trust.max_price_usd_micros_per_hour)
        drawable = [
            replace(self._drawable(*item, is_watched=at in watched), **({"audit_ppm": PPM} if is_far else {}))
            for at, (item, is_far) in enumerate(zip(fresh, far, strict=True))
        ]
        made = predicates.Draw(
            job=self.job_id, index=number, reveal=digest.from_raw(reveal.leaf()), checkpoint_size=size,
            checkpoint_root=root,
            drawable=tuple(drawable),
            candidates=candidates,
        )  # fmt: skip
        self.draw = digest.from_raw(self.log("draw", made, self.market_key).leaf())
        return fresh, made, draw.beacon(value, root)

    def _drawable(self, at: int, task: TaskId, node: Node, *, is_watched: bool = False) -> predicates.Drawable:
        steps = self.assignments[task].num_steps
        done = [
            UnitDone(made.node, index, self.assignments[made.task].num_steps)
            for index, made in self.contributions.values()
        ]
        held_steps = 0 if is_watched else stake.held_steps(done, node.id, at)
        rate = stake.unit_ppm(self.spec(), steps, held_steps)
        return predicates.Drawable(task, node.id, node.operator, node.engine_class, steps, at, rate)

    def say_silent(self, selection: draw.Selection, role: Role, node: Node, rank: int) -> None:
        """State, as the market, that a party did not answer."""
        asked = self.now
        self.now += 600
        audit = selection.audits[rank] if selection.audits else selection.alone
        said = predicates.Silence(
            job=self.job_id, audit=audit, task=selection.task, role=role, node=node.id, draw=self.draw,
            awaited=predicates.Awaited.COMMITMENT, reason=predicates.Absence.DEADLINE,
            asked_at=self.time(asked), deadline_at=self.time(self.now), ended_at=self.time(self.now),
        )  # fmt: skip
        self.log("silence", said, self.market_key)

    @property
    def beacon_seed(self) -> bytes:
        return hashlib.sha256(b"beacon %d" % self.seed).digest()

    def node_of(self, lane: int) -> Node:
        return self.nodes[f"n{lane + 1}"]

    def time(self, at: int) -> str:
        return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")

    def spec(self) -> JobSpec:
        """Return the job's spec."""
        recipe = RecipeSpec(
            "recipe.py:recipe", self.rounds, self.lanes, (3, 6), 0, 40 if self.assurance is None else None, {}
        )
        train = self.kind is JobKind.TRAIN
        return JobSpec(
            name="hello", kind=self.kind, workdir=(WorkFile("recipe.py", 0o644, digest.digest(b"recipe"), 6),), envs={},
            num_nodes=self.lanes, resources=Resources(1, 2**30, 2**28, 600), inputs={},
            outputs=("model.safetensors",), budget_usd_micros=1_000_000, recipe=recipe if train else None,
            run=None if train else "python recipe.py",
            trust=Trust(
                Tier.T0, "local", Privacy.OPEN, self.verify, self.audit_ppm, 600_000, 990_000, (), (), 500_000,
                self.assurance,
            ),
            rules=jobspec.RULES if self.assurance is not None else None,
        )  # fmt: skip

    def _credential(self, node: Node) -> None:
        key = dsse.encode_base64(dsse.public_bytes(node.key))
        join = predicates.Join(
            node=node.id, key=key, operator=node.operator, jurisdiction="XX", terms=TERMS,
            kind=predicates.NodeKind.MACHINE, members=(), engine_class=node.engine_class, cpus=1, memory_bytes=2**30,
            ask_usd_micros_per_hour=node.ask, token=digest.digest(b"token"), joined_at=self.time(self.now),
            bond_usd_micros=node.bond if self.assurance is not None else None,  # as nodes signed under rules 2
        )  # fmt: skip
        joined = self.log("join", join, node.key)
        said = [(self._power(node, at), took_ms) for at, (_, _, took_ms) in enumerate(node.tests)]
        tests = [
            GradeTest(digest.from_raw(self.log("power", power, node.key).leaf()), took_ms) for power, took_ms in said
        ]
        held = predicates.Credential(
            node=node.id, key=key, operator=node.operator, jurisdiction="XX", terms=TERMS, kind=join.kind, members=(),
            tier=Tier.T0, attestation=predicates.Attestation.SOFTWARE, ear_status="none",
            engine_class=node.engine_class, cpus=1, memory_bytes=2**30, ask_usd_micros_per_hour=node.ask,
            bond_usd_micros=node.bond, join=digest.from_raw(joined.leaf()), issued_at=self.time(START - 100),
            expires_at=self.time(START + self.credential_s),
        )  # fmt: skip
        if tests:
            low, high = grade.of_tests(said)
            held = replace(held, grade_ppm=low, best_grade_ppm=high, tests=tuple(tests))
        self.log("credential", held, self.market_key)

    def _power(self, node: Node, at: int) -> ShownPower:
        rounds, took_ms, _ = node.tests[at]
        nonce = digest.digest(f"{node.name} {at}".encode())[7:]
        return ShownPower(node.id, nonce, 1, rounds, digest.digest(b"proof"), took_ms, self.time(self.now))

    def _assign(self, round_index: int, lane: int, attempt: int) -> predicates.Assignment:
        train = self.kind is JobKind.TRAIN
        recipe = self.spec().recipe
        task = (
            ids.round_task(self.job_id, round_index, lane, attempt)
            if train
            else ids.command_task(self.job_id, lane, attempt)
        )
        assignment = predicates.Assignment(
            job=self.job_id, task=task, kind=TaskKind.ROUND if train else TaskKind.COMMAND, round=round_index,
            lane=lane, num_steps=num_steps(recipe.inner_steps, round_index) if recipe else 1,
            first_step=sum(num_steps(recipe.inner_steps, earlier) for earlier in range(round_index)) if recipe else 0,
            tokens=1024, theta=self.thetas.get(round_index - 1, (None, None))[0],
        )  # fmt: skip
        self._logged_assignment(assignment)
        return assignment

    def _logged_assignment(self, assignment: predicates.Assignment) -> None:
        self.assignments[assignment.task] = assignment
        self.log("assignment", assignment, self.market_key)

    def outputs(self, assignment: predicates.Assignment, lie: str = "") -> tuple[predicates.Output, ...]:
        """Return what a task computes: a function of its assignment, and of the lie."""
        if has_broken_off(assignment.kind, self.ended(assignment, self.nodes["n0"] if lie else None)):
            return ()
        names = {TaskKind.ROUND: ["delta"], TaskKind.MERGE: ["outer", "theta"], TaskKind.COMMAND: ["out.txt"]}
        seed = f"{predicates.assignment_digest(assignment)}{lie}"
        return tuple(
            predicates.Output(name, digest.digest(f"{seed} {name}".encode()), 1000) for name in names[assignment.kind]
        )

    def _work(self, assignment: predicates.Assignment, node: Node, *, lie: bool) -> predicates.Contribution:
        outputs = self.outputs(assignment, "lie" if lie else "")
        ended = self.ended(assignment, node if lie else None)
        root, salt = predicates.result_root(outputs, ended), hashlib.sha256(assignment.task.encode()).hexdigest()
        commitment = predicates.Commitment(
            self.job_id, assignment.task, 0, node.id, commitments.commitment_hash(node.id, salt, root),
            self.used(assignment, node),
        )  # fmt: skip
        self.commitments.append((self.tree.size, assignment.task, node))
        self.log("commitment", commitment, node.key)
        compute_ms = 40 * assignment.num_steps
        node.compute_ms += compute_ms
        made = predicates.Contribution(
            job=self.job_id, task=assignment.task, epoch=0, node=node.id,
            assignment=predicates.assignment_digest(assignment), salt=salt, root=root, outputs=outputs,
            engine_class=node.engine_class, environment=digest.digest(b"environment"), sandbox="bubblewrap",
            num_steps=assignment.num_steps, spent=Spent(5, compute_ms, 3, 2, 0), metrics={"loss": "2.5"},
            finished_at=self.time(self.now), ended=ended,
        )  # fmt: skip
        self.contributions[assignment.task] = (self.tree.size, made)
        if has_broken_off(assignment.kind, ended):
            self.broken_off.add(assignment.task)
        self.log("contribution", made, node.key)
        return made

    def used(self, assignment: predicates.Assignment, node: Node) -> predicates.Used | None:
        """Return what a node's sandbox says that a task took, where that is paid by."""
        if not edition.of(self.spec()).pays_by_use:
            return None
        took_ms = self.step_ms * assignment.num_steps * node.meter_percent // 100
        return predicates.Used(took_ms, 0, took_ms)

    def _drawn_use(self, assignment: predicates.Assignment, node: Node) -> DrawnUse:
        low, _ = grade.of_tests([(self._power(node, at), took_ms) for at, (_, _, took_ms) in enumerate(node.tests)])
        return DrawnUse(assignment.kind, assignment.num_steps, self.used(assignment, node), low)

    def _handed_in(self, fresh: list[tuple[int, TaskId, Node]]) -> StepRates:
        found, spec = StepRates(), self.spec()
        for index, made in self.contributions.values():
            if fresh and index < fresh[0][0]:
                took = self._drawn_use(self.assignments[made.task], self._by_id(made.node))
                is_first = first.is_first(spec, self.job_id, made.task)
                found.add(took.kind, took.work_us(spec.resources), took.num_steps, is_first=is_first)
        return found

    def _audit(self, selection: draw.Selection) -> None:
        """Question the prover, then auditors in rank order until a verdict stands."""
        _, made = self.contributions[selection.task]
        operators = {node.id: node.operator for node in self.nodes.values()}
        prover = self._by_id(made.node)
        ranked = [self._by_id(item.node) for item in selection.auditors]
        answers: list[predicates.Answer] = []
        prover_answer: predicates.Answer | None = None
        absent = self.silent | self.skips

        def judged(*, exhausted: bool = False) -> verdict.Decision:
            late = selection.is_late
            found = verdict.judge(made, prover_answer, answers, operators, exhausted=exhausted, late=late)
            return blame.decided(self.spec(), found)

        for number, auditor in enumerate(ranked):
            parties = [(auditor, Role.AUDITOR)] if auditor.name not in absent else []
            if number == 0 and prover.name not in self.silent:
                parties.insert(0, (prover, Role.PROVER))
            opened = self._answers(selection, number, parties)
            if auditor.name in absent and self.says_silences:
                self.say_silent(selection, Role.AUDITOR, auditor, number)
            for answer in opened:
                if answer.role is Role.PROVER:
                    prover_answer = answer
                else:
                    answers.append(answer)
            decision = judged()
            if not decision.need_auditor:
                if selection.canary and decision.verdict is Verdict.VERIFIED and number + 1 < len(ranked):
                    answers += self._canary(selection, number + 1, ranked[number + 1])
                    decision = judged(exhausted=True)
                break
        else:
            decision = judged(exhausted=True)
        self.verdicts[selection.task] = decision.verdict
        if prover_answer is None and self.says_silences:
            self.say_silent(selection, Role.PROVER, prover, 0)
        said = predicates.TaskVerdict(
            self.job_id,
            selection.task,
            made.node,
            decision.verdict,
            decision.reason.value,
            decision.refuted,
            odd=None if blame.convicts(self.spec()) else decision.odd,
        )
        self.log("verdict", said, self.market_key)

    def _canary(self, selection: draw.Selection, number: int, auditor: Node) -> list[predicates.Answer]:
        """Ask one more auditor, whose right answer is known, before the verdict; nothing tells him so."""
        self.canaries.append((selection.task, auditor.name))
        if auditor.name in self.silent | self.skips:
            if self.says_silences:
                self.say_silent(selection, Role.AUDITOR, auditor, number)
            return []
        lazy = {auditor.name} & self.fails_canaries - self.false_accusers
        self.false_accusers |= lazy
        answers = self._answers(selection, number, [(auditor, Role.AUDITOR)])
        self.false_accusers -= lazy
        return answers

    def _answers(
        self, selection: draw.Selection, number: int, parties: list[tuple[Node, Role]]
    ) -> list[predicates.Answer]:
        opened = [self._answer(selection, number, node, role) for node, role in parties]
        for (node, _), answer in zip(parties, opened, strict=True):
            hashed = commitments.answer_commitment_hash(node.id, answer.blind, answer.answer, answer.root)
            committed = predicates.AnswerCommitment(
                self.job_id, answer.audit, answer.task, answer.role, node.id, hashed
            )
            self.log("answer-commitment", committed, node.key)
        for (node, _), answer in zip(parties, opened, strict=True):
            self.log("answer", answer, node.key)
        return opened

    def _answer(self, selection: draw.Selection, number: int, node: Node, role: Role) -> predicates.Answer:
        task = selection.task
        assignment = self.assignments[task]
        if role is Role.PROVER:
            outputs = self.contributions[task][1].outputs
            lie = "lie" if node.name in self.liars else ""
        else:
            lie = f"false {node.name}" if node.name in self.false_accusers else ""
            outputs = self.outputs(assignment, lie)
        state = self.state(assignment, selection.step, lie)
        ended = self.ended(assignment, node if lie else None)
        return predicates.Answer(
            job=self.job_id, audit=selection.audits[number], task=task, role=role, node=node.id,
            blind=hashlib.sha256(f"{node.name} {task} {number}".encode()).hexdigest(),
            answer=commitments.answer_hash(selection.salt, state), root=predicates.result_root(outputs, ended),
            outputs=outputs, spent=Spent(0, 0, 0, 0, 40 * assignment.num_steps), answered_at=self.time(self.now),
            used=self.used(assignment, node) if role is Role.AUDITOR else None,
            ended=ended,
        )  # fmt: skip

    def ended(self, assignment: predicates.Assignment, liar: Node | None = None) -> str | None:
        """Return how a task's program ends, where that is part of its result; a liar may say otherwise."""
        said = self.false_end if liar is not None and self.false_end else self.end
        if is_stated(self.spec(), assignment.kind):
            return said
        return said if may_break_off(self.spec(), assignment.kind) and said != WELL else None

    def state(self, assignment: predicates.Assignment, step: int, lie: str = "") -> bytes:
        """Return the state after a step: a function of assignment and step, and of the lie."""
        return f"{predicates.assignment_digest(assignment)} {step} {lie}".encode()

    def _by_id(self, node: NodeId) -> Node:
        return next(item for item in self.nodes.values() if item.id == node)
