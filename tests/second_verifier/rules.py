"""Draws, audits, verdicts, silences and the course of the job: sections R8 to R12."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

from tests.second_verifier.evidence import (
    BELOW_POLICY,
    NOTICE,
    Case,
    File,
    Findings,
    Said,
    attempt_of,
    output,
    raw,
    root_of,
    unit_of,
)
from tests.second_verifier.shapes import is_found
from tests.second_verifier.values import (
    H,
    Malformed,
    canonical,
    digest,
    from_base64,
    is_digest,
    is_hex32,
    time,
)

MERGE, ROUND, COMMAND = "merge", "round", "command"


@dataclass(frozen=True)
class Selection:
    """R8.9, and the draw of the task."""

    draw: Said
    drawn: bool
    canary: bool
    ranked: list[str]  # nodes
    audits: list[str]
    alone: str
    is_late: bool = False


@dataclass(frozen=True)
class Decision:
    """R10."""

    verdict: str
    reason: str
    convicted: tuple[str, ...] = ()
    odd: tuple[str, ...] = ()


# --- R8 ---


def select(case: Case) -> dict[str, Selection]:
    """R8.5, R8.8 to R8.11."""
    listing = _Listing(case)
    reveals = {item.leaf: item for item in case.of["reveal"]}
    selected: dict[str, Selection] = {}
    for item in case.of["draw"]:
        reveal, listed = reveals.get(item["reveal"]), case.lists.get(item["candidates"])
        if reveal is None or listed is None or not is_hex32(reveal["value"]) or not is_digest(item["checkpoint_root"]):
            raise Malformed("a draw of nothing")
        beacon = H("stannary beacon v1", raw(reveal["value"]), raw(item["checkpoint_root"]))
        for entry in item["drawable"]:
            if entry["num_steps"] < 1:
                raise Malformed("a task without steps")
        late = listing.take(item, beacon)
        for entry in (*item["drawable"], *late):
            made = case.opened(entry["task"])
            if made is not None and (made.index, made["node"]) == (entry["commitment_index"], entry["node"]):
                selection = _select(item, entry, listed, beacon, is_drawn=entry["task"] in listing.drawn)
                if entry in late:
                    selected[entry["task"]] = replace(selection, is_late=True)
                else:
                    selected.setdefault(entry["task"], selection)
    return selected


class _Listing:
    """R8.11: what has been listed, and what of it is drawn."""

    def __init__(self, case: Case) -> None:
        self._case = case
        self._entries: dict[str, dict[str, Any]] = {}
        self._standing: dict[str, str] = {}
        self.drawn: set[str] = set()
        job, spec = case.job_id, case.spec
        self._last = {f"{job}/run/l{lane}" for lane in range(spec["num_nodes"])}
        if "recipe" in spec:
            self._last = {f"{job}/r{spec['recipe']['rounds'] - 1}/merge"}

    def take(self, draw: Said, beacon: bytes) -> list[dict[str, Any]]:
        """Note what a draw lists; return the late entries."""

        def chance(task: str) -> int:
            return int.from_bytes(H("stannary draw audit v1", beacon, task.encode()), "big")

        trust = self._case.spec["trust"]
        for entry in draw["drawable"]:
            task, unit = entry["task"], entry["task"].rpartition("/a")[0]
            self._entries[task], self._standing[unit] = entry, task
            is_drawn = chance(task) * 10**6 < trust["audit_ppm"] * 2**256
            is_drawn = is_drawn or (self._case.rules == 3 and self._is_last_merge(task))
            (self.drawn.add if is_drawn else self.drawn.discard)(task)
        if self._case.rules == 2 or not self._last <= set(self._standing):
            return []
        undrawn = sorted(set(self._entries) - self.drawn, key=lambda task: (chance(task), task))
        late = []
        for task in undrawn:
            vouched = {other for other in self.drawn if not self._is_last_merge(other)}
            if self._entries[task]["operator"] not in {self._entries[other]["operator"] for other in vouched}:
                self.drawn.add(task)
                late.append(task)
        standing = set(self._standing.values())
        wanted = self._needed(len(standing))
        for task in undrawn:
            if task in standing - self.drawn and len(standing & self.drawn) < wanted:
                self.drawn.add(task)
                late.append(task)
        own = {entry["task"] for entry in draw["drawable"]}
        return [self._entries[task] for task in late if task not in own]

    def _is_last_merge(self, task: str) -> bool:
        unit = task.rpartition("/a")[0]
        return unit.endswith("/merge") and unit in self._last

    def _needed(self, num: int) -> int:
        spec = self._case.spec
        word = spec["trust"]["assurance"]
        if word != "verified":
            return 0 if word == "sampled" else num
        enough = (k for k in range(1, num + 1) if is_found(spec, k * 10**6 // num, -(-num // 10)))
        return next(enough, num)


def _select(draw: Said, entry: dict[str, Any], listed: Said, beacon: bytes, *, is_drawn: bool) -> Selection:
    def h(what: str, *more: bytes) -> bytes:
        return H(f"stannary draw {what} v1", beacon, entry["task"].encode(), *more)

    def below(value: bytes, ppm: int) -> bool:
        return int.from_bytes(value, "big") * 10**6 < ppm * 2**256

    def audit(of: str) -> str:
        return f"{entry['task']}/q{h('audit name', of.encode()).hex()[:16]}"

    eligible = [
        item
        for item in listed["candidates"]
        if item["operator"] != entry["operator"] and item["engine_class"] == entry["engine_class"]
    ]
    ranked: list[str] = []
    operators: set[str] = set()
    for item in sorted(eligible, key=lambda item: (h("auditor", item["node"].encode()), item["node"])):
        if item["operator"] not in operators:
            operators.add(item["operator"])
            ranked.append(item["node"])
    return Selection(
        draw,
        is_drawn,
        below(h("canary"), 10_000),
        ranked,
        [audit(node) for node in ranked],
        audit(""),
    )


def check_draws(case: Case, file: File, findings: Findings) -> None:
    """R8.2 to R8.7."""
    say = findings.say
    previous = case.job["beacon_tip"]
    roots = {made.size: "sha256:" + made.root.hex() for made, _ in file.checkpoints}
    for number, item in enumerate(case.of["reveal"]):
        say("reveal.index", item["index"] == number)
        say("reveal.length", number < case.job["beacon_length"])
        is_next = is_hex32(item["value"]) and is_hex32(previous) and digest(raw(item["value"])) == "sha256:" + previous
        say("reveal.chain", is_next)
        previous = item["value"]
        say("reveal.checkpoint", roots.get(item["checkpoint_size"]) == item["checkpoint_root"])
        say("reveal.order", item.index >= item["checkpoint_size"])
        listed = case.lists.get(item["candidates"])
        if say("reveal.candidates", listed is not None) and listed is not None:
            say("reveal.candidates", listed["index"] == item["index"])
            say("candidates.late", listed.index < item["checkpoint_size"])
    _check_candidates(case, findings)
    reveals = {item.leaf: item for item in case.of["reveal"]}
    covered = 0
    for number, item in enumerate(case.of["draw"]):
        say("draw.number", item["index"] == number)
        reveal = reveals[item["reveal"]]
        names = ("index", "checkpoint_size", "checkpoint_root")
        say("draw.checkpoint", all(item[name] == reveal[name] for name in names))
        say("draw.candidates", item["candidates"] == reveal["candidates"])
        say("draw.order", item.index > reveal.index)
        entries = [entry["commitment_index"] for entry in item["drawable"]]
        say("draw.drawable", entries == sorted(set(entries)))
        size = item["checkpoint_size"]
        fresh = {c.index: c for c in case.of["commitment"] if covered <= c.index < size}
        for entry in item["drawable"]:
            made = fresh.pop(entry["commitment_index"], None)
            if say("draw.drawable", made is not None) and made is not None:
                say("draw.drawable", entry == _entry(case, made))
        for made in fresh.values():
            of = case.contributions.get(made["task"])
            is_opened = of is not None and (of["node"], of["epoch"]) == (made["node"], made["epoch"])
            say("draw.held-back", not is_opened)
        covered = max(covered, size)


def _entry(case: Case, made: Said) -> dict[str, Any]:
    held, assignment = case.credential(made["node"]), case.assignments.get(made["task"])
    return {
        "task": made["task"], "node": made["node"], "operator": held["operator"],
        "engine_class": held["engine_class"], "num_steps": assignment["num_steps"] if assignment else 0,
        "commitment_index": made.index,
    }  # fmt: skip


def _check_candidates(case: Case, findings: Findings) -> None:
    """R8.4."""
    chosen = {node for item in case.of["placement"] for node in item["chosen"]}
    for number, item in enumerate(sorted(case.lists.values(), key=lambda item: item.index)):
        findings.say("candidates.index", item["index"] == number)
        inside = [entry["node"] for entry in item["candidates"]]
        outside = [entry["node"] for entry in item["left_out"]]
        in_order = inside == sorted(set(inside)) and outside == sorted(set(outside))
        findings.say("candidates.order", in_order and not set(inside) & set(outside))
        for entry in item["candidates"]:
            held = case.credentials.get(entry["node"])
            said = (entry["operator"], entry["engine_class"])
            is_known = held is not None and said == (held[-1]["operator"], held[-1]["engine_class"])
            findings.say("candidates.unknown", is_known)
            findings.say("candidates.ineligible", held is None or _may(case, entry["node"], item.index, item.index))
            is_good = _has_good(case, entry["node"], item.index, time(item["fixed_at"]))
            findings.say("candidates.expired", held is None or is_good)
        heard = {made["node"] for made in case.contributions.values() if made.index < item.index}
        findings.say("candidates.unlisted", chosen | heard <= {*inside, *outside})


# --- R9 and R10 ---


def check_audits(case: Case, selections: dict[str, Selection], findings: Findings) -> None:
    """R9.6 to R9.9."""
    say = findings.say
    for task in {item["task"] for item in case.of["answer"]}:
        selection = selections.get(task)
        if not say("audit.undrawn", selection is not None and selection.drawn) or selection is None:
            continue
        behind, provers = 0, 0
        for item in case.answers_of(task):
            if item["role"] == "prover":
                provers += 1
                say("audit.prover", item["node"] == case.contributions[task]["node"] and provers == 1)
                say("audit.name", item["audit"] in (*selection.audits, selection.alone))
            elif say("audit.auditor", item["node"] in selection.ranked[behind:]):
                rank = selection.ranked.index(item["node"])
                say("audit.name", item["audit"] == selection.audits[rank])
                behind = rank + 1
            _check_answer(case, item, selection.draw.index, findings)


def _check_answer(case: Case, item: Said, drawn_at: int, findings: Findings) -> None:
    """R9.8 and R9.9."""
    own = case.committed.get((item["audit"], item["node"], item["role"]))
    if not findings.say("answer.commitment", own is not None) or own is None:
        return
    of_audit = [c.index for c in case.of["answer-commitment"] if c["audit"] == item["audit"]]
    if item["role"] == "auditor":
        of_task = (c for c in case.of["answer-commitment"] if c["task"] == item["task"])
        of_audit += [c.index for c in of_task if c["role"] == "prover"]
    findings.say("answer.order", drawn_at < min(of_audit) and max(of_audit) < item.index)
    findings.say("answer.opening", own["commitment"] == _answer_commitment(item))
    if item["role"] == "auditor":
        findings.say("answer.root", item["root"] == root_of(item["outputs"]))


def _answer_commitment(item: Said) -> str | None:
    """R9.5."""
    if not (is_hex32(item["blind"]) and is_hex32(item["answer"]) and is_digest(item["root"])):
        return None
    parts = (item["node"].encode(), raw(item["blind"]), raw(item["answer"]), raw(item["root"]))
    return H("stannary answer commitment v1", *parts).hex()


def can_convict(case: Case) -> bool:
    """R10.7."""
    return "rules" not in case.spec or case.spec.get("recipe", {}).get("entry", "").startswith("builtin:")


def judge(
    case: Case,
    contribution: Said,
    prover: Said | None,
    auditors: list[Said],
    *,
    closed: bool,
    late: bool,
) -> Decision:
    """R10.1 to R10.3, R10.8."""
    heard: dict[str, Said] = {}
    for item in auditors:
        operator = case.operator(item["node"])
        if operator != case.operator(contribution["node"]):
            heard.setdefault(operator, item)
    listed = list(heard.values())
    made = _judge(contribution, prover, listed, closed=closed, late=late)
    if can_convict(case):
        return made
    return Decision("unverified" if made.verdict == "refuted" else made.verdict, made.reason, (), made.convicted)


def _judge(contribution: Said, prover: Said | None, listed: list[Said], *, closed: bool, late: bool) -> Decision:
    if prover is None:
        against = [item for item in listed if item["root"] != contribution["root"]]
        agreeing = [item for item in listed if item not in against]
    else:
        honest = prover["root"] == contribution["root"]
        agreeing = [item for item in listed if honest and _same(prover, item)]
        against = [item for item in listed if item not in agreeing]
    camps = [[other for other in against if _same(item, other)] for item in against]
    camp = max(camps, key=len, default=[])
    if prover is None and agreeing and late and len(camp) < 2:
        against = []  # nobody is convicted by it
    elif prover is None and (agreeing or (closed and len(camp) < 2)):
        return Decision("unverified", "prover-silent")
    if agreeing and len(camp) >= 2:
        return Decision("unverified", "two-against-two")
    if agreeing:
        return Decision("verified", "agreed", tuple(item["node"] for item in against))
    if len(camp) >= 2:
        outside = [item["node"] for item in against if item not in camp]
        return Decision("refuted", "two-recomputations-disagree", (contribution["node"], *outside))
    if closed:
        return Decision("unverified", "no-two-agree" if listed else "no-auditor-answered")
    return Decision("pending", "mismatch" if listed else "auditor-awaited")


def _same(one: Said, other: Said) -> bool:
    return (one["root"], one["answer"]) == (other["root"], other["answer"])


def decide(case: Case, task: str, selection: Selection | None, before: int | None = None) -> Decision:
    """R10.4."""
    if case.spec["trust"]["verify"] == "none":
        return Decision("unverified", "verification-none")
    if selection is None:
        return Decision("unverified", "auditor-awaited")
    if not selection.drawn:
        return Decision("verified", "not-drawn")
    contribution = case.contributions[task]
    answers = [item for item in case.answers_of(task) if before is None or item.index < before]
    own = [item for item in answers if item["role"] == "prover" and item["node"] == contribution["node"]]
    auditors = [item for item in answers if item["role"] == "auditor"]
    return judge(case, contribution, own[0] if own else None, auditors, closed=True, late=selection.is_late)


def check_verdicts(case: Case, selections: dict[str, Selection], findings: Findings) -> None:
    """R10.5 and R10.6."""
    for item in case.of["verdict"]:
        made = case.contributions[item["task"]]
        findings.say("verdict.node", item["node"] == made["node"])
        findings.say("verdict.order", item.index > made.index)
        decision = decide(case, item["task"], selections.get(item["task"]), before=item.index)
        said = (item["verdict"], item["reason"], sorted(item["refuted"]), item.p.get("odd"))
        odd = None if can_convict(case) else list(decision.odd)
        expected = (decision.verdict, decision.reason, sorted(decision.convicted), odd)
        findings.say("verdict.mismatch", said == expected)
    for task, selection in selections.items():
        if not selection.drawn:
            continue
        verdicts = case.verdicts(task)
        if findings.say("verdict.missing", bool(verdicts), BELOW_POLICY):
            decision = decide(case, task, selection)
            last = verdicts[-1]
            said = (last["verdict"], {*last["refuted"], *last.p.get("odd", [])})
            findings.say("verdict.outdated", said == (decision.verdict, {*decision.convicted, *decision.odd}))


# --- R11 ---


def check_silences(case: Case, file: File, selections: dict[str, Selection], findings: Findings) -> None:
    """R11.2 to R11.9."""
    for item in case.of["silence"]:
        selection = selections.get(item["task"])
        if findings.say("silence.undrawn", selection is not None and selection.drawn) and selection is not None:
            _check_silence(case, file, item, selection, findings)
    for task, selection in selections.items():
        if selection.drawn:
            _check_passed_over(case, task, selection, findings)
    silent = [item["task"] for item in case.of["silence"] if item["role"] == "auditor"]
    heard = sum(item["role"] == "auditor" for item in case.of["answer"])
    many = len(silent) >= 4 and 2 * len(silent) >= len(silent) + heard
    many = many or any(silent.count(task) > 2 for task in silent)
    findings.say("silence.many", not many, BELOW_POLICY)


def _check_silence(case: Case, file: File, item: Said, selection: Selection, findings: Findings) -> None:
    """R11.2 to R11.4."""
    say = findings.say
    if item["role"] == "auditor":
        is_asked = (item["node"], item["audit"]) in zip(selection.ranked, selection.audits, strict=True)
    else:
        is_asked = item["node"] == case.contributions[item["task"]]["node"]
        is_asked = is_asked and item["audit"] in (*selection.audits, selection.alone)
    say("silence.party", is_asked)
    say("silence.draw", item["draw"] == selection.draw.leaf and item.index > selection.draw.index)
    asked, deadline, ended = (time(item[name]) for name in ("asked_at", "deadline_at", "ended_at"))
    say("silence.time", asked <= min(deadline, ended) and (item["reason"] != "deadline" or ended >= deadline))
    if item["awaited"] == "commitment":
        agreed_ms = case.assignments[item["task"]]["num_steps"] * case.step_ms
        say("silence.hasty", (deadline - asked + 1) * 1000 >= agreed_ms)
    unseen, seen = file.unseen(selection.draw.index), file.seen(item.index)
    say("silence.time", (unseen is None or asked >= unseen - 300) and (seen is None or ended <= seen + 300))
    party = (item["audit"], item["node"], item["role"])
    committed, answered = case.committed.get(party), case.answers.get(party)
    own = committed if item["awaited"] == "commitment" else answered
    say("silence.false", own is None or own.index > item.index)
    if item["awaited"] == "answer":
        say("silence.awaited", committed is not None and committed.index < item.index)


def _check_passed_over(case: Case, task: str, selection: Selection, findings: Findings) -> None:
    """R11.6 to R11.8."""
    contribution, ranked = case.contributions[task], selection.ranked
    provers = case.answers_of(task, "prover")
    prover = provers[0] if provers else None
    answered = {item["node"]: item for item in case.answers_of(task, "auditor")}
    heard = {rank: answered[node] for rank, node in enumerate(ranked) if node in answered}
    last = max(heard, default=-1)

    def is_silent(rank: int, before: int) -> bool:
        said = case.silences.get((selection.audits[rank], ranked[rank], "auditor"))
        return said is not None and said.index < before

    def expect_words(ranks: Iterable[int], before: int) -> None:
        for rank in ranks:
            if is_silent(rank, before):
                findings.say("audit.silent", False, NOTICE)
            else:
                findings.say("audit.skipped", _is_convicted(case, ranked[rank], before))

    def judged(last: int) -> Decision:
        listed = [heard[rank] for rank in sorted(heard) if rank <= last]
        return judge(case, contribution, prover, listed, closed=False, late=selection.is_late)

    for rank in set(range(last)) - set(heard):
        following = heard[min(later for later in heard if later > rank)]
        own = case.committed.get((following["audit"], following["node"], "auditor"))
        expect_words([rank], (own or following).index)
    verdicts = case.verdicts(task)
    if not verdicts:
        return
    at = verdicts[-1].index
    if prover is None:
        mine = (s for s in case.of["silence"] if (s["task"], s["node"]) == (task, contribution["node"]))
        findings.say("audit.skipped", any(s["role"] == "prover" and s.index < at for s in mine))
    if judged(last).verdict == "pending":
        expect_words(range(last + 1, len(ranked)), at)
    elif selection.canary:
        agreed = next((rank for rank in sorted(heard) if judged(rank).verdict == "verified"), None)
        if agreed is not None and last == agreed:
            behind = [
                rank
                for rank in range(agreed + 1, len(ranked))
                if is_silent(rank, at) or not _is_convicted(case, ranked[rank], at)
            ]
            expect_words(behind[:1], at)


def _is_convicted(case: Case, node: str, before: int) -> bool:
    verdicts = [item for item in case.of["verdict"] if item.index < before]
    return any(node in (*item["refuted"], *item.p.get("odd", [])) for item in verdicts)


# --- R12 ---


def check_course(case: Case, file: File, in_result: set[str], late: set[str], findings: Findings) -> None:
    """R12.1 to R12.13."""
    findings.say("statement.void", not case.void, NOTICE)
    _check_placement(case, findings)
    for task, item in case.assignments.items():
        _check_assignment(case, task, item, findings)
        if item["kind"] == MERGE:
            _check_merge(case, item, late if task in in_result else None, findings)
    for task, item in case.contributions.items():
        _check_contribution(case, case.assignments[task], item, findings)
    _check_credentials(case, findings)
    for item in (*case.of["contribution"], *case.of["answer"], *case.of["reading"]):
        _check_time(case, file, item, findings)


def _check_placement(case: Case, findings: Findings) -> None:
    """R12.1."""
    say = findings.say
    say("placement.twice", len(case.of["placement"]) <= 1)
    for item in case.of["placement"]:
        say("placement.order", item.index > case.job.index)
        say("placement.lanes", len(item["chosen"]) == case.spec["num_nodes"])
        total = item["work_usd_micros"] + item["audit_usd_micros"]
        say("placement.escrow", item["escrow_usd_micros"] == total)
        say("placement.budget", total <= case.spec["budget_usd_micros"])
        say("credential.missing", all(node in case.credentials for node in item["chosen"]))


def _check_assignment(case: Case, task: str, item: Said, findings: Findings) -> None:
    """R12.2 to R12.4."""
    say, recipe, kind = findings.say, case.spec.get("recipe"), item["kind"]
    rounds = recipe["rounds"] if recipe else 1
    in_range = 0 <= item["round"] < rounds and 0 <= item["lane"] < case.spec["num_nodes"]
    if not say("assignment.range", in_range):
        return
    attempt = attempt_of(task)
    middle = {
        ROUND: f"r{item['round']}/l{item['lane']}", MERGE: f"r{item['round']}/merge", COMMAND: f"run/l{item['lane']}",
    }  # fmt: skip
    say("assignment.task", task == f"{case.job_id}/{middle[kind]}/a{attempt}")
    say("assignment.attempt", case.units[unit_of(item)].index(task) == attempt)
    say("assignment.order", item.index > case.job.index)
    if recipe is None:
        say("assignment.steps", (kind, item["num_steps"]) == (COMMAND, 1))
    elif kind == MERGE:
        say("assignment.steps", item["num_steps"] == len(item.p.get("admitted", [])))
    else:
        say("assignment.steps", (kind, item["num_steps"]) == (ROUND, _steps(recipe, item["round"])))
        first = sum(_steps(recipe, before) for before in range(item["round"]))
        say("assignment.first-step", item["first_step"] == first)


def _steps(recipe: dict[str, Any], at: int) -> int:
    listed = recipe["inner_steps"]
    return int(listed[min(at, len(listed) - 1)])


def _check_contribution(case: Case, assigned: Said, item: Said, findings: Findings) -> None:
    """R12.5 and R12.6."""
    say = findings.say
    say("contribution.assignment", item["assignment"] == digest(canonical(assigned.p)))
    say("contribution.root", item["root"] == root_of(item["outputs"]))
    say("contribution.steps", item["num_steps"] == assigned["num_steps"])
    say("contribution.engine-class", item["engine_class"] == case.credential(item["node"])["engine_class"])
    made = case.opened(item["task"])
    if say("commitment.missing", made is not None) and made is not None:
        say("commitment.order", assigned.index < made.index < item.index)
        say("commitment.opening", made["commitment"] == _commitment(item))


def _commitment(item: Said) -> str | None:
    """R9.2."""
    if not (is_hex32(item["salt"]) and is_digest(item["root"])):
        return None
    return H("stannary commitment v1", item["node"].encode(), raw(item["salt"]), raw(item["root"])).hex()


def merge_behind(case: Case, at: int, theta: str | None) -> str | None:
    """R12.8."""
    for task in reversed(case.units.get((MERGE, at), [])):
        made = output(case.contributions.get(task), "theta")
        if made is not None and made == theta:
            return task
    return None


def _check_merge(case: Case, item: Said, late: set[str] | None, findings: Findings) -> None:
    """R12.7 to R12.9."""
    say = findings.say
    admitted, theta = item.p.get("admitted", []), item.p.get("theta")
    indexes = [entry["log_index"] for entry in admitted]
    say("merge.order", bool(admitted) and indexes == sorted(set(indexes)))
    lanes = [case.assignments[entry["task"]]["lane"] for entry in admitted if entry["task"] in case.assignments]
    say("merge.lane-twice", len(set(lanes)) == len(lanes))
    for entry in admitted:
        made, base = case.contributions.get(entry["task"]), case.assignments.get(entry["task"])
        if not say("merge.admitted", made is not None and base is not None and base["kind"] == ROUND):
            continue
        assert made is not None
        assert base is not None
        observed = (entry["root"], entry["log_index"], base["round"], base.p.get("theta"))
        say("merge.admitted", observed == (made["root"], made.index, item["round"], theta))
        say("merge.admitted", made.index < item.index and entry["weight_ppm"] > 0)
        against = (
            v for v in case.verdicts(entry["task"]) if v["verdict"] == "refuted" or v["node"] in v.p.get("odd", [])
        )
        say("merge.convicted", all(v.index > item.index for v in against))
    if item["round"] == 0:
        return
    before = merge_behind(case, item["round"] - 1, theta)
    if not say("merge.base", before is not None) or before is None:
        return
    say("merge.outer", item.p.get("outer") == output(case.contributions[before], "outer"))
    if late is not None:
        earlier = [before, *(entry["task"] for entry in case.assignments[before].p.get("admitted", []))]
        first = [case.verdicts(task)[0].index for task in earlier if task not in late and case.verdicts(task)]
        say("merge.window", all(index < item.index for index in first))


def _check_credentials(case: Case, findings: Findings) -> None:
    """R12.10 and R12.11."""
    say = findings.say
    for node, held in case.credentials.items():
        for item in held:
            say("credential.node", node == "n-" + digest(from_base64(item["key"]))[7:19])
    for item in case.of["placement"]:
        for node in item["chosen"]:
            say("placement.ineligible", _may(case, node, item.index, item.index))
    for task, made in case.contributions.items():
        say("placement.ineligible", _may(case, made["node"], case.assignments[task].index, made.index))
    named = {item["join"] for item in case.of["credential"]}
    say("credential.join", all(item.leaf in named for item in case.of["join"]))


def _may(case: Case, node: str, since: int, until: int) -> bool:
    """R12.10: whether a node may work or judge from one index to another."""
    held = case.credentials.get(node, [])
    ends = [*(item.index for item in held[1:]), until]
    return any(
        item.index < until and end >= since and _is_allowed(case.spec, item, held[-1]["ask_usd_micros_per_hour"])
        for item, end in zip(held, ends, strict=False)
    )


def _is_allowed(spec: dict[str, Any], item: Said, ask: int) -> bool:
    trust, resources = spec["trust"], spec["resources"]
    return (
        item["tier"] >= trust["tier"]
        and item["operator"] not in trust["exclude_operators"]
        and (not trust["regions"] or item["jurisdiction"] in trust["regions"])
        and item["cpus"] >= resources["cpus"]
        and item["memory_bytes"] >= resources["memory_bytes"]
        and ask <= trust["max_price_usd_micros_per_hour"]
    )


def _check_time(case: Case, file: File, item: Said, findings: Findings) -> None:
    """R12.12 and R12.13."""
    at = time(item[{"contribution": "finished_at", "answer": "answered_at", "reading": "read_at"}[item.kind]])
    seen, unseen = file.seen(item.index), file.unseen(case.job.index if item.kind == "reading" else item.index)
    if findings.say("time.future", seen is None or at <= seen + 300):
        findings.say("time.past", unseen is None or at >= unseen - 86_400)
    findings.say("credential.expired", _has_good(case, item["node"], item.index, at))


def _has_good(case: Case, node: str, below: int, at: int) -> bool:
    """R12.13: whether a credential logged below an index was good at a time."""
    held = (c for c in case.credentials.get(node, []) if c.index < below)
    return any(time(c["issued_at"]) - 86_400 <= at <= time(c["expires_at"]) + 300 for c in held)
