"""The course of a job: one pure decision, `decide(JobState, World) -> actions` (docs/course.md).

    state.py      what is seen: frozen snapshots of a job and of the world around it
    actions.py    what can be decided: one record an action
    draft.py      a decision in the making: what was decided so far already counts
    decide.py     place, plan, draw, hear; then conclude
    placing, planning, kinds/, drawing, hearing, ending, failing   one subject each
    offering.py   who is given which waiting task
    concluding.py verdict, money and receipt, once nothing is open
    lapsing.py    when a lease is over though its node has not said so

Nothing here reads a clock, a network or a disk, or draws a number. The market loads a snapshot and carries actions out
(market/engine/); tests drive the same core without either.
"""
