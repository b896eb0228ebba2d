"""Showing this node's power: the market's test (stannary/power.py), run where jobs run, signed and sent.

Rules:
1. It runs in the sandbox that jobs run in, one process for each processor that is asked for, with this agent's own
   interpreter: a job's root file system need not hold the matrix library.
2. What is signed is what was done and how long it took by this clock; the market's clock runs from its question on.
3. What the test's processes waited for a processor is told: something else is at what this node sells, and its grade
   is the lower for it (rules/grade.py rule 5).
4. The credential that comes back is the market's, names this very test, and grades it by rules/grade.py; else it is
   not kept.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path

from stannary import files, power
from stannary.agent.client import MarketClient
from stannary.agent.settings import CREDENTIAL_FILE, PINNED_ENVIRONMENT
from stannary.errors import EnvironmentProblem, FormatError, Refuted
from stannary.formats import digest, instants, note, statement
from stannary.formats.predicates import Credential
from stannary.formats.quantity import PPM, scu
from stannary.formats.shown import ShownPower
from stannary.rules import grade
from stannary.run.sandbox import system as systems
from stannary.run.sandbox.contract import Command, Limits
from stannary.run.sandbox.metering import metered
from stannary.run.sandbox.process import Sandbox
from stannary.wire import message
from stannary.wire.node import PowerAnswer, PowerTest

WAITED_PPM = 100_000  # of the processors' time: more than that is told
LONGEST_S = 30  # a market cannot keep a node at its test for long
BEYOND_S = 60.0  # for the start and the opening of the rows on a machine with much else to do
MEMORY_BYTES = 256 * 1024**2
MEMORY_EACH_BYTES = 64 * 1024**2  # of a process: some copies of a matrix of 4 MiB
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")

Tell = Callable[[str], None]


def show(directory: Path, test: PowerTest, client: MarketClient, sandbox: Sandbox, tell: Tell) -> Credential:
    """Do a test, hand it in, keep the credential it brings and return it.

    Raises:
        EnvironmentProblem: the test does not run here.
        ConflictError: the market waits for no such test any more.
        Refuted: the credential is not the market's, or grades something else.
    """
    started_s = time.monotonic()
    shown, waited_ms = _run(test, sandbox)
    proof = power.parse(shown)
    said = ShownPower(
        node=client.settings.node,
        nonce=test.nonce,
        cpus=len(proof.chains),
        rounds=proof.rounds,
        root=digest.digest(shown),
        took_ms=int(1000 * (time.monotonic() - started_s)),
        measured_at=instants.spell(time.time()),
    )
    signed = statement.sign("power", said, (), client.key)
    body = PowerAnswer(envelope=message.EnvelopeBody.of(signed), proof=shown.decode("ascii"))
    envelope = client.show_power(body).credential.open()
    public = note.parse_vkey(client.settings.market_vkey).public
    held = statement.open_envelope(envelope, "credential", Credential, public).predicate
    last = held.tests[-1] if held.tests else None
    if held.node != said.node or last is None or last.power != digest.from_raw(signed.leaf()):
        raise Refuted("the credential names another test than this node's", why=f"{held.node}: {last}")
    this_ppm = grade.of_test(said, last.took_ms)
    if not grade.in_price(held) <= this_ppm <= grade.in_limits(held):
        raise Refuted("the credential's grade is not its tests'", why=f"{held.grade_ppm} ppm, this one {this_ppm}")
    files.replace(directory / CREDENTIAL_FILE, envelope.to_bytes())
    if waited_ms * PPM > WAITED_PPM * said.took_ms * said.cpus:
        tell(
            f"the test waited {waited_ms / 1000:.1f} s for {said.cpus} processors that something else is at: the grade "
            "is lower for it; sell fewer (stannary node join --cpus) or leave them to this node"
        )
    tell(
        f"graded {scu(grade.in_price(held))} SCU a processor, the least of {len(held.tests or ())}: "
        f"{said.rounds} rounds on {said.cpus} in {last.took_ms / 1000:.1f} s, {scu(this_ppm)}"
    )
    return held


def _run(test: PowerTest, sandbox: Sandbox) -> tuple[bytes, int]:
    """Return the proof, and how many milliseconds its processes waited for a processor."""
    if not 1 <= test.seconds <= LONGEST_S or not 1 <= test.processors <= power.MAX_PROCESSORS:
        raise FormatError("the market asks for an impossible test", why=f"{test.processors} x {test.seconds} s")
    system = systems.of(None)
    argv = (system.interpreter, "-P", "-m", "stannary.power", test.nonce, str(test.processors), str(test.seconds))
    limits = Limits(memory_bytes=MEMORY_BYTES + test.processors * MEMORY_EACH_BYTES, cpu_millis=1000 * test.processors)
    command = Command(argv, {**PINNED_ENVIRONMENT, **system.path(), **ONE_THREAD}, limits=limits)
    with sandbox.start(command) as running:
        running.kill_after(test.seconds + BEYOND_S)
        with metered(running) as meter:
            out, err = running.popen.communicate()
        code = running.wait(0)
    if code != 0:
        last = err.decode(errors="replace").strip().rpartition("\n")[2]
        raise EnvironmentProblem(
            "the test of power does not run here", why=last[:300] or f"exit code {code}", hint=f"{sys.executable}"
        )
    return out, meter.used.waited_ms
