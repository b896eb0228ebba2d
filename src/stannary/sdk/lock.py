"""Lock a list of packages: exact versions and hashes of the wheels that fit the nodes.

Rules:
1. What is locked is what a node installs: wheels for Linux x86-64 and this interpreter's Python, with
   their dependencies, each by sha256. Source distributions run code when they are built, so none.
2. The packages are looked for where this user's own uv or pip looks; nothing of that place goes into
   the list, hence not into spec or receipt.
3. uv resolves where it is found, pip otherwise. A list that is locked already is left as it is; it is
   refused if its hashes are known to be those of wheels for other systems, or of a source. What this
   machine's index does not know (or is not there to ask) may still be in the nodes'.
4. What cannot be locked is refused with the line that asks for it, if one can be named.
"""

from __future__ import annotations

import functools
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from stannary.errors import EnvironmentProblem, FormatError, SpecError
from stannary.formats import requirements
from stannary.formats.requirements import PackageLine

RESOLVE_TIMEOUT_S = 600.0  # a list of a hundred packages over a thin link
GLIBC_MINOR = 28  # manylinux_2_28: Debian 10, RHEL 8 and everything since
_TAGS = [f"manylinux_2_{minor}_x86_64" for minor in range(GLIBC_MINOR, 4, -1)]
_PIP_PLATFORMS = (*_TAGS, "manylinux2014_x86_64", "manylinux2010_x86_64", "manylinux1_x86_64", "linux_x86_64")
CHECK_TIMEOUT_S = "10"  # of an index that is only asked whether a locked list fits
MAX_WHY_CHARS = 600
_OTHER_PLATFORMS = {
    "aarch64-apple-darwin": "macOS on Apple silicon", "x86_64-apple-darwin": "macOS on Intel",
    "x86_64-pc-windows-msvc": "Windows", "aarch64-unknown-linux-gnu": "Linux on ARM",
}  # fmt: skip
# pip's settings by uv's names: whoever set up pip on this machine means uv too.
_SETTINGS = {
    "PIP_INDEX_URL": "UV_INDEX_URL", "PIP_EXTRA_INDEX_URL": "UV_EXTRA_INDEX_URL", "PIP_FIND_LINKS": "UV_FIND_LINKS",
    "PIP_NO_INDEX": "UV_NO_INDEX", "PIP_CERT": "SSL_CERT_FILE",
}  # fmt: skip
# What resolvers say when there is no index, and when a wish cannot be met.
_UNREACHABLE = ("error sending request", "failed to fetch", "connection", "timed out", "network", "dns", "retries")
_REASONS: tuple[tuple[tuple[str, ...], str, str], ...] = (
    (
        ("matching platform", "python version tag", "python abi tag", "implementation tag", "matching python"),
        "has no wheel for {target}",
        "name a version that has one",
    ),
    (
        ("no usable wheels", "building from source", "no-build"),
        "is published as source only",
        "nodes build nothing: name a version with a wheel, or put its source into the work directory",
    ),
    (
        ("incompatible", "conflict", "resolutionimpossible"),
        "contradicts another requirement",
        "loosen one of the versions named above",
    ),
    (
        ("from versions: none",),
        "is not in the index, or has no wheel for {target}",
        "check its name; if it lies elsewhere, set PIP_INDEX_URL",
    ),
)


def target() -> str:
    """Say in words what the wheels must fit."""
    return f"Linux x86-64, CPython {_python()}"


def lock(data: bytes) -> bytes | None:
    """Return the locked form of a list, None if it is locked already.

    Raises:
        SpecError: the list breaks a rule, contradicts itself, or asks for what has no fitting wheel.
        EnvironmentProblem: there is no resolver, or it cannot reach its index.
    """
    lines = requirements.read(data)
    if not lines:
        raise SpecError(
            "the setup list is empty", why="no line names a package", hint="leave setup out of the job spec"
        )
    uv = _uv()
    is_locked = all(line.is_locked for line in lines)
    try:
        if is_locked:
            if uv:
                _refuse_foreign(uv, lines)
            return None
        pinned = _with_uv(uv, lines) if uv else _with_pip(lines)
    except OSError as err:
        raise EnvironmentProblem(
            "cannot lock the setup list", why=str(err), hint=f"free disk space in {tempfile.gettempdir()}"
        ) from err
    try:
        requirements.locked(pinned)
    except (SpecError, FormatError) as err:
        raise EnvironmentProblem(
            "the resolver's answer is no locked list", why=f"{err.what}: {err.why}", hint="pip install --upgrade uv"
        ) from err
    return pinned


def _with_uv(uv: str, lines: tuple[PackageLine, ...]) -> bytes:
    done = _compile(uv, lines, f"x86_64-manylinux_2_{GLIBC_MINOR}")
    if done.returncode != 0:
        raise _refusal(done.stderr, lines)
    return done.stdout.encode()


