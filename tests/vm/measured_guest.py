"""A measured guest: signed UKI, OVMF with Secure Boot, software TPM, QEMU without KVM.

The guest's init relays raw TPM commands between a serial port and /dev/tpmrm0, so the host's own client
quotes the guest's TPM, and prints the firmware's event log on the console. Nothing else runs in it.
"""

from __future__ import annotations

import base64
import hashlib
import os
import re
import shutil
import socket
import struct
import subprocess
from dataclasses import dataclass
from pathlib import Path

from tests.integration.tpm.software_tpm import SoftwareTpm

from stannary.sdk.processes import wait_until

OVMF = Path("/usr/share/OVMF")
SECURE_CODE, SNAKEOIL_VARIABLES = OVMF / "OVMF_CODE_4M.secboot.fd", OVMF / "OVMF_VARS_4M.snakeoil.fd"
SNAKEOIL = Path("/usr/share/ovmf")
STUB = Path("/usr/lib/systemd/boot/efi/linuxx64.efi.stub")
BUSYBOX = Path("/bin/busybox")
KERNELS = Path(__file__).parents[2] / ".vm/boot"  # filled by scripts/install-vm.sh
TOOLS = ("qemu-system-x86_64", "swtpm", "swtpm_setup", "sbsign", "objcopy", "mformat", "mcopy", "cpio", "openssl")
BOOT_LIMIT_S = 300.0
CPU = "Nehalem"  # PCR 0 depends on the CPU model: it is pinned
COMMAND_LINE = "console=ttyS0 panic=1 quiet"
_INIT = """#!/bin/busybox sh
/bin/busybox --install -s /bin
export PATH=/bin
mount -t proc proc /proc; mount -t sysfs sys /sys; mount -t devtmpfs dev /dev
mount -t securityfs sec /sys/kernel/security
echo LOG-BEGIN; base64 /sys/kernel/security/tpm0/binary_bios_measurements; echo LOG-END
stty -F /dev/ttyS1 raw -echo 115200
exec 3<>/dev/tpmrm0 4<>/dev/ttyS1
echo RELAY-READY
while dd bs=1 count=10 of=/h <&4 2>/dev/null; do
  size=$((0x$(od -An -tx1 -j2 -N4 /h | tr -d ' \\n')))
  dd bs=1 count=$((size - 10)) of=/b <&4 2>/dev/null
  cat /h /b > /c
  dd if=/c bs=4096 count=1 >&3 2>/dev/null
  dd bs=4096 count=1 <&3 >&4 2>/dev/null
done
"""


def missing() -> list[str]:
    """Return what this machine lacks for a boot."""
    lacking = [name for name in TOOLS if shutil.which(name) is None]
    lacking += [str(path) for path in (SECURE_CODE, SNAKEOIL_VARIABLES, STUB, BUSYBOX) if not path.exists()]
    if kernel() is None:
        lacking.append(f"a kernel image (STANNARY_VM_KERNEL or {KERNELS}/vmlinuz-*)")
    return lacking


def kernel() -> Path | None:
    """Return the guest's kernel."""
    named = os.environ.get("STANNARY_VM_KERNEL")
    found = [Path(named)] if named else sorted(KERNELS.glob("vmlinuz-*"))
    return found[-1] if found and found[-1].is_file() else None


@dataclass(frozen=True)
class Image:
    """A signed UKI and the sections that are measured."""

    path: Path
    esp: Path
    sections: dict[str, bytes]


def build(folder: Path, command_line: str, *, init: str = _INIT, files: dict[str, Path] | None = None) -> Image:
    """Make a signed UKI and an EFI system partition with it; `files` go into its initrd beside busybox."""
    folder.mkdir(parents=True)
    root = folder / "root"
    for name in ("bin", "proc", "sys", "dev"):
        (root / name).mkdir(parents=True)
    shutil.copy(BUSYBOX, root / "bin/busybox")
    for name, source in (files or {}).items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source.resolve(), root / name)
    (root / "init").write_text(init)
    (root / "init").chmod(0o755)
    for path in sorted(root.rglob("*")):
        os.utime(path, (0, 0))
    listed = "\n".join(sorted(str(path.relative_to(root)) for path in root.rglob("*"))).encode()
    initrd = subprocess.run(
        ["cpio", "-o", "-H", "newc", "--reproducible", "--quiet", "-R", "0:0"],
        cwd=root, input=listed, capture_output=True, check=True,
    ).stdout  # fmt: skip
    image = kernel()
    assert image is not None
    sections = {
        ".osrel": b"ID=stannary-test\nVERSION_ID=1\n",
        ".cmdline": command_line.encode(),
        ".linux": image.read_bytes(),
        ".initrd": initrd,
    }
    arguments = ["objcopy"]
    for name, address in ((".osrel", 0x20000), (".cmdline", 0x30000), (".linux", 0x2000000), (".initrd", 0x4000000)):
        place = folder / name.lstrip(".")
        place.write_bytes(sections[name])
        arguments += ["--add-section", f"{name}={place}", "--change-section-vma", f"{name}={address:#x}"]
    subprocess.run([*arguments, str(STUB), str(folder / "plain.efi")], check=True)
    subprocess.run(
        ["openssl", "rsa", "-in", str(SNAKEOIL / "PkKek-1-snakeoil.key"), "-passin", "pass:snakeoil",
         "-out", str(folder / "key.pem")], check=True, capture_output=True,
    )  # fmt: skip
    subprocess.run(
        ["sbsign", "--key", str(folder / "key.pem"), "--cert", str(SNAKEOIL / "PkKek-1-snakeoil.pem"),
         "--output", str(folder / "uki.efi"), str(folder / "plain.efi")], check=True, capture_output=True,
    )  # fmt: skip
    esp = folder / "esp.img"
    with esp.open("wb") as stream:
        stream.truncate(64 << 20)
    subprocess.run(["mformat", "-i", str(esp), "-F", "::"], check=True)
    subprocess.run(["mmd", "-i", str(esp), "::/EFI", "::/EFI/BOOT"], check=True)
    subprocess.run(["mcopy", "-i", str(esp), str(folder / "uki.efi"), "::/EFI/BOOT/BOOTX64.EFI"], check=True)
    return Image(folder / "uki.efi", esp, sections)


