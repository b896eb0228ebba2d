"""What the audits of one job were worth: its figures, and the word they bear (docs/receipt.md R15, R16.2).

Under rules 2 every contribution is a unit, and a job is `verified` where cheating was a loss. From rules 3 on the units
are those that stand, the word is the one their figures reach, and beside each figure stands the same for a prover of
whom one operator of his class is an accomplice: he is asked first as often as his share of the nodes goes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace

from stannary.formats import bounds
from stannary.formats.ids import NodeId, TaskId
from stannary.formats.jobspec import Verification
from stannary.formats.predicates import Soundness, Verdict
from stannary.formats.quantity import PPM
from stannary.rules import assurance, blame
from stannary.rules.draw import Selection
from stannary.rules.reasons import Reason
from stannary.rules.stake import HELD_UNITS
from stannary.rules.verdict import Decision
from stannary.verify import soundness
from stannary.verify.case import Case
from stannary.verify.lineage import Lineage
from stannary.verify.prices import Prices

DECLARED = "declared"  # operators are what their join statements say; nothing here proves them independent
SETTLED = frozenset({Verdict.VERIFIED, Verdict.REFUTED})


def figures(
    case: Case,
    selections: Mapping[TaskId, Selection],
    decisions: Mapping[TaskId, Decision],
    result: Lineage,
    costs: Prices,
) -> Soundness:
    """Return the audit figures of a case (R15.1 to R15.3, R15.7)."""
    trust = case.spec.trust
    dearest: dict[NodeId, int] = {}
    for item in case.contributions.values():
        node = item.predicate.node
        dearest[node] = max(costs.of_work(item), dearest.get(node, 0))
    is_bond = blame.convicts(case.spec)
    bonds = {
        node: blame.at_stake(case.spec, case.bond(node), price) if is_bond else _held(case, node, costs)
        for node, price in dearest.items()
    }
    stakes = {node: soundness.stake_ppm(bonds[node], price) for node, price in dearest.items()}
    weakest = min(stakes, key=lambda node: (stakes[node], node), default=None)
    least = stakes[weakest] if weakest is not None else 0
    reckoned = least if is_bond else HELD_UNITS * PPM  # a unit with less behind it has a rate of its own (R8.12)
    audit_ppm = 0 if trust.verify is Verification.NONE else trust.audit_ppm
    whole = not case.edition.says_assurance
    units = [task for task in case.contributions if whole or not case.is_superseded(task)]
    drawn = [task for task in units if task in selections and selections[task].drawn]
    found = Soundness(
        units=len(units),
        drawn=len(drawn),
        audited=sum(decisions[task].verdict in SETTLED for task in drawn),
        audit_ppm=audit_ppm,
        required_ppm=soundness.required_ppm(trust.gain_ppm, trust.detection_ppm, reckoned),
        gain_ppm=trust.gain_ppm,
        detection_ppm=trust.detection_ppm,
        stake_ppm=least,
        escape=soundness.escape(audit_ppm),
        independence=DECLARED,
    )
    if whole:
        return found
    price = dearest[weakest] if weakest is not None else 0
    bond = bonds[weakest] if weakest is not None else 0
    unheard = sum(decisions[task].reason is Reason.NOT_AUDITED for task in drawn)
    unchecked = sum(task in result.tasks and decisions[task].verdict not in SETTLED for task in drawn)
    operators, accomplice_ppm = _accomplice(case)
    found = replace(
        found,
        audited=found.audited - unheard,
        assurance=trust.assurance,
        checked=len(drawn) - unheard - unchecked,
        unheard=unheard,
        operators=operators,
        accomplice_ppm=accomplice_ppm,
        saved_usd_micros=price * trust.gain_ppm // PPM,
        lost_usd_micros=bounds.COUNT.clamp(bond + price),
    )
    rate_ppm = PPM if found.units and found.checked == found.units else soundness.heard_ppm(found)
    return replace(
        found,
        escape=soundness.escape(rate_ppm),
        escape_tenth=soundness.escape_of_share(found, PPM // assurance.TENTH),
        escape_accomplice=soundness.escape(rate_ppm, accomplice_ppm),
        escape_tenth_accomplice=soundness.escape_of_share(found, PPM // assurance.TENTH, accomplice_ppm),
    )


def _held(case: Case, node: NodeId, costs: Prices) -> int:
    """Return the pay a strike could take of a node beside that of one of its dearest units (R15.1)."""
    made = [item for item in case.contributions.values() if item.predicate.node == node]
    prices = [costs.of_work(item) for item in sorted(made, key=lambda item: item.index)]
    prices.remove(max(prices))
    return sum(prices[-HELD_UNITS:])


def word(case: Case, found: Soundness) -> Verdict:
    """Return the word of a job whose every decision is `verified` (R15.8)."""
    if case.edition.says_assurance:
        return assurance.reached(
            found.audit_ppm,
            found.required_ppm,
            found.detection_ppm,
            units=found.units,
            checked=found.checked or 0,
            unheard=found.unheard or 0,
        )
    sound = soundness.is_sound(found.audit_ppm, found.required_ppm)
    return Verdict.VERIFIED if sound else Verdict.UNVERIFIED


def _accomplice(case: Case) -> tuple[int, int]:
    """Return the fewest operators any draw could ask, and the most often that one of them is asked first, in ppm."""
    fewest, most_ppm = None, 0
    for item in case.draws:
        listed = case.candidates[item.predicate.candidates].predicate.candidates
        for engine_class in {entry.engine_class for entry in item.predicate.drawable}:
            nodes = Counter(each.operator for each in listed if each.engine_class == engine_class)
            counts = sorted(nodes.values(), reverse=True)
            share_ppm = PPM
            if len(counts) > 1:  # the largest is the accomplice, the second largest the prover, who is not asked
                share_ppm = -(-counts[0] * PPM // (nodes.total() - counts[1]))
            fewest = len(counts) if fewest is None else min(fewest, len(counts))
            most_ppm = max(most_ppm, share_ppm)
    return fewest or 0, most_ppm if fewest is not None else PPM
