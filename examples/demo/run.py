"""The main job, start to finish: six nodes of five operators, one is killed, one lies; a receipt proves it.

    make demo      or      python examples/demo/run.py

A private market is started beside any other of yours (data directory `demo/`, no profile), the job of
`examples/demo/job.yaml` is run on it, one honest node is killed with SIGKILL in mid-round, and
`liar.py` skips work. The market is stopped at the end; the receipt verifies without it.
"""

from __future__ import annotations

import secrets
import shutil
import signal
import sys
from pathlib import Path

from stannary import buyer, files
from stannary.cli import ending
from stannary.cli.follow import Follower
from stannary.cli.output import Output
from stannary.errors import StannaryError
from stannary.formats import canonical
from stannary.formats.quantity import dollars
from stannary.sdk import submit
from stannary.sdk.client import Client, Turn
from stannary.sdk.local import LocalMarket, NodePlan
from stannary.sdk.profile import Profile
from stannary.wire.buyer import JobView

HERE = Path(__file__).resolve().parent
LIAR = (str(HERE / "liar.py"),)
KILL_IN_ROUND = 2

# Placement takes the four cheapest: the liar among them. The two others audit and take over.
NODES = (
    NodePlan("quarry", "basalt", 100_000),
    NodePlan("spring", "dolomite", 100_000),
    NodePlan("mirage", "mica", 90_000, module=LIAR),
    NodePlan("anvil", "granite", 100_000),
    NodePlan("beacon", "shale", 110_000),
    NodePlan("spare", "basalt", 120_000),
)
DOOMED = "anvil"
# On one machine silence means death sooner than across the world: 30 s of it in place of 120.
TIMING = ("suspect_s=20", "lost_s=30")


class Drama:
    """Kills one node in the middle of a round, once."""

    def __init__(self, market: LocalMarket, out: Output) -> None:
        self.market = market
        self.out = out
        self.node_id = _node_id(market, DOOMED)
        self.is_done = False

    def watch(self, turn: Turn) -> None:
        """Kill as soon as the node holds a task of the round."""
        for event in turn.events:
            if self.is_done or event.type != "lease.granted" or event.node != self.node_id or event.task is None:
                continue
            if f"/r{KILL_IN_ROUND}/l" in event.task:
                started = self.market.register.find(DOOMED)
                if started is not None:
                    self.market.register.kill(started)
                    self.out.say(
                        f"  x {'kill -9':<10}{DOOMED} ({self.node_id}), pid {started.pid}, working on {event.task}"
                    )
                    self.is_done = True


def main() -> int:
    """Run the demo and return the exit code."""
    out = Output()
    name = f"demo-{secrets.token_hex(4)}"
    root = files.data_dir() / "demo"
    _forget_old(root)
    market = LocalMarket(root / name, name=f"{name}.market", timing=TIMING)
    try:
        out.say("Starting a private market with six nodes of five operators on this machine ...")
        used = market.ensure(NODES, profile="")
        for plan in NODES:
            words = (
                "  (it will cheat)" if plan.module == LIAR else "  (it will be killed)" if plan.name == DOOMED else ""
            )
            price = f"{dollars(plan.ask_usd_micros_per_hour)}/h"
            out.say(f"  node   {_node_id(market, plan.name)}  {plan.name:<8}{plan.operator:<10}{price}{words}")
        out.say("  a node not heard of for 30 s is lost here (120 s by default)")
        out.say("  every node: tier T0, software evidence, NOT hardware-attested")
        with Client.open(used) as client:
            view = _run(client, used.profile, Drama(market, out), out)
            return ending.conclude(client, view, out, keeps_results=False)
    finally:
        market.stop()
        out.say("The demo's market is stopped.")


def _run(client: Client, known: Profile, drama: Drama, out: Output) -> JobView:
    prepared = submit.prepare(HERE / "job.yaml", submit.Overrides())
    submit.upload(client, prepared, lambda _: None)
    prepared = submit.solved(client, prepared)
    view = submit.submit(client, prepared.spec, known, buyer.root())
    share = prepared.spec.trust.audit_ppm / 10_000
    out.say(f"Job    {view.id}  audited {share:.0f} %, at most {dollars(view.escrow_usd_micros)}")
    follower = Follower(out)
    follower.since = follower.clock()
    for turn in client.follow(view.id):
        follower.show(turn)
        drama.watch(turn)
        view = turn.view
    return view


def _node_id(market: LocalMarket, name: str) -> str:
    path = market.directory / "nodes" / name / "node.json"
    return str(canonical.decode_object(path.read_bytes())["node"])


def _forget_old(root: Path) -> None:
    """Remove what earlier demos left, unless one still runs."""
    for place in sorted(root.glob("demo-*")):
        if not LocalMarket(place).register.all():
            LocalMarket(place).stop()  # a broker may wait for a market that was killed
            shutil.rmtree(place)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ended from outside, it still stops its processes
    try:
        sys.exit(main())
    except StannaryError as error:
        Output().error(error)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.exit(130)
