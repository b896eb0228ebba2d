"""A disputed unit computed again by the market itself, in a process of its own and a sandbox (stannary.replay).

    DIR/plan.json, DIR/blobs/    what that process is asked (verify/recomputation.py), copied from the market's blobs

Only code of this package is run here: bonds are disputed in its recipes alone (rules/blame.py).
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import shutil
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from stannary.errors import StannaryError
from stannary.formats import canonical, instants, jobspec, record
from stannary.formats.digest import PREFIX, Digest
from stannary.market.blobstore import BlobStore
from stannary.run.root.shelf import Shelf
from stannary.verify.case import Case
from stannary.verify.recomputation import Found, Outcome, ReplayPlan, Unit, job_blobs

MODULE = "stannary.replay"
ROOTS = "roots"  # in the market's directory, unpacked
CHUNK_BYTES = 2**20

log = logging.getLogger("stannary.market")


def digests_of(case: Case, unit: Unit) -> list[Digest]:
    """Return what a unit is computed from and what it gave."""
    return sorted({item.digest for item in (*job_blobs(case), *unit.blobs, *unit.outputs)})


async def replay(case: Case, unit: Unit, blobs: BlobStore, scratch: Path, limit_s: float) -> Found:
    """Compute a unit again and say how it compares; `unchecked` where this machine cannot, or not in time."""
    plan = ReplayPlan(jobspec.to_canonical(case.spec), instants.parse(case.job.predicate.submitted_at), (unit,))
    return await compute(plan, digests_of(case, unit), blobs, scratch, limit_s)


async def compute(
    plan: ReplayPlan, digests: Sequence[Digest], blobs: BlobStore, scratch: Path, limit_s: float
) -> Found:
    """Compute the one unit of a plan, from blobs it names, and say how it compares."""
    (unit,) = plan.units
    scratch.mkdir(mode=0o700, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=scratch) as name:
        directory = Path(name)
        try:
            await asyncio.to_thread(_lay_out, directory, plan, digests, blobs)
            named = jobspec.from_canonical(plan.spec).root
            root = await asyncio.to_thread(_root, named, blobs, scratch.parent / ROOTS)
        except StannaryError as err:
            return Found(unit.task, Outcome.UNCHECKED, "", str(err))
        said = await _compute(directory, root, limit_s)
    return said if said is not None else Found(unit.task, Outcome.UNCHECKED, "", "it did not end")


def _lay_out(directory: Path, plan: ReplayPlan, digests: Iterable[Digest], blobs: BlobStore) -> None:
    target = directory / "blobs"
    target.mkdir()
    for named in digests:
        shutil.copyfile(blobs.found(named), target / named.removeprefix(PREFIX))
    (directory / "plan.json").write_bytes(canonical.encode(record.to_json(plan)))


def _root(named: Digest | None, blobs: BlobStore, shelf: Path) -> Path | None:
    """Return the root file system the job names, unpacked on this machine; None where it names none."""
    if named is None:
        return None
    path = blobs.found(named)

    @contextlib.contextmanager
    def fetch(start: int) -> Iterator[Iterator[bytes]]:
        with path.open("rb") as file:
            file.seek(start)
            yield iter(lambda: file.read(CHUNK_BYTES), b"")

    return Shelf(shelf).take(named, path.stat().st_size, fetch, log.info)


async def _compute(directory: Path, root: Path | None, limit_s: float) -> Found | None:
    # -P: the current directory is no place to import from
    started = await asyncio.create_subprocess_exec(
        sys.executable, "-P", "-m", MODULE, str(directory), *([str(root)] if root is not None else []),
        stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    try:
        output, _ = await asyncio.wait_for(started.communicate(), limit_s)
    except TimeoutError:
        return None
    finally:
        if started.returncode is None:  # too slow, or the market stops
            started.kill()
            await started.wait()
    for line in output.splitlines():
        event = json.loads(line)
        if "found" in event:
            return record.from_json(Found, event["found"], what="found")
    return None
