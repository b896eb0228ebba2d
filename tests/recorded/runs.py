"""The recorded runs, as data: who is there, what is ordered, what happens when; cast.py explains the deeds."""

from __future__ import annotations

from dataclasses import replace

from tests.recorded.cast import ENGINE_CLASS, Node, before, spec, train
from tests.recorded.stage import CHAIN, JobOrder, Run

from stannary.formats.predicates import Assurance

OURS = {"is_ours": True}  # where a recomputation convicts
OTHER_CLASS = ENGINE_CLASS.replace("toy1.0", "toy2.0")
THREE = (Node("n1"), Node("n2", ask=110_000), Node("n3", ask=120_000))
FOUR = (*THREE, Node("n4", ask=130_000))
FIVE = (*FOUR, Node("n5", ask=140_000))


def among(cast: tuple[Node, ...], **manners: str) -> tuple[Node, ...]:
    """Return nodes of whom some depart from honest work: `n1="work r0/* lies, question * silent"`."""
    return tuple(replace(item, manner=_manner(manners[item.name])) if item.name in manners else item for item in cast)


def _manner(text: str) -> tuple[tuple[str, str], ...]:
    rules = (rule.strip().rpartition(" ") for rule in text.split(","))
    return tuple((pattern, deed) for pattern, _, deed in rules)


def command(name: str, about: str, nodes: tuple[Node, ...], *happens: tuple[object, ...], **more: object) -> Run:
    """Return a run of one command."""
    order = JobOrder("job", spec(wall_s=more.pop("wall_s", 60)), chain=more.pop("chain", CHAIN))  # type: ignore[arg-type]
    return Run(name, about, nodes, (order,), happens, **more)  # type: ignore[arg-type]


def training(name: str, about: str, nodes: tuple[Node, ...], *happens: tuple[object, ...], **more: object) -> Run:
    """Return a run of one training of two rounds and two lanes."""
    shape = {"rounds": 2, "lanes": 2, **more.pop("shape", {})}  # type: ignore[dict-item]
    return Run(name, about, nodes, (JobOrder("job", train(**shape)),), happens, **more)  # type: ignore[arg-type]


HONEST = (
    command("command", "an honest command is recomputed and paid", THREE),
    Run(
        "command-on-three",
        "a command on three nodes: three tasks, three draws' worth of audits",
        FIVE,
        (JobOrder("job", spec(nodes=3)),),
    ),
    Run(
        "unasked",
        "verification none: the work is paid as it is, nobody draws or audits",
        THREE,
        (JobOrder("job", spec(nodes=2, verify="none")),),
    ),
    Run(
        "train",
        "an honest training of three rounds and lanes, every task drawn",
        FIVE,
        (JobOrder("job", train()),),
    ),
    Run(
        "train-partly-drawn",
        "two of five tasks are drawn, the others are passed over",
        FIVE,
        (JobOrder("job", train(rounds=2, audit_ppm=400_000, assurance=Assurance.SAMPLED)),),
    ),
)

WORDS = (
    Run(
        "sampled",
        "a training of which chance draws little: the last draw adds one of each operator, and the job waits for it",
        FIVE,
        (JobOrder("job", train(audit_ppm=20_000, wall_s=30, assurance=Assurance.SAMPLED, is_ours=True)),),
    ),
    Run(
        "sampled-command",
        "the same of a command on three nodes; in the buyer's own code each first unit has the rate of one",
        FIVE,
        (JobOrder("job", spec(nodes=3, audit_ppm=610_000, assurance=Assurance.SAMPLED)),),
    ),
    Run(
        "sampled-own-code",
        "a longer training in the buyer's own code: units are drawn the less the more pay stands behind them",
        FIVE,
        (JobOrder("job", train(rounds=6, audit_ppm=30_000, assurance=Assurance.SAMPLED)),),
    ),
    Run(
        "late-lie",
        "what the last draw adds is a lie: its round and all that stands on it are done again",
        among(FIVE, n1="work r?/l* lies"),
        (JobOrder("job", train(audit_ppm=20_000, wall_s=30, assurance=Assurance.SAMPLED, is_ours=True)),),
    ),
    Run(
        "late-and-gone",
        "a node is gone when the last draw adds its work: an auditor finds its root, and that is enough",
        among(FIVE, n1="question * silent"),
        (JobOrder("job", train(audit_ppm=20_000, wall_s=30, assurance=Assurance.SAMPLED, is_ours=True)),),
    ),
    Run(
        "full",
        "every unit of a buyer's own code is recomputed; one liar is struck, and loses no bond",
        among(FIVE, n1="work r0/* lies"),
        (JobOrder("job", train(rounds=2)),),
    ),
)

