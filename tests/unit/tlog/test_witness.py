"""The witness: cosigns one history, whatever it is asked."""

import contextlib
import http.client
import ipaddress
import json
import socket
import subprocess
import sys
import threading
from datetime import datetime
from urllib.parse import urlsplit

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID
from tests.loopback import listening

from stannary.errors import EnvironmentProblem, Refuted, ServiceError, UsageError
from stannary.formats import note
from stannary.formats.dsse import public_bytes
from stannary.tlog import witness_server
from stannary.tlog.log import Log
from stannary.tlog.tree import Tree
from stannary.tlog.witness import Witness, format_request, load_key
from stannary.tlog.witness_client import WitnessClient

KEY = Ed25519PrivateKey.from_private_bytes(b"log key".ljust(32, b"."))
WITNESS_KEY = Ed25519PrivateKey.from_private_bytes(b"witness".ljust(32, b"."))
ORIGIN = "local.market"
VKEY = note.format_vkey(ORIGIN, public_bytes(KEY))
NOW = 1_790_000_000


def leaf(number):
    return number.to_bytes(32, "big")


def witness_in(directory):
    return Witness(directory, "local.witness", WITNESS_KEY, [note.parse_vkey(VKEY)], lambda: NOW)


@pytest.fixture
def grown():
    return Tree([leaf(number) for number in range(20)])


def ask(witness, tree, old, new, *, key=KEY, origin=ORIGIN, proof=None):
    signed = note.sign_checkpoint(origin, new, tree.root(new), key)
    return witness.add_checkpoint(format_request(old, tree.consistency(old, new) if proof is None else proof, signed))


def test_it_cosigns_each_extension(tmp_path, grown):
    """A checkpoint that extends the last one is cosigned with the time of the clock."""
    witness = witness_in(tmp_path)
    for old, new in ((0, 5), (5, 5), (5, 13)):
        answer = ask(witness, grown, old, new)
        assert answer.status == 200
        signed = note.sign_checkpoint(ORIGIN, new, grown.root(new), KEY)
        assert note.verify_cosignature(note.add_cosignatures(signed, [answer.body]), witness.vkey) == NOW


def test_a_wrong_old_size_is_answered_with_ours(tmp_path, grown):
    """409 with the size held, so that the log can send the right proof."""
    witness = witness_in(tmp_path)
    ask(witness, grown, 0, 5)
    answer = ask(witness, grown, 3, 9)
    assert (answer.status, answer.body, answer.content_type) == (409, "5\n", "text/x.tlog.size")


def test_a_second_history_is_never_cosigned(tmp_path, grown):
    """A fork is refused: same size and another root with 409, an extension of the fork with 422."""
    witness = witness_in(tmp_path)
    ask(witness, grown, 0, 5)
    fork = Tree([leaf(99), *(leaf(number) for number in range(1, 20))])
    assert ask(witness, fork, 5, 5).status == 409
    assert ask(witness, fork, 5, 9).status == 422
    assert witness.held(ORIGIN).root == grown.root(5)


def test_bad_requests_change_nothing(tmp_path, grown):
    """Unknown logs, wrong keys, impossible sizes and garbage get 404, 403, 400."""
    witness = witness_in(tmp_path)
    assert ask(witness, grown, 0, 5, origin="other.log").status == 404
    assert ask(witness, grown, 0, 5, key=WITNESS_KEY).status == 403
    assert ask(witness, grown, 7, 5, proof=[]).status == 400
    assert ask(witness, grown, 0, 5, proof=[bytes(32)]).status == 422
    for garbage in (b"", b"old 0\n\n", b"\xff", b"old x\n\nnote", b"old 0\n" + b"A\n" * 90 + b"\n"):
        assert witness.add_checkpoint(garbage).status == 400
    assert witness.held(ORIGIN).size == 0


def test_state_is_durable_before_the_signature(tmp_path, grown, monkeypatch):
    """If the state cannot be written there is no signature; a restarted witness holds what it signed."""
    witness = witness_in(tmp_path)
    ask(witness, grown, 0, 5)

    def full(*_):
        raise EnvironmentProblem("cannot write the log")

    with monkeypatch.context() as patch:
        patch.setattr(witness._files, "write", full)
        with pytest.raises(EnvironmentProblem):
            ask(witness, grown, 5, 9)
    assert witness_in(tmp_path).held(ORIGIN).size == 5


