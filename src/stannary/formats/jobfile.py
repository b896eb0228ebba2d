"""`job.yaml`, once parsed, to a draft of a job spec.

Rules:
1. Unknown keys are refused, naming the nearest known key; keys and values of later releases are
   refused as "not yet", saying what comes. Nothing is ignored: a misspelt limit is no limit.
2. Wrong types are refused with the path and the observed value. Strings that look like numbers stay
   strings; `true` and `false` never pass for text.
3. The text itself (size, duplicate keys, aliases) is the reader's business: sdk/jobtext.py.
4. A quantity that nobody means (`memory: 2`, a price in millionths) is refused with what was likely meant.

A draft still names its work directory and inputs by path; `Draft.resolve` takes what the client
made of them.
"""

from __future__ import annotations

import dataclasses
import math
import re
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import TYPE_CHECKING, TypeVar

from stannary.errors import SpecError
from stannary.formats import jobspec, jobwords, quantity, training
from stannary.formats.jobspec import (
    Auditors,
    Input,
    JobKind,
    JobSpec,
    Privacy,
    RecipeSpec,
    Resources,
    Trust,
    Verification,
)
from stannary.formats.predicates import Assurance, Tier
from stannary.formats.quantity import show
from stannary.formats.training import Training
from stannary.formats.workdir import WorkFile

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from stannary.formats.canonical import Json
    from stannary.formats.digest import Digest

E = TypeVar("E", bound=StrEnum)

KEYS: Mapping[str, tuple[str, ...]] = {
    "": (
        "name", "kind", "workdir", "setup", "run", "recipe", "envs", "num_nodes", "resources", "inputs", "outputs",
        "trust", "budget",
    ),
    "recipe": ("entry", "rounds", "lanes", "inner_steps", "seed", "options", "training"),
    "recipe.training": tuple(field.name for field in dataclasses.fields(Training)),
    "resources": ("cpus", "memory", "disk", "wall_s", "engine_class", "accelerators"),
    "trust": (
        "tier", "policy", "privacy", "verify", "assurance", "audit", "gain", "detection", "regions",
        "exclude_operators", "auditors", "max_price",
    ),
    "inputs.*": ("module", "path"),
}  # fmt: skip

MAX_PLAUSIBLE_PRICE_USD = 10_000  # of one node an hour: a thousand GPUs at 3 USD each cost a third of it
MAX_PLAUSIBLE_BUDGET_USD = 100_000_000

_SPAN = re.compile(
    r"(\d{1,9})\s*(d|h|m|s)(?:(?<=d)ays?|(?<=h)(?:ou)?rs?|(?<=m)in(?:ute)?s?|(?<=s)ec(?:ond)?s?)?(?![a-z])[\s,]*",
    re.ASCII,
)
_COMMAND = re.compile(r"(pip3?|uv|python3?|apt|apt-get|conda|mamba|npm|bash|sh|cd|export|source|sudo|curl|wget)\s")

DEFAULT_MAX_PRICE_USD = 1  # an hour
DEFAULT_BUDGET_USD = 1
DEFAULT_MEMORY_BYTES = 1 << 30
DEFAULT_DISK_BYTES = 256 << 20
DEFAULT_WALL_S = 600
DEFAULT_GAIN = "0.6"  # cheating saves at most 60 % of a task's price (docs/audits.md)
DEFAULT_DETECTION = "0.99"
DEFAULT_ASSURANCE = Assurance.SAMPLED
LEAST_AUDIT_PPM = 1  # stands in a draft until the rate is solved


@dataclass(frozen=True, slots=True)
class InputSource:
    """Where the client takes an input from: the text of an importable module, or a file."""

    kind: str  # module | path
    name: str


