"""The market's keys: made once, private, and never shown."""

from __future__ import annotations

import json
import ssl
import stat
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from stannary.errors import EnvironmentProblem
from stannary.formats import note
from stannary.market import identity
from stannary.wire.card import CARD_FILE, Card, read_card


def test_the_same_directory_is_the_same_market(tmp_path: Path) -> None:
    """Key and admin token are made on first use, 0600, and are the same ever after; repr shows neither."""
    first, again = (identity.load(tmp_path, "local.market") for _ in range(2))
    assert (first.vkey, first.admin_token) == (again.vkey, again.admin_token)
    assert note.parse_vkey(first.vkey).public == first.public
    modes = {stat.S_IMODE((tmp_path / name).stat().st_mode) for name in (identity.KEY_FILE, identity.ADMIN_TOKEN_FILE)}
    assert modes == {0o600}
    assert first.admin_token not in repr(first)


def test_another_kind_of_key_is_refused(tmp_path: Path) -> None:
    """A key file that holds no Ed25519 key stops the market with a reason."""
    pem = ec.generate_private_key(ec.SECP256R1()).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    (tmp_path / identity.KEY_FILE).write_bytes(pem)
    with pytest.raises(EnvironmentProblem, match="another kind of key"):
        identity.load(tmp_path, "local.market")


def test_a_key_that_is_gone_is_not_made_anew(tmp_path: Path) -> None:
    """A market that has a log and no key does not start under another; nothing is written, and the way back is said."""
    identity.load(tmp_path, "local.market")
    (tmp_path / "log").mkdir()
    (tmp_path / "log" / "checkpoint").write_bytes(b"signed by it")
    (tmp_path / identity.KEY_FILE).unlink()
    with pytest.raises(EnvironmentProblem, match="key is gone") as found:
        identity.load(tmp_path, "local.market")
    assert "stannary market restore" in found.value.hint
    assert not (tmp_path / identity.KEY_FILE).exists()


@pytest.mark.parametrize(
    ("name", "content", "hint"),
    [
        (identity.KEY_FILE, b"", "market restore"),
        (identity.KEY_FILE, b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n", "market restore"),
        (identity.ADMIN_TOKEN_FILE, b"", "rm "),
        (identity.ADMIN_TOKEN_FILE, b"\xff\xfe\n", "rm "),
    ],
)
def test_a_damaged_secret_says_what_to_do(tmp_path: Path, name: str, content: bytes, hint: str) -> None:
    """What holds no key or no token stops the market, with the next step."""
    identity.load(tmp_path, "local.market")
    (tmp_path / name).write_bytes(content)
    with pytest.raises(EnvironmentProblem, match="damaged") as found:
        identity.load(tmp_path, "local.market")
    assert hint in found.value.hint


@pytest.mark.parametrize("name", [identity.TLS_CERT_FILE, identity.TLS_KEY_FILE])
def test_a_certificate_that_was_served_is_not_made_anew(tmp_path: Path, name: str) -> None:
    """Where half of it or all of it is gone, nobody's pin would hold: the market says so and does not start."""
    cert, _, fingerprint = identity.certificate(tmp_path, "192.0.2.7", 1_760_000_000.0)
    identity.write_card(tmp_path, Card("https://192.0.2.7:1", "m", "v", (), fingerprint, 7, "/a"))
    (tmp_path / name).unlink()
    for _ in range(2):
        with pytest.raises(EnvironmentProblem, match=rf"{name} is gone") as found:
            identity.certificate(tmp_path, "192.0.2.7", 1_760_000_000.0)
        assert "stannary market restore" in found.value.hint
    cert.write_bytes(b"torn")
    (tmp_path / identity.TLS_KEY_FILE).touch()
    with pytest.raises(EnvironmentProblem, match="certificate is damaged"):
        identity.certificate(tmp_path, "192.0.2.7", 1_760_000_000.0)


@pytest.mark.parametrize("host", ["192.0.2.7", "market.example"])
def test_the_certificate_is_made_once_and_named_by_its_digest(tmp_path: Path, host: str) -> None:
    """The fingerprint is that of the DER; a second start serves the same certificate."""
    cert, key, fingerprint = identity.certificate(tmp_path, host, 1_760_000_000.0)
    assert identity.certificate(tmp_path, host, 1_770_000_000.0) == (cert, key, fingerprint)
    loaded = x509.load_der_x509_certificate(ssl.PEM_cert_to_DER_cert(cert.read_text()))
    assert loaded.fingerprint(loaded.signature_hash_algorithm).hex() == fingerprint  # type: ignore[arg-type]  # SHA-256
    assert stat.S_IMODE(key.stat().st_mode) == 0o600


def test_the_card_is_one_json_line(tmp_path: Path) -> None:
    """market.json holds what a client needs, and no secret but the path of one."""
    identity.write_card(tmp_path, Card("http://127.0.0.1:1", "m", "v", ("w",), "", 7, "/a/admin-token"))
    lines = (tmp_path / CARD_FILE).read_text().splitlines()
    assert json.loads(lines[0])["admin_token_file"] == "/a/admin-token"
    assert len(lines) == 1
    assert [path.name for path in tmp_path.iterdir()] == [CARD_FILE]


def test_a_card_is_read_as_it_was_written(tmp_path: Path) -> None:
    """The reader of market.json gets the writer's card; no card is None, a damaged one says what to remove."""
    assert read_card(tmp_path) is None
    card = Card("http://127.0.0.1:1", "m", "v", ("w",), "", 7, "/a/admin-token")
    identity.write_card(tmp_path, card)
    assert read_card(tmp_path) == card
    older = {name: value for name, value in json.loads(card.line()).items() if name != "local_url"}
    (tmp_path / CARD_FILE).write_text(json.dumps(older))
    assert read_card(tmp_path) == card  # a market that runs through an upgrade is found, and can be stopped
    for damaged in (b"", b"{}", b"[]", (card.line()[:-1] + ', "more": 1}').encode()):
        (tmp_path / CARD_FILE).write_bytes(damaged)
        with pytest.raises(EnvironmentProblem, match="damaged") as refused:
            read_card(tmp_path)
        assert CARD_FILE in refused.value.hint


@pytest.mark.parametrize("damage", ["garbage", "another", "encrypted"])
def test_a_damaged_tls_key_says_what_to_do(tmp_path: Path, damage: str) -> None:
    """A key that is damaged, another certificate's or encrypted is refused at start; no password is asked for."""
    host = "192.0.2.7"
    _, key, _ = identity.certificate(tmp_path, host, 1_760_000_000.0)
    other = ec.generate_private_key(ec.SECP256R1())
    secret = serialization.BestAvailableEncryption(b"a password") if damage == "encrypted" else None
    encryption = secret or serialization.NoEncryption()
    pem = other.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption)
    key.write_bytes(b"-----BEGIN PRIVATE KEY-----\nAAAA" if damage == "garbage" else pem)
    with pytest.raises(EnvironmentProblem, match="TLS key") as caught:
        identity.certificate(tmp_path, host, 1_770_000_000.0)
    assert "stannary market restore" in caught.value.hint
