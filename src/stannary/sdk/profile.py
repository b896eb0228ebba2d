"""Which market, by which token, under which keys: profiles in config.toml, and who said what.

Rules:
1. A value comes from the flag, else from the environment (STANNARY_PROFILE, _URL, _TOKEN), else from
   the profile, else from the default; `Settings.origins` says from where, for `config show --origin`.
2. config.toml holds no secret: API tokens lie in files of mode 600 beside it (`tokens/<profile>`).
3. Keys a market is known by are written when they are pinned and never learned from the market.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from stannary import files
from stannary.errors import NotFound, SpecError, UsageError

CONFIG_FILE = "config.toml"
LOCK_FILE = ".config.lock"
LOCAL = "local"
MAX_CONFIG_BYTES = 256 * 1024
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
_FIELDS = ("url", "vkey", "tls_pin", "directory")


@dataclass(frozen=True, slots=True)
class Profile:
    """One market as this user knows it."""

    name: str
    url: str = ""
    vkey: str = ""
    witness_vkeys: tuple[str, ...] = ()
    tls_pin: str = ""
    directory: str = ""  # of a market of this machine that commands may start again; empty: somebody else's


@dataclass(frozen=True, slots=True)
class Config:
    """All profiles and the one used by default."""

    profiles: Mapping[str, Profile] = field(default_factory=dict)
    default: str = ""


@dataclass(frozen=True, slots=True)
class Settings:
    """What this call uses, and where each value came from."""

    profile: Profile
    token: files.Secret | None
    token_file: Path
    origins: Mapping[str, str]

    @property
    def account(self) -> str:
        """Return the name under which jobs and broker are kept: the profile's, or one of what the environment says."""
        said = [self.origins.get(name, "").startswith("environment") for name in ("url", "token")]
        if not any(said):
            return self.profile.name
        token = self.token.value if self.token is not None else ""
        return f"{self.profile.name}@{hashlib.sha256(f'{self.profile.url} {token}'.encode()).hexdigest()[:12]}"

    @property
    def has_market(self) -> bool:
        """Tell whether there is an address to talk to."""
        return bool(self.profile.url)


def config_path() -> Path:
    """Return where config.toml lies."""
    return files.config_dir() / CONFIG_FILE


def load(path: Path) -> Config:
    """Read config.toml; an absent one is empty.

    Raises:
        SpecError: not TOML, unknown keys or wrong types, with the path.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return Config()
    if len(data) > MAX_CONFIG_BYTES:
        raise SpecError(
            "config.toml is too large",
            why=f"{len(data):,} bytes, limit {MAX_CONFIG_BYTES:,}",
            hint=f"take out what is not yours: {path}",
        )
    try:
        document = tomllib.loads(data.decode("utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as err:
        raise SpecError(
            f"{path} is not TOML", why=str(err), hint="mend that line, or move the file away and: stannary market add"
        ) from err
    unknown = set(document) - {"default_profile", "profiles"}
    profiles = document.get("profiles", {})
    default = document.get("default_profile", "")
    if unknown or not isinstance(profiles, dict) or not isinstance(default, str):
        raise SpecError(
            f"{path} holds something unknown",
            why=", ".join(sorted(unknown)) or "profiles, default_profile",
            hint="take it out: known are default_profile and profiles",
        )
    return Config({name: _profile(name, value, path) for name, value in profiles.items()}, default)


def save(path: Path, config: Config) -> None:
    """Write config.toml."""
    lines = [f"default_profile = {_toml(config.default)}", ""] if config.default else []
    for profile in config.profiles.values():
        lines.append(f"[profiles.{_toml(profile.name)}]")
        lines += [f"{name} = {_toml(getattr(profile, name))}" for name in _FIELDS if getattr(profile, name)]
        if profile.witness_vkeys:
            lines.append(f"witness_vkeys = [{', '.join(_toml(item) for item in profile.witness_vkeys)}]")
        lines.append("")
    files.replace(path, "\n".join(lines).encode())


def store(profile: Profile, token: files.Secret | None, *, make_default: bool) -> None:
    """Add or replace a profile and its token; what says already what it should is not written (a read-only home)."""
    if _NAME.fullmatch(profile.name) is None:
        raise UsageError("not a profile name", why=f"{profile.name!r:.80}")

    def add(config: Config) -> Config:
        default = profile.name if make_default else config.default
        return replace(config, profiles={**config.profiles, profile.name: profile}, default=default)

    _change(add)
    if token is not None:
        files.replace(token_path(profile.name), token.value.encode())


def use(name: str) -> Config:
    """Make a profile the default.

    Raises:
        NotFound: there is none of this name.
    """

    def set_default(config: Config) -> Config:
        if name not in config.profiles and name != LOCAL:
            raise _unknown(name, config)
        return replace(config, default=name)

    return _change(set_default)


def remove(name: str) -> Profile:
    """Forget a profile and its token, and return it; a default that is gone is none.

    Raises:
        NotFound: there is none of this name.
    """
    removed: list[Profile] = []

    def take_out(config: Config) -> Config:
        if name not in config.profiles:
            raise _unknown(name, config)
        removed.append(config.profiles[name])
        kept = {key: value for key, value in config.profiles.items() if key != name}
        return replace(config, profiles=kept, default="" if config.default == name else config.default)

    _change(take_out)
    token_path(name).unlink(missing_ok=True)
    return removed[-1]


def _change(change: Callable[[Config], Config]) -> Config:
    """Change config.toml, beside other commands; what says already what it should is not written (a read-only home)."""
    path = config_path()
    known = load(path)
    if change(known) == known:
        return known
    with files.locked(path.with_name(LOCK_FILE)):
        wanted = change(load(path))
        save(path, wanted)
    return wanted


def token_path(name: str) -> Path:
    """Return the file of a profile's API token."""
    return files.config_dir() / "tokens" / name