@dataclass(frozen=True, slots=True)
class Draft:
    """A checked spec whose work directory and inputs are not resolved yet."""

    spec: JobSpec
    workdir: str  # empty: none
    inputs: Mapping[str, InputSource]
    has_own_rate: bool = False  # trust.audit was given; else the rate is solved when the plan is made (sdk/submit.py)

    def resolve(self, files: Sequence[WorkFile], inputs: Mapping[str, Input], code: Digest | None = None) -> JobSpec:
        """Return the whole spec, `code` being that of a built-in recipe; raise SpecError if something is missing."""
        if set(inputs) != set(self.inputs):
            raise SpecError(
                "inputs are not those of the draft",
                why=", ".join(sorted(set(inputs) ^ set(self.inputs))),
                hint="resolve each input of the draft",
            )
        spec = replace(self.spec, workdir=tuple(sorted(files, key=lambda item: item.path)), inputs=dict(inputs))
        if spec.recipe is not None:
            spec = replace(spec, recipe=replace(spec.recipe, code=code))
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
    trust = _trust(_section(top.get("trust", {}), "trust"), kind)
    resources = _resources(_section(top.get("resources", {}), "resources"))
    if recipe is not None and "threads" not in _section(top["recipe"], "recipe").get("training", {}):  # type: ignore[operator]  # read above
        recipe = replace(recipe, training=replace(recipe.training, threads=resources.cpus))
    spec = JobSpec(
        name=_text(top.get("name", "job"), "name"),
        kind=kind,
        workdir=(),
        setup=_setup(top),
        run=_optional_text(top, "run"),
        recipe=recipe,
        envs=_envs(top.get("envs", {})),
        num_nodes=num_nodes,
        resources=resources,
        inputs={},
        outputs=_texts(top.get("outputs", []), "outputs"),
        trust=trust,
        budget_usd_micros=dollars(top.get("budget", DEFAULT_BUDGET_USD), "budget", MAX_PLAUSIBLE_BUDGET_USD),
        rules=jobspec.RULES,
    )
    jobspec.check(spec)
    has_own_rate = "audit" in _section(top.get("trust", {}), "trust")
    return Draft(spec, _workdir(top, spec), _inputs(top.get("inputs", {})), has_own_rate)


def _workdir(top: Mapping[str, object], spec: JobSpec) -> str:
    """Return the work directory as it is named; empty where no program of the buyer's own runs."""
    if spec.recipe is None or not spec.recipe.builtin:
        return _text(top.get("workdir", "."), "workdir")
    if "workdir" in top:
        raise SpecError("workdir belongs to a program of your own", why=spec.recipe.entry, hint="leave workdir out")
    return ""


def _recipe(top: Mapping[str, object], kind: JobKind) -> tuple[int, RecipeSpec | None]:
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
    return num_nodes if num_nodes is not None else 1, RecipeSpec(
        entry=_text(members.get("entry", ""), "recipe.entry"),
        rounds=_integer(members.get("rounds", 0), "recipe.rounds"),
        lanes=lanes if lanes is not None else 1,
        inner_steps=_integers(members.get("inner_steps", [3, 6, 10]), "recipe.inner_steps"),
        seed=_integer(members.get("seed", 0), "recipe.seed"),
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
        cpus=_cpus(members.get("cpus", 1)),
        memory_bytes=quantity.plausible_size_bytes(members.get("memory", DEFAULT_MEMORY_BYTES), "resources.memory"),
        disk_bytes=quantity.plausible_size_bytes(members.get("disk", DEFAULT_DISK_BYTES), "resources.disk"),
        wall_s=_wall_s(members.get("wall_s", DEFAULT_WALL_S)),
        engine_class=_text(members["engine_class"], "resources.engine_class") if "engine_class" in members else None,
    )


def _cpus(value: object) -> int:
    path = "resources.cpus"
    milli = re.fullmatch(r"(\d{1,7})m", value) if isinstance(value, str) else None
    if milli or isinstance(value, float):
        cores = int(milli[1]) / 1000 if milli else float(value) if isinstance(value, float) else 0.0
        whole = max(1, math.ceil(cores)) if math.isfinite(cores) else 1
        raise SpecError(f"{path} is not a whole number of cores", why=show(value), hint=f"did you mean {whole}?")
    cpus = _integer(value, path)
    if cpus > jobspec.MAX_CPUS:
        hint = f"did you mean {cpus // 1000}? cores are counted whole" if cpus % 1000 == 0 else "ask for fewer"
        raise SpecError(f"{path} is more than any node has", why=f"{cpus:,}, at most {jobspec.MAX_CPUS:,}", hint=hint)
    return cpus


def _wall_s(value: object) -> int:
    path = "resources.wall_s"
    seconds = _seconds(value) if isinstance(value, str) else None
    if seconds is not None:
        raise SpecError(f"{path} is not a number of seconds", why=show(value), hint=f"did you mean {seconds}?")
    if isinstance(value, float) and math.isfinite(value):
        hint = f"did you mean {max(1, math.ceil(value))}?"
        raise SpecError(f"{path} is not a whole number of seconds", why=show(value), hint=hint)
    wall_s = _integer(value, path)
    if wall_s > jobspec.MAX_WALL_S:
        is_ms = wall_s % 1000 == 0 and wall_s // 1000 <= jobspec.MAX_WALL_S
        hint = f"did you mean {wall_s // 1000}? it is written in seconds" if is_ms else "split the job"
        raise SpecError(
            f"{path} is longer than a job may run", why=f"{wall_s:,} s, at most {jobspec.MAX_WALL_S:,}", hint=hint
        )
    return wall_s


