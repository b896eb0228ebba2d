"""What moves jobs: a thin shell around the pure core (jobs/course/). It knows no rule.

    moving.py      one move: read the job, decide, carry it out; again where it has moved on meanwhile
    concluding.py  the last moves of a job of which nothing is open: what the evidence shows, and the receipt file
    ready.py       who may take what, in memory
    giving.py      leases as their nodes are told
    loop.py        a loop for each job, the queue, the deadlines
    queueing.py    whose job begins next
    holding.py     one verb of a lease at a time

The store is touched by four of them only (tests/unit/market/test_borders.py):

    loading.py     what decisions rest on
    applying.py    the core's actions, in order, in one transaction
    recording.py   what nodes and buyers said, once it is logged
    aborting.py    the end of a job that nothing can be decided about

Nothing outside a transaction happens inside it; what must follow (wake-ups, the log) follows from what it wrote.
"""
