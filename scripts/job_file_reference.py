"""Write docs/guide/job-file.md from the spec's own classes, and check every word of it that can be checked.

    python scripts/job_file_reference.py            write the page
    python scripts/job_file_reference.py --check    exit code 1 if the page is not what would be written

Rules:
1. Keys come from formats/jobfile.py, defaults from reading a job that leaves them out, limits from the
   constants that enforce them. What is written by hand here is meaning, unit and example.
2. A key without words, words without a key, an example that is refused, or a limit whose neighbour is
   not refused is a mistake: the page is not written.
"""

from __future__ import annotations

import copy
import sys
from dataclasses import dataclass
from pathlib import Path

from stannary.errors import StannaryError
from stannary.formats import bounds, jobfile, jobspec, jobwords, quantity, record, requirements, training, workdir
from stannary.formats.canonical import Json
from stannary.sdk import jobtext, lock, submit, travel

PAGE = Path(__file__).resolve().parents[1] / "docs" / "guide" / "job-file.md"
GIB = 1024**3

COMMAND = "run: python main.py\n"
TRAIN = "recipe: {entry: recipe.py:recipe, rounds: 12}\n"


@dataclass(frozen=True, slots=True)
class Key:
    """What a reader must know of one key; `low` and `high` are whole numbers that are still accepted."""

    kind: str
    meaning: str
    example: str
    default: str = ""
    low: int | None = None
    high: int | None = None


