"""Certify: what a machine really is, from evidence it cannot forge, checked offline.

Rooms: `evidence/` (one pure verifier a kind), `grade/` (measured power), and beside them the
anchor, collateral, tiers, policy and the signed credential. Nothing here needs a market.
"""
