"""Chains to pinned roots at a given time."""

from __future__ import annotations

from datetime import timedelta

import pytest
from tests.unit.certify import world

from stannary.certify import certificates
from stannary.certify.certificates import Anchors, find_path


@pytest.fixture
def chain():
    """Root, intermediate, leaf."""
    root = world.issue("Root", ca=True)
    middle = world.issue("Middle", root, ca=True)
    return root, middle, world.issue("Leaf", middle)


def _path(chain, *, now=world.NOW, roots=None):
    root, middle, leaf = chain
    roots = roots or Anchors(certificates=(root.certificate,))
    return find_path(leaf.certificate, [middle.certificate], roots, now)


def test_path_reaches_a_pinned_root(chain):
    """A path through carried intermediates ends in the pinned root, by certificate or by key pin."""
    assert _path(chain).root == chain[0].certificate
    root, middle, leaf = chain
    pinned = Anchors(key_pins=frozenset({root.certificate.key_pin}))
    assert find_path(leaf.certificate, [middle.certificate, root.certificate], pinned, world.NOW).root


def test_time_is_an_argument(chain):
    """The same chain is good today and not in two years; without a time it is not judged by it."""
    assert "not at" in _path(chain, now=world.NOW + timedelta(days=700)).problem
    assert _path(chain, now=None).root is not None


def test_root_of_the_same_name_is_not_the_root(chain):
    """A stranger's root with the pinned root's name signs nothing."""
    stranger = world.issue("Root", ca=True)
    path = _path(chain, roots=Anchors(certificates=(stranger.certificate,)))
    assert path.root is None
    assert not path.is_forged


def test_issuer_that_did_not_sign_is_a_false_signature(chain):
    """A carried issuer of the right name and another key is a forgery, not a gap."""
    root, _, leaf = chain
    impostor = world.issue("Middle", root, ca=True)
    path = find_path(leaf.certificate, [impostor.certificate], Anchors(certificates=(root.certificate,)), world.NOW)
    assert path.is_forged


def test_leaf_cannot_issue():
    """A certificate that is no authority issues nothing."""
    root = world.issue("Root", ca=True)
    leaf = world.issue("Leaf", root)
    below = world.issue("Below", leaf)
    path = find_path(below.certificate, [leaf.certificate], Anchors(certificates=(root.certificate,)), world.NOW)
    assert "no certificate authority" in path.problem


def test_path_length_and_critical_extensions_are_obeyed():
    """Path length limits and unknown critical extensions refuse."""
    root = world.issue("Root", ca=True, path_length=0)
    middle = world.issue("Middle", root, ca=True)
    leaf = world.issue("Leaf", middle)
    roots = Anchors(certificates=(root.certificate,))
    assert "below it" in find_path(leaf.certificate, [middle.certificate], roots, world.NOW).problem
    plain = world.issue("Root2", ca=True)
    odd = world.issue("Odd", plain, extensions={"1.2.3.4": b"\x05\x00"}, critical=True)
    found = find_path(odd.certificate, [], Anchors(certificates=(plain.certificate,)), world.NOW)
    assert "critical extension" in found.problem


def test_circle_of_certificates_ends():
    """Two authorities that signed each other are no endless path."""
    first = world.issue("A", ca=True)
    second = world.issue("B", first, ca=True)
    loop = world.issue("A", second, ca=True)
    path = find_path(second.certificate, [first.certificate, loop.certificate], Anchors(), world.NOW)
    assert path.root is None


def test_pem_and_der_bundles_read_alike(chain):
    """A bundle reads the same from PEM and DER."""
    from cryptography.hazmat.primitives.serialization import Encoding

    pem = b"".join(item.built.public_bytes(Encoding.PEM) for item in chain)
    assert certificates.load_bundle(pem) == tuple(item.certificate for item in chain)
    assert certificates.load_bundle(chain[0].certificate.raw) == (chain[0].certificate,)
