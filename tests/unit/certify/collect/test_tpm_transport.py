"""Transports to a TPM against devices that stay silent, dribble, lie about sizes or hang up."""

from __future__ import annotations

import os
import socket
import struct
import threading
import tty
from pathlib import Path
from types import SimpleNamespace

import pytest

from stannary.certify.collect import tpm_transport
from stannary.certify.collect.tpm_transport import DeviceTransport, SocketTransport
from stannary.errors import FormatError, ServiceError

COMMAND = struct.pack(">HIIH", 0x8001, 12, 0x144, 0)
ANSWER = struct.pack(">HII", 0x8001, 10, 0)


@pytest.fixture
def device():
    """A terminal in raw mode: one end is the device file, the other the TPM's."""
    inside, outside = os.openpty()
    tty.setraw(outside)
    yield inside, Path(os.ttyname(outside))
    os.close(inside)
    os.close(outside)


@pytest.fixture
def server():
    """A loopback port and what connects to it."""
    listener = socket.create_server(("127.0.0.1", 0))
    listener.settimeout(20)
    yield listener
    listener.close()


def _speak(listener: socket.socket, *pieces: bytes, hold: threading.Event | None = None) -> threading.Thread:
    def answer() -> None:
        connection, _ = listener.accept()
        with connection:
            connection.recv(64)
            for piece in pieces:
                connection.sendall(piece)
            if hold is not None:
                hold.wait(20)

    thread = threading.Thread(target=answer)
    thread.start()
    return thread


def test_device_answer_is_read_in_one_piece(device):
    """What the kernel's device answers comes back whole, and the command reached it unchanged."""
    inside, path = device
    transport = DeviceTransport(path, limit_s=20)
    os.write(inside, ANSWER)
    assert transport.exchange(COMMAND) == ANSWER
    assert os.read(inside, 64) == COMMAND
    transport.close()


def test_device_that_never_answers_is_waited_for_once(device):
    """A silent device ends in our error at the limit, never in a hang."""
    transport = DeviceTransport(device[1], limit_s=0.05)
    with pytest.raises(ServiceError, match="did not answer: nothing within"):
        transport.exchange(COMMAND)
    with pytest.raises(ServiceError, match="did not answer: an earlier call"):
        transport.exchange(COMMAND)
    transport.close()


def test_device_that_hangs_up_is_our_error(device):
    """A device that goes away in the middle ends in our error, with the kernel's reason."""
    transport = DeviceTransport(device[1], limit_s=20)
    transport._fd, gone = os.open("/dev/full", os.O_RDWR), transport._fd
    os.close(gone)
    with pytest.raises(ServiceError, match="No space left"):
        transport.exchange(COMMAND)
    transport.close()


def test_socket_that_never_answers_is_waited_for_once(server):
    """A silent software TPM ends in our error at the limit."""
    hold = threading.Event()
    thread = _speak(server, hold=hold)
    transport = SocketTransport(*server.getsockname(), limit_s=0.05)
    with pytest.raises(ServiceError, match="did not answer"):
        transport.exchange(COMMAND)
    hold.set()
    transport.close()
    thread.join()


def test_limit_counts_for_the_whole_answer(server, monkeypatch):
    """A device that sends a byte whenever patience would begin anew does not get more time."""
    hold = threading.Event()
    thread = _speak(server, ANSWER[:4], hold=hold)
    now = iter([0.0, 1.0, 61.0])
    monkeypatch.setattr(tpm_transport, "time", SimpleNamespace(monotonic=lambda: next(now)))
    transport = SocketTransport(*server.getsockname(), limit_s=60)
    with pytest.raises(ServiceError, match="4 of 10 bytes at the deadline"):
        transport.exchange(COMMAND)
    hold.set()
    transport.close()
    thread.join()


@pytest.mark.parametrize("size", [0, 9, 4097, 0xFFFFFFFF])
def test_impossible_sizes_are_refused_before_reading(server, size):
    """A header that announces less than itself or more than any TPM sends is malformed."""
    thread = _speak(server, struct.pack(">HII", 0x8001, size, 0))
    transport = SocketTransport(*server.getsockname(), limit_s=20)
    with pytest.raises(FormatError, match="impossible size"):
        transport.exchange(COMMAND)
    transport.close()
    thread.join()


def test_connection_that_ends_early_is_said(server):
    """A software TPM that dies in the middle of its answer is our error."""
    thread = _speak(server, ANSWER[:6])
    transport = SocketTransport(*server.getsockname(), limit_s=20)
    with pytest.raises(ServiceError, match="closed the connection"):
        transport.exchange(COMMAND)
    transport.close()
    thread.join()
