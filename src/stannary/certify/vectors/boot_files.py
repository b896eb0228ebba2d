"""A recorded boot as tpm2-tools leaves it: quote, signature, key, registers and log in files of their own.

Such files come from `tpm2_quote -m -s`, `tpm2_createak -u -n`, `tpm2_pcrread` and the kernel's event log. They
are read into the same evidence as one file of `stannary node check`; the verifier then sees no difference.
"""

from __future__ import annotations

import re
import struct
from typing import TYPE_CHECKING

from cryptography.hazmat.primitives.asymmetric import ec, rsa

from stannary.certify.evidence import event_log, tpm_forms
from stannary.certify.evidence import tpm_structures as tpm
from stannary.certify.pki import certificates, keys
from stannary.errors import FormatError
from stannary.formats import canonical, dsse

if TYPE_CHECKING:
    from stannary.certify.evidence.tpm_forms import TpmEvidence
    from stannary.certify.evidence.tpm_structures import PublicArea, Registers
    from stannary.formats.canonical import Json

MAX_REGISTERS_BYTES = 64 * 1024
# What tpm2_createak gives an attestation key, without and with noDA: restricted, fixed, signing.
_AK_ATTRIBUTES = (0x00050072, 0x00050472)
_SHA256, _NIST_P256, _DEFAULT_EXPONENT = 0x000B, 0x0003, 65537
_PEM = re.compile(rb"-----BEGIN PUBLIC KEY-----([A-Za-z0-9+/=\s]+)-----END PUBLIC KEY-----")
_LINE = re.compile(r"\s*(\d{1,2})\s*:\s*0x([0-9A-Fa-f]+)\s*")
_HEADING = re.compile(r"\s*(sha\d{1,3})\s*:\s*")


def is_quote(data: bytes) -> bool:
    """Whether a file is a bare TPMS_ATTEST."""
    return data[:4] == tpm.MAGIC.to_bytes(4, "big")


def read_boot(attest: bytes, parts: dict[str, bytes], certificates_: tuple[bytes, ...] = ()) -> TpmEvidence:
    """Join a quote with its `signature`, `ak`, `ak_name`, `pcrs`, `log` and EK certificates, leaf first."""
    public, bare = _key(parts.get("ak", b""), parts.get("ak_name", b""))
    return tpm_forms.TpmEvidence(
        attest=tpm.parse_attest(attest),
        signature=tpm.parse_signature(parts.get("signature", b"")),
        banks=read_registers(parts["pcrs"]) if "pcrs" in parts else {},
        ak=public,
        bare_key=bare,
        ek_chain=tuple(item for data in certificates_ for item in certificates.load_bundle(data)),
        log=event_log.parse_log(parts["log"]) if parts.get("log") else None,
    )


def read_registers(data: bytes) -> Registers:
    """Read registers as `tpm2_pcrread` prints them (`sha256:`, then `0 : 0x...`), or a JSON object a bank."""
    if len(data) > MAX_REGISTERS_BYTES:
        raise FormatError("registers too large", why=f"{len(data):,} bytes, limit {MAX_REGISTERS_BYTES:,}")
    if data.lstrip()[:1] == b"{":
        return tpm_forms.read_banks(canonical.decode_object(data))
    try:
        lines = data.decode("ascii").splitlines()
    except UnicodeDecodeError as err:
        raise FormatError("registers are neither text nor JSON", why=str(err)) from err
    listed: dict[str, Json] = {}
    current: dict[str, Json] = {}
    for line in lines:
        heading, pair = _HEADING.fullmatch(line), _LINE.fullmatch(line)
        if heading is not None:
            current = {}
            if listed.setdefault(f"pcrs_{heading[1]}", current) is not current:
                raise FormatError("registers of one bank are listed twice", why=heading[1])
        elif pair is not None:
            if pair[1] in current:
                raise FormatError("register is listed twice", why=pair[1])
            current[pair[1]] = pair[2].lower()
        elif line.strip():
            raise FormatError("registers do not read", why=repr(line)[:60])
    if not listed and current:
        listed["pcrs"] = current
    return tpm_forms.read_banks(listed)


def _key(data: bytes, name: bytes) -> tuple[PublicArea | None, keys.PublicKey | None]:
    """Read a key as TPM structure, or as PEM with its recorded name, which only the right attributes give."""
    if not data.startswith(b"-----BEGIN"):
        return tpm_forms.read_public(data), None
    found = _PEM.fullmatch(data.strip())
    if found is None:
        raise FormatError("attestation key does not load", why="not one PEM public key")
    key = keys.load(dsse.decode_base64(b"".join(found[1].split()).decode("ascii"), "attestation key"))
    areas = (area for attributes in _AK_ATTRIBUTES for area in _areas(key, attributes))
    return next((parsed for area in areas if (parsed := tpm.parse_public(area)).name == name), None), key


def _areas(key: keys.PublicKey, attributes: int) -> list[bytes]:
    """Return the public areas that tpm2_createak gives a key of this kind: SHA-256, no policy, its signature schemes.

    The one that was made has the recorded name; the name is a hash, so no other fits.
    """
    if isinstance(key, rsa.RSAPublicKey) and key.public_numbers().e == _DEFAULT_EXPONENT:
        kind, schemes = tpm.ALG_RSA, [tpm.ALG_RSASSA, tpm.ALG_RSAPSS]
        detail = struct.pack(">HI", key.key_size, 0)  # the exponent's default is written as 0
        unique = [(key.public_numbers().n, key.key_size // 8)]
    elif isinstance(key, ec.EllipticCurvePublicKey) and key.curve.name == "secp256r1":
        kind, schemes, detail = tpm.ALG_ECC, [tpm.ALG_ECDSA], struct.pack(">HH", _NIST_P256, tpm.ALG_NULL)
        unique = [(key.public_numbers().x, 32), (key.public_numbers().y, 32)]
    else:
        return []
    head = struct.pack(">HHIHH", kind, _SHA256, attributes, 0, tpm.ALG_NULL)
    tail = detail + b"".join(struct.pack(">H", size) + value.to_bytes(size, "big") for value, size in unique)
    return [head + struct.pack(">HH", scheme, _SHA256) + tail for scheme in schemes]
