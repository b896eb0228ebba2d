"""What moves jobs: one step is read, decide, write in one transaction; loops and deadlines call it.

A step is a function of the database, a `World` (time, who is here, the log's checkpoint) and the signed
job. It may run at any time, any number of times: whatever a crash interrupted, the next step finds
undone and does. Nothing outside the transaction happens inside it; what must follow (wake-ups, the
log) follows from what it wrote.
"""