def _compile(
    uv: str, lines: tuple[PackageLine, ...], platform: str, *, is_check: bool = False
) -> subprocess.CompletedProcess[str]:
    environment = _uv_environment()
    options = [
        "--quiet", "--generate-hashes", "--only-binary", ":all:", "--python-version", _python(), "--python-platform",
        platform, "--no-header", "--no-annotate", "--no-emit-index-url", "--no-emit-find-links", "--color", "never",
        "--no-python-downloads",
    ]  # fmt: skip
    if environment.pop("UV_NO_INDEX", "").lower() in ("1", "true", "yes", "on"):
        options.append("--no-index")
    if is_check:
        environment |= {"UV_HTTP_RETRIES": "0", "UV_HTTP_TIMEOUT": CHECK_TIMEOUT_S}
    with tempfile.TemporaryDirectory(prefix="stannary-lock-") as place:
        _write(Path(place, "requirements.in"), lines)
        return _run([uv, "pip", "compile", *options, "requirements.in"], environment, place)


def _refuse_foreign(uv: str, lines: tuple[PackageLine, ...]) -> None:
    """Refuse a locked list whose hashes are of wheels that fit other systems only (rule 3)."""
    bare = tuple(replace(line, hashes=()) for line in lines)
    done = _compile(uv, bare, f"x86_64-manylinux_2_{GLIBC_MINOR}", is_check=True)
    if done.returncode != 0:
        refusal = _refusal(done.stderr, lines)
        is_known = any(sign in refusal.what for sign in ("has no wheel", "source only"))
        if is_known and refusal.what.startswith("line"):  # one of the list: others are not installed
            raise refusal
        return
    fitting = _hashes(done.stdout)
    unfit = tuple(line for line in lines if line.name in fitting and fitting[line.name].isdisjoint(line.hashes))
    for platform, words in _OTHER_PLATFORMS.items() if unfit else ():
        known = _hashes(_compile(uv, tuple(replace(line, hashes=()) for line in unfit), platform, is_check=True).stdout)
        for line in unfit:
            if not known.get(line.name, frozenset()).isdisjoint(line.hashes):
                raise SpecError(
                    f"line {line.number}: {line.requirement:.80} has no wheel for {target()}",
                    why=f"its hashes are those of wheels for {words}",
                    hint="lock it anew: stannary lock FILE, from the list without hashes",
                )


def _hashes(pinned: str) -> dict[str, frozenset[str]]:
    return {line.name: frozenset(line.hashes) for line in requirements.read(pinned.encode())}


def _with_pip(lines: tuple[PackageLine, ...]) -> bytes:
    if importlib.util.find_spec("pip") is None:
        raise EnvironmentProblem(
            "no resolver to lock the setup list with",
            why=f"neither uv nor pip is installed for {sys.executable}",
            hint="pip install uv; or lock it elsewhere: uv pip compile --generate-hashes requirements.txt",
        )
    options = [
        "--quiet", "--disable-pip-version-check", "--no-input", "--dry-run", "--ignore-installed", "--report",
        "report.json", "--only-binary", ":all:", "--python-version", _python(), "--implementation", "cp", "--target",
        "nowhere",
    ]  # fmt: skip
    for platform in _PIP_PLATFORMS:
        options += ["--platform", platform]
    with tempfile.TemporaryDirectory(prefix="stannary-lock-") as place:
        _write(Path(place, "requirements.in"), lines)
        argv = [sys.executable, "-P", "-m", "pip", "install", *options, "-r", "requirements.in"]
        done = _run(argv, dict(os.environ), place)
        if done.returncode != 0:
            raise _refusal(done.stderr, lines)
        report = json.loads(Path(place, "report.json").read_bytes())
    try:
        rows = [_row(item["metadata"], item["download_info"]["archive_info"]["hashes"]) for item in report["install"]]
    except (KeyError, TypeError) as err:
        raise EnvironmentProblem("pip reports no hash", why=repr(err)[:200], hint="pip install uv") from err
    return ("\n".join(sorted(rows)) + "\n").encode()


def _row(wanted: Mapping[str, str], hashes: Mapping[str, str]) -> str:
    return f"{requirements.normalised(wanted['name'])}=={wanted['version']} --hash=sha256:{hashes['sha256']}"


def _write(path: Path, lines: tuple[PackageLine, ...]) -> None:
    """Write the lines at the numbers they have in the list, for the resolver's messages."""
    rows = [""] * lines[-1].number
    for line in lines:
        rows[line.number - 1] = " ".join([line.requirement, *line.hashes])
    path.write_text("\n".join(rows) + "\n")


