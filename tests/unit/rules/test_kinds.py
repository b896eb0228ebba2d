"""A kind of job or task is asked in one table; everything else asks the table for the fact that it needs."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.recorded import cast

import stannary
from stannary.formats.ids import TaskKind
from stannary.formats.jobspec import JobKind
from stannary.jobs.course import kinds as course_kinds
from stannary.rules import kinds
from stannary.rules.kinds import KINDS, TASKS

ROOT = Path(stannary.__file__).parent
# docs/course.md, "To add a kind of job", names each of them.
HOMES = {
    "formats/jobspec.py": "what a spec of each kind may hold",
    "formats/jobfile.py": "the same for people",
    "formats/ids.py": "names of tasks",
    "rules/kinds.py": "what differs between kinds",
    "jobs/course/kinds/__init__.py": "who plans which",
}
WORDS = {kind.value for enum in (JobKind, TaskKind) for kind in enum}
OF_ONE_KIND = {"recipe", "run"}  # members of a spec of one kind alone: to ask for their absence is to ask the kind


def asked(source: str) -> Iterator[str]:
    """Yield what asks a kind: a name of one looked up or compared, or a member that only one kind has."""
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Name(id="JobKind") | ast.Attribute(attr="JobKind") | ast.alias(name="JobKind"):
                yield f"line {getattr(node, 'lineno', 0)}: JobKind"
            case ast.Compare() | ast.Dict() | ast.Set() | ast.Tuple() | ast.List() | ast.MatchValue():
                if any(map(_is_kind, ast.iter_child_nodes(node))):
                    yield f"line {getattr(node, 'lineno', 0)}: {ast.unparse(node)}"
            case ast.IfExp() | ast.If() | ast.While():
                if _is_of_one_kind(node.test):
                    yield f"line {node.lineno}: {ast.unparse(node.test)}"
            case ast.BoolOp():
                if any(map(_is_of_one_kind, node.values[:-1])) and isinstance(node.op, ast.And):
                    yield f"line {node.lineno}: {ast.unparse(node)}"
        if isinstance(node, ast.Compare) and _compares(node):
            yield f"line {node.lineno}: {ast.unparse(node)}"


def _is_kind(node: ast.AST) -> bool:
    """Tell whether an expression names one kind: `TaskKind.MERGE`, `ids.TaskKind.MERGE.value`."""
    if isinstance(node, ast.Attribute) and node.attr == "value":
        node = node.value
    owner = node.value if isinstance(node, ast.Attribute) else None
    return "TaskKind" in (getattr(owner, "id", ""), getattr(owner, "attr", ""))


def _is_of_one_kind(node: ast.AST) -> bool:
    return isinstance(node, ast.Attribute) and node.attr in OF_ONE_KIND


def _compares(node: ast.Compare) -> bool:
    """Tell whether a member is held against a kind's word, or against nothing."""
    sides = [node.left, *node.comparators]
    said = [item.value for side in sides for item in ast.walk(side) if isinstance(item, ast.Constant)]
    is_kind = any(isinstance(side, ast.Attribute) and side.attr == "kind" for side in sides)
    return (is_kind and not WORDS.isdisjoint(map(str, said))) or (None in said and any(map(_is_of_one_kind, sides)))


@pytest.mark.parametrize(
    "source",
    [
        "if spec.kind is JobKind.TRAIN: pass",
        "from stannary.formats.jobspec import JobKind",
        "late = task.kind is not TaskKind.ROUND",
        "late = task.kind == ids.TaskKind.ROUND.value",
        "needed = {TaskKind.ROUND: 1}",
        "late = kind in (TaskKind.ROUND, TaskKind.MERGE)",
        "match kind:\n    case TaskKind.ROUND: pass",
        "while view.kind == 'command': pass",
        "late = view.kind in ('round', 'x')",
        "threads = spec.recipe.threads if spec.recipe is not None else 1",
        "options = spec.recipe.options if spec.recipe else {}",
        "name = spec.recipe and spec.recipe.entry",
        "if job.spec.run is None: pass",
    ],
)
def test_the_way_a_kind_is_asked_is_seen(source: str) -> None:
    """Each form that once stood in our code would be found again."""
    assert list(asked(source))


@pytest.mark.parametrize(
    "source",
    [
        "made = Assignment(job, task, TaskKind.ROUND, 0)",
        "kind = TaskKind(row['kind'])",
        "if TASKS[task.kind].is_merge: pass",
        "late = key.kind is not KeyType.LOG",
        "text = spec.entry or spec.run or ''",
        "place = (task.round, task.kind, task.lane) == (row.round, row.kind, row.lane)",
    ],
)
def test_what_only_names_or_carries_a_kind_is_free(source: str) -> None:
    """Who plans a task says its kind, who stores it writes it down."""
    assert not list(asked(source))


def test_no_file_outside_the_named_ones_asks_a_kind() -> None:
    """A new kind is a member, a line of each table and a class, wherever else its facts are used."""
    found = {path.relative_to(ROOT).as_posix(): list(asked(path.read_text("utf-8"))) for path in ROOT.rglob("*.py")}
    assert not {path: places for path, places in found.items() if places and path not in HOMES}
    assert all(found[path] for path in HOMES)


def test_the_checklist_names_every_place_that_asks() -> None:
    """Who adds a kind reads docs/course.md, and has then seen every file that is to be changed."""
    page = (ROOT.parent.parent / "docs" / "course.md").read_text("utf-8")
    _, _, checklist = page.partition("## To add a kind of job")
    assert not [path for path in HOMES if f"`{path}`" not in checklist]


def test_every_kind_has_its_line_in_every_table() -> None:
    """A member without one would be found missing by the first job of that kind only."""
    assert set(KINDS) == set(JobKind)
    assert set(TASKS) == set(TaskKind)
    assert {type(course_kinds.of(spec)).__name__ for spec in (cast.spec(), cast.train())} == {
        "CommandKind",
        "TrainKind",
    }
    assert all(TASKS[rules.merge].is_merge for rules in KINDS.values() if rules.merge is not None)
    assert not any(TASKS[rules.lane].is_merge for rules in KINDS.values())


def test_an_unknown_word_is_no_kind() -> None:
    """A market of a later release may tell of a kind that this client does not know: it is shown without its extras."""
    assert kinds.named("train") is KINDS[JobKind.TRAIN]
    assert kinds.named("serve") is None
