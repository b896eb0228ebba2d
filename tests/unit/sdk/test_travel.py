"""What travels to strangers, and what stays."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from stannary import buyer, files
from stannary.errors import ConfirmationRequired, LimitExceeded, StannaryError, UsageError
from stannary.sdk import fetched, profile, travel
from stannary.sdk.profile import Profile

PEM = "-----BEGIN OPENSSH PRIVATE KEY-----\n" + "b3BlbnNzaC1rZXktdjEAAAAABG5vbmUAAAAEbm9uZQAAAAAAAAABAAAAMw" * 3 + "\n"


def write(root: Path, *paths: str, text: str = "x\n") -> None:
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    root = tmp_path / "tree"
    write(root, "main.py", "pkg/deep/a.py")
    return root


def names(root: Path, ask: travel.Ask = travel.refuse) -> list[str]:
    return [entry.path for entry in travel.scan(root, ask).entries]


def yes(_: ConfirmationRequired) -> None:
    return None


@pytest.fixture
def fake_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home with our own folders where XDG puts them, a key and a token in them."""
    place = tmp_path / "home"
    place.mkdir()
    for name in ("STANNARY_CONFIG_DIR", "STANNARY_DATA_DIR", "XDG_DATA_HOME", "XDG_CONFIG_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(place))
    buyer.load_key(buyer.root())
    files.create_secret(buyer.root() / "jobs" / "j-000000000000" / "seed", b"ab" * 32)
    profile.store(Profile("m", "http://127.0.0.1:1"), files.Secret("the-api-token"), make_default=True)
    write(place, "job.yaml", "train.py")
    return place


class TestOwnFolders:
    """Nothing of ours travels, by whatever way it is reached."""

    def test_a_job_in_the_home_directory_sends_no_key(self, fake_home: Path) -> None:
        """Key, beacon seed and API token stay even when the home itself was agreed to."""
        assert names(fake_home, yes) == ["job.yaml", "train.py"]

    def test_home_and_what_lies_above_are_asked_about(self, fake_home: Path) -> None:
        """Home, its parents and the root directory are refused where nobody can be asked, with both ways out."""
        for root in (fake_home, fake_home.parent, Path("/")):
            with pytest.raises(ConfirmationRequired) as caught:
                travel.scan(root)
            assert "workdir:" in caught.value.hint
            assert "--yes" in caught.value.hint

    def test_home_reached_by_a_link_is_home(self, fake_home: Path, tmp_path: Path) -> None:
        """A link to the home directory changes nothing."""
        (tmp_path / "project").symlink_to(fake_home)
        with pytest.raises(ConfirmationRequired):
            travel.scan(tmp_path / "project")

    def test_own_folder_as_work_directory(self, fake_home: Path) -> None:
        """A work directory inside our data or configuration is refused whatever was agreed to."""
        for root in (files.data_dir(), buyer.root() / "jobs", files.config_dir() / "tokens"):
            with pytest.raises(UsageError, match="own"):
                travel.scan(root, yes)

    def test_a_pattern_cannot_ask_for_them(self, fake_home: Path) -> None:
        """`!` in .stannaryignore brings back everything but our own folders."""
        write(fake_home, ".stannaryignore", text="!.local/\n!.config/\n!stannary/\n!key\n!**\n")
        assert names(fake_home, yes) == [".stannaryignore", "job.yaml", "train.py"]

    def test_hard_link_to_a_seed(self, fake_home: Path, tree: Path) -> None:
        """A hard link to a file of ours is that file."""
        (tree / "notes.txt").hardlink_to(buyer.root() / "jobs" / "j-000000000000" / "seed")
        write(tree, ".stannaryignore", text="!notes.txt\n")
        assert "notes.txt" not in names(tree)

    def test_settings_elsewhere(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tree: Path) -> None:
        """The folders STANNARY_* name are ours wherever they lie, also inside the work directory."""
        monkeypatch.setenv("STANNARY_DATA_DIR", str(tree / "state"))
        monkeypatch.setenv("STANNARY_CONFIG_DIR", str(tree / "conf"))
        buyer.load_key(buyer.root())
        write(tree, "conf/config.toml")
        assert names(tree) == ["main.py", "pkg/deep/a.py"]

    def test_another_market_or_node_inside(self, tree: Path) -> None:
        """The folder of a market, node or buyer that is none of this account's is known by what lies in it."""
        write(tree, "srv/key", "srv/market.json", "n/key", "n/node.json", "old/buyer/key", "old/buyer/jobs/x/seed")
        assert names(tree) == ["main.py", "pkg/deep/a.py"]

    @pytest.mark.needs_root
    @pytest.mark.skipif(os.geteuid() != 0, reason="a bind mount needs root")
    def test_bind_mount(self, fake_home: Path, tree: Path) -> None:
        """A bind mount of our folder, or of one inside it, shows nothing to a job."""
        (tree / "mnt").mkdir()
        script = f"""
        mount --bind {buyer.root() / "jobs"} {tree}/mnt || exit 77
        {sys.executable} - <<'EOF'
from pathlib import Path
from stannary.sdk import travel
print([entry.path for entry in travel.scan(Path({str(tree)!r})).entries])
EOF
        """
        done = subprocess.run(["unshare", "-m", "sh", "-c", script], capture_output=True, text=True, check=False)
        if done.returncode == 77 or "unshare" in done.stderr:
            pytest.skip(f"no mount namespace here: {done.stderr.strip()[:100]}")
        assert done.stdout.strip() == "['main.py', 'pkg/deep/a.py']", done.stderr


class TestSecrets:
    """Files that hold keys stay unless they are asked for by name."""

    @pytest.mark.parametrize(
        "path",
        [
            ".git/config", ".env", ".env.local", "prod.env", ".ssh/config", "pkg/.aws/credentials", "id_rsa",
            "id_ed25519", "id_ed25519.old", "id_deploy", "server.key", ".netrc", ".npmrc", ".pypirc",
            ".huggingface/token", ".cache/huggingface/token", "credentials.json", "client_secret_12.json",
            ".git-credentials", ".docker/config.json", ".bash_history", "j-0123456789ab.receipt.json",
            "out/model.safetensors", "SECRETS.json", ".kube/config", "store.jks",
        ],
    )  # fmt: skip
    def test_by_name(self, tree: Path, path: str) -> None:
        """It stays, the plan says so, and `!name` for each step of its path brings it along."""
        write(tree, path)
        found = travel.scan(tree)
        assert [entry.path for entry in found.entries] == ["main.py", "pkg/deep/a.py"]
        assert any(path == stay.path or path.startswith(f"{stay.path}/") for stay in found.stays)
        parts = path.split("/")
        write(tree, ".stannaryignore", text="".join(f"!{'/'.join(parts[: i + 1])}\n" for i in range(len(parts))))
        assert path in names(tree)

    @pytest.mark.parametrize(
        "path", ["tokenizer.json", "keys.py", "id_map.json", "environment.yml", "env.py", "pkg/out/a", "key_value.py"]
    )
    def test_innocent_names_travel(self, tree: Path, path: str) -> None:
        """What only resembles a secret's name travels."""
        write(tree, path)
        assert path in names(tree)

    @pytest.mark.parametrize(
        "text",
        [PEM, "AGE-SECRET-KEY-1" + "Q" * 58 + "\n", "{\"private_key\": \"-----BEGIN PRIVATE KEY-----\\n" + "MIIE" * 40
         + "\"}", "# my keys\n\n" + PEM, "ab" * 32 + "\n", "PuTTY-User-Key-File-3: ssh-ed25519\n",
         "-----BEGIN RSA PRIVATE KEY-----\r\nProc-Type: 4,ENCRYPTED\r\nDEK-Info: AES-128-CBC,AB\r\n\r\n" + "MIIE" * 40],
    )  # fmt: skip
    def test_by_first_bytes(self, tree: Path, text: str) -> None:
        """A key under an innocent name stays by what it holds, unless asked for."""
        write(tree, "cert.pem", text=text)
        assert "cert.pem" not in names(tree)
        write(tree, ".stannaryignore", text="!cert.pem\n")
        assert "cert.pem" in names(tree)

    def test_a_copied_token_file_stays(self, tree: Path) -> None:
        """A file that holds one random word and nothing else is taken for a token; a commit or a word is none."""
        write(tree, "t", text="q7Zp0LxW3vRt8YkN2mBc6JdHs4Fg9\n")
        write(tree, "COMMIT", text="9f86d081884c7d659a2feaa0c55ad015a3bf4f1b\n")
        write(tree, "VERSION", text="1.2.3\n")
        assert names(tree) == ["COMMIT", "VERSION", "main.py", "pkg/deep/a.py"]

    def test_a_certificate_travels(self, tree: Path) -> None:
        """A public certificate, and a program that only names a key's header, are no keys."""
        write(tree, "ca.pem", text="-----BEGIN CERTIFICATE-----\n" + "MIIE" * 40)
        write(tree, "load.py", text='if "-----BEGIN PRIVATE KEY-----" in text:\n    raise ValueError\n')
        assert {"ca.pem", "load.py"} <= set(names(tree))

    def test_asking_for_a_folder_does_not_ask_for_keys_in_it(self, tree: Path) -> None:
        """`!.ssh/` brings the folder; the key in it is another name."""
        write(tree, "extra/.env", "extra/a.txt")
        write(tree, ".gitignore", text="extra/\n")
        write(tree, ".stannaryignore", text="!extra/\n")
        assert names(tree) == [".gitignore", "extra/a.txt", "main.py", "pkg/deep/a.py"]

    def test_a_token_in_a_program_is_pointed_out(self, tree: Path) -> None:
        """A text that holds a token's shape travels, and the plan says where to look."""
        write(tree, "conf.py", text='a = 1\nTOKEN = "hf_' + "aB3" * 12 + '"\n')
        assert travel.scan(tree).doubts == ("conf.py: line 2 has the shape of a Hugging Face token",)


class TestResults:
    """What was fetched from the last job does not travel with the next."""

    def test_a_fetched_file_stays_wherever_it_lies(self, tree: Path) -> None:
        """Also in a folder of any name; changed or copied it is the user's own, and `!name` asks for it."""
        write(tree, "results/model.bin", "best.bin")
        fetched.note([tree / "results/model.bin", tree / "best.bin", tree / "gone"])
        assert names(tree) == ["main.py", "pkg/deep/a.py"]
        write(tree, ".stannaryignore", text="!best.bin\n")
        assert names(tree) == ["best.bin", "main.py", "pkg/deep/a.py"]
        (tree / "results/copy.bin").write_bytes((tree / "results/model.bin").read_bytes())
        os.utime(tree / "results/model.bin", ns=(1, 1))
        assert "results/model.bin" in names(tree)
        assert "results/copy.bin" in names(tree)

    def test_a_damaged_note_is_passed_over(self, tree: Path) -> None:
        """Lines that are none cost nothing but themselves, and the list is bounded."""
        place = files.data_dir() / "fetched"
        files.replace(place, b"x y z\n1 2\n\xff\n" + b"9" * 30 + b" 1 1\n")
        assert len(fetched.known()) == 1
        fetched.note([tree / "main.py"] * (fetched.MAX_LINES + 5))
        assert len(place.read_bytes().splitlines()) == fetched.MAX_LINES
        assert "main.py" not in names(tree)


class TestIgnoreFiles:
    """Both ignore files are read as git reads its own."""

    def test_gitignore_and_its_exceptions(self, tree: Path) -> None:
        """Excluded, taken back with `!`, anchored, nested; the ignore file itself travels as git keeps it."""
        write(tree, "a.log", "keep.log", "pkg/b.log", "build/x", "pkg/build/y", "pkg/deep/z.tmp")
        write(tree, ".gitignore", text="*.log\n!keep.log\n/build/\n# comment\n")
        write(tree, "pkg/deep/.gitignore", text="*.tmp\n")
        assert names(tree) == [
            ".gitignore", "keep.log", "main.py", "pkg/build/y", "pkg/deep/.gitignore", "pkg/deep/a.py",
        ]  # fmt: skip

    def test_ours_has_the_last_word(self, tree: Path) -> None:
        """.stannaryignore brings back what .gitignore excludes, also one file below an excluded folder."""
        write(tree, "data/big.bin", "data/small.bin", "data/sub/x", "model.bin")
        write(tree, ".gitignore", text="data/\n*.bin\n")
        write(tree, ".stannaryignore", text="!data/small.bin\n!model.bin\nmain.py\n")
        assert names(tree) == [".gitignore", "data/small.bin", "model.bin", "pkg/deep/a.py"]

    def test_the_repository_above(self, tree: Path) -> None:
        """The ignore file at the top of the repository reaches a work directory below it."""
        (tree / ".git").mkdir()
        write(tree, ".gitignore", text="*.log\n")
        write(tree, "pkg/deep/x.log")
        assert names(tree / "pkg") == ["deep/a.py"]

    @pytest.mark.parametrize("where", [".venv/lib/examples/hello", "build/job"])
    def test_a_work_directory_that_the_repository_excludes(self, tree: Path, where: str) -> None:
        """Whoever names an excluded folder means it: a virtual environment's own `*` does not empty it."""
        (tree / ".git").mkdir()
        write(tree, ".gitignore", text="build/\n*.py\n")
        write(tree, ".venv/.gitignore", text="*\n")
        write(tree, f"{where}/recipe.py", f"{where}/x.log")
        write(tree, f"{where}/.gitignore", text="*.log\n")
        assert names(tree / where) == [".gitignore", "recipe.py"]

    def test_ignored_names_may_be_links_or_odd(self, tree: Path) -> None:
        """A link, fifo or unspeakable name that is excluded refuses nothing."""
        write(tree, ".stannaryignore", text="odd*\n")
        (tree / "odd").symlink_to("/")
        os.mkfifo(tree / "odd-fifo")
        write(tree, "odd\x1b[2Jname\n")
        assert names(tree) == ["main.py", "pkg/deep/a.py"]

    @pytest.mark.parametrize("text", ["a\\\n", "!\n", "[z-a]x\n"])
    def test_a_pattern_that_is_none(self, tree: Path, text: str) -> None:
        """A broken line of our file is refused with its number; git passes over its own."""
        write(tree, ".gitignore", text=text)
        names(tree)
        write(tree, ".stannaryignore", text="ok\n" + text)
        with pytest.raises(StannaryError, match="line 2"):
            names(tree)

    def test_as_git_does(self, tmp_path: Path) -> None:
        """On many patterns and names the answer is that of git itself."""
        root = tmp_path / "repo"
        folders = ["", "a/", "a/d/", "build/", "a/build/", "x y/", "b/"]
        write(root, *[f"{folder}{name}" for folder in folders for name in ("f.log", "f.py", "c", "build.txt", "#h")])
        subprocess.run(["git", "init", "-q", str(root)], check=True)
        lists = [
            "*.log", "*\n!*/\n!*.py", "/c", "c", "b", "b/", "a/*\n!a/d/", "a/**\n!a/d/f.py", "**/build/", "build",
            "*/f.py",
            "!f.py\n*.py", "\\#h", "x y/", "x\\ y", "a/d/\n!a/d/f.py", "?.log", "[a-f].py", "**", "/*\n!/a/", "a/**/c",
            "*.*o*", "b*l*.*t", "*u*i*l*d*/", "f*/*.l*g", "a/*b*l*/*.t*t", "*[.]*p*y*", "f?*.*l*", "a**d",
            "b*d/b*d.t*t",
            "f.*\n!f.py\n/a/f.py", "#h\n", "  \n*.log  ", "/", "build.txt/",
        ]  # fmt: skip
        for text in lists:
            write(root, ".gitignore", text=text + "\n")
            listing = subprocess.run(
                ["git", "-C", str(root), "ls-files", "-o", "-z", "--exclude-per-directory=.gitignore"],
                capture_output=True,
                check=True,
            ).stdout
            assert names(root) == sorted(listing.decode().split("\0")[:-1]), text


def make_link(path: Path) -> None:
    path.symlink_to("/etc/passwd")


def make_fifo(path: Path) -> None:
    os.mkfifo(path)


def make_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(path))


