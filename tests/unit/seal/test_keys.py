"""Owner keys, releases, wraps, exports, backups and the private index."""

from __future__ import annotations

import dataclasses
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyrage
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.unit.seal.world import Sealed, small_model

from stannary.errors import AuthError, ConflictError, FormatError, NotFound, Refuted, StannaryError, UsageError
from stannary.seal import keystore, wrap
from stannary.seal.head import SealedObject
from stannary.seal.index import PrivateIndex
from stannary.seal.keys import KeyChain, OwnerKey, ReceivingKey
from stannary.seal.lineage import Known
from stannary.seal.manifest import Codec
from stannary.seal.reader import SealedArtifact
from stannary.seal.stores.mirrors import Mirrors

NOW = datetime(2026, 1, 1, tzinfo=UTC)
LATER = NOW + timedelta(hours=1)
NODE = ReceivingKey(bytes(range(96)))


def wrapped(sealed: Sealed, groups: tuple[str, ...], audience: str = "job-1") -> bytes:
    """Wrap groups of an artifact to the node."""
    return wrap.wrap(sealed.open().head, sealed.owner, groups, wrap.public_key(NODE.public), (audience, LATER))


def opened(sealed: Sealed, data: bytes, **changes: object) -> SealedArtifact:
    """Unwrap as the node and open with the result."""
    expected = {"artifact": sealed.digest, "audience": "job-1", "now": NOW, **changes}
    release = wrap.unwrap(data, NODE, **expected)  # type: ignore[arg-type]  # one helper, many refusals
    return SealedArtifact(Mirrors(sealed.digest, sealed.open().mirrors._sources), release)


def test_wrap_opens_its_groups_and_no_others(model: Sealed) -> None:
    """A release of one layer block reads that block and the index, and is refused the rest."""
    artifact = opened(model, wrapped(model, ("layers.0", "index")))
    by_name = {item.name: item for item in artifact.manifest.tensors}
    tensor = by_name["model.layers.0.w"]
    data = bytearray(tensor.end - tensor.begin)
    artifact.read_range(0, tensor.begin, memoryview(data))
    assert bytes(data) == small_model()[tensor.begin : tensor.end]
    for name in ("model.layers.1.w", "embed.weight"):
        other = by_name[name]
        with pytest.raises(AuthError, match="not released"):
            artifact.read_range(0, other.begin, memoryview(bytearray(other.end - other.begin)))


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"audience": "job-2"}, Refuted),
        ({"artifact": "sha256:" + "0" * 64}, Refuted),
        ({"now": LATER}, AuthError),
        ({"now": NOW - timedelta(days=60)}, AuthError),
    ],
)
def test_wrap_for_something_else_does_not_open(
    model: Sealed, changes: dict[str, object], error: type[Exception]
) -> None:
    """Another audience, another artifact, too late, or a life too long: refused."""
    with pytest.raises(error):
        opened(model, wrapped(model, ("index",)), **changes)


def test_wrap_for_somebody_else_does_not_open(model: Sealed) -> None:
    """Another receiving key opens nothing."""
    with pytest.raises(Refuted):
        wrap.unwrap(
            wrapped(model, ("index",)), ReceivingKey(bytes(96)), artifact=model.digest, audience="job-1", now=NOW
        )


@given(choice=st.data())
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_flip_anywhere_in_a_wrap_is_refused(model: Sealed, choice: st.DataObject) -> None:
    """A bit flipped anywhere in a wrap, ciphertext or stated terms, is refused."""
    data = bytearray(wrapped(model, ("index", "layers.0")))
    data[choice.draw(st.integers(0, len(data) - 1))] ^= 1 << choice.draw(st.integers(0, 7))
    with pytest.raises(StannaryError):
        opened(model, bytes(data))


def test_stated_terms_cannot_be_edited(model: Sealed) -> None:
    """Groups, audience and expiry in the open part are bound: editing them breaks the wrap."""
    data = wrapped(model, ("index",))
    edits = ((b"job-1", b"job-2"), (b'["index"]', b'["layers.0"]'), (b"2026-01-01T01", b"2026-01-02T01"))
    for before, after in edits:
        audience = "job-2" if after == b"job-2" else "job-1"
        with pytest.raises(Refuted):
            wrap.unwrap(data.replace(before, after), NODE, artifact=model.digest, audience=audience, now=NOW)


