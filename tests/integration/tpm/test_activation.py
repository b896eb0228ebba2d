"""Credentials against a real TPM 2.0 implementation: every EK template, every hash, both exchanges."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import struct
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from tests.integration.tpm import paravisor
from tests.integration.tpm.software_tpm import SoftwareTpm, needs_swtpm
from tests.unit.certify import world

from stannary.certify import activation
from stannary.certify import challenge as challenges
from stannary.certify.collect import certified, endorsement, node, tpm_client
from stannary.certify.collect import tpm as collector
from stannary.certify.collect.sources import Sources
from stannary.certify.evidence import tpm_structures
from stannary.certify.evidence.basis import BootSession
from stannary.certify.evidence.tpm import TpmVerifier
from stannary.certify.pki import certificates
from stannary.errors import EnvironmentProblem, FormatError, ServiceError, UsageError

pytestmark = needs_swtpm
CREATED = [profile for profile in endorsement.PROFILES if profile.name != "rsa-4096"]  # libtpms has no such keys
BOUND = b"\x21" * 48


@contextlib.contextmanager
def _opened(tpm):
    """A client, closed before another may come: a software TPM serves one at a time."""
    client = tpm_client.connect(tpm.address)
    try:
        yield client
    finally:
        client.close()


@pytest.fixture
def client(tpm):
    """A client of it."""
    with _opened(tpm) as client:
        yield client


def _certify(public: bytes) -> certificates.Certificate:
    """A certificate over a TPM's key, as its maker would issue it."""
    signer = ec.generate_private_key(ec.SECP256R1())
    built = (
        x509.CertificateBuilder()
        .subject_name(world.name("EK"))
        .issuer_name(world.name("Maker"))
        .public_key(tpm_structures.parse_public(public).key)
        .serial_number(7)
        .not_valid_before(world.NOW.replace(tzinfo=None))
        .not_valid_after((world.NOW + timedelta(days=1)).replace(tzinfo=None))
        .sign(signer, hashes.SHA256())
    )
    return certificates.parse(built.public_bytes(Encoding.DER))


@pytest.mark.parametrize("profile", CREATED, ids=[profile.name for profile in CREATED])
def test_credential_opens_in_a_key_of_each_template(client, profile):
    """A credential made from the certificate alone is opened by the TPM, whatever the EK's hash and cipher."""
    with client.attestation_key() as ak, client.endorsement_key(profile) as ek:
        name = tpm_structures.parse_public(ak.public).name
        credential, secret = activation.make_credential(_certify(ek.public), name)
        assert client.activate(ak, ek, credential) == secret
        assert activation.is_for(credential, tpm_structures.parse_public(ek.public).key)


@pytest.mark.parametrize("profile", CREATED, ids=[profile.name for profile in CREATED])
def test_credential_for_another_name_stays_shut(client, profile):
    """One bit in the attestation key's name, and the TPM refuses; it gives no other secret."""
    with client.attestation_key() as ak, client.endorsement_key(profile) as ek:
        name = tpm_structures.parse_public(ak.public).name
        other = name[:-1] + bytes([name[-1] ^ 1])
        credential, _ = activation.make_credential(_certify(ek.public), other)
        with pytest.raises(ServiceError, match="for other keys"):
            client.activate(ak, ek, credential)


@pytest.mark.parametrize("what", ["ephemeral", "shared"])
def test_coordinates_with_leading_zeros_are_padded(client, what):
    """One exchange in 256 has a coordinate that starts with a zero: it is hashed at the field's full size."""
    with client.attestation_key() as ak, client.endorsement_key(endorsement.ECC_P384) as ek:
        certificate = _certify(ek.public)
        key = certificate.public_key()
        assert isinstance(key, ec.EllipticCurvePublicKey)

        def starts_with_zero(candidate: ec.EllipticCurvePrivateKey) -> bool:
            if what == "shared":
                return candidate.exchange(ec.ECDH(), key)[0] == 0
            return candidate.public_key().public_numbers().x >> 376 == 0

        made = (ec.generate_private_key(ec.SECP384R1()) for _ in range(20_000))
        ephemeral = next(candidate for candidate in made if starts_with_zero(candidate))
        name = tpm_structures.parse_public(ak.public).name
        credential, secret = activation.make_credential(certificate, name, ephemeral=ephemeral)
        assert client.activate(ak, ek, credential) == secret


