"""From job.yaml to a signed job: read, resolve, upload, sign, send.

Rules:
1. The text is bounded, plain YAML (safe loader), and names no key twice: the last one would win
   silently. What is signed is the canonical form, never the text.
2. Inputs become blobs: a file as it is; a module as the text of its `topics`, else of its source.
   A module is looked for in the standard library only, and is data here: its digest is signed.
3. Seed and order are on disk before the market sees the order (buyer.py).
4. The idempotency key is the job digest: sending again after a lost answer is the same job.
"""

from __future__ import annotations

import ast
import contextlib
import hashlib
import io
import secrets
import sys
import sysconfig
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO

import yaml

from stannary import buyer, workdir
from stannary.errors import AuthError, ConflictError, FormatError, MarketUnreachable, SpecError, UsageError
from stannary.formats import beacon, canonical, digest, dsse, jobfile, jobspec, note, quantity, statement
from stannary.formats.digest import Digest
from stannary.formats.jobfile import Draft, InputSource
from stannary.formats.jobspec import Input, JobSpec
from stannary.formats.predicates import Job
from stannary.formats.statement import Subject
from stannary.formats.workdir import Entry
from stannary.sdk.client import Client, Progress
from stannary.sdk.profile import Profile
from stannary.wire.buyer import JobView

MAX_JOB_FILE_BYTES = 256 * 1024
MAX_INPUT_BYTES = 8 * 1024**3

Opener = Callable[[], BinaryIO]


@dataclass(frozen=True, slots=True)
class Blob:
    """Bytes to be uploaded."""

    digest: Digest
    size_bytes: int
    open: Opener


@dataclass(frozen=True, slots=True)
class Overrides:
    """What flags of `stannary run` put in the place of the file's values."""

    budget: str | None = None
    max_price: str | None = None
    envs: Mapping[str, str] | None = None
    trust: str | None = None


@dataclass(frozen=True, slots=True)
class Prepared:
    """A whole spec and the blobs it names."""

    spec: JobSpec
    blobs: tuple[Blob, ...]

    @property
    def size_bytes(self) -> int:
        """Bytes of all blobs."""
        return sum(blob.size_bytes for blob in self.blobs)


class _UniqueLoader(yaml.SafeLoader):
    """The safe loader, refusing keys that stand twice in one mapping."""


def _unique_mapping(loader: yaml.SafeLoader, node: yaml.MappingNode) -> dict[Any, Any]:
    seen: set[str] = set()
    for key_node, _ in node.value:
        if isinstance(key_node, yaml.ScalarNode):
            if key_node.value in seen:
                line = key_node.start_mark.line + 1
                raise SpecError(f"key {key_node.value:.60} stands twice", why=f"again on line {line}")
            seen.add(key_node.value)
    return loader.construct_mapping(node, deep=True)


_UniqueLoader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _unique_mapping)


def read_job_file(path: Path) -> object:
    """Read YAML text into plain values (rule 1).

    Raises:
        SpecError: unreadable, too large, not YAML, or a key stands twice.
    """
    try:
        with path.open("rb") as file:
            data = file.read(MAX_JOB_FILE_BYTES + 1)
    except OSError as err:
        raise SpecError(
            "cannot read the job file", why=str(err), hint="stannary run JOB.yaml, or --example hello"
        ) from err
    if len(data) > MAX_JOB_FILE_BYTES:
        raise SpecError("the job file is too large", why=f"over {MAX_JOB_FILE_BYTES:,} bytes: {path}")
    try:
        return yaml.load(data.decode("utf-8"), Loader=_UniqueLoader)  # noqa: S506  a subclass of SafeLoader
    except UnicodeDecodeError as err:
        raise SpecError("the job file is not UTF-8", why=str(err)) from err
    # Beside its own errors the loader lets a few builtins' errors through: a date that is none, an
    # integer of a million digits, nesting deeper than the interpreter's stack.
    except (yaml.YAMLError, ValueError, RecursionError, TypeError, OverflowError) as err:
        raise SpecError("the job file is not YAML", why=" ".join(str(err).split())[:300]) from err


def prepare(path: Path, overrides: Overrides, *, allow_large: bool = False) -> Prepared:
    """Read, check and resolve a job file; nothing is sent.

    Raises:
        SpecError: the spec, an input or a named file is not as it must be.
        ConfirmationRequired: a work directory over 1 GiB without `allow_large`.
    """
    draft = _overridden(jobfile.parse(read_job_file(path)), overrides)
    root = (path.parent / Path(draft.workdir).expanduser()).resolve()
    entries = workdir.scan(root, allow_large=allow_large)
    blobs = {entry.digest: Blob(entry.digest, entry.size_bytes, _opener(root, entry)) for entry in entries}
    inputs: dict[str, Input] = {}
    for name, source in draft.inputs.items():
        blob, words = _resolve_input(name, source, path.parent)
        blobs[blob.digest] = blob
        inputs[name] = Input(blob.digest, blob.size_bytes, words)
    return Prepared(draft.resolve(entries, inputs), tuple(blobs.values()))


