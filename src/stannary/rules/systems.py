"""The root file system a job runs in, as an engine class names it (docs/receipt.md R7.11).

A market publishes a root by the digest of its tar; a node that runs jobs in it ends its engine class in the root's
short name. A job that names a root is done and audited by such nodes only.
"""

from __future__ import annotations

from stannary.formats.digest import PREFIX, Digest

NAME_HEX = 12
COMMANDS = "cpu-commands-"  # engine classes of nodes that have no library to train with begin so


def root_name(root: Digest) -> str:
    """Return the last part of the engine class of every node that runs jobs in this root: `r` and twelve digits."""
    return "r" + root.removeprefix(PREFIX)[:NAME_HEX]


def is_of_root(engine_class: str, root: Digest) -> bool:
    """Say whether an engine class says that its node runs jobs in this root."""
    return engine_class.endswith(f".{root_name(root)}")