def _run(argv: list[str], environment: Mapping[str, str], place: str) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(  # noqa: S603  our own options and a list of checked lines
            argv, capture_output=True, text=True, errors="replace", stdin=subprocess.DEVNULL, cwd=place,
            env=dict(environment), timeout=RESOLVE_TIMEOUT_S, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired as err:
        raise EnvironmentProblem(
            "locking the setup list took too long", why=f"over {RESOLVE_TIMEOUT_S:.0f} s", hint="pin more versions"
        ) from err
    except OSError as err:
        raise EnvironmentProblem("cannot start the resolver", why=str(err), hint="pip install uv") from err


def _refusal(said: str, lines: tuple[PackageLine, ...]) -> SpecError | EnvironmentProblem:
    """Return the error of a resolver in three lines: a wish that cannot be met, or an index that is not there."""
    why = _addressless(" ".join(said.split()))
    why = re.sub(r"^error: (No solution found when resolving dependencies )?(cause: )?", "", why)
    why = re.sub(r",? we can conclude that your requirements are unsatisfiable\.?", "", why)[:MAX_WHY_CHARS]
    lowered = why.lower()
    if any(sign in lowered for sign in _UNREACHABLE) and "because" not in lowered:
        return EnvironmentProblem(
            "cannot reach the package index to lock the setup list",
            why=why,
            hint="connect, set UV_INDEX_URL or PIP_INDEX_URL, or lock it elsewhere: stannary lock FILE",
        )
    line = _at_fault(why, lines)
    where = f"line {line.number}: {line.requirement:.80}" if line else "the setup list"
    for signs, what, hint in _REASONS:
        if any(sign in lowered for sign in signs):
            return SpecError(f"{where} {what.format(target=target())}", why=why, hint=hint)
    hint = "check name and version; if it lies elsewhere, set UV_INDEX_URL or PIP_INDEX_URL"
    return SpecError(f"{where} cannot be met", why=why, hint=hint)


def _at_fault(said: str, lines: tuple[PackageLine, ...]) -> PackageLine | None:
    """Return the line whose package the resolver names first."""
    named: list[tuple[int, PackageLine]] = []
    for line in lines:
        found = re.search(rf"(?<![\w-]){re.escape(line.name)}(?![\w-])", _one_spelling(said))
        if found:
            named.append((found.start(), line))
    return min(named, key=lambda item: item[0])[1] if named else None


def _one_spelling(said: str) -> str:
    """Return a message with package names in their one spelling."""
    return re.sub(r"[_.](?=[A-Za-z])", "-", said).lower()


def _addressless(text: str) -> str:
    """Leave out whose index it was: it may name a private one, and with a password."""
    return re.sub(r"(?:https?|file)://\S+", "(the index)", text)


def _uv() -> str | None:
    beside = Path(sys.executable).with_name("uv")
    return str(beside) if beside.is_file() else shutil.which("uv")


def _uv_environment() -> dict[str, str]:
    environment = dict(os.environ)
    settings = {**({} if _has_uv_config() else _pip_settings()), **os.environ}
    for theirs, ours in _SETTINGS.items():
        if settings.get(theirs) and ours not in environment and not _names_index(environment, ours):
            value = settings[theirs]
            environment[ours] = ",".join(value.split()) if ours == "UV_FIND_LINKS" else value
    return environment


def _names_index(environment: Mapping[str, str], name: str) -> bool:
    """Tell whether uv has an index of its own, which pip's must not replace."""
    return name == "UV_INDEX_URL" and any(environment.get(key) for key in ("UV_DEFAULT_INDEX", "UV_INDEX"))


def _has_uv_config() -> bool:
    """Tell whether this user has told uv itself where packages come from; pip's files say nothing then."""
    import platformdirs

    places = (platformdirs.user_config_path("uv", appauthor=False), Path("/etc/uv"))
    return bool(os.environ.get("UV_CONFIG_FILE")) or any((place / "uv.toml").is_file() for place in places)


@functools.cache
def _pip_settings() -> dict[str, str]:
    """Return what pip's own files say, under the names of its variables; nothing where there is no pip.

    -P: a file of the working directory, such as a job's own random.py, is no module of pip.
    """
    if importlib.util.find_spec("pip") is None:
        return {}
    done = _run([sys.executable, "-P", "-m", "pip", "config", "list", "--disable-pip-version-check"], os.environ, "/")
    found = re.findall(r"^(?:global|install|:env:)\.([a-z-]+)='([^']*)'$", done.stdout, re.MULTILINE)
    return {f"PIP_{key.upper().replace('-', '_')}": value.replace("\\n", " ") for key, value in found}


def _python() -> str:
    return f"{sys.version_info.major}.{sys.version_info.minor}"