def _seconds(text: str) -> int | None:
    """Return the seconds that `10m`, `1h30m`, `12:30:00` or `2 days` mean to a reader, None for `10ms` or `1 month`."""
    clock = re.fullmatch(r"(\d{1,4}):(\d{2})(?::(\d{2}))?", text.strip())
    if clock:
        parts = [int(part) for part in clock.groups() if part is not None]
        return parts[0] * 3600 + parts[1] * 60 + (parts[2] if len(parts) > 2 else 0)
    found = _SPAN.findall(text.lower())
    if not found or _SPAN.sub("", text.lower()).strip():
        return None
    return sum(int(number) * {"d": 86400, "h": 3600, "m": 60, "s": 1}[unit] for number, unit in found)


def _trust(members: Mapping[str, object], kind: JobKind) -> Trust:
    default_verify = Verification.REPLAY if kind is JobKind.TRAIN else Verification.RERUN_COMPARE
    tier = _choice(members.get("tier", "T0"), "trust.tier", Tier)
    if tier is not Tier.T0:
        raise _not_yet("trust.tier", tier.value)
    policy = _text(members.get("policy", "local"), "trust.policy")
    if policy != "local":
        raise _not_yet("trust.policy", policy)
    verify = _known(members.get("verify", default_verify.value), "trust.verify", Verification, {"attested"})
    if verify is Verification.NONE and "assurance" in members:
        raise SpecError(
            "trust.assurance does not fit verify: none",
            why=f"{show(members['assurance'])}, and nothing is checked",
            hint="leave one of the two out",
        )
    assurance = _choice(members.get("assurance", DEFAULT_ASSURANCE.value), "trust.assurance", Assurance)
    audit_ppm = quantity.ppm(members["audit"], "trust.audit") if "audit" in members else LEAST_AUDIT_PPM
    return Trust(
        tier=tier,
        policy=policy,
        privacy=_known(members.get("privacy", "open"), "trust.privacy", Privacy, {"sealed"}),
        verify=verify,
        assurance=assurance,
        auditors=_choice(members["auditors"], "trust.auditors", Auditors) if "auditors" in members else None,
        audit_ppm=audit_ppm,
        gain_ppm=quantity.ppm(members.get("gain", DEFAULT_GAIN), "trust.gain"),
        detection_ppm=quantity.ppm(members.get("detection", DEFAULT_DETECTION), "trust.detection"),
        regions=_texts(members.get("regions", []), "trust.regions"),
        exclude_operators=_texts(members.get("exclude_operators", []), "trust.exclude_operators"),
        max_price_usd_micros_per_hour=dollars(
            members.get("max_price", DEFAULT_MAX_PRICE_USD), "trust.max_price", MAX_PLAUSIBLE_PRICE_USD
        ),
    )


