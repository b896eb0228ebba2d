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
    has_broken_off,
    is_cut,
    is_ended,
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

MAX_MS = 316_224_000_000
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
    runs: dict[str, tuple[str, str]]  # node -> names
    is_late: bool = False

    def is_run(self, answer: Said) -> bool:
        """R9.7."""
        return answer["role"] == "auditor" and any(answer["audit"] in names for names in self.runs.values())


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
            is_drawn = chance(task) * 10**6 < entry.get("audit_ppm", trust["audit_ppm"]) * 2**256
            is_drawn = is_drawn or (self._case.rules == 3 and self.is_foreseen(task))
            is_drawn = is_drawn or has_broken_off(self._case, self._case.contributions.get(task))
            (self.drawn.add if is_drawn else self.drawn.discard)(task)
        if self._case.rules == 2 or not self._last <= set(self._standing):
            return []
        undrawn = sorted(set(self._entries) - self.drawn, key=lambda task: (chance(task), task))
        late = []
        for task in undrawn:
            vouched = {other for other in self.drawn if not self.is_foreseen(other)}
            if self._entries[task]["operator"] not in {self._entries[other]["operator"] for other in vouched}:
                self.drawn.add(task)
                late.append(task)
        standing = set(self._standing.values())
        wanted = self._needed(len(standing))
        for task in undrawn:
            counted = {other for other in standing & self.drawn if not is_first(self._case, other)}
            if task in standing - self.drawn and len(counted) < wanted:
                self.drawn.add(task)
                late.append(task)
        own = {entry["task"] for entry in draw["drawable"]}
        return [self._entries[task] for task in late if task not in own]

    def is_foreseen(self, task: str) -> bool:
        return self._is_last_merge(task) or is_first(self._case, task)

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


def is_first(case: Case, task: str) -> bool:
    """R8.14."""
    spec, lanes = case.spec, case.spec["num_nodes"]
    if case.rules == 2 or spec["trust"]["verify"] == "none" or ("recipe" not in spec and lanes == 1):
        return False
    unit = "r0/l0" if "recipe" in spec else "run/l0"
    return task.rpartition("/a")[0] == f"{case.job_id}/{unit}"


def _select(draw: Said, entry: dict[str, Any], listed: Said, beacon: bytes, *, is_drawn: bool) -> Selection:
    def h(what: str, *more: bytes) -> bytes:
        return H(f"stannary draw {what} v1", beacon, entry["task"].encode(), *more)

    def below(value: bytes, ppm: int) -> bool:
        return int.from_bytes(value, "big") * 10**6 < ppm * 2**256

    found = ranked(entry, listed["candidates"], beacon)
    return Selection(
        draw,
        is_drawn,
        below(h("canary"), 10_000),
        [node for node, _ in found],
        [audit for _, audit in found],
        _audit(entry, beacon, ""),
        {node: (_run(entry, beacon, node, 1), _run(entry, beacon, node, 2)) for node, _ in found},
    )


def ranked(entry: dict[str, Any], candidates: list[dict[str, Any]], beacon: bytes) -> list[tuple[str, str]]:
    """R8.9: nodes in rank order, each with the name of its audit."""

    def chance(node: str) -> bytes:
        return H("stannary draw auditor v1", beacon, entry["task"].encode(), node.encode())

    found: list[tuple[str, str]] = []
    operators: set[str] = {entry["operator"]}
    eligible = [item for item in candidates if item["engine_class"] == entry["engine_class"]]
    for item in sorted(eligible, key=lambda item: (chance(item["node"]), item["node"])):
        if item["operator"] not in operators:
            operators.add(item["operator"])
            found.append((item["node"], _audit(entry, beacon, item["node"])))
    return found


def _run(entry: dict[str, Any], beacon: bytes, of: str, number: int) -> str:
    name = H("stannary draw run name v1", beacon, entry["task"].encode(), of.encode(), str(number).encode())
    return f"{entry['task']}/q{name.hex()[:16]}"


