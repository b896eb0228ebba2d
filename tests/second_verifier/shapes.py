"""What statements and specs look like: R6.2 to R6.19 and section R7."""

from __future__ import annotations

import re
import unicodedata
from decimal import Decimal
from typing import Any

from tests.second_verifier.values import MAX_INT, Malformed, is_digest

T, N, O = "text", "int", "object"  # noqa: E741
TIER = ("T0", "T1", "T2", "T3", "T4")
ROLE = ("prover", "auditor")
VERDICT = ("pending", "verified", "sampled", "attested", "unverified", "not-reproducible", "refuted")
ASSURANCE = ("sampled", "verified", "full")
USED = dict.fromkeys(("wall_ms", "waited_ms", "cpu_ms", "device_ms?"), N)
SPENT = dict.fromkeys(("start_ms", "compute_ms", "link_ms", "idle_ms", "audit_ms"), N)
OUTPUTS = [{"name": T, "digest": T, "size_bytes": N}]
LEFT_OUT = [{"node": T, "reason": T}]
PARTY = {"job": T, "audit": T, "task": T, "role": ROLE, "node": T}
NODE = {
    "node": T, "key": T, "operator": T, "jurisdiction": T, "terms": T, "kind": ("machine", "site"),
    "members": [{"name": T, "tier": TIER}], "engine_class": T, "cpus": N, "memory_bytes": N,
    "ask_usd_micros_per_hour": N,
}  # fmt: skip

KINDS: dict[str, dict[str, Any]] = {
    "join": {**NODE, "token": T, "joined_at": T, "bond_usd_micros?": N},
    "credential": {
        **NODE, "tier": TIER, "attestation": ("software",), "ear_status": T, "bond_usd_micros": N, "join": T,
        "issued_at": T, "expires_at": T, "grade_ppm?": N, "best_grade_ppm?": N, "tests?": [{"power": T, "took_ms": N}],
    },
    "power": {
        "node": T, "nonce": T, "cpus": N, "rounds": N, "root": T, "took_ms": N, "measured_at": T,
    },
    "job": {
        "spec": O, "market": T, "buyer": T, "beacon_tip": T, "beacon_length": N, "nonce": T, "submitted_at": T,
    },
    "placement": {
        "job": T, "chosen": [T], "rejected": LEFT_OUT, "escrow_usd_micros": N, "work_usd_micros": N,
        "audit_usd_micros": N, "placed_at": T,
    },
    "assignment": {
        "job": T, "task": T, "kind": ("round", "merge", "command"), "round": N, "lane": N, "num_steps": N,
        "first_step": N, "tokens": N, "theta?": T, "outer?": T,
        "admitted?": [{"task": T, "root": T, "log_index": N, "weight_ppm": N}], "excluded?": [T],
    },
    "commitment": {"job": T, "task": T, "epoch": N, "node": T, "commitment": T, "used?": USED},
    "contribution": {
        "job": T, "task": T, "epoch": N, "node": T, "assignment": T, "salt": T, "root": T, "outputs": OUTPUTS,
        "engine_class": T, "environment": T, "sandbox": T, "num_steps": N, "spent": SPENT, "metrics": O,
        "finished_at": T, "ended?": T,
    },
    "candidates": {
        "job": T, "index": N, "candidates": [{"node": T, "operator": T, "engine_class": T}], "left_out": LEFT_OUT,
        "fixed_at": T, "watch?": {"nodes": [T], "usd_micros": N},
    },
    "reveal": {
        "job": T, "index": N, "value": T, "checkpoint_size": N, "checkpoint_root": T, "candidates": T,
    },
    "draw": {
        "job": T, "index": N, "reveal": T, "checkpoint_size": N, "checkpoint_root": T, "candidates": T,
        "drawable": [{
            "task": T, "node": T, "operator": T, "engine_class": T, "num_steps": N, "commitment_index": N,
            "audit_ppm?": N,
        }],
    },
    "answer-commitment": {**PARTY, "commitment": T},
    "answer": {
        **PARTY, "blind": T, "answer": T, "root": T, "outputs": OUTPUTS, "spent": SPENT, "answered_at": T,
        "used?": USED, "ended?": T,
    },
    "silence": {
        **PARTY, "draw": T, "awaited": ("commitment", "answer"),
        "reason": ("deadline", "lost", "revoked", "handed-back", "not-taken"), "asked_at": T, "deadline_at": T,
        "ended_at": T, "taken_at?": T,
    },
    "stopped": {"job": T, "task": T, "node": T, "reading": T, "since": T, "stopped_at": T},
    "verdict": {"job": T, "task": T, "node": T, "verdict": VERDICT, "reason": T, "refuted": [T], "odd?": [T]},
    "reading": {"job": T, "node": T, "seq": N, "previous": T, "spent": SPENT, "read_at": T},
    "receipt": {
        "job": T, "job_digest": T, "status": T, "reason": T, "verdict": VERDICT, "verification": T, "evidence": [T],
        "settlement": [{"account": T, "task": T, "reason": T, "usd_micros": N}], "escrow_usd_micros": N,
        "paid_usd_micros": N, "refunded_usd_micros": N,
        "soundness": {
            **dict.fromkeys(("units", "drawn", "audited", "audit_ppm", "required_ppm", "gain_ppm", "detection_ppm"), N),
            "stake_ppm": N, "escape": T, "independence": T, "assurance?": ASSURANCE,
            **dict.fromkeys(("checked?", "unheard?", "operators?", "accomplice_ppm?"), N),
            **dict.fromkeys(("saved_usd_micros?", "lost_usd_micros?"), N),
            **dict.fromkeys(("escape_tenth?", "escape_accomplice?", "escape_tenth_accomplice?"), T),
        },
        "time_split": dict.fromkeys(("useful", "start", "link", "idle", "audit", "churn"), N),
        "engine_classes": [T], "witness": T, "attestation": T, "started_at": T, "finished_at": T,
    },
}  # fmt: skip

