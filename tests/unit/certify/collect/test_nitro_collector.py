"""The Nitro collector against a module made here: byte-exact requests, documents signed by a test authority."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import hashlib
import threading
from datetime import timedelta

import pytest
from cryptography.hazmat.primitives import hashes
from tests.unit.certify import world

from stannary.certify.collect import ioctl, nitro
from stannary.certify.evidence import cbor
from stannary.certify.evidence.basis import Basis
from stannary.certify.evidence.collateral import Collateral
from stannary.certify.evidence.nitro import NitroVerifier
from stannary.certify.evidence.verifier import examine
from stannary.certify.rules import Roots, Rules
from stannary.errors import EnvironmentProblem, FormatError, LimitExceeded, ServiceError

ANCHOR = bytes(range(48))
# {"Attestation": {"user_data": null, "nonce": h'00..2f', "public_key": null}}, written by hand from RFC 8949.
REQUEST = b"\xa1\x6bAttestation\xa3" + b"\x69user_data\xf6" + b"\x65nonce\x58\x30" + ANCHOR + b"\x6apublic_key\xf6"


class Module:
    """A Nitro Secure Module: reads the caller's memory as the driver does, and signs what it is asked."""

    def __init__(self) -> None:
        self.root = world.issue("aws.nitro-enclaves", ca=True)
        self.zonal = world.issue("zonal", self.root, ca=True)
        self.leaf = world.issue("i-0123-enc0123", self.zonal, end=world.NOW + timedelta(hours=3))
        self.requests: list[bytes] = []
        self.answer: bytes | None = None
        self.length: int | None = None
        self.nonce: bytes | None = None

    def __call__(self, code: int, message: nitro.Message) -> None:
        """Serve one ioctl."""
        assert code == 0xC0200A00  # _IOWR(0x0A, 0, 32 bytes)
        assert ctypes.sizeof(message) == 32
        raw = bytes(message)
        words = [int.from_bytes(raw[start : start + 8], "little") for start in range(0, 32, 8)]
        assert words[3] == 0x3000
        self.requests.append(ctypes.string_at(words[0], words[1]))
        answer = self.answer or self._sign(ANCHOR if self.nonce is None else self.nonce)
        ctypes.memmove(words[2], answer, min(len(answer), words[3]))
        message.response.length = len(answer) if self.length is None else self.length

    def _sign(self, nonce: bytes) -> bytes:
        def octets(data: bytes) -> bytes:
            return b"\x59" + len(data).to_bytes(2, "big") + data

        def text(name: str) -> bytes:
            return bytes([0x60 + len(name)]) + name.encode()

        moment = int(world.NOW.timestamp() * 1000).to_bytes(8, "big")
        pcrs = b"\xb0" + b"".join(bytes([i]) + octets(hashlib.sha384(b"%d" % i).digest()) for i in range(16))
        bundle = b"\x82" + octets(self.root.certificate.raw) + octets(self.zonal.certificate.raw)
        members = {
            "module_id": b"\x6ei-0123-enc0123", "digest": b"\x66SHA384", "timestamp": b"\x1b" + moment, "pcrs": pcrs,
            "certificate": octets(self.leaf.certificate.raw), "cabundle": bundle, "public_key": b"\xf6",
            "user_data": b"\xf6", "nonce": octets(nonce),
        }  # fmt: skip
        body = b"\xa9" + b"".join(text(name) + item for name, item in members.items())
        protected = b"\xa1\x01\x38\x22"  # {1: -35}, ES384
        signed = b"\x84\x6aSignature1" + b"\x44" + protected + b"\x40" + octets(body)
        signature = world.raw_signature(self.leaf.key, signed, hashes.SHA384())
        document = b"\x84\x44" + protected + b"\xa0" + octets(body) + b"\x58\x60" + signature
        return b"\xa1\x6bAttestation\xa1\x68document" + octets(document)


@pytest.fixture
def module():
    """A module of a test authority."""
    return Module()


def test_request_is_the_documented_one(module):
    """Every byte of the request is as the interface's description has it."""
    nitro.attest(module, ANCHOR)
    assert module.requests == [REQUEST]


def test_what_is_given_is_sent_in_its_member():
    """User data and public key stand in their own members, in the order of the interface."""
    wanted = b"\xa1\x6bAttestation\xa3\x69user_data\x42hi\x65nonce\xf6\x6apublic_key\x43key"
    assert nitro.request(b"", b"hi", b"key") == wanted
    assert cbor.read(wanted, "request") == {
        "Attestation": {"user_data": b"hi", "nonce": None, "public_key": b"key"},
    }


