"""A real S3 server shared by the session, and the command line as users run it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from .bucket import S3Server, seaweedfs

COMMAND = (sys.executable, "-m", "stannary.cli.main")


@pytest.fixture(scope="session")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """SeaweedFS with a bucket."""
    with seaweedfs(tmp_path_factory.mktemp("weed")) as server:
        yield server


@pytest.fixture
def environment(tmp_path: Path, s3: S3Server) -> dict[str, str]:
    """The environment of a user of that server with a data folder of his own."""
    return {**os.environ, **s3.environment, "STANNARY_DATA_DIR": str(tmp_path / "data"), "OMP_NUM_THREADS": "1"}


def stannary(*arguments: str, environment: Mapping[str, str], prefix: tuple[str, ...] = ()) -> str:
    """Run the command line and return its stdout; fail with its stderr."""
    done = subprocess.run(
        [*prefix, *COMMAND, *arguments], env=dict(environment), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
