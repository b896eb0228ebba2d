"""Who holds a port is named, and what cannot be seen is no error."""

from __future__ import annotations

import os
import socket
import sys

import pytest

from stannary.errors import EnvironmentProblem
from stannary.market.http import holder, server

linux = pytest.mark.skipif(sys.platform != "linux", reason="/proc is Linux's")


@linux
def test_a_listener_is_named():
    """This very process, while it listens, and nobody after it."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        assert holder.of_port(port).startswith(f"pid {os.getpid()} (")
    assert holder.of_port(port) == ""


def test_without_proc_nobody_is_named(tmp_path):
    """A machine that tells nothing."""
    assert holder.of_port(1, tmp_path) == ""


@linux
def test_a_taken_port_names_who_took_it():
    """The market's error says port, reason and process."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        with pytest.raises(EnvironmentProblem) as caught:
            server._listen("127.0.0.1", port)
    assert f"127.0.0.1:{port}: Address already in use, by pid {os.getpid()}" in caught.value.why
    assert "--port" in caught.value.hint
