"""`market add|ls|use|rm`, and a market somebody serves: nothing is stored unless all of it is right."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from tests.integration.local.conftest import document

from stannary import buyer, files
from stannary.formats import dsse, note
from stannary.sdk import brokers, profile, trustfile
from stannary.sdk.local import LocalMarket
from stannary.sdk.processes import wait_until
from stannary.wire.card import read_card

pytestmark = pytest.mark.timeout(300)
HOST = "127.0.0.3"  # beyond what passes for loopback here: served by TLS


class Served:
    """A market somebody runs by `stannary market serve`."""

    def __init__(self, directory):
        self.directory = directory
        self.log = directory.parent / "serve.log"

    def serve(self, *arguments):
        words = ["market", "serve", "--dir", str(self.directory), "--", "--host", HOST, *arguments]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-P", "-m", "stannary", *words], stdout=log, stderr=log, env=dict(os.environ)
            )
        market = LocalMarket(self.directory)
        assert wait_until(lambda: market.card is not None or self.process.poll() is not None, 60)

    def end(self):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        self.process.wait(30)

    @property
    def card(self):
        return read_card(self.directory)

    def token(self):
        market = LocalMarket(self.directory)
        with market.operator(market.card) as operator:
            return operator.api_token("ada", 10_000_000).token

    def line(self):
        """Return the words after `stannary` of the line the operator prints."""
        return self.card.add_command().split()[1:]


def on_a_terminal(*words):
    """Return the lines a command prints on a terminal of 80 columns."""
    reader, writer = pty.openpty()
    try:
        words = [sys.executable, "-P", "-m", "stannary", *words]
        subprocess.run(words, stdout=writer, stderr=subprocess.DEVNULL, env={**os.environ, "COLUMNS": "80"}, check=True)
        return os.read(reader, 4096).decode().splitlines()
    finally:
        os.close(reader)
        os.close(writer)


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    directory = tmp_path_factory.mktemp("served")
    with pytest.MonkeyPatch.context() as patch:  # of who runs the market
        patch.setenv("STANNARY_CONFIG_DIR", str(directory / "config"))
        patch.setenv("STANNARY_DATA_DIR", str(directory / "data"))
        made = Served(directory / "market")
        made.serve()
    yield made
    made.end()


@pytest.fixture(autouse=True)
def buyers_home(home):
    return home


def test_the_printed_line_adds_the_market_whole(served, stannary):
    """Address, key, witness and certificate are on the operator's line; with a token it is the default, and pinned."""
    printed = stannary("market", "card", "--dir", str(served.directory)).stdout.strip()
    said = served.log.read_text()
    assert printed == served.card.add_command() and f"buyers add this market by:  {printed}" in said
    assert '{"' not in said, "the card as JSON is for --json"
    assert on_a_terminal("market", "card", "--dir", str(served.directory)) == [printed], "it can be copied"
    done = stannary(*printed.split()[1:], stdin=served.token())
    assert done.returncode == 0, done.stderr
    used = profile.resolve(None, {})
    assert (used.profile.name, used.profile.url, used.profile.vkey) == ("default", served.card.url, served.card.vkey)
    (pinned,) = trustfile.load().markets
    assert pinned.witnesses == served.card.witness_vkeys != ()
    assert document(stannary("ls", "--json")) == {"jobs": []}


@pytest.mark.parametrize(
    ("wrong", "exit_code"), [("key", 6), ("pin", 6), ("token", 6), ("witness", 2), ("address", 1), ("name", 2)]
)
def test_nothing_is_stored_when_one_of_it_is_wrong(served, stannary, wrong, exit_code):
    """Another key, certificate, token, witness, address or name is refused with a reason, and no file is written."""
    words, token = served.line(), served.token()
    key, strange = served.card.vkey, Ed25519PrivateKey.generate()
    name = key.partition("+")[0]
    bent = {
        "key": ("--key", note.format_vkey(name, dsse.public_bytes(strange))),
        "pin": ("--tls-pin", "0" * 64),
        "witness": ("--witness", note.format_vkey("w", dsse.public_bytes(strange), note.KeyType.WITNESS)),
    }
    if wrong in bent:
        flag, value = bent[wrong]
        words[words.index(flag) + 1] = value
    elif wrong == "address":
        words[2] = f"https://{HOST}:9"
    elif wrong == "name":
        words += ["--name", "local"]
    else:
        token = "stk_nobody"
    refused = stannary(*words, stdin=token)
    assert refused.returncode == exit_code, refused.stderr
    assert "  why   " in refused.stderr and "  next  " in refused.stderr
    assert profile.load(profile.config_path()) == profile.Config() and trustfile.load().markets == ()
    assert not profile.token_path("default").exists()


