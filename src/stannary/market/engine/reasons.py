"""Why a job ended, in the market's own words; every other reason is a node's.

No report of a node may use one of these (failing.py): `buyer-silent` decides that work is paid unseen.
"""

from __future__ import annotations

from stannary.verify.conclusion import BUYER_SILENT

CANCELLED = "cancelled"
NO_CAPACITY = "no-capacity"  # nobody who could do it is there
USELESS = "work-does-not-count"  # tried as often as may be
EXHAUSTED = "beacon-exhausted"  # the buyer's chain has no value left for another draw
STALLED = "stalled"  # nothing moved for longer than anything may take
MARKET_FAULT = "market-fault"  # the market could not go on with it, or not conclude it

OWN = frozenset({BUYER_SILENT, CANCELLED, NO_CAPACITY, USELESS, EXHAUSTED, STALLED, MARKET_FAULT, "complete"})

RUN_FAILED = "run-failed"  # stands for a node's report that used one of them