TOP = {
    "name": Key("text", "What you call the job: a letter or digit, then letters, digits, `.`, `_`, `-`, 63 in all.", "hello"),
    "kind": Key("`command` or `train`", "What the job does; told by `run` and `recipe`, so it need not be written.", "command",
                "`command` with `run`, else `train`"),
    "workdir": Key("path", "Folder whose files travel, relative to the job file. See *What travels*.", ".", "`.`"),
    "setup": Key("path", "List of packages in the work directory, one a line. See *Packages*.", "requirements.txt", "no packages"),
    "run": Key("text", "Command line of a command job, given to a shell in a writable copy of the work directory.",
               "python main.py --steps 100", "needed for `command`"),
    "recipe": Key("mapping", "What a train job computes. See *recipe*.", "{entry: recipe.py:recipe, rounds: 12}",
                  "needed for `train`"),
    "envs": Key("mapping of texts",
                f"Environment variables of the job, at most {jobspec.MAX_ENVS}. They stand readable in the receipt: what looks like "
                "a secret is refused unless `--allow-secret-env NAME` is given (sealed secrets come later).", "{MODE: fast}", "none"),
    "num_nodes": Key("whole number", "Nodes that work at the same time; for `train` the same as `recipe.lanes`.", "1",
                     low=1, high=jobspec.MAX_LANES),
    "resources": Key("mapping", "Limits of one node's share. See *resources*.", "{cpus: 2, memory: 2GiB}", "see there"),
    "inputs": Key("mapping",
                  f"Files beside the work directory, at most {jobspec.MAX_INPUTS}, each by a name: `{{path: FILE}}`, or "
                  "`{module: NAME}` for the text of a module of Python's standard library. A command finds input NAME at "
                  "`$STANNARY_INPUT_NAME`.", "{corpus: {path: corpus.txt}}", "none"),
    "outputs": Key("list of patterns", f"Files that are handed in, at most {jobspec.MAX_OUTPUTS} patterns. See *Outputs*.",
                   "[result.json, plots/*.png]", "none"),
    "trust": Key("mapping", "What you ask of nodes and of the check of their work. See *trust*.", "{assurance: verified}", "see there"),
    "budget": Key("dollars", "The job is refused if its worst case costs more; what is not used is paid back.", "1.00"),
}  # fmt: skip
RECIPE = {
    "entry": Key("`file.py:name` or `builtin:name`",
                 "The recipe: an attribute of a Python file in the work directory, or one of this package: "
                 "`builtin:bytegpt`, a byte-level GPT on the input `corpus`, whose `options` are `width`, `layers`, `heads`, "
                 "`context` and `buckets`. A job with a built-in recipe has no `workdir`, `setup` or `envs`.",
                 "recipe.py:recipe", "needed"),
    "rounds": Key("whole number",
                  f"Outer steps. Rounds times (lanes + 1) may be {jobspec.MAX_UNITS:,} at most.", "12", "needed", 1, jobspec.MAX_ROUNDS),
    "lanes": Key("whole number", "Nodes that train side by side between two merges.", "1", "`num_nodes`", 1, jobspec.MAX_LANES),
    "inner_steps": Key("list of whole numbers",
                       f"Steps of each round, each 1 to {jobspec.MAX_INNER_STEPS:,}; the last one repeats. "
                       f"At most {jobspec.MAX_STEP_LIST} numbers.", "[3, 6, 10]"),
    "seed": Key("whole number", "What weights and data order begin from.", "7", low=0, high=2**32 - 1),
    "options": Key("mapping", f"Whatever the recipe reads: at most {jobspec.MAX_OPTION_VALUES:,} values, "
                   f"{jobspec.MAX_OPTION_DEPTH} levels deep.", "{width: 64}", "none"),
    "training": Key("mapping", "Optimizer and data. See *recipe.training*.", "{batch_size: 32}", "see there"),
}  # fmt: skip
TRAINING = {
    "batch_size": Key("whole number", "Examples of one lane in one inner step.", "16", low=1, high=training.MAX_BATCH),
    "microbatch_size": Key("whole number", "Examples of one forward pass, at most `batch_size`; the split changes the bits.", "8"),
    "dtype": Key("text", "Number format; `float32` is what this release computes.", "float32"),
    "threads": Key("whole number", "Threads of one step; another number gives other bits.", "1"),
    "data_order": Key("text", "How examples are drawn from the seed.", "shake256-v1"),
    "optimizer": Key("`muon` or `adamw`", "Inner optimizer; with `muon`, AdamW trains what `adamw_names` names.", "muon"),
    "muon_lr": Key("number", "Learning rate of Muon.", "0.02"),
    "muon_momentum": Key("number", "Momentum of Muon.", "0.95"),
    "adamw_lr": Key("number", "Learning rate of AdamW.", "0.003"),
    "adamw_beta1": Key("number", "First beta of AdamW.", "0.9"),
    "adamw_beta2": Key("number", "Second beta of AdamW.", "0.95"),
    "weight_decay": Key("number", "Decoupled weight decay.", "0.1"),
    "adamw_names": Key("list of texts", "Parameters AdamW trains: a part of the dotted name begins with one of these.", "[emb, head]"),
    "warmup_steps": Key("whole number", "Steps in which the learning rate rises.", "20", low=0, high=training.MAX_STEPS),
    "constant_ppm": Key("millionths", "Share of all steps before the rate falls.", "400000", low=0, high=quantity.PPM),
    "final_lr_ppm": Key("millionths", "Learning rate at the end, as a share of the highest.", "50000", low=0, high=quantity.PPM),
    "rewarm_steps": Key("whole number", "Steps of each round in which the fresh optimizer warms up.", "1", low=0,
                        high=training.MAX_STEPS),
    "outer_lr": Key("number", "Learning rate of the merge.", "1"),
    "outer_momentum": Key("number", f"Momentum of the merge; 0.8 from {training.MANY_ROUNDS} rounds on.", "0.6"),
}  # fmt: skip
RESOURCES = {
    "cpus": Key("whole number", "Cores.", "2", low=1, high=jobspec.MAX_CPUS),
    "memory": Key("size", "Memory; more ends the job as out of memory.", "2GiB", low=quantity.MIN_PLAUSIBLE_BYTES,
                  high=quantity.MAX_SIZE_BYTES),
    "disk": Key("size", "What the job may write, results included.", "1GiB", low=quantity.MIN_PLAUSIBLE_BYTES,
                high=quantity.MAX_SIZE_BYTES),
    "wall_s": Key("seconds", "How long a task may run: a ceiling for its time and for what is held; paid is what was measured.", "3600", low=1, high=jobspec.MAX_WALL_S),
    "engine_class": Key("text", "The class of nodes it runs on, as `stannary offers` shows it; it binds auditors too. Without it the class of most operators.", "cpu-fp32-torch2.13.0-t16.1f2e3d4c5b6a", "the class of most operators"),
    "accelerators": Key("`none`", "GPU nodes come later.", "none", "`none`"),
}  # fmt: skip
TRUST = {
    "tier": Key("`T0`", "Lowest tier of nodes; hardware tiers come later.", "T0"),
    "policy": Key("`local`", "Named policies come later.", "local"),
    "privacy": Key("`open`", "`open`: every node of the job reads its files; sealed jobs come later.", "open"),
    "verify": Key("`replay`, `rerun-compare`, `none`",
                  "`replay`: training steps are computed again. `rerun-compare`: a command's outputs are compared by digest. "
                  "`none`: paid on completion, and the receipt says `unverified`.", "rerun-compare",
                  "`replay` for `train`, `rerun-compare` for `command`"),
    "assurance": Key("`sampled`, `verified`, `full`",
                     "`sampled`: so much is computed again by others that cheating is a loss. `verified`: so much that a tenth of the "
                     "work, faked, passes unseen with a probability of 0.01 at most. `full`: everything.", "verified",
                     "none: `audit` alone says it"),
    "audit": Key("share, 0 to 1", "Share of the tasks that are computed again, where you want more than the assurance needs.", "0.25",
                 "what `assurance` needs, solved when the plan is made"),
    "gain": Key("share, 0 to 1", "What you think cheating saves of a task's price; the plan says which audit deters it.", "0.6"),
    "detection": Key("share, 0 to 1", "How surely a recomputation sees a difference.", "0.99"),
    "regions": Key("list of texts", "Jurisdictions nodes must be in; empty: any.", "[DE, NL]"),
    "exclude_operators": Key("list of texts", "Operators whose nodes do not work for you.", "[mica]"),
    "auditors": Key("`listed`", "`listed`: `regions` and `exclude_operators` bind auditors too; then no bond can move in the job. Belongs "
                    "to `assurance`; without it they bind everybody.", "listed",
                    "anybody of the engine class may audit, whatever the lists say"),
    "max_price": Key("dollars an hour", "Highest price of one node.", "0.50"),
}  # fmt: skip
INPUT = {
    "path": Key("path", f"A file, relative to the job file, up to {submit.MAX_INPUT_BYTES // GIB} GiB.", "corpus.txt", "one of the two"),
    "module": Key("text", "A module of Python's standard library: the text of its `topics`, else of its source.", "pydoc_data.topics",
                  "one of the two"),
}  # fmt: skip
SECTIONS = {
    "": TOP, "recipe": RECIPE, "recipe.training": TRAINING, "resources": RESOURCES, "trust": TRUST, "inputs.*": INPUT,
}  # fmt: skip


