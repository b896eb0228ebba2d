"""The job spec: what a buyer asks for, in the form that is signed.

Rules (docs/receipt.md R7):
1. Every default is explicit, money is micro-dollars, sizes are bytes, shares are parts per million.
   Two specs that mean the same have the same bytes.
2. The work directory is a listing (formats/workdir.py): no archive, no link, no device.
3. `from_canonical` accepts exactly what `to_canonical` writes: unknown members, defaults left out,
   and values outside the named limits are refused, on the market and on the node as on the client.
4. Combinations no later step could honour are refused here, not at run time.

Reading `job.yaml` is jobfile.py; listing a directory is workdir.py; resolving inputs is sdk/submit.py.
"""

from __future__ import annotations

import re
from dataclasses import field
from enum import StrEnum
from typing import TYPE_CHECKING

from stannary.errors import FormatError, SpecError
from stannary.formats import bounds, canonical, record, training, workdir
from stannary.formats import outputs as patterns
from stannary.formats.canonical import Json
from stannary.formats.digest import Digest, parse
from stannary.formats.lean import dataclass
from stannary.formats.predicates import Assurance, Tier
from stannary.formats.quantity import PPM
from stannary.formats.training import Training
from stannary.formats.workdir import WorkFile

if TYPE_CHECKING:
    from collections.abc import Mapping


RULES = 3  # those of a new job
LOCAL_POLICY = "local"
MAX_ROUNDS = 5_000
MAX_LANES = 256
MAX_UNITS = 10_000  # rounds x lanes + merges; the longest receipt a verifier must read (canonical.MAX_DOCUMENT_BYTES)
MAX_INNER_STEPS = 100_000
MAX_STEP_LIST = 64
MAX_STEP_MS = 3_600_000  # an inner step of an hour
MAX_WALL_S = 7 * 24 * 3600
MAX_CPUS = training.MAX_THREADS
MAX_INPUTS = 64
MAX_OUTPUTS = 256
MAX_ENVS = 256
MAX_SETUP_BYTES = 1024 * 1024  # the list of packages is read whole, on the node too
MAX_TEXT_CHARS = 32_768  # one shell command line, one environment value
MAX_NAMES = 256  # regions, operators
MAX_OPTION_VALUES = 4_096
MAX_OPTION_DEPTH = 8

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
_ENV_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}")
_INPUT_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_-]{0,62}")
_ENTRY = re.compile(r"(?P<file>[^:]+\.py):(?P<attribute>[A-Za-z_][A-Za-z0-9_]*)")
_BUILTIN = "builtin:"
_BUILTIN_NAME = re.compile(r"[a-z][a-z0-9_]{0,30}")


class JobKind(StrEnum):
    """What a job does."""

    TRAIN = "train"
    COMMAND = "command"


class Verification(StrEnum):
    """How the work is checked. `none`: the buyer agrees to pay on completion."""

    REPLAY = "replay"
    RERUN_COMPARE = "rerun-compare"
    NONE = "none"


class Privacy(StrEnum):
    """Who may read the job's artifacts; `open`: every node it runs on."""

    OPEN = "open"


class Auditors(StrEnum):
    """Whom `regions` and `exclude_operators` bind beside those who work; where nothing is said, nobody."""

    LISTED = "listed"  # auditors too: no bond can move then (rules/blame.py)


@dataclass(frozen=True, slots=True)
class Input:
    """One named input, already a blob; `source` says in words where the client took it from."""

    digest: Digest
    size_bytes: int
    source: str


@dataclass(frozen=True, slots=True)
class RecipeSpec:
    """The training recipe and its public schedule: an attribute of a file in the work directory, or one of ours."""

    entry: str
    rounds: int
    lanes: int
    inner_steps: tuple[int, ...]
    seed: int
    step_ms: int | None = None  # agreed time of an inner step, of rules 2: what is paid; later ones measure it
    options: dict[str, Json] = field(default_factory=dict)
    training: Training = field(default_factory=Training)
    code: Digest | None = None  # of a built-in recipe: the code it is made of (stannary/builtin.py)

    @property
    def builtin(self) -> str:
        """The name of a recipe of this package; empty where the recipe is the buyer's own code."""
        return self.entry.removeprefix(_BUILTIN) if self.entry.startswith(_BUILTIN) else ""

    @property
    def file(self) -> str | None:
        """The file of the work directory that holds the recipe; None of a built-in one."""
        return None if self.builtin else self.entry.rpartition(":")[0]

    @property
    def attribute(self) -> str:
        """The recipe's name in that file."""
        return self.entry.rpartition(":")[2]


