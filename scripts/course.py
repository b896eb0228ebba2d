"""Write the table of docs/course.md anew from the code (`--check`: only tell whether it is up to date)."""

from __future__ import annotations

import sys
from pathlib import Path

from stannary.jobs.states import COURSE, AuditStage, CourseStage, DisputeStage, DrawStage, JobStatus, TaskState

PAGE = Path(__file__).resolve().parent.parent / "docs" / "course.md"
BEGIN, END = "<!-- course: written by scripts/course.py -->", "<!-- end of course -->"
TITLES = {
    JobStatus: "a job",
    TaskState: "a task",
    DrawStage: "a draw",
    AuditStage: "an audit",
    DisputeStage: "a disputed bond",
}


HEAD = "| stage | waits for | until | moved by | then, and why |"


def table() -> str:
    """Return the course as Markdown."""
    parts = []
    for machine, title in TITLES.items():
        rows = [_row(stage) for stage in COURSE if isinstance(stage.state, machine)]
        parts.append("\n".join((f"### {title.capitalize()}", "", HEAD, "|---" * 5 + "|", *rows, "")))
    return "\n".join(parts)


def _row(stage: CourseStage) -> str:
    ways = "; ".join(f"**{to}**: {', '.join(map(_reason, why))}" for to, why in stage.ways.items())
    cells = (f"**{stage.state}**", stage.waits_for or "-", stage.until or "-", stage.mover or "-", ways or "ended")
    return f"| {' | '.join(cells)} |"


def _reason(word: str) -> str:
    return word if " " in word else f"`{word}`"


def renewed(text: str) -> str:
    """Return the page with the table of now."""
    head, _, rest = text.partition(BEGIN)
    _, _, tail = rest.partition(END)
    return f"{head}{BEGIN}\n{table()}{END}{tail}"


def main() -> int:
    """Write or check the page."""
    text = PAGE.read_text("utf-8")
    fresh = renewed(text)
    if "--check" in sys.argv[1:]:
        if text != fresh:
            print("docs/course.md is not what the code says: python scripts/course.py")
        return int(text != fresh)
    PAGE.write_text(fresh, "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
