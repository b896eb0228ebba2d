"""The terms every node signs when it joins, by digest; changing a word here is a new version of the terms."""

from __future__ import annotations

from stannary.formats import digest
from stannary.formats.digest import Digest
from stannary.formats.jobspec import JobSpec
from stannary.rules import edition
from stannary.rules.blame import CAP_PRICES
from stannary.rules.stake import HELD_UNITS

TEXT = f"""Terms of a stannary market, version 2.

1. The operator named in the join statement answers for the node and for what it hands in.
2. Work is paid by verdict, and by what it took, at the ask of the credential in force. Refuted work is not paid.
3. A strike: in a buyer's own program, who stands alone among three answers is not paid for it, nor for the stake S:
   the {HELD_UNITS} units it did before it in that job, the {HELD_UNITS} behind it, and as many audits. That pay goes
   to the insurance account, never to buyer, judge or market. No strike touches a bond. Strikes of several buyers
   may suspend a node until it has passed tests of the market's own.
4. A conviction: in a program of the market's own, where two others recompute a unit and agree against it, the node's
   bond is disputed and it does no more of that job. An appeal is heard unasked, within the window that the market
   states (a day unless it says otherwise): three operators who had no part in the job compute the unit again and two
   decide; where there are fewer, the market computes it and publishes what from.
5. Who loses an appeal pays at most {CAP_PRICES} prices of the dearest unit it did in that job: to those who heard it,
   to whoever was wrongly accused, to the buyer whose work was done again, and the rest to the insurance account.
6. Silence is a pause: unpaid, left out, never fined.
7. Every statement is logged by digest in the market's transparency log.
8. The node is open (T0) unless its credential says otherwise: its owner can read what runs on it.
"""

DIGEST = digest.digest(TEXT.encode("utf-8"))
# Version 1, of before there were strikes and appeals.
FORMER = Digest("sha256:2ed64c0f2735bdc3f873152baf3e24f709c25517f8df0a11dfb14d7f294be9a9")


def accepted(spec: JobSpec) -> frozenset[str]:
    """Return the terms, of which whoever serves a job signed one: the former ones serve what came before."""
    return frozenset({DIGEST} if edition.of(spec).takes_new_jobs else {DIGEST, FORMER})
