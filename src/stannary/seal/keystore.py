"""The owner's key on disk, its passphrase-wrapped export, and its backup to age recipients.

Rules:
1. The key file lies in the data folder (XDG, or $STANNARY_DATA_DIR), mode 0600. It appears whole, by one link
   that never replaces another key, so neither a power cut nor two first runs at once leave half a key or
   two. A key file that others may read is refused, as ssh does.
2. An export is scrypt (RFC 7914) + Cobblestone-256. The cost is read from the file but bounded, so that a
   hostile file cannot eat the memory of whoever imports it.
3. A backup to age recipients holds the same bytes as an export before wrapping; `age -d` opens it, and
   `stannary artifact key import` takes what comes out.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import stat
import unicodedata
from collections.abc import Callable
from pathlib import Path

from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

from stannary.errors import AuthError, ConflictError, EnvironmentProblem, FormatError, NotFound, Refuted, UsageError
from stannary.formats import canonical, dsse
from stannary.formats.canonical import Json
from stannary.seal import message
from stannary.seal.keys import SECRET_BYTES, OwnerKey

KEY_FORMAT = "stannary owner key v1"
EXPORT_FORMAT = "stannary owner key export v1"
SCRYPT_N = 2**17  # 128 MiB with r = 8: OWASP password storage cheat sheet, first choice for scrypt
SCRYPT_R = 8
SCRYPT_P = 1
MAX_SCRYPT_N = 2**20
MIN_PASSPHRASE = 12
MAX_KEY_FILE_BYTES = 64 * 1024
AGE_MAGIC = (b"age-encryption.org/", b"-----BEGIN AGE ENCRYPTED FILE-----")
IMPORT_HINT = "stannary artifact key import FILE, with your export or backup"
_AGE_RECIPIENT = re.compile(r"age1[0-9a-z]{20,2000}")


def data_folder() -> Path:
    """Return the folder of the seal room under the user's data folder."""
    named = os.environ.get("STANNARY_DATA_DIR")
    if named:
        return Path(named) / "seal"
    import platformdirs

    return Path(platformdirs.user_data_dir("stannary")) / "seal"


def key_path() -> Path:
    """Return where the owner's key lies."""
    return data_folder() / "owner.key"


def load(path: Path | None = None) -> OwnerKey:
    """Read the owner's key; NotFound if there is none."""
    path = path or key_path()
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError as err:
        raise NotFound(
            "no owner key here", why=str(path), hint=f"{IMPORT_HINT}; a first key: stannary artifact key new"
        ) from err
    except OSError as err:
        raise EnvironmentProblem("cannot read the owner key", why=f"{path}: {err.strerror}") from err
    try:
        mode = os.fstat(descriptor).st_mode
        if not stat.S_ISREG(mode):
            raise EnvironmentProblem(
                "the owner key is not a file", why=str(path), hint=f"move it away, then: {IMPORT_HINT}"
            )
        if mode & 0o077:
            raise AuthError(
                "the owner key is open to others", why=f"{path} has mode {mode & 0o777:o}", hint=f"chmod 600 {path}"
            )
        return parse(os.read(descriptor, MAX_KEY_FILE_BYTES))
    except OSError as err:
        raise EnvironmentProblem("cannot read the owner key", why=f"{path}: {err.strerror}") from err
    except FormatError as err:
        raise FormatError(
            "the owner key file is damaged", why=f"{path}: {err}", hint=f"move it away, then: {IMPORT_HINT}"
        ) from err
    finally:
        os.close(descriptor)


def create(path: Path | None = None) -> OwnerKey:
    """Make a new owner key; ConflictError if there is one."""
    key = OwnerKey(secrets.token_bytes(SECRET_BYTES))
    store(key, path)
    return key


def load_or_create(path: Path | None = None) -> tuple[OwnerKey, bool]:
    """Return the owner's key and whether it was made just now."""
    try:
        return load(path), False
    except NotFound:
        pass
    try:
        return create(path), True
    except ConflictError:
        return load(path), False  # another first run was quicker; its key is the key


def store(key: OwnerKey, path: Path | None = None) -> None:
    """Write a key to its place, never over another one."""
    path = path or key_path()
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_new(path, plain_bytes(key))
    except FileExistsError as err:
        raise ConflictError(
            "there is an owner key already",
            why=str(path),
            hint="move it away first; without it its artifacts stay shut",
        ) from err
    except OSError as err:
        raise EnvironmentProblem("cannot write the owner key", why=f"{path}: {err.strerror}") from err


def write_new(path: Path, data: bytes) -> None:
    """Let a private file appear whole and durable, never over another one (FileExistsError)."""
    temporary = path.with_name(f".{secrets.token_hex(8)}.tmp")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        _appear(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        with contextlib.suppress(OSError):  # file systems that cannot sync a folder keep its order themselves
            os.fsync(folder)
    finally:
        os.close(folder)


def _appear(temporary: Path, path: Path) -> None:
    """Link, or where the disk has no hard links (the USB stick a backup goes to) rename to a name taken first."""
    try:
        os.link(temporary, path, follow_symlinks=False)
    except FileExistsError:
        raise
    except OSError:
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600))
        temporary.replace(path)


