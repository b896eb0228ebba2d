"""`stannary node check`: gather everything this machine can show for one challenge.

Each collector says what it found or why it could not; nothing is left out silently. The HPKE key the
evidence binds is made here, in this process's memory, unless the caller brings one.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, NamedTuple

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from stannary.certify import anchor as anchors
from stannary.certify import envelope
from stannary.certify.collect import cpu, devices, host, nscq, nvml, tpm
from stannary.certify.collect.deadline import within
from stannary.certify.collect.tpm_transport import DEVICE
from stannary.certify.envelope import Evidence, Part
from stannary.certify.moments import format_moment
from stannary.errors import StannaryError

if TYPE_CHECKING:
    from pathlib import Path

    from stannary.certify.challenge import Challenge
    from stannary.certify.collect.sources import Sources
    from stannary.formats.canonical import Json

TPM_LIMIT_S = 180.0  # three slow keys and a quote; over the limit of single commands


@dataclass(slots=True)
class Collected:
    """What was gathered, and what could not be."""

    parts: dict[str, Part] = field(default_factory=dict)
    absent: dict[str, str] = field(default_factory=dict)
    hints: dict[str, Json] = field(default_factory=dict)
    ran: dict[str, str] = field(default_factory=dict)  # layer to the collector that gave it

    def miss(self, name: str, err: StannaryError) -> None:
        """Keep why something could not be collected, and what to do."""
        self.absent[name] = str(err) + (f" (next: {err.hint})" if err.hint else "")


class Answered(NamedTuple):
    """A node's answer to a challenge."""

    evidence: Evidence
    absent: dict[str, str]  # what could not be collected, with reason and next step
    ran: dict[str, str]  # which collector gave each layer


def check(challenge: Challenge, sources: Sources, now: datetime | None = None) -> Answered:
    """Answer a challenge; say what could not be collected, and why."""
    public = sources.bound_key or X25519PrivateKey.generate().public_key().public_bytes_raw()
    key_hash = hashlib.sha256(public).digest()
    bound = anchors.anchor(challenge.nonce_bytes, key_hash)
    found = Collected()
    _cpu(found, bound, sources)
    _tpm(found, bound, challenge, sources)
    _devices(found, bound)
    bench = _bench(found, bound, sources)
    evidence = Evidence(
        challenge=challenge.id,
        nonce=challenge.nonce_bytes,
        key_hash=key_hash,
        parts=found.parts,
        host={**host.facts(), **found.hints},
        bench=bench,
        collected_at=format_moment(now or datetime.now(UTC)),
    )
    envelope.parse(evidence.to_bytes())  # what we send, we could read
    return Answered(evidence, found.absent, found.ran)


def _cpu(found: Collected, bound: bytes, sources: Sources) -> None:
    attempts = cpu.attempts(bound, sources)
    for attempt in attempts:
        if attempt.part is not None:
            found.parts["cpu"], found.ran["cpu"] = attempt.part, attempt.name
        elif attempt.problem is not None:
            found.miss(f"cpu ({attempt.name})", attempt.problem)
    if "cpu" not in found.parts:
        found.absent["cpu"] = "no interface of a confidential guest gave evidence"
    elif found.parts["cpu"].kind == "tdx":
        _log(found, "CCEL event log", sources.ccel)


def _tpm(found: Collected, bound: bytes, challenge: Challenge, sources: Sources) -> None:
    try:
        found.parts["tpm"] = within(lambda: tpm.gather(bound, challenge, sources), "the TPM", TPM_LIMIT_S)
        found.ran["tpm"] = sources.tpm or str(DEVICE)
        _log(found, "event log", sources.event_log)
    except StannaryError as err:
        found.miss("tpm", err)


def _log(found: Collected, name: str, path: Path) -> None:
    problem = tpm.log_problem(path)
    if problem is not None:
        found.miss(name, problem)


def _devices(found: Collected, bound: bytes) -> None:
    gpus, switches = devices.gpus(bound, nvml.Nvml), devices.switches(bound, nscq.Nscq)
    for gathered, library in ((gpus, "NVML"), (switches, "NSCQ")):
        found.parts.update(gathered.parts)
        found.ran.update(dict.fromkeys(gathered.parts, library))
        for name, err in gathered.absent.items():
            found.miss(name, err)
    found.hints = {"gpus": gpus.hints, "switches": switches.hints}


def _bench(found: Collected, bound: bytes, sources: Sources) -> dict[str, Json]:
    if sources.bench_s <= 0:
        found.absent["bench"] = "not asked for"
        return {}
    try:
        from stannary.certify.grade import draw, passes, prover

        names = prover.devices()
        n = sources.bench_n or (2048 if names == ["cpu"] else 8192)
        transcript = prover.prove(bound, names, n=n, duration_s=sources.bench_s, num_opened=draw.FILE_OPENED)
        return {**transcript, "passes": passes.run(bound, sources.bench_folder)}
    except ImportError as err:
        found.absent["bench"] = f"numpy is not installed: {err}"
    except StannaryError as err:
        found.miss("bench", err)
    return {}
