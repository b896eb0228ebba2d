"""Every parser survives any bytes: our errors, nothing else, and no work out of proportion."""

from __future__ import annotations

import contextlib
import json
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.fuzz.targets import SEEDS, TARGETS
from tests.unit.certify import world

from stannary.certify.evidence import event_log
from stannary.errors import StannaryError

pytestmark = pytest.mark.filterwarnings("error")


@pytest.mark.parametrize("name", sorted(TARGETS))
def test_parser_survives_any_bytes(name):
    """Random bytes give a value or one of our errors."""

    @settings(max_examples=2 * settings.default.max_examples)
    @given(st.binary(max_size=600))
    def survive(data):
        _run(name, data)

    survive()


@pytest.mark.parametrize("name", sorted(SEEDS))
def test_parser_survives_damaged_evidence(name):
    """Real shapes with bytes changed, cut or doubled give a value or one of our errors."""
    seed = SEEDS[name]

    @settings(max_examples=5 * settings.default.max_examples // 2)
    @given(st.data())
    def survive(data):
        blob = bytearray(seed)
        for _ in range(data.draw(st.integers(0, 6))):
            place = data.draw(st.integers(0, max(len(blob) - 1, 0)))
            if blob:
                blob[place] = data.draw(st.integers(0, 255))
        cut = data.draw(st.integers(0, len(blob)))
        shape = data.draw(st.sampled_from(["whole", "cut", "doubled", "tail"]))
        _run(name, {"whole": bytes(blob), "cut": bytes(blob[:cut]), "doubled": bytes(blob) * 2,
                    "tail": bytes(blob) + b"\x01"}[shape])  # fmt: skip

    survive()


@pytest.mark.parametrize("name", sorted(TARGETS))
def test_parser_refuses_ten_mebibytes_and_deep_nesting(name):
    """11 MiB, depth 33, duplicate members and the wrong endianness end in our errors."""
    hostile = [
        b"\x30\x84\x00\xff\xff\xff" + bytes(11 << 20),
        b"[" * 33 + b"]" * 33,
        b'{"a":1,"a":2}',
        json.dumps({"eat_profile": 1.5}).encode(),
        b"\x00\x00\x00\x05" + bytes(1180),
        b"",
    ]
    for blob in hostile:
        _run(name, blob)


def _run(name: str, data: bytes) -> None:
    with contextlib.suppress(StannaryError):
        TARGETS[name](data)


def test_a_log_of_events_that_begin_like_filling_costs_little():
    """Four megabytes of events of register 0 and type 0 are read in one pass, not once for each of them."""
    data = world.event_log([(0, 0, bytes(160))] * 19_000)
    start = time.process_time()
    assert len(event_log.parse_log(data + bytes(event_log.MAX_LOG_BYTES - len(data))).events) == 19_000
    assert time.process_time() - start < 10