def authenticode(data: bytes) -> bytes:
    """Return the SHA-256 that firmware extends for a signed PE image (Windows Authenticode PE, 2008)."""
    pe = struct.unpack_from("<I", data, 0x3C)[0]
    optional = pe + 24
    checksum = optional + 64
    directory = optional + 112 + 4 * 8  # PE32+; entry 4 is the certificate table
    start, size = struct.unpack_from("<II", data, directory)
    state = hashlib.sha256(data[:checksum] + data[checksum + 4 : directory])
    state.update(data[directory + 8 : start if size else len(data)])
    return state.digest()


def pcr11(sections: dict[str, bytes]) -> bytes:
    """Return PCR 11 as systemd-stub extends it: name with its zero, then content, section by section."""
    value = bytes(32)
    for name in (".linux", ".osrel", ".cmdline", ".initrd"):
        for part in (name.encode() + b"\0", sections[name]):
            value = hashlib.sha256(value + hashlib.sha256(part).digest()).digest()
    return value


class Guest:
    """One boot of an image on one software TPM."""

    def __init__(self, image: Image, tpm: SoftwareTpm, folder: Path) -> None:
        folder.mkdir(parents=True)
        self._console = folder / "console.txt"
        variables = folder / "vars.fd"
        shutil.copy(SNAKEOIL_VARIABLES, variables)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = int(free.getsockname()[1])
        arguments = [
            "qemu-system-x86_64", "-machine", "q35,smm=on", "-accel", "tcg", "-cpu", CPU, "-m", "512", "-smp", "1",
            "-display", "none", "-no-reboot", "-nodefaults",
            "-global", "driver=cfi.pflash01,property=secure,value=on",
            "-serial", f"file:{self._console}",
            "-chardev", f"socket,id=relay,host=127.0.0.1,port={self.port},server=on,wait=off",
            "-device", "isa-serial,chardev=relay",
            "-drive", f"if=pflash,format=raw,unit=0,readonly=on,file={SECURE_CODE}",
            "-drive", f"if=pflash,format=raw,unit=1,file={variables}",
            "-chardev", f"socket,id=c,path={tpm.control}", "-tpmdev", "emulator,id=t,chardev=c",
            "-device", "tpm-crb,tpmdev=t",
            "-drive", f"file={image.esp},format=raw,if=none,id=d0,readonly=on", "-device", "virtio-blk-pci,drive=d0",
        ]  # fmt: skip
        self._process = subprocess.Popen(arguments, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)

    def log(self) -> bytes:
        """Wait for the relay and return the event log."""
        ended = f"the guest did not boot in {BOOT_LIMIT_S:.0f} s"
        assert wait_until(lambda: "RELAY-READY" in self._text() or self._process.poll() is not None, BOOT_LIMIT_S), (
            ended
        )
        text = self._text()
        if "RELAY-READY" not in text:
            raise AssertionError(f"{text[-1500:]}\n{self._process.stderr and self._process.stderr.read()}")
        found = re.search(r"LOG-BEGIN\s+([A-Za-z0-9+/=\s]+?)\s*LOG-END", text)
        assert found is not None, text[-2000:]
        return base64.b64decode("".join(found.group(1).split()))

    def _text(self) -> str:
        return self._console.read_text(errors="replace") if self._console.exists() else ""

    def stop(self) -> None:
        """Power off."""
        self._process.terminate()
        self._process.wait(timeout=20)
        if self._process.stderr is not None:
            self._process.stderr.close()
