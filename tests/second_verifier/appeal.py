"""Rulings on disputed bonds: section R18."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tests.second_verifier import receipt, rules
from tests.second_verifier.evidence import Case, raw
from tests.second_verifier.values import H

HEARERS = 3


@dataclass(frozen=True)
class Given:
    """A heard answer, what the hearer's credential says, and the answer's leaf."""

    answer: dict[str, Any]
    operator: str
    engine_class: str
    ask: int
    leaf: str
    grade: int = 10**6


def judge(
    case: Case,
    dispute: tuple[str, str],
    appeal: tuple[str, dict[str, Any]],
    heard: Sequence[Given],
    ruling: dict[str, Any],
    stated: dict[str, Any],
) -> set[str]:
    """Return the findings of R18; `dispute` is a task and a node, `appeal` a leaf and a predicate."""
    (task, node), (leaf, made) = dispute, appeal
    found: set[str] = set()
    told_two = (task, node) in two_stories(case)
    is_disputed = told_two or any(node in item["refuted"] for item in case.verdicts(task))
    if ruling["appeal"] != leaf or not (
        is_disputed and all(_is_about(x, case.job_id, dispute) for x in (made, ruling))
    ):
        found.add("appeal.dispute")
    if told_two:
        return found | _judge_stories(case, dispute, made, heard, ruling, stated)
    nodes = [item["node"] for item in made["candidates"]]
    if nodes != sorted(set(nodes)) or {item["operator"] for item in made["candidates"]} & _involved(case):
        found.add("appeal.candidates")
    contribution = case.contributions[task]
    beacon = H("stannary appeal v1", raw(ruling["checkpoint_root"]), raw(leaf))
    entry = {
        "task": task, "operator": case.operator(contribution["node"]), "engine_class": contribution["engine_class"],
    }  # fmt: skip
    drawn = rules.ranked(entry, made["candidates"], beacon)
    names = dict(drawn)
    answers = [item.answer for item in heard]
    is_asked = all(
        (a["role"], a["job"], a["task"], a["audit"]) == ("auditor", case.job_id, task, names.get(a["node"]))
        for a in answers
    )
    known = {item["node"]: (item["operator"], item["engine_class"]) for item in made["candidates"]}
    if any(known.get(item.answer["node"]) != (item.operator, item.engine_class) for item in heard):
        found.add("appeal.candidates")
    once = len({a["node"] for a in answers}) == len(answers)
    leaves = [item.leaf for item in heard] == list(ruling["heard"])
    if not (is_asked and once and leaves) or (answers and len(drawn) < HEARERS) or len(answers) > HEARERS:
        found.add("appeal.heard")
    camp = max(([b for b in answers if _same(a, b)] for a in answers), key=len, default=[])
    decides = len(camp) > 1
    mine = next((item for item in case.answers_of(task) if item["node"] == node), None)
    accusers = sorted({item["node"] for item in case.answers_of(task)} - {*case.verdicts(task)[-1]["refuted"], node})
    reason, outcome = ruling["reason"], ruling["outcome"]
    if reason not in ("two-of-three", "replayed", "unheard") or (reason == "two-of-three") is not decides:
        found.add("ruling.reason")
    expected = outcome
    if reason == "unheard":
        expected = "released"
    elif reason != "replayed" and decides:
        claim_holds = _same(camp[0], mine) if mine else camp[0]["root"] == contribution["root"]
        expected = "released" if claim_holds else "forfeited"
    elif reason != "replayed":
        return found
    if outcome != expected:
        found.add("ruling.outcome")
    losers = [] if reason == "unheard" else accusers if expected == "released" else [node]
    by_camp = reason not in ("replayed", "unheard")
    paid = [item for item in heard if by_camp and any(item.answer is a for a in camp)]
    if not _lines_hold(case, (task, node), losers, paid, ruling["lines"], stated):
        found.add("ruling.lines")
    return found


def _is_about(item: dict[str, Any], job: str, dispute: tuple[str, str]) -> bool:
    return (item["job"], item["task"], item["node"]) == (job, *dispute)


def two_stories(case: Case) -> set[tuple[str, str]]:
    """R18.8: who said two things about one, and about which task; void statements count here."""
    words: dict[tuple[Any, ...], set[tuple[Any, ...]]] = {}
    for item in case.statements:
        if item.kind in ("commitment", "contribution"):
            key = (item.kind, item["task"], item["node"], item["epoch"])
            said = (item["commitment" if item.kind == "commitment" else "root"],)
        elif item.kind in ("answer-commitment", "answer"):
            key = (item.kind, item["task"], item["node"], item["audit"], item["role"])
            said = (item["commitment"],) if item.kind != "answer" else (item["root"], item["answer"])
        else:
            continue
        words.setdefault(key, set()).add(said)
    return {(key[1], key[2]) for key, said in words.items() if len(said) > 1}


def _judge_stories(
    case: Case,
    dispute: tuple[str, str],
    made: dict[str, Any],
    heard: Sequence[Given],
    ruling: dict[str, Any],
    stated: dict[str, Any],
) -> set[str]:
    """R18.8."""
    found = set()
    if made["candidates"]:
        found.add("appeal.candidates")
    if heard or ruling["heard"]:
        found.add("appeal.heard")
    if ruling["reason"] != "two-statements":
        found.add("ruling.reason")
    if ruling["outcome"] != "forfeited":
        found.add("ruling.outcome")
    if not _lines_hold(case, dispute, [dispute[1]], [], ruling["lines"], {**stated, "settlement": []}):
        found.add("ruling.lines")
    return found


def _same(one: Any, other: Any) -> bool:
    return (one["root"], one["answer"]) == (other["root"], other["answer"])


def _involved(case: Case) -> set[str]:
    nodes = {node for item in case.of["placement"] for node in item["chosen"]}
    kinds = ("commitment", "contribution", "answer", "answer-commitment", "silence")
    nodes |= {item["node"] for kind in kinds for item in case.of[kind]}
    return {case.operator(node) for node in nodes}


def _lines_hold(
    case: Case,
    dispute: tuple[str, str],
    losers: Sequence[str],
    paid: Sequence[Given],
    lines: Sequence[dict[str, Any]],
    stated: dict[str, Any],
) -> bool:
    """R18.5 and R18.6."""
    task, node = dispute
    contribution = case.contributions.get(task)
    agreed = case.ask(contribution) if contribution is not None else 0
    selections = rules.select(case)
    decisions = {name: rules.decide(case, name, selections.get(name)) for name in case.contributions}
    prices = receipt.Prices(case, decisions, stated["reason"])
    took = {line["task"]: -line["usd_micros"] for line in lines if line["account"].startswith("bond:")}
    added = -sum(x["usd_micros"] for x in lines if (x["account"], x["reason"]) == ("insurance", "appeal"))
    if sorted(took) != sorted(losers) or added < 0:
        return False
    for loser, amount in took.items():
        did = [item for item in (*case.contributions.values(), *case.of["answer"]) if item["node"] == loser]
        dearest = max((prices.of(item) for item in did), default=0)
        if not 0 <= amount <= min(case.bond(loser), 100 * dearest):
            return False
    due: list[tuple[str, str, str, int]] = []
    works = [rules.reading_ms(case, item.answer.get("used")) * item.grade // 1000 for item in paid]
    least = min(works, default=None)
    for item in paid:
        due.append((item.operator, item.answer["audit"], "appeal", _cost(least or 0, min(agreed, item.ask))))
    if losers and losers != [node]:
        audit = next((a for a in case.answers_of(task) if (a["node"], a["role"]) == (node, "auditor")), None)
        own = audit if audit is not None else contribution
        amount = prices.of(own) if least is None else min(prices.of(own), _cost(least, case.ask(own)))
        due.append((case.operator(node), audit["audit"] if audit is not None else task, "cleared", amount))
    if added > max(sum(item[3] for item in due) - sum(took.values()), 0):
        return False
    redo = 0
    for line in stated["settlement"]:
        if line["reason"] == "redo" and receipt.cause_of(case, decisions, line["task"]) == node:
            asked = case.ask(case.contributions[line["task"]])
            redo += line["usd_micros"] * min(agreed, asked) // asked
    left, made = sum(took.values()) + added, [(f"bond:{case.operator(n)}", n, "forfeit", -took[n]) for n in losers]
    if added:
        made.append(("insurance", "", "appeal", -added))
    for operator, what_, reason, amount in due:
        gets = min(left, amount)
        left -= gets
        made.append((f"operator:{operator}", what_, reason, gets))
    back = min(left, redo)
    made += [("buyer", "", "redo", back)] if back else []
    made += [("insurance", "", "forfeit", left - back)] if left > back else []
    return made == [(x["account"], x["task"], x["reason"], x["usd_micros"]) for x in lines]


def _cost(work_us: int, ask: int) -> int:
    return -(-work_us * ask // 3_600_000_000)
