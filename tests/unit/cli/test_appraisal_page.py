"""The page of an appraisal: what it shows, and that a stranger's text cannot act in it."""

from __future__ import annotations

import html.parser
import json
import re
from typing import Any

import pytest

from stannary.certify.tiers import verdict
from stannary.cli import appraisal_page
from stannary.cli import main as edge

HOSTILE = "<script>alert(1)</script>\"' onload=x \u202eGPU"


def value(**changes: Any) -> dict[str, Any]:
    part = {
        "outcome": "valid",
        "claims": {"driver": "580.1", "keys": ["a", "b"], "facts": {"mode": "spt"}},
        "findings": [],
        "checks": [
            {"id": "chain", "state": "checked", "detail": "holds"},
            {"id": "nonce", "state": "waived", "detail": "no challenge given"},
            {"id": "firmware-id", "state": "not-applicable", "detail": "carries none"},
        ],
    }
    made: dict[str, Any] = {
        "tier": "T1", "tier_name": "machine-bound", "residual": "the root operator can read all", "accepted": True,
        "refused": False, "limit": {"layer": "cpu", "reason": "no confidential CPU evidence", "remedy": "run a guest"},
        "policy": "ni:///sha-384;x", "policy_name": "standard", "minimum_tier": "T0", "claims": "8xH200",
        "claimed_int8_tops": 15832, "evaluated_at": "2026-11-22T00:00:00Z", "evidence": "sha256:ab",
        "grade": {"basket": "scu-2026.1", "vector": {"int8_tops": "1583.2"}, "scu": {"train": "not measured"}},
        "submods": {"gpu/1": part}, "name": "rack 7", "challenge": "c-0123", "collected_at": "2026-11-21T23:59:58Z",
        "host": {"cpu": "EPYC 9654", "kernel": "6.1.0-18-amd64", "cpus": 192}, "verdict": "accepted",
    }  # fmt: skip
    return {**made, **changes}


