"""How much the audits of a job are worth (docs/audits.md, How much is enough; docs/receipt.md R15).

Cheating saves the fraction g of a task's price, is audited with probability p, found with probability d when audited,
and then costs S task prices. It loses money exactly when p > g / (d·(S + 1)). Below that p the verdict of a job is
`unverified`, whatever its audits said, unless so much was recomputed that no stake is needed (rules/assurance.py).

All figures are integers in parts per million, or decimal strings: what is signed must be recomputed exactly.
"""

from __future__ import annotations

from decimal import ROUND_UP, Decimal, localcontext

from stannary.errors import FormatError
from stannary.formats import bounds
from stannary.formats.predicates import Soundness
from stannary.formats.quantity import PPM
from stannary.rules import stake

_PLACES = Decimal("0.000001")


def required_ppm(gain_ppm: int, detection_ppm: int, stake_ppm: int) -> int:
    """Return the smallest audit probability at which cheating loses money, in ppm (R15.2).

    Args:
        gain_ppm: g, what cheating saves of one task's price.
        detection_ppm: d, how often an audit of a cheat finds it.
        stake_ppm: S times a million: slashable value in task prices.
    """
    if not (0 < detection_ppm <= PPM and 0 <= gain_ppm <= PPM and stake_ppm >= 0):
        raise FormatError("soundness figures out of range", why=f"g={gain_ppm} d={detection_ppm} S={stake_ppm} ppm")
    return stake.least_ppm(gain_ppm, detection_ppm, PPM, stake_ppm)


def stake_ppm(bond_usd_micros: int, task_price_usd_micros: int) -> int:
    """Return S·10^6 of one prover: its forfeitable bond in prices of its dearest task (R15.1).

    It is signed, so it ends at the largest integer that can be: there no audit is too rare for it.
    """
    return bounds.STAKE_PPM.clamp(bond_usd_micros * PPM // max(task_price_usd_micros, 1))


def escape(audit_ppm: int, accomplice_ppm: int = 0) -> str:
    """Return the probability that one cheated unit is never audited, as a decimal string (R15.3, R15.7).

    An audit that begins with an accomplice of the prover's, as so many in a million do, is none.
    """
    return _rounded_up(1 - Decimal(audit_ppm) * (PPM - accomplice_ppm) / (PPM * PPM))


def escape_of_share(figures: Soundness, share_ppm: int, accomplice_ppm: int = 0) -> str:
    """Return the probability that cheating a share of the units is never found, (1 - p·d)^n, rounded up (R15.4).

    n is the share of the units, at least one; p the smaller of the signed audit rate and the share that was really
    checked, since silent auditors find nothing. A job without units shows nothing: 1.
    """
    if figures.units == 0:
        return _rounded_up(Decimal(1))
    checked = figures.audited if figures.checked is None else figures.checked
    really_ppm = min(figures.audit_ppm, checked * PPM // figures.units)
    if figures.checked == figures.units:  # that is no chance any more
        really_ppm = PPM
    # an unheard unit may be unheard because it was faked: it takes none of the chance to be found
    cheated = max(-(-figures.units * share_ppm // PPM) - (figures.unheard or 0), 0)
    with localcontext() as context:
        context.prec = 40
        caught = Decimal(really_ppm) * figures.detection_ppm * (PPM - accomplice_ppm) / PPM**3
        return _rounded_up((1 - caught) ** cheated)


def heard_ppm(figures: Soundness) -> int:
    """Return how often a unit was drawn and heard: the signed rate, less the drawn ones without an auditor (R15.7)."""
    if not figures.drawn:
        return figures.audit_ppm
    return figures.audit_ppm * (figures.drawn - (figures.unheard or 0)) // figures.drawn


def is_sound(audit_ppm: int, required: int) -> bool:
    """Return whether audits at `audit_ppm` make cheating a loss (a requirement above 100 % cannot be met)."""
    return audit_ppm >= required


def _rounded_up(value: Decimal) -> str:
    return format(value.quantize(_PLACES, ROUND_UP), "f")