def main(argv: list[str]) -> int:
    """Write or check the page; return the exit code."""
    mistakes, text = page()
    for mistake in mistakes:
        sys.stdout.write(mistake + "\n")
    if mistakes:
        return 1
    if "--check" in argv:
        return 0 if PAGE.is_file() and PAGE.read_text("utf-8") == text else 1
    PAGE.parent.mkdir(parents=True, exist_ok=True)
    PAGE.write_text(text, "utf-8")
    return 0


def page() -> tuple[list[str], str]:
    """Return what is wrong with the words above, and the page."""
    mistakes = []
    for section, known in jobfile.KEYS.items():
        told = SECTIONS.get(section, {})
        mistakes += [f"job-file.md: no words for {section}.{key}" for key in known if key not in told]
        mistakes += [f"job-file.md: words for {section}.{key}, which is no key" for key in told if key not in known]
    mistakes += [
        f"job-file.md: no words for the section {section}" for section in SECTIONS.keys() - jobfile.KEYS.keys()
    ]
    if mistakes:
        return mistakes, ""
    for section, keys in SECTIONS.items():
        for name, key in keys.items():
            mistakes += _wrong(section, name, key)
    return mistakes, _text()


def _wrong(section: str, name: str, key: Key) -> list[str]:
    path = f"{section}.{name}".strip(".")
    wrong = [] if _refusal(section, name, key.example) is None else [f"{path}: the example {key.example} is refused"]
    for bound, step in ((key.low, -1), (key.high, 1)):
        if bound is None:
            continue
        said = _refusal(section, name, str(bound))
        # Other rules may refuse the bound itself (lanes times rounds); it must not be this key's range.
        if said is not None and path in said and "out of range" in said:
            wrong.append(f"{path}: {bound:,} is said to be accepted and is not: {said}")
        if _refusal(section, name, str(bound + step)) is None:
            wrong.append(f"{path}: {bound + step:,} is said to be refused and is not")
    return wrong