SPEC: dict[str, Any] = {
    "name": T, "kind": ("train", "command"), "workdir": [{"path": T, "mode": N, "digest": T, "size_bytes": N}],
    "envs": O, "num_nodes": N,
    "resources": {**dict.fromkeys(("cpus", "memory_bytes", "disk_bytes", "wall_s"), N), "engine_class?": T},
    "inputs": O, "outputs": [T], "budget_usd_micros": N, "setup?": T, "run?": T, "root?": T, "rules?": N,
    "trust": {
        "tier": TIER, "policy": T, "privacy": ("open",), "verify": ("replay", "rerun-compare", "none"),
        "audit_ppm": N, "gain_ppm": N, "detection_ppm": N, "regions": [T], "exclude_operators": [T],
        "max_price_usd_micros_per_hour": N, "assurance?": ASSURANCE, "auditors?": ("listed",),
    },
    "recipe?": {
        "entry": T, "code?": T, "rounds": N, "lanes": N, "inner_steps": [N], "seed": N, "step_ms?": N, "options": O,
        "training": {
            **dict.fromkeys(("batch_size", "microbatch_size", "threads", "warmup_steps", "rewarm_steps"), N),
            **dict.fromkeys(("constant_ppm", "final_lr_ppm"), N), "adamw_names": [T], "dtype": ("float32",),
            "data_order": ("shake256-v1",), "optimizer": ("muon", "adamw"),
            **dict.fromkeys(("muon_lr", "muon_momentum", "adamw_lr", "adamw_beta1", "adamw_beta2"), T),
            **dict.fromkeys(("weight_decay", "outer_lr", "outer_momentum"), T),
        },
    },
}  # fmt: skip
FRACTIONS = (
    "muon_lr", "muon_momentum", "adamw_lr", "adamw_beta1", "adamw_beta2", "weight_decay", "outer_lr", "outer_momentum",
)  # fmt: skip
PICKLES = (".pkl", ".pickle", ".pt", ".pth", ".ckpt", ".joblib", ".dill")


def check(value: Any, shape: Any) -> None:
    """R6.2."""
    if isinstance(shape, dict):
        need(isinstance(value, dict))
        allowed = {name.rstrip("?"): inner for name, inner in shape.items()}
        need(set(value) <= set(allowed) and {name for name in shape if name[-1] != "?"} <= set(value))
        for name, item in value.items():
            check(item, allowed[name])
    elif isinstance(shape, list):
        need(isinstance(value, list) and len(value) <= 20_000)
        for item in value:
            check(item, shape[0])
    elif isinstance(shape, tuple):
        need(isinstance(value, str) and value in shape)
    else:
        need(type(value) is {T: str, N: int, O: dict}[shape])
        need(shape != T or len(value) <= 1_000_000)


