"""How fast: learning rates, as public functions of the step.

Nothing here depends on a node, a clock or an optimizer's past, so a node runs a round and an auditor
replays it from the same few integers.
"""

from __future__ import annotations

from stannary.formats import jobspec
from stannary.formats.quantity import PPM
from stannary.formats.training import Training
from stannary.rules.shape import first_step


def total_steps(settings: jobspec.RecipeSpec) -> int:
    """Return the inner steps one lane takes in the whole job."""
    return first_step(settings.inner_steps, settings.rounds)


def lr_factor(training: Training, step: int, num_steps: int) -> float:
    """Return the share of the peak learning rate at a global step: warm up, hold, fall linearly.

    Args:
        training: the signed settings.
        step: global index of the inner step, 0 .. num_steps - 1.
        num_steps: inner steps of the whole job.
    """
    warm = min(1.0, (step + 1) / (training.warmup_steps + 1))
    hold_until = num_steps * training.constant_ppm / PPM
    if step < hold_until:
        return warm
    final = training.final_lr_ppm / PPM
    done = (step - hold_until) / max(1.0, num_steps - hold_until)
    return warm * (1.0 - (1.0 - final) * min(1.0, done))


def rewarm_factor(training: Training, inner_step: int) -> float:
    """Return the share in the first steps of a round, while the fresh optimizer has no moments yet."""
    return min(1.0, (inner_step + 1) / (training.rewarm_steps + 1))