def upload(client: Client, prepared: Prepared, progress: Progress) -> int:
    """Store every blob the market does not have; return how many were sent."""
    return sum(client.upload(blob.digest, blob.size_bytes, blob.open, progress) for blob in prepared.blobs)


def submit(client: Client, spec: JobSpec, profile: Profile, directory: Path) -> JobView:
    """Sign a job, store the order, send it, and return the market's answer.

    Raises:
        UsageError: the profile pins no market key, so nothing could be believed later.
    """
    if not profile.vkey:
        raise UsageError(
            "the market's key is not pinned", why=f"profile {profile.name}", hint="stannary market add URL --key KEY"
        )
    key = buyer.load_key(directory)
    seed = buyer.fresh_seed()
    rounds = spec.recipe.rounds if spec.recipe else 1
    length = max(beacon.LENGTH, buyer.CHAIN_VALUES_PER_ROUND * rounds)
    members = jobspec.to_canonical(spec)
    job = Job(
        spec=members,
        market=dsse.key_id(note.parse_vkey(profile.vkey).public),
        buyer=dsse.encode_base64(dsse.public_bytes(key)),
        beacon_tip=beacon.tip(seed, length),
        beacon_length=length,
        nonce=secrets.token_hex(16),
        submitted_at=datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
    )
    envelope = statement.sign("job", job, (Subject("spec", digest.digest(canonical.encode(members))),), key)
    order = buyer.store_order(directory, envelope, seed, profile.vkey)
    try:
        return client.submit(envelope, digest.digest(envelope.payload))
    except MarketUnreachable as err:
        raise MarketUnreachable(
            err.what, why=f"{err.why}; the job may or may not have arrived", hint=f"stannary wait {order.job}"
        ) from err
    except (FormatError, UsageError, AuthError, ConflictError):
        order.end()  # the market said no for good: the broker need not wait for it
        raise


def _overridden(draft: Draft, overrides: Overrides) -> Draft:
    spec = draft.spec
    if overrides.budget is not None:
        spec = replace(spec, budget_usd_micros=quantity.usd_micros(overrides.budget, "--budget"))
    if overrides.max_price is not None:
        price = quantity.usd_micros(overrides.max_price, "--max-price")
        spec = replace(spec, trust=replace(spec.trust, max_price_usd_micros_per_hour=price))
    if overrides.trust is not None and overrides.trust != spec.trust.tier.value:
        raise SpecError("trust.tier: not yet", why=f"{overrides.trust!r:.20}; {jobfile.LATER['trust.tier']}")
    if overrides.envs:
        spec = replace(spec, envs={**spec.envs, **overrides.envs})
    jobspec.check(spec)
    return replace(draft, spec=spec)


def _opener(root: Path, entry: Entry) -> Opener:
    return lambda: workdir.open_file(root, entry)


def _resolve_input(name: str, source: InputSource, base: Path) -> tuple[Blob, str]:
    if source.kind == "module":
        data = _module_text(name, source.name)
        return Blob(digest.digest(data), len(data), lambda: io.BytesIO(data)), f"module {source.name}"
    path = (base / Path(source.name).expanduser()).resolve()
    if not path.is_file():
        raise SpecError(f"inputs.{name}.path is no file", why=str(path))
    size_bytes = path.stat().st_size
    if size_bytes > MAX_INPUT_BYTES:
        raise SpecError(f"inputs.{name} is too large", why=f"{size_bytes:,} bytes, limit {MAX_INPUT_BYTES:,}")
    with path.open("rb") as file:
        hashed = digest.from_raw(hashlib.file_digest(file, "sha256").digest())
    return Blob(hashed, size_bytes, lambda: path.open("rb")), f"file {path.name}"


def _module_text(name: str, module: str) -> bytes:
    """Return the text of a standard library module (rule 2); its code is read and never run."""
    package, *rest = module.split(".")
    if package not in sys.stdlib_module_names or not all(part.isidentifier() for part in [package, *rest]):
        raise SpecError(f"inputs.{name}.module is not of the standard library", why=f"{module!r:.80}", hint="use path:")
    path = Path(sysconfig.get_path("stdlib"), package, *rest).with_suffix(".py")
    try:
        source = path.read_bytes()
        tree = ast.parse(source)
    except (OSError, SyntaxError, ValueError) as err:
        raise SpecError(f"inputs.{name}.module has no text", why=str(err)[:200], hint="use path:") from err
    topics = _literal(tree, "topics")
    if isinstance(topics, dict) and all(isinstance(item, str) for item in topics.values()):
        return "\n\n".join(topics[key] for key in sorted(topics)).encode("utf-8")
    return source


def _literal(tree: ast.Module, name: str) -> object:
    """Return the literal a module assigns to `name`, None if there is none."""
    for item in tree.body:
        if isinstance(item, ast.Assign) and any(isinstance(to, ast.Name) and to.id == name for to in item.targets):
            with contextlib.suppress(ValueError):
                return ast.literal_eval(item.value)
    return None
