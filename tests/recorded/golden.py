"""What a run left behind, spelled so that a difference says what differs: one line a statement, event or posting."""

from __future__ import annotations

import json
import re
import sys
import tempfile
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from sqlalchemy.engine import Connection
from tests.recorded import stage
from tests.recorded.cast import short
from tests.recorded.runs import RUNS
from tests.recorded.stage import START_S, Played, Run
from tests.second_verifier import comparison

from stannary.errors import StannaryError
from stannary.formats import canonical, digest, dsse
from stannary.formats.canonical import Json
from stannary.formats.digest import Digest
from stannary.market.blobstore import BlobStore
from stannary.store import events, jobs, ledger
from stannary.store.database import Store
from stannary.verify.report import Report
from stannary.verify.trust import TrustStore, pin

DIRECTORY = Path(__file__).parent / "golden"
MEMORY = Path("/dev/shm")
LEAF_CHARS = 16  # of its hex: two leaves of a run share them once in 2**64
MAX_CHARS = 80

_FIXED = {  # by the run itself
    "join": {"key", "terms", "token", "cpus", "memory_bytes", "kind"},
    "credential": {"key", "terms", "cpus", "memory_bytes", "kind", "ear_status", "attestation", "tier"},
    "job": {"spec", "buyer", "market", "nonce"},
    "contribution": {"outputs", "environment", "engine_class", "metrics", "spent", "sandbox"},
    "commitment": {"used"},
    "answer": {"outputs", "spent", "used"},
    "receipt": {"evidence", "engine_classes", "attestation", "witness"},
}
_WHOLE = {"settlement", "soundness", "candidates", "drawable", "left_out", "rejected"}
_DIGEST = re.compile(r"(sha256:)?[0-9a-f]{64}")


def replayed(run: Run) -> tuple[str, dict[str, Report]]:
    """Play a run; return its golden text, and what a verifier says of each receipt."""
    with tempfile.TemporaryDirectory(prefix="stannary-recorded-", dir=MEMORY if MEMORY.is_dir() else None) as place:
        played = stage.play(run, Path(place))
        reports = {name: verified(played, data) for name, data in receipts(played).items()}
        return spelled(collected(played)), reports


def spell(names: Sequence[str]) -> None:
    """Print the golden texts of runs, replayed here."""
    known = {run.name: run for run in RUNS}
    for name in names:
        sys.stdout.write(replayed(known[name])[0])


def collected(played: Played) -> dict[str, Any]:
    """Return all that is compared of a run; jobs and nodes bear the names of the run, which `names` tells."""
    names: dict[str, str] = {item.id: name for name, item in played.players.items()}
    names |= {job: name for name, job in played.jobs.items()}
    with Store.open(played.directory / "market.db") as store:
        found = {
            "said": played.said,
            "leaves": store.read(_leaves),
            "jobs": {name: store.read(partial(_job, job)) for name, job in played.jobs.items()},
            "ledger": store.read(_ledger),
        }
    text = json.dumps(found)
    for drawn, given in names.items():
        text = text.replace(drawn, given)
    return {"about": played.run.about, "names": {given: drawn for drawn, given in names.items()}, **json.loads(text)}


def receipts(played: Played) -> dict[str, bytes]:
    """Return the receipt files of a run by order."""
    found = {}
    with Store.open(played.directory / "market.db") as store:
        for name, job in played.jobs.items():
            row = store.read(partial(jobs.get, job=job))
            if row.receipt is not None:
                path = BlobStore(played.directory / "blobs").path(Digest(row.receipt))
                found[name] = path.read_bytes()
    return found


def verified(played: Played, data: bytes) -> Report:
    """Verify a receipt, with both verifiers, as a buyer would who pinned this market and its witness."""
    trust = TrustStore(()).with_market(pin(played.vkey, (played.witness_vkey,)))
    return comparison.verify_both(data, trust, played.now_s)


def path_of(name: str) -> Path:
    """Return where the golden text of a run lies."""
    return DIRECTORY / f"{name}.json"


def spelled(found: dict[str, Any]) -> str:
    """Return the golden text."""
    return json.dumps(found, indent=1, ensure_ascii=False) + "\n"


def _leaves(connection: Connection) -> list[str]:
    query = "SELECT log_index, kind, leaf, envelope FROM envelopes ORDER BY log_index IS NULL, log_index, seq"
    return [_leaf(*row) for row in connection.exec_driver_sql(query)]


def _leaf(index: int | None, kind: str, leaf: str, envelope: bytes) -> str:
    try:
        members = canonical.decode_object(dsse.from_bytes(envelope).payload)["predicate"]
    except StannaryError as err:  # a run has garbled it on purpose
        members = {"unreadable": err.what}
    assert isinstance(members, dict)
    told = [_member(name, value) for name, value in members.items() if name not in _FIXED.get(kind, ())]
    return " ".join([str(index), kind, leaf[7 : 7 + LEAF_CHARS], *filter(None, told)])


def _member(name: str, value: Json) -> str:
    """Spell a member, unless it says nothing to a reader; the leaf covers it all the same."""
    if value in (None, [], {}) or (isinstance(value, str) and _DIGEST.fullmatch(value)):
        return ""
    text = value if isinstance(value, str) else canonical.encode(value).decode()
    if name not in _WHOLE and len(text) > MAX_CHARS:
        text = f"{text[:MAX_CHARS]}.. {digest.digest(text.encode())[7 : 7 + LEAF_CHARS]}"
    return f"{name}={text}"


def _job(job: str, connection: Connection) -> dict[str, Any]:
    row = jobs.get(connection, job)
    lines = "SELECT account, task, reason, usd_micros FROM settlement_lines WHERE job = ? ORDER BY number"
    return {
        "ended": f"{row.status}, {row.verdict}, {row.settlement}: {row.reason}, {row.message}",
        "receipt": row.receipt,
        "events": _events(connection, job),
        "lines": [f"{n:+9d} {to} {why} {task}" for to, task, why, n in connection.exec_driver_sql(lines, (job,))],
    }


def _events(connection: Connection, job: str) -> list[str]:
    found, granted = [], dict[str, str]()
    for event in _history(connection, job):
        told = dict(event.data)
        lease = str(told.get("lease", ""))
        if lease.startswith("w-"):  # drawn at random by the market, and in no statement: told by their order
            told["lease"] = granted.setdefault(lease, f"w-{len(granted)}")
        said = filter(None, (short(event.task or ""), event.node, event.message))
        parts = [f"{event.at_ms / 1000 - START_S:.3f}", event.type, *said]
        found.append(" ".join([*parts, json.dumps(told)] if told else parts))
    return found


def _history(connection: Connection, job: str) -> Iterator[events.Event]:
    seq = 0
    while page := events.after(connection, job, seq):
        yield from page
        seq = page[-1].seq


def _ledger(connection: Connection) -> list[str]:
    found = []
    for number, entry in ledger.newest(connection, limit=10_000):
        moved = ", ".join(f"{posting.account} {posting.usd_micros:+d}" for posting in entry.postings)
        found.append(f"{number} {entry.key} {entry.reason}: {moved}")
    return found