def test_releases_of_several_artifacts(model: Sealed) -> None:
    """A key chain finds the release of each artifact and says so when there is none."""
    release = wrap.unwrap(wrapped(model, ("index",)), NODE, artifact=model.digest, audience="job-1", now=NOW)
    assert KeyChain((release,)).manifest_key(model.open().head) == release.manifest
    with pytest.raises(AuthError):
        KeyChain(()).manifest_key(model.open().head)
    with pytest.raises(AuthError):
        dataclasses.replace(release, artifact="sha256:" + "0" * 64).manifest_key(model.open().head)


def test_owner_keys_differ_by_purpose_and_artifact(model: Sealed) -> None:
    """Every derived key is another one, and reprs show none."""
    head = model.open().head
    owner = model.owner
    derived = [
        owner.signing.private_bytes_raw(),
        owner.index_key,
        owner.manifest_key(head),
        owner.group_key(head, "index"),
        owner.group_key(head, "layers.0"),
        owner.receiving.seed[:32],
    ]
    assert len(set(derived)) == len(derived)
    assert owner.secret.hex() not in repr(owner)
    assert "\\x00" not in repr(owner)


def test_key_file_is_private_and_made_once(tmp_path: Path) -> None:
    """The key file has mode 0600, is never overwritten, and is refused when others may read it."""
    path = tmp_path / "keys" / "owner.key"
    with pytest.raises(NotFound):
        keystore.load(path)
    key, made = keystore.load_or_create(path)
    assert made
    assert path.stat().st_mode & 0o777 == 0o600
    assert keystore.load_or_create(path) == (key, False)
    with pytest.raises(ConflictError):
        keystore.store(OwnerKey(bytes(32)), path)
    path.chmod(0o640)
    with pytest.raises(AuthError):
        keystore.load(path)


def test_export_needs_its_passphrase(owner: OwnerKey, monkeypatch: pytest.MonkeyPatch) -> None:
    """An export opens with its passphrase only; changed bytes and hostile costs are refused."""
    monkeypatch.setattr(keystore, "SCRYPT_N", 2**14)
    data = keystore.export(owner, "correct horse battery")
    assert owner.secret.hex().encode() not in data
    assert keystore.import_export(data, "correct horse battery") == owner
    with pytest.raises(Refuted):
        keystore.import_export(data, "correct horse batterx")
    with pytest.raises(FormatError):
        keystore.import_export(data.replace(b'"n":16384', b'"n":1073741824'), "correct horse battery")
    with pytest.raises(UsageError):
        keystore.export(owner, "short")


def test_backup_opens_with_age(owner: OwnerKey) -> None:
    """A backup to two age recipients opens with either identity and holds the key file's bytes."""
    identities = [pyrage.x25519.Identity.generate() for _ in range(2)]
    data = keystore.backup(owner, tuple(str(item.to_public()) for item in identities))
    for identity in identities:
        assert keystore.parse(pyrage.decrypt(data, [identity])) == owner
    for bad in ((), ("age1x",), ("ssh-ed25519 AAAA",), ("age1" + "q" * 58,)):
        with pytest.raises(UsageError):
            keystore.backup(owner, bad)


def test_index_tells_nothing_without_the_key(tmp_path: Path, owner: OwnerKey) -> None:
    """Another owner finds nothing in the same file, and no plaintext hash or key lies in it."""
    path = tmp_path / "index.db"
    known = Known(SealedObject("ab" * 32, 72), b"K" * 32, 5, Codec.RAW)
    index = PrivateIndex(path, owner)
    index.add(b"P" * 32, 5, known)
    assert index.find(b"P" * 32, 5) == known
    assert index.find(b"P" * 32, 6) is None
    index.close()
    other = PrivateIndex(path, OwnerKey(bytes(32)))
    assert other.find(b"P" * 32, 5) is None
    other.close()
    raw = b"".join(item.read_bytes() for item in tmp_path.iterdir())
    assert b"K" * 32 not in raw
    assert b"P" * 32 not in raw