def dollars(value: object, path: str, max_plausible_usd: int) -> int:
    """Return micro-dollars of an amount above zero; a huge one was likely written in micro-dollars or cents."""
    micros = quantity.usd_micros(value, path)
    if micros == 0:
        raise SpecError(f"{path} is nothing", why=show(value), hint="write dollars, such as 0.50")
    if micros > max_plausible_usd * quantity.MICROS_PER_DOLLAR:
        meant = quantity.dollars(micros // quantity.MICROS_PER_DOLLAR).lstrip("$").replace(",", "")
        raise SpecError(
            f"{path} is more than anybody means",
            why=f"{show(value)} dollars, at most {max_plausible_usd:,}",
            hint=f"did you mean {meant}? it is written in dollars, not in millionths",
        )
    return micros


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
        # A number is taken as it was written (0x1F, 1e3); `true` has many spellings in programs, so it is asked about.
        text = item if isinstance(item, str) else getattr(item, "written", None)
        if text is None and isinstance(item, int) and not isinstance(item, bool) and item.bit_length() <= 128:
            text = str(item)
        if text is None:
            raise SpecError(
                f"envs.{name:.80} is not a string", why=show(item), hint=f'put the value in quotes: {name:.40}: "..."'
            )
        envs[name] = text
    return envs


def _options(value: object) -> dict[str, Json]:
    count = 0

    def read(item: object, path: str, depth: int) -> Json:
        nonlocal count
        count += 1
        if depth > jobspec.MAX_OPTION_DEPTH or count > jobspec.MAX_OPTION_VALUES:
            raise SpecError(
                "recipe.options is too large", why=f"at {path:.80}", hint="put the rest into a file of the workdir"
            )
        if isinstance(item, dict):
            return {name: read(inner, f"{path}.{name:.80}", depth + 1) for name, inner in _mapping(item, path).items()}
        if isinstance(item, list):
            return [read(inner, f"{path}[{index}]", depth + 1) for index, inner in enumerate(item)]
        if isinstance(item, float):
            if not math.isfinite(item):
                raise SpecError(f"{path} is no finite number", why=show(item), hint="write a number, or text in quotes")
            # What is signed holds no binary fractions (canonical rule 1); the recipe gets the number back.
            return training.spell_number(float(item))
        if item is None or isinstance(item, bool | str):
            return item
        if isinstance(item, int) and abs(item) < 2**53:
            return int(item)
        raise SpecError(
            f"{path} has no JSON form",
            why=show(item),
            hint="write text, a whole number below 2^53, true, false or null",
        )

    members = _mapping(value, "recipe.options")
    return {name: read(item, f"recipe.options.{name:.80}", 1) for name, item in members.items()}


def _training(value: object) -> dict[str, Json]:
    members = _section(value, "recipe.training")
    # A learning rate is written as a number by everybody; its shortest decimal spelling is what is signed.
    return _options({name: _decimal(item) if name in training.FRACTIONS else item for name, item in members.items()})


def _decimal(item: object) -> object:
    if isinstance(item, float):
        return training.spell_number(float(item))
    is_whole = isinstance(item, int) and not isinstance(item, bool) and item.bit_length() <= 53
    return f"{item:d}" if is_whole and isinstance(item, int) else item


def _section(value: object, path: str, table: str | None = None) -> dict[str, object]:
    """Return the members of a section after refusing every key it does not know."""
    members = _mapping(value, path or "the job spec")
    known = KEYS[path if table is None else table]
    for key in members:
        if key in known:
            continue
        full = f"{path}.{key}" if path else key
        if full in jobwords.LATER:
            raise _not_yet(full, members[key])
        hint = jobwords.meant(key, path, KEYS)
        raise SpecError(f"unknown key {full:.80}", why=f"in {path or 'the job spec'}", hint=hint)
    return members


def _not_yet(path: str, value: object) -> SpecError:
    return SpecError(f"{path}: not yet", why=f"{show(value)}; {jobwords.LATER[path]}", hint=f"leave {path} out for now")


def _mapping(value: object, path: str) -> dict[str, object]:
    if not isinstance(value, dict):
        raise SpecError(f"{path} is not a mapping", why=show(value), hint=_mapping_meant(path))
    for key in value:
        if not isinstance(key, str):
            raise SpecError(
                f"{path} has a key that is not a string", why=show(key), hint='put the key in quotes: "...": VALUE'
            )
    return value


def _mapping_meant(path: str) -> str:
    if path == "the job spec":
        return "a job file begins like this: run: python main.py"
    return f"write {path.rpartition('.')[2]:.40}: {{KEY: VALUE}}"


def _text(value: object, path: str) -> str:
    if not isinstance(value, str):
        raise SpecError(
            f"{path} is not a string", why=show(value), hint=f'put it in quotes: {path.rpartition(".")[2]:.40}: "..."'
        )
    if any(0xD800 <= ord(char) <= 0xDFFF for char in value):
        raise SpecError(f"{path} is not text", why="it holds a lone surrogate", hint="save the file as UTF-8")
    return value


def _optional_text(members: Mapping[str, object], name: str) -> str | None:
    return _text(members[name], name) if members.get(name) is not None else None


def _texts(value: object, path: str) -> tuple[str, ...]:
    if not isinstance(value, list):
        raise SpecError(f"{path} is not a list", why=show(value), hint=f"write {path.rpartition('.')[2]:.40}: [A, B]")
    return tuple(_text(item, f"{path}[{index}]") for index, item in enumerate(value))


def _integer(value: object, path: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value.bit_length() > 53:
        raise SpecError(f"{path} is not a whole number", why=show(value), hint=_whole_meant(value))
    return int(value)


def _whole_meant(value: object) -> str:
    """Return a hint that spells the whole number somebody meant by 1_000, 1,000, 1e3, 010 or "4"."""
    text = re.sub(r"[_,](?=\d{3})", "", value.strip()) if isinstance(value, str) else ""
    if re.fullmatch(r"[-+]?\d{1,15}", text):
        return f"did you mean {int(text)}? write it without quotes, leading zeros and separators"
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        return f"did you mean {int(value)}?"
    return "write plain digits"


def _integers(value: object, path: str) -> tuple[int, ...]:
    if not isinstance(value, list):
        return (_integer(value, path),)
    return tuple(_integer(item, f"{path}[{index}]") for index, item in enumerate(value))


def _choice(value: object, path: str, kinds: type[E]) -> E:
    for member in kinds:
        if value == member.value:
            return member
    raise SpecError(
        f"{path} is not a known value",
        why=f"{show(value)}, expected {', '.join(kinds)}",
        hint=f"write one of: {', '.join(kinds)}",
    )


def _known(value: object, path: str, kinds: type[E], later: set[str]) -> E:
    if isinstance(value, str) and value in later:
        raise _not_yet(path, value)
    return _choice(value, path, kinds)
