"""What looks like a secret: names of files and variables, shapes of values, first bytes of key files.

A job's variables, command and files are read by the nodes it runs on, and what is signed is read by
whoever holds the receipt. So the client asks before it sends what looks like a secret.

Rules:
1. A guess is allowed to be wrong, never silent: each answer says in words what gave it away, and the
   caller names the way to send it all the same.
2. A value is never repeated in a message: receipts are private, terminals and build logs are not.
3. Shapes are those their issuers publish (prefix, alphabet, length); entropy is the last resort. Every
   repetition in them is bounded or can be read in one way only: a text made to match almost everywhere costs no
   more than its length.

Pure: names and bytes in, words out. Who asks, and what is left behind, is sdk/travel.py and sdk/submit.py.
"""

from __future__ import annotations

import fnmatch
import math
import re
from collections import Counter
from collections.abc import Iterator

MAX_LONE_WORD_BYTES = 512  # a token in a file of its own is shorter
MIN_RANDOM_CHARS = 20  # shorter keys are told by their name or prefix only
MIN_RANDOM_BITS_PER_CHAR = 3.4  # 20 random characters of base 64 have 3.9 on average; words run together have 3.2

# Files whose name says that they hold keys, passwords or a history of commands. Compared in lower case.
_NAMES = (
    ".env*", "*.env", ".netrc", "_netrc", ".npmrc", ".yarnrc", ".yarnrc.yml", ".pypirc",
    ".git-credentials", ".pgpass", ".my.cnf", ".boto", ".s3cfg", ".vault-token", ".htpasswd", ".dockercfg",
    ".modal.toml", ".comet.config", ".*_history", ".secrets*", "secrets.json", "secrets.yaml", "secrets.yml",
    "secrets.toml", "kaggle.json", "credentials", "credentials.json", "credentials.toml", "credentials.yaml",
    "credentials.yml", "credentials.csv", "credentials.db", "client_secret*.json", "service[-_]account*.json",
    "application_default_credentials.json", "*.key", "*.p12", "*.pfx", "*.jks", "*.keystore", "*.ppk", "*.kdbx",
    "*.ovpn", "*.tfstate", "*.tfstate.backup", "id_rsa*", "id_dsa*", "id_ecdsa*", "id_ed25519*", "id_xmss*",
)  # fmt: skip
_FOLDERS = {
    ".ssh", ".aws", ".azure", ".gnupg", ".kube", ".docker", ".oci", ".huggingface", ".kaggle", ".password-store",
    ".terraform.d", ".mozilla", ".thunderbird", "keyrings", "gcloud",
}  # fmt: skip
_PATHS = ("huggingface/token", "huggingface/stored_tokens", ".cargo/credentials.toml", ".config/gh/hosts.yml")
_NAME = re.compile("|".join(fnmatch.translate(item) for item in _NAMES))
_BARE_ID = re.compile(r"id_[a-z0-9_-]+")  # ssh's id_NAME has no suffix; id_map.json has

