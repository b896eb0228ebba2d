"""configfs-tsm and /dev/sev-guest: a kernel played over real files and real memory, with races and lies."""

from __future__ import annotations

import ctypes
import errno
import os
import shutil
import struct
import subprocess
import threading
import uuid
from pathlib import Path

import pytest
from tests.integration.tpm.paravisor import td_quote
from tests.unit.certify import world

from stannary.certify.collect import cpu, deadline, sev_guest, tsm
from stannary.certify.collect.sources import Sources
from stannary.certify.evidence import snp_report
from stannary.certify.evidence.basis import Basis
from stannary.certify.evidence.collateral import Collateral
from stannary.certify.evidence.snp import SnpVerifier
from stannary.certify.evidence.verifier import examine
from stannary.certify.rules import Rules
from stannary.errors import (
    ConflictError,
    EnvironmentProblem,
    FormatError,
    LimitExceeded,
    ServiceError,
)

DATA = bytes(range(64))
AMD = world.Amd()
VCEK = AMD.vcek(world.SnpTcb(1, 2, 3, 4, 5))


def table(*entries: tuple[str, bytes]) -> bytes:
    """A certificate table as the GHCB specification lays it out."""
    head, body = b"", b""
    start = 24 * (len(entries) + 1)
    for guid, data in entries:
        head += uuid.UUID(guid).bytes_le + struct.pack("<II", start + len(body), len(data))
        body += data
    return head + bytes(24) + body


CERTIFICATES = table(
    ("63da758d-e664-4564-adc5-f4b93be8accd", VCEK.certificate.raw),
    ("4ab7b379-bbac-4fe4-a02f-05aef327c782", AMD.ask.certificate.raw),
    ("c0b406a4-a803-4952-9743-3fb6014cd0ae", AMD.ark.certificate.raw),
    ("01234567-89ab-cdef-0123-456789abcdef", b"another table's"),
)


class Kernel(tsm.ConfigFs):
    """drivers/virt/coco/guest/report.c over plain files: attributes appear, writes count, reads generate."""

    def __init__(self, root: Path, **changes) -> None:
        super().__init__(root)
        self.root, self.made, self.writes = root, 0, []
        self.provider, self.floor, self.extra = "sev_guest", None, CERTIFICATES
        self.races: list[str] = []  # attributes at whose reading somebody else writes, one race each
        self.fails: dict[str, list[int]] = {}  # errors of the next readings
        self.lies: dict[str, bytes] = {}
        vars(self).update(changes)

    def make(self, name):
        """Make a request and its attributes."""
        if "make" in self.fails:
            raise OSError(self.fails["make"][0], "no")
        super().make(name)
        self.made += 1
        place = self.root / name
        for attribute in ("inblob", "outblob", "auxblob", "provider", "generation", "privlevel"):
            (place / attribute).touch()
        (place / "provider").write_text(self.provider + "\n")
        (place / "generation").write_text("0\n")
        if self.floor is not None:
            (place / "privlevel_floor").write_text(f"{self.floor}\n")
        if self.provider == "tdx_guest":
            (place / "auxblob").unlink()

    def write(self, name, attribute, data):
        """Count a write."""
        super().write(name, attribute, data)
        self.writes.append((attribute, data))
        self._advance(name)

    def read(self, name, attribute):
        """Generate what is read, unless it fails, lies or is raced."""
        if self.fails.get(attribute):
            raise OSError(self.fails[attribute].pop(0), "no")
        place = self.root / name
        if self.races[:1] == [attribute]:
            self.races.pop(0)
            (place / "inblob").write_bytes(b"\xee" * 64)
            self._advance(name)
        if attribute == "outblob":
            (place / attribute).write_bytes(self._report((place / "inblob").read_bytes()))
        if attribute == "auxblob":
            (place / attribute).write_bytes(self.extra)
        if attribute in self.lies:
            (place / attribute).write_bytes(self.lies[attribute])
        return super().read(name, attribute)

    def remove(self, name):
        """Remove attributes with their request."""
        for path in (self.root / name).iterdir():
            path.unlink()
        super().remove(name)

    def _advance(self, name):
        place = self.root / name / "generation"
        place.write_text(f"{int(place.read_text()) + 1}\n")

    def _report(self, inblob):
        if self.provider == "tdx_guest":
            return td_quote(inblob).ljust(8000, b"\0")
        return AMD.report(VCEK, report_data=inblob.ljust(64, b"\0"))


