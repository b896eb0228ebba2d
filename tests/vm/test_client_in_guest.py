"""Our TPM client inside a guest: the kernel's own /dev/tpmrm0, not a relay and not a socket.

Opt-in (`make e2e-vm`): one boot without KVM, under two minutes. The guest's initrd holds this interpreter and
the client's modules, which are of the standard library only.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
from tests.integration.tpm.software_tpm import SoftwareTpm
from tests.vm import measured_guest as guests

import stannary

pytestmark = [
    pytest.mark.vm,
    pytest.mark.timeout(900),
    pytest.mark.skipif(os.environ.get("STANNARY_VM") != "1", reason="opt-in: make e2e-vm (minutes of emulation)"),
]
SOURCE = Path(stannary.__file__).parents[1]
PYTHON = Path(sys.executable).resolve()
STDLIB = Path(sysconfig.get_path("stdlib")).resolve()
IMPORTS = "import stannary.certify.collect.tpm_client, stannary.certify.collect.endorsement, json, sys"
_INIT = f"""#!/bin/busybox sh
/bin/busybox --install -s /bin
export PATH=/bin PYTHONDONTWRITEBYTECODE=1 PYTHONPATH=/source
mount -t proc proc /proc; mount -t sysfs sys /sys; mount -t devtmpfs dev /dev
{PYTHON} -S /asked.py
echo LOG-BEGIN; echo AA==; echo LOG-END; echo RELAY-READY
sleep 100
"""
_ASKED = f"""{IMPORTS}
from stannary.certify.collect import tpm_client, tpm_transport
from stannary.certify.collect.endorsement import PROFILES
from stannary.errors import ServiceError
client, told = tpm_client.connect(), {{}}
told["banks"] = client.banks()
told["certified"] = [item.name for item in PROFILES if client.ek_certificate(item)]
for rsa in (False, True):
    with client.attestation_key(rsa=rsa) as key:
        attest, signature = client.quote(key, b"x" * 48)
        told["rsa" if rsa else "ecc"] = [key.public.hex(), attest.hex(), signature.hex()]
told["registers"] = {{index: value.hex() for index, value in client.read_pcrs().items()}}
told["written"] = client.nv_write(0x01400002, bytes(64)) and client.nv_read(0x01400002) == bytes(64)
told["absent"] = client.read_public(0x81000003).hex()
client.close()
hasty = tpm_client.TpmClient(tpm_transport.DeviceTransport(limit_s=0.001))
try:
    with hasty.attestation_key(rsa=True):
        told["late"] = ""
except ServiceError as err:
    told["late"] = str(err)
client = tpm_client.connect()
told["again"] = len(client.read_pcrs())
print("TOLD", json.dumps(told), flush=True)
"""


def _interpreter() -> dict[str, Path]:
    """The files of an interpreter that runs the client, by their place in the guest."""
    listing = f"{IMPORTS}\nfor m in list(sys.modules.values()): print(getattr(m, '__file__', None) or '')"
    words = [str(PYTHON), "-S", "-c", listing]
    ran = subprocess.run(words, env={"PYTHONPATH": str(SOURCE)}, capture_output=True, text=True, check=True, timeout=60)
    wanted = {PYTHON, STDLIB / "os.py", *(Path(line) for line in ran.stdout.split())}
    wanted |= set((STDLIB / "encodings").glob("*.py"))
    for path in [item for item in wanted if item == PYTHON or ".so" in item.name]:
        linked = subprocess.run(["ldd", str(path)], capture_output=True, text=True, check=True, timeout=60).stdout
        wanted |= {Path(word) for word in linked.split() if word.startswith("/")}
    place = {item: str(item).lstrip("/") for item in wanted}
    return {
        f"source/{item.relative_to(SOURCE)}" if item.is_relative_to(SOURCE) else name: item
        for item, name in place.items()
    }


@pytest.fixture(scope="module")
def told(tmp_path_factory):
    """What the client inside the guest said."""
    lacking = guests.missing()
    assert not lacking, f"a guest needs {', '.join(lacking)} (sh scripts/install-vm.sh)"
    folder = tmp_path_factory.mktemp("guest")
    (folder / "asked.py").write_text(_ASKED)
    (folder / "tpm").mkdir()
    tpm = SoftwareTpm(folder / "tpm", for_machine=True)
    image = guests.build(
        folder / "image", guests.COMMAND_LINE, init=_INIT, files={**_interpreter(), "asked.py": folder / "asked.py"}
    )
    tpm.start_for_machine()
    guest = guests.Guest(image, tpm, folder / "boot")
    try:
        guest.log()
        console = (folder / "boot/console.txt").read_text(errors="replace")
    finally:
        guest.stop()
        tpm.stop()
    lines = [line for line in console.splitlines() if line.startswith("TOLD ")]
    assert lines, console[-3000:]
    return json.loads(lines[0].removeprefix("TOLD "))


def test_keys_quotes_and_memory_work_through_the_kernel(told):
    """Certified EKs, quotes by both kinds of key, registers and NV memory, through the resource manager."""
    from stannary.certify.evidence import tpm_structures

    assert told["certified"] == ["rsa-2048", "ecc-p384"]
    assert told["written"] is True
    assert told["absent"] == ""
    registers = {int(index): bytes.fromhex(value) for index, value in told["registers"].items()}
    assert any(registers[0]), "the firmware measured itself"
    for kind in ("ecc", "rsa"):
        public, attest, signature = (bytes.fromhex(item) for item in told[kind])
        signed = tpm_structures.parse_signature(signature)
        assert tpm_structures.verify(tpm_structures.parse_public(public).key, signed, attest)
        quote = tpm_structures.parse_attest(attest)
        assert tpm_structures.pcr_digest(quote, registers, signed.digest) == quote.pcr_digest


def test_slow_command_costs_its_limit_on_the_real_device(told):
    """The kernel holds its lock while a key is made; our limit ends the wait, and the device serves on."""
    assert "did not answer: nothing within 0.001 s" in told["late"]
    assert told["again"] == 16
