"""What the bell rings (bell.py), named once."""

from __future__ import annotations


def job_topic(job: str) -> str:
    """Name the topic that rings when something came in that may move a job."""
    return f"job:{job}"


def seen_topic(job: str) -> str:
    """Name the topic that rings when a job's engine has moved it: readers wait for both."""
    return f"seen:{job}"


def logged_topic(job: str) -> str:
    """Name the topic that rings when statements of a job are in the log."""
    return f"logged:{job}"


def node_topic(node: str) -> str:
    """Name the topic that rings when a node may have something new to do."""
    return f"node:{node}"


def account_topic(buyer: str) -> str:
    """Name the topic that rings when a token of a buyer's account is revoked: who waits is told at once."""
    return f"account:{buyer}"


def logs_topic(job: str) -> str:
    """Name the topic that rings when a job has printed."""
    return f"logs:{job}"


QUEUE = "queue"  # rings when a queued job may get its turn
WORK = "work"  # rings when some task waits for any node
OUTBOX = "outbox"  # rings when statements wait to be logged
DEADLINES = "deadlines"  # rings when a lease may have ended