def check_spec(spec: Any) -> None:
    """R7.1."""
    check(spec, SPEC)
    name = "[A-Za-z0-9][A-Za-z0-9._-]{0,62}"
    matches(name, spec["name"])
    within(spec["num_nodes"], 1, 256)
    resources = spec["resources"]
    within(resources["cpus"], 1, 1024)
    within(resources["memory_bytes"], 1, MAX_INT)
    within(resources["disk_bytes"], 1, MAX_INT)
    within(resources["wall_s"], 1, 604_800)
    within(spec["budget_usd_micros"], 1, MAX_INT)
    need(len(spec["envs"]) <= 256 and len(spec["inputs"]) <= 64 and len(spec["outputs"]) <= 256)
    for key, value in spec["envs"].items():
        matches("[A-Za-z_][A-Za-z0-9_]{0,127}", key)
        need(isinstance(value, str) and "\0" not in value and len(value) <= 32_768)
    for key, value in spec["inputs"].items():
        matches("[A-Za-z_][A-Za-z0-9_-]{0,62}", key)
        check(value, {"digest": T, "size_bytes": N, "source": T})
        need(is_digest(value["digest"]))
        within(value["size_bytes"], 0, MAX_INT)
        check_line(value["source"])
    patterns = [check_pattern(item) for item in spec["outputs"]]
    need(len(set(patterns)) == len(patterns))
    trust = spec["trust"]
    matches(name, trust["policy"])
    need((trust["verify"] == "replay") == (spec["kind"] == "train"))
    within(trust["audit_ppm"], 0 if trust["verify"] == "none" else 1, 10**6)
    within(trust["gain_ppm"], 1, 10**6)
    within(trust["detection_ppm"], 1, 10**6)
    within(trust["max_price_usd_micros_per_hour"], 1, MAX_INT)
    for names in (trust["regions"], trust["exclude_operators"]):
        need(len(names) <= 256)
        for word in names:
            check_line(word)
    check_workdir(spec)
    if spec["kind"] == "command":
        need("run" in spec and "recipe" not in spec)
        check_line(spec["run"])
    else:
        need("run" not in spec and "recipe" in spec)
        check_recipe(spec)
    need(spec.get("rules", 3) == 3 and ("rules" in spec) == ("assurance" in trust))
    need("auditors" not in trust or "rules" in spec)
    if "engine_class" in resources:
        need("rules" in spec and len(resources["engine_class"]) <= 128)
        matches("[A-Za-z0-9][A-Za-z0-9._+-]*", resources["engine_class"])
    need("root" not in spec or ("rules" in spec and is_digest(spec["root"])))
    need("rules" not in spec or "root" in spec or trust["policy"] == "local")  # R7.11
    if "rules" in spec and trust["verify"] != "none":
        need(trust["audit_ppm"] >= least_rate(spec))


