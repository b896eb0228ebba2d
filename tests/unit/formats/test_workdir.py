"""The listing of a work directory."""

from __future__ import annotations

import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stannary.errors import FormatError, LimitExceeded, StannaryError
from stannary.formats import digest, workdir
from stannary.formats.workdir import WorkFile

BLOB = digest.digest(b"x")


def listing(*paths: str) -> list[WorkFile]:
    return [WorkFile(path, 0o644, BLOB, 1) for path in paths]


def test_order() -> None:
    """A listing is sorted by path."""
    entries = workdir.check(listing("b/c", "a"))
    assert [entry.path for entry in entries] == ["a", "b/c"]


@pytest.mark.parametrize("paths", [("a", "A"), ("a", "a"), ("a", "a/b"), ("Dir/x", "dir/y"), ("straße", "strasse")])
def test_collisions(paths: tuple[str, ...]) -> None:
    """Names that are one somewhere, and a file that is also a directory, are refused."""
    with pytest.raises(FormatError):
        workdir.check(listing(*paths))


def test_two_files_of_one_directory() -> None:
    """Sharing a directory is no collision."""
    assert len(workdir.check(listing("d/a", "d/b", "d/e/f"))) == 3


@pytest.mark.parametrize("mode", [0o777, 0o4755, 0o120777, 0o600, 0])
def test_modes(mode: int) -> None:
    """No mode but 0644 and 0755 travels: no set-uid, no link."""
    with pytest.raises(FormatError):
        workdir.check([WorkFile("a", mode, BLOB, 1)])


def test_a_size_is_not_negative() -> None:
    """A file has no fewer bytes than none."""
    with pytest.raises(FormatError, match="size is negative"):
        workdir.check([WorkFile("a", 0o644, BLOB, -1)])


def test_limits() -> None:
    """Long paths, deep paths and too many files are limits with names."""
    for path in ("a" * 256, "/".join("a" * 40), "/".join(["a" * 200] * 6)):
        with pytest.raises(LimitExceeded):
            workdir.parse_path(path)
    with pytest.raises(LimitExceeded):
        workdir.check(listing(*(f"f{i}" for i in range(workdir.MAX_FILES + 1))))


@given(st.text(max_size=30))
def test_any_path(text: str) -> None:
    """A path is either accepted as relative and inside, or refused by our error."""
    try:
        path = workdir.parse_path(text)
    except StannaryError:
        return
    assert not path.startswith("/")
    assert ".." not in path.split("/")


@pytest.mark.parametrize("protocol", range(2, 6))
def test_a_pickle_is_told_by_its_first_bytes(protocol: int) -> None:
    """Whatever its name, a pickle is refused; so is the archive that torch.save makes of one."""
    for head in (pickle.dumps([1], protocol), b"PK\x03\x04.....archive/data.pkl..."):
        assert workdir.looks_like_pickle(head)
        with pytest.raises(FormatError, match="pickle refused"):
            workdir.refuse_pickle_bytes("model.bin", head)


@pytest.mark.parametrize("head", [b"", (640).to_bytes(8, "little") + b"{", b"PK\x03\x04 a zip of texts", b"text"])
def test_what_only_resembles_a_pickle_passes(head: bytes) -> None:
    """A safetensors header of 640 bytes begins with a pickle's first two bytes, and is none."""
    workdir.refuse_pickle_bytes("model.bin", head)