LIARS = (
    training(
        "liar-in-lane",
        "a lane's result is made up: two auditors convict it",
        among(FOUR, n1="work r0/* lies"),
        shape=OURS,
    ),
    training(
        "liar-in-merge",
        "a merge is made up: what stands on it is done again",
        among(FOUR, n1="work */merge/* lies"),
        shape=OURS,
    ),
    command(
        "liar-outvotes-nobody", "an auditor lies about honest work, and stands alone", among(FIVE, n2="audit * lies")
    ),
    command("auditor-guesses", "an auditor has the right root and a made-up state", among(FIVE, n2="audit * guesses")),
    command(
        "all-differ",
        "every auditor finds something else: nobody is convicted, and the work does not count",
        among(FIVE, **{f"n{i}": "audit * lies" for i in range(1, 6)}),
    ),
)

CANARIES = (
    Run(
        "canary",
        "one more auditor is asked where two agreed already, and agrees",
        FIVE,
        (JobOrder("canary-4", spec(nodes=3)),),
    ),
    Run(
        "canary-silent",
        "the auditor of a canary does not answer: the agreement stands",
        among(FIVE, n5="audit * silent"),
        (JobOrder("canary-4", spec(nodes=3)),),
    ),
    Run(
        "canary-lied-to",
        "the auditor of a canary lies: it is outvoted",
        among(FIVE, n5="audit * lies"),
        (JobOrder("canary-4", spec(nodes=3)),),
    ),
)

SILENT = (
    command(
        "prover-silent",
        "a prover commits to no answer; its auditor agrees: unverified, and another node does it again",
        among(FIVE, n1="question * silent"),
    ),
    command(
        "prover-silent-at-reveal",
        "a prover commits to its answer and does not open it",
        among(FIVE, n1="reveal * silent"),
    ),
    command(
        "silent-liar",
        "a prover who lied falls silent when drawn: two auditors agree without it",
        among(FIVE, n1="work * lies, question * silent"),
    ),
    command(
        "silent-liar-of-few",
        "the same where there is no second auditor: unverified",
        among(THREE[:2], n1="work * lies, question * silent"),
        timing={"stall_s": 3000.0},
    ),
    command(
        "auditors-silent",
        "the first two auditors in rank commit to nothing or open nothing: the next is asked",
        among(FIVE, n2="audit * silent", n3="reveal * silent", n4="audit * silent", n5="reveal * silent"),
    ),
    command(
        "no-auditor-left",
        "the only other operator's node does not audit: unverified, until nobody's work counts",
        among(THREE[:2], n1="audit * silent", n2="audit * silent"),
    ),
    command(
        "both-silent",
        "neither the prover nor the only auditor answers",
        among(THREE[:2], n1="question * silent", n2="audit * silent"),
        timing={"stall_s": 3000.0},
    ),
    command(
        "silent-but-for-one",
        "the prover is silent, and the first auditor, too, at the opening of its answer",
        among(FIVE, n1="question * silent", n2="reveal * silent", n3="reveal * silent", n4="reveal * silent"),
    ),
    command("auditor-hands-back", "an auditor hands its question back", among(THREE, n2="audit * back")),
    command("prover-hands-back", "a prover hands its question back", among(THREE, n1="question * back")),
    command(
        "auditor-fails", "an auditor reports that it cannot recompute", among(THREE, n2="audit * fails:out-of-memory")
    ),
    command("auditor-lost", "an auditor dies with its question", among(THREE, n2="audit * dies")),
    command("prover-lost", "a prover dies with its question", among(THREE, n1="question * dies")),
    command("auditor-revoked", "an auditor is revoked while it computes", THREE, (10, "is-revoked", "n2")),
    training(
        "round-useless",
        "nobody answers for any lane: the whole round is done again, four times",
        among(THREE, **{f"n{i}": "question * silent" for i in range(1, 4)}),
        shape={"rounds": 1},
        timing={"stall_s": 3000.0},
    ),
    training(
        "silent-in-lanes",
        "one node of a training answers for none of its work: its lanes are left out of their merges",
        among(FOUR, n2="question * silent"),
    ),
    command(
        "buyer-silent",
        "a buyer reveals nothing: what was committed to is paid unseen",
        THREE,
        (2, "falls-silent", "ada"),
    ),
    command(
        "buyer-late",
        "a buyer's value is on its way into the log when his time is over: no silence",
        THREE,
        broker=(("reveal 0", "crawls:70"),),
    ),
    training(
        "buyer-silent-in-the-middle",
        "a buyer falls silent in the second round, and is cancelled beside it",
        FOUR,
        (12, "falls-silent", "ada"),
        (20, "cancels", "job"),
    ),
    command(
        "beacon-exhausted",
        "the only beacon value is spent, and another attempt would need one",
        among(FIVE, n1="question * silent"),
        chain=1,
        spare_values=-1,
    ),
)

