"""The market takes nothing its verifier would refute: each finding about a stranger's statement has its refusal.

The findings are read from the verifier's source, so that a new one must say here how the door keeps it out. What the
market states itself has no door; its own tests and the fuzzed jobs (tests/integration/market) hold it.
"""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from stannary import verify

ROOT = Path(__file__).parents[3]
ATTACKS = "tests/integration/attacks/test_messages.py"
FUZZED = "tests/integration/market/test_fuzzed_statements.py"
BUYERS = "tests/integration/attacks/test_buyer_messages.py"
RACES = "tests/integration/market/test_races.py"
CLOCK = "tests/unit/market/test_clock.py"
INTAKE = "src/stannary/market/intake/statements.py"
WORK = "src/stannary/market/intake/work.py"
ANSWERS = "src/stannary/market/intake/answers.py"
REVEALS = "src/stannary/market/intake/reveals.py"
ADMISSION = "src/stannary/market/intake/admission.py"
JOINING = "src/stannary/market/intake/joining.py"

# finding -> (where the door refuses what would raise it, a word that stands there, a test and a word of it)
AT_THE_DOOR: dict[str, tuple[str, str, str, str]] = {
    "signature": (INTAKE, "statement.open_envelope", ATTACKS, "another's signature"),
    "receipt.malformed": (INTAKE, "bounds.check", FUZZED, "odd_payload"),
    "contribution.assignment": (WORK, "task.assignment_digest", ATTACKS, "another assignment"),
    "contribution.root": (WORK, "result_root(made.outputs, made.ended) != made.root", ATTACKS, "another's output"),
    "contribution.steps": (WORK, "task.num_steps", ATTACKS, "fewer steps"),
    "contribution.engine-class": (WORK, "sent.node.engine_class", ATTACKS, "another class"),
    "commitment.missing": (WORK, "nothing was committed to", ATTACKS, "contribution first"),
    "commitment.order": (WORK, "nothing was committed to", ATTACKS, "contribution first"),
    "commitment.opening": (WORK, "commitment_hash", ATTACKS, "another salt"),
    "contribution.ended": (WORK, "intake.check_ended", ATTACKS, "an end where none belongs"),
    "answer.ended": (ANSWERS, "intake.check_ended", ATTACKS, "an end where none belongs"),
    "answer.commitment": (ANSWERS, "committed is None", ATTACKS, "opened too early"),
    "answer.order": (ANSWERS, "LeaseType.REVEAL", ATTACKS, "opened too early"),
    "answer.opening": (ANSWERS, "answer_commitment_hash", ATTACKS, "another blind"),
    "answer.root": (ANSWERS, "result_root(made.outputs, made.ended) != made.root", ATTACKS, "outputs of another root"),
    "commitment.used": (WORK, "intake.check_used", ATTACKS, "a use too many or too few"),
    "answer.used": (ANSWERS, "intake.check_used", ATTACKS, "an answer's use too many or too few"),
    "audit.auditor": (ANSWERS, "expect(sent, kind", ATTACKS, "another role"),
    "audit.name": (ANSWERS, "audit=made.audit", ATTACKS, "another audit"),
    "audit.prover": (ANSWERS, "expect(sent, kind", ATTACKS, "a second answer"),
    "audit.undrawn": (ANSWERS, "expect(sent, kind", ATTACKS, "another audit"),
    "time.future": (INTAKE, "check_signed_since", CLOCK, "301 s ahead"),
    "time.past": (INTAKE, "check_signed_since", CLOCK, "86,401 s behind"),
    "credential.expired": (INTAKE, "clocks.is_within", FUZZED, "OFFSETS_S"),
    "credential.node": (JOINING, "ids.node_id(key)", FUZZED, '"key"'),
    "credential.changed": ("src/stannary/store/nodes.py", "belongs to another operator", RACES, "keeps its operator"),
    "credential.join": (JOINING, "this join was used before", RACES, "used before"),
    "job.market": (
        ADMISSION,
        "order.market != exchange.keyid",
        "tests/integration/market/test_market_process.py",
        "def ",
    ),
    "reveal.index": (REVEALS, "revealed before", BUYERS, "the same in other words"),
    "reveal.chain": (REVEALS, "beacon.check", BUYERS, "another value"),
    "reveal.checkpoint": (REVEALS, "owed.checkpoint_root", BUYERS, "another root"),
    "reveal.candidates": (REVEALS, "made.candidates", BUYERS, "other candidates"),
    "reveal.order": (REVEALS, "audits.get_draw", BUYERS, "a later index"),
}
# finding -> why no door can keep it out
NO_DOOR = {
    "reveal.length": "the market asks for no more values than tasks; admission checks the chain's length against them",
    "audit.silent": "a silence is nobody's statement but the market's; it is a notice",
    "use.apart": "two measurements of a unit are compared when both are logged, the lower is paid; it is a notice",
    "statement.void": "a later statement that lost a race is listed and counts for nothing; it is a notice",
    "receipt.span": "submitted_at is held to the market's clock at admission; the rest is the market's own",
}
# what the market states: assignments, placements, candidates, draws, silences, verdicts, credentials, the receipt
OF_THE_MARKET = (
    "assignment.", "placement.", "candidates.", "draw.", "silence.", "stopped.", "verdict.", "merge.", "checkpoint.",
    "evidence.", "first.", "credential.missing", "credential.differs",
    "credential.grade", "credential.power", "receipt.", "audit.skipped", "question.", "redo.", "appeal.", "ruling.",
)  # fmt: skip
OF_THE_READER = ("policy.", "witness.", "log.", "result.", "replay.")  # his pins, his clock, his files, his machine


def findings() -> set[str]:
    """Return the id of every finding in the verifier's source; what is spelled at run time ends in a full stop."""
    found: set[str] = set()
    for path in sorted(Path(verify.__file__).parent.glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call) or not node.args:
                continue
            called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if called not in {"refute", "expect", "below_policy", "notice", "Finding"}:
                continue
            first = node.args[0]
            if isinstance(first, ast.JoinedStr):
                first = first.values[0]
            if isinstance(first, ast.Constant) and isinstance(first.value, str):
                found.add(first.value)
    return found


def test_every_finding_about_a_stranger_has_its_refusal() -> None:
    """A finding that is neither the market's own nor the reader's stands in the table."""
    known = findings()
    assert len(known) > 80
    listed = set(AT_THE_DOOR) | set(NO_DOOR)
    strangers = {item for item in known if not item.startswith((*OF_THE_MARKET, *OF_THE_READER))}
    assert strangers <= listed, strangers - listed
    assert listed <= known, listed - known


@pytest.mark.parametrize("finding", sorted(AT_THE_DOOR))
def test_the_refusal_and_its_test_are_there(finding: str) -> None:
    """What the table names is in the door's source, and attacked by a test."""
    source, word, test, attack = AT_THE_DOOR[finding]
    assert word in (ROOT / source).read_text(encoding="utf-8")
    assert attack in (ROOT / test).read_text(encoding="utf-8")
