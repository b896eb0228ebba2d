"""Buyers against the rules: programs that look at the clock, toss a coin or know a machine, and ways not to pay.

A buyer sees what his client shows him: outputs that were handed in, judged or not, who did what, and what it cost. He
writes the program, signs the job, stops it, and runs the broker.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tests.simulator.strategies.epoch import SAMPLED_PPM, Epoch, Program, Run
from tests.simulator.strategies.strategy import Outcome, Setting, Strategy, lived, order_of, seats

from stannary.formats.jobspec import JobKind

FULL_PPM = 1_000_000
JOBS = {
    "kind": ("command", "train"),
    "lanes": (1, 2, 3),
    "rounds": (1, 2),
    "audit_ppm": (SAMPLED_PPM, 250_000, FULL_PPM),
}
TIMES_S = (10.0, 30.0, 50.0, 65.0, 80.0, 100.0, 130.0, 180.0, 260.0, 400.0)


@dataclass(frozen=True, slots=True)
class Trick(Program):
    """A program that does what its setting says."""

    setting: Setting

    def word(self, run: Run) -> str:
        """Make another result at another time, on another machine, or by chance."""
        said: Any = self.setting.get
        if run.round < said("from_round", 0):
            return ""
        if "until_s" in self.setting and run.at_s >= self.setting["until_s"]:
            return "too late" if said("is_steady") else f"at {run.at_s}"
        if run.node in said("victims", ()) and run.chance.random() < said("share", 1.0):
            return f"on {run.node}"
        if "coin" in self.setting and run.chance.random() < self.setting["coin"]:
            return "heads" if said("is_steady") else f"heads {run.chance.random()}"
        return ""

    def slowness(self, run: Run) -> float:
        """Take longer in one round or lane, or before an hour, than in another."""
        said: Any = self.setting.get
        is_late = run.at_s >= said("slow_until_s", 0.0)
        return self.useful(run) * (1.0 if is_late else float(self.setting["slow"]))

    def useful(self, run: Run) -> float:
        """Need more in one round or lane than in another."""
        if run.round == 0 and run.lane == 0 and "first" in self.setting:
            return float(self.setting["first"])
        return float(self.setting.get("later", 1.0))

    def ended(self, run: Run) -> str | None:
        """Fail in the end, with the work done."""
        if run.at_s < self.setting.get("fails_from_s", 0.0):
            return None
        if "fails" in self.setting and run.chance.random() < self.setting["fails"]:
            return str(self.setting["code"])
        return None


def tricking(setting: Setting, seed: int, is_honest: bool = False) -> Epoch:
    """Return an epoch of one buyer's job among honest nodes."""
    order = order_of(setting.get("kind", "command"), lanes=setting.get("lanes", 2), rounds=setting.get("rounds", 1))
    made = Epoch(
        seed=seed, seats=seats(), kind=order.kind, settings=order.settings,
        program=Program() if is_honest else Trick(setting), audit_ppm=setting.get("audit_ppm", SAMPLED_PPM),
    )  # fmt: skip
    if "reveals" in setting and not is_honest:
        made.reveals_until = setting["reveals"]
    if "stops_at" in setting and not is_honest:
        made.cancelled_at_s = setting["stops_at"] * expected_s(made)
    return made


def expected_s(epoch: Epoch) -> float:
    """Return how long the first unit takes, as its buyer knows."""
    steps = 1 if epoch.kind is JobKind.COMMAND else epoch.settings.inner_steps[0]
    return steps * epoch.step_ms / 1000


def play(setting: Setting, seed: int, is_honest: bool) -> Outcome:
    """Play one buyer."""
    return lived(tricking(setting, seed, is_honest), [], is_buyer=True)


STRATEGIES = (
    Strategy(
        "clock-watching buyer",
        "his program makes something else from an hour on, and may be slow before another: what others recompute then "
        "differs, or is quicker done",
        {**JOBS, "until_s": (*TIMES_S, 10**6), "is_steady": (True, False), "slow_until_s": (0.0, 40.0, 90.0),
         "slow": (3.0,)},
        play,
        is_buyer=True,
    ),
    Strategy(
        "coin-flipping buyer",
        "his program now and then makes something else, the same or another each time",
        {**JOBS, "coin": (0.01, 0.05, 0.1, 0.2, 0.35, 0.5, 0.8), "is_steady": (True, False), "from_round": (0, 1)},
        play,
        is_buyer=True,
    ),
    Strategy(
        "machine-aiming buyer",
        "his program makes something else on machines he knows, always or sometimes",
        {**JOBS, "victims": (("n0",), ("n1",), ("n0", "n1"), ("n4",), ("n0", "n4"), ("n5", "n6", "n7")),
         "share": (0.3, 0.7, 1.0), "from_round": (0, 1)},
        play,
        is_buyer=True,
    ),
    Strategy(
        "always-failing buyer",
        "his program prints its result and then fails, always, by chance, or from an hour on",
        {**JOBS, "kind": ("command",), "rounds": (1,), "fails": (0.1, 0.5, 0.9, 1.0),
         "fails_from_s": (0.0, 65.0, 110.0), "code": ("exit-1", "signal-9", "signal-11")},
        play,
        is_buyer=True,
    ),
    Strategy(
        "stop-at-99 % buyer",
        "stops his job shortly before, or shortly after, its work is done",
        {**JOBS, "stops_at": (0.3, 0.6, 0.8, 0.9, 0.95, 0.99, 1.03, 1.1, 1.2, 1.3, 1.5, 2.0, 2.5, 3.0, 4.0)},
        play,
        is_buyer=True,
    ),
    Strategy(
        "cheap-first-round buyer",
        "the first unit of his job takes little, all others much more",
        {**JOBS, "lanes": (2, 3), "first": (0.01, 0.05, 0.2, 0.5, 0.8), "later": (1.0, 1.5, 2.0, 3.0)},
        play,
        is_buyer=True,
    ),
    Strategy(
        "silent-broker buyer",
        "his broker reveals some beacon values and then no more, perhaps of a program that looks at the clock",
        {**JOBS, "reveals": (0, 1, 2, 3, 4, 6), "until_s": (10**6, 100.0), "is_steady": (True, False)},
        play,
        is_buyer=True,
    ),
)  # fmt: skip