def test_report_and_certificates_are_read(tmp_path):
    """One request, one write, our bytes in the report, known certificates beside it, nothing left behind."""
    kernel = Kernel(tmp_path)
    found = tsm.ask(kernel, DATA)
    assert found.kind == "snp"
    assert found.certificates == (VCEK.certificate.raw, AMD.ask.certificate.raw, AMD.ark.certificate.raw)
    assert kernel.writes == [("inblob", DATA)]
    assert not list(tmp_path.iterdir())
    carried = Collateral(certificates=tuple(world.certificates.parse(item) for item in found.certificates))
    for rules, outcome in ((Rules(roots=AMD.roots), "valid"), (Rules(), "refuse:chain-invalid")):
        appraisal = examine(
            SnpVerifier(), found.blob, Basis(bound=DATA, collateral=carried, now=world.NOW, rules=rules)
        )
        assert appraisal.outcome == outcome


def test_td_quote_has_no_table(tmp_path):
    """A TD shows no auxblob; the quote's zero tail stays as the host gave it."""
    found = tsm.ask(Kernel(tmp_path, provider="tdx_guest"), DATA)
    assert (found.kind, found.certificates, len(found.blob)) == ("tdx", (), 8000)


@pytest.mark.parametrize("where", ["outblob", "auxblob"])
def test_write_of_another_in_between_is_noticed_and_asked_again(tmp_path, where):
    """A race before the report or before its table makes a new request; its bytes are ours."""
    kernel = Kernel(tmp_path, races=[where])
    found = tsm.ask(kernel, DATA)
    assert kernel.made == 2
    assert snp_report.parse_report(found.blob).report_data == DATA
    assert not list(tmp_path.iterdir())


def test_race_before_the_report_is_seen_by_the_counter_alone(tmp_path):
    """Somebody writes the very bytes we did: the counter tells it, not the report."""
    kernel = Kernel(tmp_path)
    honest = kernel._advance

    def twice(name):
        honest(name)
        if kernel.made == 1:
            honest(name)

    kernel._advance = twice
    tsm.ask(kernel, DATA)
    assert kernel.made == 2


def test_race_without_end_is_given_up(tmp_path):
    """Somebody who always writes in between gets three tries, then our error."""
    kernel = Kernel(tmp_path, races=["outblob"] * 9)
    with pytest.raises(ConflictError, match="3 tries"):
        tsm.ask(kernel, DATA)
    assert kernel.made == tsm.MAX_TRIES
    assert not list(tmp_path.iterdir())


def test_report_over_other_bytes_is_refused(tmp_path):
    """A report that does not carry our bytes is an error here even where the counter is right."""
    for provider, report in (
        ("sev_guest", AMD.report(VCEK, report_data=bytes(64))),
        ("tdx_guest", td_quote(bytes(64))),
    ):
        with pytest.raises(ServiceError, match="other bytes than ours"):
            tsm.ask(Kernel(tmp_path, provider=provider, lies={"outblob": report}), DATA)


def test_privilege_floor_is_asked_for(tmp_path):
    """Under an SVSM the guest may only ask for its own level; both writes are counted."""
    kernel = Kernel(tmp_path, floor=2)
    tsm.ask(kernel, DATA)
    assert kernel.writes == [("privlevel", b"2"), ("inblob", DATA)]
    plain = Kernel(tmp_path, floor=0)
    tsm.ask(plain, DATA)
    assert plain.writes == [("inblob", DATA)]