def plain_bytes(key: OwnerKey) -> bytes:
    """Return the key file's bytes."""
    return canonical.encode({"format": KEY_FORMAT, "secret": key.secret.hex()}) + b"\n"


def parse(data: bytes) -> OwnerKey:
    """Read a key file."""
    members = canonical.decode_object(data, max_bytes=MAX_KEY_FILE_BYTES)
    if set(members) != {"format", "secret"} or members["format"] != KEY_FORMAT:
        raise FormatError("not an owner key file", why=f"format {members.get('format')!r:.60}")
    return OwnerKey(_hex(members["secret"], "secret"))


def export(key: OwnerKey, passphrase: str) -> bytes:
    """Wrap a key under a passphrase (rule 2)."""
    if len(passphrase) < MIN_PASSPHRASE:
        raise UsageError("passphrase too short", why=f"{len(passphrase)} characters", hint=f"at least {MIN_PASSPHRASE}")
    salt = secrets.token_bytes(16)
    wrapping = Scrypt(salt=salt, length=SECRET_BYTES, n=SCRYPT_N, r=SCRYPT_R, p=SCRYPT_P).derive(_spelled(passphrase))
    sealed = message.seal(plain_bytes(key), wrapping, EXPORT_FORMAT.encode())
    members: dict[str, Json] = {
        "format": EXPORT_FORMAT,
        "kdf": "scrypt",
        "n": SCRYPT_N,
        "r": SCRYPT_R,
        "p": SCRYPT_P,
        "salt": salt.hex(),
        "sealed": dsse.encode_base64(sealed),
    }
    return canonical.encode(members) + b"\n"


def read_copy(data: bytes, passphrase: Callable[[], str]) -> OwnerKey:
    """Read a key from an export or from what `age -d` gives back; the passphrase is asked for if it is needed."""
    if data.startswith(AGE_MAGIC):
        raise FormatError(
            "this backup is still encrypted", why="an age file", hint="age -d -i IDENTITY FILE > KEY, then import KEY"
        )
    try:
        kind = canonical.decode_object(data, max_bytes=MAX_KEY_FILE_BYTES).get("format")
    except FormatError as err:
        raise FormatError(
            "neither a key export nor a key", why=str(err), hint="a file of: stannary artifact key export FILE"
        ) from err
    return import_export(data, passphrase()) if kind == EXPORT_FORMAT else parse(data)


def import_export(data: bytes, passphrase: str) -> OwnerKey:
    """Unwrap an export; Refuted for another passphrase or changed bytes."""
    members = canonical.decode_object(data, max_bytes=MAX_KEY_FILE_BYTES)
    if set(members) != {"format", "kdf", "n", "r", "p", "salt", "sealed"} or members["format"] != EXPORT_FORMAT:
        raise FormatError("not a key export", why=f"format {members.get('format')!r:.60}")
    n = members["n"]
    power_of_two = isinstance(n, int) and not isinstance(n, bool) and 2**14 <= n <= MAX_SCRYPT_N and n & (n - 1) == 0
    if (
        not power_of_two
        or not isinstance(n, int)
        or (members["kdf"], members["r"], members["p"]) != ("scrypt", SCRYPT_R, SCRYPT_P)
    ):
        raise FormatError("key export asks for another cost", why=f"n {n!r:.20}, limit {MAX_SCRYPT_N}")
    salt = _hex(members["salt"], "salt")
    wrapping = Scrypt(salt=salt, length=SECRET_BYTES, n=n, r=SCRYPT_R, p=SCRYPT_P).derive(_spelled(passphrase))
    sealed = dsse.decode_base64(members["sealed"], "sealed")
    try:
        return parse(message.unseal(sealed, wrapping, EXPORT_FORMAT.encode(), what="the key export"))
    except Refuted as err:
        raise Refuted(
            "the key export does not open",
            why="another passphrase, or the file was changed",
            hint="try the passphrase again, or another copy of the export",
        ) from err


def backup(key: OwnerKey, recipients: tuple[str, ...]) -> bytes:
    """Encrypt a key to age recipients (rule 3)."""
    try:
        import pyrage
    except ImportError as err:
        raise EnvironmentProblem("age is not installed", why=str(err), hint='pip install "stannary[seal]"') from err
    if not recipients or not all(_AGE_RECIPIENT.fullmatch(item) for item in recipients):
        raise UsageError("not an age recipient", why=", ".join(recipients)[:200] or "none given", hint="--to age1...")
    try:
        listed = [pyrage.x25519.Recipient.from_str(item) for item in recipients]
    except pyrage.RecipientError as err:
        raise UsageError("not an age recipient", why=str(err)[:200]) from err
    encrypted: bytes = pyrage.encrypt(plain_bytes(key), listed)
    return encrypted


def _spelled(passphrase: str) -> bytes:
    """Return one spelling of a passphrase: systems type an accented letter in two ways (RFC 8265 section 4.2)."""
    return unicodedata.normalize("NFC", passphrase).encode()


def _hex(value: Json, what: str) -> bytes:
    if not isinstance(value, str) or re.fullmatch(r"(?:[0-9a-f]{2}){1,64}", value) is None:
        raise FormatError(f"{what} is not hex", why=f"a {type(value).__name__}")
    return bytes.fromhex(value)
