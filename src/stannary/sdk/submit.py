"""From job.yaml to a signed job: read, resolve, upload, sign, send.

Rules:
1. What is signed is the canonical form, never the text (sdk/jobtext.py reads it).
2. Inputs become blobs: a file as it is; a module as the text of its `topics`, else of its source.
   A module is looked for in the standard library only, and is data here: its digest is signed.
3. Seed and order are on disk before the market sees the order (buyer.py).
4. What looks like a secret in variables, command, options, setup list or inputs is refused unless its
   name is in `Overrides.allowed_secrets`: all of them stand readable on the nodes, and all but files in
   the receipt. What of the work directory stays is sdk/travel.py's to say.
5. A setup list that is not locked is locked, and travels in that form; the file on disk is left as it is.
6. How much is audited is solved for the assurance asked for, when the plan is made, and signed beside it.
   A buyer may raise the rate, never lower it below his word.
7. The idempotency key is the job digest: sending again after a lost answer is the same job.
"""

from __future__ import annotations

import ast
import contextlib
import functools
import io
import secrets
import sys
import sysconfig
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO

from stannary import builtin, buyer, workdir
from stannary.errors import (
    AuthError,
    BelowPolicy,
    ConflictError,
    FormatError,
    Interrupted,
    LimitExceeded,
    NoCapacity,
    Refuted,
    ServiceError,
    SpecError,
    UsageError,
)
from stannary.formats import (
    beacon,
    canonical,
    digest,
    dsse,
    instants,
    jobfile,
    jobspec,
    jobwords,
    note,
    requirements,
    secrecy,
    statement,
)
from stannary.formats.canonical import Json
from stannary.formats.digest import Digest
from stannary.formats.jobfile import Draft, InputSource
from stannary.formats.jobspec import Input, JobSpec, Verification
from stannary.formats.predicates import Job
from stannary.formats.quantity import PPM
from stannary.formats.statement import Subject
from stannary.formats.workdir import WorkFile
from stannary.rules import assurance, edition
from stannary.rules.shape import shape_of
from stannary.sdk import jobtext, lock, travel
from stannary.sdk.client import Client, Progress
from stannary.sdk.jobtext import JobText
from stannary.sdk.profile import Profile
from stannary.sdk.travel import Travel
from stannary.wire.buyer import JobView, PriceQuote

MAX_INPUT_BYTES = 8 * 1024**3

Opener = Callable[[], BinaryIO]


@dataclass(frozen=True, slots=True)
class Blob:
    """Bytes to be uploaded."""

    digest: Digest
    size_bytes: int
    open: Opener
    name: str  # for messages


@dataclass(frozen=True, slots=True)
class Overrides:
    """What flags of `stannary run` put in the place of the file's values."""

    budget: str | None = None
    max_price: str | None = None
    envs: Mapping[str, str] | None = None
    trust: str | None = None
    allowed_secrets: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Prepared:
    """A whole spec, the blobs it names, and what of the work directory travels."""

    spec: JobSpec
    blobs: tuple[Blob, ...]
    travel: Travel
    is_locked_here: bool = False  # the setup list was open and travels in its locked form (sdk/lock.py)
    has_own_rate: bool = False  # the buyer said himself how much is to be audited

    @property
    def size_bytes(self) -> int:
        """Bytes of all blobs."""
        return sum(blob.size_bytes for blob in self.blobs)


def read_job_file(path: Path) -> JobText:
    """Read a job file's text into plain values (sdk/jobtext.py).

    Raises:
        SpecError: unreadable, too large, or not YAML as it may stand in a job file.
    """
    try:
        with path.open("rb") as file:
            data = file.read(jobtext.MAX_TEXT_BYTES + 1)
    except OSError as err:
        raise SpecError(
            "cannot read the job file", why=str(err), hint="stannary run JOB.yaml, or --example hello"
        ) from err
    return jobtext.read(data)


