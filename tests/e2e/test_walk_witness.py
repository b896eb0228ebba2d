"""Walk 7: a witness that somebody else runs, on a machine of its own, asked over TLS."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tests.e2e.realm import CAN_RUN, NEEDS_ROOT, Host, Realm
from tests.patience import wait_for

from stannary.market import identity

pytestmark = [
    pytest.mark.slow,
    pytest.mark.needs_root,
    pytest.mark.timeout(900),
    pytest.mark.skipif(not CAN_RUN, reason=NEEDS_ROOT),
]

POLICY = """\
name = "witnessed"
version = 1
minimum_tier = "T0"
min_audit_ppm = 0
cheating_share_ppm = 10000
max_escape = "1"
independence = "declared"
independent_witnesses = 1
allow_unverified = false
"""


def witness(host: Host, directory: Path, log_vkey: str) -> tuple[subprocess.Popen[bytes], dict[str, str]]:
    """Start a witness of its own key and name on a host; return it and what it says of itself."""
    directory.mkdir(mode=0o700, exist_ok=True)
    cert, key, _ = identity.certificate(directory, host.address, time.time())
    words = ["-m", "stannary.tlog.witness_server", "--dir", str(directory / "w"), "--name", "witness.example"]
    words += ["--host", host.address, "--port", "8443", "--tls-cert", str(cert), "--tls-key", str(key)]
    command = ["ip", "netns", "exec", host.namespace, sys.executable, "-P", *words, "--log-vkey", log_vkey]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, env=host.environment)
    assert process.stdout is not None
    with process.stdout as told:
        return process, json.loads(told.readline())


def finish(host: Host, name: str, exit_code: int = 0) -> Path:
    """Run a job to its end, which says so of its receipt; return that."""
    job = host.json("run", host.job(name=name), "--detach")["job"]
    assert host.stannary("wait", job).returncode == exit_code
    return host.cwd / f"{job}.receipt.json"


def test_an_independent_witness_counts_and_holds_nothing_up(tmp_path: Path) -> None:
    """With it a policy that asks for one is met; without it jobs end all the same, and the receipt falls short."""
    with Realm(tmp_path) as realm:
        market, elsewhere = realm.market(), realm.host("witness")
        vkey = market.card["vkey"]
        process, card = witness(elsewhere, tmp_path / "elsewhere", vkey)
        try:
            assert market.stannary("market", "stop", "--dir", str(market.directory)).returncode == 0
            wait_for(lambda: market.process.poll() is not None, "the market's end")
            market.serve("--witness", f"{card['vkey']}@{card['url']}#{card['tls_pin']}")
            wait_for(lambda: card["vkey"] in market.card["witness_vkeys"], "a card that names the witness")
            for operator in ("basalt", "granite"):
                market.node(operator, f"of-{operator}")
            ada = market.buyer("ada")
            wait_for(lambda: [item["state"] for item in ada.json("offers")["offers"]] == ["idle"] * 2, "both nodes")
            (ada.cwd / "policy.toml").write_text(POLICY)
            pins = [word for key in market.card["witness_vkeys"] for word in ("--witness", key)]
            assert ada.stannary("trust", "add", vkey, *pins, "--independent", "witness.example").returncode == 0
            seen = finish(ada, "seen.yaml")
            held = ada.stannary("verify", seen.name, "--policy", "policy.toml", "--json")
            assert held.returncode == 0, held.stdout + held.stderr
            assert not [item for item in json.loads(held.stdout)["findings"] if item["id"].startswith("witness.")]
        finally:
            process.terminate()
            process.wait(30)
        unseen = finish(ada, "unseen.yaml", exit_code=4)  # nobody answers there any more
        short = ada.stannary("verify", unseen.name, "--policy", "policy.toml", "--json")
        assert short.returncode == 4, short.stdout + short.stderr
        assert {"witness.missing", "policy.witness"} <= {item["id"] for item in json.loads(short.stdout)["findings"]}
        assert ada.stannary("verify", unseen.name, "--policy", "local").returncode == 0
