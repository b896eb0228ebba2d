"""Who runs which tests where several processes share them (`-n`): a file stays whole, and worlds in one process.

Tests that start markets, agents and namespaces wait more than they compute: one process runs them one after another, as
without `-n`, while the others run all else beside them. Two such worlds at once could be slow enough for each other to
be taken for dead.
"""

from __future__ import annotations

from xdist.scheduler import LoadScopeScheduling

WORLDS = ("tests/e2e/", "tests/integration/", "tests/vm/")


class Sharing(LoadScopeScheduling):
    """The plan."""

    def _split_scope(self, nodeid: str) -> str:
        return "worlds" if nodeid.startswith(WORLDS) else nodeid.partition("::")[0]