@pytest.mark.parametrize("content", ["", "{", "[]", "[" * 4000, '{"size": "x", "root": ""}', '{"size": 1}', "\0" * 99])
def test_damaged_state_stops_the_witness(tmp_path, grown, content):
    """A witness that forgot what it signed must not start from nothing, and says what to do."""
    ask(witness_in(tmp_path), grown, 0, 5)
    (path,) = (tmp_path / "state").iterdir()
    path.write_text(content)
    with pytest.raises(EnvironmentProblem) as found:
        witness_in(tmp_path)
    assert "stannary market restore" in found.value.hint


def test_a_key_is_made_once_and_kept_private(tmp_path):
    """The key file is readable by its owner only and read back."""
    first = load_key(tmp_path / "key")
    assert (tmp_path / "key").stat().st_mode & 0o777 == 0o600
    assert load_key(tmp_path / "key").private_bytes_raw() == first.private_bytes_raw()
    (tmp_path / "key").write_bytes(b"short")
    with pytest.raises(EnvironmentProblem):
        load_key(tmp_path / "key")


@pytest.fixture
def server(tmp_path):
    command = [sys.executable, "-m", "stannary.tlog.witness_server", "--dir", str(tmp_path / "w"), "--log-vkey", VKEY]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    yield json.loads(process.stdout.readline())
    process.terminate()
    assert process.wait(20) == 0
    process.stdout.close()


def test_the_process_cosigns_a_growing_log(tmp_path, server):
    """Log, client and witness process together: every published checkpoint is cosigned, also after a restart."""
    for start in (0, 3):
        log = Log.open(tmp_path / "log", ORIGIN, KEY, WitnessClient(server["url"], server["vkey"]), interval_s=0.001)
        for number in range(start, start + 3):
            assert log.append(leaf(number)).result(30) == number
        assert note.verify_cosignature(log.checkpoint(), server["vkey"]) > NOW
        log.close()


def test_a_rolled_back_log_gets_no_cosignature(tmp_path, server):
    """A market restored from an old backup cannot publish another history."""
    client = WitnessClient(server["url"], server["vkey"])
    log = Log.open(tmp_path / "log", ORIGIN, KEY, client, interval_s=0.001)
    log.append_many([leaf(number) for number in range(4)]).result(30)
    log.close()
    fresh = WitnessClient(server["url"], server["vkey"])
    other = Log.open(tmp_path / "other", ORIGIN, KEY, fresh, interval_s=0.001, cosign_patience_s=0.0)
    with pytest.raises(ServiceError):
        other.append(leaf(77)).result(30)
    assert other.size == 0
    other.close()


def test_the_client_believes_no_other_key(server):
    """A cosignature by another key than the pinned one is refused, not passed on."""
    other = note.format_vkey("local.witness", public_bytes(KEY), note.KeyType.WITNESS)
    tree = Tree([leaf(0)])
    with pytest.raises(Refuted):
        signed = note.sign_checkpoint(ORIGIN, 1, tree.root(), KEY)
        WitnessClient(server["url"], other)(signed, 1, lambda old: tree.consistency(old, 1))


def test_http_limits_hold(server):
    """Other paths and oversized requests are refused without being read."""
    parts = urlsplit(server["url"])
    connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=10)
    connection.request("POST", "/other", b"x")
    assert connection.getresponse().status == 404
    connection.close()
    connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=10)
    connection.putrequest("POST", "/add-checkpoint")
    connection.putheader("Content-Length", "999999999")
    connection.endheaders()
    assert connection.getresponse().status == 413
    connection.close()


def test_half_sent_requests_keep_no_log_out(server, grown):
    """With hundreds of requests begun and never ended by others on the machine, a checkpoint is cosigned at once."""
    parts = urlsplit(server["url"])
    held = []
    try:
        for _ in range(1200):
            held.append(socket.create_connection((parts.hostname, parts.port), timeout=20))
            with contextlib.suppress(OSError):
                held[-1].sendall(b"POST /add-checkpoint HTTP/1.1\r\nContent-Length: 9000\r\n\r\n")
        signed = note.sign_checkpoint(ORIGIN, 5, grown.root(5), KEY)
        assert WitnessClient(server["url"], server["vkey"])(signed, 5, lambda old: grown.consistency(old, 5))
    finally:
        for connection in held:
            connection.close()


