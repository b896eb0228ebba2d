"""Result, money, soundness and the receipt itself: sections R13 to R17."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from decimal import ROUND_UP, Decimal, localcontext
from typing import Any

from tests.second_verifier import rules
from tests.second_verifier.evidence import (
    BELOW_POLICY,
    NOTICE,
    REFUTED,
    Case,
    Ended,
    File,
    Findings,
    Pins,
    Said,
    check_signatures,
    is_cut,
    output,
    unit_of,
)
from tests.second_verifier.rules import Decision, Selection, extra_of
from tests.second_verifier.shapes import is_found
from tests.second_verifier.values import MAX_INT, Malformed, NotJson, read_json, time

MAX_BYTES = 64 * 1024 * 1024
NOT_INDEPENDENT = "local, not independent"


@dataclass(frozen=True)
class Outcome:
    """R17.4, and what was computed."""

    findings: frozenset[tuple[str, str]]
    verdict: str
    exit_code: int
    computed: dict[str, Any] | None


def verify(
    data: bytes,
    pins: Iterable[Pins],
    now: int,
    *,
    job_digest: str | None = None,
    allow_unverified: bool = False,
    has_floors: bool = False,
) -> Outcome:
    """R17."""
    if len(data) > MAX_BYTES:
        raise NotJson("too large")
    value = read_json(data)
    findings = Findings()
    verdict, computed = "unverified", None
    try:
        file = File(value, pins, now, findings, has_floors=has_floors)
        stated, subjects = file.open_receipt(findings)
        statements = file.open_evidence()
        findings.say("evidence.list", [item.leaf for item in statements] == stated["evidence"])
        case = Case(statements)
        findings.say("receipt.version", file.rules == case.rules)
        check_signatures(file, case, findings)
        findings.say("receipt.job", (stated["job"], stated["job_digest"]) == (case.job_id, case.job_digest))
        verdict = stated["verdict"]
        if not findings.refuted:  # R17.2
            computed = _judge(file, case, stated, subjects, findings)
            is_enough = allow_unverified or (case.rules == 3 and not has_floors and _is_unasked(case, stated))
            _ask(file, case, stated, findings, job_digest, is_enough=is_enough, takes_any=allow_unverified)
    except Ended:
        pass
    except Malformed:
        findings.say("receipt.malformed", False)
    weights = {weight for _, weight in findings.found}
    exit_code = 3 if REFUTED in weights else 4 if BELOW_POLICY in weights else 0
    if verdict == "not-reproducible" and exit_code != 3:
        exit_code = 100
    return Outcome(frozenset(findings.found), "refuted" if exit_code == 3 else verdict, exit_code, computed)


def _judge(
    file: File, case: Case, stated: dict[str, Any], subjects: list[tuple[str, str]], findings: Findings
) -> dict[str, Any]:
    """R8 to R16.4."""
    selections = rules.select(case)
    decisions = {task: rules.decide(case, task, selections.get(task)) for task in case.contributions}
    result, is_complete, expected = _result(case)
    late = {task for task, selection in selections.items() if selection.is_late}
    rules.check_course(case, file, result, late, findings)
    rules.check_draws(case, file, findings)
    rules.check_audits(case, selections, findings)
    rules.check_verdicts(case, selections, findings)
    rules.check_silences(case, file, selections, findings)
    rules.check_stopped(case, file, stated["reason"], findings)
    used = {item["checkpoint_size"] for item in case.of["reveal"]}
    findings.say("checkpoint.unused", all(made.size in used for made, _ in file.checkpoints))  # R5.13
    counted = rules.as_counted(decisions)
    prices = Prices(case, counted, stated["reason"])
    findings.say("use.apart", not prices.apart(), NOTICE)
    computed = _compute(file, case, stated, selections, counted, (result, is_complete), prices)
    for name, said in computed.items():
        findings.say(f"receipt.{name}", stated[name] == said)
    succeeded = stated["status"] == "succeeded"
    findings.say("receipt.subject", subjects == (expected if succeeded else []))
    findings.say("receipt.status", is_complete or not succeeded)
    submitted, started = time(case.job["submitted_at"]), time(stated["started_at"])
    finished = time(stated["finished_at"])
    findings.say("receipt.span", submitted - 300 <= started <= finished)  # R16.4
    findings.say("receipt.span", file.time is None or finished <= file.time + 300)
    return computed


def _ask(
    file: File,
    case: Case,
    stated: dict[str, Any],
    findings: Findings,
    job_digest: str | None,
    *,
    is_enough: bool,
    takes_any: bool,
) -> None:
    """R16.5 and R16.6."""
    findings.say("receipt.other-job", job_digest in (None, stated["job_digest"]))
    named = [] if stated["witness"] == NOT_INDEPENDENT else stated["witness"].split(", ")
    known = {line[0] for line in file.final.lines} | {key.name for key in file.witnesses}
    findings.say("witness.missing", known.issuperset(named), BELOW_POLICY)
    findings.say("witness.local", bool(file.cosigned & set(file.pins.independent)), NOTICE)
    if not findings.refuted:
        findings.say("receipt.verdict", stated["verdict"] != "refuted")
        word, figures = stated["verdict"], stated["soundness"]
        if word == "not-reproducible":
            return
        if case.rules == 2:
            findings.say("receipt.unverified", word in ("verified", "refuted") or is_enough, BELOW_POLICY)
        elif word == "unverified":
            findings.say("receipt.unverified", is_enough, BELOW_POLICY)
        elif word != "refuted":
            reached = {"sampled": 1, "verified": 3 if figures["checked"] == figures["units"] else 2}[word]
            asked = ("", "sampled", "verified", "full").index(figures["assurance"])
            findings.say("receipt.assurance", reached >= asked or takes_any, BELOW_POLICY)


def _is_unasked(case: Case, stated: dict[str, Any]) -> bool:
    """R16.6."""
    return stated["status"] == "succeeded" and case.spec["trust"]["verify"] == "none"


def _result(case: Case) -> tuple[set[str], bool, list[tuple[str, str]]]:
    """R13: tasks, whether they are complete, subjects."""
    if case.spec["kind"] == "command":
        lanes = case.spec["num_nodes"]
        last = [case.units.get(("command", lane), [None])[-1] for lane in range(lanes)]
        found: set[str] = set()
        subjects: list[tuple[str, str]] = []
        for lane, task in enumerate(last):
            if task is None or task not in case.contributions:
                continue
            found.add(task)
            prefix = f"l{lane}/" if lanes > 1 else ""
            listed = sorted(case.contributions[task]["outputs"], key=lambda item: item["name"])
            subjects += [(prefix + item["name"], item["digest"]) for item in listed]
        is_complete = len(found) == lanes
        return found, is_complete, subjects if is_complete else []
    at = case.spec["recipe"]["rounds"] - 1
    merge: str | None = (case.units.get(("merge", at)) or [None])[-1]
    theta = output(case.contributions.get(merge), "theta") if merge is not None else None
    if theta is None:
        return set(), False, []
    tasks: set[str] = set()
    while True:
        if merge is None or merge not in case.contributions:
            return tasks, False, []
        assignment = case.assignments[merge]
        tasks |= {merge, *(item["task"] for item in assignment.p.get("admitted", []))}
        if at == 0:
            break
        at -= 1
        merge = rules.merge_behind(case, at, assignment.p.get("theta"))
    return tasks, tasks <= set(case.contributions), [("model.safetensors", theta)]


def _compute(
    file: File,
    case: Case,
    stated: dict[str, Any],
    selections: dict[str, Selection],
    decisions: dict[str, Decision],
    result: tuple[set[str], bool],
    prices: Prices,
) -> dict[str, Any]:
    """R16.1 and R16.2."""
    tasks, is_complete = result
    figures = _soundness(case, selections, decisions, prices)
    if case.rules == 3:
        figures |= _worth(case, figures, selections, decisions, tasks, prices)
    is_reproducible = all(made.reason != "not-reproducible" for made in decisions.values())
    lines, escrow, refund = _settle(case, decisions, (stated["reason"] if is_reproducible else "", prices), selections)
    trust = case.spec["trust"]
    verdict = "unverified"
    if not is_reproducible:
        verdict = "not-reproducible"
    elif stated["status"] == "succeeded" and trust["verify"] != "none" and is_complete:
        all_closed = all(decisions[task].reason == "not-drawn" or case.verdicts(task) for task in tasks)
        if any(decisions[task].verdict == "refuted" for task in tasks):
            verdict = "refuted"
        elif all(_stands(case, task, decisions[task]) for task in tasks) and all_closed:
            verdict = "unverified"
            if figures["audit_ppm"] >= figures["required_ppm"] and not figures.get("unheard"):
                verdict = "verified" if case.rules == 2 else "sampled"
            if any(is_cut(case.contributions[task]) for task in tasks):
                verdict = "sampled" if case.rules == 3 and _is_verified(case, figures) else verdict
            elif case.rules == 3 and _is_verified(case, figures):
                verdict = "verified"
    kinds = {held[-1]["attestation"] for held in case.credentials.values()}
    return {
        "job": case.job_id,
        "job_digest": case.job_digest,
        "verdict": verdict,
        "verification": trust["verify"],
        "settlement": lines,
        "escrow_usd_micros": escrow,
        "paid_usd_micros": escrow - refund,
        "refunded_usd_micros": refund,
        "soundness": figures,
        "time_split": _time_split(case, decisions, tasks),
        "engine_classes": sorted({item["engine_class"] for item in case.contributions.values()}),
        "attestation": "NOT hardware-attested" if not kinds or "software" in kinds else ", ".join(sorted(kinds)),
    }


def _stands(case: Case, task: str, decision: Decision) -> bool:
    """R16.2."""
    return decision.verdict == "verified" or (decision.reason == "cut" and is_cut(case.contributions[task]))


# --- R14 ---


def _price(case: Case, item: Said) -> int:
    """R14.2."""
    steps, ask = case.assignments[item["task"]]["num_steps"], case.ask(item)
    if steps < 0 or ask < 0:
        raise Malformed("a negative price")
    return int(-(-steps * case.step_ms * ask // 3_600_000))


class Prices:
    """R14.2 and R14.9."""

    def __init__(self, case: Case, decisions: dict[str, Decision], reason: str) -> None:
        self.case = case
        self.sides: dict[str, list[tuple[str, int]]] = {}  # of a task: names and work of those who are paid
        self.twice: set[str] = set()
        self.beside: set[str] = set()  # audits that are paid and are no side
        self.medians: dict[str, int] = {}
        if case.rules == 2:
            return
        rates: dict[str, list[tuple[bool, int]]] = {}
        for task, decision in decisions.items():
            blamed = (*decision.convicted, *decision.odd)
            audits = [item for item in case.answers_of(task, "auditor") if item["node"] not in blamed]
            self.beside |= {item["audit"] for item in audits if is_cut(item) != is_cut(case.contributions[task])}
            audits = [item for item in audits if item["audit"] not in self.beside]
            sides = [(item["audit"], self.work_us(item, item)) for item in audits]
            self.twice |= {task} if sides else set()
            if _is_payable(decisions, task, case.contributions[task]["node"], reason):
                sides.append((task, self.work_us(case.opened(task), case.contributions[task])))
                if task in self.twice:
                    lowest = min(amount for _, amount in sides)
                    rate = lowest // max(case.assignments[task]["num_steps"], 1)
                    rates.setdefault(self._kind(task), []).append((rules.is_first(case, task), rate))
            self.sides[task] = sides
        for kind, found in rates.items():
            others = [rate for first, rate in found if not first]
            self.medians[kind] = rules.median(others or [rate for _, rate in found])

    def _kind(self, task: str) -> str:
        return str(self.case.assignments[task]["kind"])

    def work_us(self, said: Said | None, of: Said) -> int:
        """R14.9: of what a commitment or an answer says, at the grade of where it was said."""
        return 0 if said is None else rules.work_us(self.case, said, self.case.said_at(of))

    def stopped(self, item: Said) -> int:
        """R14.12."""
        held = [r for r in self.case.of["reading"] if r.leaf == item["reading"]]
        if not held:
            return 0

        def compute(said: Said) -> int:
            return int(min(max(said["spent"]["compute_ms"], 0), rules.MAX_MS))

        own = [c for c in self.case.contributions.values() if c["node"] == item["node"] and c.index < item.index]
        passed = 1000 * (time(item["stopped_at"]) - time(item["since"]) + 1)
        asked = self.case.spec["resources"]
        left = max(compute(held[0]) - sum(map(compute, own)), 0)
        if left:
            left += 1000 * (min(max(time(item["stopped_at"]) - time(held[0]["read_at"]), 0), 6) + 1)
        left = max(min(left, passed), 0)
        grade = self.case.grade(item["node"], item.index)
        amount = min(left, asked["wall_s"] * 1000) * asked["cpus"] * grade // 1000
        return int(-(-amount * self.case.ask_at(item["node"], item.index) // 3_600_000_000))

    def apart(self) -> bool:
        """R14.11."""
        found = []
        for task, listed in self.sides.items():
            sides = dict(listed)
            if task not in sides:
                continue
            steps, kind = self.case.assignments[task]["num_steps"], self._kind(task)
            if task in self.twice:
                found.append((max(sides.values()), min(sides.values())))
            elif kind in self.medians:
                found.append((sides[task], self.medians[kind] * steps))
        return any(4 * high > 5 * low and high - low > 1_000_000 for high, low in found)

    def of(self, said: Said, by: Said | None = None) -> int:
        """Return the price of a contribution, or of an auditor's answer; at the ask of another, if given."""
        case, task, asking = self.case, said["task"], by or said
        if case.rules == 2:
            return _price(case, asking)
        is_audit = "audit" in said.p
        sides = dict(self.sides[task])
        own = self.work_us(said if is_audit else case.opened(task), said)
        if (said["audit"] if is_audit else task) in sides:
            if task in self.twice:
                own = min(sides.values())
            elif self._kind(task) in self.medians:
                own = min(own, self.medians[self._kind(task)] * case.assignments[task]["num_steps"])
        elif is_audit and said["audit"] in self.beside:
            own = min([own, *sides.values()])
        return int(-(-own * case.ask(asking) // 3_600_000_000))


class _Books:
    """R14.5."""

    def __init__(self, escrow: int, bonds: dict[str, int]) -> None:
        if escrow < 0 or any(bond < 0 for bond in bonds.values()):
            raise Malformed("negative money")
        self.left, self.bonds, self.lines = escrow, dict(bonds), list[dict[str, Any]]()
        self.void = set[str]()
        self.insured: dict[str, int] = {}
        self.extra = 0

    def line(self, account: str, task: str, reason: str, amount: int) -> None:
        self.lines.append({"account": account, "task": task, "reason": reason, "usd_micros": amount})

    def pay(
        self, whose: tuple[str, str], task: str, reason: str, price: int, cause: str | None = None, *,
        is_extra: bool = False,
    ) -> None:  # fmt: skip
        node, operator = whose
        from_bond = min(self.bonds.get(cause or "", 0), price)
        if from_bond and cause is not None:
            self.bonds[cause] -= from_bond
        from_insurance = 0 if task in self.void else min(self.insured.get(cause or "", 0), price - from_bond)
        from_extra = min(self.extra, price - from_bond - from_insurance) if is_extra else 0
        self.extra -= from_extra
        from_escrow = min(self.left, price - from_bond - from_insurance - from_extra)
        self.left -= from_escrow
        taken = from_bond + from_insurance + from_extra + from_escrow
        if task in self.void:
            self.line(f"operator:{operator}", task, "void", 0)
            self.line("insurance", task, "void", taken)
            self.insured[node] = self.insured.get(node, 0) + taken
        else:
            self.line(f"operator:{operator}", task, reason, taken)
        if from_insurance and cause is not None:
            self.line("insurance", task, reason, -from_insurance)
            self.insured[cause] -= from_insurance
        if from_extra:
            self.line("insurance", task, "extra", -from_extra)


def _settle(
    case: Case, decisions: dict[str, Decision], more: tuple[str, Prices], selections: dict[str, Selection]
) -> tuple[list[dict[str, Any]], int, int]:
    """R14: lines, escrow, refund."""
    reason, prices = more
    if len(case.of["placement"]) > 1:
        raise Malformed("placed twice")
    escrow = case.of["placement"][0]["escrow_usd_micros"] if case.of["placement"] else 0
    convicted = sorted({node for decision in decisions.values() for node in decision.convicted})
    bonds = {node: case.bond(node) for node in convicted} if case.rules == 2 else {}
    books = _Books(escrow, bonds)
    books.void = _void(case, decisions, reason)
    extra, books.extra = extra_of(case, selections)
    for superseded in (False, True):
        for item in case.contributions.values():
            _pay_work(case, books, item, decisions, (reason, prices), superseded=superseded)
        for item in case.of["stopped"] if not superseded else ():
            books.pay((item["node"], case.operator(item["node"])), item["task"], "stopped", prices.stopped(item))
    for item in case.of["answer"]:
        if item["role"] == "auditor":
            decision, operator = decisions[item["task"]], case.operator(item["node"])
            if item["node"] in (*decision.convicted, *decision.odd):
                books.line(f"operator:{operator}", item["audit"], "withheld", 0)
            else:
                price, accused = prices.of(item), next(iter(decision.convicted), None)
                if case.rules == 3 and accused is not None:
                    price = min(price, prices.of(item, case.contributions[item["task"]]))
                is_extra = item["task"] in extra
                books.pay((item["node"], operator), item["audit"], "audit", price, accused, is_extra=is_extra)
    for node, bond in bonds.items():
        books.line(f"bond:{case.operator(node)}", node, "forfeit", -bond)
        if books.bonds[node]:
            books.line("insurance", node, "forfeit", books.bonds[node])
    books.line("buyer", "", "refund", books.left)
    return books.lines, escrow, books.left


def _void(case: Case, decisions: dict[str, Decision], reason: str) -> set[str]:
    """R14.8."""
    lost: set[str] = set()
    for task, decision in decisions.items():
        for node in decision.odd:
            made = case.contributions[task]
            answers = [item for item in case.answers_of(task) if (item["role"], item["node"]) == ("auditor", node)]
            odd = made.index if made["node"] == node else answers[0].index
            units = [
                (item.index, name)
                for name, item in case.contributions.items()
                if item["node"] == node and _is_payable(decisions, name, node, reason)
            ]
            audits = [
                (item.index, item["audit"])
                for item in case.of["answer"]
                if (item["role"], item["node"]) == ("auditor", node)
                and node not in (*decisions[item["task"]].convicted, *decisions[item["task"]].odd)
            ]
            for items in (sorted(units), sorted(audits)):
                lost |= {name for index, name in items if index < odd and _num(items, index, odd) < 20}
                lost |= {name for index, name in items if index > odd and _num(items, odd, index) < 20}
    return lost


def _num(items: list[tuple[int, str]], low: int, high: int) -> int:
    """Return how many items stand between two log indexes."""
    return sum(low < index < high for index, _ in items)


def _is_payable(decisions: dict[str, Decision], task: str, node: str, reason: str) -> bool:
    """R14.3."""
    decision = decisions[task]
    if decision.reason == "not-audited" and any(node in (*each.convicted, *each.odd) for each in decisions.values()):
        return False
    unasked = (decision.reason, reason) == ("auditor-awaited", "buyer-silent")
    return decision.verdict == "verified" or (
        decision.verdict == "unverified" and (decision.reason in ("verification-none", "cut") or unasked)
    )


def _pay_work(
    case: Case,
    books: _Books,
    item: Said,
    decisions: dict[str, Decision],
    more: tuple[str, Prices],
    *,
    superseded: bool,
) -> None:
    """R14.3 and the first two of R14.5."""
    task, node = item["task"], item["node"]
    assignment = case.assignments[task]
    reason, prices = more
    price, operator = prices.of(item), case.operator(node)
    is_superseded = case.units[unit_of(assignment)][-1] != task
    if not _is_payable(decisions, task, node, reason):
        if not superseded:
            books.line(f"operator:{operator}", task, "withheld", 0)
    elif is_superseded and superseded:
        books.pay((node, operator), task, "redo", price, cause_of(case, decisions, task))
    elif not is_superseded and not superseded:
        books.pay((node, operator), task, "merge" if assignment["kind"] == "merge" else "work", price)


def cause_of(case: Case, decisions: dict[str, Decision], task: str) -> str | None:
    """R14.6."""

    def fault(of: str) -> str | None:
        node, made = str(case.contributions[of]["node"]), decisions[of]
        return node if made.verdict == "refuted" or node in made.odd else None

    current: str | None = task
    while current is not None:
        assignment = case.assignments[current]
        listed = [item["task"] for item in assignment.p.get("admitted", []) if item["task"] in decisions]
        for of in listed:
            if fault(of) is not None:
                return fault(of)
        at = assignment["round"]
        current = rules.merge_behind(case, at - 1, assignment.p.get("theta")) if at else None
        if current is not None and fault(current) is not None:
            return fault(current)
    return None


# --- R15 ---


def _soundness(
    case: Case, selections: dict[str, Selection], decisions: dict[str, Decision], prices: Prices
) -> dict[str, Any]:
    """R15.1 to R15.3."""
    trust = case.spec["trust"]
    dearest: Counter[str] = Counter()
    for item in case.contributions.values():
        dearest[item["node"]] = max(dearest[item["node"]], prices.of(item))
    bonds = {node: _bond(case, node, price, prices) for node, price in dearest.items()}
    stakes = [min(max(bonds[node] * 10**6 // max(price, 1), 0), MAX_INT) for node, price in dearest.items()]
    least = min(stakes, default=0)
    stake = least if rules.can_convict(case) else 20 * 10**6
    audit_ppm = 0 if trust["verify"] == "none" else trust["audit_ppm"]
    units = _units(case)
    drawn = [task for task, selection in selections.items() if selection.drawn and task in units]
    gain, detection = trust["gain_ppm"], trust["detection_ppm"]
    return {
        "units": len(units),
        "drawn": len(drawn),
        "audited": sum(decisions[task].verdict in ("verified", "refuted") for task in drawn),
        "audit_ppm": audit_ppm,
        "required_ppm": gain * 10**12 // (detection * (stake + 10**6)) + 1,
        "gain_ppm": gain,
        "detection_ppm": detection,
        "stake_ppm": least,
        "escape": f"{Decimal(10**6 - audit_ppm) / 10**6:.6f}",
        "independence": "declared",
    }


def _bond(case: Case, node: str, dearest: int, costs: Prices) -> int:
    """R15.1."""
    if rules.can_convict(case):
        return case.bond(node) if case.rules == 2 else min(case.bond(node), 100 * dearest)
    prices = [costs.of(item) for item in case.contributions.values() if item["node"] == node]
    prices.remove(max(prices))
    return sum(prices[-20:])


def _units(case: Case) -> set[str]:
    """R15.3."""
    made = set(case.contributions)
    return made if case.rules == 2 else made & {tasks[-1] for tasks in case.units.values()}


def _worth(
    case: Case,
    figures: dict[str, Any],
    selections: dict[str, Selection],
    decisions: dict[str, Decision],
    tasks: set[str],
    costs: Prices,
) -> dict[str, Any]:
    """R15.7."""
    drawn = {task for task, selection in selections.items() if selection.drawn} & _units(case)
    unsettled = {task for task in drawn & tasks if decisions[task].verdict not in ("verified", "refuted")}
    unheard = [task for task in drawn if decisions[task].reason == "not-audited"]
    known = {"checked": len(drawn) - len(unsettled) - len(unheard), "unheard": len(unheard)}
    known["audited"] = figures["audited"] - len(unheard)
    groups = []
    for draw in case.of["draw"]:
        for name in {entry["engine_class"] for entry in draw["drawable"]}:
            listed = case.lists[draw["candidates"]]["candidates"]
            groups.append(Counter(item["operator"] for item in listed if item["engine_class"] == name).most_common())
    shares = [
        -(-found[0][1] * 10**6 // (sum(number for _, number in found) - found[1][1])) if len(found) > 1 else 10**6
        for found in groups
    ]
    accomplice = max(shares, default=10**6)
    prices: dict[str, int] = {}
    for item in case.contributions.values():
        prices[item["node"]] = max(prices.get(item["node"], 0), costs.of(item))
    bonds = {node: _bond(case, node, price, costs) for node, price in prices.items()}

    def stake(node: str) -> tuple[int, str]:
        return min(max(bonds[node] * 10**6 // max(prices[node], 1), 0), MAX_INT), node

    weakest = min(prices, key=stake, default=None)
    price, bond = (prices[weakest], bonds[weakest]) if weakest is not None else (0, 0)
    whole = 0 < figures["units"] == known["checked"]
    heard = figures["audit_ppm"]
    if drawn:
        heard = heard * (len(drawn) - len(unheard)) // len(drawn)
    rate = 10**6 if whole else heard
    return {
        **known,
        "escape": _up(Decimal(10**6 - rate) / 10**6),
        "assurance": case.spec["trust"]["assurance"],
        "escape_tenth": _escape(figures | known, 10**5, 0),
        "operators": min((len(found) for found in groups), default=0),
        "accomplice_ppm": accomplice,
        "escape_accomplice": _up(1 - Decimal(rate) * (10**6 - accomplice) / 10**12),
        "escape_tenth_accomplice": _escape(figures | known, 10**5, accomplice),
        "saved_usd_micros": price * figures["gain_ppm"] // 10**6,
        "lost_usd_micros": min(max(bond + price, 0), MAX_INT),
    }


def _rate(figures: dict[str, Any]) -> int:
    """R15.4."""
    if figures["checked"] == figures["units"]:
        return 10**6
    return int(min(figures["audit_ppm"], figures["checked"] * 10**6 // figures["units"]))


def _escape(figures: dict[str, Any], share: int, accomplice: int) -> str:
    """R15.4."""
    if not figures["units"]:
        return "1.000000"
    num = max(-(-figures["units"] * share // 10**6) - figures.get("unheard", 0), 0)
    found = _rate(figures) * figures["detection_ppm"] * (10**6 - accomplice)
    with localcontext() as context:
        context.prec = 60
        return _up((1 - Decimal(found) / 10**18) ** num)


def _up(value: Decimal) -> str:
    return f"{value.quantize(Decimal('0.000001'), ROUND_UP):f}"


def _is_verified(case: Case, figures: dict[str, Any]) -> bool:
    """R15.8."""
    units = figures["units"]
    if not units:
        return False
    return figures["checked"] == units or is_found(
        case.spec, _rate(figures), max(-(-units // 10) - figures["unheard"], 0)
    )


def _time_split(case: Case, decisions: dict[str, Decision], tasks: set[str]) -> dict[str, int]:
    """R15.5 and R15.6."""

    def ms(value: int) -> int:
        return min(max(value, 0), rules.MAX_MS)

    useful: Counter[str] = Counter()
    for task in tasks:
        made = case.contributions.get(task)
        if made is not None and decisions[task].verdict != "refuted":
            useful[made["node"]] += ms(made["spent"]["compute_ms"])
    last: dict[str, Said] = {}
    for item in case.of["reading"]:
        if item["node"] not in last or item["seq"] > last[item["node"]]["seq"]:
            last[item["node"]] = item
    parts = {"useful": sum(useful.values())}
    for name in ("start", "link", "idle", "audit"):
        parts[name] = sum(ms(item["spent"][f"{name}_ms"]) for item in last.values())
    parts["churn"] = sum(max(ms(item["spent"]["compute_ms"]) - useful[node], 0) for node, item in last.items())
    total = sum(parts.values())
    if total == 0:
        return {name: 10_000 if name == "idle" else 0 for name in parts}
    shares = {name: part * 10_000 // total for name, part in parts.items()}
    for name in sorted(parts, key=lambda name: -(parts[name] * 10_000 % total))[: 10_000 - sum(shares.values())]:
        shares[name] += 1
    return shares
