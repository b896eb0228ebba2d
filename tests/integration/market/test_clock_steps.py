"""A clock that is set in the middle of a job, on the market's machine or on all of them: receipts still verify."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from tests.integration.market import world as worlds
from tests.integration.market.fake_buyer import train_spec
from tests.integration.market.fake_node import FakeNode
from tests.integration.market.quiet import QuietClock

from stannary import errors
from stannary.formats import note
from stannary.market.http import server
from stannary.tlog.witness import Witness, format_request, load_key
from stannary.verify import receipt as verifier
from stannary.verify.trust import TrustStore, pin
from stannary.wire import node

HOUR_S = 3600.0
LOOK_S = 0.2


class Stepped:
    """A view of a quiet clock that can be set."""

    def __init__(self, clock: QuietClock) -> None:
        self._clock = clock
        self.step_s = 0.0

    def now(self) -> float:
        """Return the time as it is set."""
        return self._clock.now() + self.step_s

    def steady(self) -> float:
        """Return seconds that nobody sets."""
        return self._clock.now()

    async def sleep(self, seconds: float) -> None:
        """Sleep by the clock behind."""
        await self._clock.sleep(seconds)


class WitnessBeside:
    """The witness on the market's machine, in this process: it sees the same clock."""

    machine: Any = None
    beside: Any = None

    def __init__(self, directory: Path, log_vkey: str) -> None:
        directory.mkdir()
        self._origin = note.parse_vkey(log_vkey).name
        key, logs = load_key(directory / "key"), [note.parse_vkey(log_vkey)]
        self._witness = Witness(directory, "local.witness", key, logs, self.machine.now, self.machine.steady)
        self.vkey = self._witness.vkey
        WitnessBeside.beside = self

    async def watch(self, clock: QuietClock) -> None:
        """Look at the clock now and then, as the process does."""
        while True:
            self._witness.look_at_clock()
            await clock.sleep(LOOK_S / 4)

    def __call__(self, signed: str, _size: int, consistency: Any) -> list[str]:
        """Cosign."""
        old = self._witness.held(self._origin).size
        return [self._witness.add_checkpoint(format_request(old, consistency(old), signed)).body]

    def stop(self) -> None:
        """Nothing runs."""


@pytest.fixture
def stepping_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let markets and their witnesses live by WitnessBeside.machine, a clock that steps."""
    opened = server.opened

    def stepping(settings: Any, clock: QuietClock) -> Any:
        WitnessBeside.machine = machine = Stepped(clock)
        return opened(settings, machine)

    monkeypatch.setattr(worlds.server, "opened", stepping)
    monkeypatch.setattr(server, "WitnessProcess", WitnessBeside)


@pytest.mark.usefixtures("stepping_clock")
@pytest.mark.parametrize("step_s", [-HOUR_S, HOUR_S], ids=["back", "forth"])
@pytest.mark.parametrize("everywhere", [True, False], ids=["one machine", "the market's alone"])
def test_a_clock_step_refutes_no_honest_receipt(tmp_path: Path, step_s: float, everywhere: bool) -> None:
    """An hour forth or back in mid-job, and half-way back again: the job is verified and paid."""

    async def scenario() -> None:
        async with worlds.inside(tmp_path) as world:
            machine = WitnessBeside.machine
            plain = world.clock
            world.clock = machine if everywhere else plain
            for operator in ("north", "south", "east"):
                await world.node(operator)
            world.start(WitnessBeside.beside.watch(plain))
            ada = await world.buyer()
            job = (await ada.submit(train_spec(rounds=3))).id
            world.start(ada.broker(job))
            await seen(ada, job, "task.contributed")
            machine.step_s = step_s
            await plain.sleep(LOOK_S)  # as long as it takes until all on the machine have seen it
            await seen(ada, job, "job.round", "task.verified")
            machine.step_s = step_s / 2
            view = await ada.finished(job, 60.0)
            trust = TrustStore(()).with_market(pin(world.vkey, world.witness_vkeys))
            report = verifier.verify_receipt(await ada.receipt(job), trust, int(plain.now() + 2 * HOUR_S))
            assert [item for item in report.findings if item.severity == "refuted"] == []
            assert (view.status, report.verdict) == ("succeeded", "verified"), f"{view.reason}: {view.message}"

    asyncio.run(scenario())


@pytest.mark.usefixtures("stepping_clock")
def test_a_clock_set_forth_makes_nobody_late(tmp_path: Path) -> None:
    """A day forth while nodes work and a buyer owes his value: no lease ends, no node is lost, nobody is silent."""

    async def scenario() -> None:
        async with worlds.inside(tmp_path) as world:
            machine = world.clock = WitnessBeside.machine
            for operator in ("north", "south", "east"):
                await world.node(operator)
            ada = await world.buyer()
            job = (await ada.submit(train_spec(rounds=1))).id
            await seen(ada, job, "lease.granted")
            machine.step_s = HOUR_S
            await seen(ada, job, "beacon.requested")
            machine.step_s = 24 * HOUR_S
            await machine.sleep(10.0)  # every engine has looked
            world.start(ada.broker(job))
            view = await ada.finished(job, 60.0)
            assert view.status == "succeeded", f"{view.reason}: {view.message}"
            late = [item.message for item in await ada.events(job) if item.type.startswith(("lease.expired", "node."))]
            assert late == []

    asyncio.run(scenario())


async def seen(buyer: Any, job: str, *types: str) -> None:
    """Return once something of these types has happened to a job, or it has ended."""
    for _ in range(2000):
        found = {event.type for event in await buyer.events(job)}
        if any(item.startswith(types) for item in found) or any("succeeded" in item for item in found):
            return
        await buyer.clock.sleep(0.05)
    raise AssertionError(await buyer.events(job))


def test_a_node_and_a_buyer_are_told_how_far_their_clocks_are_off(tmp_path: Path) -> None:
    """A join and an order by a clock 412 s slow are refused in these words; a beat brings the market's time."""

    async def scenario() -> None:
        async with worlds.inside(tmp_path, witness=False) as world:
            slow = Stepped(world.clock)  # type: ignore[arg-type]  # a quiet clock
            slow.step_s = -412.0
            late = FakeNode(world.url, "north", transport=world.transport, clock=slow)
            with pytest.raises(errors.FormatError, match=r"your clock is 41[23] s behind the market's"):
                await late.join(await world.join_token("north"))
            ada = await world.buyer()
            ada.clock = slow
            with pytest.raises(errors.FormatError, match=r"your clock is 41[23] s behind the market's"):
                await ada.submit(train_spec())
            honest = await world.node("south", run=False)
            response = await honest.call(
                "/v1/heartbeat", node.Heartbeat(state=node.NodeState.IDLE, leases=[], version="x")
            )
            assert node.HeartbeatAnswer.model_validate_json(response.content).now is not None

    asyncio.run(scenario())
