"""Every error of the certify, policy and node check commands: what, why, and the next step."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.unit.certify import world

from stannary.certify import challenge as challenges
from stannary.certify.envelope import Evidence
from stannary.cli import main as edge

NOW = ["--now", "2026-11-22T00:00:05Z"]
LOCAL = (Path(__file__).parents[3] / "src/stannary/certify/policies/local.toml").read_text()


def _files(folder: Path) -> dict[str, str]:
    challenge = challenges.issue(world.NOW, nonce=b"\x01" * 32)[0]
    evidence = Evidence(challenge.id, challenge.nonce_bytes, bytes(32), {}).to_bytes()
    kept = folder / "kept"
    kept.mkdir()
    contents = {
        "c.json": challenge.to_bytes(),
        "e.json": evidence,
        "junk": b"\x00\xff",
        "empty": b"",
        "object": b"{}",
        "cut.json": evidence[:200],
        "profile.json": evidence.replace(b"node#1", b"node#9"),
        "binding.json": evidence.replace(b'"kind":"raw"', b'"kind":"tbs"'),
        "member.toml": (LOCAL + "\nallow_debug = true\n").encode(),
        "tier.toml": LOCAL.replace('"T0"', '"T9"').encode(),
        "version.toml": LOCAL.replace("version = 1", "version = 2").encode(),
        "generation.toml": LOCAL.replace('["milan"', '["rome"').encode(),
        "vmpl.toml": LOCAL.replace("max_vmpl = 3", "max_vmpl = 9").encode(),
        "short.toml": b"name = 1",
        "key.toml": LOCAL.replace("revocation_keys = {}", 'revocation_keys = { ann = "00" }').encode(),
        "reference.toml": LOCAL.replace("reference_keys = []", 'reference_keys = ["zz"]').encode(),
        "big.toml": b"#" * 300_000,
        "manifest.json": b'{"version":1,"cases":[]}',
        "kept/index.jsonl": b"{}\n",
    }
    for name, data in contents.items():
        (folder / name).write_bytes(data)
    return {name: str(folder / name) for name in (*contents, "absent", "kept")}


APPRAISE = ["certify", "appraise", "{e.json}", "--challenge", "{c.json}", *NOW]
BAD = [
    *[["certify", "appraise", f"{{{name}}}", "--challenge", "{c.json}", *NOW]
      for name in ("junk", "empty", "object", "cut.json", "profile.json", "binding.json", "absent")],
    *[["certify", "appraise", "{e.json}", "--challenge", f"{{{name}}}", *NOW] for name in ("junk", "object", "absent")],
    *[[*APPRAISE, "--policy", f"{{{name}}}"]
      for name in ("junk", "object", "member.toml", "tier.toml", "version.toml", "generation.toml", "vmpl.toml",
                   "short.toml", "big.toml", "key.toml", "reference.toml", "absent")],
    *[[*APPRAISE, option, f"{{{name}}}"] for name in ("junk", "object", "absent")
      for option in ("--reference", "--voucher", "--revocations", "--collateral", "--tpm-root", "--test-root")],
    *[[*APPRAISE, "--claims", text] for text in ("eight", "0xH200", "8xH200+")],
    ["certify", "appraise", "{e.json}", "--challenge", "{c.json}", "--now", "yesterday"],
    ["certify", "challenge", "-o", "{c.json}", "--for", "{e.json}"],
    ["certify", "challenge", "-o", "{c.json}", "--for", "{junk}"],
    ["certify", "challenge", "-o", "{c.json}", "--ttl-s", "0"],
    ["certify", "reference", "{e.json}", "--name", "x", "-o", "{absent}"],
    ["certify", "vouch", "snp:00", "--inspector", "a", "--facility", "b", "-o", "{absent}", "--now", "x"],
    ["certify", "vectors", "{absent}"], ["certify", "vectors", "{object}"], ["certify", "vectors", "{manifest.json}"],
    ["certify", "vectors", "{junk}"],
    ["certify", "reappraise", "{absent}", "--deny", "milan"], ["certify", "reappraise", "{kept}", "--deny", "milan"],
    ["certify", "reappraise", "{kept}"], ["certify", "reappraise", "{kept}", "--revocations", "{object}"],
    ["certify", "collateral", "fetch", "{junk}", "-o", "{absent}"], ["certify", "collateral", "show", "{absent}"],
    ["certify", "collateral", "show", "{junk}"],
    ["certify", "revocations", "show", "{junk}"],
    ["certify", "revocations", "sign", "gpu:1", "--watcher", "a", "--source", "b", "-o", "{absent}"],
    ["certify", "revocations", "sign", "--watcher", "a", "-o", "{absent}"],
    ["certify", "revocations", "sign", "snp:00", "--watcher", "a", "-o", "{absent}"],
    ["certify", "nonsense"], ["certify", "appraise"],
    ["policy", "explain", "{absent}"], ["policy", "explain", "{tier.toml}"], ["policy", "test", "local", "{absent}"],
    ["policy", "test", "local", "{kept}"],
    ["node", "check", "--challenge", "{junk}", "-o", "{absent}"], ["node", "check", "--challenge", "{c.json}"],
    ["node", "check", "-o", "{absent}"],
]  # fmt: skip


@pytest.mark.parametrize("command", BAD, ids=[" ".join(item[:2] + item[2:6]) for item in BAD])
def test_every_error_says_what_why_and_what_next(command, tmp_path, monkeypatch, capsys):
    """Three lines, whatever was wrong: a code with what failed, why, and next."""
    monkeypatch.setenv("STANNARY_DATA_DIR", str(tmp_path / "data"))
    places = _files(tmp_path)
    filled = [places[word[1:-1]] if word.startswith("{") else word for word in command]
    assert edge.run(filled) in {1, 2, 3, 102}
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 3, lines
    assert lines[0].startswith("E-")
    assert lines[1].startswith("  why   ")
    assert lines[2].startswith("  next  ")
    assert all(len(line) > 10 for line in lines)


def test_a_file_that_does_not_read_costs_no_challenge(tmp_path, monkeypatch, capsys):
    """The challenge is spent when evidence is judged, not when a policy or a list beside it fails to read."""
    monkeypatch.setenv("STANNARY_DATA_DIR", str(tmp_path / "data"))
    question, answer, junk = tmp_path / "q.json", tmp_path / "a.json", tmp_path / "junk"
    assert edge.run(["certify", "challenge", "-o", str(question), "--json"]) == 0
    made = challenges.parse(question.read_bytes())
    answer.write_bytes(Evidence(made.id, made.nonce_bytes, bytes(32), {}).to_bytes())
    junk.write_bytes(b"junk")
    judge = ["certify", "appraise", str(answer), "--challenge", str(question), "--policy", "local"]
    for option in ("--collateral", "--revocations", "--voucher", "--policy"):
        assert edge.run([*judge, option, str(junk)]) != 0
    capsys.readouterr()
    edge.run([*judge, "--json"])
    first = json.loads(capsys.readouterr().out)
    assert first["submods"]["challenge"]["outcome"] == "valid"
    edge.run([*judge, "--json"])
    assert json.loads(capsys.readouterr().out)["submods"]["challenge"]["outcome"] == "refuse:nonce-mismatch"
