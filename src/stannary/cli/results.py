"""`stannary verify --result PATH`: the files there, hashed, and the words that say whether they are the result."""

from __future__ import annotations

import hashlib
import os
import stat
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from stannary.cli.output import cell
from stannary.errors import EnvironmentProblem, UsageError
from stannary.formats import digest
from stannary.formats.digest import Digest
from stannary.verify import result
from stannary.verify.report import Findings, Report
from stannary.verify.result import Compared, Sameness

CHUNK_BYTES = 1024 * 1024
MAX_SHOWN = 20  # files named on the screen; --json has all


@dataclass(frozen=True, slots=True)
class Checked:
    """A report with what the comparison found."""

    report: Report
    path: Path
    compared: tuple[Compared, ...]

    @property
    def is_result(self) -> bool:
        """Tell whether everything there is the result, and the receipt itself holds."""
        same = bool(self.compared) and all(item.match is Sameness.SAME for item in self.compared)
        return same and self.report.exit_code != 3

    def lines(self) -> list[str]:
        """Return the answer in one line, then one line for each file that is not as it should be."""
        if self.report.claims is None:
            return [f"UNDECIDED: what {cell(str(self.path))} is compared with does not hold."]
        name, odd = cell(str(self.path)), [item for item in self.compared if item.match is not Sameness.SAME]
        num_same = len(self.compared) - len(odd)
        if self.is_result:
            which = cell(self.compared[0].name) if num_same == 1 else f"{num_same:,} files"
            return [f"THIS IS THE RESULT: {name} ({which}) is what the receipt names."]
        lines = [f"NOT THE RESULT: {name}, {num_same:,} of {len(self.compared):,} files are what the receipt names."]
        for item in odd[:MAX_SHOWN]:
            lines.append(f"  {item.match:<8} {cell(item.name)}")
            lines += [f"    here {item.observed}"] if item.observed else []
            lines += [f"    said {item.expected}"] if item.expected else []
        return lines + ([f"  and {len(odd) - MAX_SHOWN:,} more: --json lists them"] if len(odd) > MAX_SHOWN else [])

    def to_json(self) -> dict[str, Any]:
        """Return the members of `result` with --json."""
        files = [
            {"name": item.name, "match": item.match.value, "observed": item.observed, "expected": item.expected}
            for item in self.compared
        ]
        return {"path": str(self.path), "is_result": self.is_result, "files": files}


def check(report: Report, path: Path, receipt: Path) -> Checked:
    """Compare a file or folder with a report's results, and add the findings to it."""
    claims = report.claims
    if claims is None:
        return Checked(report, path, ())
    if path.is_dir():
        here = {name: _digest(file) for name, file in _files(path) if not _same_file(file, receipt)}
        compared = result.compare_folder(here, claims.results)
    else:
        compared = (result.compare_file(path.name, _digest(path), claims.results),) if claims.results else ()
    findings = Findings()
    result.judge(compared, findings)
    return Checked(replace(report, findings=(*report.findings, *findings.items)), path, compared)


def _files(folder: Path) -> Iterator[tuple[str, Path]]:
    """Yield every file below, by its path as a listing spells it (NFC, slashes)."""

    def unreadable(err: OSError) -> None:
        raise EnvironmentProblem("cannot read the folder", why=f"{err.filename}: {err.strerror}") from err

    for parent, folders, names in os.walk(folder, onerror=unreadable):
        folders.sort()
        for name in sorted(names):
            file = Path(parent) / name
            yield unicodedata.normalize("NFC", file.relative_to(folder).as_posix()), file


def _digest(path: Path) -> Digest:
    """Hash a file in pieces: a model may be larger than the memory."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # a pipe would be waited for, without end
            raise UsageError("not a file", why=str(path), hint="name a file or folder: stannary verify --result PATH")
        found = hashlib.sha256()
        with path.open("rb") as file:
            while piece := file.read(CHUNK_BYTES):
                found.update(piece)
    except OSError as err:
        why, hint = f"{path}: {err.strerror}", "stannary get JOB -o DIR fetches the results"
        raise UsageError("cannot read the result", why=why, hint=hint) from err
    return digest.from_raw(found.digest())


def _same_file(first: Path, second: Path) -> bool:
    try:
        return first.samefile(second)
    except OSError:
        return False
