"""A software TPM of Debian's swtpm for the modules of this folder, and a client of it."""

from __future__ import annotations

import pytest
from tests.integration.tpm.software_tpm import SoftwareTpm

from stannary.certify.collect import tpm_client


@pytest.fixture(scope="module")
def tpm(tmp_path_factory):
    """One software TPM for the whole module."""
    machine = SoftwareTpm(tmp_path_factory.mktemp("tpm"))
    yield machine
    machine.stop()


@pytest.fixture
def client(tpm):
    """A client of it."""
    opened = tpm_client.connect(tpm.address)
    yield opened
    opened.close()
