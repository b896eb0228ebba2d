"""The terms every node signs when it joins, by digest; changing a word here is a new version of the terms."""

from __future__ import annotations

from stannary.formats import digest

TEXT = """Terms of a stannary market, version 1.

1. The operator named in the join statement answers for the node and for what it hands in.
2. Work is paid by verdict. Refuted work is not paid, and its node's bond is forfeited: first to whoever had to
   do work again or to audit because of it, the rest to the insurance account, never to the judge or the market.
3. Silence is a pause: unpaid, left out, never fined.
4. Every statement is logged by digest in the market's transparency log.
5. The node is open (T0) unless its credential says otherwise: its owner can read what runs on it.
"""

DIGEST = digest.digest(TEXT.encode("utf-8"))
