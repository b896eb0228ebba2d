"""What a node fetches for a lease: nothing of another size than the model's."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.integration.train.small_job import train_spec

from stannary.agent import settings as node_settings
from stannary.agent.daemon import Agent
from stannary.agent.settings import NodeSettings
from stannary.errors import JobFailed
from stannary.formats import dsse, note
from stannary.formats.digest import Digest, digest
from stannary.formats.ids import JobId, LeaseType, NodeId, TaskId, TaskKind, round_task
from stannary.formats.predicates import Output
from stannary.run.holding import Holding, Prepared
from stannary.wire.node import BlobRef, Lease

JOB = JobId("j-0123456789ab")
DELTA_BYTES = 1_000
THETA_BYTES = 1_100
HUGE_BYTES = 800 * 1024**2
MakeHolding = Callable[[Prepared | None], Holding]
MODEL = Prepared("c1", DELTA_BYTES, THETA_BYTES)


class CountingClient:
    """A market that gives whatever is asked for, and remembers what was."""

    def __init__(self) -> None:
        self.fetched: list[Digest] = []

    def fetch(self, named: Digest, size_bytes: int, target: Path, moving: Callable[[], None]) -> None:
        self.fetched.append(named)
        moving()
        with target.open("wb") as file:
            file.truncate(size_bytes)


@pytest.fixture(name="client")
def fixture_client() -> CountingClient:
    return CountingClient()


@pytest.fixture(name="agent")
def fixture_agent(tmp_path: Path, client: CountingClient) -> Agent:
    vkey = note.format_vkey("test.market", dsse.public_bytes(node_settings.create_key(tmp_path)))
    settings = NodeSettings("n", NodeId("n-0123456789ab"), "http://x", "", vkey, "private", "basalt", "c1")
    sandbox: Any = None  # no worker is started
    agent = Agent(tmp_path, settings, sandbox, lambda _: None)
    stand_in: Any = client
    agent.client = agent.holdings.client = stand_in
    return agent


@pytest.fixture(name="holding")
def fixture_holding(tmp_path: Path) -> MakeHolding:
    def make(prepared: Prepared | None) -> Holding:
        directory = tmp_path / "jobs" / JOB
        (directory / "blobs").mkdir(parents=True)
        return Holding(JOB, train_spec(), directory, digest(b""), None, 0, prepared=prepared)

    return make


def ref(name: str, size_bytes: int) -> BlobRef:
    """Name an input; its digest is made up from its name."""
    return BlobRef(name=name, digest=digest(name.encode()), size_bytes=size_bytes)


def lease_of(*blobs: BlobRef, kind: LeaseType = LeaseType.WORK) -> Lease:
    """Make the lease of a merge."""
    return Lease(
        lease_id="l-1", type=kind, epoch=0, job=JOB, task=f"{JOB}/r0/merge/a0", kind=TaskKind.MERGE,
        deadline_at="2026-01-01T00:00:00Z", blobs=list(blobs),
    )  # fmt: skip


@pytest.mark.parametrize("size_bytes", [0, DELTA_BYTES - 1, DELTA_BYTES + 1, HUGE_BYTES])
@pytest.mark.parametrize("kind", [LeaseType.WORK, LeaseType.AUDIT, LeaseType.QUESTION])
def test_a_contribution_of_another_size_is_not_fetched(
    agent: Agent,
    client: CountingClient,
    holding: MakeHolding,
    kind: LeaseType,
    size_bytes: int,
) -> None:
    """Weights, outer state and contributions of a delta's size come; the odd one is only named to the worker."""
    odd, even = TaskId(round_task(JOB, 0, 0)), TaskId(round_task(JOB, 0, 1))
    wanted = [ref("theta", THETA_BYTES), ref("outer", DELTA_BYTES), ref(even, DELTA_BYTES)]
    held = holding(MODEL)
    unfetched = agent._bring_inputs(lease_of(ref(odd, size_bytes), *wanted, kind=kind), held)
    assert client.fetched == [blob.digest for blob in wanted]
    assert unfetched == {odd: Output("delta", digest(odd.encode()), size_bytes)}
    assert {path.name for path in held.blobs.iterdir()} == {blob.digest.removeprefix("sha256:") for blob in wanted}


@pytest.mark.parametrize(
    ("name", "size_bytes"),
    [("theta", HUGE_BYTES), ("theta", DELTA_BYTES), ("theta", 0), ("outer", HUGE_BYTES), ("outer", THETA_BYTES)],
)
@pytest.mark.parametrize("kind", [LeaseType.WORK, LeaseType.AUDIT, LeaseType.QUESTION])
def test_weights_or_outer_state_of_another_size_are_not_fetched(
    agent: Agent,
    client: CountingClient,
    holding: MakeHolding,
    kind: LeaseType,
    name: str,
    size_bytes: int,
) -> None:
    """A merger's word of its sizes is enough to refuse the task: not a byte comes, nor of what is beside."""
    right = {"theta": THETA_BYTES, "outer": DELTA_BYTES, round_task(JOB, 0, 1): DELTA_BYTES}
    blobs = [ref(item, size_bytes if item == name else right[item]) for item in right]
    with pytest.raises(JobFailed, match=f"{size_bytes:,} bytes") as refused:
        agent._bring_inputs(lease_of(*blobs, kind=kind), holding(MODEL))
    assert refused.value.detail == "wrong-size"
    assert client.fetched == []


def test_a_job_without_a_model_fetches_what_its_lease_names(
    agent: Agent, client: CountingClient, holding: MakeHolding
) -> None:
    """Where no worker has told the size of a delta, nothing can be judged by it."""
    blobs = [ref("theta", 5), ref(round_task(JOB, 0, 0), 7)]
    assert agent._bring_inputs(lease_of(*blobs), holding(None)) == {}
    assert client.fetched == [blob.digest for blob in blobs]
