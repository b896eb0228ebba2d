"""Why something happened: one word for machines, each said here once.

Rules:
- A reason is what the market, a verdict or a receipt says. A node that reports a failure uses words of its own; where
  it uses one of `OWN`, its word counts as `run-failed`: `buyer-silent` decides that work is paid unseen.
- Words for people are the faces' (cli/happenings.py).
"""

from __future__ import annotations

from enum import StrEnum


class Reason(StrEnum):
    """Why a job, task, lease or verdict is what it is; stands in every event and every logged verdict."""

    # The verdict on a task (rules/verdict.py)
    AGREED = "agreed"
    CONTRADICTED = "two-recomputations-disagree"
    MISMATCH = "mismatch"
    NO_AGREEMENT = "no-two-agree"
    CONTESTED = "two-against-two"
    PROVER_SILENT = "prover-silent"
    NO_AUDITOR = "no-auditor-answered"
    NOT_AUDITED = "not-audited"  # its auditor had no room in all the time an audit is waited for
    AWAITED = "auditor-awaited"
    OPENED = "outsiders-awaited"  # whether the program can be recomputed at all is asked (rules/question.py)
    REPRODUCED = "four-runs-agree"
    NOT_REPRODUCIBLE = "not-reproducible"  # the runs differ; so ends the job, too
    NO_OUTSIDER = "no-outsider-answered"  # nor is one left to ask; so ends the job, too
    DRAWN = "drawn"
    NOT_DRAWN = "not-drawn"
    CUT = "cut"  # a clock or a limit ended the program: there is nothing to compare
    NOT_ASKED = "verification-none"
    OUTVOTED = "outvoted"  # of a convicted auditor; the verdict's own reason is about the prover's work

    # What becomes of a disputed bond (rules/appeal.py)
    TOO_FEW = "fewer-than-three-operators"  # of the class had no part in the job
    TWO_OF_THREE = "two-of-three"
    REPLAYED = "replayed"  # the market computed it itself
    TWO_STORIES = "two-statements"  # it signed both: nothing needs to be computed again (rules/stories.py)
    UNHEARD = "unheard"  # nobody could compute it again: nothing is lost

    # The course of a task, and why it ends without a verdict
    PLACED = "placed"
    LEASED = "leased"
    COMMITTED = "committed"
    CONTRIBUTED = "contributed"
    LATE = "late"  # for its round
    SUPERSEDED = "superseded"  # what it started from does not count any more

    # The end of a lease
    ASKED = "asked"
    ANSWERED = "answered"
    RELEASED = "released"  # the node handed it back
    DEADLINE = "deadline"
    NODE_LOST = "node-lost"
    NODE_REVOKED = "node-revoked"
    NODE_CONVICTED = "node-convicted"
    NODE_STRUCK = "node-struck"  # the odd one in a buyer's own code: it does no more of that job
    JUDGED = "judged"  # nobody needs the answer any more

    # The end of a job
    COMPLETE = "complete"  # all work is judged
    SETTLED = "settled"
    CONCLUDED = "concluded"
    BUYER_SILENT = "buyer-silent"  # its buyer did not reveal in time: what is committed is paid unseen
    CANCELLED = "cancelled"
    NO_CAPACITY = "no-capacity"  # nobody who could do it is there
    USELESS = "work-does-not-count"  # tried as often as may be
    EXHAUSTED = "beacon-exhausted"  # the buyer's chain has no value left for another draw
    STALLED = "stalled"  # nothing moved for longer than anything may take
    MARKET_FAULT = "market-fault"  # the market could not go on with it, or not conclude it
    RUN_FAILED = "run-failed"  # stands for a node's report that used one of `OWN`


OWN = frozenset({
    Reason.BUYER_SILENT, Reason.CANCELLED, Reason.NO_CAPACITY, Reason.USELESS, Reason.EXHAUSTED, Reason.STALLED,
    Reason.MARKET_FAULT, Reason.COMPLETE, Reason.NOT_REPRODUCIBLE, Reason.NO_OUTSIDER,
})  # fmt: skip
