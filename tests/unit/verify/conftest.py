"""Whatever a test of this room verifies, the second verifier (docs/receipt.md) verifies too, and must say the same."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from tests.second_verifier import comparison


@pytest.fixture(autouse=True)
def both_verifiers(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Put the comparison in the place of `verify_receipt`, where a test module uses it."""
    module: Any = request.module
    if hasattr(module, "verify_receipt"):
        monkeypatch.setattr(module, "verify_receipt", comparison.verify_both)
    yield
