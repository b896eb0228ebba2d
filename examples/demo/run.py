"""Two jobs, start to finish, among strangers of whom some lie; a receipt proves what came of each.

    make demo      or      python examples/demo/run.py

A private market is started beside any other of yours (data directory `demo/`, no profile).

1. `job.yaml` trains by a recipe of this package on six nodes of five operators. One honest node is killed with SIGKILL
   in mid-round, and `liar.py` skips work: two recomputations convict it, and an appeal says what becomes of its bond.
2. `examples/hello` trains by a recipe of its buyer's own, and another `liar.py` joins. There nobody is convicted: a
   program may behave otherwise on one machine, and its node would be none to blame. It is struck: what it did is done
   again, and it is not paid.

The market is stopped at the end; the receipts verify without it.
"""

from __future__ import annotations

import secrets
import shutil
import signal
import sys
import time
from collections.abc import Callable
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
OURS = HERE / "job.yaml"
OWN = HERE.parent / "hello" / "job.yaml"
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
LATECOMER = NodePlan("cinder", "chalk", 80_000, module=LIAR)  # joins for the second act, cheapest of all
# On one machine silence means death sooner than across the world: 30 s of it in place of 120.
# An appeal is heard within 10 s in place of a day. Fewer than three here had no part: the market computes the unit.
TIMING = ("suspect_s=20", "lost_s=30", "appeal_s=10")
BUDGET = "5.00"  # of each job: the dearest of these nodes asks more than hello expects
RULED_WITHIN_S = 60.0


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
            _introduce(market, plan, out)
        out.say("  a node not heard of for 30 s is lost here (120 s by default)")
        out.say("  every node: tier T0, software evidence, NOT hardware-attested")
        with Client.open(used) as client:
            out.say("")
            out.say("First act: code of this package, where a false result can be nobody's doing but its node's.")
            view = trained = _run(client, used.profile, OURS, Drama(market, out).watch, out)
            first = ending.conclude(client, view, out, keeps_results=False)
            out.say("")
            out.say("Second act: the buyer's own code, which might itself treat one machine unlike another.")
            market.ensure((LATECOMER,), profile="")
            _introduce(market, LATECOMER, out)
            view = _run(client, used.profile, OWN, lambda _: None, out)
            second = ending.conclude(client, view, out, keeps_results=False)
            out.say("")
            out.say(
                f"Behind the first act: what became of the bond disputed in {trained.id}, which no receipt waits for."
            )
            ruled = _tell_bonds(client, trained.id, out)
            return first or second or ruled
    finally:
        market.stop()
        out.say("The demo's market is stopped.")


def _introduce(market: LocalMarket, plan: NodePlan, out: Output) -> None:
    words = "  (it will cheat)" if plan.module == LIAR else "  (it will be killed)" if plan.name == DOOMED else ""
    price = f"{dollars(plan.ask_usd_micros_per_hour)}/h"
    out.say(f"  node   {_node_id(market, plan.name)}  {plan.name:<8}{plan.operator:<10}{price}{words}")


def _run(client: Client, known: Profile, job: Path, watch: Callable[[Turn], None], out: Output) -> JobView:
    prepared = submit.prepare(job, submit.Overrides(budget=BUDGET))
    submit.upload(client, prepared, lambda _: None)
    prepared = submit.solved(client, prepared)
    view = submit.submit(client, prepared.spec, known, buyer.root())
    share = prepared.spec.trust.audit_ppm / 10_000
    out.say(f"Job    {view.id}  audited {share:.0f} %, at most {dollars(view.escrow_usd_micros)}")
    follower = Follower(out)
    follower.since = follower.clock()
    for turn in client.follow(view.id):
        follower.show(turn)
        watch(turn)
        view = turn.view
    return view


def _tell_bonds(client: Client, job: str, out: Output) -> int:
    """Say what appeals have come to; return 1 if one is not decided in time, or nothing was disputed."""
    until, after, num_open, num_told = time.monotonic() + RULED_WITHIN_S, 0, 0, 0
    while time.monotonic() < until:
        page = client.events(job, after, 1.0)
        after = page.next
        for event in page.events:
            if event.type.startswith("bond."):
                out.say(f"  {event.type.partition('.')[2]:<10}{event.message}")
                num_open += {"bond.disputed": 1, "bond.forfeited": -1, "bond.released": -1}.get(event.type, 0)
                num_told += 1
        if not page.events and not num_open:
            break
    return 0 if num_told and not num_open else 1


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
