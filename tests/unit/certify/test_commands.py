"""The commands: vectors, node check, policy, and documents that name every code."""

from __future__ import annotations

import json
import re
from pathlib import Path

from tests.unit.certify import world

from stannary.certify import references
from stannary.certify.envelope import Evidence, Part
from stannary.certify.remedies import REMEDIES, Code
from stannary.certify.tiers import NAMES, RESIDUAL
from stannary.cli import main as edge
from stannary.formats import dsse, statement
from stannary.formats.predicates import Tier

ROOT = Path(__file__).parents[3]


def _manifest(folder: Path, expect: str) -> Path:
    amd = world.Amd()
    vek = amd.vcek(world.SnpTcb(1, 2, 3, 4, 5))
    (folder / "report.bin").write_bytes(amd.report(vek))
    (folder / "vek.der").write_bytes(vek.certificate.raw)
    (folder / "ask.der").write_bytes(amd.ask.certificate.raw)
    (folder / "ark.der").write_bytes(amd.ark.certificate.raw)
    case = {"id": "made", "kind": "snp", "evidence": "report.bin", "now": "2026-11-22T00:00:00Z", "expect": expect,
            "vek": "vek.der", "chain": ["ask.der"], "root": "ark.der"}  # fmt: skip
    stray = {**case, "id": "stray", "evidence": "../../etc/hostname", "expect": "refuse:malformed"}
    (folder / "manifest.json").write_text(json.dumps({"version": 1, "cases": [case, stray]}))
    return folder