def test_a_witness_that_drips_its_answer_is_given_up():
    """A byte now and then holds no log: the exchange as a whole has the limit."""
    over = threading.Event()

    def drip(connection):
        with contextlib.suppress(OSError):
            connection.sendall(b"HTTP/1.1 200 OK\r\nX: ")
            while not over.wait(0.02):
                connection.sendall(b"x")

    with listening(drip) as url:
        client = WitnessClient(url, note.format_vkey("w", public_bytes(KEY), note.KeyType.WITNESS), timeout_s=0.5)
        with pytest.raises(ServiceError, match="does not answer"):
            client("note", 1, lambda old: [])
        over.set()


def test_nobody_there_is_a_service_error():
    """A witness that does not answer is named with its address."""
    client = WitnessClient("http://127.0.0.1:9", note.format_vkey("w", public_bytes(KEY), note.KeyType.WITNESS))
    with pytest.raises(ServiceError, match=r"127\.0\.0\.1:9"):
        client("note", 1, lambda old: [])


@pytest.fixture
def over_tls(tmp_path):
    """A witness of its own name that speaks TLS, and its certificate's file."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "witness.example")])
    host = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    made = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    made = made.serial_number(1).add_extension(host, critical=False)
    made = made.not_valid_before(datetime(2020, 1, 1)).not_valid_after(datetime(2120, 1, 1)).sign(key, hashes.SHA256())
    (tmp_path / "cert.pem").write_bytes(made.public_bytes(Encoding.PEM))
    (tmp_path / "key.pem").write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    command = [sys.executable, "-m", "stannary.tlog.witness_server", "--dir", str(tmp_path / "w"), "--log-vkey", VKEY]
    command += ["--name", "witness.example", "--tls-cert", str(tmp_path / "cert.pem")]
    command += ["--tls-key", str(tmp_path / "key.pem")]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    yield json.loads(process.stdout.readline()), tmp_path / "cert.pem"
    process.terminate()
    assert process.wait(20) == 0
    process.stdout.close()


def test_a_witness_is_asked_over_tls(over_tls, grown, monkeypatch):
    """Its certificate is the pinned one, or one the roots vouch for; any other is no answer, and so is plain HTTP."""
    card, cert = over_tls
    signed = note.sign_checkpoint(ORIGIN, 5, grown.root(5), KEY)

    def asked(text):
        return WitnessClient.parse(text)(signed, 5, lambda old: grown.consistency(old, 5))

    where = f"{card['vkey']}@{card['url']}"
    assert card["url"].startswith("https://127.0.0.1:")
    assert "witness.example" in asked(f"{where}#{card['tls_pin']}")[0]
    with pytest.raises(ServiceError, match="not the pinned one"):
        asked(f"{where}#{'0' * 64}")
    with pytest.raises(ServiceError, match="certificate"):
        asked(where)
    monkeypatch.setenv("SSL_CERT_FILE", str(cert))  # as an administrator adds a root of his own
    assert "witness.example" in asked(where)[0]
    with pytest.raises(ServiceError, match="does not answer"):
        asked(where.replace("https://", "http://"))


@pytest.mark.parametrize(
    "text",
    [
        f"{VKEY}@https://w.example",
        "{witness}@http://w.example",
        "{witness}@ftp://w.example",
        "{witness}@https://w.example#00",
        "{witness}",
    ],
)
def test_a_witness_that_could_not_be_asked_is_no_witness(text):
    """A log's key, plain HTTP to another machine, and a pin that is none are refused before anything is asked."""
    witness = note.format_vkey("w", public_bytes(WITNESS_KEY), note.KeyType.WITNESS)
    with pytest.raises(UsageError):
        WitnessClient.parse(text.replace("{witness}", witness))


def test_a_witness_on_a_network_speaks_tls(tmp_path, capsys):
    """On any other address than loopback it does not start without a certificate."""
    arguments = ["--dir", str(tmp_path / "w"), "--log-vkey", VKEY, "--host", "0.0.0.0"]
    assert witness_server.main(arguments) == 2
    assert "--tls-cert" in capsys.readouterr().err
