"""The market's keys on disk: identity key, admin token, certificate; and market.json, its card.

Rules:
- One Ed25519 key signs statements (DSSE) and checkpoints (notes); the domains differ, so no byte
  string serves as both.
- Secrets are created 0600 by O_EXCL, never rewritten, never logged.
- What others have pinned (key, certificate) is made once: where it is gone later the market does not start, since under
  another one nobody would know it. The admin token is nobody's pin; deleted, it is made anew.
- market.json is replaced by rename after the server listens: whoever reads it can connect.
"""

from __future__ import annotations

import hashlib
import ipaddress
import os
import secrets
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.x509.oid import NameOID

from stannary import files
from stannary.errors import EnvironmentProblem, UsageError
from stannary.formats import dsse, note
from stannary.formats.ids import KeyId
from stannary.tlog.log import PUBLISHED
from stannary.wire.card import CARD_FILE, Card, read_card

KEY_FILE = "key"
NAME_FILE = "name"
FORMER_NAME = "local.market"  # of every market made before names were kept
ADMIN_TOKEN_FILE = "admin-token"  # noqa: S105  a file name
TLS_KEY_FILE, TLS_CERT_FILE = "tls.key", "tls.crt"
LOG_DIR = "log"
RESTORE = "put it back from a backup: stannary market restore --from FOLDER"
PUBLIC_MODE = 0o644  # of what holds no secret
CERTIFICATE_DAYS = 3650  # it is pinned by fingerprint, not by date


@dataclass(frozen=True, slots=True)
class Identity:
    """Who this market is."""

    name: str
    key: Ed25519PrivateKey
    vkey: str
    admin_token: str

    def __repr__(self) -> str:
        return f"Identity({self.vkey})"

    @property
    def public(self) -> bytes:
        """The raw public key."""
        return dsse.public_bytes(self.key)

    @property
    def keyid(self) -> KeyId:
        """The key id statements are signed under."""
        return dsse.key_id(self.public)


def name_of(directory: Path, wanted: str) -> str:
    """Return the market's name, as kept in `directory` by `load`; one of its own where none was ever given.

    Two markets of one name cannot both be pinned, and a key has one name only: it is part of what the log signs.

    Raises:
        UsageError: the market has another name than `wanted`.
    """
    path = directory / NAME_FILE
    kept = path.read_text(encoding="utf-8").strip() if path.exists() else ""
    if not kept and not wanted and (directory / KEY_FILE).exists():
        kept = FORMER_NAME
    if kept and wanted and kept != wanted:
        raise UsageError(
            "a market cannot change its name",
            why=f"{directory} holds {kept:.80}, not {wanted:.80}",
            hint=f"--name {kept:.80}, or another --dir",
        )
    return kept or wanted or f"market-{secrets.token_hex(4)}.local"


def load(directory: Path, name: str) -> Identity:
    """Return the identity kept in `directory`, made on first use."""
    files.make_private_dir(directory)
    if not (directory / KEY_FILE).exists() and (directory / LOG_DIR / PUBLISHED).exists():
        raise _gone(directory / KEY_FILE, "what it signed lies in the log, and buyers and nodes have pinned it")
    raw = _secret_file(directory / KEY_FILE, lambda: _pem(Ed25519PrivateKey.generate()))
    try:
        key = serialization.load_pem_private_key(raw, password=None)
    except (ValueError, TypeError) as err:  # TypeError: it is encrypted
        raise EnvironmentProblem("the market's key is damaged", why=f"{directory / KEY_FILE}", hint=RESTORE) from err
    if not isinstance(key, Ed25519PrivateKey):
        raise EnvironmentProblem("the market's key file holds another kind of key", why=f"{directory / KEY_FILE}")
    token = _secret_file(directory / ADMIN_TOKEN_FILE, f"sta_{secrets.token_urlsafe(32)}\n".encode)
    if not token.strip().isascii() or not token.strip():
        path = directory / ADMIN_TOKEN_FILE
        raise EnvironmentProblem("the market's admin token is damaged", why=f"{path}", hint=f"rm {path}")
    vkey = note.format_vkey(name, dsse.public_bytes(key))
    if not (directory / NAME_FILE).exists():
        files.replace(directory / NAME_FILE, f"{name}\n".encode(), mode=PUBLIC_MODE)
    return Identity(name, key, vkey, token.decode("ascii").strip())


def certificate(directory: Path, host: str, now: float) -> tuple[Path, Path, str]:
    """Return certificate file, key file and SHA-256 fingerprint (hex), made on first use."""
    cert_path, key_path = directory / TLS_CERT_FILE, directory / TLS_KEY_FILE
    missing = [path for path in (cert_path, key_path) if not path.exists()]
    if missing and (cert_path.exists() or _has_served_tls(directory)):
        raise _gone(missing[0], "buyers and nodes have pinned the certificate")
    if not cert_path.exists():
        key = ec.generate_private_key(ec.SECP256R1())
        cert = _self_signed(key, host, datetime.fromtimestamp(now, UTC))
        key_path.unlink(missing_ok=True)  # of a start that was killed between the two
        encryption = serialization.NoEncryption()
        pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption)
        _secret_file(key_path, lambda: pem)
        files.replace(cert_path, cert.public_bytes(serialization.Encoding.PEM), mode=PUBLIC_MODE)
    try:
        der = ssl.PEM_cert_to_DER_cert(cert_path.read_text(encoding="ascii"))
    except ValueError as err:
        raise EnvironmentProblem(
            "the market's certificate is damaged", why=f"{cert_path}: {err}", hint=RESTORE
        ) from err
    try:  # an encrypted key would ask whoever starts the market for its password
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(cert_path, key_path, password="")
    except (OSError, ValueError) as err:  # SSLError is an OSError
        raise EnvironmentProblem(
            "the market's TLS key is damaged, or another certificate's", why=f"{key_path}: {err}", hint=RESTORE
        ) from err
    return cert_path, key_path, hashlib.sha256(der).hexdigest()


def _has_served_tls(directory: Path) -> bool:
    card = read_card(directory)
    return card is not None and bool(card.tls_fingerprint)


def _gone(path: Path, why: str) -> EnvironmentProblem:
    return EnvironmentProblem(f"the market's {path.name} is gone", why=f"{path}: {why}", hint=RESTORE)


def write_card(directory: Path, card: Card) -> None:
    """Replace market.json atomically."""
    files.replace(directory / CARD_FILE, card.line().encode() + b"\n", mode=PUBLIC_MODE)


def _secret_file(path: Path, make: Callable[[], bytes]) -> bytes:
    if not path.exists():
        data = make()
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as handle:
            handle.write(data)
            handle.flush()
            os.fsync(handle.fileno())
        files.sync_dir(path.parent)
    return path.read_bytes()


def _pem(key: Ed25519PrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _self_signed(key: ec.EllipticCurvePrivateKey, host: str, now: datetime) -> x509.Certificate:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "stannary market")])
    try:
        alternative: x509.GeneralName = x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        alternative = x509.DNSName(host)
    return (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=CERTIFICATE_DAYS))
        .add_extension(x509.SubjectAlternativeName([alternative]), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
