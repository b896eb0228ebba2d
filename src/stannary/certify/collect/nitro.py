"""Attestation documents of an AWS Nitro enclave, from the Nitro Secure Module.

One ioctl on /dev/nsm carries a CBOR request and brings a CBOR answer (include/uapi/linux/nsm.h; requests
and answers as in aws-nitro-enclaves-nsm-api, `api`). The anchor is the document's nonce: it already holds
the hash of the key, so nothing else is asked to be signed. The raw ioctl needs CAP_SYS_ADMIN, which an
enclave's own processes have.
"""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import TYPE_CHECKING

from stannary.certify.collect import ioctl
from stannary.certify.envelope import Part
from stannary.certify.evidence import cbor, nitro
from stannary.errors import FormatError, LimitExceeded, ServiceError

if TYPE_CHECKING:
    from stannary.certify.collect.ioctl import Ioctl

DEVICE = Path("/dev/nsm")
NSM_MAGIC = 0x0A
MAX_REQUEST_BYTES, MAX_RESPONSE_BYTES = 0x1000, 0x3000


class Vector(ctypes.Structure):
    """struct nsm_iovec: an address and a length."""

    _fields_ = (("address", ctypes.c_uint64), ("length", ctypes.c_uint64))


class Message(ctypes.Structure):
    """struct nsm_raw. The driver overwrites the response's length with what it wrote."""

    _fields_ = (("request", Vector), ("response", Vector))


NSM_IOCTL_RAW = ioctl.iowr(NSM_MAGIC, 0, Message)


def gather(bound: bytes, device: Path = DEVICE) -> Part:
    """Return a document over the anchor."""
    with ioctl.opened(device) as send:
        document = attest(send, bound)
    return Part("nitro", document)


def attest(send: Ioctl, nonce: bytes, *, user_data: bytes = b"", public_key: bytes = b"") -> bytes:
    """Ask the module for a document; refuse one that carries another nonce."""
    document = read_answer(exchange(send, request(nonce, user_data, public_key)))
    signed = nitro.parse_document(document)
    if signed.nonce != nonce:
        raise ServiceError("the Nitro Secure Module signed another nonce", why=signed.nonce.hex()[:128] or "none")
    return document


def request(nonce: bytes, user_data: bytes = b"", public_key: bytes = b"") -> bytes:
    """Return the request's CBOR; what is empty is asked for as null."""
    listed = {"user_data": user_data, "nonce": nonce, "public_key": public_key}
    members = {name: cbor.encode_bytes(value) if value else cbor.NULL for name, value in listed.items()}
    return cbor.encode_map({"Attestation": cbor.encode_map(members)})


def read_answer(data: bytes) -> bytes:
    """Return the document inside an answer; the module's own error in its words."""
    answer = cbor.read(data, "NSM answer", indefinite=True)
    if not isinstance(answer, dict) or len(answer) != 1:
        raise FormatError("NSM answer is not one member")
    if "Error" in answer:
        raise ServiceError("the Nitro Secure Module refused", why=f"{answer['Error']!r:.60}")
    inner = answer.get("Attestation")
    document = inner.get("document") if isinstance(inner, dict) else None
    if not isinstance(document, bytes):
        raise FormatError("NSM answer holds no document", why=", ".join(str(name)[:40] for name in answer))
    return document


def exchange(send: Ioctl, data: bytes) -> bytes:
    """Send one request; return as many bytes as the module says it wrote."""
    if len(data) > MAX_REQUEST_BYTES:
        raise LimitExceeded("NSM request too large", why=f"{len(data):,} bytes, limit {MAX_REQUEST_BYTES:,}")
    question, answer = ctypes.create_string_buffer(data, len(data)), ctypes.create_string_buffer(MAX_RESPONSE_BYTES)
    message = Message(
        Vector(ctypes.addressof(question), len(data)), Vector(ctypes.addressof(answer), MAX_RESPONSE_BYTES)
    )
    message.keep = (question, answer)  # a call given up on may still write: its buffers live as long as its message
    try:
        send(NSM_IOCTL_RAW, message)
    except OSError as err:
        raise ioctl.refused("the Nitro Secure Module", err) from err
    written = message.response.length
    if not 0 < written <= MAX_RESPONSE_BYTES:
        raise ServiceError("the Nitro Secure Module gave an impossible length", why=f"{written:,} bytes")
    return answer.raw[:written]