def test_vectors_prints_a_line_a_case_and_fails_on_a_mismatch(tmp_path, capsys):
    """The last line counts; a case that leaves its folder cannot run and is a mismatch."""
    assert edge.run(["certify", "vectors", str(_manifest(tmp_path, "valid"))]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("ok   made")
    assert "could not check" in lines[1]
    assert lines[-1] == "1 of 2 as expected"


def test_vectors_at_another_time_gives_the_other_outcome(tmp_path, capsys):
    """--now replaces the cases' own time."""
    edge.run(["certify", "vectors", str(_manifest(tmp_path, "valid")), "--now", "2040-01-01T00:00:00Z", "--json"])
    cases = json.loads(capsys.readouterr().out)["cases"]
    assert cases[0]["observed"] == "refuse:chain-invalid"


def test_node_check_alone_shows_measured_beside_required(capsys):
    """Each requirement is a row with what was measured and what is required."""
    assert edge.run(["node", "check", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["requirements"]
    assert {"kernel", "TPM 2.0", "Secure Boot", "confidential guest"} <= {row["name"] for row in rows}
    assert all(row["measured"] and row["required"] for row in rows)


def test_policy_explain_says_its_id(capsys):
    """A policy is explained in words under its content's name."""
    assert edge.run(["policy", "explain", "confidential"]) == 0
    assert "ni:///sha-384;" in capsys.readouterr().out


def test_bare_machine_is_open_and_says_what_is_missing(tmp_path, monkeypatch, capsys):
    """A machine without any hardware evidence gets T0, its power, and what to change."""
    monkeypatch.setenv("STANNARY_DATA_DIR", str(tmp_path / "data"))
    question, answer, kept = tmp_path / "c.json", tmp_path / "e.json", tmp_path / "kept"
    assert edge.run(["certify", "challenge", "-o", str(question)]) == 0
    check = ["node", "check", "--challenge", str(question), "-o", str(answer), "--bench-s", "0.2", "--bench-n", "512"]
    assert edge.run([*check, "--tpm", str(tmp_path / "no-tpm")]) == 0
    capsys.readouterr()
    appraise = ["certify", "appraise", str(answer), "--challenge", str(question), "--keep", str(kept)]
    code = edge.run([*appraise, "--credential", str(tmp_path / "cred.jwt")])
    printed = capsys.readouterr().out
    assert code == 0
    assert printed.startswith("tier       T0 open")
    assert "int8_tops" in printed
    assert "network not measured" in printed
    assert (tmp_path / "cred.jwt").read_text().count(".") == 2
    assert edge.run(["policy", "test", "confidential", str(kept)]) == 4
    assert edge.run(["certify", "reappraise", str(kept), "--deny", "milan"]) == 0


def test_reference_and_voucher_are_signed_statements(tmp_path, monkeypatch, capsys):
    """Both commands write statements that the named key opens, and print that key."""
    monkeypatch.setenv("STANNARY_DATA_DIR", str(tmp_path / "data"))
    key, log = world.TpmKey(), world.event_log([(4, 8, b"loader")])
    pcrs = {index: bytes(32) for index in range(10)}
    attest, signature = key.quote(b"x", pcrs)
    members = {"attest": attest.hex(), "signature": signature.hex(), "ak_public": key.public.hex(),
               "pcrs": {str(index): value.hex() for index, value in pcrs.items()}, "event_log": log.hex()}  # fmt: skip
    part = Part("tpm", json.dumps(members).encode())
    (tmp_path / "e.json").write_bytes(Evidence("c", b"n" * 32, b"k" * 32, {"tpm": part}).to_bytes())
    reference, voucher = str(tmp_path / "r.json"), str(tmp_path / "v.json")
    assert (
        edge.run(["certify", "reference", str(tmp_path / "e.json"), "--name", "image", "-o", reference, "--json"]) == 0
    )
    public = bytes.fromhex(json.loads(capsys.readouterr().out)["public_key"])
    opened = statement.open_envelope(
        dsse.from_bytes(Path(reference).read_bytes()), references.REFERENCE_KIND, references.ReferenceBoot, public
    )
    assert set(opened.predicate.golden().pcrs) == {0, 1, 2, 3, 4, 5, 6, 7, 9}
    vouch = ["certify", "vouch", "snp:00", "--inspector", "ann", "--facility", "hall 7", "-o", voucher]
    assert edge.run(vouch) == 0
    seen = statement.open_envelope(
        dsse.from_bytes(Path(voucher).read_bytes()), references.VOUCHER_KIND, references.Voucher, public
    )
    assert seen.predicate.identity == "snp:00"


def test_one_card_cannot_play_eight(tmp_path, monkeypatch, capsys):
    """A claim of eight accelerators without their evidence and their products is refused."""
    monkeypatch.setenv("STANNARY_DATA_DIR", str(tmp_path / "data"))
    question, answer = tmp_path / "c.json", tmp_path / "e.json"
    edge.run(["certify", "challenge", "-o", str(question)])
    edge.run(["node", "check", "--challenge", str(question), "-o", str(answer), "--bench-s", "0.2", "--bench-n", "512"])
    capsys.readouterr()
    assert edge.run(["certify", "appraise", str(answer), "--challenge", str(question), "--claims", "8xH200"]) == 3
    printed = capsys.readouterr().out
    assert "0 accelerators in the power test" in printed
    assert "15,832 TOP/s by data sheet" in printed


def test_exit_codes_tell_refused_from_below_policy_from_malformed(tmp_path, monkeypatch, capsys):
    """0 accepted, 3 refused, 4 below the policy, 1 damaged evidence, 2 a policy or claim that does not read."""
    monkeypatch.setenv("STANNARY_DATA_DIR", str(tmp_path / "data"))
    question, answer = tmp_path / "c.json", tmp_path / "e.json"
    edge.run(["certify", "challenge", "-o", str(question)])
    edge.run(["node", "check", "--challenge", str(question), "-o", str(answer), "--bench-s", "0"])
    issued = json.loads(question.read_text())["issued_at"]
    local = ROOT / "src/stannary/certify/policies/local.toml"
    asking, broken = tmp_path / "t1.toml", tmp_path / "broken.toml"
    asking.write_text(local.read_text().replace('minimum_tier = "T0"', 'minimum_tier = "T1"'))
    broken.write_text(local.read_text() + "\nallow_debug = true\n")
    damaged = tmp_path / "damaged.json"
    damaged.write_bytes(answer.read_bytes()[:200])
    expected = {
        (answer, "local", ""): 0,
        (answer, str(asking), ""): 4,
        (answer, "confidential", ""): 3,
        (answer, "local", "8xH200"): 3,
        (answer, str(broken), ""): 2,
        (answer, "local", "eight H200"): 2,
        (answer, "local", "0xH200"): 2,
        (damaged, "local", ""): 1,
    }
    for (evidence, policy, claims), code in expected.items():
        command = ["certify", "appraise", str(evidence), "--challenge", str(question), "--now", issued]
        assert edge.run([*command, "--policy", policy, "--claims", claims]) == code, (policy, claims)
    capsys.readouterr()
    edge.run(["certify", "appraise", str(answer), "--challenge", str(question), "--policy", "local"])
    assert edge.run(["certify", "appraise", str(answer), "--challenge", str(question), "--policy", "local"]) == 3
    assert "answered before" in capsys.readouterr().out


def test_every_code_and_tier_is_documented():
    """docs/refusals.md has a row for each code; docs/tiers.md says what each tier does not protect from."""
    listed = set(re.findall(r"^\| `([a-z-]+)` \|", (ROOT / "docs/refusals.md").read_text(), re.MULTILINE))
    assert listed == {code.value for code in Code} == {code.value for code in REMEDIES}
    tiers = (ROOT / "docs/tiers.md").read_text()
    assert all(f"**{tier.name} {NAMES[tier]}**" in tiers for tier in Tier)
    assert set(RESIDUAL) == set(Tier)
    assert "We have seen no T2 machine" in tiers
