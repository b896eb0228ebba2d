"""A real S3 server shared by the session."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.integration.seal.bucket import S3Server, seaweedfs


@pytest.fixture(scope="session")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """SeaweedFS with a bucket."""
    with seaweedfs(tmp_path_factory.mktemp("weed")) as server:
        yield server


@pytest.fixture
def environment(tmp_path: Path, s3: S3Server) -> dict[str, str]:
    """The environment of a user of that server with a data folder of his own."""
    return {**os.environ, **s3.environment, "STANNARY_DATA_DIR": str(tmp_path / "data"), "OMP_NUM_THREADS": "1"}
