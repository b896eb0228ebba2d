"""The file, its log and the statements in it: sections R5 and R6.20 to R6.24."""

from __future__ import annotations

import itertools
import re
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from tests.second_verifier import log, shapes
from tests.second_verifier.values import Envelope, Malformed, canonical, digest, from_base64, key_id, members, statement

REFUTED, BELOW_POLICY, NOTICE = "refuted", "below policy", "notice"
BY_MARKET = {"credential", "placement", "assignment", "candidates", "draw", "silence", "stopped", "verdict"}
CUT = ("wall-limit", "out-of-memory")
TASK = re.compile(r"(j-[0-9a-f]{12})/(?:r[0-9]{1,6}/(?:l[0-9]{1,5}|merge)|run/l[0-9]{1,5})/a([0-9]{1,4})")


@dataclass(frozen=True)
class Pins:
    """R4.1."""

    log: str
    witnesses: tuple[str, ...] = ()
    independent: tuple[str, ...] = ()


@dataclass
class Findings:
    """What was found: name and weight."""

    found: set[tuple[str, str]] = field(default_factory=set)

    def say(self, name: str, holds: bool, weight: str = REFUTED) -> bool:
        """Add a finding where a rule does not hold; return whether it does."""
        if not holds:
            self.found.add((name, weight))
        return holds

    @property
    def refuted(self) -> bool:
        """Return whether anything refutes so far."""
        return any(weight == REFUTED for _, weight in self.found)


@dataclass(frozen=True)
class Said:
    """A statement: its log index, leaf, kind and predicate."""

    index: int
    leaf: str
    kind: str
    p: dict[str, Any]
    envelope: Envelope

    def __getitem__(self, name: str) -> Any:
        return self.p[name]


class Ended(Exception):
    """R5.2 and R5.3: nothing more can be said."""


