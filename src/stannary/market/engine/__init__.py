"""What moves jobs: a thin shell around the pure core (jobs/course/). It knows no rule.

    moving.py      one move: read the job, decide, carry it out; again where it has moved on meanwhile
    applying.py    the core's actions, in order, in one transaction
    giving.py      leases, and the right to read what they need
    ready.py       who may take what, in memory
    loop.py        a loop for each job, the queue, the deadlines
    concluding.py  verdict, money and receipt
    holding.py     one verb of a lease at a time
    recovery.py    what a killed market had logged and not recorded

Nothing outside a transaction happens inside it; what must follow (wake-ups, the log) follows from what it wrote.
"""