def least_rate(spec: Any) -> int:
    """R7.9."""
    word, recipe = spec["trust"]["assurance"], spec.get("recipe")
    if word != "verified":
        return 1 if word == "sampled" else 10**6
    units = recipe["rounds"] * (recipe["lanes"] + 1) if recipe else spec["num_nodes"]
    faked = max(units // 10, 1)
    low, high = 1, 10**6
    while low < high:
        rate = (low + high) // 2
        low, high = (low, rate) if is_found(spec, rate, faked) else (rate + 1, high)
    return low


def is_found(spec: Any, rate: int, faked: int) -> bool:
    """R7.9."""
    escaping: int = (10**12 - rate * spec["trust"]["detection_ppm"]) ** faked
    return 100 * escaping <= 10 ** (12 * faked)


def check_recipe(spec: Any) -> None:
    """R7.3."""
    recipe, training = spec["recipe"], spec["recipe"]["training"]
    if recipe["entry"].startswith("builtin:"):  # R7.9
        matches("builtin:[a-z][a-z0-9_]{0,30}", recipe["entry"])
        need(is_digest(recipe.get("code")) and not spec["workdir"] and not spec["envs"] and "setup" not in spec)
    else:
        match = re.fullmatch(r"([^:]+\.py):[A-Za-z_][A-Za-z0-9_]*", recipe["entry"])
        need(match is not None and match[1] in {item["path"] for item in spec["workdir"]} and "code" not in recipe)
    within(recipe["rounds"], 1, 5_000)
    need(recipe["lanes"] == spec["num_nodes"] and recipe["rounds"] * (recipe["lanes"] + 1) <= 10_000)
    need(1 <= len(recipe["inner_steps"]) <= 64)
    for steps in recipe["inner_steps"]:
        within(steps, 1, 100_000)
    within(recipe["seed"], 0, 2**32 - 1)
    need(("step_ms" in recipe) == ("rules" not in spec))
    within(recipe.get("step_ms", 1), 1, 3_600_000)
    need(count_options(recipe["options"], 0) <= 4_096)
    within(training["batch_size"], 1, 1_048_576)
    within(training["microbatch_size"], 1, training["batch_size"])
    within(training["threads"], 1, min(1_024, spec["resources"]["cpus"]))
    within(training["warmup_steps"], 0, 10**6)
    within(training["rewarm_steps"], 0, 10**6)
    within(training["constant_ppm"], 0, 10**6)
    within(training["final_lr_ppm"], 0, 10**6)
    for name in FRACTIONS:
        need(len(training[name]) <= 40)
        matches(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]{1,3})?", training[name])
        need(0 <= Decimal(training[name]) <= 1_000)


def count_options(value: Any, level: int) -> int:
    """R7.3."""
    need(level <= 8)
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return 1 + sum(count_options(item, level + 1) for item in inner)


def check_workdir(spec: Any) -> None:
    """R7.5, and what names a file in it."""
    listed = spec["workdir"]
    paths = [item["path"] for item in listed]
    need(paths == sorted(paths))
    files, folders = set(), {}
    for item in listed:
        check_path(item["path"])
        need(item["mode"] in (0o644, 0o755) and is_digest(item["digest"]) and item["size_bytes"] >= 0)
        need(not item["path"].lower().endswith(PICKLES))
        *above, _ = segments = item["path"].split("/")
        for depth in range(1, len(above) + 1):
            folder = "/".join(segments[:depth])
            need(folders.setdefault(folder.casefold(), folder) == folder)
        need(item["path"].casefold() not in files)
        files.add(item["path"].casefold())
    need(not files & set(folders))
    if spec["kind"] == "command":
        need(sum(item["size_bytes"] for item in listed) <= spec["resources"]["disk_bytes"])
    if "setup" in spec:
        need(any(item["path"] == spec["setup"] and item["size_bytes"] <= 1024 * 1024 for item in listed))


def check_path(text: str) -> None:
    """R7.6."""
    segments = text.split("/")
    need(not {"", ".", ".."} & set(segments) and len(segments) <= 32)
    need("\\" not in text and not {"Cc", "Cs"} & set(map(unicodedata.category, text)))
    need(unicodedata.normalize("NFC", text) == text and len(text.encode()) <= 1024)
    need(all(len(segment.encode()) <= 255 for segment in segments))


def check_pattern(text: str) -> tuple[str, ...]:
    """R7.7: what tells it from others."""
    need(0 < len(text) <= 1024 and text[0] not in "/~")
    need(not re.search(r"\$[A-Za-z_{(]", text) and not re.search(r"\{[^{}]*,[^{}]*\}", text))
    segments = [item for item in (text[:-1] if text[-1] == "/" else text).split("/") if item != "."]
    need(not {"", ".."} & set(segments) and all(item == "**" or "**" not in item for item in segments))
    if segments:
        check_path("/".join(segments))
    return tuple(item for at, item in enumerate(segments) if item != "**" or at == 0 or segments[at - 1] != "**")


def check_line(text: str) -> None:
    """R7.2."""
    need(text.strip() != "" and "\0" not in text and len(text) <= 32_768)


def within(value: int, low: int, high: int) -> None:
    """Ask for a number between two ends."""
    need(low <= value <= high)


def matches(pattern: str, text: str) -> None:
    """Ask for a text of this grammar."""
    need(re.fullmatch(pattern, text) is not None)


def need(holds: bool) -> None:
    """Refuse what does not hold."""
    if not holds:
        raise Malformed("not of its shape")
