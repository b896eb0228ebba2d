"""The edition of the rules a job is under: the one place that says in what an earlier one differs (docs/receipt.md R0).

Rules:
1. It follows from the signed spec: `rules: 3`; a spec without that member is of rules 2. Nothing else says it.
2. What was begun under an edition is ended, judged and verified under that one, for ever.
3. Elsewhere no number of an edition is compared: whoever needs to know asks for the property by its name.
"""

from __future__ import annotations

from stannary.formats import jobspec, receipt
from stannary.formats.jobspec import JobSpec
from stannary.formats.lean import dataclass


@dataclass(frozen=True, slots=True)
class Edition:
    """What tells the editions apart."""

    number: int
    receipt_format: str  # of the file (R5.1)
    adds_missing: bool  # the last merge is drawn, and the last draw adds what the word needs (R8.11)
    says_assurance: bool  # the verdict of a job is the word its figures reach (R15.7, R16.2)
    convicts_in_own_code: bool  # a recomputation convicts whatever the code is, not only in this package's (R10.7)
    takes_unasked: bool  # work whose buyer asked for no verification is not below policy by itself (R16.6)


_EDITIONS = (
    Edition(
        2, receipt.FORMATS[0], adds_missing=False, says_assurance=False, convicts_in_own_code=True, takes_unasked=False
    ),
    Edition(
        jobspec.RULES,
        receipt.FORMAT,
        adds_missing=True,
        says_assurance=True,
        convicts_in_own_code=False,
        takes_unasked=True,
    ),
)
FIRST = _EDITIONS[0]


def of(spec: JobSpec) -> Edition:
    """Return the edition of the rules a spec is under; jobspec.py lets only known ones pass."""
    return FIRST if spec.rules is None else next(item for item in _EDITIONS if item.number == spec.rules)
