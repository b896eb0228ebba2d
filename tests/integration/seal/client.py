"""The command line as users run it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping

COMMAND = (sys.executable, "-m", "stannary.cli.main")


def stannary(*arguments: str, environment: Mapping[str, str], prefix: tuple[str, ...] = ()) -> str:
    """Run the command line and return its stdout; fail with its stderr."""
    done = subprocess.run(
        [*prefix, *COMMAND, *arguments], env=dict(environment), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
