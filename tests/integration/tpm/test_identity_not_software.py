"""Identity of a real TPM 2.0 implementation from end to end; it proves a machine, not its software.

check -> appraise -> renewal with activation -> reboot -> refused. The tier stays T0 throughout: a
software TPM's owner can sign anything, and no reference boot is shown.
"""

from __future__ import annotations

import json

import pytest
from tests.integration.tpm.software_tpm import needs_swtpm

from stannary.certify.activation import make_credential
from stannary.certify.evidence import tpm_structures
from stannary.certify.pki import certificates
from stannary.cli import main as edge
from stannary.errors import ServiceError

pytestmark = needs_swtpm


@pytest.fixture
def walk(tpm, tmp_path, monkeypatch, capsys):
    """Commands of laptop and machine, with their own data folder."""
    monkeypatch.setenv("STANNARY_DATA_DIR", str(tmp_path / "data"))

    class Walk:
        evidence = tmp_path / "evidence.json"
        challenge = tmp_path / "c.json"

        def ask(self, *extra: str) -> None:
            """Make a challenge on the laptop."""
            assert edge.run(["certify", "challenge", "-o", str(self.challenge), *extra]) == 0

        def check(self) -> None:
            """Answer it on the machine."""
            arguments = ["--challenge", str(self.challenge), "-o", str(self.evidence), "--bench-s", "0"]
            arguments += ["--tpm", tpm.address, "--ek-issuer", str(tpm.issuers)]
            assert edge.run(["node", "check", *arguments]) == 0

        def appraise(self, *extra: str, root: bool = True) -> tuple[int, dict]:
            """Appraise on the laptop; return exit code and result."""
            capsys.readouterr()
            roots = ["--test-root", str(tpm.root)] if root else []
            code = edge.run(
                [
                    "certify",
                    "appraise",
                    str(self.evidence),
                    "--challenge",
                    str(self.challenge),
                    "--policy",
                    "local",
                    *roots,
                    *extra,
                    "--json",
                ]
            )
            return code, json.loads(capsys.readouterr().out)

    return Walk()


def test_check_appraise_renew_reboot_refused(tpm, walk):
    """A machine is appraised, renewed with its keys activated, and refused once it was restarted."""
    walk.ask()
    walk.check()
    code, first = walk.appraise()
    assert (code, first["accepted"], first["tier"]) == (0, True, "T0")
    assert first["submods"]["tpm"]["claims"]["software_tpm"] is True
    assert "activation" in {item["id"] for item in first["submods"]["tpm"]["findings"]}

    walk.ask("--for", str(walk.evidence))
    walk.check()
    code, renewed = walk.appraise()
    assert (code, renewed["accepted"]) == (0, True)
    assert "activation" not in {item["id"] for item in renewed["submods"]["tpm"]["findings"]}
    assert renewed["tier"] == "T0", "a software TPM proves identity at most"

    walk.ask("--for", str(walk.evidence))
    tpm.reboot()
    walk.check()
    code, after = walk.appraise()
    assert (code, after["accepted"]) == (3, False)
    (refused,) = [item for item in after["submods"]["tpm"]["findings"] if item["severity"] == "refuse"]
    assert refused["id"] == "boot-session"
    assert "resetCount" in refused["observed"]


def test_a_challenge_is_answered_once(walk):
    """The same evidence, appraised a second time, is refused."""
    walk.ask()
    walk.check()
    assert walk.appraise()[0] == 0
    code, second = walk.appraise()
    assert code == 3
    assert second["submods"]["challenge"]["outcome"] == "refuse:nonce-mismatch"


def test_evidence_of_another_challenge_is_refused(walk):
    """Evidence made for one challenge does not answer another."""
    walk.ask()
    walk.check()
    walk.ask()
    code, result = walk.appraise()
    assert code == 3
    assert result["submods"]["tpm"]["outcome"] == "refuse:nonce-mismatch"


def test_a_late_answer_is_refused(walk):
    """After its window a challenge is dead."""
    walk.ask()
    walk.check()
    code, result = walk.appraise("--now", "2031-01-01T00:00:00Z")
    assert code == 3
    assert "challenge ended" in json.dumps(result["submods"]["challenge"])


def test_a_software_tpm_is_no_hardware(walk):
    """Without its test root a software TPM's chain reaches nothing."""
    walk.ask()
    walk.check()
    code, result = walk.appraise(root=False)
    assert code == 3
    assert result["submods"]["tpm"]["outcome"] == "refuse:chain-invalid"


def test_rsa_and_ecc_attestation_keys_quote(client):
    """Keys of both kinds are restricted and their quotes verify."""
    for rsa in (False, True):
        with client.attestation_key(rsa=rsa) as key:
            public = tpm_structures.parse_public(key.public)
            attest, signature = client.quote(key, b"\x5a" * 48)
        assert public.is_attestation_key
        assert tpm_structures.verify(public.key, tpm_structures.parse_signature(signature), attest)
        assert tpm_structures.parse_attest(attest).extra_data == b"\x5a" * 48


def test_credential_for_another_key_is_not_activated(client):
    """A credential opens only for the key whose name it was made for."""
    ek_certificate = certificates.parse(client.ek_certificate())
    with client.endorsement_key() as ek, client.attestation_key() as ak:
        name = tpm_structures.parse_public(ak.public).name
        good, secret = make_credential(ek_certificate, name)
        assert client.activate(ak, ek, good) == secret
        other, _ = make_credential(ek_certificate, name[:-1] + bytes([name[-1] ^ 1]))
        with pytest.raises(ServiceError, match="refused"):
            client.activate(ak, ek, other)


def test_client_leaves_no_objects_behind(client):
    """Twenty rounds fit into a TPM with three object slots."""
    for _ in range(20):
        with client.attestation_key() as key:
            client.quote(key, b"x")
