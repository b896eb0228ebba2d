"""`job.yaml`, once parsed, to a draft of a job spec.

Rules:
1. Unknown keys are refused, naming the nearest known key; keys and values of later releases are
   refused as "not yet", saying what comes. Nothing is ignored: a misspelt limit is no limit.
2. Wrong types are refused with the path and the observed value. Strings that look like numbers stay
   strings; YAML's `yes`/`on` booleans never pass for text.
3. The text itself (size, duplicate keys, anchors) is the reader's business: sdk/submit.py.

A draft still names its work directory and inputs by path; `Draft.resolve` takes what the client
made of them.
"""

from __future__ import annotations

import dataclasses
import difflib
import re
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import TYPE_CHECKING, TypeVar

from stannary.errors import SpecError
from stannary.formats import jobspec, quantity, training
from stannary.formats.jobspec import (
    Input,
    JobKind,
    JobSpec,
    Privacy,
    Recipe,
    Resources,
    Trust,
    Verification,
)
from stannary.formats.predicates import Tier
from stannary.formats.quantity import show
from stannary.formats.training import Training
from stannary.formats.workdir import Entry

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from stannary.formats.canonical import Json

E = TypeVar("E", bound=StrEnum)

KEYS: Mapping[str, tuple[str, ...]] = {
    "": (
        "name", "kind", "workdir", "setup", "run", "recipe", "envs", "num_nodes", "resources", "inputs", "outputs",
        "trust", "budget",
    ),
    "recipe": ("entry", "rounds", "lanes", "inner_steps", "seed", "step_ms", "options", "training"),
    "recipe.training": tuple(field.name for field in dataclasses.fields(Training)),
    "resources": ("cpus", "memory", "disk", "wall_s", "accelerators"),
    "trust": (
        "tier", "policy", "privacy", "verify", "audit", "gain", "detection", "regions", "exclude_operators",
        "max_price",
    ),
    "inputs.*": ("module", "path"),
}  # fmt: skip

# Words of neighbouring tools that mean one of ours but are spelt too differently for difflib.
SYNONYMS = {
    "cmd": "run",
    "command": "run",
    "commands": "run",
    "nodes": "num_nodes",
    "cost": "budget",
    "region": "regions",
}

LATER: Mapping[str, str] = {
    "secrets": "sealed secrets come with the buyer's key broker",
    "service": "serving models comes with its own command",
    "file_mounts": "sealed data mounts come with the artifact format; use inputs",
    "volumes": "sealed volumes come with the artifact format; use inputs and outputs",
    "image": "container images come later; use setup for a hash-pinned requirements list",
    "ports": "interactive access comes later and will lower the verdict",
    "resources.accelerators": "GPU nodes come with hardware certification; leave it out or write none",
    "trust.privacy": "sealed jobs come with the key broker; write privacy: open",
    "trust.tier": "hardware tiers come with hardware certification; write tier: T0",
    "trust.verify": "attested results come with hardware certification",
    "trust.policy": "named policies come with hardware certification; write policy: local",
}

_COMMAND = re.compile(r"(pip3?|uv|python3?|apt|apt-get|conda|mamba|npm|bash|sh|cd|export|source|sudo|curl|wget)\s")

DEFAULT_MAX_PRICE_USD = 1  # an hour
DEFAULT_BUDGET_USD = 1
DEFAULT_MEMORY_BYTES = 1 << 30
DEFAULT_DISK_BYTES = 256 << 20
DEFAULT_WALL_S = 600
DEFAULT_GAIN = "0.6"  # cheating saves at most 60 % of a task's price (research/verification.md)
DEFAULT_DETECTION = "0.99"
DEFAULT_STEP_MS = 40


@dataclass(frozen=True, slots=True)
class InputSource:
    """Where the client takes an input from: the text of an importable module, or a file."""

    kind: str  # module | path
    name: str


@dataclass(frozen=True, slots=True)
class Draft:
    """A checked spec whose work directory and inputs are not resolved yet."""

    spec: JobSpec
    workdir: str
    inputs: Mapping[str, InputSource]

    def resolve(self, files: Sequence[Entry], inputs: Mapping[str, Input]) -> JobSpec:
        """Return the whole spec; raise SpecError if something it names is missing."""
        if set(inputs) != set(self.inputs):
            raise SpecError("inputs are not those of the draft", why=", ".join(sorted(set(inputs) ^ set(self.inputs))))
        spec = replace(self.spec, workdir=tuple(sorted(files, key=lambda item: item.path)), inputs=dict(inputs))
        jobspec.check_resolved(spec)
        return spec


