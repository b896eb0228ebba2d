"""What comes in: nodes that join, orders of buyers, blobs, and statements under a lease.

Nothing is taken that a verifier would refute; what is refused is refused with its reason.
"""