def resolve(flag: str | None = None, environment: Mapping[str, str] | None = None) -> Settings:
    """Return what this call uses (rule 1).

    Raises:
        NotFound: a profile was named that does not exist.
    """
    env = os.environ if environment is None else environment
    config = load(config_path())
    name, origin = _first(
        (flag, "flag --profile"),
        (env.get("STANNARY_PROFILE"), "environment STANNARY_PROFILE"),
        (config.default, str(config_path())),
        (LOCAL, "default"),
    )
    profile = config.profiles.get(name)
    if profile is None and name != LOCAL:
        raise _unknown(name, config, origin)
    profile = profile or Profile(LOCAL)
    origins = {"profile": origin}
    source = str(config_path())
    url, origins["url"] = _first(
        (env.get("STANNARY_URL"), "environment STANNARY_URL"), (profile.url, source), ("", "not set")
    )
    if url != profile.url:
        # Certificate and directory belong to the address; the keys stay, and another market does not have them.
        profile = replace(profile, url=url, tls_pin="", directory="")
    for name in ("vkey", "witness_vkeys", "tls_pin"):
        origins[name] = source if getattr(profile, name) else "not set"
    token, origins["token"] = _token(env, profile.name)
    return Settings(profile, token, token_path(profile.name), origins)


def _unknown(name: str, config: Config, origin: str = "") -> NotFound:
    known = ", ".join(config.profiles) or "none"
    return NotFound(
        f"no profile {name:.80}",
        why=f"from {origin}; known: {known}" if origin else f"known: {known}",
        hint="stannary market ls",
    )


def _token(env: Mapping[str, str], name: str) -> tuple[files.Secret | None, str]:
    if env.get("STANNARY_TOKEN"):
        return files.Secret(env["STANNARY_TOKEN"]), "environment STANNARY_TOKEN"
    try:
        return files.Secret(files.read_secret(token_path(name)).decode("ascii").strip()), str(token_path(name))
    except NotFound:
        return None, "not set"


def _first(*candidates: tuple[str | None, str]) -> tuple[str, str]:
    for value, origin in candidates:
        if value:
            return value, origin
    return "", candidates[-1][1]


def _profile(name: str, value: object, path: Path) -> Profile:
    if not isinstance(value, dict) or set(value) - {*_FIELDS, "witness_vkeys"}:
        raise SpecError(
            f"{path}: profile {name:.60} holds something unknown",
            why=f"known: {', '.join(_FIELDS)}",
            hint="take the rest out",
        )
    witnesses = value.get("witness_vkeys", [])
    texts = [value.get(key, "") for key in _FIELDS]
    if not isinstance(witnesses, list) or not all(isinstance(item, str) for item in [*texts, *witnesses]):
        raise SpecError(
            f"{path}: profile {name:.60} holds a value that is not a string",
            why=", ".join((*_FIELDS, "witness_vkeys")),
            hint="put each value in quotes",
        )
    url, vkey, tls_pin, directory = texts
    return Profile(name, url, vkey, tuple(witnesses), tls_pin, directory)


def _toml(text: str) -> str:
    """Spell a TOML basic string: JSON's escapes are a subset of TOML's."""
    return json.dumps(text, ensure_ascii=True)
