"""Run a command job as the agent of another host would: `python -m tests.integration.sandbox.host PLAN`.

PLAN is JSON: `root`, `unshare` (use the weaker sandbox), `run` (the command, which writes out.txt), and what of the
host is set otherwise before the sandbox is made. What the command wrote is printed.
"""

from __future__ import annotations

import ctypes
import json
import os
import resource
import signal
import sys
import time
from pathlib import Path
from typing import Any

from tests.integration.sandbox.test_commands import Node

from stannary.run.sandbox import bubblewrap, cgroup, unshare

NEW_UTS = 0x04000000


def become(host: dict[str, Any]) -> None:
    """Change what this process passes on to what it starts, as another host or session would have it."""
    libc = ctypes.CDLL(None, use_errno=True)
    name, domain = host["name"].encode(), host["domain"].encode()
    if os.geteuid() == 0 and libc.unshare(NEW_UTS) == 0:
        assert libc.sethostname(name, len(name)) == 0
        assert libc.setdomainname(domain, len(domain)) == 0
    os.umask(host["umask"])
    os.sched_setaffinity(0, host["processors"])
    os.chdir(host["cwd"])
    os.nice(host["nice"])
    for kind, soft in host["limits"].items():
        number = getattr(resource, kind)
        resource.setrlimit(number, (soft, resource.getrlimit(number)[1]))
    for number in host["ignored"]:
        signal.signal(number, signal.SIG_IGN)
    for _ in range(host["descriptors"]):
        os.dup(0)  # kept open: the pipes of a worker get other numbers
    time.tzset()


def main(text: str) -> None:
    plan = json.loads(text)
    become(plan["host"])
    find = unshare.find if plan["unshare"] else bubblewrap.find
    sandbox = find(cgroup.find())
    assert sandbox is not None
    node = Node(Path(plan["root"]), sandbox)
    reply = node.run(plan["run"], "out.txt", files=dict.fromkeys(plan["files"], b"x"))
    sys.stdout.buffer.write(node.output(reply, "out.txt"))


if __name__ == "__main__":
    main(sys.argv[1])
