"""Paths inside a sandbox, the same on every node: what lies at paths of the host's own is found by name."""

from __future__ import annotations

INTERPRETER = "/python"  # a link to the interpreter's prefix
OWN = "/stannary"  # holds our package, where a job sees a root file system in place of the host's
PACKAGES = "/environment"  # the installed requirements, where a job has any
JOB_PATH = f"{PACKAGES}/bin:{INTERPRETER}/bin:/usr/local/bin:/usr/bin:/bin"
