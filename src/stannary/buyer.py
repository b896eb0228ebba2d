"""What a buyer keeps on his machine: his key, and for each job the signed order and the beacon seed.

    <data>/buyer/key                 PEM, 0600
    <data>/buyer/jobs/<job>/seed     64 hex digits, 0600: whoever has it before the draw can escape audits
    <data>/buyer/jobs/<job>/job.json the signed `job` envelope
    <data>/buyer/jobs/<job>/market   verifier key of the market it was sent to
    <data>/buyer/jobs/<job>/account  under which profile it was sent (absent: any of that market)
    <data>/buyer/jobs/<job>/serving  locked by the one broker that answers for it
    <data>/buyer/jobs/<job>/unknown  exists when the market never got it: no broker is needed for it
    <data>/buyer/jobs/<job>/reveals  what the broker revealed, one JSON line each (broker/ledger.py)
    <data>/buyer/jobs/<job>/ended    exists when nothing more will be asked

Rule: seed and order are on disk before the market sees the order, so that a crash cannot leave a job
nobody can reveal for. The client writes here, the broker reads; neither imports the other.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from stannary import files
from stannary.errors import ConflictError, EnvironmentProblem, FormatError, NotFound
from stannary.formats import beacon, dsse, ids, statement
from stannary.formats.digest import digest
from stannary.formats.ids import JobId
from stannary.formats.predicates import Job

SEED_FILE, JOB_FILE, MARKET_FILE = "seed", "job.json", "market"
REVEALS_FILE, ENDED_FILE = "reveals", "ended"
ACCOUNT_FILE, SERVING_FILE, UNKNOWN_FILE = "account", "serving", "unknown"


@dataclass(frozen=True, slots=True)
class Order:
    """A job this buyer signed, as the broker needs it."""

    job: JobId
    directory: Path
    statement: Job
    market_vkey: str
    account: str = ""

    @property
    def has_ended(self) -> bool:
        """Tell whether nothing more will be asked for this job."""
        return (self.directory / ENDED_FILE).exists()

    def seed(self) -> bytes:
        """Read the beacon seed; it must end in the signed tip."""
        raw = files.read_secret(self.directory / SEED_FILE)
        try:
            seed = bytes.fromhex(raw.decode("ascii"))
        except ValueError as err:
            raise FormatError("not a beacon seed", why=str(self.directory / SEED_FILE)) from err
        if beacon.tip(seed, self.statement.beacon_length) != self.statement.beacon_tip:
            raise FormatError("the beacon seed is not that of the signed job", why=self.job)
        return seed

    def end(self) -> None:
        """Note that the job is over."""
        files.replace(self.directory / ENDED_FILE, b"")

    def give_up(self) -> None:
        """Note that the market does not know the job and can no longer accept it."""
        files.replace(self.directory / UNKNOWN_FILE, b"")

    @contextmanager
    def served(self) -> Iterator[None]:
        """Be the one process that answers for this job; the kernel ends it with the process, kill -9 included.

        Raises:
            ConflictError: another one is.
        """
        fd = os.open(self.directory / SERVING_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield
        except BlockingIOError as err:
            raise ConflictError("another broker answers for this job", why=str(self.directory)) from err
        finally:
            os.close(fd)


def root() -> Path:
    """Return the buyer's directory."""
    return files.data_dir() / "buyer"


def load_key(directory: Path) -> Ed25519PrivateKey:
    """Return the buyer's key, made on first use."""
    path = directory / "key"
    try:
        return _read_key(path)
    except NotFound:
        fresh = Ed25519PrivateKey.generate().private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    with contextlib.suppress(FileExistsError):  # another of this buyer's processes was first; its key is the key
        files.create_secret(path, fresh)
    return _read_key(path)


def fresh_seed() -> bytes:
    """Return a new beacon seed."""
    return secrets.token_bytes(beacon.SEED_BYTES)


def store_order(directory: Path, envelope: dsse.Envelope, seed: bytes, market_vkey: str, account: str = "") -> Order:
    """Write a job's files, seed first, and return the order."""
    job = ids.job_id(digest(envelope.payload))
    place = files.make_private_dir(directory / "jobs" / job)
    with contextlib.suppress(FileExistsError):  # sent again after a crash: the signed tip decides below if it fits
        files.create_secret(place / SEED_FILE, seed.hex().encode("ascii"))
    files.replace(place / MARKET_FILE, market_vkey.encode())
    files.replace(place / ACCOUNT_FILE, account.encode())
    files.replace(place / JOB_FILE, envelope.to_bytes())
    order = load_order(place)
    order.seed()
    return order


def load_order(place: Path) -> Order:
    """Read a job's directory.

    Raises:
        NotFound: no whole order is there.
        FormatError: files that are not an order of this name.
    """
    try:
        envelope = dsse.from_bytes((place / JOB_FILE).read_bytes())
        market = (place / MARKET_FILE).read_text().strip()
        account = _account_of(place)
    except FileNotFoundError as err:
        raise NotFound("no order here", why=str(place), hint="stannary ls") from err
    except OSError as err:
        raise EnvironmentProblem("cannot read an order", why=str(err)) from err
    job = ids.job_id(digest(envelope.payload))
    if job != place.name:
        raise FormatError("an order lies under another name", why=f"{place.name} holds {job}")
    return Order(job, place, statement.read(envelope.payload, "job", Job).predicate, market, account)


def list_orders(directory: Path) -> list[Path]:
    """Return the directories of all jobs, by name."""
    jobs = directory / "jobs"
    return sorted(path for path in jobs.iterdir() if path.is_dir()) if jobs.is_dir() else []


def open_orders(directory: Path, market_vkey: str, account: str) -> list[Path]:
    """Return the directories of the jobs of an account for which a broker is needed; it reads no order."""
    return [place for place in list_orders(directory) if _is_open(place, market_vkey, account)]


def _is_open(place: Path, market_vkey: str, account: str) -> bool:
    if (place / ENDED_FILE).exists() or (place / UNKNOWN_FILE).exists():
        return False
    try:
        return (place / MARKET_FILE).read_text().strip() == market_vkey and _account_of(place) in {"", account}
    except (OSError, UnicodeDecodeError):  # still being written, or no order of ours
        return False


def _account_of(place: Path) -> str:
    try:
        return (place / ACCOUNT_FILE).read_text().strip()
    except FileNotFoundError:
        return ""


def _read_key(path: Path) -> Ed25519PrivateKey:
    raw = files.read_secret(path)
    try:
        key = serialization.load_pem_private_key(raw, password=None)
    except ValueError as err:
        raise FormatError("not a key file", why=str(path)) from err
    if not isinstance(key, Ed25519PrivateKey):
        raise FormatError("another kind of key", why=str(path))
    return key
