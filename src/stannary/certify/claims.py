"""What a seller claims, compared with what devices sign: how many, and which model.

A device's certificate names its chip, and from the chip on everything is certain: an H200 cannot come out of a
GB100. Models that share a chip (H100, H200, H800, H20 are all GH100) differ in memory and board only; the
signed report names the board (project, project SKU, chip SKU), and no vendor's table says which board is
sold as which model. Ours comes from what owners published of theirs, is short, and says so: a board it does
not list is `could not check`, neither a pass nor a conviction.

Rules:
1. A claim that does not read is an error: passed over, it would look like one that was checked.
2. A device that cannot be the claimed model is not counted, and refuses with what it is.
3. Every claimed accelerator has evidence of its own, one identity each, and answers in one power test;
   switches take no power test.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from stannary.certify.outcomes import Appraisal, Examination, Step
from stannary.certify.remedies import Code
from stannary.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from stannary.certify.grade.scu import Grade

MAX_CLAIMS = 8
_CLAIM = re.compile(r"([1-9][0-9]{0,2})\s*x\s*([A-Za-z0-9][A-Za-z0-9 -]{1,40})")
# Chip by model. The first three lines attest; the others are named so that a claim of one is told apart.
_CHIPS: dict[str, str] = {
    "H100": "GH100", "H200": "GH100", "H800": "GH100", "H20": "GH100", "GH200": "GH100",
    "B100": "GB100", "B200": "GB100", "GB200": "GB100",
    "NVSWITCH": "LS10", "LS10": "LS10",
    "A100": "GA100", "A800": "GA100", "L40S": "AD102", "L40": "AD102", "L4": "AD104", "T4": "TU104", "V100": "GV100",
}  # fmt: skip
# Model by signed board, as owners published it: NVIDIA/nvtrust issues 66, 101 and 151, and `nvidia-smi -q`. That prints
# project and SKU as "Image Version" (G520.0280) and the chip SKU in "GPU Part Number", after the PCI id (2335-895).
_BOARDS: dict[str, str] = {
    "1010_0200_882": "H100",
    "1010_0210_886": "H100",  # NVL
    "G520_0200_885": "H100",
    "G520_0202_885": "H100",
    "G520_0205_865": "H800",
    "G520_0280_895": "H200",
    "G530_0206_888": "GH200",
}
_SWITCH = "LS10"


class Likeness(StrEnum):
    """Whether a device can be the model claimed."""

    IS = "is"
    IS_NOT = "is-not"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Claim:
    """So many of one model."""

    count: int
    model: str

    @property
    def name(self) -> str:
        """The word that names the model: `NVIDIA H200 SXM` and `h200-141GB` are H200."""
        return _word(self.model)

    @property
    def is_switch(self) -> bool:
        """Whether it is about switches."""
        return _CHIPS.get(self.name) == _SWITCH

    def __str__(self) -> str:
        return f"{self.count} x {self.model}"


def read_claims(text: str) -> tuple[Claim, ...]:
    """Read what a seller claims, such as `8xH200` or `8xH200+4xNVSwitch`; nothing where none is made (rule 1)."""
    if not text.strip():
        return ()
    found: list[Claim] = []
    for part in re.split(r"[+,]", text):
        match = _CLAIM.fullmatch(part.strip())
        if match is None or len(found) == MAX_CLAIMS:
            raise UsageError(
                "claim is not counts and models",
                why=repr(text)[:80],
                hint='write it as "8xH200" or "8xH200+4xNVSwitch"',
            )
        found.append(Claim(int(match.group(1)), match.group(2).strip()))
    return tuple(found)


def compare(model: str, chip: str, board: str) -> tuple[Likeness, str]:
    """Say whether a device with this certified chip and signed board can be `model`, and by what."""
    shown = f"certified {chip or 'nothing'}, board {board.strip('_') or 'not signed'}"
    wanted = _CHIPS.get(_word(model))
    if wanted is None or not chip:
        return (
            Likeness.UNKNOWN,
            f"could not check: {shown}; no chip is known for {model}" if chip else f"could not check: {shown}",
        )
    if chip != wanted:
        return Likeness.IS_NOT, f"{shown}: {model} is {wanted}"
    if wanted == _SWITCH:
        return Likeness.IS, shown
    sold = _BOARDS.get(board)
    if sold is None:
        return (
            Likeness.UNKNOWN,
            f"could not check: {shown}, which no public report names; {wanted} is sold as several models",
        )
    if sold != _word(model):
        return Likeness.IS_NOT, f"{shown}, which is sold as {sold}"
    return Likeness.IS, shown


def check_claims(claims: tuple[Claim, ...], parts: dict[str, Appraisal], grade: Grade | None) -> Appraisal:
    """Compare claims with the devices whose evidence is valid (rules 2 and 3)."""
    exam = Examination("claims")
    gpus = [item for item in claims if not item.is_switch]
    for place, wanted in (("gpu", gpus), ("nvswitch", [item for item in claims if item.is_switch])):
        if wanted:
            _check_place(exam, place, wanted, parts)
    if gpus:
        tested = 0 if grade is None else sum("cuda" in item.device for item in grade.powers)
        _require_count(exam, "tested", tested, gpus, "accelerators in the power test")
    return exam.close()


def _check_place(exam: Examination, place: str, claims: list[Claim], parts: dict[str, Appraisal]) -> None:
    devices = dict(_devices(place, parts))
    fitting: dict[str, set[str]] = {}
    unsure: list[str] = []
    for identity, part in devices.items():
        chip, board = str(part.claims.get("chip", "")), str(part.claims.get("project", ""))
        told = {str(item): compare(item.model, chip, board) for item in claims}
        fitting[identity] = {name for name, (verdict, _) in told.items() if verdict is not Likeness.IS_NOT}
        if not fitting[identity]:
            observed = f"{identity}: {next(iter(told.values()))[1]}"
            exam.require(
                f"{place}-model",
                False,
                Step.REFERENCE,
                Code.REFERENCE_MISMATCH,
                observed=observed,
                expected=" or ".join(told),
            )
        elif not any(verdict is Likeness.IS for verdict, _ in told.values()):
            unsure.append(
                f"{identity}: {next(words for verdict, words in told.values() if verdict is Likeness.UNKNOWN)}"
            )
    if unsure:
        exam.waive(f"{place}-model", f"{unsure[0]}" + (f" ({len(unsure)} devices)" if len(unsure) > 1 else ""))
    elif devices and all(fitting.values()):
        exam.require(f"{place}-model", True, Step.REFERENCE, Code.REFERENCE_MISMATCH)
    words = "accelerators with valid evidence" if place == "gpu" else "switches with valid evidence"
    for item in claims:
        shown = sum(str(item) in names for names in fitting.values())
        _require_count(exam, f"{place}-attested", shown, [item], words)
    if len(claims) > 1:
        able = sum(bool(names) for names in fitting.values())
        _require_count(exam, f"{place}-total", able, claims, words)


def _devices(place: str, parts: dict[str, Appraisal]) -> Iterator[tuple[str, Appraisal]]:
    """One line a device; a device has several identities and shows its own first."""
    for name, part in parts.items():
        if name.startswith(f"{place}/") and part.valid and part.identities:
            yield part.identities[0], part


def _require_count(exam: Examination, check: str, shown: int, claims: list[Claim], words: str) -> None:
    exam.require(
        check,
        shown >= sum(item.count for item in claims),
        Step.REFERENCE,
        Code.EVIDENCE_MISSING,
        observed=f"{shown} {words}",
        expected=" + ".join(map(str, claims)),
    )


def _word(model: str) -> str:
    words = [word for word in re.split(r"[ -]+", model.upper()) if word and word not in {"NVIDIA", "HGX", "DGX"}]
    return words[0] if words else ""