def test_busy_host_is_asked_again(tmp_path):
    """EBUSY is tried anew; three times busy is our error."""
    kernel = Kernel(tmp_path, fails={"outblob": [errno.EBUSY, errno.EAGAIN]})
    tsm.ask(kernel, DATA)
    assert kernel.made == 3
    with pytest.raises(ServiceError, match="busy"):
        tsm.ask(Kernel(tmp_path, fails={"outblob": [errno.EBUSY] * 3}), DATA)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("where", "number", "hint"),
    [("make", errno.EACCES, "sudo"), ("make", errno.ENOENT, "configfs"), ("make", errno.ENODEV, "vTPM"),
     ("outblob", errno.ETIMEDOUT, "operator"), ("outblob", errno.EIO, "dmesg"), ("provider", errno.ENXIO, "driver")],
)  # fmt: skip
def test_errors_say_what_to_change(tmp_path, where, number, hint):
    """Each error of the kernel has its next step."""
    with pytest.raises(EnvironmentProblem) as caught:
        tsm.ask(Kernel(tmp_path, fails={where: [number]}), DATA)
    assert hint in caught.value.hint
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("lies", "error"),
    [
        ({"outblob": b""}, FormatError),
        ({"outblob": bytes(1183)}, FormatError),
        ({"outblob": bytes((1 << 20) + 1)}, LimitExceeded),
        ({"auxblob": b"\1" * 24}, FormatError),
        ({"auxblob": b"\1"}, FormatError),
        ({"generation": b""}, FormatError),
        ({"generation": b"-1\n"}, FormatError),
        ({"generation": b"9" * 5000}, FormatError),
        ({"provider": b"\xff\xfe"}, EnvironmentProblem),
        ({"provider": b"arm_cca_guest\n"}, EnvironmentProblem),
    ],
)
def test_attributes_of_any_content_end_in_our_errors(tmp_path, lies, error):
    """Wrong lengths, text for numbers, floods: our error, and the request is removed."""
    with pytest.raises(error):
        tsm.ask(Kernel(tmp_path, lies=lies), DATA)
    assert not list(tmp_path.iterdir())


def test_table_without_certificates_is_empty(tmp_path):
    """Hosts that provide none give an empty table, a zero one, or entries of no length."""
    for extra in (b"", bytes(4096), table(("63da758d-e664-4564-adc5-f4b93be8accd", b""))):
        assert tsm.ask(Kernel(tmp_path, extra=extra), DATA).certificates == ()


def test_attributes_are_neither_created_nor_cut(tmp_path):
    """Writing opens what is there: a missing attribute is an error, an existing one is not emptied."""
    (tmp_path / "r").mkdir()
    with pytest.raises(FileNotFoundError):
        tsm.ConfigFs(tmp_path).write("r", "inblob", b"x")
    (tmp_path / "r/inblob").write_bytes(b"abc")
    tsm.ConfigFs(tmp_path).write("r", "inblob", b"x")
    assert (tmp_path / "r/inblob").read_bytes() == b"xbc"


def test_tree_that_never_answers_costs_the_limit(tmp_path, monkeypatch):
    """A kernel that does not come back from a reading ends at the limit."""
    stuck = threading.Event()
    monkeypatch.setattr(tsm, "ask", lambda *_: stuck.wait(20))
    monkeypatch.setattr(tsm, "within", lambda call, what: deadline.within(call, what, 0.05))
    with pytest.raises(ServiceError, match="did not answer"):
        tsm.request(DATA, tmp_path)
    stuck.set()