def test_certified_keys_are_the_ones_found(tpm, client):
    """Both EKs that the maker certified are found, and the keys given are those that the certificates name."""
    held, problem = certified.stored(client)
    assert problem is None
    assert [item.profile.name for item in held] == ["rsa-2048", "ecc-p384"]
    for item in held:
        with item.loaded(client) as key:
            assert key.handle == item.profile.handle


def test_certificate_of_another_tpm_gives_no_key(client):
    """A certificate that none of the TPM's keys fits is said, and no key is given in its place."""
    stranger = certified.CertifiedKey(endorsement.ECC_P384, world.issue("EK of another TPM").certificate)
    with (
        pytest.raises(EnvironmentProblem, match="does not hold the key of its EK certificate"),
        stranger.loaded(client),
    ):
        pass


def test_one_key_that_is_lost_leaves_the_other(tpm, monkeypatch):
    """Where the first certificate's key is gone, or does not parse, the second one answers."""
    honest = tpm_client.TpmClient.ek_certificate
    for first in (world.issue("EK before a new seed").certificate.raw, b"\x30\x03\x02\x01\x07"):

        def given(client, profile, first=first):
            return first if profile.name == "rsa-2048" else honest(client, profile)

        monkeypatch.setattr(tpm_client.TpmClient, "ek_certificate", given)
        found = _evidence(tpm, challenges.issue(world.NOW)[0])
        assert found.ek_chain[0].public_key().key_size == 384

    monkeypatch.setattr(tpm_client.TpmClient, "ek_certificate", lambda *_: b"\x30\x03\x02\x01\x07")
    with pytest.raises(FormatError, match="does not parse"):
        _evidence(tpm, challenges.issue(world.NOW)[0])


def _sources(tpm, ek: str = "") -> Sources:
    return Sources(tpm=tpm.address, ek=ek, ek_chain=(tpm.issuers,), bench_s=0)


def _evidence(tpm, challenge, ek=""):
    return TpmVerifier().parse(collector.gather(BOUND, challenge, _sources(tpm, ek)).evidence)


@pytest.mark.parametrize(("ek", "size"), [("rsa-2048", 2048), ("ecc-p384", 384)])
def test_node_uses_the_key_the_challenge_was_made_for(tpm, ek, size):
    """A renewal is answered with the EK of the first appraisal, without being told which."""
    first = _evidence(tpm, challenges.issue(world.NOW)[0], ek)
    assert first.ek_chain[0].public_key().key_size == size
    session = BootSession(first.attest.reset_count, first.attest.restart_count)
    challenge, memory = challenges.renew(world.NOW, first.ek_chain[0], first.ak.name, session)
    again = _evidence(tpm, challenge)
    assert again.ek_chain[0].fingerprint == memory.ek_certificate
    assert again.activation_secret.hex() == memory.secret


def test_credential_for_a_kind_of_key_the_tpm_lacks_is_said(tpm):
    """A challenge made for a P-256 EK is refused by a TPM that has none certified, with the next step."""
    foreign = world.issue("EK", curve=ec.SECP256R1()).certificate
    challenge, _ = challenges.renew(world.NOW, foreign, b"\0\x0b" + bytes(32), BootSession(0, 0))
    with pytest.raises(EnvironmentProblem, match="another key") as caught:
        collector.gather(BOUND, challenge, _sources(tpm))
    assert "certify challenge" in caught.value.hint


def test_ek_that_has_no_certificate_cannot_be_chosen(tpm):
    """Asking for a key that the maker did not certify is a usage error."""
    with pytest.raises(UsageError, match="no certificate of that EK"):
        collector.gather(BOUND, challenges.issue(world.NOW)[0], _sources(tpm, "ecc-p521"))


