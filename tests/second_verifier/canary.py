"""Canaries of suspended nodes: section R19."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tests.second_verifier.values import H

STEPS, CORPUS_BYTES, MOST = 20, 16_384, 10_000


@dataclass(frozen=True)
class GivenCanary:
    """An opened answer, its leaf, its node's operator, asks of its credentials since the order, grade of the last."""

    answer: dict[str, Any]
    leaf: str
    operator: str
    asks: Sequence[int]
    grade_ppm: int | None = None


def judge(
    job: str, order: dict[str, Any], assignment: dict[str, Any], heard: Sequence[GivenCanary], said: Any
) -> set[str]:
    """Return the findings of R19; `order` is the predicate of the job statement, `said` that of the canary."""
    text = said["nonce"]
    is_hex = len(text) == 64 and set(text) <= set("0123456789abcdef")
    nonce = bytes.fromhex(text) if is_hex else b""
    if hashlib.sha256(nonce).hexdigest() != order["beacon_tip"] or order["beacon_length"] != 1:
        return {"canary.nonce"}
    spec, task, found = order["spec"], f"{job}/r0/l0/a0", set()
    unit = {
        "job": job, "task": task, "kind": "round", "round": 0, "lane": 0, "num_steps": STEPS, "first_step": 0,
        "tokens": 0,
    }  # fmt: skip
    if not _is_of(nonce, spec) or assignment != unit or (said["job"], said["task"]) != (job, task):
        found.add("canary.order")
    answers = [item.answer for item in heard]
    names = [(a["job"], a["task"], a["audit"], a["role"]) for a in answers]
    wanted = [(job, task, _audit(nonce, task, a["node"]), "auditor") for a in answers]
    once = len({a["node"] for a in answers}) == len(answers)
    if names != wanted or not once or [item.leaf for item in heard] != list(said["heard"]):
        found.add("canary.heard")
    mine = next((item for item in heard if item.answer["node"] == said["node"]), None)
    counted = [
        item
        for at, item in enumerate(heard)
        if item is mine
        or ((mine is None or item.operator != mine.operator) and item.operator not in {h.operator for h in heard[:at]})
    ]
    others = [item for item in counted if item is not mine]
    outcome, reason = said["outcome"], said["reason"]
    paid: list[GivenCanary] = []
    same = [item for item in others if mine is not None and _same(item, mine)]
    camp = max(([b for b in others if _same(a, b)] for a in others), key=len, default=[])
    if outcome == "unanswered":
        holds = mine is None and reason != "replayed"
    elif mine is None:
        holds = False
    elif same:
        holds = (outcome, reason) == ("passed", "agreed")
        paid = [item for item in heard if item is mine or item in same]
    elif len(camp) > 1:
        holds, paid = (outcome, reason) == ("failed", "two-recomputations-disagree"), camp
    elif outcome == "unchecked":
        holds, paid = reason in ("unheard", "no-two-agree"), counted
    else:
        holds = outcome in ("passed", "failed") and reason == "replayed" and len(heard) == 1
        paid = [mine] if outcome == "passed" else []
    if not holds:
        return found | {"canary.outcome"}
    if not _lines_hold(paid, spec["resources"], said["lines"]):
        found.add("canary.lines")
    return found


def _is_of(nonce: bytes, spec: dict[str, Any]) -> bool:
    recipe, corpus = (
        spec.get("recipe", {}),
        hashlib.shake_256(H("stannary canary corpus v1", nonce)).digest(CORPUS_BYTES),
    )
    seed = int.from_bytes(H("stannary canary seed v1", nonce)[:4], "big")
    given = {"digest": f"sha256:{hashlib.sha256(corpus).hexdigest()}", "size_bytes": CORPUS_BYTES, "source": "corpus"}
    trust = spec["trust"]
    return (
        (spec["kind"], spec["num_nodes"], spec["workdir"], spec["envs"], spec["outputs"]) == ("train", 1, [], {}, [])
        and spec["inputs"] == {"corpus": given}
        and (recipe["entry"], recipe["rounds"], recipe["lanes"]) == ("builtin:bytegpt", 1, 1)
        and (recipe["inner_steps"], recipe["seed"], recipe["options"]) == ([STEPS], seed, {})
        and "code" in recipe
        and spec["resources"] == {"cpus": 1, "memory_bytes": 2**30, "disk_bytes": 2**30, "wall_s": 120}
        and (trust["verify"], trust["audit_ppm"], trust["tier"]) == ("replay", 10**6, "T0")
        and (trust["exclude_operators"], trust["regions"], spec["rules"]) == ([], [], 3)
        and "setup" not in spec
        and spec["name"] == "bytegpt"
    )


def _audit(nonce: bytes, task: str, node: str) -> str:
    return f"{task}/q{H('stannary draw audit name v1', nonce, task.encode(), node.encode()).hex()[:16]}"


def _same(one: GivenCanary, other: GivenCanary) -> bool:
    return (one.answer["root"], one.answer["answer"]) == (other.answer["root"], other.answer["answer"])


def _lines_hold(paid: Sequence[GivenCanary], asked: dict[str, Any], lines: Sequence[dict[str, Any]]) -> bool:
    """R19.5."""
    least = min((_work_us(item, asked) for item in paid), default=0)
    prices = [min(-(-least * min(item.asks) // 3_600_000_000), MOST) for item in paid]
    gave = -sum(line["usd_micros"] for line in lines if line["account"] == "insurance")
    if not 0 <= gave <= sum(prices):
        return False
    made, left = [("insurance", "", "canary", -gave)] if gave else [], gave
    for item, price in zip(paid, prices, strict=True):
        gets = min(left, price)
        left -= gets
        made.append((f"operator:{item.operator}", item.answer["audit"], "canary", gets))
    return made == [(x["account"], x["task"], x["reason"], x["usd_micros"]) for x in lines]


def _work_us(item: GivenCanary, asked: dict[str, Any]) -> int:
    used = item.answer.get("used")
    if used is None:
        return 0
    grade = 10**6 if item.grade_ppm is None else min(max(item.grade_ppm, 1), 10**9)
    wall, waited, cpu = (min(max(used[name], 0), 316_224_000_000) for name in ("wall_ms", "waited_ms", "cpu_ms"))
    held = min(wall, asked["wall_s"] * 1000) * asked["cpus"]
    return min(max(held - waited, cpu), held) * grade // 1000