class File:
    """R5.1 to R5.9."""

    def __init__(self, value: Any, pins: Iterable[Pins], now: int, findings: Findings, *, has_floors: bool) -> None:
        members(value, "format", "receipt", "proof", "evidence", "checkpoints")
        if value["format"] == "stannary.receipt/v1":
            findings.say("receipt.version", False, BELOW_POLICY)
            raise Ended
        formats = {"stannary.receipt/v2": 2, "stannary.receipt/v3": 3}
        if (
            not isinstance(value["format"], str)
            or value["format"] not in formats
            or not isinstance(value["proof"], str)
        ):
            raise Malformed("not of this format")
        self.rules = formats[value["format"]]
        self.evidence = [self._logged(item) for item in limited(value["evidence"], 20_000)]
        indexes = [index for _, index, _ in self.evidence]
        if indexes != sorted(set(indexes)):
            raise Malformed("evidence out of order")
        earlier = [self._earlier(item) for item in limited(value["checkpoints"], 5_000)]
        self.receipt = Envelope(value["receipt"])
        self.index, self.path, self.note = log.tlog_proof(value["proof"])
        self._find_market(pins, findings)
        self._has_floors = has_floors
        self._open_log(earlier, now, findings)

    def _logged(self, item: Any) -> tuple[Envelope, int, list[bytes]]:
        members(item, "envelope", "index", "path")
        if type(item["index"]) is not int or item["index"] < 0:
            raise Malformed("not an index")
        return Envelope(item["envelope"]), item["index"], hashes(item["path"])

    def _earlier(self, item: Any) -> tuple[str, list[bytes]]:
        members(item, "note", "consistency")
        if not isinstance(item["note"], str):
            raise Malformed("not a note")
        return item["note"], hashes(item["consistency"])

    def _find_market(self, pins: Iterable[Pins], findings: Findings) -> None:
        """R5.3."""
        _, lines = log.signatures(self.note)
        for item in pins:
            key = log.key(item.log)
            if (key.name, key.tag) == lines[0][:2]:
                self.pins, self.market = item, key
                self.witnesses = [log.key(witness) for witness in item.witnesses]
                return
        findings.say("log.unknown", False, BELOW_POLICY)
        raise Ended

    def _open_log(self, earlier: list[tuple[str, list[bytes]]], now: int, findings: Findings) -> None:
        """R5.4 to R5.7."""
        self.final = log.note(self.note)
        log.check_log(self.final, self.market)
        self.time = self._witness_time(self.final, findings)
        self.cosigned = {key.name for key in self.witnesses if key in self._came(self.final)}
        for key in self.witnesses:
            is_short = key.name in self.pins.independent and not self._has_floors
            findings.say("witness.missing", key.name in self.cosigned, BELOW_POLICY if is_short else NOTICE)
        findings.say("witness.future", self.time is None or self.time <= now + 300, BELOW_POLICY)
        self.checkpoints: list[tuple[log.Note, int | None]] = []
        for text, path in earlier:
            made = log.note(text)
            log.check_log(made, self.market)
            log.check_consistency(made.size, made.root, self.final.size, self.final.root, path)
            self.checkpoints.append((made, self._witness_time(made, findings)))
        seen = [*self.checkpoints, (self.final, self.time)]
        for (before, earlier_time), (after, later_time) in itertools.pairwise(seen):
            findings.say("checkpoint.order", before.size < after.size)
            if earlier_time is not None and later_time is not None:
                findings.say("checkpoint.time", earlier_time <= later_time)
        self._seen = [(made.size, at) for made, at in seen if at is not None]

    def _witness_time(self, made: log.Note, findings: Findings) -> int | None:
        """R5.5."""
        known = {(key.name, key.tag) for key in (self.market, *self.witnesses)}
        findings.say("witness.unknown", all(line[:2] in known for line in made.lines), BELOW_POLICY)
        came = self._came(made)
        if self.witnesses and not came:
            raise Malformed("no pinned witness has signed")
        return max((log.witnessed(made, key) for key in came), default=None)

    def _came(self, made: log.Note) -> list[log.Key]:
        lines = {line[:2] for line in made.lines[1:]}
        return [key for key in self.witnesses if (key.name, key.tag) in lines]

    def seen(self, index: int) -> int | None:
        """R5.8."""
        return next((at for size, at in self._seen if size > index), None)

    def unseen(self, index: int) -> int | None:
        """R5.8."""
        return next((at for size, at in reversed(self._seen) if size <= index), None)

    def open_receipt(self, findings: Findings) -> tuple[dict[str, Any], list[tuple[str, str]]]:
        """R5.9."""
        log.check_inclusion(self.receipt.leaf, self.index, self.final.size, self.path, self.final.root)
        kind, subjects, predicate = statement(self.receipt.payload)
        if not self.receipt.is_signed_by(self.market.public) or kind != "receipt":
            raise Malformed("not the market's receipt")
        shapes.check(predicate, shapes.KINDS["receipt"])
        findings.say("receipt.order", all(index < self.index for _, index, _ in self.evidence))
        return predicate, subjects

    def open_evidence(self) -> list[Said]:
        """R5.10."""
        opened = []
        for envelope, index, path in self.evidence:
            log.check_inclusion(envelope.leaf, index, self.final.size, path, self.final.root)
            kind, _, predicate = statement(envelope.payload)
            if kind not in shapes.KINDS or kind == "receipt":
                raise Malformed("of no kind that has a place here")
            shapes.check(predicate, shapes.KINDS[kind])
            opened.append(Said(index, "sha256:" + envelope.leaf.hex(), kind, predicate, envelope))
        return opened