@dataclass(frozen=True, slots=True)
class Resources:
    """Limits of one node's share of the job."""

    cpus: int
    memory_bytes: int
    disk_bytes: int
    wall_s: int
    engine_class: str | None = None  # of every node of it; absent: the market chooses (place/match.py)


@dataclass(frozen=True, slots=True)
class Trust:
    """What the buyer demands of nodes and of the check of their work."""

    tier: Tier
    policy: str
    privacy: Privacy
    verify: Verification
    audit_ppm: int
    gain_ppm: int
    detection_ppm: int
    regions: tuple[str, ...]
    exclude_operators: tuple[str, ...]
    max_price_usd_micros_per_hour: int
    assurance: Assurance | None = None  # absent of specs of rules 2
    auditors: Auditors | None = None  # absent: drawn from the whole class, and always of rules 2, whose lists bind all


@dataclass(frozen=True, slots=True)
class JobSpec:
    """A whole job."""

    name: str
    kind: JobKind
    workdir: tuple[WorkFile, ...]
    envs: dict[str, Json]
    num_nodes: int
    resources: Resources
    inputs: dict[str, Input]
    outputs: tuple[str, ...]
    trust: Trust
    budget_usd_micros: int
    setup: str | None = None
    run: str | None = None
    recipe: RecipeSpec | None = None
    root: Digest | None = None  # the root file system it runs in, as its market publishes it; absent: each node's own
    rules: int | None = None  # of docs/receipt.md, by which the job is drawn, judged and paid; absent of rules 2

    @property
    def workdir_bytes(self) -> int:
        """Total size of the work directory."""
        return sum(item.size_bytes for item in self.workdir)

    @property
    def entry(self) -> str | None:
        """What a training job begins with; None of any other."""
        return self.recipe.entry if self.recipe is not None else None

    @property
    def options(self) -> dict[str, Json]:
        """What its recipe is given; empty of a job without one."""
        return self.recipe.options if self.recipe is not None else {}

    @property
    def builtin(self) -> str:
        """The name of its recipe in this package; empty where it runs the buyer's own code."""
        return self.recipe.builtin if self.recipe is not None else ""

    @property
    def named_files(self) -> dict[str, str]:
        """The files of the work directory that members name, by member."""
        named = {"setup": self.setup, "recipe.entry": self.recipe.file if self.recipe is not None else None}
        return {member: file for member, file in named.items() if file is not None}

    @property
    def output_bytes(self) -> int:
        """The most one task may hand in: a training job's weights fit in its memory, files on its disk."""
        return self.resources.memory_bytes if self.kind is JobKind.TRAIN else self.resources.disk_bytes


def to_canonical(spec: JobSpec) -> dict[str, Json]:
    """Return the members that are signed."""
    return record.to_json(spec)


def from_canonical(value: Json) -> JobSpec:
    """Read a spec from signed members.

    Raises:
        FormatError: unknown, missing or ill-typed members.
        SpecError: well-formed members that break a rule or limit.
    """
    spec = record.from_json(JobSpec, value, what="spec")
    check(spec)
    check_resolved(spec)
    check_root(spec)
    return spec


def check(spec: JobSpec) -> None:
    """Check everything that does not need the files: names, ranges and combinations.

    Raises:
        SpecError: naming the path, the observed value and what would be accepted.
    """
    _check_text(_NAME, spec.name, "name", "letters, digits, '.', '_' and '-', at most 63")
    _check_range(spec.num_nodes, "num_nodes", 1, MAX_LANES)
    _check_range(spec.resources.cpus, "resources.cpus", 1, MAX_CPUS)
    _check_range(spec.resources.wall_s, "resources.wall_s", 1, MAX_WALL_S)
    for name in ("memory", "disk"):
        _check_range(getattr(spec.resources, f"{name}_bytes"), f"resources.{name}", 1, canonical.MAX_SAFE_INTEGER)
    _check_class(spec.resources.engine_class)
    _check_range(spec.budget_usd_micros, "budget in millionths of a dollar", 1, canonical.MAX_SAFE_INTEGER)
    _check_envs(spec.envs)
    _check_outputs(spec.outputs)
    _check_kind(spec)
    _check_trust(spec.trust, spec.kind)
    _check_rules(spec)


