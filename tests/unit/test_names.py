"""One name, one thing: a class name stands in one module, or here with the reason why it stands in two."""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from pathlib import Path

import stannary

ROOT = Path(stannary.__file__).parent
GLOSSARY = Path(__file__).parents[2] / "docs/glossary.md"

# The message that shows to others what the record of this name is.
SHOWN = {"Challenge", "Event", "Progress", "Proof"}
# One word of the field in planes that never meet: a hardware verifier's and a job's, a sealer's and a job's.
PLANES = {"Case", "Collected", "Evidence", "Patience", "Result", "Signature", "Tree"}
# What the process of that room is set up with, keeps or goes through.
OF_A_PROCESS = {"Journal", "Phase", "Prepared", "Service", "Settings", "Store"}
# Names of C structures and of TPM and vendor formats, as their standards spell them.
FOREIGN = {"AttestationReport", "Memory", "Message"}
# Private to their module: nobody can take one for the other.
PRIVATE = {"_Handler", "_Reader", "_Timed", "_Walk"}
# Two meanings that each room needs by its plain name; docs/glossary.md says which is which.
EXPLAINED = {"Finding", "Output", "Severity"}
ACCEPTED = SHOWN | PLANES | OF_A_PROCESS | FOREIGN | PRIVATE | EXPLAINED


def test_a_class_name_stands_in_one_module() -> None:
    """A name that two modules give to two classes is in a list above, with its reason, and nothing else is."""
    modules: dict[str, set[str]] = defaultdict(set)
    for path in ROOT.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.ClassDef):
                modules[node.name].add(path.relative_to(ROOT).as_posix())
    doubled = {name: sorted(found) for name, found in modules.items() if len(found) > 1}
    assert {name: found for name, found in doubled.items() if name not in ACCEPTED} == {}
    assert ACCEPTED - doubled.keys() == set()


def test_what_is_explained_stands_in_the_glossary() -> None:
    """Each name that keeps two meanings has a row of docs/glossary.md."""
    rows = re.findall(r"^\| ([^|]+) \|", GLOSSARY.read_text("utf-8"), flags=re.MULTILINE)
    words = {word.strip() for row in rows for word in row.split(",")}
    assert {name.lower() for name in EXPLAINED} - words == set()