@pytest.mark.parametrize("data", [b"", b'{"format":"stannary ow', b"\0" * 128, b"{}"])
def test_damaged_key_file_is_named(tmp_path: Path, data: bytes) -> None:
    """A key file cut or overwritten is told as such, with the way back, and no new key takes its place."""
    path = tmp_path / "owner.key"
    path.write_bytes(data)
    path.chmod(0o600)
    for read in (keystore.load, keystore.load_or_create):
        with pytest.raises(FormatError, match="damaged") as caught:
            read(path)
        assert "artifact key import" in caught.value.hint
    assert path.read_bytes() == data


def test_key_appears_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, owner: OwnerKey) -> None:
    """A power cut before the last step leaves no key file, and the next run none of the rest."""
    path = tmp_path / "keys" / "owner.key"

    class PowerCut(BaseException):
        """Nothing of ours runs after it."""

    def cut(*_: object, **__: object) -> None:
        raise PowerCut

    monkeypatch.setattr("os.fsync", cut)
    with pytest.raises(PowerCut):
        keystore.store(owner, path)
    assert not path.exists()
    monkeypatch.undo()
    keystore.store(owner, path)
    assert [item.name for item in path.parent.iterdir()] == ["owner.key"]
    assert keystore.load(path) == owner


def test_two_first_runs_share_one_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, owner: OwnerKey) -> None:
    """Of two runs that find no key the slower one takes the key of the quicker one."""
    path = tmp_path / "owner.key"
    real = keystore.create

    def late(target: Path | None = None) -> OwnerKey:
        monkeypatch.setattr(keystore, "create", real)
        keystore.store(owner, target)
        return real(target)

    monkeypatch.setattr(keystore, "create", late)
    assert keystore.load_or_create(path) == (owner, False)


def test_copy_on_a_disk_without_hard_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A memory stick takes a copy as well, private, and never over another file."""

    def none(*_: object, **__: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr("os.link", none)
    keystore.write_new(tmp_path / "copy", b"data")
    assert (tmp_path / "copy").read_bytes() == b"data"
    assert (tmp_path / "copy").stat().st_mode & 0o777 == 0o600
    with pytest.raises(FileExistsError):
        keystore.write_new(tmp_path / "copy", b"other")
    assert [(item.name, item.read_bytes()) for item in tmp_path.iterdir()] == [("copy", b"data")]


def test_key_file_that_is_no_file(tmp_path: Path) -> None:
    """A link is not followed to a key elsewhere, and a folder or pipe in its place ends in an error of ours."""
    import os

    (tmp_path / "link").symlink_to(tmp_path / "key")
    (tmp_path / "folder").mkdir(mode=0o700)
    os.mkfifo(tmp_path / "pipe", 0o600)
    for name in ("link", "folder", "pipe"):
        with pytest.raises(StannaryError):
            keystore.load(tmp_path / name)


@pytest.mark.parametrize("column", ["blake3", "length", "stored", "codec", "key"])
def test_changed_index_row_is_no_row(tmp_path: Path, owner: OwnerKey, column: str) -> None:
    """A row of which any field was changed is sealed again: it would name a ciphertext that its key does not open."""
    import sqlite3

    path = tmp_path / "index.db"
    index = PrivateIndex(path, owner)
    for number in (1, 2):
        known = Known(
            SealedObject(f"{number:064}", 70 + number), bytes([number] * 32), 10 + number, list(Codec)[number]
        )
        index.add(bytes([number] * 32), 5, known)
    assert index.find(b"\1" * 32, 5) is not None
    database = sqlite3.connect(path)
    other = f"SELECT other.{column} FROM shard other WHERE other.tag != shard.tag"
    database.execute(f"UPDATE shard SET {column} = ({other})")
    database.commit()
    assert index.find(b"\1" * 32, 5) is None
    database.execute("UPDATE shard SET length = 'x', key = 3")
    database.commit()
    assert index.find(b"\1" * 32, 5) is None
    database.close()
    index.close()


def test_damaged_index_says_how_to_go_on(tmp_path: Path, owner: OwnerKey) -> None:
    """A file that is no database is named, and the hint goes on without it."""
    from stannary.errors import EnvironmentProblem

    (tmp_path / "index.db").write_bytes(b"x" * 5000)
    with pytest.raises(EnvironmentProblem) as caught:
        PrivateIndex(tmp_path / "index.db", owner)
    assert "--no-index" in caught.value.hint