def check_resolved(spec: JobSpec) -> None:
    """Check the work directory and inputs, and that what the spec names is in them.

    Raises:
        SpecError: an input or a named file breaks a rule.
        FormatError: the work directory listing breaks one of its own.
    """
    if workdir.check(spec.workdir) != spec.workdir:
        raise SpecError(
            "workdir is not in path order", why="a listing is sorted by path", hint="sort it and sign again"
        )
    if spec.kind is JobKind.COMMAND and spec.workdir_bytes > spec.resources.disk_bytes:
        # It runs in a writable copy, in the memory-backed /tmp of this size (docs/sandbox.md).
        raise SpecError(
            "workdir is larger than resources.disk",
            why=f"{spec.workdir_bytes:,} bytes of files, disk {spec.resources.disk_bytes:,}",
            hint="ask for more resources.disk and memory, or give large files as inputs",
        )
    if len(spec.inputs) > MAX_INPUTS:
        raise SpecError(
            "inputs has too many entries",
            why=f"{len(spec.inputs)}, limit {MAX_INPUTS}",
            hint="pack them into fewer files",
        )
    for name, item in spec.inputs.items():
        _check_text(_INPUT_NAME, name, "inputs", "a name of letters, digits, '_' and '-'")
        _check_blob(item.digest, item.size_bytes, f"inputs.{name}")
        _check_words(item.source, f"inputs.{name}.source")
    if spec.recipe is not None:
        _check_code(spec.recipe, spec.workdir)
    paths = {item.path: item for item in spec.workdir}
    listed = paths.get(spec.setup) if spec.setup is not None else None
    if listed is not None and listed.size_bytes > MAX_SETUP_BYTES:
        raise SpecError(
            "setup names a list that is too large",
            why=f"{listed.size_bytes:,} bytes, limit {MAX_SETUP_BYTES:,}",
            hint="take out packages or hashes that are not used",
        )
    for path, file in spec.named_files.items():
        if file not in paths:
            raise SpecError(f"{path} names a file that is not in workdir", why=file, hint=f"add {file} to the workdir")


def recipe_of(spec: JobSpec) -> RecipeSpec:
    """Return the recipe of a training job.

    Raises:
        SpecError: a job of another kind.
    """
    if spec.recipe is None:
        raise SpecError("the job has no recipe", why=f"kind {spec.kind}", hint="ask for a recipe of a training job")
    return spec.recipe


def _check_code(recipe: RecipeSpec, files: tuple[WorkFile, ...]) -> None:
    if (recipe.code is not None) != bool(recipe.builtin):
        raise SpecError(
            "recipe.code is the code of a built-in recipe",
            why=f"{recipe.entry!r:.80} with {recipe.code or 'none'}",
            hint="leave it out: it is filled in when the job is signed",
        )
    if recipe.code is not None:
        _check_blob(recipe.code, 0, "recipe.code")
        if files:
            raise SpecError("workdir belongs to a program of your own", why=recipe.entry, hint="leave workdir out")


def check_path(path: str, where: str) -> None:
    """Check that `path` stays inside a directory (formats/workdir.py rule 1)."""
    try:
        workdir.parse_path(path)
    except FormatError as err:
        raise SpecError(f"{where}: {err.what}", why=err.why, hint=err.hint) from err


def _check_blob(digest: object, size_bytes: int, path: str) -> None:
    try:
        parse(digest)
    except FormatError as err:
        raise SpecError(f"{path} has no digest", why=err.why, hint="write sha256: and 64 hex digits") from err
    _check_range(size_bytes, f"{path} size", 0, canonical.MAX_SAFE_INTEGER)


def _check_envs(envs: Mapping[str, Json]) -> None:
    if len(envs) > MAX_ENVS:
        raise SpecError(
            "envs has too many entries",
            why=f"{len(envs)}, limit {MAX_ENVS}",
            hint="put settings into a file of the workdir",
        )
    for name, value in envs.items():
        _check_text(_ENV_NAME, name, "envs", "a name of letters, digits and '_'")
        if not isinstance(value, str) or "\0" in value or len(value) > MAX_TEXT_CHARS:
            raise SpecError(
                f"envs.{name} is not a plain string",
                why=f"{value!r:.80}",
                hint=f"text without NUL, at most {MAX_TEXT_CHARS:,} characters",
            )


def _check_outputs(outputs: tuple[str, ...]) -> None:
    if len(outputs) > MAX_OUTPUTS:
        raise SpecError(
            "outputs has too many entries", why=f"{len(outputs)}, limit {MAX_OUTPUTS}", hint="name a folder or use *"
        )
    patterns.parse_all(outputs)


