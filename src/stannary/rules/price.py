"""What a task costs, and a job at most, in whole micro-dollars (docs/receipt.md R14.2).

    price = ceil(num_steps x step_ms x ask per hour / 3,600,000)

The ask is that of the node's credential. Under rules 2 the step time is agreed in the signed spec, so that a price is
known before the work. From rules 3 on what is paid follows measured use (rules/use.py), and only a ceiling is known
before: `wall_s` of each task on all its processors, at what an hour of the dearest costs: ask per SCU-hour x grade.
Always rounded up: a task is never free. The market holds and pays by it, the verifier settles again by it.
"""

from __future__ import annotations

from stannary.errors import FormatError
from stannary.formats.jobspec import JobSpec, Verification
from stannary.formats.lean import dataclass
from stannary.formats.quantity import PPM
from stannary.rules import blame, edition, first, use
from stannary.rules.shape import shape_of

MS_PER_HOUR = 3_600_000
AUDITS_IN_ESCROW = 2  # a first auditor, and a second one when they disagree
QUESTIONS_IN_ESCROW = 2  # so often it may be asked whether the program of a job can be recomputed (rules/question.py)
RUNS_IN_ESCROW = 4 * QUESTIONS_IN_ESCROW


@dataclass(frozen=True, slots=True)
class WorstCase:
    """What a job can cost at most: everything at the dearest eligible hour, every task audited twice, two questions."""

    work_usd_micros: int
    audit_usd_micros: int

    @property
    def escrow_usd_micros(self) -> int:
        """Return what is held on submit."""
        return self.work_usd_micros + self.audit_usd_micros


def price_of(num_steps: int, step_ms: int, ask_usd_micros_per_hour: int) -> int:
    """Return the price of one task at one node's ask, in micro-dollars.

    Raises:
        FormatError: negative figures.
    """
    if min(num_steps, step_ms, ask_usd_micros_per_hour) < 0:
        raise FormatError("price of a negative amount", why=f"{num_steps} x {step_ms} ms x {ask_usd_micros_per_hour}")
    return -(-num_steps * step_ms * ask_usd_micros_per_hour // MS_PER_HOUR)


def expected_audits(spec: JobSpec, audit_ppm: int, num_operators: int, ask_usd_micros_per_hour: int) -> int:
    """Return what audits cost where everybody agrees, in micro-dollars, rounded up.

    So many units in a million are audited, and at least the first unit, one of each operator and the last merge.
    """
    work, shape = expected_work(spec, ask_usd_micros_per_hour), shape_of(spec)
    foreseen = first.is_checked(spec) + (shape.kind.merge is not None)
    least = min(num_operators + foreseen, shape.num_tasks)
    return -(-work * max(audit_ppm, least * PPM // shape.num_tasks) // PPM)


def worst_case(spec: JobSpec, highest_usd_micros_per_hour: int) -> WorstCase:
    """Return the most that a job can cost; no audits where the spec agreed to none.

    Where use is paid, `wall_s` bounds each task: so nobody works for what is not held.
    """
    shape, audits = shape_of(spec), AUDITS_IN_ESCROW if spec.trust.verify is not Verification.NONE else 0
    if not edition.of(spec).pays_by_use:
        work = sum(price_of(steps, shape.step_ms, highest_usd_micros_per_hour) for steps in shape.all_steps())
        return WorstCase(work, work * audits)
    unit = dearest_unit(spec, highest_usd_micros_per_hour)
    return WorstCase(shape.num_tasks * unit, (_parts(spec) - shape.num_tasks) * unit)


def most_per_hour(spec: JobSpec, escrow_usd_micros: int) -> int:
    """Return the dearest hour at which all that a job can cost is held, where use is paid: `worst_case` inverted.

    Whoever asks more, since he raised his ask or came later, would be paid from what is held for others.
    """
    unit = escrow_usd_micros // _parts(spec)
    return unit * use.US_PER_HOUR // max(use.ceiling_us(spec.resources), 1)


def rate_of(ask_usd_micros_per_hour: int, grade_ppm: int) -> int:
    """Return what an hour of one processor costs at an ask per SCU-hour, in micro-dollars, rounded up."""
    return -(-ask_usd_micros_per_hour * grade_ppm // PPM)


def work_of(spec: JobSpec, escrow_usd_micros: int) -> int:
    """Return what of a job's escrow is for work."""
    return escrow_usd_micros * shape_of(spec).num_tasks // _parts(spec)


def dearest_unit(spec: JobSpec, highest_usd_micros_per_hour: int) -> int:
    """Return what one task of a job can cost at most."""
    if edition.of(spec).pays_by_use:
        return use.price_of(use.ceiling_us(spec.resources), highest_usd_micros_per_hour)
    shape = shape_of(spec)
    return price_of(shape.longest_steps, shape.step_ms, highest_usd_micros_per_hour)


def expected_work(spec: JobSpec, ask_usd_micros_per_hour: int) -> int:
    """Return what the work of a job costs by what its spec says of it: before any unit of it was measured."""
    shape = shape_of(spec)
    cpus = spec.resources.cpus if edition.of(spec).pays_by_use else 1
    work = sum(price_of(steps, shape.step_ms * cpus, ask_usd_micros_per_hour) for steps in shape.all_steps())
    return min(work, worst_case(spec, ask_usd_micros_per_hour).work_usd_micros)


def _parts(spec: JobSpec) -> int:
    """Return how many times a unit is held for: its work and audits, and the runs of the questions there may be."""
    units = shape_of(spec).num_tasks
    if spec.trust.verify is Verification.NONE:
        return units
    return units * (1 + AUDITS_IN_ESCROW) + (0 if blame.convicts(spec) else RUNS_IN_ESCROW)
