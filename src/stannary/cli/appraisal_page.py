"""One appraisal as a page for people: a single HTML file, to look at, print, or send along.

Rules:
1. The page says what `--json` says and nothing more: it is made from that value alone.
2. Evidence comes from a stranger. Every text is escaped, and the page's own policy forbids scripts,
   frames and any request, so that a GPU's name cannot act in the reader's browser.
3. A check that did not run looks different from one that passed, and a missing figure is a word,
   never a bar of length zero.

What tiers and checks mean is decided in `certify`; the words printed on a terminal are in
`commands/certify.py`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from html import escape
from importlib import resources
from typing import Any

from stannary.certify.grade.scu import REFERENCE
from stannary.certify.tiers import NAMES, Tier
from stannary.cli.output import plain

MARKS = {"checked": ("✓", "ok"), "waived": ("?", "open"), "not-applicable": ("·", "na")}
MAX_TEXT = 400
BAR_DECADES = 6  # a laptop beside eight accelerators is still seen
SHORTEST = 0.01  # what was measured is seen, however little it is
UNITS = {
    "int8_tops": ("int8 → int32", "TOP/s"),
    "memory_gb_per_s": ("memory", "GB/s"),
    "disk_gb_per_s": ("disk", "GB/s"),
}


def render(value: Mapping[str, Any]) -> str:
    """Return the page of one appraisal; `value` is what `certify appraise --json` prints."""
    body = "\n".join((_head(value), _power(value), _layers(value["submods"]), _foot(value)))
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">"
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{_text(value['tier'])} · appraisal of a machine</title><style>{_style()}</style></head>"
        f"<body><main><h1>STANNARY · APPRAISAL OF A MACHINE</h1>\n{body}\n</main></body></html>\n"
    )


def _style() -> str:
    return resources.files("stannary.cli").joinpath("appraisal.css").read_text("utf-8")


def _head(value: Mapping[str, Any]) -> str:
    refused, limit = bool(value["refused"]), value["limit"]
    accepted = "plain" if value["tier"] == Tier.T0.name else "good"  # T0 is not an honour
    tone = "bad" if refused else accepted if value["accepted"] else "warn"
    verdict = (
        "Refused: something is false or missing"
        if refused
        else f"Tier {value['tier']}, {value['tier_name']}"
        if value["accepted"]
        else f"Tier {value['tier']}, {value['tier_name']}: below what the policy asks for"
    )
    steps = "".join(
        f'<li class="{"on" if name == value["tier"] else ""}">{name} {_text(words)}</li>'
        for name, words in ((tier.name, words) for tier, words in NAMES.items())
    )
    rows = [
        ("what limits it", f"{limit['layer']}: {limit['reason']}"),
        ("to rise", limit["remedy"] or "nothing"),
        ("policy", f"{value['policy_name']} asks for {value['minimum_tier']}"),
        ("claimed", value["claims"] or "nothing"),
    ]
    listed = "".join(f"<dt>{_text(name)}</dt><dd>{_text(words)}</dd>" for name, words in rows)
    return (
        f'<section class="head">{_mark(value["tier"], tone)}<div><p class="big {tone}">{_text(verdict)}</p>'
        f"<p><strong>{_text(value['residual'])}</strong></p></div></section>"
        f'<ol class="ladder{" refused" if refused else ""}">{steps}</ol><dl>{listed}</dl>'
    )


def _mark(tier: str, tone: str) -> str:
    """The assay mark: an octagon with the tier, as struck into tin."""
    points = " ".join(
        f"{60 + 52 * math.cos(math.radians(22.5 + 45 * k)):.1f},{60 + 52 * math.sin(math.radians(22.5 + 45 * k)):.1f}"
        for k in range(8)
    )
    colour = {"good": "var(--good)", "bad": "var(--bad)", "warn": "var(--open)", "plain": "var(--soft)"}[tone]
    cross = '<path d="M26 94 94 26" stroke="var(--bad)" stroke-width="5"/>' if tone == "bad" else ""
    return (
        f'<svg class="mark" viewBox="0 0 120 120" role="img" aria-label="{_text(tier)}">'
        f'<polygon points="{points}" fill="none" stroke="{colour}" stroke-width="5"/>'
        f'<text x="60" y="72" fill="{colour}">{_text(tier)}</text>{cross}</svg>'
    )


def _power(value: Mapping[str, Any]) -> str:
    grade, claimed = value["grade"], value["claimed_int8_tops"]
    vector = {name: float(text) for name, text in grade.get("vector", {}).items()}
    rows = []
    for name, (label, unit) in UNITS.items():
        sheet = claimed if name == "int8_tops" and claimed is not None else REFERENCE[name]
        longest = max(vector.get(name, 0.0), sheet)
        whose = f"{value['claims']} by data sheet" if sheet is claimed else "one H100 SXM by data sheet"
        rows.append(_bar((label, "fill"), vector.get(name), unit, longest))
        rows.append(_bar((whose, "fill sheet"), sheet, unit, longest))
    rows.append(_bar(("network", "fill"), None, "GB/s", 0.0))
    scu = "".join(
        f'<tr><td>{_text(name)}</td><td class="n">{_text(text)}</td></tr>'
        for name, text in grade.get("scu", {}).items()
    )
    basket = f"<h2>Standard compute units, {_text(grade['basket'])}</h2><table>{scu}</table>" if scu else ""
    return (
        f'<h2>Power</h2><table class="power">{"".join(rows)}</table><p class="soft">Bars are logarithmic: each tenth '
        "of the rail is a factor of four. Work is over time seen by the verifier; memory and disk are by the "
        f"machine's own clock.</p>{basket}"
    )


def _bar(named: tuple[str, str], amount: float | None, unit: str, longest: float) -> str:
    label, kind = named
    place = ' class="soft"' if "sheet" in kind else ""
    if amount is None:
        return f'<tr><td{place}>{_text(label)}</td><td class="n soft">not measured</td><td></td></tr>'
    share = max(SHORTEST, 1 + math.log10(amount / longest) / BAR_DECADES) if amount > 0 else 0.0
    shown = f"{amount:,.0f}" if amount >= 1000 else f"{amount:.3g}"
    return (
        f'<tr><td{place}>{_text(label)}</td><td class="n">{shown} {unit}</td>'
        f'<td><div class="rail"><div class="{kind}" style="width:{100 * share:.1f}%"></div></div></td></tr>'
    )


def _layers(parts: Mapping[str, Any]) -> str:
    return "<h2>What was looked at</h2>" + "".join(_layer(name, part) for name, part in parts.items())


def _layer(name: str, part: Mapping[str, Any]) -> str:
    outcome = part["outcome"]
    refused = outcome.startswith("refuse:")
    tone = "bad" if refused else "good" if outcome == "valid" else "warn"
    found = _rows(
        ("", "found", "expected", "what to change"),
        ((_mark_of(item["severity"]), item["observed"], item["expected"], item["remedy"]) for item in part["findings"]),
    )
    checks = _rows(
        ("", "check", "result"),
        ((_state(row), row["id"], row["detail"]) for row in part["checks"]),
    )
    facts = _rows(("fact", "value"), ((key, _words(item)) for key, item in part["claims"].items()))
    return (
        f"<details{' open' if refused else ''}><summary><span>{_text(name)}</span>"
        f'<span class="{tone}">{_text(outcome)}</span></summary>{found}{checks}{facts}</details>'
    )


def _state(row: Mapping[str, str]) -> tuple[str, str]:
    if row["state"] == "checked" and row["detail"].startswith("fails"):
        return ("✗", "no")
    return MARKS[row["state"]]


def _mark_of(severity: str) -> tuple[str, str]:
    return {"refuse": ("✗", "no"), "cap": ("▾", "open")}.get(severity, ("·", "na"))


def _rows(titles: tuple[str, ...], rows: Iterable[tuple[Any, ...]]) -> str:
    lines = []
    for row in rows:
        shown, kind = row[0] if isinstance(row[0], tuple) else ("", "")
        first = f"<td><b>{shown}</b></td>" if shown else f"<td>{_text(row[0])}</td>"
        lines.append(f'<tr class="{kind}">{first}{"".join(f"<td>{_text(cell)}</td>" for cell in row[1:])}</tr>')
    if not lines:
        return ""
    header = "".join(f"<th>{title}</th>" for title in titles)
    return f"<table><tr>{header}</tr>{''.join(lines)}</table>"


def _words(item: Any) -> str:
    if isinstance(item, dict):
        return ", ".join(f"{key} {_words(inner)}" for key, inner in item.items())
    if isinstance(item, list):
        return ", ".join(_words(inner) for inner in item)
    return str(item)


def _foot(value: Mapping[str, Any]) -> str:
    return (
        f"<footer><p>Evaluated at {_text(value['evaluated_at'])}, offline. Evidence "
        f"<code>{_text(value['evidence'])}</code>, policy <code>{_text(value['policy'])}</code>.</p>"
        "<p>This page is for reading and proves nothing by itself. To check it, appraise the same evidence: "
        "<code>stannary certify appraise EVIDENCE --challenge CHALLENGE --now TIME --json</code>.</p></footer>"
    )


def _text(words: object) -> str:
    """Escape a text and drop what could reorder or hide it (rule 2)."""
    shown = plain(str(words))
    return escape(shown if len(shown) <= MAX_TEXT else shown[:MAX_TEXT] + " …")
