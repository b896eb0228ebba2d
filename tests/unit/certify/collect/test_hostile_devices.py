"""Devices that answer anything: every collector ends in our errors, within its limits, for any bytes."""

from __future__ import annotations

import contextlib
import ctypes
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.certify import world

from stannary.certify.collect import azure, certified, nitro, sev_guest, tpm, tsm
from stannary.certify.collect.endorsement import ECC_P384, RSA_2048
from stannary.certify.collect.tpm_client import Loaded, TpmClient
from stannary.errors import StannaryError

BOUND = b"\x44" * 48
MAX_COMMANDS = 2000
# Bodies as commands' answers have them: sized fields, behind a parameter size, behind a handle.
SIZED = st.lists(st.binary(max_size=70), max_size=4).map(
    lambda fields: b"".join(struct.pack(">H", len(field)) + field for field in fields)
)
BODIES = st.one_of(
    st.binary(max_size=80),
    SIZED,
    SIZED.map(lambda data: struct.pack(">I", len(data)) + data),
    SIZED.map(lambda data: struct.pack(">II", 0x80000001, len(data)) + data),
)


def _given(key) -> None:
    with key:
        pass


CALLS = {
    "certificate": lambda client: client.ek_certificate(ECC_P384),
    "endorsement key": lambda client: _given(client.endorsement_key(RSA_2048)),
    "attestation key": lambda client: _given(client.attestation_key()),
    "registers": lambda client: client.read_pcrs(),
    "quote": lambda client: tpm.quote(client, Loaded(1, b""), BOUND, (0, 1)),
    "activation under a policy": lambda client: client.activate(Loaded(1, b""), Loaded(2, bytes(8)), b"x"),
    "activation by password": lambda client: client.activate(Loaded(1, b""), Loaded(2, b"\xff" * 8), b"x"),
    "write": lambda client: client.nv_write(0x01400002, bytes(64)),
    "issuers": certified.issuers,
    "certified keys": certified.stored,
    "composite": lambda client: azure.collect(client, BOUND, lambda *_: b"", lambda _: None),
}


class Hostile:
    """A TPM whose answers are drawn: whole responses, or bodies behind an honest header."""

    def __init__(self, draw) -> None:
        self.draw, self.num_commands = draw, 0

    def exchange(self, command: bytes) -> bytes:
        """Answer anything."""
        self.num_commands += 1
        assert self.num_commands < MAX_COMMANDS, "asked without end"
        body = self.draw(BODIES)
        code = self.draw(st.sampled_from([0, 0, 0, 0, 0x922, 0x14A, 0x98E, -1]))
        return body if code < 0 else struct.pack(">HII", 0x8001, 10 + len(body), code) + body

    def close(self) -> None:
        """Nothing is open."""


@pytest.mark.parametrize("name", CALLS)
@given(data=st.data())
def test_tpm_that_answers_anything_ends_in_our_errors(name, data):
    """No answer of a TPM raises anything else than ours, or is asked for without end."""
    with contextlib.suppress(StannaryError):
        CALLS[name](TpmClient(Hostile(data.draw)))


@given(st.binary(max_size=400), st.integers(0, (1 << 64) - 1))
def test_module_that_answers_anything_ends_in_our_errors(answer, length):
    """So with the Nitro Secure Module, whatever length it claims."""

    def send(_code, message):
        ctypes.memmove(message.response.address, answer, len(answer))
        message.response.length = length if length < 0x4000 or length > 1 << 40 else len(answer)

    with contextlib.suppress(StannaryError):
        nitro.attest(send, BOUND)


@given(st.binary(max_size=4000), st.binary(max_size=200))
def test_firmware_that_answers_anything_ends_in_our_errors(answer, table):
    """So with the SNP firmware and the host's table."""

    def send(code, message):
        ctypes.memmove(message.response, answer, len(answer))
        if code == sev_guest.SNP_GET_EXT_REPORT:
            asked = sev_guest.ExtendedRequest.from_address(message.request)
            ctypes.memmove(asked.table_address, table, len(table))

    with contextlib.suppress(StannaryError):
        sev_guest.ask(send, bytes(64))


class Tree:
    """A configfs whose attributes are drawn."""

    def __init__(self, attributes: dict[str, bytes]) -> None:
        self.attributes, self.open = attributes, 0

    def make(self, name):
        """Count what is open."""
        self.open += 1

    def has(self, name, attribute):
        """Whether it was drawn."""
        return attribute in self.attributes

    def read(self, name, attribute):
        """What was drawn."""
        return self.attributes.get(attribute, b"")

    def write(self, name, attribute, data):
        """Taken."""

    def remove(self, name):
        """Count what is closed."""
        self.open -= 1


@given(
    st.dictionaries(
        st.sampled_from(["provider", "generation", "privlevel_floor", "outblob", "auxblob"]),
        st.one_of(st.binary(max_size=64), st.sampled_from([b"sev_guest\n", b"tdx_guest", b"0\n", b"1"])),
    )
)
def test_kernel_that_shows_anything_ends_in_our_errors(attributes):
    """So with configfs-tsm; every request made is removed."""
    tree = Tree(attributes)
    with contextlib.suppress(StannaryError):
        tsm.ask(tree, bytes(64))
    assert tree.open == 0


@given(st.binary(max_size=300))
def test_metadata_that_says_anything_ends_in_our_errors(answer):
    """So with the instance metadata service."""
    for ask in (azure.vcek_of, lambda metadata: azure.td_quote(_hcl(), metadata)):
        with contextlib.suppress(StannaryError):
            ask(lambda *_: answer)


def _hcl():
    """A report of the paravisor, as far as a quote needs it."""
    key = world.issue("AK").certificate.public_key()
    return azure.azure.HclReport(bytes(1184), 4, "sha256", b"{}", key, b"")
