"""What the market makes of a job's evidence: a receipt that verifies, and a file of what the receipt lists."""

from __future__ import annotations

from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any

import pytest
from tests.unit.market import moment
from tests.unit.verify.world import START, World

from stannary.formats import digest, receipt, statement
from stannary.formats.predicates import Verdict
from stannary.jobs.course.concluding import Concluded, JudgedJob
from stannary.jobs.course.state import EarlyEnd
from stannary.jobs.states import JobStatus
from stannary.market.engine import concluding
from stannary.market.engine.loading import Evidence
from stannary.tlog.proof import Proof
from stannary.verify import case
from stannary.verify.receipt import verify_receipt


@dataclass
class Told:
    """A job that was played to its end, as the market reads it."""

    world: World
    ending: EarlyEnd | None = None

    def evidence(self, receipt: Any = None) -> Evidence:
        """Return what is logged of it."""
        return Evidence(
            statements=tuple(case.read(index, envelope) for index, envelope in self.world.entries),
            envelopes=tuple(envelope for _, envelope in self.world.entries),
            checkpoints=tuple((self.world.notes[size], size) for size in sorted(self.world.notes)),
            receipt=receipt,
        )

    def concluded(self) -> Concluded:
        """Return what the market makes of it."""
        job = JudgedJob(moment.order(), 1, JobStatus.VERIFYING, self.ending, Verdict.PENDING, 1000 * START, (), 0, None)
        witness = self.world.trust().markets[0].witness_words
        return concluding.conclude(job, self.evidence(), 1000 * self.world.now, witness)

    def file(self, made: Concluded, late: Any = None) -> bytes:
        """Return the receipt file; `late` is logged behind the receipt."""
        world = self.world
        envelope = statement.sign("receipt", made.receipt, made.subjects, world.market_key)
        index = world.append(envelope.leaf())
        if late is not None:
            world.entries.append((world.append(late.leaf()), late))
        evidence, checkpoint, tree = self.evidence(envelope), world.checkpoint(), world.tree
        log: Any = SimpleNamespace(
            proof=lambda at: Proof(at, tuple(tree.inclusion(at, tree.size)), checkpoint).to_text(),
            inclusion=tree.inclusion,
            consistency=tree.consistency,
        )
        return concluding.file_bytes(made.receipt, evidence, index, log, receipt.FORMATS[0])


def test_a_receipt_is_what_a_verifier_finds() -> None:
    """Status, results and who is refuted are those of the evidence, and the file holds them."""
    told = Told(World(liars={"n3"}).play())
    made = told.concluded()
    assert made.refuted == (told.world.nodes["n3"].id,)
    assert [item.name for item in made.subjects] == ["model.safetensors"]
    report = verify_receipt(told.file(made), told.world.trust(), told.world.now)
    assert (report.exit_code, report.verdict) == (0, Verdict.VERIFIED)


def test_a_job_that_ended_early_has_no_result() -> None:
    """Its end is the one that was begun, and nothing of it is named a result."""
    made = Told(World().play(), EarlyEnd(JobStatus.CANCELLED, "cancelled", "")).concluded()
    assert (made.receipt.status, made.receipt.reason, made.subjects) == ("cancelled", "cancelled", ())


@pytest.mark.parametrize("is_late", [False, True])
def test_a_word_behind_the_receipt_is_not_in_its_file(is_late: bool) -> None:
    """What is logged between receipt and file, a renewed credential say, makes no receipt of other words."""
    told = Told(World().play())
    made = told.concluded()
    held = next(item for item in told.evidence().statements if item.kind == "credential").predicate
    renewed = replace(held, issued_at=told.world.time(told.world.now))  # type: ignore[type-var]  # of that kind
    late = statement.sign("credential", renewed, (), told.world.market_key)
    data = told.file(made, late if is_late else None)
    assert digest.from_raw(late.leaf()) not in made.receipt.evidence
    report = verify_receipt(data, told.world.trust(), told.world.now)
    assert (report.exit_code, report.verdict) == (0, Verdict.VERIFIED)