class Firmware:
    """The sev-guest driver: reads requests from the caller's memory and writes answers into it."""

    def __init__(self, **changes) -> None:
        self.calls: list[tuple[int, int]] = []
        self.table, self.status, self.size, self.data = CERTIFICATES, 0, 1184, None
        self.extended_errno, self.plain_errno, self.host_error, self.wanted = 0, 0, 0, 0
        vars(self).update(changes)

    def __call__(self, code, message):
        """Serve one ioctl."""
        raw = bytes(message)
        assert (len(raw), raw[0]) == (32, 1)
        asked, answer = struct.unpack_from("<QQ", raw, 8)
        extended = code == 0xC0205302
        assert extended or code == 0xC0205300
        request = ctypes.string_at(asked, 112 if extended else 96)
        user_data, vmpl = request[:64], int.from_bytes(request[64:68], "little")
        assert (vmpl, request[68:96]) == (0, bytes(28))
        address, room = struct.unpack_from("<QI", request, 96) if extended else (0, 0)
        self.calls.append((code, room))
        assert room % 4096 == 0
        if extended and self.wanted > room:
            ctypes.memmove(asked + 104, struct.pack("<I", self.wanted), 4)
            ctypes.memmove(ctypes.addressof(message) + 28, struct.pack("<I", 1), 4)
            raise OSError(errno.EIO, "no")
        number = self.extended_errno if extended else self.plain_errno
        if number:
            ctypes.memmove(ctypes.addressof(message) + 28, struct.pack("<I", self.host_error), 4)
            raise OSError(number, "no")
        if extended:
            ctypes.memmove(address, self.table, min(len(self.table), room))
        report = AMD.report(VCEK, report_data=user_data if self.data is None else self.data)
        response = struct.pack("<II", self.status, self.size) + bytes(24) + report
        ctypes.memmove(answer, response.ljust(4000, b"\xaa"), 4000)


def test_extended_report_brings_the_table():
    """Report over our bytes, certificates of the host, one request."""
    firmware = Firmware()
    found = sev_guest.ask(firmware, DATA)
    assert snp_report.parse_report(found.blob).report_data == DATA
    assert found.certificates[0] == VCEK.certificate.raw
    assert firmware.calls == [(0xC0205302, 0x4000)]


def test_table_that_needs_more_room_gets_it_once():
    """The host's wish is granted in whole pages; a second wish is not, and a mad one never."""
    firmware = Firmware(wanted=0x4001)
    sev_guest.ask(firmware, DATA)
    assert [room for _, room in firmware.calls] == [0x4000, 0x5000]
    mad = Firmware(wanted=1 << 31)
    assert sev_guest.ask(mad, DATA).certificates == ()
    assert [code for code, _ in mad.calls] == [0xC0205302, 0xC0205300]


def test_host_without_a_table_gives_the_plain_report():
    """Where the extended request fails the plain one is made; an empty table is no certificate."""
    firmware = Firmware(extended_errno=errno.EIO)
    assert sev_guest.ask(firmware, DATA).certificates == ()
    assert [code for code, _ in firmware.calls] == [0xC0205302, 0xC0205300]
    assert sev_guest.ask(Firmware(table=b""), DATA).certificates == ()


def test_refusals_of_the_firmware_are_told():
    """Missing rights say how to get them; other errors carry the firmware's and the host's codes."""
    with pytest.raises(EnvironmentProblem) as caught:
        sev_guest.ask(Firmware(extended_errno=errno.EPERM), DATA)
    assert "sudo" in caught.value.hint
    with pytest.raises(ServiceError, match="host 0x2"):
        sev_guest.ask(Firmware(extended_errno=errno.EIO, plain_errno=errno.EIO, host_error=2), DATA)


@pytest.mark.parametrize("changes", [{"status": 0x16}, {"size": 0}, {"size": 1183}, {"size": 0xFFFFFFFF}])
def test_answers_without_a_report_are_refused(changes):
    """A status, or a size that is no report's, reads nothing."""
    with pytest.raises(ServiceError, match="no report"):
        sev_guest.ask(Firmware(**changes), DATA)


def test_report_over_another_nonce_is_refused():
    """Firmware that reports other bytes is noticed on the machine."""
    with pytest.raises(ServiceError, match="other bytes"):
        sev_guest.ask(Firmware(data=bytes(64)), DATA)


def test_table_that_points_outside_itself_is_malformed():
    """A host's table is not believed about its own size."""
    entry = uuid.UUID("63da758d-e664-4564-adc5-f4b93be8accd").bytes_le
    with pytest.raises(FormatError, match="outside"):
        sev_guest.ask(Firmware(table=entry + struct.pack("<II", 0x3FFF, 0x4000) + bytes(24)), DATA)