class Case:
    """R6.20 to R6.24, and what other rules look up."""

    def __init__(self, statements: list[Said]) -> None:
        self.statements = statements
        jobs = [item for item in statements if item.kind == "job"]
        if len(jobs) != 1:
            raise Malformed("not one job")
        (self.job,) = jobs
        self.job_digest = digest(self.job.envelope.payload)
        self.job_id = "j-" + self.job_digest[7:19]
        if any(
            item.kind not in ("join", "credential", "power", "job") and item["job"] != self.job_id
            for item in statements
        ):
            raise Malformed("of another job")
        self.spec = self.job["spec"]
        shapes.check_spec(self.spec)
        self.rules: int = self.spec.get("rules", 2)  # R0.1
        recipe = self.spec.get("recipe")
        self.step_ms = recipe.get("step_ms", 1000) if recipe else self.spec["resources"]["wall_s"] * 1000  # R7.8
        self.void = self._void()
        counting = [item for item in statements if item not in self.void]
        of: dict[str, list[Said]] = defaultdict(list)
        for item in counting:
            of[item.kind].append(item)
        self.of = of
        self.credentials: dict[str, list[Said]] = defaultdict(list)
        for item in of["credential"]:
            self.credentials[item["node"]].append(item)
        self.assignments = once(of["assignment"], "task")
        self.contributions = once(of["contribution"], "task")
        self.lists = {item.leaf: item for item in once(of["candidates"], "index").values()}
        self.silences = once(of["silence"], "audit", "node", "role")
        self.answers = once(of["answer"], "audit", "node", "role")
        self.committed = once(of["answer-commitment"], "audit", "node", "role")
        self._check_known()
        self.units: dict[tuple[Any, ...], list[str]] = defaultdict(list)
        for task, item in self.assignments.items():
            self.units[unit_of(item)].append(task)
        for tasks in self.units.values():
            tasks.sort(key=attempt_of)

    def _void(self) -> list[Said]:
        """R6.22."""
        said: set[tuple[Any, ...]] = set()
        void = []
        for item in self.statements:
            party = tuple(item.p.get(name) for name in ("audit", "node", "role"))
            keys = {
                "contribution": ("contribution", item.p.get("task")),
                "commitment": ("commitment", item.p.get("task"), item.p.get("node"), item.p.get("epoch")),
                "answer": ("answer", *party),
                "answer-commitment": ("answer-commitment", *party),
            }
            if item.kind == "silence":
                awaited = "answer" if item["awaited"] == "answer" else "answer-commitment"
                if (awaited, *party) not in said:
                    said |= {("answer", *party), ("answer-commitment", *party)}
            elif item.kind in keys:
                if keys[item.kind] in said:
                    void.append(item)
                said.add(keys[item.kind])
        return void

    def _check_known(self) -> None:
        """R6.23."""
        for task in (*self.assignments, *self.contributions):
            if TASK.fullmatch(task) is None:
                raise Malformed("not a task")
        for task, item in self.contributions.items():
            if task not in self.assignments:
                raise Malformed("not assigned")
            self.credential(item["node"])
        for item in (*self.of["answer"], *self.of["answer-commitment"], *self.of["silence"]):
            is_audit = re.fullmatch(re.escape(item["task"]) + "/q[0-9a-f]{16}", item["audit"]) is not None
            if item["task"] not in self.contributions or not is_audit:
                raise Malformed("no audit of this job")
            self.credential(item["node"])
        if any(item["task"] not in self.contributions for item in self.of["verdict"]):
            raise Malformed("a verdict on nothing")
        if any(item["task"] not in self.assignments for item in self.of["stopped"]):
            raise Malformed("a stop of nothing")
        for item in (*self.of["reading"], *self.of["stopped"]):
            self.credential(item["node"])

    def credential(self, node: str) -> Said:
        """R6.24."""
        if node not in self.credentials:
            raise Malformed("no credential")
        return self.credentials[node][-1]

    def in_force(self, node: str, index: int) -> Said:
        """R6.24: the credential that counts of what a node says at an index."""
        last = self.credential(node)
        below = [item for item in self.credentials[node] if item.index < index]
        return last if self.rules == 2 else (below or self.credentials[node][:1])[-1]

    def said_at(self, item: Said) -> int:
        """R6.24: where a contribution or an answer was said."""
        if item.kind == "contribution":
            made = self.opened(item["task"])
        else:
            made = self.committed.get((item["audit"], item["node"], item["role"]))
        return item.index if made is None else made.index

    def ask(self, item: Said) -> int:
        """R6.24: what a node asks for a contribution or an answer."""
        return self.ask_at(item["node"], self.said_at(item))

    def ask_at(self, node: str, until: int) -> int:
        """R6.24: what a node asks for what it did by an index."""
        since = (self.of["placement"] or [self.job])[0].index
        counting = [self.in_force(node, since), self.in_force(node, until)]
        if self.rules == 3:
            counting += [held for held in self.credentials[node] if since <= held.index < until]
        return int(min(held["ask_usd_micros_per_hour"] for held in counting))

    def grade(self, node: str, index: int) -> int:
        """R6.25: the grade of a node's work at an index."""
        return grade_of(self.in_force(node, index).p)

    def bond(self, node: str) -> int:
        """R6.24."""
        if self.rules == 2:
            return int(self.credential(node)["bond_usd_micros"])
        signed = {item.leaf: item.p.get("bond_usd_micros", 0) for item in self.of["join"]}
        said = [item for item in (*self.contributions.values(), *self.of["answer"]) if item["node"] == node]
        held = [self.in_force(node, self.said_at(item)) for item in said]
        return max(min((min(item["bond_usd_micros"], signed.get(item["join"], 0)) for item in held), default=0), 0)

    def operator(self, node: str) -> str:
        """R6.24."""
        return str(self.credential(node)["operator"])

    def opened(self, task: str) -> Said | None:
        """Return the commitment of the task, node and epoch of a task's contribution."""
        made = self.contributions.get(task)
        if made is None:
            return None
        wanted = (task, made["node"], made["epoch"])
        return next((c for c in self.of["commitment"] if (c["task"], c["node"], c["epoch"]) == wanted), None)

    def verdicts(self, task: str) -> list[Said]:
        """Return a task's verdicts in log order."""
        return [item for item in self.of["verdict"] if item["task"] == task]

    def answers_of(self, task: str, role: str | None = None) -> list[Said]:
        """Return a task's answers in log order."""
        return [item for item in self.of["answer"] if item["task"] == task and role in (None, item["role"])]