def _check_kind(spec: JobSpec) -> None:
    if spec.setup is not None:
        check_path(spec.setup, "setup")
    if spec.kind is JobKind.COMMAND:
        if spec.recipe is not None:
            raise SpecError(
                "recipe belongs to kind: train", why="kind is command", hint="leave out either run or recipe"
            )
        if spec.run is None:
            raise SpecError("run is missing", why="a command job needs one", hint="add: run: python main.py")
        _check_words(spec.run, "run")
        return
    if spec.run is not None:
        raise SpecError(
            "run belongs to kind: command",
            why="kind is train; its entry is recipe.entry",
            hint="leave kind out, or run",
        )
    if spec.recipe is None:
        raise SpecError("recipe is missing", why="a train job needs one", hint="add: recipe: {entry: recipe.py:recipe}")
    _check_recipe(spec.recipe, spec.num_nodes)
    if spec.recipe.builtin:
        _check_nothing_own(spec)
    threads, cpus = spec.recipe.training.threads, spec.resources.cpus
    if threads > cpus:
        raise SpecError(
            "recipe.training.threads is more than resources.cpus",
            why=f"{threads} threads on {cpus} cores",
            hint="leave threads out: a recipe gets one for each core",
        )


def _check_recipe(recipe: RecipeSpec, num_nodes: int) -> None:
    if recipe.file is None:
        _check_text(_BUILTIN_NAME, recipe.builtin, "recipe.entry", "the name of a built-in recipe")
    elif _ENTRY.fullmatch(recipe.entry) is None:
        raise SpecError(
            "recipe.entry is not file.py:attribute",
            why=f"{recipe.entry!r:.80}",
            hint="write entry: recipe.py:recipe, or entry: builtin:bytegpt",
        )
    else:
        check_path(recipe.file, "recipe.entry")
    _check_range(recipe.rounds, "recipe.rounds", 1, MAX_ROUNDS)
    _check_range(recipe.lanes, "recipe.lanes", 1, MAX_LANES)
    if recipe.lanes != num_nodes:
        raise SpecError(
            "recipe.lanes differs from num_nodes",
            why=f"{recipe.lanes} lanes on {num_nodes} nodes; several lanes on one node are not yet possible",
            hint="leave one of the two out",
        )
    units = recipe.rounds * (recipe.lanes + 1)
    if units > MAX_UNITS:
        raise SpecError(
            "recipe has too many tasks",
            why=f"{units:,} rounds, lanes and merges, limit {MAX_UNITS:,}",
            hint="ask for fewer rounds, with more inner_steps each",
        )
    if not 1 <= len(recipe.inner_steps) <= MAX_STEP_LIST:
        raise SpecError(
            "recipe.inner_steps has the wrong length",
            why=f"{len(recipe.inner_steps)}, 1 to {MAX_STEP_LIST}",
            hint="the last value repeats: write [3, 6, 10]",
        )
    for index, steps in enumerate(recipe.inner_steps):
        _check_range(steps, f"recipe.inner_steps[{index}]", 1, MAX_INNER_STEPS)
    _check_range(recipe.seed, "recipe.seed", 0, 2**32 - 1)
    if recipe.step_ms is not None:
        _check_range(recipe.step_ms, "recipe.step_ms", 1, MAX_STEP_MS)
    _check_options(recipe.options)
    training.check(recipe.training)


def _check_nothing_own(spec: JobSpec) -> None:
    """Check that a job with a built-in recipe brings no code: what cannot be the buyer's doing rests on it."""
    for name, found in (("setup", spec.setup), ("envs", spec.envs)):
        if found:
            raise SpecError(
                f"{name} belongs to a program of your own",
                why=f"{spec.recipe.entry if spec.recipe else ''} runs no code but this package's",
                hint=f"leave {name} out, or name a recipe of your own",
            )


def _check_options(options: dict[str, Json]) -> None:
    pending: list[tuple[Json, int]] = [(options, 0)]
    seen = 0
    while pending:
        value, depth = pending.pop()
        seen += 1
        if depth > MAX_OPTION_DEPTH or seen > MAX_OPTION_VALUES:
            raise SpecError(
                "recipe.options is too large",
                why=f"over {MAX_OPTION_DEPTH} levels or {MAX_OPTION_VALUES}",
                hint="put the rest into a file of the workdir",
            )
        if isinstance(value, dict):
            pending.extend((item, depth + 1) for item in value.values())
        elif isinstance(value, list):
            pending.extend((item, depth + 1) for item in value)


