"""A software TPM with its own certificate authority, started and stopped by tests."""

from __future__ import annotations

import shutil
import socket
import subprocess
import time
from pathlib import Path

import pytest

needs_swtpm = pytest.mark.skipif(
    shutil.which("swtpm") is None or shutil.which("swtpm_setup") is None,
    reason="swtpm and swtpm-tools are not installed (Debian: apt-get install swtpm swtpm-tools)",
)
DEADLINE_S = 20.0


class SoftwareTpm:
    """swtpm on two loopback ports; `reboot` stops and starts it on the same state."""

    def __init__(self, folder: Path, *, for_machine: bool = False, pcr_banks: str = "sha256") -> None:
        self._folder, self._pcr_banks = folder, pcr_banks
        self._process: subprocess.Popen[bytes] | None = None
        self.port, self._control = _free_ports()
        self.control = folder.resolve() / "control"  # a virtual machine's way in
        self._manufacture()
        if not for_machine:
            self.start()

    @property
    def address(self) -> str:
        """`host:port` for the client."""
        return f"127.0.0.1:{self.port}"

    @property
    def issuers(self) -> Path:
        """Certificates of the test authority, issuer and root."""
        bundle = self._folder / "issuers.pem"
        bundle.write_bytes((self._folder / "ca/cert.pem").read_bytes() + self.root.read_bytes())
        return bundle

    @property
    def root(self) -> Path:
        """The test authority's root certificate."""
        return self._folder / "ca/swtpm-localca-rootca-cert.pem"

    def start_for_machine(self) -> None:
        """Start on a control socket that a virtual machine takes over; it ends with the machine."""
        self._process = subprocess.Popen(
            ["swtpm", "socket", "--tpm2", "--tpmstate", f"dir={self._folder.resolve() / 'state'}",
             "--ctrl", f"type=unixio,path={self.control}", "--terminate"],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        deadline = time.monotonic() + DEADLINE_S
        while not self.control.exists():
            assert time.monotonic() < deadline, "swtpm did not start"
            assert self._process.poll() is None, "swtpm ended"

    def start(self) -> None:
        """Start the process and wait until it answers."""
        self._process = subprocess.Popen(
            ["swtpm", "socket", "--tpm2", "--tpmstate", f"dir={self._folder / 'state'}",
             "--ctrl", f"type=tcp,port={self._control},bindaddr=127.0.0.1",
             "--server", f"type=tcp,port={self.port},bindaddr=127.0.0.1",
             "--flags", "not-need-init,startup-clear"],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        deadline = time.monotonic() + DEADLINE_S
        while time.monotonic() < deadline:
            try:
                with socket.create_connection(("127.0.0.1", self._control), timeout=1):
                    return
            except OSError:
                assert self._process.poll() is None, "swtpm ended"
        raise AssertionError("swtpm did not start")

    def stop(self) -> None:
        """Stop the process by its own id."""
        if self._process is not None:
            self._process.terminate()
            self._process.wait(timeout=DEADLINE_S)
            self._process = None

    def reboot(self) -> None:
        """Power off and on: resetCount rises."""
        self.stop()
        self.start()

    def _manufacture(self) -> None:
        folder = self._folder.resolve()
        (folder / "ca").mkdir()
        (folder / "state").mkdir()
        (folder / "localca.conf").write_text(
            f"statedir = {folder}/ca\nsigningkey = {folder}/ca/key.pem\n"
            f"issuercert = {folder}/ca/cert.pem\ncertserial = {folder}/ca/serial\n"
        )
        (folder / "options").write_text("--platform-manufacturer Test\n--platform-version 1\n--platform-model Test\n")
        (folder / "setup.conf").write_text(
            f"create_certs_tool = {shutil.which('swtpm_localca')}\n"
            f"create_certs_tool_config = {folder}/localca.conf\ncreate_certs_tool_options = {folder}/options\n"
        )
        made = subprocess.run(
            ["swtpm_setup", "--tpm2", "--tpm-state", str(folder / "state"), "--create-ek-cert", "--lock-nvram",
             "--config", str(folder / "setup.conf"), "--pcr-banks", self._pcr_banks, "--overwrite"],
            capture_output=True, text=True, check=False, timeout=60,
        )  # fmt: skip
        assert made.returncode == 0, made.stdout + made.stderr


def _free_ports() -> tuple[int, int]:
    with socket.socket() as first, socket.socket() as second:
        first.bind(("127.0.0.1", 0))
        second.bind(("127.0.0.1", 0))
        return int(first.getsockname()[1]), int(second.getsockname()[1])
