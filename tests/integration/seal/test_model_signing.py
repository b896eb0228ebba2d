"""The public `model_signing` command, installed from the package index, verifies what we opened."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import venv
from pathlib import Path

import pytest
from tests.integration.seal.client import stannary

ENVIRONMENT = Path(__file__).resolve().parents[3] / ".bench" / "model_signing"
PACKAGES = ("model-signing==1.1.1", "pyOpenSSL")  # it imports pyOpenSSL without asking for it

pytestmark = [pytest.mark.slow]


def command() -> str:
    """Return the public command in an environment of its own, made on first use with uv where it is there."""
    binary = ENVIRONMENT / "bin" / "model_signing"
    if not binary.exists():
        if os.environ.get("STANNARY_OFFLINE") == "1":
            pytest.skip("STANNARY_OFFLINE=1, and model_signing was never fetched")
        uv = Path(sys.executable).with_name("uv")
        venv.create(ENVIRONMENT, with_pip=not uv.exists(), clear=True)
        python = str(ENVIRONMENT / "bin" / "python")
        pip = [str(uv), "pip", "install", "--python", python] if uv.exists() else [python, "-m", "pip", "install"]
        links = {"UV_FIND_LINKS": os.environ.get("PIP_FIND_LINKS", "")}  # uv does not read pip's settings
        subprocess.run([*pip, "-q", *PACKAGES], check=True, env={**os.environ, **links})
    return str(binary)


def verify(place: Path, path: Path) -> subprocess.CompletedProcess[str]:
    """Run `model_signing verify key`."""
    signature = path.with_name(path.name + ".sig")
    arguments = ["verify", "key", "--public_key", str(place / "key.pem"), "--signature", str(signature), str(path)]
    return subprocess.run([command(), *arguments], capture_output=True, text=True, check=False)


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_public_command_verifies(tmp_path: Path, kind: str) -> None:
    """An opened file and an opened folder verify; after a changed byte they do not."""
    source = tmp_path / "in"
    (source / "onnx").mkdir(parents=True)
    (source / "config.json").write_text("{}")
    (source / ".gitattributes").write_text("*.bin\n")
    (source / "onnx" / "w.bin").write_bytes(os.urandom(100_000))
    environment = {**os.environ, "STANNARY_DATA_DIR": str(tmp_path / "data")}
    path = source if kind == "folder" else source / "config.json"
    store = str(tmp_path / "store")
    made = json.loads(stannary("seal", str(path), "-o", store, "--json", environment=environment))
    target = tmp_path / "model"
    stannary("open", made["digest"], "--from", store, "-o", str(target), environment=environment)
    shown = json.loads(stannary("artifact", "key", "show", "--json", environment=environment))
    (tmp_path / "key.pem").write_text(shown["model_signing"])
    done = verify(tmp_path, target)
    assert done.returncode == 0, done.stderr
    changed = target if kind == "file" else target / "config.json"
    changed.write_text("{ }")
    assert verify(tmp_path, target).returncode != 0