def make_device(path: Path) -> None:
    try:
        os.mknod(path, 0o20644, os.makedev(1, 3))
    except PermissionError:
        pytest.skip("making a device file needs root")


def make_loop(path: Path) -> None:
    path.symlink_to(path)


class TestOddities:
    """Whatever lies in a directory, the walk ends with an answer in our words."""

    @pytest.mark.parametrize(
        ("make", "word"),
        [
            (make_link, "symlink"), (make_fifo, "fifo"), (make_socket, "socket"), (make_device, "device"),
            (make_loop, "symlink"),
        ],
    )  # fmt: skip
    def test_only_plain_files_travel(self, tree: Path, make, word: str) -> None:
        """A link, fifo, socket or device is refused by name and kind, naming the ignore file."""
        make(tree / "odd")
        with pytest.raises(UsageError, match=word) as caught:
            travel.scan(tree)
        assert "'odd'" in caught.value.why
        assert ".stannaryignore" in caught.value.hint

    def test_names_with_escape_codes(self, tree: Path) -> None:
        """A name that could move the cursor is refused, spelt harmlessly, with the way round."""
        write(tree, "a\x1b[2J\nb")
        with pytest.raises(StannaryError) as caught:
            travel.scan(tree)
        assert "\x1b" not in caught.value.diagnostics()
        assert ".stannaryignore" in caught.value.hint

    def test_too_many_files(self, tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """The walk stops at the limit and says where the files are."""
        monkeypatch.setattr(travel.grammar, "MAX_FILES", 50)
        write(tree, *[f"data/{index}" for index in range(60)])
        with pytest.raises(LimitExceeded) as caught:
            travel.scan(tree)
        assert "'data'" in caught.value.why

    def test_a_million_names(self, tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Names that stay are bounded too: nobody waits for a walk through a dataset."""
        monkeypatch.setattr(travel, "MAX_SEEN", 40)
        write(tree, *[f"logs/{index}.log" for index in range(60)])
        write(tree, ".gitignore", text="*.log\n")
        with pytest.raises(LimitExceeded) as caught:
            travel.scan(tree)
        assert "logs" in caught.value.why

    @pytest.mark.parametrize("pattern", ["*a" * 30 + "b", "x/**/" + "*a" * 30 + "b", "[a-z]*" * 40 + "!"])
    def test_a_pattern_made_to_keep_us_busy(self, tree: Path, pattern: str) -> None:
        """An ignore file of a repository somebody else wrote cannot hold up the walk."""
        write(tree, "a" * 200, "x/" + "a" * 200)
        write(tree, ".gitignore", text=pattern + "\n")
        started = time.process_time()
        with contextlib.suppress(LimitExceeded):
            names(tree)
        assert time.process_time() - started < 10

    def test_an_excluded_folder_is_not_walked(self, tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """What lies below an excluded folder costs nothing."""
        monkeypatch.setattr(travel, "MAX_SEEN", 40)
        write(tree, *[f"data/{index}" for index in range(60)])
        write(tree, ".stannaryignore", text="data/\n")
        assert names(tree) == ["main.py", "pkg/deep/a.py"]

    def test_ten_gigabytes_by_accident(self, tree: Path) -> None:
        """A huge directory names its size and its largest file and asks, before a byte is read."""
        with (tree / "big.dat").open("wb") as file:
            file.truncate(10 * 1024**3)  # sparse: takes no disk
        with pytest.raises(ConfirmationRequired) as caught:
            travel.scan(tree)
        assert "10.00 GiB" in caught.value.why
        assert "big.dat" in caught.value.why
        assert ".stannaryignore" in caught.value.hint

    def test_odd_things_called_like_ignore_files(self, tree: Path) -> None:
        """A folder, a link or a fifo of that name rules nothing, as for git."""
        (tree / ".gitignore").mkdir()
        (tree / "pkg/.stannaryignore").symlink_to("/etc/passwd")
        os.mkfifo(tree / "pkg/deep/.gitignore")
        with pytest.raises(UsageError, match="fifo"):
            travel.scan(tree)
        (tree / "pkg/deep/.gitignore").unlink()
        assert names(tree) == ["main.py", "pkg/deep/a.py"]

    def test_the_log_of_this_very_command_stays(self, tree: Path) -> None:
        """`stannary run job.yaml > run.log 2> err.log` in the work directory does not send the logs it writes."""
        script = f"""
from pathlib import Path
from stannary.sdk import travel
print([entry.path for entry in travel.scan(Path({str(tree)!r})).entries], flush=True)
"""
        with (tree / "run.log").open("wb") as log, (tree / "err.log").open("wb") as err:
            subprocess.run([sys.executable, "-c", script], stdout=log, stderr=err, check=True)
        assert (tree / "run.log").read_text() == "['main.py', 'pkg/deep/a.py']\n"

    def test_a_name_that_vanishes_during_the_walk(self, tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """A file deleted between listing a folder and looking at it is as if it had not been there."""
        write(tree, "gone.tmp")
        listing = os.scandir

        class Racing:
            def __init__(self, folder: Path) -> None:
                self.inner = listing(folder)

            def __enter__(self) -> Racing:
                return self

            def __exit__(self, *_: object) -> None:
                self.inner.close()

            def __iter__(self) -> Racing:
                return self

            def __next__(self) -> os.DirEntry[str]:
                child = next(self.inner)
                if child.name == "gone.tmp":
                    Path(child.path).unlink()
                return child

        (Path(os.environ["XDG_DATA_HOME"]) / "stannary" / "older").mkdir(parents=True, exist_ok=True)
        monkeypatch.setattr(travel.os, "scandir", Racing)
        assert names(tree) == ["main.py", "pkg/deep/a.py"]

    def test_a_file_that_vanishes_between_walk_and_read(self, tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """A file gone before it is hashed is our error with its name."""
        monkeypatch.setattr(travel, "_ask_about_size", lambda *_: (tree / "main.py").unlink())
        with pytest.raises(UsageError) as caught:
            travel.scan(tree)
        assert "main.py" in caught.value.why


class TestInputs:
    """What is an input of the job is no part of the work directory."""

    def test_a_large_input_beside_the_program_travels_once(self, tree: Path) -> None:
        """A file named under `inputs:` stays out of the listing and of the question about its size, and is said."""
        big = tree / "big.bin"
        with big.open("wb") as file:
            file.truncate(travel.CONFIRM_BYTES + 1)
        place = travel.place_of(big)
        assert place is not None
        found = travel.scan(tree, travel.refuse, {place: "corpus"})
        assert [entry.path for entry in found.entries] == ["main.py", "pkg/deep/a.py"]
        assert [(stay.path, stay.reason) for stay in found.stays] == [("big.bin", "it travels as input corpus")]
        with pytest.raises(ConfirmationRequired):
            names(tree)

    def test_one_asked_for_by_name_travels_both_ways(self, tree: Path) -> None:
        """`!big.bin` in .stannaryignore keeps it in the work directory too."""
        write(tree, "big.bin")
        write(tree, ".stannaryignore", text="!big.bin\n")
        place = travel.place_of(tree / "big.bin")
        assert place is not None
        listed = [entry.path for entry in travel.scan(tree, travel.refuse, {place: "x"}).entries]
        assert "big.bin" in listed
