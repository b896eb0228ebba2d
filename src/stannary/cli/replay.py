"""`stannary verify --replay`: which units are computed again, from where, and what that adds to a report.

What is replayed is fixed by the verified receipt alone; where the blobs come from is the caller's choice, the market of
the profile or a folder. Rules of the comparison: verify/recomputation.py. Of fetching and computing: sdk/replay.py.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from stannary.cli import session
from stannary.cli.output import Output, plain
from stannary.errors import UsageError
from stannary.formats import instants, jobspec
from stannary.formats import predicates as records
from stannary.formats.predicates import Verdict
from stannary.sdk import replay as replaying
from stannary.verify import recomputation
from stannary.verify.case import Case
from stannary.verify.recomputation import Found, Outcome, ReplayPlan, Unit
from stannary.verify.report import Report

ORDER = (Outcome.SAME, Outcome.WITHIN, Outcome.DIFFERENT, Outcome.UNCHECKED)


@dataclass(frozen=True, slots=True)
class Replayed:
    """A report with what the replay found, and the units asked for."""

    report: Report
    asked: tuple[Unit, ...]
    found: tuple[Found, ...]

    def text(self) -> str:
        """Return one line: how many units, and how they compare."""
        counts = Counter(item.outcome for item in self.found)
        counts[Outcome.UNCHECKED] += len(self.asked) - len(self.found)
        words = ", ".join(f"{counts[outcome]} {outcome}" for outcome in ORDER if counts[outcome])
        here = ", ".join(sorted({plain(item.engine_class) for item in self.found if item.engine_class}))
        there = ", ".join(sorted({plain(item.engine_class) for item in self.asked}))
        classes = f"engine class here {here or 'unknown'}, of the units {there}"
        return f"replayed {len(self.asked)} units on this machine: {words or 'none'} ({classes})"

    def to_json(self) -> list[dict[str, Any]]:
        """Return one object per unit."""
        by_task = {item.task: item for item in self.found}
        return [
            {
                "task": unit.task,
                "outcome": (found.outcome if (found := by_task.get(unit.task)) else Outcome.UNCHECKED).value,
                "engine_class": found.engine_class if found else "",
                "unit_engine_class": unit.engine_class,
                "detail": found.detail if found else "",
            }
            for unit in self.asked
        ]


def run(report: Report, sample: int | None, artifacts: Path | None, out: Output) -> Replayed:
    """Replay a verified receipt's units and return the report with the findings added.

    Args:
        report: with claims and no finding that refutes it: what is already refuted is not computed.
        sample: replay so many of all units, drawn here and now; the default is every drawn one and every merge.
        artifacts: a folder of blobs; the market of the profile otherwise.
    """
    assert report.claims is not None
    case = report.claims.case
    asked = choose(recomputation.units(case), sample)
    if not asked:
        why = f"verification {case.spec.trust.verify}, job {report.claims.receipt.status}"
        raise UsageError("nothing to replay in this receipt", why=why, hint="stannary verify without --replay")
    plan = ReplayPlan(jobspec.to_canonical(case.spec), instants.parse(case.job.predicate.submitted_at), asked)
    items = blobs_of(case, asked)
    out.say(f"replaying {len(asked)} units from {sum(item.size_bytes for item in items):,} bytes of blobs")
    if artifacts is not None:
        found = replaying.replay(plan, items, replaying.BlobFolder(artifacts), out)
    else:
        with session.connect() as client:
            found = replaying.replay(plan, items, replaying.Market(client), out)
    added = recomputation.findings(found, asked)
    whole = replace(report, findings=(*report.findings, *added))
    if whole.exit_code == 3:
        whole = replace(whole, verdict=Verdict.REFUTED)
    return Replayed(whole, asked, found)


def choose(units: Sequence[Unit], sample: int | None) -> tuple[Unit, ...]:
    """Return the units to replay, in log order: a sample owes nothing to the beacon and can be foreseen by nobody."""
    if sample is None:
        return recomputation.by_default(units)
    picked = set(random.SystemRandom().sample(range(len(units)), min(sample, len(units))))
    return tuple(unit for number, unit in enumerate(units) if number in picked)


def blobs_of(case: Case, units: Sequence[Unit]) -> tuple[records.Output, ...]:
    """Return every blob the units need, each once: the job's files, their inputs, and what they gave."""
    items = [*recomputation.job_blobs(case)]
    for unit in units:
        items += [*unit.blobs, *unit.outputs]
    return tuple({item.digest: item for item in items}.values())
