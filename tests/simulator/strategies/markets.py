"""A lying market: it signs whatever it likes, with its own keys, for two friends among its operators.

What its verifier refutes pays nobody. What passes is counted by the lines of the receipt as they stand.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from tests.simulator.strategies.epoch import Epoch
from tests.simulator.strategies.leagues import league_of
from tests.simulator.strategies.nodes import SHARES
from tests.simulator.strategies.strategy import (
    COST_PPM,
    OPERATORS,
    Outcome,
    Setting,
    Strategy,
    order_of,
    outcome,
    seats,
)

from stannary.formats.predicates import SettlementLine, Verdict
from stannary.verify.receipt import verify_receipt
from stannary.verify.report import Severity

FRIENDS = (0, 1)


def lie(epoch: Epoch, setting: Setting) -> None:
    """Tell the market what to sign otherwise."""
    size, friends = setting["size"], [OPERATORS[at] for at in FRIENDS]
    first = next(iter(epoch.seats.values()))

    def of_first(said: Any, **change: Any) -> Any:
        return replace(said, **change) if said.node == first.id else said

    def dearer(said: Any) -> Any:
        return of_first(said, ask_usd_micros_per_hour=int(said.ask_usd_micros_per_hour * (1 + size)))

    def lines(said: Any, change: Any) -> Any:
        return replace(said, settlement=tuple(change(line) for line in said.settlement))

    def overpaid(line: SettlementLine) -> SettlementLine:
        is_mine = line.account == f"operator:{friends[0]}"
        return replace(line, usd_micros=int(line.usd_micros * (1 + size))) if is_mine else line

    def diverted(line: SettlementLine) -> SettlementLine:
        is_other = line.account.startswith("operator:") and line.account.partition(":")[2] not in friends
        return replace(line, account=f"operator:{friends[0]}") if is_other else line

    def one_less(said: Any) -> Any:
        return replace(said, drawable=said.drawable[1:]) if said.drawable[1:] else said

    def unpaid(said: Any) -> Any:
        if epoch.seats[said.node].operator in friends:
            return said
        return replace(said, verdict=Verdict.UNVERIFIED)

    def never_audited(said: Any) -> Any:
        return replace(said, verdict=Verdict.VERIFIED, reason="agreed", odd=() if said.odd is not None else None)

    bends: dict[str, dict[str, Any]] = {
        "credits its friend with a higher price": {"credential": dearer},
        "pays its friend more than it is owed": {"receipt": lambda said: lines(said, overpaid)},
        "pays its friend what others are owed": {"receipt": lambda said: lines(said, diverted)},
        "keeps a commitment out of its draw": {"draw": one_less},
        "calls others' work unverified": {"verdict": unpaid},
        "calls its friends' lies verified": {"verdict": never_audited},
        "withholds silences": {"silence": lambda said: None},
    }
    epoch.bend.update(bends.get(setting["lie"], {}))
    if setting["lie"] == HIDES:
        epoch.hides_all_but = {epoch.seats[seat.id].id for seat in epoch.seats.values() if seat.operator in friends}


HIDES = "hides who does not work from the candidates"
LIES = (
    "credits its friend with a higher price",
    "pays its friend more than it is owed",
    "pays its friend what others are owed",
    HIDES,
    "keeps a commitment out of its draw",
    "calls others' work unverified",
    "calls its friends' lies verified",
    "withholds silences",
)


def passes(epoch: Epoch) -> tuple[SettlementLine, ...] | None:
    """Return the lines of a receipt that its verifier does not refute, None of one that it does."""
    report = verify_receipt(epoch.receipt(), epoch.trust(), epoch.now)
    if report.claims is None or any(item.severity is Severity.REFUTED for item in report.findings):
        return None
    return report.claims.receipt.settlement


def play(setting: Setting, seed: int, is_honest: bool) -> Outcome:
    """Play a market with two friends, who make units up and confirm one another's."""
    order, mine = order_of(setting["kind"], lanes=setting["lanes"]), [OPERATORS[at] for at in FRIENDS]
    made = Epoch(
        seed=seed, seats=seats(league_of(setting, FRIENDS, is_honest)), kind=order.kind, settings=order.settings,
        is_signed=not is_honest,
    )  # fmt: skip
    if not is_honest:
        lie(made, setting)
    made.live()
    books = made.books()
    if is_honest:
        return outcome(books, mine)
    lines = passes(made)
    cost = sum(books.accounts[name].worked for name in mine) * COST_PPM / 1_000_000
    if lines is None:  # nobody takes it: the buyer has his money back, and nobody is paid
        return Outcome(-cost, 0, 0, 0, 0)
    paid = sum(line.usd_micros for line in lines if line.account in [f"operator:{name}" for name in mine])
    return replace(outcome(books, mine), profit=paid - cost)


STRATEGIES = (
    Strategy(
        "lying market",
        "signs whatever it likes for two friends of its, who make units up; what its verifier refutes pays nobody",
        {"lie": LIES, "size": (0.05, 0.5, 1.0, 3.0), "fakes": (0.0, *SHARES), "kind": ("command", "train", "ours"),
         "lanes": (1, 2, 3)},
        play,
        ("kind", "lanes"),
    ),
)  # fmt: skip
