"""A job in a root file system of its own: nothing of the host's system is left in sight, in either sandbox."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path

import pytest
from tests import roots
from tests.integration.sandbox.test_commands import Node

from stannary.errors import EnvironmentProblem
from stannary.run.root import archive
from stannary.run.sandbox import system
from stannary.run.sandbox.contract import Command
from stannary.run.sandbox.process import Sandbox

ASKING = """\
#!/usr/bin/env python3
import json, os, sys
def read(path):
    try:
        return open(path).read()
    except OSError as err:
        return err.errno
told = {
    "root": sorted(os.listdir("/")), "etc": sorted(os.listdir("/etc")), "programs": sorted(os.listdir("/usr/bin")),
    "os-release": read("/usr/lib/os-release"), "python": os.path.realpath("/python"), "executable": sys.executable,
    "host": [read("%(host)s"), read("%(package)s/errors.py")], "own": os.path.exists("/stannary/stannary/errors.py"),
    "links": os.readlink("/bin"),
}
for path in ("/usr/x", "/etc/x", "/x", "/stannary/x", "/usr/bin/sh"):
    try:
        open(path, "a").close()
        told[path] = "written"
    except OSError as err:
        told[path] = err.errno
open("out.txt", "w").write(json.dumps(told))
"""
READ_ONLY = (13, 30)  # EACCES, EROFS


@pytest.fixture(scope="session")
def unpacked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root in which commands run, unpacked."""
    place = tmp_path_factory.mktemp("root")
    archive.unpack(io.BytesIO(roots.runnable()), place)
    return place


@pytest.fixture
def node(sandbox: Sandbox, tmp_path: Path, unpacked: Path) -> Node:
    made = Node(tmp_path, sandbox)
    made.system = unpacked
    return made


def test_a_job_sees_the_root_and_nothing_of_the_host(node: Node, tmp_path: Path) -> None:
    """Programs, os-release and interpreter are the root's; the host's files have no names; nothing can be written."""
    asked = ASKING % {"host": Path(sys.prefix) / "pyvenv.cfg", "package": system.PACKAGE}
    told = json.loads(node.output(node.run(asked, "out.txt"), "out.txt"))
    assert told["os-release"].encode() == roots.OS_RELEASE
    assert told["programs"] == sorted(
        {*roots.PROGRAMS, "python", "python3", f"python{sys.version_info[0]}.{sys.version_info[1]}"}
    )
    assert told["etc"] == ["passwd"]
    assert told["python"] == "/usr"
    assert told["executable"] == "/python/bin/python3"
    assert told["host"] == [2, 2]  # ENOENT
    assert told["own"] is True
    assert set(told["root"]) <= {
        "bin",
        "dev",
        "etc",
        "job",
        "lib",
        "lib64",
        "proc",
        "python",
        "stannary",
        "sys",
        "tmp",
        "usr",
    }
    assert all(told[path] in READ_ONLY for path in ("/usr/x", "/etc/x", "/x", "/stannary/x", "/usr/bin/sh"))
    assert told["links"] == "usr/bin"


def test_a_shell_command_and_packages_work_in_a_root(node: Node, tmp_path: Path) -> None:
    """`run:` lines, os-release by `.`, and what `setup:` installed, with the root's interpreter."""
    packages = tmp_path / "environment"
    packages.mkdir()
    (packages / "tin.py").write_text("ORE = 'cassiterite'\n")
    node.packages = packages
    reply = node.run(
        ". /usr/lib/os-release; echo $ID > out.txt; python -c 'import tin; print(tin.ORE)' >> out.txt", "out.txt"
    )
    assert node.output(reply, "out.txt") == b"lode\ncassiterite\n"


def test_a_directory_without_a_system_is_refused(sandbox: Sandbox, tmp_path: Path) -> None:
    """What is no root starts nothing; a link in the place of usr is none either: it would show the host's."""
    (tmp_path / "link").mkdir()
    (tmp_path / "link/usr").symlink_to("/usr")
    for place in (tmp_path, tmp_path / "link"):
        with pytest.raises(EnvironmentProblem, match="no root"):
            sandbox.start(Command(("/usr/bin/true",), root=place))
