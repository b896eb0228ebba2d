"""Credentials without a TPM: which keys get one, of which shape, and what malformed ones do."""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import struct

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.certify import world

from stannary.certify import activation
from stannary.errors import FormatError, UnsupportedFormat


@pytest.mark.parametrize(
    ("key", "digest", "aes_bits"),
    [
        (rsa.generate_private_key(65537, 2048), "sha256", 128),
        (rsa.generate_private_key(65537, 3072), "sha384", 256),
        (ec.generate_private_key(ec.SECP256R1()), "sha256", 128),
        (ec.generate_private_key(ec.SECP384R1()), "sha384", 256),
        (ec.generate_private_key(ec.SECP521R1()), "sha512", 256),
    ],
)
def test_hash_and_cipher_follow_from_the_key(key, digest, aes_bits):
    """Each kind of EK has the one hash and cipher of its template in the EK Credential Profile."""
    suite = activation.suite_of(key.public_key())
    assert (suite.digest, suite.aes_bits) == (digest, aes_bits)


@pytest.mark.parametrize(
    "key",
    [
        ed25519.Ed25519PrivateKey.generate(),
        ec.generate_private_key(ec.SECP224R1()),
        rsa.generate_private_key(65537, 2056),
    ],
)
def test_keys_of_no_template_get_no_credential(key):
    """A key that no template makes is refused with what to do, never given a guessed cipher."""
    with pytest.raises(UnsupportedFormat) as caught:
        activation.suite_of(key.public_key())
    assert "P-384" in caught.value.hint


def test_derivations_are_those_of_the_specification():
    """KDFa and KDFe count from 1 and run over blocks; KDFa hashes the bits asked for, KDFe does not."""
    label, context = b"STORAGE", b"name"
    blocks = [
        hmac.new(b"k", struct.pack(">I", number) + label + b"\0" + context + struct.pack(">I", 400), "sha256").digest()
        for number in (1, 2)
    ]
    assert activation.kdfa("sha256", b"k", label, context, 400) == b"".join(blocks)[:50]
    exchanged = [
        hashlib.sha384(struct.pack(">I", number) + b"z" + b"IDENTITY\0" + b"u" + b"v").digest() for number in (1, 2)
    ]
    assert activation.kdfe("sha384", b"z", b"IDENTITY", (b"u", b"v"), 512) == b"".join(exchanged)[:64]


def test_a_credential_fits_one_kind_of_key():
    """The node tells by a credential's shape which of its keys opens it."""
    certified = world.issue("EK", curve=ec.SECP256R1()).certificate
    credential, _ = activation.make_credential(certified, b"\0\x0b" + bytes(32))
    assert activation.is_for(credential, certified.public_key())
    for other in (ec.generate_private_key(ec.SECP384R1()), rsa.generate_private_key(65537, 2048)):
        assert not activation.is_for(credential, other.public_key())


@given(st.binary(max_size=200))
def test_any_bytes_are_no_crash(data):
    """A challenge's credential may be anything: it fits or not, or is malformed by our error."""
    key = ec.generate_private_key(ec.SECP256R1()).public_key()
    with contextlib.suppress(FormatError):
        assert activation.is_for(data, key) in {True, False}