def test_document_passes_under_its_own_root_only(module):
    """What the collector brings is appraised: valid under the test root, refused under AWS's."""
    document = nitro.attest(module, ANCHOR)
    for roots, outcome in ((Roots(nitro=world.certificates.Anchors((module.root.certificate,))), "valid"),
                           (Rules().roots, "refuse:chain-invalid")):  # fmt: skip
        appraisal = examine(
            NitroVerifier(),
            document,
            Basis(bound=ANCHOR, collateral=Collateral(), now=world.NOW, rules=Rules(roots=roots)),
        )
        assert appraisal.outcome == outcome


@pytest.mark.parametrize("other", [b"", b"\x01" * 48, ANCHOR[:47], ANCHOR + b"\0"])
def test_document_over_another_nonce_is_an_error_here(module, other):
    """A module that signs another nonce than asked is noticed on the machine."""
    module.nonce = other
    with pytest.raises(ServiceError, match="another nonce"):
        nitro.attest(module, ANCHOR)


@pytest.mark.parametrize("length", [0, 0x3001, 1 << 63, (1 << 64) - 1])
def test_impossible_lengths_are_refused(module, length):
    """A length of nothing, or beyond the buffer, reads no memory that is not the answer's."""
    module.length = length
    with pytest.raises(ServiceError, match="impossible length"):
        nitro.attest(module, ANCHOR)


def test_answers_that_end_early_or_late_are_malformed(module):
    """An answer cut anywhere, or with bytes behind it, is our error."""
    whole = module._sign(ANCHOR)
    for length in (1, 2, 20, len(whole) - 1, len(whole) + 1):
        module.length = length
        with pytest.raises(FormatError):
            nitro.attest(module, ANCHOR)


@pytest.mark.parametrize(
    "answer",
    [b"\xf6", b"\x80", b"\xa0", b"\xa1\x6bAttestation\xf6", b"\xa1\x6bAttestation\xa1\x68document\x63abc",
     b"\xa1\x6bDescribeNSM\xa0", b"\xff" * 40, b"\xa1\x6bAttestation\xa1\x68document\x41\x00"],
)  # fmt: skip
def test_answers_of_another_shape_are_malformed(module, answer):
    """What is no attestation is refused, whatever else it is."""
    module.answer = answer
    with pytest.raises(FormatError):
        nitro.attest(module, ANCHOR)


def test_error_of_the_module_is_told_in_its_words(module):
    """The module's own error code reaches the operator."""
    module.answer = b"\xa1\x65Error\x6dInputTooLarge"
    with pytest.raises(ServiceError, match="InputTooLarge"):
        nitro.attest(module, ANCHOR)


def test_request_too_large_for_the_module_is_not_sent(module):
    """A request beyond the module's limit stays here."""
    with pytest.raises(LimitExceeded):
        nitro.attest(module, ANCHOR, user_data=bytes(0x1000))
    assert not module.requests


@pytest.mark.parametrize(
    ("number", "error", "hint"),
    [(errno.EPERM, EnvironmentProblem, "sudo"), (errno.EACCES, EnvironmentProblem, "sudo"),
     (errno.EIO, ServiceError, ""), (errno.EMSGSIZE, ServiceError, "")],
)  # fmt: skip
def test_refused_ioctls_tell_rights_from_faults(number, error, hint):
    """Missing rights say how to get them; a fault of the device says its number."""

    def refuse(code, request):
        raise OSError(number, "no")

    with pytest.raises(error) as caught:
        nitro.attest(refuse, ANCHOR)
    assert hint in caught.value.hint


def test_machine_without_the_device_is_told(tmp_path):
    """Outside an enclave the device is absent: our error names it."""
    with pytest.raises(EnvironmentProblem, match="nsm"):
        nitro.gather(ANCHOR, tmp_path / "nsm")


def test_file_that_is_no_module_is_told(tmp_path):
    """A plain file in the device's place answers no ioctl; the kernel's reason is passed on."""
    (tmp_path / "nsm").write_bytes(b"")
    with pytest.raises(ServiceError, match="errno 25"):
        nitro.gather(ANCHOR, tmp_path / "nsm")


def test_device_that_never_answers_costs_its_limit(tmp_path, monkeypatch):
    """An ioctl that does not return is left behind; the collector comes back with our error."""
    stuck = threading.Event()
    monkeypatch.setattr(fcntl, "ioctl", lambda *_: stuck.wait(20))
    (tmp_path / "nsm").write_bytes(b"")
    with ioctl.opened(tmp_path / "nsm", limit_s=0.05) as send, pytest.raises(ServiceError, match="did not answer"):
        nitro.attest(send, ANCHOR)
    stuck.set()
