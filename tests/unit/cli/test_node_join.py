"""A join token is a secret: no command line shows it while anything is waited for."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from stannary.wire.join_token import JoinToken

ACCEPT_S = 60.0


@pytest.fixture
def market():
    """A market that takes a connection and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.settimeout(ACCEPT_S)
        yield listening


@pytest.fixture
def token(market):
    url = f"http://127.0.0.1:{market.getsockname()[1]}"
    return JoinToken(url=url, vkey="m+0123+AQ==", tls="", secret="s3cret" * 4, operator="basalt").spell()


@pytest.mark.parametrize("how", ["argument", "variable", "standard input"])
def test_no_command_line_shows_a_token(market, token, how, tmp_path):
    """However the token is given, while the market is asked for its terms /proc/PID/cmdline does not hold it."""
    words = [sys.executable, "-P", "-m", "stannary", "node", "join", token if how == "argument" else "-", "--cpus", "1"]
    environment = {**os.environ, "STANNARY_DATA_DIR": str(tmp_path / "data")}
    if how == "variable":
        environment["STANNARY_JOIN_TOKEN"] = token
    said = subprocess.PIPE if how == "standard input" else subprocess.DEVNULL
    with subprocess.Popen(words, stdin=said, stderr=subprocess.PIPE, env=environment, text=True) as joining:
        try:
            if joining.stdin is not None:
                joining.stdin.write(token + "\n")
                joining.stdin.flush()
            connection, _ = market.accept()  # by now it waits
            with connection:
                shown = Path(f"/proc/{joining.pid}/cmdline").read_bytes().split(b"\0")
                assert connection.recv(1), "it asks"
        finally:
            joining.kill()
    assert shown[-5:] == [b"join", b"-", b"--cpus", b"1", b""]
    assert token.encode() not in shown