def test_evidence_of_an_ecc_ek_is_appraised_and_renewed(tpm, tmp_path, monkeypatch, capsys):
    """check, appraise, renew with a P-384 EK from the command line: activation is shown, the tier stays T0."""
    from stannary.cli import main as edge

    monkeypatch.setenv("STANNARY_DATA_DIR", str(tmp_path / "data"))
    evidence, asked = str(tmp_path / "e.json"), str(tmp_path / "c.json")
    for extra in ([], ["--for", evidence]):
        assert edge.run(["certify", "challenge", "-o", asked, *extra]) == 0
        check = ["node", "check", "--challenge", asked, "-o", evidence, "--bench-s", "0", "--tpm", tpm.address]
        assert edge.run([*check, "--ek", "ecc-p384", "--ek-issuer", str(tpm.issuers)]) == 0
        capsys.readouterr()
        appraise = ["certify", "appraise", evidence, "--challenge", asked, "--policy", "local"]
        assert edge.run([*appraise, "--test-root", str(tpm.root), "--json"]) == 0
        result = json.loads(capsys.readouterr().out)
    assert result["tier"] == "T0"
    assert "activation" not in {item["id"] for item in result["submods"]["tpm"]["findings"]}


def _define(client, index: int, data: bytes) -> None:
    client._attempt(0x8002, 0x122, struct.pack(">II", tpm_client.OWNER, index) + paravisor.password())
    if data:
        assert client.nv_write(index, data)


@pytest.fixture
def chain_in_memory(tpm):
    """The maker's issuers in NV memory, over three indices, padded at the end."""
    series = b"".join(item.raw for item in certificates.load_bundle(tpm.issuers.read_bytes()))
    pieces = (series[:700], series[700:1400], series[1400:].ljust(900, b"\0"))
    with _opened(tpm) as client:
        for number, piece in enumerate(pieces):
            _define(client, certified.CHAIN_INDEX + number, piece)
    yield
    with _opened(tpm) as client:
        for number in range(len(pieces)):
            _define(client, certified.CHAIN_INDEX + number, b"")


def test_issuers_are_read_from_the_tpm(tpm, chain_in_memory):
    """Where the maker put the issuers into the TPM, nobody has to name them; what has no place in the path stays."""
    challenge = challenges.issue(world.NOW)[0]
    part = collector.gather(BOUND, challenge, Sources(tpm=tpm.address, bench_s=0))
    chain = TpmVerifier().parse(part.evidence).ek_chain
    assert [item.common_name() for item in chain[1:]] == ["swtpm-localca", "swtpm-localca-rootca"]
    with _opened(tpm) as client:
        assert len(certified.issuers(client)) == 2


def test_chain_of_a_hostile_tpm_is_bounded(client, monkeypatch):
    """A TPM whose NV memory never ends is not read to the end; what is no certificate is left."""
    monkeypatch.setattr(client, "nv_read", lambda _: b"\x30\x82" + bytes(60_000))
    assert certified.issuers(client) == ()
    monkeypatch.setattr(client, "nv_read", lambda _: bytes(1000))
    assert certified.issuers(client) == ()


def test_path_of_a_loop_ends():
    """Certificates that name each other as issuers give a bounded path."""
    first = world.issue("loop")
    second = world.issue("loop", first)
    leaf = world.issue("EK", first)
    pool = [second.certificate, first.certificate]
    assert len(certified.path_of(leaf.certificate, pool)) == 2


def test_certificate_from_a_file_is_for_this_tpm_alone(tpm, tmp_path):
    """A P-256 certificate fetched from the maker finds its key; a stranger's is refused."""
    with _opened(tpm) as client, client.endorsement_key(endorsement.ECC_P256) as key:
        own = _certify(key.public).raw
    (tmp_path / "own.der").write_bytes(own)
    (tmp_path / "other.der").write_bytes(world.issue("EK of another TPM", curve=ec.SECP256R1()).certificate.raw)
    challenge = challenges.issue(world.NOW)[0]

    def answer(name):
        sources = Sources(tpm=tpm.address, ek="ecc-p256", ek_certificates=(tmp_path / name,), bench_s=0)
        return TpmVerifier().parse(collector.gather(BOUND, challenge, sources).evidence)

    assert answer("own.der").ek_chain[0].raw == own
    with pytest.raises(EnvironmentProblem, match="does not hold the key"):
        answer("other.der")