def check_signatures(file: File, case: Case, findings: Findings) -> None:
    """R5.11 and R5.12."""
    for item in case.statements:
        try:
            if item.kind in BY_MARKET:
                key = file.market.public
            elif item.kind in ("job", "reveal"):
                key = from_base64(case.job["buyer"])
            else:
                key = from_base64(case.credential(item["node"])["key"])
            holds = item.envelope.is_signed_by(key)
        except Malformed:
            holds = False
        findings.say("signature", holds)
    findings.say("job.market", case.job["market"] == key_id(file.market.public))


def grade_of(credential: dict[str, Any]) -> int:
    """R6.25."""
    return int(min(max(credential.get("grade_ppm", 10**6), 1), 10**9))


def unit_of(assignment: Said) -> tuple[Any, ...]:
    """R12.2."""
    kind = assignment["kind"]
    if kind == "merge":
        return kind, assignment["round"]
    return (kind, assignment["lane"]) if kind == "command" else (kind, assignment["round"], assignment["lane"])


def attempt_of(task: str) -> int:
    """R1.10."""
    return int(task.rpartition("/a")[2])


def once(items: list[Said], *names: str) -> dict[Any, Said]:
    """R6.21."""
    found: dict[Any, Said] = {}
    for item in items:
        key = tuple(item[name] for name in names) if len(names) > 1 else item[names[0]]
        if key in found:
            raise Malformed("said twice")
        found[key] = item
    return found


def root_of(made: Said) -> str:
    """R9.1, of a contribution or answer."""
    outputs = sorted(made["outputs"], key=lambda item: item["name"])
    return digest(canonical({"ended": made["ended"], "outputs": outputs} if "ended" in made.p else outputs))


def is_ended(case: Case, made: Said) -> bool:
    """R9.11 and R9.13."""
    kind = case.assignments[made["task"]]["kind"]
    if "ended" not in made.p:
        return case.rules == 2 or kind != "command"
    said = made.p["ended"]
    is_own = re.fullmatch(r"exit-(0|[1-9][0-9]{0,2})|signal-[1-9][0-9]?", said) is not None
    if case.rules == 2 or kind == "merge":
        return False
    if kind == "round" and (made["outputs"] or "code" in case.spec["recipe"]):
        return not made["outputs"] and said in CUT
    return said in CUT or is_own


def has_broken_off(case: Case, made: Said | None) -> bool:
    """R9.13."""
    return made is not None and "ended" in made.p and case.assignments[made["task"]]["kind"] == "round"


def is_cut(made: Said) -> bool:
    """R9.12."""
    return made.p.get("ended") in CUT


def output(contribution: Said | None, name: str) -> str | None:
    """Return the digest of an output."""
    listed = contribution["outputs"] if contribution is not None else []
    return next((item["digest"] for item in listed if item["name"] == name), None)


def raw(text: str) -> bytes:
    """R1.5: a digest or hex32 as its bytes."""
    return bytes.fromhex(text[-64:])


def hashes(value: Any) -> list[bytes]:
    """R5.1."""
    return [from_base64(item, 32) for item in limited(value, 126)]


def limited(value: Any, limit: int) -> list[Any]:
    """Ask for a list of bounded length."""
    if not isinstance(value, list) or len(value) > limit:
        raise Malformed("not a list, or too long")
    return value
