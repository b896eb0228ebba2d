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


def test_what_is_excluded_is_not_sealed(place: Path, capsys: Printed) -> None:
    """Patterns leave files out, a hub's snapshot is sealed through its links, and two files' tensors are told apart."""
    snapshot = place / "models--org--name" / "snapshots" / "1"
    snapshot.mkdir(parents=True)
    (snapshot.parent.parent / "blobs").mkdir()
    (snapshot.parent.parent / "blobs" / "aa").write_bytes(small_model())
    for name in ("a.safetensors", "b.safetensors"):
        (snapshot / name).symlink_to("../../blobs/aa")
    (snapshot / "old.pt").write_bytes(b"x")
    assert run(["seal", str(snapshot), "-o", "store"]) == 1
    assert "pickle refused" in capsys.readouterr().err
    assert run(["seal", str(snapshot), "-o", "store", "--exclude", "*.pt"]) == 0
    assert "left out: 1 " in capsys.readouterr().err
    digest = sealed(capsys, "--exclude", "*.pt", path=str(snapshot))
    assert run(["open", digest, "--from", "store", "-o", "again"]) == 0
    assert {path.name for path in (place / "again").iterdir()} == {"a.safetensors", "b.safetensors"}
    capsys.readouterr()
    assert run(["artifact", "show", digest, "--from", "store", "--tensors"]) == 0
    shown = capsys.readouterr().out
    assert shown.count("scale  in a.safetensors") == shown.count("scale  in b.safetensors") == 1


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
        (["seal", "", "-o", "store"], 2),
        (["seal", ".", "-o", "store"], 2),
        (["seal", "model.safetensors", "-o", "http://127.0.0.1:9/"], 2),
        (["seal", "model.safetensors", "-o", "store", "--parent", "latest"], 1),
        (["open", "sha256:" + "0" * 64, "--from", "store", "-o", "x", "--jobs", "0"], 2),
        (["open", "sha256:" + "0" * 64, "--from", "store", "-o", "x", "--jobs", "65"], 2),
        (["open", "sha256:" + "0" * 64, "--from", "store", "-o", "x", "--audience", "me"], 2),
        (["artifact", "ls", "--from", "nowhere"], 102),
        (["artifact", "show", "latest", "--from", "store"], 1),
    ],
)
def test_wrong_arguments(place: Path, capsys: Printed, arguments: list[str], code: int) -> None:
    """Each mistake has its exit code, and the next command stands in its last line."""
    sealed(capsys)
    assert run(arguments) == code
    assert capsys.readouterr().err.splitlines()[-1].startswith("  next  ")


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