def test_a_market_without_its_witness_on_the_line_gets_it_pinned(served, stannary):
    """Only the key was given: what the market names as its witness, over the pinned certificate, is pinned too."""
    words = served.line()
    at = words.index("--witness")
    del words[at : at + 2]
    assert stannary(*words, stdin=served.token()).returncode == 0
    assert trustfile.load().markets[0].witnesses == served.card.witness_vkeys


def test_a_second_market_takes_no_other_place(served, stannary):
    """A market of a taken name is refused, one without a name gets its own; `ls`, `use` and `rm` choose."""
    first = profile.Profile("default", "https://10.0.0.1:1", "other.market+00000000+AAAA")
    profile.store(first, files.Secret("stk_first"), make_default=True)
    refused = stannary(*served.line(), "--name", "default", stdin=served.token())
    assert refused.returncode == 1 and "stannary market rm default" in refused.stderr
    assert stannary(*served.line(), stdin=served.token()).returncode == 0
    name = served.card.name
    listed = document(stannary("market", "ls", "--json"))
    assert listed["default"] == name
    assert {item["profile"] for item in listed["markets"]} == {"default", name, "local"}
    assert document(stannary("market", "use", "default", "--json")) == {"default": "default"}
    assert document(stannary("market", "rm", name, "--json")) == {"removed": name, "default": "default"}
    assert not profile.token_path(name).exists() and profile.resolve(None, {}).token.value == "stk_first"
    assert stannary("market", "use", name).returncode == 102


def test_a_market_with_open_jobs_is_not_forgotten_unasked(served, stannary):
    """`market rm` counts the jobs that need its broker; with --yes it goes, and its broker with it."""
    known = profile.Profile("default", served.card.url, served.card.vkey, (), served.card.tls_fingerprint)
    profile.store(known, files.Secret("stk_x"), make_default=True)
    place = buyer.root() / "jobs" / "j-000000000000"
    place.mkdir(parents=True)
    (place / "market").write_text(known.vkey)
    (place / "account").write_text("default")
    running, _ = brokers.ensure(profile.resolve(None, {}))
    refused = stannary("market", "rm", "default")
    assert refused.returncode == 1 and "1 jobs need the broker" in refused.stderr
    assert stannary("market", "rm", "default", "--yes").returncode == 0
    assert not running.is_alive


def test_a_served_market_is_seen_and_stopped_where_it_is(served, stannary):
    """`status --dir` names its address and process, `stop --dir` ends it, and not a file of it is gone."""
    known = profile.Profile("default", served.card.url, served.card.vkey, (), served.card.tls_fingerprint)
    profile.store(known, files.Secret(served.token()), make_default=True)
    before, where = {path.name for path in served.directory.iterdir()}, ("--dir", str(served.directory))
    status = document(stannary("market", "status", *where, "--json"))
    assert status["url"] == served.card.url and status["answers"] is True
    assert {"name": "market", "pid": served.process.pid} in status["processes"]
    again = stannary("market", "serve", *where)
    assert again.returncode == 1 and "runs here already" in again.stderr
    assert document(stannary("market", "stop", *where, "--json"))["stopped"] == ["market"]
    assert served.process.wait(30) == 0
    gone = before - {path.name for path in served.directory.iterdir()}
    assert gone <= {"market.db-wal", "market.db-shm"}  # SQLite's own, folded into market.db at an orderly end
    down = document(stannary("market", "status", *where, "--json"))
    assert down["answers"] is False and down["processes"] == []
    for command in (["ls"], ["run", "--example", "hello"]):  # to its buyer it is somebody else's: no circle
        refused = stannary(*command)
        assert refused.returncode == 1 and "next  stannary market status" in refused.stderr, refused.stderr
    answer = stannary("market", "status")
    assert answer.returncode == 0 and "does not answer" in answer.stdout and "stannary market ls" in answer.stdout
    assert document(stannary("market", "start", *where, "--json"))["url"] == known.url
    assert document(stannary("market", "stop", *where, "--json"))["stopped"] == ["market"]