# What an issuer's secrets look like, and a text each of them holds: looking for that first costs nothing.
_SHAPES: tuple[tuple[str, tuple[str, ...], re.Pattern[str]], ...] = (
    ("a private key", ("PRIVATE KEY", "AGE-SECRET-KEY-1"), re.compile(
        r"-----BEGIN [A-Z0-9 ]*PRIVATE KEY(?: BLOCK)?-----|AGE-SECRET-KEY-1[0-9A-Z]{20}")),
    ("a Hugging Face token", ("hf_",), re.compile(r"\bhf_[A-Za-z0-9]{16,200}")),
    ("an API key (sk-...)", ("sk-",), re.compile(r"\bsk-(?!ssh-|ecdsa-)(?=[A-Za-z_-]{0,100}\d)[A-Za-z0-9_-]{16,200}")),
    ("a Stripe key", ("_live_", "_test_"), re.compile(r"\b[sr]k_(?:live|test)_[A-Za-z0-9]{10,200}")),
    ("a GitHub token", ("ghp_", "gho_", "ghu_", "ghs_", "ghr_", "github_pat_"), re.compile(
        r"\b(?:gh[pousr]_[A-Za-z0-9]{20,200}|github_pat_[A-Za-z0-9_]{20,200})")),
    ("a GitLab token", ("glpat-",), re.compile(r"\bglpat-[A-Za-z0-9_-]{16,200}")),
    ("an AWS access key", ("AKIA", "ASIA"), re.compile(r"\b(?:AKIA|ASIA)[0-9A-Z]{16}\b")),
    ("a Slack token", ("xox",), re.compile(r"\bxox[abeoprs]-[A-Za-z0-9-]{10,200}")),
    ("a Google API key", ("AIza", "ya29."), re.compile(r"\bAIza[0-9A-Za-z_-]{30,200}|\bya29\.[0-9A-Za-z_-]{20,200}")),
    ("a JSON web token", ("eyJ",), re.compile(r"\beyJ[A-Za-z0-9_-]{8,200}\.[A-Za-z0-9_-]{8,200}\.[A-Za-z0-9_-]*")),
    ("a registry token", ("npm_", "pypi-"), re.compile(r"\b(?:npm_[A-Za-z0-9]{30,200}|pypi-[A-Za-z0-9_-]{30,200})")),
    ("an API key", ("nvapi-", "gsk_", "xai-", "r8_", "dop_v1_", "SG."), re.compile(
        r"\b(?:nvapi-|gsk_|xai-|r8_|dop_v1_|SG\.)[A-Za-z0-9_.-]{20,200}")),
    ("a storage account key", ("AccountKey=", "SharedAccessKey="), re.compile(
        r"(?:AccountKey|SharedAccessKey)=[A-Za-z0-9+/=]{20,200}")),
    ("a password in an address", ("://",), re.compile(r"://[^\s/:@]{0,80}:[^\s/@${}<>]{1,200}@")),
    ("a bearer token", ("earer ",), re.compile(r"\bBearer\s+[A-Za-z0-9._~+/-]{16,200}", re.IGNORECASE)),
)  # fmt: skip
# A key has a body; a program that only names the header of one is no key.
_KEY_BODY = re.compile(
    rb"-----BEGIN [A-Z0-9 ]*PRIVATE KEY(?: BLOCK)?-----(?:\\r|\\n|\s)(?:[A-Za-z0-9+/=:,.\s-]|\\r|\\n){60}"
    rb"|AGE-SECRET-KEY-1[0-9A-Z]{50}|^PuTTY-User-Key-File-"
)
_KEY_SIGNS = (b"PRIVATE KEY", b"AGE-SECRET-KEY-1", b"PuTTY-User-Key-File-")
_RAW_KEY = re.compile(rb"\s*[0-9a-fA-F]{64}\s*")  # 32 bytes in hex and nothing else: how raw keys and seeds are kept

_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")
_SECRET_WORDS = {"PASS", "PWD", "PAT", "JWT", "COOKIE", "CREDS", "SECRETS", "PASSWORDS"}
_SECRET_ENDINGS = (
    "TOKEN", "SECRET", "PASSWORD", "PASSWD", "PASSPHRASE", "APIKEY", "APIKEYS", "ACCESSKEY", "SECRETKEY", "PRIVATEKEY",
    "CREDENTIAL", "CREDENTIALS",
)  # fmt: skip
# What a word before KEY or TOKEN makes of it: a column of a table, a symbol of a tokenizer.
_HARMLESS_KEYS = {
    "PRIMARY", "SORT", "GROUP", "FOREIGN", "PARTITION", "TEXT", "LABEL", "COLUMN", "INPUT", "OUTPUT", "DICT", "INDEX",
    "PUBLIC", "DATA", "IMAGE", "FEATURE", "TARGET", "JOIN", "CACHE", "DATASET", "BATCH", "LOSS", "METRIC",
}  # fmt: skip
_HARMLESS_TOKENS = {"EOS", "BOS", "PAD", "UNK", "MASK", "CLS", "SEP", "STOP", "START", "END"}
# A last word that says that the value is about a secret and none itself; its shape is looked at all the same.
_ABOUT = {
    "FILE", "PATH", "DIR", "NAME", "ID", "IDS", "LEN", "LENGTH", "SIZE", "COUNT", "LIMIT", "TYPE", "COLUMN", "FIELD",
    "INDEX", "DIM", "MODE", "FORMAT",
}  # fmt: skip
_DIGESTS = {"SHA", "HASH", "COMMIT", "DIGEST", "REVISION", "REV", "CHECKSUM", "MD", "REF", "VERSION"}
_PLAIN_VALUE = re.compile(r"[-+]?[0-9.,_eE]*|true|false|yes|no|on|off|none|null", re.IGNORECASE)
_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)
_VALUE = r"(\"[^\"]*\"|'[^']*'|[^\s;&|]+)"
_ASSIGNMENT = re.compile(r"(?:^|[\s;&|('\"])-{0,2}([A-Za-z_][A-Za-z0-9_-]*)=" + _VALUE)
_OPTION = re.compile(r"(?:^|\s)--([A-Za-z][A-Za-z0-9_-]*)\s+" + _VALUE)


