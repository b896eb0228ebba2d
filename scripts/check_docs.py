"""Check that documents tell the truth about this tree: links, error codes, commands.

    python scripts/check_docs.py        exit code 1 and one line per mistake

1. Each relative link and each `path/in/backticks` with a known suffix exists.
2. docs/errors.md lists exactly the codes of errors.py, with their exit codes.
3. Each `stannary <command>` that a document names is a command, and has the subcommands and options it is shown with.
4. docs/guide/provider.md quotes the terms that nodes sign, whole.
5. docs/guide/job-file.md is what scripts/job_file_reference.py writes.
6. docs/verify.md lists exactly the findings of `stannary verify`, each with its weight; docs/receipt.md names the same
   ones (but those of what a reader asks beyond the receipt) and weighs them alike.
7. Each document a comment or docstring of the code cites is in this tree, by its path, and has the section cited.
8. Each paragraph cited (`R8.9`) is one of docs/receipt.md, where they are numbered without gap.
"""

from __future__ import annotations

import ast
import itertools
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import job_file_reference  # beside this file

from stannary import errors
from stannary.cli.main import cli
from stannary.cli.registry import COMMANDS
from stannary.market import terms

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md")), *sorted(ROOT.glob("examples/*/*.md"))]
CODE = [path for room in ("src", "scripts", "bench", "examples") for path in sorted((ROOT / room).rglob("*.py"))]
_CITED = re.compile(r"(?<![\w/.-])(?:[\w-]+/)*[\w-]+\.md\b(?:,? section ([0-9]+))?")
_FOREIGN = {"protocol.md"}  # of DSSE, a standard that has no other name
_DECISION = re.compile(r"\b(?:docs/adr/|ADR )([0-9]{4})\b(?!-)")
_TICKET = re.compile(r"\bissue [0-9]+")  # nobody can look it up here
_PARAGRAPH = re.compile(r"^\*\*(R[0-9]+\.[0-9]+)\*\*", re.MULTILINE)
_REFERENCE = re.compile(r"\bR[0-9]+\.[0-9]+\b")
_WHOLE = re.compile(r"docs/receipt\.md (R[0-9]+)\b(?!\.)")
_LINK = re.compile(r"\]\((?!https?:|#|mailto:)([^)#]+)")
_PATH = re.compile(r"`((?:src|docs|tests|examples|bench|scripts)/[\w./-]*\w(?:\.\w+|/)?)`")
_COMMAND = re.compile(r"(?:^|[`$ ])stannary ([a-z][a-z-]*)", re.MULTILINE)
_CALL = re.compile(r"(?:^ *|`)stannary ([a-z-]+ [^`#\n]*)", re.MULTILINE)
_LABELS = {"market proof v1"}  # in backticks like a command, and none
_CODE_ROW = re.compile(r"^\| (E-[A-Z-]+) \| (\d+) \|", re.MULTILINE)
_FINDING_ROW = re.compile(r"^\| ((?:`[a-z.*-]+`(?:, )?)+) \| (refuted|below policy|notice) \|", re.MULTILINE)
_WEIGHTS = {"refute": "refuted", "expect": "refuted", "below_policy": "below policy", "notice": "notice"}
_SEVERITIES = {"REFUTED": "refuted", "POLICY": "below policy", "NOTICE": "notice"}
_NAMED = re.compile(r"\[`([a-z.-]+)`(?:, (below policy|notice))?[^\]]*\]")  # in docs/receipt.md
_BEYOND = re.compile(r"result\.(?!malformed)|policy\.|replay\.")  # asked by options: files, floors, replays
_PROSE = {"run", "is", "does", "uses", "knows"}  # words that follow the product's name in a sentence


def main() -> int:
    """Print every mistake and return the exit code."""
    mistakes = [mistake for path in DOCUMENTS for mistake in _check(path)]
    mistakes += _check_codes((ROOT / "docs" / "errors.md").read_text("utf-8"))
    mistakes += _check_findings((ROOT / "docs" / "verify.md").read_text("utf-8"))
    mistakes += _check_specification(
        *((ROOT / "docs" / name).read_text("utf-8") for name in ("verify.md", "receipt.md"))
    )
    mistakes += _check_paragraphs((ROOT / "docs" / "receipt.md").read_text("utf-8"))
    mistakes += _check_reference()
    mistakes += [mistake for path in CODE for mistake in _check_citations(path)]
    mistakes += _check_terms((ROOT / "docs" / "guide" / "provider.md").read_text("utf-8"))
    for mistake in mistakes:
        sys.stdout.write(mistake + "\n")
    sys.stdout.write(f"{len(DOCUMENTS)} documents, {len(mistakes)} mistakes\n")
    return 1 if mistakes else 0


def _check(path: Path) -> list[str]:
    text = path.read_text("utf-8")
    name = path.relative_to(ROOT)
    missing = [link for link in _LINK.findall(text) if not (path.parent / link).exists()]
    missing += [found for found in _PATH.findall(text) if not (ROOT / found).exists()]
    unknown = set(_COMMAND.findall(text)) - set(COMMANDS) - _PROSE
    wrong = [(call, word) for call in map(str.strip, _CALL.findall(text)) for word in _unknown(call)]
    return [
        *(f"{name}: no such file {item}" for item in missing),
        *(f"{name}: no command stannary {item}" for item in sorted(unknown)),
        *(f"{name}: stannary {call}: no {word}" for call, word in wrong),
    ]


def _check_citations(path: Path) -> list[str]:
    return [f"{path.relative_to(ROOT)}: {item}" for item in _uncited(path.read_text("utf-8"))]


def _uncited(text: str) -> list[str]:
    missing = []
    for found in _CITED.finditer(text):
        document = found[0].partition(".md")[0] + ".md"
        if "/" not in document and (document in _FOREIGN or f'"{document}"' in text):
            continue  # a file's name, not a citation
        if not (ROOT / document).exists() or (found[1] and not _has_section(ROOT / document, found[1])):
            missing.append(found[0])
    missing += [found for found in _DECISION.findall(text) if not list((ROOT / "docs" / "adr").glob(f"{found}-*.md"))]
    return [f"cites {item}, which is not here" for item in [*missing, *_TICKET.findall(text)]]


def _has_section(path: Path, number: str) -> bool:
    return re.search(rf"^#+ {number}\.", path.read_text("utf-8"), re.MULTILINE) is not None


def _check_paragraphs(text: str) -> list[str]:
    numbered, mistakes, at = _PARAGRAPH.findall(text), [], (0, 0)
    for name in numbered:
        section, paragraph = map(int, name[1:].split("."))
        if (section, paragraph) not in {(at[0], at[1] + 1), (at[0] + 1, 1)}:
            mistakes.append(f"docs/receipt.md: {name} does not follow R{at[0]}.{at[1]}")
        at = (section, paragraph)
    known = {*numbered, *(name.partition(".")[0] for name in numbered)}
    for path in [*CODE, *DOCUMENTS, *sorted((ROOT / "tests").rglob("*.py"))]:
        mistakes += [f"{path.relative_to(ROOT)}: {item}" for item in _unnumbered(path.read_text("utf-8"), known)]
    return mistakes


def _unnumbered(text: str, known: set[str]) -> list[str]:
    cited = {*_REFERENCE.findall(text), *_WHOLE.findall(text)}
    return [f"cites {name}, which docs/receipt.md lacks" for name in sorted(cited - known)]


def _unknown(call: str) -> list[str]:
    """Return the subcommands and options of a call that its command does not have; `a|b` names both."""
    words = call.split()
    if call in _LABELS or words[0] not in COMMANDS:  # no command at all is said beside this
        return []
    context = click.Context(cli)
    command, unknown = cli.get_command(context, words[0]) or cli, []
    for before, word in itertools.pairwise(words):
        if word in {"--", "|", ">"}:
            break
        valued = {option for item in command.params if not getattr(item, "is_flag", True) for option in item.opts}
        if before in valued and isinstance(command, click.Group):  # an option of what is a command and a group
            continue
        if word.startswith("-") and word != "-":
            known = {"-h", "--help"}.union(*(item.opts + item.secondary_opts for item in command.params))
            unknown += [word] if word not in known else []
        elif isinstance(command, click.Group):
            found = {name: command.get_command(context, name) for name in word.split("|")}
            unknown += [name for name, made in found.items() if made is None]
            command = next((made for made in found.values() if made is not None), click.Command(word))
    return unknown


def _check_terms(text: str) -> list[str]:
    quoted = " ".join(line.lstrip("> ") for line in text.splitlines() if line.startswith(">"))
    missing = [line for line in terms.TEXT.splitlines()[2:] if line.strip() and line.strip() not in quoted]
    return [f"docs/guide/provider.md: does not quote the terms: {line.strip():.60}" for line in missing]


def _check_codes(text: str) -> list[str]:
    listed = {code: int(exit_code) for code, exit_code in _CODE_ROW.findall(text)}
    pending: list[type[errors.StannaryError]] = [errors.StannaryError]
    known: dict[str, int] = {}
    while pending:
        cls = pending.pop()
        known[cls.code] = cls.exit_code
        pending.extend(cls.__subclasses__())
    wrong = [code for code in sorted(set(listed) | set(known)) if listed.get(code) != known.get(code)]
    return [f"docs/errors.md: {code}: exit {listed.get(code)}, in errors.py {known.get(code)}" for code in wrong]


def _check_findings(text: str) -> list[str]:
    listed = {(name, weight) for row, weight in _FINDING_ROW.findall(text) for name in re.findall(r"`(.*?)`", row)}
    given = {found for path in sorted((ROOT / "src/stannary/verify").glob("*.py")) for found in _findings(path)}
    return [
        *(f"docs/verify.md: lacks finding {name} ({weight})" for name, weight in sorted(given - listed)),
        *(f"docs/verify.md: no finding {name} ({weight})" for name, weight in sorted(listed - given)),
    ]


def _check_specification(listed: str, specified: str) -> list[str]:
    known = {(name, weight) for row, weight in _FINDING_ROW.findall(listed) for name in re.findall(r"`(.*?)`", row)}
    families = tuple(name.rstrip("*") for name, _ in known if name.endswith("*"))  # `receipt.` and a member, and so on
    known = {(name, weight) for name, weight in known if not _BEYOND.match(name) and not name.endswith("*")}
    named = {(name, weight or "refuted") for name, weight in _NAMED.findall(specified)}
    named = {item for item in named if item in known or not item[0].startswith(families)}
    return [
        *(f"docs/receipt.md: no rule brings {name} ({weight})" for name, weight in sorted(known - named)),
        *(f"docs/receipt.md: {name} ({weight}) is no finding" for name, weight in sorted(named - known)),
    ]


def _findings(path: Path) -> Iterator[tuple[str, str]]:
    """Yield id and weight of each finding a module makes; `name.*` where the last part is computed."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if not isinstance(node, ast.Call) or not node.args:
            continue
        called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        if called == "Finding" and isinstance(node.args[1], ast.Attribute):
            weight = _SEVERITIES[node.args[1].attr]
        else:
            weight = _WEIGHTS.get(called, "")
        named = node.args[0].values[0] if isinstance(node.args[0], ast.JoinedStr) else node.args[0]
        if weight and isinstance(named, ast.Constant):
            yield f"{named.value}{'' if named is node.args[0] else '*'}", weight


def _check_reference() -> list[str]:
    mistakes, text = job_file_reference.page()
    path = job_file_reference.PAGE
    if not mistakes and not (path.is_file() and path.read_text("utf-8") == text):
        mistakes = [f"{path.relative_to(ROOT)} is stale: python scripts/job_file_reference.py"]
    return mistakes


if __name__ == "__main__":
    sys.exit(main())
