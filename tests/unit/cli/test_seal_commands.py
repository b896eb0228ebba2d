"""`stannary seal`, `open` and `artifact` as people and scripts use them."""

from __future__ import annotations

import json
from pathlib import Path

import pyrage
import pytest
from tests.unit.seal.world import small_model

from stannary.cli.main import run

Printed = pytest.CaptureFixture[str]


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a model, and a data folder of its own."""
    monkeypatch.setenv("STANNARY_DATA_DIR", str(tmp_path / "data"))
    (tmp_path / "model.safetensors").write_bytes(small_model())
    monkeypatch.chdir(tmp_path)
    return tmp_path


def sealed(capsys: Printed, *more: str, path: str = "model.safetensors") -> str:
    """Seal into `store` and return the digest."""
    assert run(["seal", path, "-o", "store", "--shard-bytes", "65536", "--json", *more]) == 0
    digest: str = json.loads(capsys.readouterr().out)["digest"]
    return digest


def test_seal_prints_the_digest_alone(place: Path, capsys: Printed) -> None:
    """stdout is the digest and nothing else; talk goes to stderr."""
    assert run(["seal", "model.safetensors", "-o", "store"]) == 0
    printed = capsys.readouterr()
    assert printed.out.startswith("sha256:")
    assert printed.out.count("\n") == 1
    assert "owner key" in printed.err


def test_seal_and_open(place: Path, capsys: Printed) -> None:
    """What was sealed opens to the same bytes, with its model-signing bundle beside it."""
    digest = sealed(capsys)
    assert run(["open", digest, "--from", "store", "-o", "again.safetensors"]) == 0
    assert (place / "again.safetensors").read_bytes() == small_model()
    bundle = json.loads((place / "again.safetensors.sig").read_text())
    assert bundle["mediaType"].startswith("application/vnd.dev.sigstore.bundle")


def test_open_fails_clean(place: Path, capsys: Printed) -> None:
    """A changed shard gives exit code 3, three lines and nothing at PATH."""
    digest = sealed(capsys)
    for path in (place / "store" / "b3").iterdir():
        path.write_bytes(path.read_bytes()[:-1] + b"!")
    assert run(["open", digest, "--from", "store", "-o", "again"]) == 3
    assert "E-REFUTED" in capsys.readouterr().err
    assert not list(place.glob("*again*"))


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["open", "sha256:zz", "--from", "store", "-o", "x"], 1),
        (["open", "sha256:" + "0" * 64, "--from", "store", "-o", "x"], 102),
        (["open", "sha256:" + "0" * 64, "--from", "ftp://x", "-o", "x"], 2),
        (["seal", "missing", "-o", "store"], 102),
        (["seal", "model.safetensors", "-o", "store", "--shard-bytes", "1000"], 2),
        (["seal", "model.safetensors", "-o", "store", "--jobs", "0"], 2),
        (["seal", "model.safetensors"], 2),
    ],
)
def test_wrong_arguments(place: Path, capsys: Printed, arguments: list[str], code: int) -> None:
    """Each mistake has its exit code."""
    sealed(capsys)
    assert run(arguments) == code


def test_ls_and_show(place: Path, capsys: Printed) -> None:
    """The owner sees names; show lists files, groups and codecs."""
    digest = sealed(capsys)
    assert run(["artifact", "ls", "--from", "store", "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert (row["digest"], row["state"], row["name"]) == (digest, "ok", "model.safetensors")
    assert run(["artifact", "show", digest, "--from", "store", "--tensors", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert {item["name"] for item in shown["tensors"]} >= {"embed.weight", "scale"}
    assert shown["groups"]["layers.0"] == 1


def test_ls_of_a_damaged_store(place: Path, capsys: Printed) -> None:
    """A head that does not hash to its name is shown as refuted; the others are listed."""
    good = sealed(capsys)
    bad = sealed(capsys, "--no-index")
    (place / "store" / "head" / bad[7:]).write_text("{}")
    assert run(["artifact", "ls", "--from", "store", "--json"]) == 0
    states = {row["digest"]: row["state"] for row in json.loads(capsys.readouterr().out)}
    assert states == {good: "ok", bad: "E-REFUTED"}


def test_diff_names_what_changed(place: Path, capsys: Printed) -> None:
    """A changed tensor is named, its neighbours in the same shard are not."""
    first = sealed(capsys)
    data = bytearray(small_model())
    data[-1] ^= 1
    (place / "model.safetensors").write_bytes(data)
    second = sealed(capsys, "--parent", first)
    assert run(["artifact", "diff", first, second, "--from", "store", "--json"]) == 0
    assert [(row["kind"], row["name"]) for row in json.loads(capsys.readouterr().out)] == [("changed", "scale")]


def test_wrap_for_another_user(place: Path, capsys: Printed, monkeypatch: pytest.MonkeyPatch) -> None:
    """A second user opens with a wrap made for his key and audience, and with no other."""
    digest = sealed(capsys)
    monkeypatch.setenv("STANNARY_DATA_DIR", str(place / "other"))
    (place / "x.bin").write_text("x")
    sealed(capsys, path="x.bin")  # makes the other user's key
    assert run(["artifact", "key", "show", "--json"]) == 0
    receiving = json.loads(capsys.readouterr().out)["receiving"]
    assert run(["open", digest, "--from", "store", "-o", "mine"]) == 6
    monkeypatch.setenv("STANNARY_DATA_DIR", str(place / "data"))
    arguments = ["artifact", "wrap", digest, "--from", "store", "--to", receiving, "--audience", "job-1"]
    assert run([*arguments, "-o", "wrap.json"]) == 0
    monkeypatch.setenv("STANNARY_DATA_DIR", str(place / "other"))
    opening = ["open", digest, "--from", "store", "-o", "mine", "--wrap", "wrap.json", "--audience"]
    assert run([*opening, "job-2"]) == 3
    assert not (place / "mine").exists()
    assert run([*opening, "job-1"]) == 0
    assert (place / "mine").read_bytes() == small_model()


def test_key_export_import_and_backup(place: Path, capsys: Printed, monkeypatch: pytest.MonkeyPatch) -> None:
    """The key survives an export and an age backup; both open the artifact on another machine."""
    digest = sealed(capsys)
    identity = pyrage.x25519.Identity.generate()
    (place / "pass").write_text("correct horse battery staple\n")
    assert run(["artifact", "key", "export", "key.json", "--passphrase-file", "pass"]) == 0
    assert run(["artifact", "key", "backup", "key.age", "--to", str(identity.to_public())]) == 0
    (place / "key.plain").write_bytes(pyrage.decrypt((place / "key.age").read_bytes(), [identity]))
    assert (place / "key.json").stat().st_mode & 0o077 == 0
    for number, name in enumerate(("key.json", "key.plain")):
        monkeypatch.setenv("STANNARY_DATA_DIR", str(place / f"machine{number}"))
        assert run(["artifact", "key", "import", name, "--passphrase-file", "pass"]) == 0
        assert run(["open", digest, "--from", "store", "-o", f"again{number}"]) == 0
        assert (place / f"again{number}").read_bytes() == small_model()
    assert run(["artifact", "key", "import", "key.json", "--passphrase-file", "pass"]) == 1  # never over another


def test_blame_record_is_written(place: Path, capsys: Printed) -> None:
    """`--blame FILE` holds a signed record of the mirror that lied; the open succeeds from the other."""
    import shutil

    from stannary.formats import dsse
    from stannary.seal import blame, keystore

    digest = sealed(capsys)
    shutil.copytree(place / "store", place / "bad")
    for path in (place / "bad" / "b3").iterdir():
        path.write_bytes(path.read_bytes()[:-1] + b"!")
    sources = ["--from", str(place / "bad"), "--from", str(place / "store")]
    assert run(["open", digest, *sources, "-o", "again", "--blame", "blame.jsonl", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["blamed"] == [str(place / "bad")]
    envelope = dsse.parse(json.loads((place / "blame.jsonl").read_text()))
    assert blame.check(envelope, keystore.load().public).mirror == str(place / "bad")