def _audit(entry: dict[str, Any], beacon: bytes, of: str) -> str:
    return (
        f"{entry['task']}/q{H('stannary draw audit name v1', beacon, entry['task'].encode(), of.encode()).hex()[:16]}"
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
        found = [(entry, fresh.pop(entry["commitment_index"], None)) for entry in item["drawable"]]
        far = _far_out(case, [made for _, made in found if made is not None])
        watched = watched_of(case, item)
        for entry, made in found:
            if say("draw.drawable", made is not None) and made is not None:
                more = {"audit_ppm": 10**6} if made.index in far else {}
                say("draw.drawable", entry == _entry(case, made, made.index in watched) | more)
        for made in fresh.values():
            of = case.contributions.get(made["task"])
            is_opened = of is not None and (of["node"], of["epoch"]) == (made["node"], made["epoch"])
            say("draw.held-back", not is_opened)
        covered = max(covered, size)


def _far_out(case: Case, listed: list[Said]) -> set[int]:
    """R8.13."""
    known = [made for made in listed if made["task"] in case.assignments]
    if case.rules == 2 or not known:
        return set()

    def took(made: Said) -> tuple[str, int, int]:
        assignment = case.assignments[made["task"]]
        return assignment["kind"], work_us(case, made, made.index), max(assignment["num_steps"], 1)

    start = min(made.index for made in known)
    opened = [(task, case.opened(task)) for task, item in case.contributions.items() if item.index < start]
    past = [(is_first(case, task), took(made)) for task, made in opened if made is not None]
    far = set()
    for made in known:
        kind, work, steps = took(made)
        beside = [w // n for k, w, n in map(took, known) if k == kind]
        others = [w // n for first, (k, w, n) in past if k == kind and not first]
        others = others or [w // n for _, (k, w, n) in past if k == kind]
        level = min(median(rates) for rates in (beside, others) if rates) * steps
        if 4 * work > 5 * level and work - level > 1_000_000:
            far.add(made.index)
    return far


def median(rates: list[int]) -> int:
    """Return the middle one, of two the lower."""
    return sorted(rates)[(len(rates) - 1) // 2]


def work_us(case: Case, said: Said, index: int) -> int:
    """R14.9."""
    return reading_ms(case, said.p.get("used")) * case.grade(said["node"], index) // 1000


def reading_ms(case: Case, used: dict[str, int] | None) -> int:
    """R9.10."""
    if used is None:
        return 0
    asked = case.spec["resources"]
    wall, waited, cpu = (min(max(used[name], 0), MAX_MS) for name in ("wall_ms", "waited_ms", "cpu_ms"))
    held = min(wall, asked["wall_s"] * 1000) * asked["cpus"]
    return int(min(max(held - waited, cpu), held))


def _entry(case: Case, made: Said, is_watched: bool) -> dict[str, Any]:
    held, assignment = case.in_force(made["node"], made.index), case.assignments.get(made["task"])
    steps = assignment["num_steps"] if assignment else 0
    return {
        "task": made["task"], "node": made["node"], "operator": held["operator"],
        "engine_class": held["engine_class"], "num_steps": steps, "commitment_index": made.index,
        **own_rate(case, made, steps, is_watched=is_watched),
    }  # fmt: skip


def own_rate(case: Case, made: Said, steps: int, *, is_watched: bool = False) -> dict[str, int]:
    """R8.12."""
    trust = case.spec["trust"]
    if can_convict(case) or trust["verify"] == "none":
        return {}
    before = [
        (item.index, case.assignments[task]["num_steps"])
        for task, item in case.contributions.items()
        if item["node"] == made["node"] and item.index < made.index
    ]
    unit, behind = max(steps, 1), 0 if is_watched else sum(steps for _, steps in sorted(before)[-20:])
    least = trust["gain_ppm"] * 10**6 * unit // (trust["detection_ppm"] * (unit + behind)) + 1
    return {"audit_ppm": max(trust["audit_ppm"], min(least, 10**6))}


def watched_of(case: Case, draw: Said) -> dict[int, int]:
    """R8.15: commitment indexes, and what each costs at most."""
    watch = case.lists[draw["candidates"]].p.get("watch") if case.rules == 3 else None
    if watch is None:
        return {}
    made = {item.index: item for item in case.of["commitment"]}
    left, found = watch["usd_micros"], dict[int, int]()
    for entry in draw["drawable"]:
        index = entry["commitment_index"]
        work = work_us(case, made[index], index) if index in made else 0
        price = -(-work * case.spec["trust"]["max_price_usd_micros_per_hour"] // 3_600_000_000)
        if entry["node"] in watch["nodes"] and price <= left:
            left -= price
            found[index] = price
    return found


def extra_of(case: Case, selections: dict[str, Selection]) -> tuple[set[str], int]:
    """R14.13: tasks, and what insurance gives for them at most."""
    listing, tasks, most = _Listing(case), set[str](), 0
    reveals = {item.leaf: item for item in case.of["reveal"]}
    for draw in case.of["draw"]:
        watched = watched_of(case, draw)
        most += sum(watched.values())
        for entry in draw["drawable"] if watched else ():
            task, made = entry["task"], case.opened(entry["task"])
            is_work = made is not None and (made.index, made["node"]) == (entry["commitment_index"], entry["node"])
            if entry["commitment_index"] not in watched or not is_work or made is None:
                continue
            is_due = listing.is_foreseen(task) or has_broken_off(case, case.contributions[task])
            own = own_rate(case, made, entry["num_steps"]).get("audit_ppm")
            alone = own_rate(case, made, entry["num_steps"], is_watched=True).get("audit_ppm")
            if task not in selections or selections[task].is_late or is_due or own is None:
                continue
            value = reveals[draw["reveal"]]["value"]
            beacon = H("stannary beacon v1", raw(value), raw(draw["checkpoint_root"]))
            chance = int.from_bytes(H("stannary draw audit v1", beacon, task.encode()), "big") * 10**6
            if entry.get("audit_ppm") == alone and own * 2**256 <= chance < alone * 2**256:
                tasks.add(task)
    return tasks, most


def _check_candidates(case: Case, findings: Findings) -> None:
    """R8.4."""
    chosen = {node for item in case.of["placement"] for node in item["chosen"]}
    lists = case.rules == 2 or "auditors" in case.spec["trust"]  # R12.19
    for number, item in enumerate(sorted(case.lists.values(), key=lambda item: item.index)):
        findings.say("candidates.index", item["index"] == number)
        inside = [entry["node"] for entry in item["candidates"]]
        outside = [entry["node"] for entry in item["left_out"]]
        in_order = inside == sorted(set(inside)) and outside == sorted(set(outside))
        findings.say("candidates.order", in_order and not set(inside) & set(outside))
        watch = item.p.get("watch")
        if watch is not None:
            has_rates = case.rules == 3 and not can_convict(case) and case.spec["trust"]["verify"] != "none"
            in_order = watch["nodes"] == sorted(set(watch["nodes"])) and watch["nodes"] != []
            findings.say("candidates.watch", has_rates and in_order and watch["usd_micros"] >= 0)
        for entry in item["candidates"]:
            held = case.in_force(entry["node"], item.index) if entry["node"] in case.credentials else None
            said = (entry["operator"], entry["engine_class"])
            is_known = held is not None and said == (held["operator"], held["engine_class"])
            findings.say("candidates.unknown", is_known)
            findings.say(
                "candidates.ineligible", held is None or _may(case, entry["node"], item.index, item.index, lists)
            )
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
            elif selection.is_run(item):
                say("audit.name", item["audit"] in selection.runs.get(item["node"], ()))
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
        findings.say("answer.root", item["root"] == root_of(item))
    findings.say("answer.used", ("used" in item.p) == (case.rules == 3 and item["role"] == "auditor"))
    findings.say("answer.ended", is_ended(case, item))


def _answer_commitment(item: Said) -> str | None:
    """R9.5."""
    if not (is_hex32(item["blind"]) and is_hex32(item["answer"]) and is_digest(item["root"])):
        return None
    parts = (item["node"].encode(), raw(item["blind"]), raw(item["answer"]), raw(item["root"]))
    return H("stannary answer commitment v1", *parts).hex()


def can_convict(case: Case) -> bool:
    """R10.7."""
    spec = case.spec
    is_ours = spec.get("recipe", {}).get("entry", "").startswith("builtin:")
    return "rules" not in spec or (is_ours and "auditors" not in spec["trust"])


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
    listed = _heard(case, contribution, auditors)
    whole = [item for item in listed if not is_cut(item)]
    if is_cut(contribution):
        made = _judge_cut(contribution, prover, listed, closed=closed)
    elif closed and listed and not whole and prover is not None and prover["root"] == contribution["root"]:
        made = Decision("unverified", "cut")
    else:
        made = _judge(contribution, prover, whole, closed=closed, late=late)
    if can_convict(case):
        is_harmless = is_cut(contribution) and made.verdict == "refuted"
        return Decision("unverified", made.reason) if is_harmless else made
    return Decision("unverified" if made.verdict == "refuted" else made.verdict, made.reason, (), made.convicted)


def _heard(case: Case, contribution: Said, auditors: list[Said]) -> list[Said]:
    """R10.1."""
    heard: dict[str, Said] = {}
    for item in auditors:
        operator = case.operator(item["node"])
        if operator != case.operator(contribution["node"]):
            heard.setdefault(operator, item)
    return list(heard.values())


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


def _judge_cut(contribution: Said, prover: Said | None, listed: list[Said], *, closed: bool) -> Decision:
    """R10.9."""
    against = [item for item in listed if not is_cut(item)]
    if len(against) < len(listed):
        return Decision("unverified", "prover-silent" if prover is None else "cut")
    camp = max(([other for other in against if _same(item, other)] for item in against), key=len, default=[])
    if len(camp) >= 2:
        if contribution["ended"] == "wall-limit":
            return Decision("unverified", "two-recomputations-disagree")
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
    runs = [item for item in auditors if selection.is_run(item)]
    heard = [item for item in auditors if item not in runs]
    prover = own[0] if own else None
    if _is_not_audited(case, task, before) and _has_nobody_heard(case, contribution, own, heard):
        made = Decision("verified", "not-audited")
    else:
        made = judge(case, contribution, prover, heard, closed=True, late=selection.is_late)
    earlier = past(case, task, before)
    num = spare(case, selection, contribution, prover, heard, earlier)
    return ask(case, contribution, prover, heard, runs, made, earlier, late=selection.is_late, num_spare=num)


def past(case: Case, task: str, before: int | None = None) -> list[Said]:
    """R10.9: the verdicts before."""
    own = case.verdicts(task)
    if before is None and own:
        before = own[-1].index
    return [item for item in case.of["verdict"] if before is None or item.index < before]


def spare(
    case: Case,
    selection: Selection,
    contribution: Said,
    prover: Said | None,
    auditors: list[Said],
    before: list[Said],
) -> int:
    """R10.14."""
    if not is_first(case, contribution["task"]):
        return 0
    root = contribution["root"]
    for item in _heard(case, contribution, auditors):
        honest = prover is not None and prover["root"] == root and _same(prover, item)
        if is_cut(item) or honest or (prover is None and item["root"] == root):
            continue
        if item["node"] not in selection.ranked:
            return 0
        placed = {case.operator(node) for made in case.of["placement"] for node in made["chosen"]}
        out = {node for said in before for node in (*said["refuted"], *said.p.get("odd", []))}
        behind = selection.ranked[selection.ranked.index(item["node"]) + 1 :]
        return sum(case.operator(node) not in placed and node not in out for node in behind)
    return 0


def ask(
    case: Case,
    contribution: Said,
    prover: Said | None,
    auditors: list[Said],
    runs: list[Said],
    made: Decision,
    before: list[Said],
    *,
    late: bool,
    num_spare: int,
    closed: bool = True,
) -> Decision:
    """R10.10 and R10.12."""
    if can_convict(case) or is_cut(contribution):
        return made
    reasons = {item["reason"] for item in before}
    if reasons & {"not-reproducible", "no-outsider-answered"}:
        return replace(made, odd=())
    heard = [item for item in _heard(case, contribution, auditors) if not is_cut(item)]
    odd = {case.operator(node) for node in made.odd}
    answered = [at for at, item in enumerate(before) if item["reason"] == "four-runs-agree"]
    since = before[answered[-1] + 1 :] if answered else before
    odd |= {case.operator(node) for item in since for node in item.p.get("odd", [])}
    different = {(item["root"], item["answer"]) for item in heard}
    root = contribution["root"]
    if prover is not None and prover["root"] == root:
        different.add((root, prover["answer"]))
    elif all(item["root"] != root for item in heard):
        different.add(("handed in", ""))
    is_opened = (bool(made.odd) and len(odd) >= 2) or len(different) >= 3 or (num_spare >= 2 and not answered)
    if not is_opened:
        return made
    if len(answered) >= 2:
        return Decision("unverified", "no-outsider-answered")
    return _answered(contribution, prover, heard, runs, late=late, closed=closed)


def _answered(
    contribution: Said, prover: Said | None, heard: list[Said], runs: list[Said], *, late: bool, closed: bool
) -> Decision:
    """R10.12."""
    root = contribution["root"]
    nodes = [item["node"] for item in runs]
    twice = [item for item in runs if nodes.count(item["node"]) == 2]
    whole = [item for item in twice if not is_cut(item)]
    found = {(item["root"], item["answer"]) for item in whole}
    if len(found) > 1:
        return Decision("unverified", "not-reproducible")
    if len(twice) < 4:
        return Decision("unverified", "no-outsider-answered") if closed else Decision("pending", "outsiders-awaited")
    if len(whole) < 4:
        return Decision("unverified", "no-outsider-answered")
    (true,) = found
    is_right = root == true[0] and (prover is None or (prover["root"], prover["answer"]) == true)
    wrong = tuple(item["node"] for item in heard if (item["root"], item["answer"]) != true)
    is_verified = is_right and (prover is not None or late)
    odd_nodes = wrong if is_right else (contribution["node"], *wrong)
    return Decision("verified" if is_verified else "unverified", "four-runs-agree", (), odd_nodes)


def as_counted(decisions: dict[str, Decision]) -> dict[str, Decision]:
    """R10.13."""
    if all(made.reason != "not-reproducible" for made in decisions.values()):
        return decisions
    counted = {}
    for task, made in decisions.items():
        good = made.reason == "two-against-two"
        good = good or (made.verdict == "verified" and made.reason in ("agreed", "four-runs-agree"))
        counted[task] = replace(made, verdict="verified" if good else "unverified", odd=())
    return counted


def _is_not_audited(case: Case, task: str, before: int | None) -> bool:
    """R10.4: an auditor had no room for the task, and its prover is not silent."""
    said = [item for item in case.of["silence"] if item["task"] == task and (before is None or item.index < before)]
    untaken = any((item["role"], item["reason"]) == ("auditor", "not-taken") for item in said)
    return case.rules == 3 and untaken and all(item["role"] != "prover" for item in said)


def _has_nobody_heard(case: Case, contribution: Said, own: list[Said], auditors: list[Said]) -> bool:
    operators = {case.operator(item["node"]) for item in auditors} - {case.operator(contribution["node"])}
    return not operators and (not own or own[0]["root"] == contribution["root"])


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
            _check_outsiders(case, task, selection, findings)
    said = [item for item in case.of["silence"] if item["role"] == "auditor"]
    silent = [item["task"] for item in said if item["reason"] != "not-taken"]
    heard = sum(item["role"] == "auditor" for item in case.of["answer"])
    many = len(silent) >= 4 and 2 * len(silent) >= len(silent) + heard
    many = many or any(silent.count(task) > 2 for task in silent)
    findings.say("silence.many", not many, BELOW_POLICY)


def _check_silence(case: Case, file: File, item: Said, selection: Selection, findings: Findings) -> None:
    """R11.2 to R11.4."""
    say = findings.say
    if item["role"] == "auditor":
        is_asked = (item["node"], item["audit"]) in zip(selection.ranked, selection.audits, strict=True)
        is_asked = is_asked or item["audit"] in selection.runs.get(item["node"], ())
    else:
        is_asked = item["node"] == case.contributions[item["task"]]["node"]
        is_asked = is_asked and item["audit"] in (*selection.audits, selection.alone)
    say("silence.party", is_asked)
    say("silence.draw", item["draw"] == selection.draw.leaf and item.index > selection.draw.index)
    asked, deadline, ended = (time(item[name]) for name in ("asked_at", "deadline_at", "ended_at"))
    is_timed = item["reason"] in ("deadline", "not-taken")
    say("silence.time", asked <= min(deadline, ended) and (not is_timed or ended >= deadline))
    taken = item.p.get("taken_at")
    begun = asked if taken is None else time(taken)
    say("silence.time", asked <= begun <= ended)
    if item["awaited"] == "commitment":
        agreed_ms = case.assignments[item["task"]]["num_steps"] * case.step_ms
        done = case.opened(item["task"])
        if done is not None and "used" in done.p:
            took_ms = min(max(done["used"]["wall_ms"], 0), MAX_MS, case.spec["resources"]["wall_s"] * 1000)
            agreed_ms = max(agreed_ms, took_ms)
        say("silence.hasty", (deadline - begun + 1) * 1000 >= agreed_ms * (3 if item["reason"] == "not-taken" else 1))
    if case.rules == 3 and (item["role"], item["awaited"]) == ("auditor", "commitment"):
        must = {"not-taken": False, "deadline": True, "handed-back": True}.get(item["reason"], taken is not None)
        say("silence.taken", must == (taken is not None))
    else:
        say("silence.taken", taken is None and item["reason"] != "not-taken")
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
    answered = {item["node"]: item for item in case.answers_of(task, "auditor") if not selection.is_run(item)}
    heard = {rank: answered[node] for rank, node in enumerate(ranked) if node in answered}
    last = max(heard, default=-1)

    def is_silent(rank: int, before: int) -> bool:
        said = case.silences.get((selection.audits[rank], ranked[rank], "auditor"))
        return said is not None and said.index < before

    def had_no_room(rank: int, before: int) -> bool:
        said = case.silences.get((selection.audits[rank], ranked[rank], "auditor"))
        return is_silent(rank, before) and said is not None and said["reason"] == "not-taken"

    def expect_words(ranks: Iterable[int], before: int) -> None:
        for rank in ranks:
            if is_silent(rank, before):
                findings.say("audit.silent", False, NOTICE)
            else:
                findings.say("audit.skipped", _is_convicted(case, ranked[rank], before))

    def judged(last: int) -> Decision:
        listed = [heard[rank] for rank in sorted(heard) if rank <= last]
        made = judge(case, contribution, prover, listed, closed=False, late=selection.is_late)
        before = past(case, task)
        num = spare(case, selection, contribution, prover, listed, before)
        late = selection.is_late
        return ask(case, contribution, prover, listed, [], made, before, late=late, num_spare=num, closed=False)

    for rank in set(range(last)) - set(heard):
        following = heard[min(later for later in heard if later > rank)]
        own = case.committed.get((following["audit"], following["node"], "auditor"))
        findings.say("audit.skipped", not had_no_room(rank, (own or following).index))
        expect_words([rank], (own or following).index)
    verdicts = case.verdicts(task)
    if not verdicts:
        return
    at = verdicts[-1].index
    is_unaudited = decide(case, task, selection, before=at).reason == "not-audited"
    findings.say("audit.skipped", prover is not None or is_unaudited or _is_prover_silent(case, task, at))
    if judged(last).reason in ("mismatch", "auditor-awaited"):
        behind = list(range(last + 1, len(ranked)))
        closes_at = [rank for rank in behind if had_no_room(rank, at)]
        expect_words([rank for rank in behind if rank <= min(closes_at, default=rank)], at)
    elif selection.canary:
        agreed = next((rank for rank in sorted(heard) if judged(rank).verdict == "verified"), None)
        if agreed is not None and last == agreed:
            behind = [
                rank
                for rank in range(agreed + 1, len(ranked))
                if is_silent(rank, at) or not _is_convicted(case, ranked[rank], at)
            ]
            expect_words(behind[:1], at)


def _is_prover_silent(case: Case, task: str, before: int) -> bool:
    """R11.8 (a)."""
    party = (task, case.contributions[task]["node"], "prover")
    said = [item for item in case.of["silence"] if (item["task"], item["node"], item["role"]) == party]
    return any(item.index < before for item in said)


def _check_outsiders(case: Case, task: str, selection: Selection, findings: Findings) -> None:
    """R11.11 and R11.12."""
    contribution, say = case.contributions[task], findings.say
    provers = [item for item in case.answers_of(task, "prover") if item["node"] == contribution["node"]]
    prover = provers[0] if provers else None
    auditors = [item for item in case.answers_of(task, "auditor") if not selection.is_run(item)]
    late = selection.is_late
    made = judge(case, contribution, prover, auditors, closed=False, late=late)
    num = spare(case, selection, contribution, prover, auditors, past(case, task))
    made = ask(case, contribution, prover, auditors, [], made, past(case, task), late=late, num_spare=num, closed=False)
    began: dict[int, int] = {}
    for rank, node in enumerate(selection.ranked):
        parties = [(run, node, "auditor") for run in selection.runs[node]]
        words = [case.committed.get(party) or case.silences.get(party) for party in parties]
        if any(words):
            began[rank] = min(said.index for said in words if said is not None)
    if made.reason != "outsiders-awaited":
        say("question.unasked", not began)
        return
    heard = {item["node"] for item in auditors}
    last = -1
    for rank, (node, audit) in enumerate(zip(selection.ranked, selection.audits, strict=True)):
        if node in heard or (audit, node, "auditor") in case.silences:
            last = rank
    verdicts, complete = case.verdicts(task), 0
    for rank, node in list(enumerate(selection.ranked))[last + 1 :]:
        if rank in began:
            say("question.unasked", complete < 2)
            say("question.insider", not _has_part(case, node, began[rank]))
            if all((run, node, "auditor") in case.answers for run in selection.runs[node]):
                complete += 1
            elif verdicts:
                silent = [case.silences.get((run, node, "auditor")) for run in selection.runs[node]]
                say("question.skipped", any(said is not None and said.index < verdicts[-1].index for said in silent))
        elif complete < 2:
            behind = [began[other] for other in began if other > rank]
            if behind or verdicts:
                say("question.skipped", _has_part(case, node, min(behind) if behind else verdicts[-1].index))


def _has_part(case: Case, node: str, before: int) -> bool:
    """R10.11."""
    nodes = {chosen for item in case.of["placement"] if item.index < before for chosen in item["chosen"]}
    nodes |= {item["node"] for item in case.contributions.values() if item.index < before}
    told = case.of["answer-commitment"]
    nodes |= {item["node"] for item in told if item["role"] == "auditor" and item.index < before}
    return case.operator(node) in {case.operator(other) for other in nodes}


def _is_convicted(case: Case, node: str, before: int) -> bool:
    verdicts = [item for item in case.of["verdict"] if item.index < before]
    return any(node in (*item["refuted"], *item.p.get("odd", [])) for item in verdicts)


def check_stopped(case: Case, file: File, reason: str, findings: Findings) -> None:
    """R12.18."""
    seen: set[str] = set()
    for item in case.of["stopped"]:
        assigned, task = case.assignments[item["task"]].index, item["task"]
        findings.say("stopped.reason", case.rules == 3 and reason == "cancelled")
        in_hand = assigned < item.index and task not in case.contributions and task not in seen
        findings.say("stopped.task", in_hand and _may(case, item["node"], assigned, item.index))
        seen.add(task)
        own = [r for r in case.of["reading"] if r.leaf == item["reading"] and r.index < item.index]
        findings.say("stopped.reading", [r["node"] for r in own] == [item["node"]])
        since, until = time(item["since"]), time(item["stopped_at"])
        unseen, sight = file.unseen(assigned), file.seen(item.index)
        earliest = max(time(case.job["submitted_at"]), unseen or 0)
        fits = since <= until and since >= earliest - 300 and (sight is None or until <= sight + 300)
        findings.say("stopped.time", fits)


# --- R12 ---


def check_course(case: Case, file: File, in_result: set[str], late: set[str], findings: Findings) -> None:
    """R12.1 to R12.13."""
    findings.say("statement.void", not case.void, NOTICE)
    _check_placement(case, findings)
    for task, item in case.assignments.items():
        _check_assignment(case, task, item, findings)
        if item["kind"] == MERGE:
            _check_merge(case, item, late if task in in_result else None, findings)
            if case.rules == 3:
                _check_admission(case, item, findings)
    if case.rules == 3:
        _check_attempts(case, findings)
        _check_first(case, findings)
    for task, item in case.contributions.items():
        _check_contribution(case, case.assignments[task], item, findings)
    _check_credentials(case, findings)
    _check_redone(case, findings)
    for item in (*case.of["contribution"], *case.of["answer"], *case.of["reading"]):
        _check_time(case, file, item, findings)


def _check_attempts(case: Case, findings: Findings) -> None:
    """R12.16."""

    def fell(task: str, j: int) -> bool:
        item = case.assignments.get(task)
        if item is None:
            return False
        tasks = case.units[unit_of(item)]
        later = tasks[tasks.index(task) + 1 :]
        return _is_undone(case, task, j) or any(case.assignments[other].index < j for other in later)

    for tasks in case.units.values():
        for number in range(1, len(tasks)):
            before, item = case.assignments[tasks[number - 1]], case.assignments[tasks[number]]
            j, old, made = item.index, before["task"], case.contributions.get(before["task"])
            beneath = [entry["task"] for entry in before.p.get("admitted", [])]
            beneath += [
                task
                for task in case.units.get((MERGE, before["round"] - 1), [])
                if output(case.contributions.get(task), "theta") == before.p.get("theta", 0)
            ]
            rebased = [before.p.get(name) != item.p.get(name) for name in ("theta", "outer")]
            causes = [made is None or made.index > j, _is_undone(case, old, j), *rebased]
            findings.say("assignment.cause", any(causes) or any(fell(task, j) for task in beneath))


def _check_first(case: Case, findings: Findings) -> None:
    """R12.21."""
    if not any(is_first(case, f"{case.job_id}/{unit}/a0") for unit in ("r0/l0", "run/l0")):
        return
    ends = [
        item.index
        for item in case.of["verdict"]
        if is_first(case, item["task"])
        and (item["verdict"] == "verified" or item["reason"] in ("cut", "four-runs-agree"))
    ]
    for task, item in case.assignments.items():
        if not is_first(case, task):
            findings.say("first.unchecked", any(index < item.index for index in ends))


def _is_undone(case: Case, task: str, below: int) -> bool:
    """R12.16: whether a verdict on a task is not `verified`."""
    stands = ("cut",) if case.spec["kind"] == COMMAND else ()
    said = [item for item in case.verdicts(task) if item.index < below]
    if has_broken_off(case, case.contributions.get(task)) and any(item["reason"] == "not-audited" for item in said):
        return True
    return any(item["verdict"] != "verified" and item["reason"] not in stands for item in said)


def _check_admission(case: Case, item: Said, findings: Findings) -> None:
    """R12.17."""
    say, m, lanes = findings.say, item.index, case.spec["num_nodes"]
    stands = []
    for lane in range(lanes):
        tasks = [task for task in case.units.get((ROUND, item["round"], lane), []) if case.assignments[task].index < m]
        if tasks and case.assignments[tasks[-1]].p.get("theta") == item.p.get("theta"):
            stands.append(tasks[-1])
    in_time = [task for task in stands if task in case.contributions and case.contributions[task].index < m]
    taken = {task for task in in_time if not _is_undone(case, task, m)}
    admitted = [entry["task"] for entry in item.p.get("admitted", [])]
    is_whole = len(stands) == lanes and sorted(admitted) == sorted(taken)
    say("merge.admission", is_whole and item.p.get("excluded", []) == sorted(set(stands) - taken))
    say("merge.weight", {entry["weight_ppm"] for entry in item.p.get("admitted", [])} == {10**6})
    if len(in_time) < len(stands):
        say("merge.quorum", len(in_time) >= -(-lanes * 666_667 // 10**6))


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
    say("contribution.root", item["root"] == root_of(item))
    say("contribution.ended", is_ended(case, item))
    say("contribution.steps", item["num_steps"] == assigned["num_steps"])
    held = case.in_force(item["node"], case.said_at(item))
    say("contribution.engine-class", item["engine_class"] == held["engine_class"])
    made = case.opened(item["task"])
    if say("commitment.missing", made is not None) and made is not None:
        say("commitment.order", assigned.index < made.index < item.index)
        say("commitment.opening", made["commitment"] == _commitment(item))
        say("commitment.used", ("used" in made.p) == (case.rules == 3))


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
        say("merge.admitted", "ended" not in made.p)
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


def _check_redone(case: Case, findings: Findings) -> None:
    """R12.15."""
    if can_convict(case):
        return
    for tasks in case.units.values():
        accusers: list[Said] = []
        for task in tasks:
            made = case.contributions.get(task)
            if made is None:
                continue
            known = {case.operator(item["node"]) for item in accusers if item.index < case.assignments[task].index}
            findings.say("redo.accuser", case.operator(made["node"]) not in known)
            if not case.verdicts(task) or case.verdicts(task)[-1]["verdict"] == "verified":
                continue
            provers = [item["answer"] for item in case.answers_of(task) if item["role"] == "prover"]
            for item in case.answers_of(task):
                is_other = item["root"] != made["root"] or any(item["answer"] != answer for answer in provers[:1])
                is_compared = not (is_cut(item) and is_cut(made))
                if item["role"] == "auditor" and is_other and is_compared:
                    accusers.append(item)


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
        until = made.index if case.rules == 2 else case.said_at(made)
        say("placement.ineligible", _may(case, made["node"], case.assignments[task].index, until))
    named = {item["join"] for item in case.of["credential"]}
    say("credential.join", all(item.leaf in named for item in case.of["join"]))
    if case.rules == 3:
        _check_joins(case, findings)


def _check_joins(case: Case, findings: Findings) -> None:
    """R12.14."""
    joins = {item.leaf: item for item in case.of["join"]}
    for held in case.credentials.values():
        findings.say("credential.changed", len({(item["key"], item["operator"]) for item in held}) == 1)
        behind = 0
        for item in held:
            join = joins.get(item["join"])
            is_good = join is not None and behind <= join.index < item.index
            if findings.say("credential.join", is_good) and join is not None:
                behind = join.index
                names = set(join.p) - {"token", "joined_at", "bond_usd_micros", "members"}
                same = all(join[name] == item[name] for name in names)
                members = [[member["name"] for member in of["members"]] for of in (join, item)]
                findings.say("credential.differs", same and members[0] == members[1])
    _check_grades(case, findings)


def _check_grades(case: Case, findings: Findings) -> None:
    """R12.20."""
    powers = {item.leaf: item for item in case.of["power"]}
    for node, held in case.credentials.items():
        tested = False
        for item in held:
            tests = item.p.get("tests", [])
            known = [(powers[t["power"]], t["took_ms"]) for t in tests if t["power"] in powers]
            if not tests:
                findings.say("credential.grade", not tested and not {"grade_ppm", "best_grade_ppm"} & set(item.p))
                continue
            tested = True
            signed = all(power["node"] == node and power.index < item.index for power, _ in known)
            once = len({power["nonce"] for power, _ in known}) == len(known) == len(tests) <= 3
            shown = [_shown(power, took) for power, took in known] or [0]
            stated = (item.p.get("grade_ppm"), item.p.get("best_grade_ppm"))
            findings.say("credential.grade", signed and once and stated == (min(shown), max(shown)))
    named = {test["power"] for item in case.of["credential"] for test in item.p.get("tests", [])}
    findings.say("credential.power", set(powers) <= named)


def _shown(power: Said, took_ms: int) -> int:
    """R6.25."""
    longest = max(took_ms, power["took_ms"], 1)
    shown = max(power["rounds"], 0) * 80 * 10**6 // (max(power["cpus"], 1) * longest)
    return int(min(max(shown, 1), 10**9))


def _may(case: Case, node: str, since: int, until: int, lists: bool = True) -> bool:
    """R12.10: whether a node may work from one index to another; without the lists, judge (R12.19)."""
    held = case.credentials.get(node, [])
    ends = [*(item.index for item in held[1:]), until]
    return any(
        item.index < until
        and end >= since
        and _is_allowed(case.spec, item, (item if case.rules == 3 else held[-1])["ask_usd_micros_per_hour"], lists)
        for item, end in zip(held, ends, strict=False)
    )


def _is_allowed(spec: dict[str, Any], item: Said, ask: int, lists: bool) -> bool:
    trust, resources = spec["trust"], spec["resources"]
    return (
        item["tier"] >= trust["tier"]
        and not (lists and item["operator"] in trust["exclude_operators"])
        and ("root" not in spec or item["engine_class"].endswith(".r" + spec["root"][7:19]))  # R7.11
        and resources.get("engine_class") in (None, item["engine_class"])
        and (not lists or not trust["regions"] or item["jurisdiction"] in trust["regions"])
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