class Seen(html.parser.HTMLParser):
    """Collects the page's tags, the attributes that could act, and its text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.acting: list[str] = []
        self.words: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.acting += [name for name, _ in attrs if name.startswith("on") or name in {"href", "src", "action"}]

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def hostile(item: Any) -> Any:
    """Replace every text of a value by one that tries to act, but those our own code chooses from a list."""
    if isinstance(item, dict):
        kept = {"tier", "state", "severity", "vector"}
        return {key: inner if key in kept else hostile(inner) for key, inner in item.items()}
    if isinstance(item, list):
        return [hostile(inner) for inner in item]
    return HOSTILE if isinstance(item, str) else item


def test_text_of_a_stranger_stays_text():
    """Markup, quotes and reordering characters in any member neither add a tag nor an attribute that acts."""
    finding = {"severity": "refuse", "observed": "x", "expected": "y", "remedy": "z"}
    bent = value()
    bent["submods"]["gpu/1"]["findings"] = [finding]
    bent["submods"] = {HOSTILE: bent["submods"]["gpu/1"]}
    page = appraisal_page.render(hostile(bent))
    seen = Seen(page)
    assert "script" not in seen.tags
    assert seen.acting == []
    assert seen.tags == Seen(appraisal_page.render(value())).tags
    assert any("<script>" in words for words in seen.words)  # shown as it was written
    assert "\u202e" not in page


def test_page_asks_for_nothing():
    """Its own policy forbids scripts and requests, and it names no address to load."""
    page = appraisal_page.render(value())
    assert "default-src 'none'" in page
    assert "http:" not in page
    assert "https:" not in page
    assert "url(" not in page


def test_name_time_and_challenge_come_first():
    """Which machine, when and in answer to what stands above the verdict, in times people read."""
    read = "".join(Seen(appraisal_page.render(value())).words).partition("appraisal of a machine")[2]
    told = ("rack 7", "2026-11-22 00:00:00 UTC", "c-0123", "by the machine's own clock", "accepted")
    places = [read.rindex(told[0]), *(read.index(words) for words in told[1:])]
    assert places == sorted(places)
    bare = appraisal_page.render(
        {key: item for key, item in value().items() if key not in {"name", "host", "challenge"}}
    )
    assert "<h1>a machine</h1>" in bare


@pytest.mark.parametrize(
    ("changes", "word"),
    [({}, "accepted"), ({"accepted": False}, "below policy"), ({"accepted": False, "refused": True}, "refused")],
)
def test_one_word_says_what_became_of_it(changes, word):
    """The largest word of the page is the one the terminal prints, and no other of the three is on it as a verdict."""
    page = appraisal_page.render(value(**changes))
    told = [item for item in ("accepted", "below policy", "refused") if f'">{item}</p>' in page]
    assert (
        told
        == [word]
        == [verdict(accepted=bool(value(**changes)["accepted"]), refused=bool(value(**changes)["refused"]))]
    )
    assert f"<title>{word.capitalize()} · rack 7" in page


def test_words_are_not_broken_and_digests_may_be():
    """Nothing but a run of letters too long for a telephone may break inside, and names not even at a hyphen."""
    parts = value()["submods"]
    parts["tdx-oe-relaunch"] = {**parts["gpu/1"], "claims": {"measurement": "ab" * 48, "driver": "580.95.05-1"}}
    page = appraisal_page.render(value(submods=parts))
    style = page[page.index("<style>") : page.index("</style>")]
    assert [line.partition("{")[0] for line in style.splitlines() if "overflow-wrap" in line] == [".long"]
    assert "word-break" not in style
    assert f'<span class="long">{"ab" * 48}</span>' in page
    assert '<span class="whole">tdx-oe-relaunch</span>' in page
    assert "<td>580.95.05-1</td>" in page


def test_bars_are_to_one_scale():
    """Equal shares of one H100 SXM are equally long, whatever they measure; the longest of all fills its rail."""
    vector = {"int8_tops": "1979", "memory_gb_per_s": "3350", "disk_gb_per_s": "3"}
    page = appraisal_page.render(value(grade={"basket": "b", "vector": vector, "scu": {}}, claimed_int8_tops=8 * 1979))
    widths = re.findall(r'class="(fill[ a-z]*)" style="width:([0-9.]+)%"', page)
    ours = {width for kind, width in widths if kind == "fill"}
    sheets = [width for kind, width in widths if kind != "fill"]
    assert len(ours) == 1
    assert sorted(set(sheets)) == sorted({"100.0", *ours})
    assert sheets.count("100.0") == 1


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, "Tier T1, machine-bound"),
        ({"accepted": False}, "below what the policy asks for"),
        ({"accepted": False, "refused": True}, "Refused"),
    ],
)
def test_verdict_is_the_one_of_the_result(changes, words):
    """Accepted, too low and refused are told apart in words, not by colour alone."""
    page = appraisal_page.render(value(**changes))
    shown = [item for item in ("Refused", "below what the policy asks for") if item in page]
    assert words in page
    assert shown == [item for item in shown if item == words]


def test_what_did_not_run_does_not_look_like_a_pass():
    """Checked, waived and not applicable carry different marks; a failed check carries a fourth."""
    parts = value()["submods"]
    parts["gpu/1"]["checks"].append({"id": "signature", "state": "checked", "detail": "fails: other key"})
    page = appraisal_page.render(value(submods=parts))
    marks = [page.split(f"<td>{name}</td>")[0].rpartition("<b>")[2][0]
             for name in ("chain", "nonce", "firmware-id", "signature")]  # fmt: skip
    assert len(set(marks)) == 4


def test_missing_figure_is_a_word_not_a_bar():
    """What was not measured has no bar; a tenth of the claim is a sixth of the rail shorter."""
    page = appraisal_page.render(value())
    memory = page.split("<td>memory</td>")[1].split("</tr>")[0]
    assert "not measured" in memory
    assert "rail" not in memory
    assert "width:83.3%" in page.split("1,583 TOP/s")[1].split("</tr>")[0]


def test_command_writes_the_page_beside_the_result(tmp_path, capsys):
    """--html writes what --json says, and the printed result stays the same."""
    question, answer, page = tmp_path / "c.json", tmp_path / "e.json", tmp_path / "page.html"
    edge.run(["certify", "challenge", "-o", str(question)])
    check = ["node", "check", "--challenge", str(question), "-o", str(answer), "--bench-s", "0.2", "--bench-n", "512"]
    edge.run([*check, "--tpm", str(tmp_path / "no-tpm")])
    capsys.readouterr()
    edge.run(["certify", "appraise", str(answer), "--challenge", str(question), "--html", str(page), "--json"])
    printed = json.loads(capsys.readouterr().out)
    text = page.read_text("utf-8")
    assert (printed["name"], printed["verdict"]) == ("e", "accepted")
    assert f'">{printed["verdict"]}</p>' in text
    assert printed["challenge"] in text
    edge.run(
        ["certify", "appraise", str(answer), "--challenge", str(question), "--name", "rack 7", "--claims", "8xH200"]
    )
    shown = capsys.readouterr().out
    assert "asks for T0: refused" in shown
    assert f"machine    rack 7, challenge {printed['challenge']}, at 20" in shown
    for words in (printed["limit"]["reason"], printed["residual"], printed["evidence"], printed["policy"]):
        assert words in text