def test_a_difference_opens_with_the_wraps_of_its_versions(
    place: Path, capsys: Printed, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who was given a version and the one before it opens the newer; with one of the two he is told what to add."""
    versions = [sealed(capsys)]
    changed = bytearray(small_model())
    changed[len(changed) // 2] ^= 1
    (place / "model.safetensors").write_bytes(changed)
    versions.append(sealed(capsys, "--parent", versions[0]))
    monkeypatch.setenv("STANNARY_DATA_DIR", str(place / "other"))
    assert run(["artifact", "key", "new", "--json"]) == 0
    receiving = json.loads(capsys.readouterr().out)["receiving"]
    monkeypatch.setenv("STANNARY_DATA_DIR", str(place / "data"))
    for number, digest in enumerate(versions):
        terms = ["--to", receiving, "--audience", "job-1", "-o", f"wrap{number}"]
        assert run(["artifact", "wrap", digest, "--from", "store", *terms]) == 0
    monkeypatch.setenv("STANNARY_DATA_DIR", str(place / "other"))
    opening = ["open", versions[1], "--from", "store", "--audience", "job-1", "-o", "mine"]
    capsys.readouterr()
    for lacking in (["--wrap", "wrap1"], ["--wrap", "wrap0", "--wrap", "wrap0"]):
        assert run([*opening, *lacking]) == 6
        assert "--wrap FILE for each" in capsys.readouterr().err
    assert run([*opening, "--wrap", "wrap0"]) == 3
    assert not (place / "mine").exists()
    assert run([*opening, "--wrap", "wrap0", "--wrap", "wrap1"]) == 0
    assert (place / "mine").read_bytes() == changed


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


def test_no_key_is_made_for_a_mistake(place: Path, capsys: Printed) -> None:
    """A key appears with the first thing that can be sealed, not with a typing error before it."""
    for arguments in (["missing", "-o", "store"], ["model.safetensors", "-o", "ftp://x"], [".", "-o", "store"]):
        assert run(["seal", *arguments]) != 0
    assert not (place / "data" / "seal" / "owner.key").exists()
    (place / "model").mkdir()
    (place / "model" / "a.bin").write_text("x")
    assert run(["seal", "model", "-o", "model/../store"]) == 0  # beside PATH, however it is spelled
    assert run(["seal", "model", "-o", "model"]) == 2


def test_key_for_a_reader_who_never_sealed(place: Path, capsys: Printed) -> None:
    """`artifact key new` makes a key once; before it, what needs one says how to get one."""
    assert run(["artifact", "key", "show"]) == 102
    assert "artifact key new" in capsys.readouterr().err
    assert run(["artifact", "key", "new", "--json"]) == 0
    made = json.loads(capsys.readouterr().out)
    assert run(["artifact", "key", "show", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert {name: shown[name] for name in made} == made
    assert run(["artifact", "key", "new"]) == 1


@pytest.mark.parametrize(
    ("data", "code", "word"),
    [
        (b"age-encryption.org/v1\n-> X25519 x\n", 1, "age -d"),
        (b"not a key", 1, "artifact key export"),
        (b"{}", 1, "format"),
        (b"x" * 70_000, 1, "too large"),
    ],
)
def test_import_of_something_else(place: Path, capsys: Printed, data: bytes, code: int, word: str) -> None:
    """What is no key says so before a passphrase is asked for."""
    (place / "key").write_bytes(data)
    assert run(["artifact", "key", "import", "key"]) == code
    assert word in capsys.readouterr().err
    assert not (place / "data" / "seal" / "owner.key").exists()


def test_passphrase_files_of_other_systems(place: Path, capsys: Printed, monkeypatch: pytest.MonkeyPatch) -> None:
    """A line end of Windows and an accent of a Mac are the same passphrase; bytes that are no text are refused."""
    monkeypatch.setattr("stannary.seal.keystore.SCRYPT_N", 2**14)
    sealed(capsys)
    (place / "pass").write_bytes("un mot de passé\n".encode())
    (place / "mac").write_bytes("un mot de passe\u0301\r\n".encode())
    (place / "bytes").write_bytes(b"\xff" * 20)
    assert run(["artifact", "key", "export", "k.json", "--passphrase-file", "bytes"]) == 2
    assert run(["artifact", "key", "export", "k.json", "--passphrase-file", "pass"]) == 0
    monkeypatch.setenv("STANNARY_DATA_DIR", str(place / "mac-data"))
    assert run(["artifact", "key", "import", "k.json", "--passphrase-file", "mac"]) == 0


def test_lists_that_are_empty_say_so(place: Path, capsys: Printed) -> None:
    """An empty store and two equal artifacts are told in words, not by a lone headline."""
    (place / "store").mkdir()
    assert run(["artifact", "ls", "--from", "store"]) == 0
    assert "no artifact in store" in capsys.readouterr().err
    digest = sealed(capsys)
    assert run(["artifact", "diff", digest, digest, "--from", "store"]) == 0
    assert "no difference" in capsys.readouterr().err


def test_broken_open_says_what_is_kept(place: Path, capsys: Printed, monkeypatch: pytest.MonkeyPatch) -> None:
    """When the link is lost, the place of what came is told; the next run goes on there and takes it away."""
    from stannary.seal.stores.mirrors import Mirrors
    from stannary.seal.stores.source import SourceFailure

    digest = sealed(capsys)
    real, calls = Mirrors.open_shard, iter(range(10**6))

    def lost(*arguments: object) -> None:
        if next(calls) >= 2:
            raise SourceFailure("the link is gone")
        real(*arguments)  # type: ignore[arg-type]  # passed through

    monkeypatch.setattr(Mirrors, "open_shard", lost)
    opening = ["open", digest, "--from", "store", "-o", "again", "--jobs", "1"]
    assert run(opening) == 1
    printed = capsys.readouterr().err
    assert "kept for the next run: .again." in printed
    assert printed.splitlines()[-1].startswith("  next  run the same command again")
    monkeypatch.undo()
    monkeypatch.setenv("STANNARY_DATA_DIR", str(place / "data"))
    monkeypatch.chdir(place)
    assert run(opening) == 0
    assert "2 shards resumed" in capsys.readouterr().err
    assert not list(place.glob(".again*"))


def test_bundle_never_replaces_a_file(place: Path, capsys: Printed) -> None:
    """PATH.sig of somebody else stays; the artifact is opened all the same and the gap is told."""
    digest = sealed(capsys)
    (place / "again.sig").write_text("mine")
    assert run(["open", digest, "--from", "store", "-o", "again", "--json"]) == 0
    printed = capsys.readouterr()
    assert json.loads(printed.out)["signature"] is None
    assert "not written" in printed.err
    assert (place / "again.sig").read_text() == "mine"
    assert (place / "again").read_bytes() == small_model()


def test_blame_records_add_up(place: Path, capsys: Printed) -> None:
    """A second lying mirror is written behind the first; where they cannot be written, the opening stands."""
    import shutil

    digest = sealed(capsys)
    for name in ("bad1", "bad2"):
        shutil.copytree(place / "store", place / name)
        for path in (place / name / "b3").iterdir():
            path.write_bytes(path.read_bytes()[:-1] + b"!")
        sources = ["--from", name, "--from", "store", "--blame", "blame.jsonl"]
        assert run(["open", digest, *sources, "-o", f"again-{name}"]) == 0
    assert len((place / "blame.jsonl").read_text().splitlines()) == 2
    assert run(["open", digest, "--from", "bad1", "--from", "store", "-o", "third", "--blame", "no/such/file"]) == 0
    assert "blame records were not written" in capsys.readouterr().err


def test_digests_are_not_cut_on_a_narrow_terminal() -> None:
    """A table on a terminal shows every cell whole: digests in it are there to be copied."""
    import io

    from stannary.cli.output import Output

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    stdout = Terminal()
    digest = "sha256:" + "0123456789abcdef" * 4
    Output(stdout=stdout, stderr=io.StringIO()).table(("digest", "name"), [[digest, "x" * 60]], [])
    assert digest in stdout.getvalue()
    assert "x" * 60 in stdout.getvalue()
