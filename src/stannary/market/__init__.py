"""The exchange process: HTTP faces, one engine per open job, workers. Start it with `python -m stannary.market`.

Decisions come from the pure planes (jobs, place, verify, settle); bytes live in store and tlog. What is
here joins them, signs, and serves.
"""