def _refusal(section: str, name: str, value: str) -> str | None:
    """Return what reading a job says that holds this value, None if it is taken."""
    is_train = section.startswith("recipe") or name == "recipe" or value in ("train", "replay")
    document = copy.deepcopy(jobtext.read((TRAIN if is_train else COMMAND).encode()).value)
    assert isinstance(document, dict)
    inner: dict[object, object] = document
    if section == "inputs.*":
        inner = document.setdefault("inputs", {}).setdefault("x", {})
    elif section:
        for part in section.split("."):
            inner = inner.setdefault(part, {})  # type: ignore[assignment]  # sections hold mappings
    read = jobtext.read(f"x: {value}\n".encode()).value
    assert isinstance(read, dict)
    inner[name] = read["x"]
    if name == "auditors":
        inner["assurance"] = "full"  # which it belongs to
    try:
        jobfile.parse(document)
    except StannaryError as err:
        return str(err)
    return None


def _defaults() -> dict[str, Json]:
    """Return every default by its path, from a spec that leaves all out."""
    spec = jobfile.parse(jobtext.read(TRAIN.encode()).value).spec
    members = {**record.to_json(spec)}
    flat: dict[str, Json] = {"name": members["name"], "num_nodes": members["num_nodes"]}
    flat["budget"] = quantity.dollars(spec.budget_usd_micros)
    for section in ("recipe", "resources", "trust"):
        found = members[section]
        assert isinstance(found, dict)
        flat |= {f"{section}.{name}": value for name, value in found.items()}
    inner = flat.pop("recipe.training")
    assert isinstance(inner, dict)
    flat |= {f"recipe.training.{name}": value for name, value in inner.items()}
    for name in ("memory", "disk"):
        flat[f"resources.{name}"] = _size(getattr(spec.resources, f"{name}_bytes"))
    for name in ("audit", "gain", "detection"):
        flat[f"trust.{name}"] = f"{getattr(spec.trust, f'{name}_ppm') / quantity.PPM:g}"
    flat["trust.max_price"] = quantity.dollars(spec.trust.max_price_usd_micros_per_hour)
    return flat


def _size(num_bytes: int) -> str:
    for unit, scale in (("TiB", 2**40), ("GiB", 2**30), ("MiB", 2**20)):
        if num_bytes % scale == 0:
            return f"{num_bytes // scale}{unit}"
    return f"{num_bytes}"


def _spelled(value: Json) -> str:
    if isinstance(value, list):
        return f"`[{', '.join(map(str, value))}]`" if value else "none"
    return f"`{value}`"


def _table(section: str) -> str:
    defaults = _defaults()
    rows = ["| key | type | default | limits | example | meaning |", "|---|---|---|---|---|---|"]
    for name, key in SECTIONS[section].items():
        path = f"{section}.{name}".strip(".")
        default = key.default or _spelled(defaults[path])
        limits = ""
        if key.low is not None and key.high is not None:
            low, high = (_size(key.low), _size(key.high)) if key.kind == "size" else (f"{key.low:,}", f"{key.high:,}")
            limits = f"{low} to {high}"
        rows.append(f"| `{name}` | {key.kind} | {default} | {limits} | `{key.example}` | {key.meaning} |")
    return "\n".join(rows)


