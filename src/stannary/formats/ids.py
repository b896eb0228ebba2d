"""Names of things: nodes, jobs, tasks, audits. Derived from keys and digests, never chosen (docs/receipt.md R1.10).

    node     n-<12 hex of SHA-256 of its public key>
    job      j-<12 hex of the job digest>
    task     <job>/r<round>/l<lane>/a<attempt>      one lane's unit of a round
             <job>/r<round>/merge/a<attempt>        the merge of a round
             <job>/run/l<lane>/a<attempt>           a command
    audit    <task>/q<16 hex>                       one recomputation of a task; the hex follows from the
                                                    beacon and the auditor (rules/draw.py), and tells nobody
                                                    whether it is the first opinion, a second, or a canary

An *attempt* is counted up when a task is superseded (its base weights were re-merged); an
*epoch* (in the lease, not in the name) when the same task goes to another node.
"""

from __future__ import annotations

import hashlib
import re
from enum import StrEnum
from typing import NewType

from stannary.errors import FormatError
from stannary.formats.digest import Digest, parse

NodeId = NewType("NodeId", str)
JobId = NewType("JobId", str)
TaskId = NewType("TaskId", str)
AuditId = NewType("AuditId", str)
KeyId = NewType("KeyId", str)  # of a public key; how it follows from one: dsse.key_id

AUDIT_TAG_BYTES = 8  # two auditors of one task share a name once in 2**64

NODE_PATTERN = "n-[0-9a-f]{12}"
JOB_PATTERN = "j-[0-9a-f]{12}"
_AUDIT = re.compile(r"(.+)/q[0-9a-f]{16}")


class TaskKind(StrEnum):
    """What one unit of a job is."""

    ROUND = "round"
    MERGE = "merge"
    COMMAND = "command"


_PLACES = {TaskKind.ROUND: "r{0}/l{1}", TaskKind.MERGE: "r{0}/merge", TaskKind.COMMAND: "run/l{1}"}
_ROUND, _LANE, _ATTEMPT = "[0-9]{1,6}", "[0-9]{1,5}", "a[0-9]{1,4}"
TASK_PATTERN = f"{JOB_PATTERN}/(?:{'|'.join(place.format(_ROUND, _LANE) for place in _PLACES.values())})/{_ATTEMPT}"
_TASKS = {
    kind: re.compile(f"{JOB_PATTERN}/{place.format(f'(?P<round>{_ROUND})', f'(?P<lane>{_LANE})')}/{_ATTEMPT}")
    for kind, place in _PLACES.items()
}


class LeaseType(StrEnum):
    """What a lease asks its node for: to do a task, to compute another's again, to answer about its own, to open."""

    WORK = "work"
    AUDIT = "audit"
    QUESTION = "question"
    REVEAL = "reveal"


def node_id(public_key: bytes) -> NodeId:
    """Return the id of the node that holds this raw Ed25519 public key."""
    return NodeId("n-" + hashlib.sha256(public_key).hexdigest()[:12])


def job_id(job_digest: Digest) -> JobId:
    """Return the id of the job with this digest."""
    return JobId("j-" + parse(job_digest)[7:19])


def task_id(kind: TaskKind, job: JobId, round_index: int, lane: int, attempt: int = 0) -> TaskId:
    """Name a task of any kind; a merge has no lane, and a command no round."""
    return TaskId(f"{job}/{_PLACES[kind].format(round_index, lane)}/a{attempt}")


def round_task(job: JobId, round_index: int, lane: int, attempt: int = 0) -> TaskId:
    """Name one lane's unit of a round."""
    return task_id(TaskKind.ROUND, job, round_index, lane, attempt)


def merge_task(job: JobId, round_index: int, attempt: int = 0) -> TaskId:
    """Name the merge of a round."""
    return task_id(TaskKind.MERGE, job, round_index, 0, attempt)


def command_task(job: JobId, lane: int, attempt: int = 0) -> TaskId:
    """Name one command of a job."""
    return task_id(TaskKind.COMMAND, job, 0, lane, attempt)


def unit_of(task: TaskId) -> str:
    """Return what a task is an attempt at: its name without the attempt."""
    return task.rpartition("/a")[0]


def place_of(task: str) -> tuple[TaskKind, int, int]:
    """Return what a task's name says that it is, and its round and lane, 0 where it has none.

    Raises:
        FormatError: not a task id.
    """
    for kind, pattern in _TASKS.items():
        found = pattern.fullmatch(task)
        if found is not None:
            numbers = found.groupdict()
            return kind, int(numbers.get("round", 0)), int(numbers.get("lane", 0))
    raise FormatError("not a task id", why=f"{task!r:.80}")


def attempt_of(task: str) -> int:
    """Return the attempt number in a task id."""
    return int(task.rpartition("/a")[2])


def audit_id(task: TaskId, tag: bytes) -> AuditId:
    """Name one recomputation of a task by the first bytes of a hash that nobody can tell an order from."""
    if len(tag) < AUDIT_TAG_BYTES:
        raise FormatError("too short a tag for an audit", why=f"{len(tag)} bytes, at least {AUDIT_TAG_BYTES}")
    return AuditId(f"{task}/q{tag[:AUDIT_TAG_BYTES].hex()}")


def task_of(audit: AuditId) -> TaskId:
    """Return the task an audit recomputes.

    Raises:
        FormatError: not an audit id.
    """
    found = _AUDIT.fullmatch(audit)
    if found is None:
        raise FormatError("not an audit id", why=f"{audit!r:.80}")
    return parse_task(found.group(1))


def parse_task(text: str) -> TaskId:
    """Return `text` as a task id."""
    place_of(text)
    return TaskId(text)
