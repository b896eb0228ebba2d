"""The worker: the process inside the sandbox, one per node and job, kept across rounds; a recipe's tasks are done in
processes that are forked for them (fresh.py).

    worker REQUESTS_FD REPLIES_FD [JOB_DIRECTORY]        (/job: blobs/ and workdir/, both read-only)

    {"op": "prepare", "spec": {...}, "inputs": {name: hex}}           engine class, parameters, or why not;
                                      "tried": true                   without the check before pay
    {"op": "task", "assignment": {...}, "step": s, "salt": hex}       progress*, outputs*, measures, H(salt, state at s)
    {"op": "forget", "assignment": {...}}                             no question will come about it
    {"op": "answer", "assignment": {...}, "step": s, "salt": hex}     H(audit salt, state at s)
    {"op": "command", "spec": {...}, "inputs": {name: hex}, "rank": n}          outputs*, exit code
    {"op": "stop"}

Rules:
1. Results leave only as frames; stdout and stderr are the job log. The recipe runs in this process
   and could write frames of its own: the agent believes them no more than it believes the recipe,
   and what it signs is the node's claim, to be audited like any other.
   Whether a task is work or an audit it is not told: a recipe that knew could do the one well and the other not.
2. No failure ends the loop: it is answered with a reason, and the agent decides.
3. Hash order and thread count are fixed before anything is imported that depends on them.
4. What a command starts reaches nothing of this process: it is not dumpable, so its descriptors, memory
   and environment in /proc are closed to everybody inside, and no pipe of the agent can be opened by
   way of /proc/<parent>/fd. It adopts what a command orphans, to end it (command.py rule 3).
"""

from __future__ import annotations

import ctypes
import os
import sys
from pathlib import Path

_PR_SET_DUMPABLE, _PR_SET_CHILD_SUBREAPER = 4, 36

SCRATCH = Path("/tmp/job")  # noqa: S108 - inside the sandbox; the same on every node, for what a command prints


def main(arguments: list[str]) -> int:
    """Serve requests until `stop` or the end of the stream."""
    fixed = _fixed_environment()
    if sys.flags.hash_randomization or any(os.environ.get(name) != value for name, value in fixed.items()):
        # Hash order is chosen before the first line of Python runs, so it takes a new interpreter; one
        # that reads the variables (no -I) and finds no module of ours in the work directory (-P).
        os.environ.update(fixed)
        os.execv(sys.executable, [sys.executable, "-s", "-P", "-m", "stannary.worker", *arguments])  # noqa: S606
    _seclude()
    requests_fd, replies_fd = int(arguments[0]), int(arguments[1])
    job, scratch = (Path("/job"), SCRATCH) if len(arguments) < 3 else (Path(arguments[2]), None)
    from stannary.worker.service import Service

    for fd in (requests_fd, replies_fd):
        os.set_inheritable(fd, False)  # a command must not speak for its worker
    with os.fdopen(requests_fd, "rb") as requests, os.fdopen(replies_fd, "wb") as replies:
        Service(job, requests, replies, scratch).serve()
    return 0


def _fixed_environment() -> dict[str, str]:
    """Return what must stand before an import: no hash order by chance, and the job's threads, by default one."""
    said = os.environ.get("OMP_NUM_THREADS", "")
    threads = said if said.isdecimal() and int(said) > 0 else "1"
    return {"PYTHONHASHSEED": "0", "OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads}


def _seclude() -> None:
    """Close this process to those it will start (rule 4), before there is anything to see."""
    libc = ctypes.CDLL(None, use_errno=True)
    for option, value in ((_PR_SET_DUMPABLE, 0), (_PR_SET_CHILD_SUBREAPER, 1)):
        if libc.prctl(option, value, 0, 0, 0) != 0:
            raise OSError(ctypes.get_errno(), f"prctl {option}")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