def prepare(
    path: Path, overrides: Overrides, ask: travel.Ask = travel.refuse, tell: travel.Tell = travel.silent
) -> Prepared:
    """Read, check and resolve a job file; nothing is sent.

    Args:
        path: the job file.
        overrides: what flags say.
        ask: called with each question about what travels (sdk/travel.py rule 2).
        tell: gets a line before each step that may take seconds.

    Raises:
        SpecError: the spec, an input or a named file is not as it must be.
        ConfirmationRequired: a question was asked and `ask` did not say yes.
    """
    text = read_job_file(path)
    try:
        draft = jobfile.parse(text.value)
    except UsageError as err:
        raise text.located(err) from err
    draft = _overridden(draft, overrides)
    _refuse_secrets(draft.spec, overrides.allowed_secrets)
    root, travels = path.parent, travel.Travel(())
    if draft.workdir:
        root = _locate(path.parent, draft.workdir, "workdir")
        travels = travel.scan(root, ask, _input_places(draft, path.parent, root), tell)
    _say_what_stays(draft.spec, travels)
    if draft.spec.setup is not None:
        tell(f"looking for the packages of {draft.spec.setup}")
    travels, locked = _settle_setup(root, draft.spec, travels, overrides.allowed_secrets)
    blobs = {entry.digest: _blob(root, entry) for entry in travels.entries}
    if locked is not None:
        blobs[locked.digest] = locked
    inputs: dict[str, Input] = {}
    own = travel.own_places() if draft.inputs else frozenset()
    for name, source in draft.inputs.items():
        tell(f"reading input {name}")
        blob, words = _resolve_input(name, source, path.parent, own, overrides.allowed_secrets)
        blobs[blob.digest] = blob
        inputs[name] = Input(blob.digest, blob.size_bytes, words)
    spec = draft.resolve(travels.entries, inputs, builtin.code_digest() if draft.spec.builtin else None)
    return Prepared(
        spec, tuple(blobs.values()), travels, is_locked_here=locked is not None, has_own_rate=draft.has_own_rate
    )


def solved(client: Client, prepared: Prepared) -> Prepared:
    """Return a job with the audit rate its assurance needs."""
    return priced(client, prepared)[0]


def priced(client: Client, prepared: Prepared) -> tuple[Prepared, PriceQuote]:
    """Ask what a job costs, and solve its audit rate for its assurance (rule 6).

    Raises:
        SpecError: the buyer's own rate is below what his word needs.
        NoCapacity, UsageError: as the market says.
    """
    edition.check_new(prepared.spec)
    spec = replace(prepared.spec, root=_root_of(client))
    prepared = replace(prepared, spec=spec)
    quote = client.quote(jobspec.to_canonical(spec))
    word = spec.trust.assurance
    if spec.trust.verify is Verification.NONE or word is None:
        return prepared, quote
    # what follows from the shape alone is reckoned here: no market talks anybody down
    said = next((item.audit_ppm for item in quote.words if item.assurance == word), 0)
    least = assurance.least_ppm(word, shape_of(spec).num_tasks, spec.trust.detection_ppm)
    least = min(max(least, said), PPM)
    if prepared.has_own_rate and spec.trust.audit_ppm < least:
        raise assurance.too_low(spec.trust.audit_ppm, word, least)
    trust = replace(spec.trust, audit_ppm=max(spec.trust.audit_ppm, least))
    return replace(prepared, spec=replace(spec, trust=trust)), quote


def _root_of(client: Client) -> Digest | None:
    """Return the root file system a job is to run in: its market's."""
    found = client.market().root
    return digest.parse(found) if found is not None else None


def upload(client: Client, prepared: Prepared, progress: Progress) -> int:
    """Store every blob the market does not have; return how many were sent."""
    return sum(
        client.upload(blob.digest, blob.size_bytes, blob.open, progress, name=blob.name) for blob in prepared.blobs
    )