LEASES: tuple[Run, ...] = (
    command(
        "node-lost", "a node dies in mid-lease: another does its task in the next epoch", among(THREE, n1="work * dies")
    ),
    command(
        "node-revoked",
        "the operator revokes a node in mid-lease",
        among(THREE, n1="work * slow:50"),
        (20, "is-revoked", "n1"),
    ),
    command(
        "node-leaves",
        "a node that is stopped says so: its lease goes on at once",
        among(THREE, n1="work * slow:50"),
        (20, "leaves", "n1"),
    ),
    command("handed-back", "a node hands its lease back", among(THREE, n1="work * back")),
    command(
        "node-drains",
        "a node that drains gets no work and audits nothing",
        FIVE,
        (3, "drains", "n2"),
        (3, "drains", "n3"),
    ),
    training(
        "lease-over",
        "a task is not done by its deadline, and is when it is too late",
        tuple(reversed(among(FOUR, n1="work r0/l0/* slow:70"))),
    ),
    training(
        "lease-prolonged",
        "a task takes longer and says so: its lease goes on",
        among(FOUR, n1="work r0/l0/* talking:70"),
    ),
    training(
        "lane-late",
        "a lane nobody does in time is left out of its merge",
        among(FOUR, **{f"n{i}": "work r0/l3/* silent" for i in range(1, 6)}),
        shape={"rounds": 1, "lanes": 4},
    ),
    training(
        "mute", "a node commits to its work and never opens it, over and over", among(FOUR, n2="work r0/l1/* mute")
    ),
    training(
        "clock-set",
        "the market's clock is set forth an hour in mid-round: nobody is late",
        FOUR,
        (4, "clock-is-set", 3600),
    ),
)

MORE_LEASES = (
    training(
        "convicted-at-work",
        "a node is convicted while it holds another lease: that one is revoked",
        among(FOUR, n1="work r0/* lies, work r1/* slow:30"),
        shape=OURS,
    ),
    command(
        "lease-at-its-limit",
        "a node says for ever that it is busy: its lease ends all the same",
        among(THREE, n1="work * talking:1400"),
        timing={"stall_s": 9000.0, "sweep_s": 60.0},
        wall_s=1,
    ),
    command(
        "credentials-over",
        "the nodes' credentials end in mid-lease: nothing more is taken of them",
        THREE,
        (3, "clock-is-set", 91 * 86_400),
    ),
    command(
        "lease-lost-on-the-way",
        "a node commits, vanishes, and comes back with its result too late",
        among(THREE, n1="work * e1 mute"),
        (6.5, "vanishes", "n1"),
        (200, "returns", "n1"),
    ),
)

