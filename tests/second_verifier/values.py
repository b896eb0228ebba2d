"""Values, envelopes and statements: sections R1 and R2."""

from __future__ import annotations

import base64
import binascii
import calendar
import hashlib
import json
import re
from functools import lru_cache
from typing import Any, NoReturn

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

MAX_INT = 2**53 - 1
MAX_LEVELS = 32
P = 2**255 - 19
Y8 = 0x05FC536D880238B13933C6D305ACDFD5F098EFF289F4C345B027B2C28F95E826
STATEMENT = "https://in-toto.io/Statement/v1"
PAYLOAD_TYPE = "application/vnd.in-toto+json"


class NotJson(Exception):
    """R17.1: no receipt at all."""


class Malformed(Exception):
    """R17.3."""


def read_json(data: bytes) -> Any:
    """R1.1."""
    try:
        text = data.decode("utf-8")
        value = json.loads(text, object_pairs_hook=_members, parse_float=_no, parse_constant=_no, parse_int=_whole)
        text = json.dumps(value, ensure_ascii=False)
        text.encode("utf-8")  # a lone surrogate cannot be
        levels = _levels(value)
    except (ValueError, RecursionError) as err:
        raise NotJson(str(err)) from err
    if levels > MAX_LEVELS:
        raise NotJson("too deep")
    return value


def canonical(value: Any) -> bytes:
    """R1.2."""
    return json.dumps(_ordered(value), ensure_ascii=False, separators=(",", ":")).encode()


def _ordered(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _ordered(value[name]) for name in sorted(value, key=lambda name: name.encode("utf-16-be"))}
    return [_ordered(item) for item in value] if isinstance(value, list) else value


def _members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(dict(pairs)) != len(pairs):
        raise ValueError("a member twice")
    return dict(pairs)


def _no(text: str) -> NoReturn:
    raise ValueError(text)


def _whole(text: str) -> int:
    if text == "-0" or len(text) > 20 or abs(int(text)) > MAX_INT:
        raise ValueError(text)
    return int(text)


def _levels(value: Any) -> int:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else None
    return 0 if inner is None else 1 + max(map(_levels, inner), default=0)


def from_base64(text: Any, size: int | None = None) -> bytes:
    """R1.3."""
    try:
        data = base64.b64decode(text.encode("ascii"), validate=True)
    except (AttributeError, UnicodeEncodeError, binascii.Error) as err:
        raise Malformed("not base64") from err
    if base64.b64encode(data).decode() != text or (size is not None and len(data) != size):
        raise Malformed("not base64")
    return data


def is_hex32(text: Any) -> bool:
    """R1.4."""
    return isinstance(text, str) and re.fullmatch("[0-9a-f]{64}", text) is not None


def is_digest(text: Any) -> bool:
    """R1.4."""
    return isinstance(text, str) and text[:7] == "sha256:" and is_hex32(text[7:])


def digest(data: bytes) -> str:
    """R1.4."""
    return "sha256:" + hashlib.sha256(data).hexdigest()


def H(label: str, *parts: bytes) -> bytes:
    """R1.5."""
    return hashlib.sha256(b"".join(len(p).to_bytes(8, "big") + p for p in (label.encode(), *parts))).digest()


@lru_cache(maxsize=4096)
def time(text: str) -> int:
    """R1.7."""
    match = re.fullmatch("([0-9]{4})-([0-9]{2})-([0-9]{2})T([0-9]{2}):([0-9]{2}):([0-9]{2})Z", text)
    if match is None:
        raise Malformed("not a time")
    year, month, day, hour, minute, second = map(int, match.groups())
    if not (year and 1 <= month <= 12 and hour < 24 and minute < 60 and second < 60):
        raise Malformed("not a time")
    if not 1 <= day <= calendar.monthrange(year, month)[1]:
        raise Malformed("not a day")
    return calendar.timegm((year, month, day, hour, minute, second))


def check_key(key: bytes) -> bytes:
    """R1.9."""
    y = int.from_bytes(key, "little") & ~(1 << 255)
    if len(key) != 32 or y >= P or y in (0, 1, P - 1, Y8, P - Y8):
        raise Malformed("not a key")
    return key


@lru_cache(maxsize=8192)  # the same statements stand in receipt after receipt
def verifies(key: bytes, signature: bytes, message: bytes) -> bool:
    """R1.9."""
    try:
        Ed25519PublicKey.from_public_bytes(check_key(key)).verify(signature, message)
    except InvalidSignature:
        return False
    return True


class Envelope:
    """R2.1."""

    def __init__(self, value: Any) -> None:
        members(value, "payload", "payloadType", "signatures")
        self.type, listed = value["payloadType"], value["signatures"]
        if not isinstance(self.type, str) or not isinstance(listed, list) or not 1 <= len(listed) <= 4:
            raise Malformed("not an envelope")
        self.payload = from_base64(value["payload"])
        if len(self.payload) > 4 * 1024 * 1024:
            raise Malformed("too large")
        self.signatures = []
        for item in listed:
            members(item, "keyid", "sig")
            if not isinstance(item["keyid"], str):
                raise Malformed("not a key id")
            self.signatures.append((item["keyid"], from_base64(item["sig"], 64)))
        kind = self.type.encode("utf-8")
        self.pae = b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(self.payload), self.payload)  # R2.2
        self.leaf = hashlib.sha256(self.pae).digest()  # R2.4

    def is_signed_by(self, key: bytes) -> bool:
        """R2.3."""
        try:
            check_key(key)
        except Malformed:
            return False
        return (
            self.type == PAYLOAD_TYPE
            and len(self.signatures) == 1
            and self.signatures[0][0] == key_id(key)
            and verifies(key, self.signatures[0][1], self.pae)
        )


def key_id(key: bytes) -> str:
    """R2.3."""
    return "ed25519:" + hashlib.sha256(key).hexdigest()


def statement(payload: bytes) -> tuple[str, list[tuple[str, str]], Any]:
    """R2.5: kind, subjects, predicate."""
    try:
        value = read_json(payload)
    except NotJson as err:
        raise Malformed("not JSON") from err
    members(value, "_type", "subject", "predicateType", "predicate")
    match = re.fullmatch("urn:stannary:(.*):v1", str(value["predicateType"]), re.DOTALL)
    if value["_type"] != STATEMENT or match is None or canonical(value) != payload:
        raise Malformed("not a statement")
    if not isinstance(value["subject"], list):
        raise Malformed("no subjects")
    subjects = []
    for item in value["subject"]:
        members(item, "name", "digest")
        members(item["digest"], "sha256")
        if not isinstance(item["name"], str) or not is_hex32(item["digest"]["sha256"]):
            raise Malformed("not a subject")
        subjects.append((item["name"], "sha256:" + item["digest"]["sha256"]))
    return match[1], subjects, value["predicate"]


def members(value: Any, *names: str) -> None:
    """Ask for exactly these members."""
    if not isinstance(value, dict) or set(value) != set(names):
        raise Malformed("missing or unknown members")