def submit(client: Client, spec: JobSpec, profile: Profile, directory: Path, account: str = "") -> JobView:
    """Sign a job, store the order, send it, and return the market's answer.

    `account` names whose broker answers for it (Settings.account), by default the profile's.

    Raises:
        UsageError: the profile pins no market key, so nothing could be believed later.
        ServiceError, Interrupted: the job may or may not have arrived; the hint finds out. A second one is paid too.
    """
    if not profile.vkey:
        raise UsageError(
            "the market's key is not pinned", why=f"profile {profile.name}", hint="stannary market add URL --key KEY"
        )
    key = buyer.load_key(directory)
    seed = buyer.fresh_seed()
    length = shape_of(spec).beacon_values
    members = jobspec.to_canonical(spec)
    job = Job(
        spec=members,
        market=dsse.key_id(note.parse_vkey(profile.vkey).public),
        buyer=dsse.encode_base64(dsse.public_bytes(key)),
        beacon_tip=beacon.tip(seed, length),
        beacon_length=length,
        nonce=secrets.token_hex(16),
        submitted_at=instants.spell(time.time()),
    )
    envelope = statement.sign("job", job, (Subject("spec", digest.digest(canonical.encode(members))),), key)
    order = buyer.store_order(directory, envelope, seed, profile.vkey, account or profile.name)
    try:
        return client.submit(envelope, digest.digest(envelope.payload))
    except ServiceError as err:
        why = f"{err.why}; the job may or may not have arrived".lstrip("; ")
        raise type(err)(err.what, why=why, hint=f"stannary wait {order.job}", detail=err.detail) from err
    except KeyboardInterrupt as err:
        why = "the job may or may not have arrived"
        raise Interrupted("interrupted while sending", why=why, hint=f"stannary wait {order.job}") from err
    except (FormatError, UsageError, AuthError, ConflictError, NoCapacity, BelowPolicy, Refuted):
        order.end()  # the market said no for good: the broker need not wait for it
        raise


def _overridden(draft: Draft, overrides: Overrides) -> Draft:
    spec = draft.spec
    if overrides.budget is not None:
        spec = replace(
            spec, budget_usd_micros=jobfile.dollars(overrides.budget, "--budget", jobfile.MAX_PLAUSIBLE_BUDGET_USD)
        )
    if overrides.max_price is not None:
        price = jobfile.dollars(overrides.max_price, "--max-price", jobfile.MAX_PLAUSIBLE_PRICE_USD)
        spec = replace(spec, trust=replace(spec.trust, max_price_usd_micros_per_hour=price))
    if overrides.trust is not None and overrides.trust != spec.trust.tier.value:
        raise SpecError(
            "trust.tier: not yet",
            why=f"{overrides.trust!r:.20}; {jobwords.LATER['trust.tier']}",
            hint="leave --trust out for now",
        )
    if overrides.envs:
        spec = replace(spec, envs={**spec.envs, **overrides.envs})
    jobspec.check(spec)
    return replace(draft, spec=spec)


def _refuse_secrets(spec: JobSpec, allowed: frozenset[str]) -> None:
    """Refuse variables, command and options that look like secrets (rule 4)."""
    for name, value in spec.envs.items():
        reason = secrecy.in_variable(name, str(value))
        if reason and name not in allowed:
            raise _secret(f"envs.{name:.80}", reason, name)
    found = secrecy.in_command(spec.run or "")
    if found and "run" not in allowed:
        raise _secret("run", f"line {found[0]}: {found[1]}", "run")
    for name, text in _option_texts(spec.options):
        reason = secrecy.in_variable(name.rpartition(".")[2], text)
        if reason and name not in allowed:
            raise _secret(name, reason, name)


def _settle_setup(root: Path, spec: JobSpec, travels: Travel, allowed: frozenset[str]) -> tuple[Travel, Blob | None]:
    """Return the listing with the setup list in its locked form, and that form if it is not the file itself."""
    listed = next((entry for entry in travels.entries if entry.path == spec.setup), None)
    if listed is None:
        return travels, None
    with workdir.open_file(root, listed) as file:
        data = file.read(requirements.MAX_LIST_BYTES + 1)
    if digest.digest(data) != listed.digest and len(data) <= requirements.MAX_LIST_BYTES:
        raise workdir.changed(listed.path, listed.size_bytes, len(data))
    found = secrecy.shape_in(data.decode("utf-8", errors="replace"))
    if found and "setup" not in allowed:
        raise _secret(f"setup: {listed.path:.80}", f"line {found[0]}: {found[1]}", "setup")
    try:
        fresh = lock.lock(data)
    except (SpecError, LimitExceeded) as err:
        raise type(err)(f"setup: {listed.path:.80}: {err.what}", why=err.why, hint=err.hint) from err
    if fresh is None:
        return travels, None
    entry = replace(listed, digest=digest.digest(fresh), size_bytes=len(fresh))
    entries = tuple(entry if item is listed else item for item in travels.entries)
    return replace(travels, entries=entries), Blob(entry.digest, len(fresh), lambda: io.BytesIO(fresh), entry.path)


