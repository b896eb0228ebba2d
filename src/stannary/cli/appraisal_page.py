"""One appraisal as a page for people: a single HTML file, to look at, print, or send along.

Rules:
1. The page says what `--json` says and nothing more: it is made from that value alone.
2. Evidence comes from a stranger. Every text is escaped, and the page's own policy forbids scripts,
   frames and any request, so that a GPU's name cannot act in the reader's browser.
3. A check that did not run looks different from one that passed, and a missing figure is a word,
   never a bar of length zero. All bars are to one scale: how many of one H100 SXM by data sheet.
4. Words are never broken. What is no word (a digest, an identity) may be, so that a telephone shows all of it.

What tiers and checks mean is decided in `certify`; the words printed on a terminal are in
`commands/certify.py`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from html import escape
from importlib import resources
from typing import Any

from stannary.certify.grade.scu import REFERENCE
from stannary.certify.tiers import NAMES, verdict
from stannary.cli.output import plain
from stannary.formats.predicates import Tier

MARKS = {"checked": ("✓", "ok"), "waived": ("?", "open"), "not-applicable": ("·", "na")}
MAX_TEXT = 400
LONG_CHARS = 24  # a run of letters longer than this is no word
BAR_DECADES = 6  # a laptop beside eight accelerators is still seen
SHORTEST = 0.01  # what was measured is seen, however little it is
_LONG = re.compile(rf"\S{{{LONG_CHARS + 1},}}")
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
        f"<title>{_plain(_verdict(value).capitalize())} · {_plain(_name(value))} · appraisal of a machine</title>"
        f"<style>{_style()}</style></head><body><main>{_top(value)}\n{body}\n</main></body></html>\n"
    )


def _verdict(value: Mapping[str, Any]) -> str:
    return verdict(accepted=bool(value["accepted"]), refused=bool(value["refused"]))


def _name(value: Mapping[str, Any]) -> str:
    return str(value.get("name") or "a machine")


def _top(value: Mapping[str, Any]) -> str:
    """Which machine, when, and in answer to what."""
    host = value.get("host", {})  # absent from what an earlier release printed, like name and challenge
    collected = value.get("collected_at", "")
    hint = ", ".join(str(host[name]) for name in ("cpu", "kernel") if host.get(name))
    rows = [
        ("evaluated", _moment(value["evaluated_at"])),
        ("challenge", value.get("challenge", "not kept")),
        ("collected", f"{_moment(collected)}, by the machine's own clock" if collected else "not said"),
        ("machine", f"{hint}, by its own word" if hint else "says nothing of itself"),
    ]
    listed = "".join(f"<dt>{_text(name)}</dt><dd>{_whole(words)}</dd>" for name, words in rows)
    return f'<p class="soft">Stannary · appraisal of a machine</p><h1>{_whole(_name(value))}</h1><dl>{listed}</dl>'


def _moment(text: object) -> str:
    """Write 2026-11-22T00:00:00Z for people."""
    return str(text).replace("T", " ").replace("Z", " UTC")


def _listed(rows: Iterable[tuple[str, object]]) -> str:
    return "<dl>" + "".join(f"<dt>{_text(name)}</dt><dd>{_text(words)}</dd>" for name, words in rows) + "</dl>"


def _style() -> str:
    return resources.files("stannary.cli").joinpath("appraisal.css").read_text("utf-8")


def _head(value: Mapping[str, Any]) -> str:
    refused, limit = bool(value["refused"]), value["limit"]
    accepted = "plain" if value["tier"] == Tier.T0.name else "good"  # T0 is not an honour
    tone = "bad" if refused else accepted if value["accepted"] else "warn"
    told = f"Tier {value['tier']}, {value['tier_name']}"
    if refused:
        told = "something is false or missing"
    elif not value["accepted"]:
        told += ": below what the policy asks for"
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
    return (
        f'<section class="head">{_mark(value["tier"], tone)}<div><p class="big {tone}">{_text(_verdict(value))}</p>'
        f"<p>{_text(told)}</p><p><strong>{_text(value['residual'])}</strong></p></div></section>"
        f'<ol class="ladder{" refused" if refused else ""}">{steps}</ol>{_listed(rows)}'
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
        f'<svg class="mark" viewBox="0 0 120 120" role="img" aria-label="{_plain(tier)}">'
        f'<polygon points="{points}" fill="none" stroke="{colour}" stroke-width="5"/>'
        f'<text x="60" y="72" fill="{colour}">{_text(tier)}</text>{cross}</svg>'
    )


def _power(value: Mapping[str, Any]) -> str:
    grade, claimed = value["grade"], value["claimed_int8_tops"]
    vector = {name: float(text) for name, text in grade.get("vector", {}).items()}
    bars: list[tuple[tuple[str, str, str], float | None, float]] = []  # label, kind and unit; amount; one H100 SXM
    for name, (label, unit) in UNITS.items():
        one = REFERENCE[name]
        bars.append(((label, "fill", unit), vector.get(name), one))
        if name == "int8_tops" and claimed is not None:
            bars.append(((f"{value['claims']} by data sheet", "fill sheet", unit), float(claimed), one))
        bars.append((("one H100 SXM by data sheet", "fill sheet", unit), one, one))
    bars.append((("network", "fill", ""), None, 1.0))
    longest = max(amount / one for _, amount, one in bars if amount is not None)
    rows = [_bar(named, amount, one * longest) for named, amount, one in bars]
    scu = "".join(
        f'<tr><td>{_text(name)}</td><td class="n">{_text(text)}</td></tr>'
        for name, text in grade.get("scu", {}).items()
    )
    basket = f"<h2>Standard compute units, {_whole(grade['basket'])}</h2><table>{scu}</table>" if scu else ""
    return (
        f'<h2>Power</h2><table class="power">{"".join(rows)}</table><p class="soft">All bars are to one scale, in H100 '
        "SXM by data sheet, and logarithmic: each tenth of the rail is a factor of four. Work is over time seen by "
        f"the verifier; memory and disk are by the machine's own clock.</p>{basket}"
    )


def _bar(named: tuple[str, str, str], amount: float | None, longest: float) -> str:
    label, kind, unit = named
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
        repeated=True,
    )
    checks = _rows(
        ("", "check", "result"),
        ((_state(row), row["id"], row["detail"]) for row in part["checks"]),
    )
    facts = _rows(("fact", "value"), ((key, _words(item)) for key, item in part["claims"].items()))
    return (
        f"<details{' open' if refused else ''}><summary><span>{_whole(name)}</span>"
        f'<span class="{tone}">{_text(outcome)}</span></summary>{found}{checks}{facts}</details>'
    )


def _state(row: Mapping[str, str]) -> tuple[str, str]:
    if row["state"] == "checked" and row["detail"].startswith("fails"):
        return ("✗", "no")
    return MARKS[row["state"]]


def _mark_of(severity: str) -> tuple[str, str]:
    return {"refuse": ("✗", "no"), "cap": ("▾", "open")}.get(severity, ("·", "na"))


def _rows(titles: tuple[str, ...], rows: Iterable[tuple[Any, ...]], *, repeated: bool = False) -> str:
    """Return a table; with `repeated`, each cell says its title too where a narrow page stacks them."""
    told = [f' data-title="{title}"' if repeated else "" for title in titles[1:]]
    lines = []
    for row in rows:
        shown, kind = row[0] if isinstance(row[0], tuple) else ("", "")
        first = f'<td class="m"><b>{shown}</b></td>' if shown else f"<td>{_text(row[0])}</td>"
        rest = "".join(f"<td{title}>{_text(cell)}</td>" for title, cell in zip(told, row[1:], strict=True))
        lines.append(f'<tr class="{kind}">{first}{rest}</tr>')
    if not lines:
        return ""
    header = "".join(f"<th>{title}</th>" for title in titles)
    return f'<table class="list"><tr>{header}</tr>{"".join(lines)}</table>'


def _words(item: Any) -> str:
    if isinstance(item, dict):
        return ", ".join(f"{key} {_words(inner)}" for key, inner in item.items())
    if isinstance(item, list):
        return ", ".join(_words(inner) for inner in item)
    return str(item)


def _foot(value: Mapping[str, Any]) -> str:
    return (
        f"<footer><p>Evaluated offline. Evidence "
        f"<code>{_text(value['evidence'])}</code>, policy <code>{_text(value['policy'])}</code>.</p>"
        "<p>This page is for reading and proves nothing by itself. To check it, appraise the same evidence: "
        "<code>stannary certify appraise EVIDENCE --challenge CHALLENGE --now TIME --json</code>.</p></footer>"
    )


def _text(words: object) -> str:
    """Escape a text, drop what could reorder or hide it (rule 2), and mark what is no word (rule 4)."""
    shown = plain(str(words))
    shown = shown if len(shown) <= MAX_TEXT else shown[:MAX_TEXT] + " …"
    parts, end = [], 0
    for found in _LONG.finditer(shown):
        parts += [escape(shown[end : found.start()]), f'<span class="long">{escape(found[0])}</span>']
        end = found.end()
    return "".join([*parts, escape(shown[end:])])


def _whole(words: object) -> str:
    """Return a text of which no part breaks at a hyphen: names and versions are words too."""
    return " ".join(
        f'<span class="whole">{_text(word)}</span>' if "-" in word and len(word) <= LONG_CHARS else _text(word)
        for word in str(words).split(" ")
    )


def _plain(words: object) -> str:
    """Escape a text for where no markup can stand."""
    return escape(plain(str(words))[:MAX_TEXT])