@pytest.mark.parametrize(("banks", "quoted"), [("sha384", "sha384"), ("sha1,sha512", "sha512"), ("sha1", "")])
def test_bank_that_the_tpm_keeps_is_quoted(tmp_path, banks, quoted):
    """Without a SHA-256 bank the next stronger one is quoted and appraises; SHA-1 alone is refused here."""
    machine = SoftwareTpm(tmp_path, pcr_banks=banks)
    try:
        if not quoted:
            with pytest.raises(EnvironmentProblem, match="0x0004"):
                _evidence(machine, challenges.issue(world.NOW)[0])
            return
        found = _evidence(machine, challenges.issue(world.NOW)[0])
    finally:
        machine.stop()
    assert found.attest.selections == ((quoted, tpm_client.QUOTED_PCRS),)
    assert set(found.banks) == {quoted}
    digest = tpm_structures.banks_digest(found.attest, found.banks, "sha256")
    assert digest == found.attest.pcr_digest


def test_tpm_without_the_curve_quotes_with_its_rsa_key(tpm, monkeypatch):
    """A TPM that refuses the P-256 template answers with an RSA key; another failure is not taken for that."""
    honest = tpm_client.AK_ECC_TEMPLATE
    monkeypatch.setattr(tpm_client, "AK_ECC_TEMPLATE", honest[:-36] + b"\x00\x3f" + honest[-34:])
    found = _evidence(tpm, challenges.issue(world.NOW)[0])
    assert found.ak.key.key_size == 2048
    assert found.ak.is_attestation_key


@pytest.mark.parametrize(("number", "hint"), [(errno.EACCES, "sudo"), (errno.ENOENT, "UEFI")])
def test_event_log_that_cannot_be_read_is_said(tpm, tmp_path, monkeypatch, number, hint):
    """A quote without its log is sent, and the operator hears why the log is missing and what to do."""
    place, honest = tmp_path / "log", Path.open

    def refuse(path, *rest):
        if path == place:
            raise OSError(number, os.strerror(number))
        return honest(path, *rest)

    monkeypatch.setattr(Path, "open", refuse)
    sources = Sources(tpm=tpm.address, event_log=place, bench_s=0)
    evidence, absent, ran = node.check(challenges.issue(world.NOW)[0], sources)
    assert ran["tpm"] == tpm.address
    assert "tpm" in evidence.parts
    assert os.strerror(number) in absent["event log"]
    assert hint in absent["event log"]


def test_node_check_names_the_certified_keys(tpm, capsys):
    """`node check` alone measures which EKs the maker certified."""
    from stannary.cli import main as edge

    assert edge.run(["node", "check", "--tpm", tpm.address, "--json"]) == 0
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)["requirements"]}
    assert (rows["EK certificate"]["measured"], rows["EK certificate"]["holds"]) == ("rsa-2048, ecc-p384", True)
    assert rows["Azure vTPM"]["measured"] == "no report in the TPM"


def test_policies_follow_from_their_definition():
    """The profile's policy digests are the hashes of the policies it describes (sections B.6.2 to B.6.6)."""
    for code, name, index in ((0x000B, "sha256", 1), (0x000C, "sha384", 2), (0x000D, "sha512", 3)):
        zero = bytes(hashlib.new(name).digest_size)

        def digest(data: bytes, name: str = name) -> bytes:
            return hashlib.new(name, data).digest()

        secret = digest(digest(zero + struct.pack(">II", 0x151, 0x4000000B)))
        # NV index whose content is the policy that an administrator may set: attributes, policy A, hash and its code.
        area = struct.pack(">IHIH", 0x01C07F00 + index, code, 0x220F1008, len(secret)) + secret
        area += struct.pack(">H", len(zero) + 2)
        authorise = digest(zero + struct.pack(">I", 0x192) + struct.pack(">H", code) + digest(area))
        assert digest(zero + struct.pack(">I", 0x171) + secret + authorise) == endorsement.POLICY_B[code]
        assert name != "sha256" or secret == endorsement.POLICY_A_SHA256
