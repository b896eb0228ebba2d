"""One name, one thing: a class name stands in one module, or here with the reason why it stands in two."""

from __future__ import annotations

import ast
from collections import defaultdict
from pathlib import Path

import stannary

ROOT = Path(stannary.__file__).parent

# The message that shows to others what the record of this name is.
SHOWN = {"Challenge", "Event", "Offer", "Progress", "Proof"}
# One word of the field in planes that never meet: a hardware verifier's and a job's, a sealer's and a job's.
PLANES = {"Case", "Collected", "Evidence", "Finding", "Patience", "Result", "Severity", "Signature", "Tree"}
# What the process of that room is set up with, keeps or goes through.
OF_A_PROCESS = {"Journal", "Phase", "Prepared", "Service", "Settings", "Store"}
# Names of C structures and of TPM and vendor formats, as their standards spell them.
FOREIGN = {"AttestationReport", "Memory", "Message"}
# Private to their module: nobody can take one for the other.
PRIVATE = {"_Handler", "_Reader", "_Timed", "_Walk"}
# Two meanings; the next who changes one of them renames it.
WAITING = {
    "Base",  # market/engine: what a round starts from; seal: the other operand of a delta
    "Checkpoint",  # formats: of the log; market/engine
    "Line",  # printed, and as kept
    "Outcome",  # of an audit, of a step, of computing again
    "Output",  # of a contribution; of a command line
    "Plan",  # market/engine: where a job is; verify: what is computed again
    "Profile",  # of a market: who may join; of a user: a market he knows
    "Question",  # market/engine: an audit to open; verify: a drawn step
    "Recipe",  # formats: as signed; train: as loaded
    "Settlement",  # jobs: where the money is; verify: its lines
    "Source",  # of sealed objects; of log lines
    "Unit",  # jobs, verify: of work
    "Work",  # run: what does tasks; verify: what is paid
}
ACCEPTED = SHOWN | PLANES | OF_A_PROCESS | FOREIGN | PRIVATE | WAITING


def test_a_class_name_stands_in_one_module() -> None:
    """A name that two modules give to two classes is in the list above, with its reason; the list does not grow."""
    modules: dict[str, set[str]] = defaultdict(set)
    for path in ROOT.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.ClassDef):
                modules[node.name].add(path.relative_to(ROOT).as_posix())
    doubled = {name: sorted(found) for name, found in modules.items() if len(found) > 1 and name not in ACCEPTED}
    assert not doubled, doubled