FAILURES = (
    command(
        "three-say-so",
        "three operators report that a command cannot run: it has failed",
        among(FIVE, n1="work * fails:exit-code", n2="work * fails:exit-code", n3="work * fails:exit-code"),
        timing={"stall_s": 3000.0},
    ),
    command(
        "one-says-so", "one operator reports a failure, another does the work", among(FIVE, n1="work * fails:exit-code")
    ),
    command(
        "two-of-two-say-so",
        "two operators report a failure and nobody else could try",
        among(THREE[:2], n1="work * fails:exit-code", n2="work * fails:exit-code"),
        timing={"stall_s": 3000.0},
    ),
    command(
        "words-of-the-market",
        "a node reports a reason that is the market's to say",
        among(THREE[:2], n1="work * fails:buyer-silent", n2="work * fails:cancelled"),
        timing={"stall_s": 3000.0},
    ),
)

ENDS = (
    command(
        "cancelled-in-the-queue",
        "a job is cancelled before there was room for it",
        THREE,
        (1, "leaves", "n1"),
        (1, "leaves", "n2"),
        (1, "leaves", "n3"),
        (5, "cancels", "job"),
    ),
    training("cancelled-in-a-round", "a job is cancelled while its lanes are worked on", FOUR, (4, "cancels", "job")),
    training(
        "cancelled-in-audits",
        "a job is cancelled while audits are open: they go to their end",
        FOUR,
        (9.5, "cancels", "job"),
    ),
    command(
        "no-capacity",
        "a job that finds no node in its time ends",
        THREE,
        (1, "leaves", "n1"),
        (1, "leaves", "n2"),
        (1, "leaves", "n3"),
    ),
    command(
        "placed-later",
        "a queued job is placed when nodes join",
        (*THREE, Node("n4", ask=90_000)),
        (1, "leaves", "n1"),
        (1, "leaves", "n2"),
        (1, "leaves", "n3"),
        (20, "returns", "n3"),
        (25, "joins", "n4"),
    ),
    command(
        "deserted",
        "its nodes are gone and nobody takes its work",
        THREE,
        (2, "vanishes", "n1"),
        (2, "vanishes", "n2"),
        (2, "vanishes", "n3"),
    ),
    command(
        "stalled",
        "every node sits on its leases",
        among(THREE, n1="work * silent", n2="work * silent", n3="work * silent"),
        timing={"stall_s": 10.0},
        wall_s=1,
    ),
    command(
        "stalled-twice",
        "a job stalls, and its end does too: it is concluded from what is there",
        THREE,
        (2, "falls-silent", "ada"),
        timing={"stall_s": 20.0, "reveal_s": 100_000.0},
        wall_s=1,
    ),
    command(
        "useless",
        "a command whose every attempt is unverified ends",
        among(FIVE, **{f"n{i}": "question * silent" for i in range(1, 6)}),
    ),
    command(
        "receipt-unmade",
        "the market cannot read a statement of a job: it is the market's fault, all is refunded",
        THREE,
        (3, "is-damaged", "job", "placement"),
    ),
    command(
        "order-unreadable-in-audits",
        "the same while an audit is open",
        THREE,
        (9, "is-damaged", "job", "job"),
        (10, "restarts"),
    ),
    command(
        "order-unreadable",
        "the market cannot read an order when it starts again",
        THREE,
        (3, "is-damaged", "job", "job"),
        (4, "restarts"),
    ),
)

