"""What a node keeps of itself: identity key, market, credential, and its operator's choices.

    DIR/key               Ed25519 seed in hex, 0600, made here and never sent
    DIR/node.json         the members below
    DIR/credential.json   the market's envelope, as received
    ROOTS/                root file systems, shared by all nodes of this account (run/root/shelf.py)
    DIR/journal/          open work (journal.py)      DIR/jobs/  DIR/outbox/  DIR/environments/   caches

Environment variables of the agent never reach a job; what does is border/variables.py's to say.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from stannary import files
from stannary.border.variables import KERNEL_VARIABLES, PINNED_ENVIRONMENT, job_environment
from stannary.errors import ConflictError, EnvironmentProblem, FormatError, UsageError
from stannary.formats import canonical, dsse, ids, record
from stannary.formats.canonical import Json
from stannary.formats.ids import NodeId

__all__ = ["KERNEL_VARIABLES", "PINNED_ENVIRONMENT", "NodeSettings", "check_kernel", "create_key", "job_environment",
           "load", "load_key", "store"]  # fmt: skip

KEY_FILE = "key"
NODE_FILE = "node.json"
CREDENTIAL_FILE = "credential.json"
SEED_BYTES = 32


@dataclass(frozen=True, slots=True)
class NodeSettings:
    """The content of node.json."""

    name: str
    node: NodeId
    url: str
    tls_fingerprint: str
    market_vkey: str
    market_profile: str
    operator: str
    engine_class: str
    kernel: dict[str, Json] = field(default_factory=dict)
    find_links: str = ""
    index_url: str = ""
    no_index: bool = False
    root: str = ""  # digest of the root file system its jobs run in; empty: this machine's own system
    root_bytes: int = 0


def check_kernel(kernel: dict[str, str]) -> dict[str, Json]:
    """Return an operator's kernel choice, refusing any variable that is none."""
    unknown = sorted(set(kernel) - set(KERNEL_VARIABLES))
    if unknown:
        raise UsageError("not a kernel setting", why=", ".join(unknown), hint=f"one of {', '.join(KERNEL_VARIABLES)}")
    return dict(kernel)


def create_key(directory: Path) -> Ed25519PrivateKey:
    """Make the identity key, or return the one an interrupted join left."""
    key = Ed25519PrivateKey.generate()
    try:
        files.create_secret(directory / KEY_FILE, key.private_bytes_raw().hex().encode())
    except FileExistsError:
        return load_key(directory)
    return key


def load_key(directory: Path) -> Ed25519PrivateKey:
    """Read the identity key."""
    text = files.read_secret(directory / KEY_FILE)
    try:
        seed = bytes.fromhex(text.decode("ascii"))
    except ValueError as err:
        raise FormatError("not a node key", why=str(directory / KEY_FILE)) from err
    if len(seed) != SEED_BYTES:
        raise FormatError("not a node key", why=f"{len(seed)} bytes, expected {SEED_BYTES}")
    return Ed25519PrivateKey.from_private_bytes(seed)


def store(directory: Path, settings: NodeSettings, credential: bytes) -> None:
    """Write what a join brought; node.json last, since it says that the join is done."""
    files.replace(directory / CREDENTIAL_FILE, credential)
    files.replace(directory / NODE_FILE, canonical.encode(record.to_json(settings)))


def load(directory: Path) -> NodeSettings:
    """Read node.json and check that it belongs to the key beside it."""
    try:
        data = (directory / NODE_FILE).read_bytes()
    except FileNotFoundError as err:
        raise UsageError("this directory holds no node", why=str(directory), hint="stannary node join -") from err
    except OSError as err:
        raise EnvironmentProblem("cannot read the node's settings", why=str(err)) from err
    settings = record.from_json(NodeSettings, canonical.decode_object(data), what=NODE_FILE)
    if settings.node != ids.node_id(dsse.public_bytes(load_key(directory))):
        raise ConflictError("the key in this directory is another node's", why=settings.node)
    return settings
