"""What two readers of certificates both read, they read alike; where they differ is named (docs/adr)."""

from __future__ import annotations

import random

import pytest
from tests.unit.certify import forge, world
from tests.unit.certify.intel_world import Intel
from tests.unit.certify.pki import second_reader

from stannary.certify.pki import certificates, names
from stannary.errors import FormatError

NUM_CHANGED = 150  # of each certificate


def _made() -> list[bytes]:
    amd, nvidia, intel = world.Amd(), world.Nvidia(), Intel()
    listed = [amd.vcek(world.SnpTcb(1, 2, 3, 4, 5)).certificate, amd.ask.certificate, *nvidia.chain(nvidia.device())]
    return [item.raw for item in (*listed, *certificates.load_bundle(intel.chain))]


def _read(reader, data: bytes):
    try:
        return reader(data)
    except FormatError:
        return None


def test_what_both_read_they_read_alike():
    """Every field of every certificate, whole ones and those with octets changed."""
    rng, num_alike = random.Random(7), 0
    for whole in _made():
        assert second_reader.read(whole) == certificates.parse(whole)
        for _ in range(NUM_CHANGED):
            changed = bytearray(whole)
            for place in rng.choices(range(len(whole)), k=rng.choice((1, 2))):
                changed[place] = rng.randrange(256)
            ours, theirs = _read(certificates.parse, bytes(changed)), _read(second_reader.read, bytes(changed))
            if ours is not None and theirs is not None:
                assert ours == theirs
                num_alike += 1
    assert num_alike > 500


def _issued(*extensions: bytes, **changes: object) -> bytes:
    return forge.Party("Root").certify(forge.Party("Leaf"), *extensions, **changes)


def _extension(critical: bytes) -> bytes:
    return forge.tlv(0x30, forge.oid("2.5.29.14"), critical, forge.tlv(0x04, b"\x04\x02\x01\x02"))


@pytest.mark.parametrize(
    ("data", "theirs"),
    [
        pytest.param(_issued(serial=b"\x02\x02\x00\x01"), True, id="padded serial"),
        pytest.param(_issued(_extension(b"\x01\x01\x00")), True, id="FALSE written out"),
        pytest.param(_issued(_extension(b"\x01\x01\x01")), False, id="TRUE as 1"),
    ],
)
def test_what_makers_write_is_read(data, theirs):
    """Intel's on-die authority writes `critical FALSE` out, others pad serials: signed, and no reason to refuse."""
    assert certificates.parse(data).tbs
    assert (_read(second_reader.read, data) is not None) == theirs


def test_names_whose_parts_are_in_any_order_are_read():
    """Issuers of Nuvoton's endorsement keys write one set of attributes, not sorted: X.690 asks for an order."""
    parts = [
        forge.tlv(0x30, forge.oid("2.5.4.6"), forge.tlv(forge.UTF8, b"TW")),
        forge.tlv(0x30, forge.oid("2.5.4.3"), forge.tlv(forge.UTF8, b"NPCTxxx ECC384 Leaf CA")),
    ]
    ordered, mixed = (forge.tlv(0x30, forge.tlv(0x31, *items)) for items in (sorted(parts), sorted(parts)[::-1]))
    assert names.same(ordered, mixed)
    assert names.common_name(mixed) == "NPCTxxx ECC384 Leaf CA"
    assert _read(second_reader.read_name, ordered) is not None
    assert _read(second_reader.read_name, mixed) is None
