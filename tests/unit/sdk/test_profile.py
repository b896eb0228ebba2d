"""Profiles: who said what, and where secrets lie."""

from __future__ import annotations

import subprocess
import sys

import pytest

from stannary import files
from stannary.errors import EnvironmentProblem, NotFound, SpecError
from stannary.sdk import profile, trustfile
from stannary.sdk.profile import Config, Profile

WORK = Profile("work", "https://market.example:7433", "market.example+00000000+AAAA", ("w+1+B",), "ab" * 32)


def test_an_empty_home_is_the_local_profile():
    """Nothing configured: profile local, no market, no token, and the origins say so."""
    settings = profile.resolve(environment={})
    assert settings.profile == Profile("local")
    assert not settings.has_market and settings.token is None
    assert settings.origins["url"] == "not set"


def test_profiles_survive_the_file():
    """What is stored is read back, quotes and unicode included."""
    odd = Profile("odd", 'https://market.example/"quoted"\\é', "v")
    profile.save(profile.config_path(), Config({"work": WORK, "odd": odd}, "work"))
    assert profile.load(profile.config_path()) == Config({"work": WORK, "odd": odd}, "work")


def test_tokens_lie_apart_with_mode_600():
    """config.toml holds no secret; the token file is private, and refused when it is not."""
    profile.store(WORK, files.Secret("stk_secret"), make_default=True)
    assert b"stk_secret" not in profile.config_path().read_bytes()
    path = profile.token_path("work")
    assert path.stat().st_mode & 0o777 == 0o600
    path.chmod(0o644)
    with pytest.raises(EnvironmentProblem, match="open to others"):
        profile.resolve(environment={})


def test_flag_beats_environment_beats_file():
    """The order is flag, environment, file, default; origins name the winner."""
    profile.store(WORK, files.Secret("stk_file"), make_default=True)
    profile.store(Profile("other", "https://other.example"), None, make_default=False)
    assert profile.resolve("other", {"STANNARY_PROFILE": "work"}).profile.name == "other"
    assert profile.resolve(None, {"STANNARY_PROFILE": "other"}).profile.name == "other"
    settings = profile.resolve(None, {"STANNARY_TOKEN": "stk_env"})
    assert settings.token is not None and settings.token.value == "stk_env"
    assert settings.origins["token"] == "environment STANNARY_TOKEN"
    assert "stk_env" not in repr(settings)


def test_a_pin_belongs_to_its_address():
    """Another address from the environment does not inherit the certificate pin."""
    profile.store(WORK, None, make_default=True)
    assert profile.resolve(None, {"STANNARY_URL": "https://elsewhere.example"}).profile.tls_pin == ""


def test_unknown_names_and_members_are_refused(tmp_path):
    """A profile that does not exist and a misspelt key are errors of ours."""
    with pytest.raises(NotFound):
        profile.resolve("nobody", {})
    path = tmp_path / "config.toml"
    for text in ("[profiles.a]\nurll = 'x'", "profile = 1", "[profiles.a]\nurl = 3", "not toml", "profiles = 3"):
        path.write_text(text)
        with pytest.raises(SpecError):
            profile.load(path)


ADDING = """
import sys
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from stannary.formats import dsse, note
from stannary.sdk import profile, trustfile
from stannary.verify import trust
public = dsse.public_bytes(Ed25519PrivateKey.generate())
for number in range(10):
    name = f"m{sys.argv[1]}-{number}"
    profile.store(profile.Profile(name, "http://127.0.0.1:1"), None, make_default=False)
    trustfile.pin(trust.pin(note.format_vkey(name, public)))
"""


def test_commands_at_once_lose_nothing():
    """Several processes that add profiles and pin keys at the same moment all find their own afterwards."""
    running = [subprocess.Popen([sys.executable, "-c", ADDING, str(number)]) for number in range(4)]
    assert [process.wait() for process in running] == [0] * 4
    names = {f"m{number}-{one}" for number in range(4) for one in range(10)}
    assert set(profile.load(profile.config_path()).profiles) == names
    assert {market.name for market in trustfile.load().markets} == names
