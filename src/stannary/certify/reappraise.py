"""What a new break exposes: stored appraisals that rest on something now denied.

A denial is a generation (`milan`), a hardware identity (`snp:...`, `nvidia:...`, `ek:...`), or a fact
(`vbios:96.00.5E.00.01`, `driver:550.54.15`, `fmspc:...`, `measurement:...`). A revocation notice denies the
hardware it lists. The index answers for tens of thousands in seconds; `again` appraises one entry's raw
evidence in full, at the time it was made, under the policy of today.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from stannary.certify import challenge as challenges
from stannary.certify import envelope
from stannary.certify.appraise import Context, appraise
from stannary.certify.moments import parse_moment

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from stannary.certify.appraise import Result
    from stannary.certify.folder import Folder, Indexed
    from stannary.certify.policy import Policy
    from stannary.certify.withdrawals import Withdrawal


@dataclass(frozen=True, slots=True)
class Exposure:
    """One appraisal that the denial touches."""

    entry: Indexed
    matched: tuple[str, ...]


def exposed(entries: Iterable[Indexed], denied: frozenset[str]) -> Iterator[Exposure]:
    """Yield the accepted appraisals that rest on something denied."""
    wanted = {item.lower() for item in denied}
    for entry in entries:
        matched = tuple(fact for fact in entry.facts if fact.lower() in wanted)
        if matched:
            yield Exposure(entry, matched)


def again(
    folder: Folder, entry: Indexed, policy: Policy, denied: frozenset[str], withdrawals: Iterable[Withdrawal] = ()
) -> Result:
    """Appraise stored evidence again under a policy and denials of today, at the time it was made.

    Withdrawals count as if they had been observed by then: the question is what rests on the hardware.

    The credential's secret is not kept, so a TPM's activation reads as not shown: the tier of such a
    re-appraisal is a lower bound.
    """
    evidence = envelope.parse(folder.evidence(entry))
    challenge = challenges.parse(entry.challenge.encode("ascii"))
    now = parse_moment(entry.appraised_at)
    known = tuple(item if item.holds_at(now) else replace(item, observed_at=entry.appraised_at) for item in withdrawals)
    context = Context(now=now, policy=policy, denied=denied, withdrawals=known, items=folder.items(entry))
    return appraise(evidence, challenge, context)