def parse(value: object) -> Draft:
    """Read a draft from parsed YAML.

    Raises:
        SpecError: whatever is wrong with it.
    """
    top = _section(value, "")
    kind = _choice(top.get("kind", "command" if "run" in top else "train"), "kind", JobKind)
    num_nodes, recipe = _recipe(top, kind)
    spec = JobSpec(
        name=_text(top.get("name", "job"), "name"),
        kind=kind,
        workdir=(),
        setup=_setup(top),
        run=_optional_text(top, "run"),
        recipe=recipe,
        envs=_envs(top.get("envs", {})),
        num_nodes=num_nodes,
        resources=_resources(_section(top.get("resources", {}), "resources")),
        inputs={},
        outputs=_texts(top.get("outputs", []), "outputs"),
        trust=_trust(_section(top.get("trust", {}), "trust"), kind),
        budget_usd_micros=quantity.usd_micros(top.get("budget", DEFAULT_BUDGET_USD), "budget"),
    )
    jobspec.check(spec)
    return Draft(spec, _text(top.get("workdir", "."), "workdir"), _inputs(top.get("inputs", {})))


def _recipe(top: Mapping[str, object], kind: JobKind) -> tuple[int, Recipe | None]:
    members = _section(top["recipe"], "recipe") if "recipe" in top else None
    given = _integer(top["num_nodes"], "num_nodes") if "num_nodes" in top else None
    if members is None:
        return given if given is not None else 1, None
    lanes = _integer(members["lanes"], "recipe.lanes") if "lanes" in members else given
    num_nodes = given if given is not None else lanes
    if "entry" not in members and kind is JobKind.TRAIN:
        raise SpecError("recipe.entry is missing", why="it names the recipe", hint="add: entry: recipe.py:recipe")
    if "rounds" not in members and kind is JobKind.TRAIN:
        raise SpecError("recipe.rounds is missing", why="it says when the job ends", hint="add: rounds: 12")
    return num_nodes if num_nodes is not None else 1, Recipe(
        entry=_text(members.get("entry", ""), "recipe.entry"),
        rounds=_integer(members.get("rounds", 0), "recipe.rounds"),
        lanes=lanes if lanes is not None else 1,
        inner_steps=_integers(members.get("inner_steps", [3, 6, 10]), "recipe.inner_steps"),
        seed=_integer(members.get("seed", 0), "recipe.seed"),
        step_ms=_integer(members.get("step_ms", DEFAULT_STEP_MS), "recipe.step_ms"),
        options=_options(members.get("options", {})),
        training=training.read(
            _training(members.get("training", {})), _integer(members.get("rounds", 0), "recipe.rounds")
        ),
    )


def _setup(members: Mapping[str, object]) -> str | None:
    text = _optional_text(members, "setup")
    if text is not None and ("\n" in text.strip() or _COMMAND.match(text.strip())):
        raise SpecError(
            "setup is a command",
            why=f"{show(text)}; it names a file that lists packages, and the node installs them",
            hint="write the packages into requirements.txt, one a line, then: setup: requirements.txt",
        )
    return text


def _resources(members: Mapping[str, object]) -> Resources:
    if members.get("accelerators") not in (None, "none"):
        raise _not_yet("resources.accelerators", members["accelerators"])
    return Resources(
        cpus=_integer(members.get("cpus", 1), "resources.cpus"),
        memory_bytes=quantity.size_bytes(members.get("memory", DEFAULT_MEMORY_BYTES), "resources.memory"),
        disk_bytes=quantity.size_bytes(members.get("disk", DEFAULT_DISK_BYTES), "resources.disk"),
        wall_s=_integer(members.get("wall_s", DEFAULT_WALL_S), "resources.wall_s"),
    )


def _trust(members: Mapping[str, object], kind: JobKind) -> Trust:
    default_verify = Verification.REPLAY if kind is JobKind.TRAIN else Verification.RERUN_COMPARE
    tier = _choice(members.get("tier", "T0"), "trust.tier", Tier)
    if tier is not Tier.T0:
        raise _not_yet("trust.tier", tier.value)
    policy = _text(members.get("policy", "local"), "trust.policy")
    if policy != "local":
        raise _not_yet("trust.policy", policy)
    return Trust(
        tier=tier,
        policy=policy,
        privacy=_known(members.get("privacy", "open"), "trust.privacy", Privacy, {"sealed"}),
        verify=_known(members.get("verify", default_verify.value), "trust.verify", Verification, {"attested"}),
        audit_ppm=quantity.ppm(members.get("audit", 1), "trust.audit"),
        gain_ppm=quantity.ppm(members.get("gain", DEFAULT_GAIN), "trust.gain"),
        detection_ppm=quantity.ppm(members.get("detection", DEFAULT_DETECTION), "trust.detection"),
        regions=_texts(members.get("regions", []), "trust.regions"),
        exclude_operators=_texts(members.get("exclude_operators", []), "trust.exclude_operators"),
        max_price_usd_micros_per_hour=quantity.usd_micros(
            members.get("max_price", DEFAULT_MAX_PRICE_USD), "trust.max_price"
        ),
    )


def _inputs(value: object) -> dict[str, InputSource]:
    sources: dict[str, InputSource] = {}
    for name, item in _mapping(value, "inputs").items():
        path = f"inputs.{name:.80}"
        members = _section(item, path, "inputs.*")
        if len(members) != 1:
            raise SpecError(
                f"{path} names no single source", why=show(item), hint="write {module: NAME} or {path: FILE}"
            )
        ((kind, source),) = members.items()
        sources[name] = InputSource(kind, _text(source, f"{path}.{kind}"))
    return sources