@pytest.mark.skipif(shutil.which("gcc") is None, reason="gcc is not installed (Debian: gcc)")
@pytest.mark.skipif(not Path("/usr/include/linux/sev-guest.h").exists(), reason="no kernel headers (linux-libc-dev)")
def test_structures_are_the_kernels(tmp_path):
    """Sizes, offsets and numbers are those that a compiler gets from the kernel's own header."""
    source = tmp_path / "layout.c"
    source.write_text(
        "#include <linux/sev-guest.h>\n#include <sys/ioctl.h>\n#include <stdio.h>\n#include <stddef.h>\n"
        'int main(void){printf("%zu %zu %zu %zu %zu %zu %zu %lu %lu",sizeof(struct snp_report_req),'
        "sizeof(struct snp_ext_report_req),offsetof(struct snp_ext_report_req,certs_address),"
        "offsetof(struct snp_ext_report_req,certs_len),sizeof(struct snp_guest_request_ioctl),"
        "offsetof(struct snp_guest_request_ioctl,resp_data),sizeof(struct snp_report_resp),"
        "(unsigned long)SNP_GET_REPORT,(unsigned long)SNP_GET_EXT_REPORT);return 0;}"
    )
    subprocess.run(["gcc", "-o", str(tmp_path / "layout"), str(source)], check=True, timeout=60)
    told = subprocess.run([str(tmp_path / "layout")], capture_output=True, text=True, check=True, timeout=10).stdout
    assert [int(word) for word in told.split()] == [
        ctypes.sizeof(sev_guest.ReportRequest),
        ctypes.sizeof(sev_guest.ExtendedRequest),
        sev_guest.ExtendedRequest.table_address.offset,
        sev_guest.ExtendedRequest.table_bytes.offset,
        ctypes.sizeof(sev_guest.GuestRequest),
        sev_guest.GuestRequest.response.offset,
        sev_guest.RESPONSE_BYTES,
        sev_guest.SNP_GET_REPORT,
        sev_guest.SNP_GET_EXT_REPORT,
    ]


def _sources(folder: Path) -> Sources:
    return Sources(tpm=str(folder / "tpm"), tsm=folder / "tsm", sev_guest=folder / "sev-guest", nsm=folder / "nsm")


def test_interfaces_are_tried_in_order_and_each_says_why(tmp_path, monkeypatch):
    """The first that gives evidence is taken; the ones before say what they lacked."""
    monkeypatch.setattr(sev_guest, "request", lambda data, device: sev_guest.ask(Firmware(), data))
    first, second = cpu.attempts(b"\1" * 48, _sources(tmp_path))
    assert (first.name, first.part) == ("configfs-tsm", None)
    assert "configfs" in first.problem.hint
    assert (second.name, second.part.kind) == ("sev-guest device", "snp")


def test_machine_without_any_interface_hears_each_reason(tmp_path):
    """No interface: each of the four has its own reason and next step."""
    tried = cpu.attempts(b"\1" * 48, _sources(tmp_path))
    assert [item.name for item in tried] == ["configfs-tsm", "sev-guest device", "Nitro Secure Module", "Azure vTPM"]
    assert all(item.part is None and item.problem.why and item.problem.hint for item in tried)


def test_interface_that_never_answers_is_passed_over(tmp_path, monkeypatch):
    """One stuck interface costs its limit; the next one is asked."""
    stuck = threading.Event()
    monkeypatch.setattr(cpu, "INTERFACE_LIMIT_S", 0.05)
    monkeypatch.setattr(tsm, "request", lambda *_: stuck.wait(20))
    monkeypatch.setattr(sev_guest, "request", lambda data, device: sev_guest.ask(Firmware(), data))
    first, second = cpu.attempts(b"\1" * 48, _sources(tmp_path))
    assert "did not answer" in str(first.problem)
    assert second.part is not None
    stuck.set()


def test_missing_rights_are_told_from_a_missing_device(tmp_path, monkeypatch):
    """A device that is there and may not be opened asks for rights, not for a driver."""

    def refuse(path, flags, *rest):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr("stannary.certify.collect.ioctl.os.open", refuse)
    with pytest.raises(EnvironmentProblem) as caught:
        sev_guest.request(DATA, tmp_path / "sev-guest")
    assert "Permission denied" in str(caught.value)
    assert "sudo" in caught.value.hint
