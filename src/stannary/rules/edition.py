"""The edition of the rules a job is under: the one place that says in what an earlier one differs (docs/receipt.md R0).

Rules:
1. It follows from the signed spec: `rules: 3`; a spec without that member is of rules 2. Nothing else says it.
2. What was begun under an edition is ended, judged and verified under that one, for ever.
3. New jobs are of the newest edition: client and market refuse others by one function, before anything is held.
4. Elsewhere no number of an edition is compared: whoever needs to know asks for the property by its name.
"""

from __future__ import annotations

from stannary.errors import SpecError
from stannary.formats import jobspec, receipt
from stannary.formats.jobspec import JobSpec
from stannary.formats.lean import dataclass


@dataclass(frozen=True, slots=True)
class Edition:
    """What tells the editions apart."""

    number: int
    receipt_format: str  # of the file (R5.1)
    takes_new_jobs: bool  # a market takes orders under it (R0.1)
    adds_missing: bool  # the last merge is drawn, and the last draw adds what the word needs (R8.11)
    says_assurance: bool  # the verdict of a job is the word its figures reach (R15.7, R16.2)
    convicts_in_own_code: bool  # a recomputation convicts whatever the code is, not only in this package's (R10.7)
    holds_to_joins: bool  # a credential says what its node signed, and the one in force counts (R6.24, R12.14)
    recomputes_admission: bool  # attempts have causes, and a merge takes every lane in time (R12.16, R12.17)
    audits_are_taken: bool  # an audit waits until its node has room and takes it (R11.10)
    states_endings: bool  # how a program ended is part of its result, so it has one however it ended (R9.11)
    disputes_bonds: bool  # a conviction takes no bond in the receipt: it opens a dispute (R18)
    pays_at_stop: bool  # work in hand when its buyer stops the job is paid by the last reading before (R14.12)
    takes_unasked: bool  # work whose buyer asked for no verification is not below policy by itself (R16.6)
    places_by_operators: bool  # a job goes to the class of most operators; price competes inside it
    audits_by_class: bool  # who may work binds no auditor, unless the spec says so (R12.19)
    pays_by_use: bool  # what a unit is paid follows what its sandbox measured, not what was agreed (R9.10)
    checks_first: bool  # a job's first unit is recomputed before a second one begins (R12.21)
    watches: bool  # units of nodes whose operator was struck are drawn more often (R8.15)


_EDITIONS = (
    Edition(
        2,
        receipt.FORMATS[0],
        takes_new_jobs=False,
        adds_missing=False,
        says_assurance=False,
        convicts_in_own_code=True,
        holds_to_joins=False,
        recomputes_admission=False,
        audits_are_taken=False,
        disputes_bonds=False,
        takes_unasked=False,
        audits_by_class=False,
        places_by_operators=False,
        pays_by_use=False,
        checks_first=False,
        watches=False,
        states_endings=False,
        pays_at_stop=False,
    ),
    Edition(
        jobspec.RULES,
        receipt.FORMAT,
        takes_new_jobs=True,
        adds_missing=True,
        says_assurance=True,
        convicts_in_own_code=False,
        holds_to_joins=True,
        recomputes_admission=True,
        audits_are_taken=True,
        checks_first=True,
        watches=True,
        states_endings=True,
        pays_at_stop=True,
        disputes_bonds=True,
        takes_unasked=True,
        audits_by_class=True,
        places_by_operators=True,
        pays_by_use=True,
    ),
)
FIRST = _EDITIONS[0]


def of(spec: JobSpec) -> Edition:
    """Return the edition of the rules a spec is under; jobspec.py lets only known ones pass."""
    return FIRST if spec.rules is None else next(item for item in _EDITIONS if item.number == spec.rules)


def check_new(spec: JobSpec) -> None:
    """Refuse a new job under rules of an earlier edition (rule 3).

    Raises:
        SpecError: the job is to be made anew.
    """
    found = of(spec)
    if not found.takes_new_jobs:
        raise SpecError(
            f"no new job is taken under rules {found.number}",
            why=f"it names no trust.assurance; new jobs are under rules {jobspec.RULES}, those ordered before go on",
            hint="make it anew with this release: stannary run JOB.yaml",
        )
