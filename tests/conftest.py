"""Settings shared by every test: properties are judged by their promise, never by a busy machine's clock."""

from __future__ import annotations

import gc
import os
import shutil
import tempfile
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from stannary.sdk import processes

os.environ.setdefault("OMP_NUM_THREADS", "1")  # two spinning threads on a shared core are seven times slower
for name in ("CONFIG_DIR", "DATA_DIR", "PROFILE", "URL", "TOKEN", "DEBUG"):
    os.environ.pop(f"STANNARY_{name}", None)

# A property with a number of its own states it as a multiple of the profile's, so that `quick` shortens it too.
settings.register_profile("stannary", deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("quick", settings.get_profile("stannary"), max_examples=15)
settings.load_profile("stannary")  # before test modules are read; `--hypothesis-profile` comes between


def pytest_addoption(parser: pytest.Parser) -> None:
    """Take `--floor`."""
    parser.addoption("--floor", action="store_true", help="hold the coverage floor of tests/floor.py")


def pytest_configure(config: pytest.Config) -> None:
    """Hold the floor where that is asked for."""
    if config.getoption("floor"):
        from tests.floor import Floor

        config.pluginmanager.register(Floor(), "floor")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Share tests among processes as tests/sharing.py says."""
    from tests.sharing import Sharing

    return Sharing(config, log)


def pytest_collection_finish() -> None:
    """Take what was imported and collected out of the collector's sight: it stays, and is most of all there is."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True, scope="session")
def nobodys_home() -> Iterator[None]:
    """Whatever this account keeps for itself is neither read nor written; caches of packages stay the account's."""
    place = tempfile.mkdtemp(prefix="stannary-tests-")
    with pytest.MonkeyPatch.context() as patch:
        for name in ("CONFIG", "DATA", "STATE"):
            patch.setenv(f"XDG_{name}_HOME", f"{place}/{name.lower()}")
        yield
    shutil.rmtree(place, ignore_errors=True)


@pytest.fixture(autouse=True, scope="session")
def nobody_left() -> Iterator[None]:
    """What a command that ran inside the tests started and did not wait for, such as a broker, ends with them."""
    yield
    for child in processes._CHILDREN.values():
        if child.poll() is None:
            child.kill()
            child.wait()