def _check_trust(trust: Trust, kind: JobKind) -> None:
    _check_text(_NAME, trust.policy, "trust.policy", "a policy name")
    allowed = {
        JobKind.TRAIN: {Verification.REPLAY},
        JobKind.COMMAND: {Verification.RERUN_COMPARE, Verification.NONE},
    }[kind]
    if trust.verify not in allowed:
        raise SpecError(
            f"trust.verify {trust.verify} does not fit kind {kind}",
            why=f"a {kind} job can be checked by: {', '.join(sorted(allowed))}",
            hint=f"write verify: {min(allowed)}",
        )
    _check_range(trust.audit_ppm, "trust.audit", 0, PPM)
    if trust.verify is not Verification.NONE and trust.audit_ppm == 0:
        raise SpecError("trust.audit is 0", why="nothing would be checked", hint="use verify: none, or audit above 0")
    _check_range(trust.gain_ppm, "trust.gain", 1, PPM)
    _check_range(trust.detection_ppm, "trust.detection", 1, PPM)
    _check_range(trust.max_price_usd_micros_per_hour, "trust.max_price", 1, canonical.MAX_SAFE_INTEGER)
    for name, words in (("regions", trust.regions), ("exclude_operators", trust.exclude_operators)):
        if len(words) > MAX_NAMES:
            raise SpecError(
                f"trust.{name} has too many entries", why=f"{len(words)}, limit {MAX_NAMES}", hint="name fewer"
            )
        for word in words:
            _check_words(word, f"trust.{name}")


def _check_class(engine_class: str | None) -> None:
    if engine_class is not None and not bounds.ENGINE_CLASS.fits(engine_class):
        raise SpecError(
            "resources.engine_class is no engine class",
            why=f"{engine_class!r:.80}, it is {bounds.ENGINE_CLASS.expected}",
            hint="copy one that stannary offers shows, or leave it out",
        )


def _check_rules(spec: JobSpec) -> None:
    if spec.rules not in (None, RULES):
        raise SpecError(
            "the job is under rules of another release",
            why=f"rules {spec.rules}, known are 2 and {RULES}",
            hint="read it with the release that made it",
        )
    if spec.root is not None:
        _check_blob(spec.root, 0, "root")
    if (spec.rules is None) != (spec.trust.assurance is None):
        raise SpecError(
            "rules and trust.assurance do not fit",
            why="a spec has both or neither",
            hint=f"rules 2 knows no assurance; new jobs are under rules {RULES}",
        )
    if spec.rules is None and spec.trust.auditors is not None:
        raise SpecError(
            "trust.auditors belongs to rules 3",
            why=f"{spec.trust.auditors}",
            hint="name trust.assurance too, or leave trust.auditors out: the lists of rules 2 bind auditors",
        )
    if spec.rules is None and spec.resources.engine_class is not None:
        raise SpecError(
            "resources.engine_class belongs to rules 3",
            why=f"{spec.resources.engine_class:.80}",
            hint="name trust.assurance too, or leave resources.engine_class out",
        )
    if spec.recipe is not None and (spec.rules is None) != (spec.recipe.step_ms is not None):
        raise SpecError(
            "recipe.step_ms does not fit trust.assurance",
            why="what a step takes is measured there, and paid by" if spec.rules else "without it steps have no price",
            hint="leave step_ms out; resources.wall_s and budget are the ceilings"
            if spec.rules
            else "add: step_ms: 40",
        )
    if spec.rules is None and spec.root is not None:
        raise SpecError(
            "root belongs to rules 3", why=f"{spec.root}", hint="name trust.assurance too, or leave root out"
        )


def check_root(spec: JobSpec) -> None:
    """Check that a job which is to run among strangers names what it runs in.

    Raises:
        SpecError: outside policy `local` a node's own system is no part of a job.
    """
    if spec.rules is not None and spec.root is None and spec.trust.policy != LOCAL_POLICY:
        raise SpecError(
            "the job names no root file system",
            why=f"policy {spec.trust.policy}: a node's own /usr serves under {LOCAL_POLICY} only",
            hint="stannary market root publish FILE, on the market's machine; it is filled in when the job is signed",
        )


def _check_range(value: int, path: str, low: int, high: int) -> None:
    if not low <= value <= high:
        raise SpecError(
            f"{path} is out of range",
            why=f"{value:,}, expected {low:,} to {high:,}",
            hint=f"write a number from {low} to {high}",
        )


def _check_text(pattern: re.Pattern[str], text: str, path: str, expected: str) -> None:
    if pattern.fullmatch(text) is None:
        raise SpecError(f"{path} is not {expected}", why=f"{text!r:.80}", hint="rename it")


def _check_words(text: str, path: str) -> None:
    if not text.strip() or "\0" in text or len(text) > MAX_TEXT_CHARS:
        raise SpecError(
            f"{path} is empty or too long",
            why=f"{len(text):,} characters, limit {MAX_TEXT_CHARS:,}",
            hint="put a long text into a file of the workdir",
        )
