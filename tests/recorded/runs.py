"""The recorded runs, as data: who is there, what is ordered, what happens when; cast.py explains the deeds."""

from __future__ import annotations

from dataclasses import replace

from tests.recorded.cast import ENGINE_CLASS, Node, spec, train
from tests.recorded.stage import Order, Run

OTHER_CLASS = ENGINE_CLASS.replace("toy1.0", "toy2.0")
THREE = (Node("n1"), Node("n2", ask=110_000), Node("n3", ask=120_000))
FIVE = (*THREE, Node("n4", ask=130_000), Node("n5", ask=140_000))


def among(cast: tuple[Node, ...], **manners: str) -> tuple[Node, ...]:
    """Return nodes of whom some depart from honest work: `n1="work r0/* lies, question * silent"`."""
    return tuple(replace(item, manner=_manner(manners[item.name])) if item.name in manners else item for item in cast)


def _manner(text: str) -> tuple[tuple[str, str], ...]:
    rules = (rule.strip().rpartition(" ") for rule in text.split(","))
    return tuple((pattern, deed) for pattern, _, deed in rules)


def command(name: str, about: str, nodes: tuple[Node, ...], *happens: tuple[object, ...], **more: object) -> Run:
    """Return a run of one command."""
    return Run(name, about, nodes, (Order("job", spec()),), happens, **more)  # type: ignore[arg-type]


def training(name: str, about: str, nodes: tuple[Node, ...], *happens: tuple[object, ...], **more: object) -> Run:
    """Return a run of one training of two rounds and three lanes."""
    return Run(name, about, nodes, (Order("job", train(rounds=2)),), happens, **more)  # type: ignore[arg-type]


HONEST = (
    command("command", "an honest command is recomputed and paid", THREE),
    Run(
        "command-on-three",
        "a command on three nodes: three tasks, three draws' worth of audits",
        FIVE,
        (Order("job", spec(nodes=3)),),
    ),
    Run(
        "unasked",
        "verification none: the work is paid as it is, nobody draws or audits",
        THREE,
        (Order("job", spec(nodes=2, verify="none")),),
    ),
    Run(
        "train",
        "an honest training of three rounds and lanes, every task drawn",
        FIVE,
        (Order("job", train()),),
    ),
    Run(
        "train-partly-drawn",
        "two of five tasks are drawn, the others are passed over",
        FIVE,
        (Order("job", train(audit_ppm=400_000)),),
    ),
)

LIARS = (
    training("liar-in-lane", "a lane's result is made up: two auditors convict it", among(FIVE, n1="work r0/* lies")),
    training(
        "liar-in-merge", "a merge is made up: what stands on it is done again", among(FIVE, n1="work */merge/* lies")
    ),
    command(
        "liar-outvotes-nobody", "an auditor lies about honest work and is convicted", among(FIVE, n2="audit * lies")
    ),
    command("auditor-guesses", "an auditor has the right root and a made-up state", among(FIVE, n2="audit * guesses")),
    command(
        "all-differ",
        "every auditor finds something else: nobody is convicted, and after four tries the work does not count",
        among(FIVE, **{f"n{i}": "audit * lies" for i in range(1, 6)}),
    ),
)

RUNS: tuple[Run, ...] = (*HONEST, *LIARS)