def _envs(value: object) -> dict[str, Json]:
    envs: dict[str, Json] = {}
    for name, item in _mapping(value, "envs").items():
        # `DEBUG: on` is a boolean in YAML 1.1; guessing which spelling was meant would change the job.
        if isinstance(item, bool) or not isinstance(item, str | int):
            raise SpecError(
                f"envs.{name:.80} is not a string", why=show(item), hint=f'put the value in quotes: {name:.40}: "..."'
            )
        if isinstance(item, int) and item.bit_length() > 128:
            raise SpecError(f"envs.{name:.80} is not a string", why=show(item))
        envs[name] = str(item)
    return envs


def _options(value: object) -> dict[str, Json]:
    count = 0

    def read(item: object, path: str, depth: int) -> Json:
        nonlocal count
        count += 1
        if depth > jobspec.MAX_OPTION_DEPTH or count > jobspec.MAX_OPTION_VALUES:
            raise SpecError("recipe.options is too large", why=f"at {path:.80}")
        if isinstance(item, dict):
            return {name: read(inner, f"{path}.{name:.80}", depth + 1) for name, inner in _mapping(item, path).items()}
        if isinstance(item, list):
            return [read(inner, f"{path}[{index}]", depth + 1) for index, inner in enumerate(item)]
        if isinstance(item, float):
            # What is signed holds no binary fractions (canonical rule 1).
            raise SpecError(f"{path} is a fraction", why=show(item), hint=f'write it as a string: "{item!r:.30}"')
        if item is None or isinstance(item, bool | str):
            return item
        if isinstance(item, int) and abs(item) < 2**53:
            return item
        raise SpecError(f"{path} has no JSON form", why=show(item))

    members = _mapping(value, "recipe.options")
    return {name: read(item, f"recipe.options.{name:.80}", 1) for name, item in members.items()}


def _training(value: object) -> dict[str, Json]:
    members = _section(value, "recipe.training")
    # A learning rate is written as a number by everybody; its shortest decimal spelling is what is signed.
    return _options({name: repr(item) if isinstance(item, float) else item for name, item in members.items()})


def _section(value: object, path: str, table: str | None = None) -> dict[str, object]:
    """Return the members of a section after refusing every key it does not know."""
    members = _mapping(value, path or "the job spec")
    known = KEYS[path if table is None else table]
    for key in members:
        if key in known:
            continue
        full = f"{path}.{key}" if path else key
        if full in LATER:
            raise _not_yet(full, members[key])
        near = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
        nearest = SYNONYMS[key] if SYNONYMS.get(key) in known else (near[0] if near else None)
        hint = f"did you mean {nearest}?" if nearest else f"known keys: {', '.join(known)}"
        raise SpecError(f"unknown key {full:.80}", why=f"in {path or 'the job spec'}", hint=hint)
    return members


def _not_yet(path: str, value: object) -> SpecError:
    return SpecError(f"{path}: not yet", why=f"{show(value)}; {LATER[path]}", hint=f"leave {path} out for now")


def _mapping(value: object, path: str) -> dict[str, object]:
    if not isinstance(value, dict):
        raise SpecError(f"{path} is not a mapping", why=show(value))
    for key in value:
        if not isinstance(key, str):
            raise SpecError(f"{path} has a key that is not a string", why=show(key))
    return value


def _text(value: object, path: str) -> str:
    if not isinstance(value, str):
        raise SpecError(f"{path} is not a string", why=show(value))
    if any(0xD800 <= ord(char) <= 0xDFFF for char in value):
        raise SpecError(f"{path} is not text", why="it holds a lone surrogate")
    return value


def _optional_text(members: Mapping[str, object], name: str) -> str | None:
    return _text(members[name], name) if members.get(name) is not None else None


def _texts(value: object, path: str) -> tuple[str, ...]:
    if not isinstance(value, list):
        raise SpecError(f"{path} is not a list", why=show(value))
    return tuple(_text(item, f"{path}[{index}]") for index, item in enumerate(value))


def _integer(value: object, path: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value.bit_length() > 53:
        raise SpecError(f"{path} is not a whole number", why=show(value))
    return value


def _integers(value: object, path: str) -> tuple[int, ...]:
    if not isinstance(value, list):
        return (_integer(value, path),)
    return tuple(_integer(item, f"{path}[{index}]") for index, item in enumerate(value))


def _choice(value: object, path: str, kinds: type[E]) -> E:
    for member in kinds:
        if value == member.value:
            return member
    raise SpecError(f"{path} is not a known value", why=f"{show(value)}, expected {', '.join(kinds)}")


def _known(value: object, path: str, kinds: type[E], later: set[str]) -> E:
    if isinstance(value, str) and value in later:
        raise _not_yet(path, value)
    return _choice(value, path, kinds)
