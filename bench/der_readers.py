"""Certificates read by our DER reader and by `cryptography.hazmat.asn1`: time a certificate, and a cold appraisal.

Vectors come from STANNARY_VECTORS or ../shared/vectors; without them certificates made here are read.
"""

from __future__ import annotations

import functools
import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from tests.unit.certify import world  # noqa: E402
from tests.unit.certify.pki import second_reader  # noqa: E402

from stannary.certify.pki import certificates, revocation  # noqa: E402
from stannary.certify.vectors import cases, runner  # noqa: E402

VECTORS = Path(os.environ.get("STANNARY_VECTORS", ROOT.parent / "shared" / "vectors"))
REPEATS = 31
READERS: dict[str, Callable[[bytes], Any]] = {"ours": certificates._parse.__wrapped__, "asn1": second_reader.read}


def _median_s(work: Callable[[], Any]) -> float:
    times = []
    for _ in range(REPEATS):
        start = time.process_time()
        work()
        times.append(time.process_time() - start)
    return statistics.median(times)


def _use(reader: Callable[[bytes], Any]) -> None:
    certificates._parse = functools.lru_cache(maxsize=2048)(reader)


def _collected() -> tuple[list[cases.Case], list[bytes]]:
    """The cases, and every certificate that they read."""
    seen: set[bytes] = set()

    def read(data: bytes) -> Any:
        found = READERS["ours"](data)
        seen.add(data)
        return found

    held = list(cases.load(VECTORS)) if (VECTORS / "manifest.json").is_file() else []
    _use(read)
    for case in held:
        runner.run_case(case)
    nvidia = world.Nvidia()
    return held, sorted(seen) or [item.raw for item in nvidia.chain(nvidia.device())]


def main() -> None:
    """Print both readers' figures."""
    held, listed = _collected()
    equal = sum(READERS["ours"](data) == READERS["asn1"](data) for data in listed)
    print(f"{len(listed)} certificates, {equal} read alike by both; CPU time, median of {REPEATS}")
    for name, reader in READERS.items():
        spent = _median_s(lambda reader=reader: [reader(data) for data in listed])
        print(f"{name:<6}{spent / len(listed) * 1e6:>8.1f} us a certificate")
    wanted = {"snp-genoa-v5-live", "tdx-v4-uptodate", "gpu-sdk_hopperAttestationReport", "nitro-prod", "az-snp-genuine"}
    for case in [item for item in held if item.members["id"] in wanted]:
        spent = {}
        for name, reader in READERS.items():

            def cold(case: cases.Case = case) -> None:
                certificates.forget_validated()
                revocation.forget_validated()
                runner.run_case(case)

            _use(reader)
            spent[name] = _median_s(cold) * 1000
        print(f"{case.members['id']!s:<34} cold, ms: " + ", ".join(f"{name} {ms:.2f}" for name, ms in spent.items()))


if __name__ == "__main__":
    main()