CROSSINGS = (
    command(
        "killed",
        "the market is killed between the log and the record of every kind of statement",
        among(
            THREE,
            n1="commitment * killed, contribution * killed, answer-commitment * killed, answer * killed",
            n2="answer-commitment * killed, answer * killed",
        ),
        broker=(("reveal *", "killed"),),
    ),
    command(
        "killed-at-the-receipt",
        "the market is killed when the receipt is signed and the money moved, and the file is not there",
        THREE,
        (9, "will-be-killed-at", "receipt"),
    ),
    training(
        "restarted",
        "the market is restarted in the middle of a round and of its audits",
        FOUR,
        (4, "restarts"),
        (9.5, "restarts"),
        (15, "restarts"),
    ),
    training(
        "down-for-long",
        "the market is down for ten minutes: its own absence is nobody's silence",
        FOUR,
        (9.5, "goes-down"),
        (610, "comes-back"),
    ),
    training(
        "answering",
        "a contribution is in the log and not recorded when its round is made void: it is taken and judged",
        among(FOUR, n1="work r0/l0/* lies", n2="contribution r1/l1/a0* crawls:15"),
        shape=OURS,
    ),
    training(
        "answering-at-the-deadline",
        "a commitment is in the log and not recorded when its lease is over",
        among(FOUR, n2="work r0/l1/* slow:58, commitment r0/l1/* crawls:20"),
    ),
    training(
        "answering-at-the-end",
        "a commitment is in the log and not recorded when its job is cancelled",
        among(FOUR, n2="commitment r0/l1/* crawls:5"),
        (8, "cancels", "job"),
    ),
)

COMPANY = (
    Run(
        "two-jobs",
        "two trainings of two buyers share their nodes",
        FIVE,
        (JobOrder("one", train(rounds=2, lanes=2)), JobOrder("two", train(rounds=2, lanes=2), at_s=2, buyer="bob")),
    ),
    Run(
        "bond-once",
        "a node lies in two jobs at once: nothing of it is taken twice",
        among(FIVE, n1="work run/* lies"),
        (JobOrder("one", spec()), JobOrder("two", spec(), at_s=6.5, buyer="bob")),
    ),
    Run(
        "bonds-too-small",
        "a convicted node's bond does not cover what its lie cost",
        among((replace(FIVE[0], bond=100), *FIVE[1:]), n1="work r0/* lies"),
        (JobOrder("job", train(rounds=2, lanes=2, is_ours=True)),),
    ),
    Run(
        "masks",
        "nodes of another class, operator, region or price are not asked",
        (
            *FIVE,
            Node("n6", engine_class=OTHER_CLASS),
            Node("n7", jurisdiction="elsewhere"),
            Node("n8", operator="op-out"),
            Node("n9", ask=900_000),
        ),
        (JobOrder("job", spec(nodes=2, regions=("none",), exclude_operators=("op-out",))),),
    ),
    Run(
        "one-operator",
        "nodes of one operator audit nobody of their own",
        (Node("n1", operator="op-a"), Node("n2", operator="op-a"), Node("n3", operator="op-b", ask=150_000)),
        (JobOrder("job", spec()),),
    ),
    Run(
        "one-after-another",
        "more jobs than there is room for: buyers in turn",
        THREE,
        tuple(
            JobOrder(f"j{i}", spec(nodes=3 if i % 2 else 2), at_s=1 + i / 10, buyer="ada" if i < 3 else "bob")
            for i in range(5)
        ),
    ),
)

EITHER = (
    *HONEST,
    *LIARS,
    *CANARIES,
    *SILENT,
    *LEASES,
    *MORE_LEASES,
    *FAILURES,
    *ENDS,
    *CROSSINGS,
    *COMPANY,
)


def _before(run: Run) -> Run:
    """Return a run as one of an earlier release: what it took is brought to its end under rules 2, for ever."""
    orders = tuple(replace(item, spec=before(item.spec)) for item in run.orders)
    return replace(run, name=f"rules-2/{run.name}", orders=orders)


RUNS: tuple[Run, ...] = (*EITHER, *WORDS, *map(_before, EITHER))
