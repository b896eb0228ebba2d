"""Ruling files: R18.7."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Any

from tests.second_verifier import appeal, log, receipt, shapes
from tests.second_verifier.evidence import (
    BELOW_POLICY,
    Case,
    Ended,
    File,
    Findings,
    Pins,
    Said,
    grade_of,
    hashes,
    root_of,
)
from tests.second_verifier.shapes import N, T
from tests.second_verifier.values import Envelope, H, Malformed, canonical, from_base64, members, read_json, statement

CANDIDATE = {"node": T, "operator": T, "engine_class": T}
APPEAL = {"job": T, "task": T, "node": T, "receipt": T, "candidates": [CANDIDATE], "opened_at": T}
RULING = {
    "job": T, "task": T, "node": T, "appeal": T, "checkpoint_size": N, "checkpoint_root": T,
    "outcome": ("forfeited", "released"), "reason": T, "heard": [T],
    "lines": [{"account": T, "task": T, "reason": T, "usd_micros": N}], "decided_at": T,
}  # fmt: skip
KINDS = {"appeal": APPEAL, **{name: shapes.KINDS[name] for name in ("credential", "answer-commitment", "answer")}}


def verify(data: bytes, pins: Iterable[Pins], now: int) -> set[tuple[str, str]]:
    """Return the findings of a ruling file, with their weights."""
    value, pins = read_json(data), list(pins)
    findings = Findings()
    try:
        members(value, "format", "receipt", "consistency", "ruling", "proof", "drawn", "evidence")
        if value["format"] != "stannary.ruling/v1" or not isinstance(value["proof"], str):
            raise Malformed("not a ruling file")
        if not isinstance(value["receipt"], dict):
            raise Malformed("not a ruling file")
        evidence = _logged(value["evidence"])
        ruled, envelope = log.tlog_proof(value["proof"]), Envelope(value["ruling"])
        members(value["drawn"], "note", "consistency")
        paths = [hashes(value["consistency"]), hashes(value["drawn"]["consistency"])]
        done = receipt.verify(canonical(value["receipt"]), pins, now, allow_unverified=True)
        findings.found |= {item for item in done.findings if item[0] != "receipt.verdict"}
        if findings.refuted or ("log.unknown", BELOW_POLICY) in findings.found:
            return findings.found
        _judge(value, (ruled, envelope, evidence, paths), pins, now, findings)
    except (Malformed, Ended):
        findings.say("ruling.malformed", False)
    return findings.found


def _logged(value: Any) -> list[tuple[Envelope, int, list[bytes]]]:
    if not isinstance(value, list) or len(value) > 64:
        raise Malformed("not a list")
    found = []
    for item in value:
        members(item, "envelope", "index", "path")
        if type(item["index"]) is not int or item["index"] < 0:
            raise Malformed("not an index")
        found.append((Envelope(item["envelope"]), item["index"], hashes(item["path"])))
    indexes = [index for _, index, _ in found]
    if indexes != sorted(set(indexes)):
        raise Malformed("evidence out of order")
    return found


def _judge(value: Any, parts: Any, pins: list[Pins], now: int, findings: Findings) -> None:
    ((index, path, text), envelope, evidence, (to_final, from_drawn)) = parts
    file = File(value["receipt"], pins, now, Findings(), has_floors=False)
    final, drawn = log.note(text), log.note(value["drawn"]["note"])
    for made in (final, drawn):
        log.check_log(made, file.market)
    log.check_consistency(file.final.size, file.final.root, final.size, final.root, to_final)
    log.check_consistency(drawn.size, drawn.root, final.size, final.root, from_drawn)
    at, _ = file._witness_time(final, findings), file._witness_time(drawn, findings)
    findings.say("witness.future", at is None or at <= now + 300, BELOW_POLICY)
    kind, _, said = statement(envelope.payload)
    if not envelope.is_signed_by(file.market.public) or kind != "ruling":
        raise Malformed("not the market's ruling")
    shapes.check(said, RULING)
    log.check_inclusion(envelope.leaf, index, final.size, path, final.root)
    logged = _open(evidence, final, file, findings)
    appeals = [item for item in logged if item.kind == "appeal"]
    if len(appeals) != 1:
        raise Malformed("not one appeal")
    (opened,) = appeals
    findings.say("appeal.receipt", opened["receipt"] == "sha256:" + file.receipt.leaf.hex())
    root = "sha256:" + drawn.root.hex()
    findings.say("ruling.checkpoint", (said["checkpoint_size"], said["checkpoint_root"]) == (drawn.size, root))
    read, blinded, heard = {opened.index}, [], []
    for item in (x for x in logged if x.kind == "answer"):
        made = [
            x for x in logged
            if (x.kind, x.p.get("role"), x.p.get("audit")) == ("answer-commitment", "auditor", item["audit"])
        ]  # fmt: skip
        if not made or made[-1]["node"] != item["node"]:
            raise Malformed("no commitment")
        opens = H(
            "stannary answer commitment v1", item["node"].encode(),
            *(bytes.fromhex(item[name][-64:]) for name in ("blind", "answer", "root")),
        ).hex()  # fmt: skip
        findings.say("answer.opening", made[-1]["commitment"] == opens)
        findings.say("answer.root", root_of(item) == item["root"])
        paper = _paper(logged, item["node"], made[-1].index)
        read |= {item.index, made[-1].index, paper.index}
        blinded.append(made[-1].index)
        heard.append((item, paper))
    findings.say("evidence.list", {item.index for item in logged} == read)
    answered = [item.index for item, _ in heard]
    steps = [file.index, opened.index, drawn.size - 0.5, *sorted(blinded), *answered, index]
    in_turn = not blinded or max(blinded) < min(answered)
    findings.say("ruling.order", steps == sorted(steps) and len(set(steps)) == len(steps) and in_turn)
    case = Case(file.open_evidence())
    convicts = any(said["node"] in item["refuted"] for item in case.verdicts(said["task"]))
    has_two = (said["task"], said["node"]) in appeal.two_stories(case)
    if not findings.say("appeal.dispute", has_two or (said["task"] in case.contributions and convicts)):
        return
    told = [
        appeal.Given(item.p, x["operator"], x["engine_class"], x["ask_usd_micros_per_hour"], item.leaf, grade_of(x.p))
        for item, x in heard
    ]
    _, _, stated = statement(file.receipt.payload)
    dispute = (said["task"], said["node"])
    for fault in appeal.judge(case, dispute, (opened.leaf, opened.p), told, said, stated):
        findings.say(fault, False)


def _open(evidence: Any, final: log.Note, file: File, findings: Findings) -> list[Said]:
    logged: list[Said] = []
    for envelope, index, path in evidence:
        log.check_inclusion(envelope.leaf, index, final.size, path, final.root)
        kind, _, predicate = statement(envelope.payload)
        if kind not in KINDS:
            raise Malformed("of no kind that has a place here")
        shapes.check(predicate, KINDS[kind])
        logged.append(Said(index, "sha256:" + envelope.leaf.hex(), kind, predicate, envelope))
        try:
            key = file.market.public
            if kind not in ("appeal", "credential"):
                key = from_base64(_paper(logged, predicate["node"], index)["key"])
            findings.say("signature", envelope.is_signed_by(key))
        except Malformed:
            findings.say("signature", False)
    return logged


def _paper(logged: list[Said], node: str, index: int) -> Said:
    """Return the last credential of a node below an index."""
    found = [x for x in logged if x.kind == "credential" and x["node"] == node and x.index < index]
    if not found or node_of(found[-1]["key"]) != node:
        raise Malformed("no credential of its own")
    return found[-1]


def node_of(key: Any) -> str:
    """R1.10."""
    return "n-" + hashlib.sha256(from_base64(key)).hexdigest()[:12]