def by_path(relative: str) -> str | None:
    """Say why a file or folder of this path holds secrets, None if no name on it says so."""
    lowered = relative.lower()
    *_, name = folders = lowered.split("/")
    if not _FOLDERS.isdisjoint(folders) or _NAME.fullmatch(name) or _BARE_ID.fullmatch(name):
        return "a name of keys or passwords"
    if any(f"/{lowered}".endswith(f"/{path}") for path in _PATHS):
        return "a name of keys or passwords"
    return None


def in_head(head: bytes) -> str | None:
    """Say what secret the first 64 KiB of a file show, None if there is none: key files are smaller than that."""
    if any(sign in head for sign in _KEY_SIGNS) and _KEY_BODY.search(head):
        return "a private key"
    if len(head) > MAX_LONE_WORD_BYTES:
        return None
    if _RAW_KEY.fullmatch(head):
        return "32 bytes in hex, like a raw key"
    word = head.decode("ascii", "replace").strip()
    is_hex = re.fullmatch(r"[0-9a-fA-F]+", word) is not None  # a commit, a checksum
    return "one random word, like a token" if not is_hex and not re.search(r"\s", word) and _is_random(word) else None


def in_variable(name: str, value: str) -> str | None:
    """Say why an environment variable looks like a secret, None if it does not."""
    if _PLAIN_VALUE.fullmatch(value.strip()):
        return None
    shape = shape_in(value)
    if shape:
        return f"its value has {shape[1]}"
    words = _words(name)
    if _is_secret_name(words) and not value.lstrip().startswith("$"):
        return "its name says so"
    if not _DIGESTS.intersection(words) and any(_is_random(part) for part in re.split(r"[\s,;:=]+", value)):
        return "its value looks random, as keys do"
    return None


def shape_in(text: str) -> tuple[int, str] | None:
    """Return the line number and kind of the first secret that is known by its shape alone, None if there is none."""
    first = min(_matches(text), key=lambda match: match.start(), default=None)
    if first is None:
        return None
    what = next(what for what, _, pattern in _SHAPES if pattern is first.re)
    return text.count("\n", 0, first.start()) + 1, f"the shape of {what}"


def in_command(text: str) -> tuple[int, str] | None:
    """Return the line number and reason of the first secret in a command line or list, None if there is none."""
    found = shape_in(text)
    if found:
        return found
    for number, line in enumerate(text.splitlines(), 1):
        for match in (*_ASSIGNMENT.finditer(line), *_OPTION.finditer(line)):
            value = match[2].strip("\"'")
            is_plain = _PLAIN_VALUE.fullmatch(value) or value.startswith(("$", "-", "/"))
            if not is_plain and _is_secret_name(_words(match[1])):
                return number, f"{match[1]:.40} is given a value"
    return None


def _matches(text: str) -> Iterator[re.Match[str]]:
    for _, signs, pattern in _SHAPES:
        if any(sign in text for sign in signs) and (match := pattern.search(text)) is not None:
            yield match


def _words(name: str) -> list[str]:
    """Split NAME_LIKE_THIS, name-like-this and nameLikeThis into upper-case words."""
    return [word.upper() for word in _WORD.findall(name)]


def _is_secret_name(words: list[str]) -> bool:
    if not words or words[-1] in _ABOUT or words == ["PWD"]:
        return False
    for before, word in zip(["", *words], words, strict=False):
        if word in ("KEY", "KEYS"):
            if before not in _HARMLESS_KEYS:
                return True
        elif word == "TOKEN":
            if before not in _HARMLESS_TOKENS:
                return True
        elif word in _SECRET_WORDS or word.endswith(_SECRET_ENDINGS):
            return True
    return False


def _is_random(text: str) -> bool:
    """Tell whether a run of characters looks drawn at random rather than written by somebody."""
    if _UUID.fullmatch(text):
        return False
    if re.fullmatch(r"[0-9a-fA-F]{32,}", text):
        return _bits_per_char(text.lower()) > 2.5
    for part in re.split(r"[-_/.@]", text):
        kinds = [bool(re.search(kind, part)) for kind in ("[a-z]", "[A-Z]", "[0-9]")]
        if len(part) >= MIN_RANDOM_CHARS and all(kinds) and _bits_per_char(part) >= MIN_RANDOM_BITS_PER_CHAR:
            return True
    return False


def _bits_per_char(text: str) -> float:
    """Return the Shannon entropy of a text's characters."""
    return -sum(count / len(text) * math.log2(count / len(text)) for count in Counter(text).values())