def _text() -> str:
    grouped: dict[str, list[str]] = {}
    for path, words in jobwords.LATER.items():
        grouped.setdefault(words, []).append(f"`{path}`")
    later = "\n".join(f"| {', '.join(paths)} | {words} |" for words, paths in grouped.items())
    return f"""# The job file

*Written by `scripts/job_file_reference.py` from the code that reads job files; `make docs` fails when it is stale.*

`stannary run job.yaml` reads one job; `stannary run --dry-run job.yaml` prints what would travel, who could run it and what
it costs at worst, and sends nothing. The smallest job:

```yaml
run: python main.py
```

A training job:

```yaml
name: hello
recipe: {{entry: recipe.py:recipe, rounds: 12, lanes: 2, inner_steps: [3, 6, 10]}}
inputs: {{corpus: {{module: pydoc_data.topics}}}}
resources: {{cpus: 1, memory: 1GiB, wall_s: 120}}
trust: {{assurance: verified, max_price: 0.50}}
budget: 1.00
```

## How it is read
- YAML 1.2, at most {jobtext.MAX_TEXT_BYTES // 1024} KiB of UTF-8, {jobtext.MAX_DEPTH} levels deep. What is written is what is meant: `8080:80`, `12:30:00`,
  `2026-11-30`, `yes`, `010` and `1_000` are texts. No key stands twice; no merge keys (`<<`), no tags but `!!str`.
- Unknown keys are refused, naming what was likely meant; a mistake is named with line and column.
- A **size** is a number and `kB MB GB TB` (powers of 1000) or `KiB MiB GiB TiB` (powers of 1024), or plain bytes from {_size(quantity.MIN_PLAUSIBLE_BYTES)} on.
- **Dollars** and **shares** are plain numbers with at most six decimals; nothing is rounded.
- Flags of `stannary run` take the place of the file's values: `--budget`, `--max-price`, `-e NAME=VALUE`.

## Top level
{_table("")}

## recipe
{_table("recipe")}

## recipe.training
Numbers are taken as the decimals they are written in, 0 to 1000.

{_table("recipe.training")}

## resources
{_table("resources")}

## trust
{_table("trust")}

## inputs
Each input has one of:

{_table("inputs.*")}

## What travels
Every file of the work directory, up to {workdir.MAX_FILES:,} files; more than {travel.CONFIRM_BYTES // GIB} GiB, a home directory and what lies above one are asked
about (outside a terminal: `--yes`). `.gitignore` and `.stannaryignore` are read as git reads its own, in every folder;
`.stannaryignore` has the last word, and `!name` in it sends what stays otherwise.

- Never: Stannary's own configuration, keys and markets, however they are reached.
- Unless asked: `.git` and caches; `.env`, `.ssh`, `.aws`, key and password files, by name or by their first bytes; receipts (`*.receipt.json`); `out/`.
- Refused: links, devices, sockets, pickles (`.pkl`, `.pt`, `.ckpt`, ...), names that are not the same file on every system.

Every node the job runs on can read what travels.

## Packages
`setup` names a list as pip reads it, one package a line, at most {requirements.MAX_REQUIREMENTS:,}. Lines without hashes are locked by `stannary run` before the job
is signed: exact versions and hashes of wheels for Linux x86-64 (glibc 2.{lock.GLIBC_MINOR} and later) and the Python version of your `stannary` command. `stannary lock` writes the locked list to
keep. Nodes install wheels by hash and nothing else: no options, addresses, repositories, files or source packages.

## Outputs
`result.txt` is that file, `results` or `results/` every file below it, `*` `?` `[ab]` stand within one name, `**` for folders at any depth, `.` for
everything. Patterns are relative to the work directory; `..`, a leading `/`, `~`, `$NAME` and `{{a,b}}` are refused.
A pattern that matches nothing fails the job. More than {bounds.MAX_OUTPUTS:,} files come back as one `outputs.tar`; `tar -xf` unpacks it.

## Not yet
| key or value | |
|---|---|
{later}
"""


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
