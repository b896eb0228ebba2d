"""docs/verify-with-openssl.sh: the auditor's check without any tool of ours."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from .world import World

SCRIPT = Path(__file__).parents[3] / "docs" / "verify-with-openssl.sh"
TOOLS = ("bash", "openssl", "sha256sum", "base64", "jq")
MISSING = [tool for tool in TOOLS if shutil.which(tool) is None]

pytestmark = pytest.mark.skipif(bool(MISSING), reason=f"this machine lacks {', '.join(MISSING)}")


@pytest.fixture(scope="module")
def world():
    return World(rounds=1, lanes=1).play()


@pytest.fixture(scope="module")
def value(world):
    return json.loads(world.receipt())


def run(tmp_path, world, value, *keys):
    path = tmp_path / "job.receipt.json"
    path.write_text(json.dumps(value, indent=1))
    command = ["bash", str(SCRIPT), str(path), *(keys or (world.vkey, world.witness_vkey))]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def test_an_honest_receipt_passes(tmp_path, world, value):
    """Log, witness, receipt and every statement in evidence are checked, and OK is the last word."""
    done = run(tmp_path, world, value)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "OK"
    assert f"evidence {len(value['evidence'])} statements" in done.stdout


def flip(text):
    return ("B" if text[5] == "A" else "A").join((text[:5], text[6:]))


def tamper_proof(value):
    lines = value["proof"].split("\n")
    lines[2] = flip(lines[2])
    return {**value, "proof": "\n".join(lines)}


def tamper_evidence(value):
    first, *rest = value["evidence"]
    payload = first["envelope"]["payload"]
    return {**value, "evidence": [{**first, "envelope": {**first["envelope"], "payload": flip(payload)}}, *rest]}


def tamper_signature(value):
    (signature,) = value["receipt"]["signatures"]
    return {**value, "receipt": {**value["receipt"], "signatures": [{**signature, "sig": flip(signature["sig"])}]}}


@pytest.mark.parametrize(
    "tamper",
    [
        tamper_proof,
        tamper_evidence,
        tamper_signature,
        lambda value: {**value, "evidence": value["evidence"][:-1]},
        lambda value: {**value, "proof": value["proof"].replace("\nindex ", "\nindex 1")},
        lambda value: {**value, "proof": value["proof"].replace("local.market\n", "other.market\n")},
    ],
)
def test_a_tampered_receipt_is_refused(tmp_path, world, value, tamper):
    """A changed path, payload, signature, list, index or origin ends with REFUSED and exit code 3."""
    done = run(tmp_path, world, tamper(value))
    assert (done.returncode, done.stdout.endswith("OK\n")) == (3, False)
    assert "REFUSED" in done.stderr


def test_another_key_is_an_unknown_log(tmp_path, world, value):
    """With another pinned key the receipt is not believed, whatever it says of itself."""
    other = World(rounds=1, lanes=1)
    other.market_key = other.buyer_key
    done = run(tmp_path, world, value, other.vkey)
    assert done.returncode == 3
    assert "unknown log" in done.stderr
