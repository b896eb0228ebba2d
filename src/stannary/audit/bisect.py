"""Bisection: the first inner step at which two parties' computations part.

Two parties who agree on the start and differ in the end are asked for links of their state chains
(answer.py), about log2(steps) times. The step found is all a referee has to compute: one inner
step instead of a round. To the single operation inside that step is a later release's business.
"""

from __future__ import annotations

from collections.abc import Callable

Link = Callable[[int], str]  # the chain link a party claims after a step, 1 .. num_steps


def first_difference(ours: Link, theirs: Link, num_steps: int) -> int | None:
    """Return the first step after which the links differ, None where the last ones agree.

    Every other question is asked between the last known agreement and the first known difference.
    """
    if ours(num_steps) == theirs(num_steps):
        return None
    agree, differ = 0, num_steps
    while differ - agree > 1:
        middle = (agree + differ) // 2
        if ours(middle) == theirs(middle):
            agree = middle
        else:
            differ = middle
    return differ
