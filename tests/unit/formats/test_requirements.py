"""Lists of packages: what is understood, and each line that is refused with its number."""

from __future__ import annotations

import pytest

from stannary.errors import LimitExceeded, SpecError
from stannary.formats import requirements

HASH = "--hash=sha256:" + "0" * 64


@pytest.mark.parametrize(
    ("line", "word"),
    [
        ("-r other.txt", "another list"), ("--requirement=other.txt", "another list"), ("-c pins.txt", "constraints"),
        ("-e .", "editable"), ("--index-url https://me:pw@x.example/s", "where packages come from"),
        ("-i https://x.example/s", "where packages"),
        ("--extra-index-url https://x.example", "where packages"),
        ("-f wheels/", "where packages"),
        ("--trusted-host x.example", "where packages"), ("--no-index", "where packages"),
        ("--pre", "option of pip"), ("--no-binary :all:", "option of pip"),
        ("git+https://host.example/a/b.git@main#egg=b", "repository"),
        ("b @ git+ssh://git@host.example/b", "repository"),
        ("tin @ https://x.example/tin-1.0-py3-none-any.whl", "address"), ("https://x.example/tin.whl", "address"),
        ("tin @ file:///tmp/tin.whl", "address"), ("./tin-1.0-py3-none-any.whl", "file"), ("tin-1.0.tar.gz", "file"),
        ("../tin", "file"), ("libs/tin", "file"), ("C:\\tin.whl", "file"), ("~/tin", "file"), ("[project]", "TOML"),
        ("pip install tin", "command"), ("import os", "command"), ("numpy=1.26.0=py311h64", "no requirement"),
        ("tin==1.0 --hash=md5:00", "no sha256 hash"), ("tin==1.0 --global-option=x", "no sha256 hash"),
        ("tin ==1.0 junk", "no requirement"), ("\x1b[2J", "no requirement"),
    ],
)  # fmt: skip
def test_each_is_said_with_its_line(line: str, word: str) -> None:
    """Three lines: which line it is and what it holds, the text without passwords, what to write instead."""
    with pytest.raises(SpecError, match=word) as caught:
        requirements.read(f"# packages\nalpha>=1\n\n{line}\n".encode())
    assert "line 4" in caught.value.what
    assert caught.value.hint
    assert "pw" not in caught.value.why


@pytest.mark.parametrize(
    "line",
    [
        "tin",
        "tin==1.0",
        "tin>=1,<2",
        "tin[alloy]~=1.4 ; python_version >= '3.11'",
        "tin (>=1.0)",
        "Tin_Can!=1.5",
        "tin==1.*",
    ],
)
def test_open_lines(line: str) -> None:
    """What pip calls a requirement is one, but not locked."""
    (found,) = requirements.read(f"{line}  # why\n".encode())
    assert not found.is_locked
    with pytest.raises(SpecError, match="line 1"):
        requirements.locked(line.encode())


@pytest.mark.parametrize(
    ("data", "word"),
    [
        (b"\xef\xbb\xbftin==1.0\n", "byte order mark"), ("tin==1.0\n".encode("utf-16"), "byte order mark"),
        (b"tin\n\xff\n", "not UTF-8: line 2, column 1: byte 0xff"), (b"tin\nbeta\0\n", "line 2: a NUL"),
        (b"tin==1.0\nbeta\nTIN==2.0\n", "line 3 names a package again"),
    ],
)  # fmt: skip
def test_lists_that_are_no_plain_text(data: bytes, word: str) -> None:
    """A byte order mark, other encodings, NUL and contradictions are told with the line."""
    with pytest.raises(SpecError, match=word) as caught:
        requirements.read(data)
    assert caught.value.hint


def test_continued_lines_have_the_number_they_begin_at() -> None:
    """Hashes on lines of their own, comments between them, Windows line ends, a backslash at the very end."""
    text = f"tin==1.0 \\\r\n    {HASH} \\\r\n    {HASH}\r\n    # via x\r\nbeta==2 {HASH} \\"
    lines = requirements.read(text.encode())
    assert [(line.number, line.name, len(line.hashes), line.is_locked) for line in lines] == [
        (1, "tin", 2, True), (5, "beta", 1, True),
    ]  # fmt: skip


def test_the_same_package_for_different_systems() -> None:
    """Markers may name a package twice."""
    text = b"tin==1.0 ; sys_platform == 'linux'\ntin==2.0 ; sys_platform == 'win32'\n"
    assert len(requirements.read(text)) == 2


def test_bounds() -> None:
    """Length and number of lines are bounded."""
    with pytest.raises(LimitExceeded):
        requirements.read(b"#" * (requirements.MAX_LIST_BYTES + 1))
    with pytest.raises(LimitExceeded):
        requirements.read(b"".join(b"p%d\n" % index for index in range(requirements.MAX_REQUIREMENTS + 1)))


@pytest.mark.parametrize("text", ["tin%s!", "tin==1.0%s!", "tin[a%s!", "tin%s--hash", "tin >=%s1,%s<2%s{"])
def test_blanks_by_the_megabyte_are_read_like_one(text: str) -> None:
    """A stranger's list made of blanks costs no more than its length, and means what it means with one blank."""
    blanks = text.replace("%s", " " * (requirements.MAX_LIST_BYTES // 4))
    with pytest.raises(SpecError) as caught:
        requirements.read(blanks.encode())
    with pytest.raises(SpecError) as same:
        requirements.read(text.replace("%s", " ").encode())
    assert str(caught.value) == str(same.value)
    (line,) = requirements.read(f"tin{' ' * 100_000}==1.0{' ' * 100_000}; python_version > '3'".encode())
    assert line.requirement == "tin ==1.0 ; python_version > '3'"


def test_a_locked_list_is_read_as_an_installer_reads_it() -> None:
    """One line a requirement, its hashes behind it, comments and continuations gone."""
    first, second = "--hash=sha256:" + "0" * 64, "--hash=sha256:" + "1" * 64
    listing = f"# by hand\nalpha==1.0 \\\n    {first} \\\n    {second}\nbeta==2.0 {first}\n"
    assert requirements.locked(listing.encode()) == [f"alpha==1.0 {first} {second}", f"beta==2.0 {first}"]