def _option_texts(value: Json, path: str = "recipe.options") -> Iterator[tuple[str, str]]:
    """Yield the path and text of every string in the options; numbers of a key's length are texts too."""
    if isinstance(value, dict):
        for name, item in value.items():
            yield from _option_texts(item, f"{path}.{name:.80}")
    elif isinstance(value, list):
        for item in value:
            yield from _option_texts(item, path)
    elif isinstance(value, str):
        yield path, value


def _secret(what: str, reason: str, name: str) -> SpecError:
    return SpecError(
        f"{what} looks like a secret",
        why=f"{reason}; it would stand readable on the nodes and in the receipt (sealed secrets come later)",
        hint=f"take it out; if it is no secret, or may be read by strangers: stannary run --allow-secret-env {name}",
    )


def _say_what_stays(spec: JobSpec, travels: Travel) -> None:
    """Refuse a spec that names a file which stays behind, saying why it does."""
    for member, file in spec.named_files.items():
        for stay in travels.stays:
            if file == stay.path or (stay.is_folder and file.startswith(f"{stay.path}/")):
                if any(entry.path == file for entry in travels.entries):
                    continue
                raise SpecError(
                    f"{member} names a file that does not travel",
                    why=f"{file:.120}: {stay.path:.120} stays behind ({stay.reason})",
                    hint=f"add a line to {workdir.IGNORE_FILE}: !{stay.path:.120}",
                )


def _input_places(draft: Draft, base: Path, root: Path) -> dict[travel.Place, str]:
    """Return the files that are inputs, by place, but for those the spec also names in the work directory."""
    needed = {travel.place_of(root / name) for name in draft.spec.named_files.values()}
    places: dict[travel.Place, str] = {}
    for name, source in draft.inputs.items():
        place = travel.place_of(_locate(base, source.name, f"inputs.{name}.path")) if source.kind == "path" else None
        if place is not None and place not in needed:
            places[place] = name
    return places


def _blob(root: Path, entry: WorkFile) -> Blob:
    return Blob(entry.digest, entry.size_bytes, functools.partial(workdir.open_file, root, entry), entry.path)


def _resolve_input(
    name: str, source: InputSource, base: Path, own: frozenset[travel.Place], allowed: frozenset[str]
) -> tuple[Blob, str]:
    if source.kind == "module":
        data = _module_text(name, source.name)
        words = f"module {source.name}"
        return Blob(digest.digest(data), len(data), lambda: io.BytesIO(data), words), words
    path = _locate(base, source.name, f"inputs.{name}.path")
    if travel.is_own(path, own):
        raise SpecError(
            f"inputs.{name}.path is one of Stannary's own files", why=str(path), hint="name a file of your own"
        )
    if not path.is_file():
        raise SpecError(
            f"inputs.{name}.path is no file",
            why=f"{path!s:.300}: {'a folder' if path.is_dir() else 'not a plain file, or not there'}",
            hint="name one file; a folder travels in the work directory, or packed into one file (tar, parquet)",
        )
    if path.stat().st_size > MAX_INPUT_BYTES:
        raise SpecError(
            f"inputs.{name} is too large",
            why=f"{path.stat().st_size:,} bytes, limit {MAX_INPUT_BYTES:,}",
            hint="split it into several inputs",
        )
    found = workdir.read_plain(path.parent, path.name)
    secret = secrecy.by_path(path.as_posix()) or secrecy.in_head(found.head)
    if secret and name not in allowed:
        raise _secret(f"inputs.{name}", f"{path.name:.80}: {secret}", name)
    words = f"file {path.name}"
    opened = functools.partial(workdir.open_plain, path.parent, path.name)
    return Blob(found.digest, found.size_bytes, opened, words), words


def _locate(base: Path, text: str, member: str) -> Path:
    """Return the real path of what a member names, relative to the job file."""
    try:
        return (base / Path(text).expanduser()).resolve()
    except FileNotFoundError as err:  # only a relative path asks: where we stand is gone
        why, hint = "the current directory has been deleted", "cd to a directory that is there, then again"
        raise SpecError(f"{member} cannot be found", why=why, hint=hint) from err
    except (OSError, RuntimeError, ValueError) as err:  # a loop of links, ~nobody, a NUL
        raise SpecError(
            f"{member} cannot be found", why=f"{text!r:.120}: {err!s:.160}", hint="name an existing path"
        ) from err


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
