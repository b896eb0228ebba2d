"""Collectors: what a node gathers, from files and drivers made here."""

from __future__ import annotations

import struct
import uuid

import pytest
from tests.unit.certify import world

from stannary.certify import challenge as challenges
from stannary.certify.collect import host, node, nvml, tpm_client, tsm
from stannary.certify.collect.sources import Sources
from stannary.errors import EnvironmentProblem, FormatError, ServiceError


class Scripted:
    """A transport that answers from a list."""

    def __init__(self, *answers: bytes) -> None:
        self.answers, self.sent = list(answers), []

    def exchange(self, command: bytes) -> bytes:
        """Give the next answer."""
        self.sent.append(command)
        return self.answers.pop(0)

    def close(self) -> None:
        """Nothing is open."""


def _response(code: int, body: bytes = b"") -> bytes:
    return struct.pack(">HII", 0x8001, 10 + len(body), code) + body


def test_client_retries_what_the_tpm_asks_to_retry():
    """TPM_RC_RETRY is answered by the same command; another code is an error with its number."""
    pcrs = struct.pack(">I", 1) + struct.pack(">IHB", 1, 0x000B, 3) + b"\1\0\0" + struct.pack(">IH", 1, 32) + bytes(32)
    transport = Scripted(_response(0x922), _response(0, pcrs))
    assert tpm_client.TpmClient(transport).read_pcrs((0,)) == {0: bytes(32)}
    assert transport.sent[0] == transport.sent[1]
    with pytest.raises(ServiceError, match="0x101"):
        tpm_client.TpmClient(Scripted(_response(0x101))).read_pcrs((0,))


def test_client_refuses_short_and_lying_answers():
    """A response shorter than it says is our error, never an index error."""
    for answer in (b"", _response(0)[:5], struct.pack(">HII", 0x8001, 4000, 0)):
        with pytest.raises(FormatError):
            tpm_client.TpmClient(Scripted(answer)).read_pcrs((0,))


def _nv(size: int, *chunks: bytes) -> Scripted:
    """A TPM with one NV index of a size, answering its readings in turn."""
    area = struct.pack(">IHIHH", 0x01C00002, 0x000B, 0x00060006, 0, size)
    answers = [_response(0, struct.pack(">H", len(area)) + area + bytes(2))]
    for chunk in chunks:
        sized = struct.pack(">H", len(chunk)) + chunk
        answers.append(_response(0, struct.pack(">I", len(sized)) + sized + bytes(5)))
    return Scripted(*answers)


def test_nv_memory_is_read_in_chunks_of_the_length_asked():
    """An index is read whole, chunk by chunk; a chunk of another length is an error, never shifted data."""
    data = bytes(range(256)) * 4
    assert tpm_client.TpmClient(_nv(1024, data[:768], data[768:])).nv_read(0x01C00002) == data
    for lie in (data[:767], data[:769], b""):
        with pytest.raises(ServiceError, match="another length"):
            tpm_client.TpmClient(_nv(1024, lie, data)).nv_read(0x01C00002)


def test_nv_memory_is_read_by_the_owner_or_by_the_index():
    """Where an owner's password stands in the way, the index's own right reads; an index never written is empty."""
    transport = _nv(4, b"")
    transport.answers[1:] = [_response(0x9A2), _nv(4, b"data").answers[1]]
    assert tpm_client.TpmClient(transport).nv_read(0x01C00002) == b"data"
    handles = [command[10:18].hex() for command in transport.sent[1:]]
    assert handles == ["4000000101c00002", "01c0000201c00002"]
    unwritten = _nv(4, b"")
    unwritten.answers[1:] = [_response(0x14A)]
    assert tpm_client.TpmClient(unwritten).nv_read(0x01C00002) == b""


@pytest.mark.parametrize(
    ("code", "words", "hint"),
    [(0x98E, "authorization failed", "password"), (0x9A2, "authorization failed", "password"),
     (0x185, "hierarchy is disabled", "BIOS"), (0x921, "locked", "lockout"), (0x902, "no slot", "tpmrm0"),
     (0x1DF, "for other keys", "challenge"), (0x101, "", "")],
)  # fmt: skip
def test_refusals_of_a_tpm_say_what_to_change(code, words, hint):
    """Known response codes have words and a next step; others their number."""
    with pytest.raises(ServiceError) as caught:
        tpm_client.TpmClient(Scripted(_response(code))).read_pcrs((0,))
    assert f"{code:#x}" in str(caught.value)
    assert words in str(caught.value)
    assert hint in caught.value.hint


def test_absent_tpm_is_said_with_a_remedy(tmp_path):
    """A machine without a TPM hears what to change."""
    with pytest.raises(EnvironmentProblem) as caught:
        tpm_client.connect(str(tmp_path / "tpmrm0"))
    assert "BIOS" in caught.value.hint


def test_certificate_table_of_the_host_is_read_bounded():
    """Known GUIDs give their certificates; offsets outside the table are refused."""
    guid = uuid.UUID("63da758d-e664-4564-adc5-f4b93be8accd").bytes_le
    table = guid + struct.pack("<II", 48, 4) + bytes(24) + b"cert"
    assert tsm.read_table(table) == (b"cert",)
    with pytest.raises(FormatError):
        tsm.read_table(guid + struct.pack("<II", 48, 400) + bytes(24))


def test_report_interface_that_is_absent_is_said(tmp_path):
    """Without configfs-tsm there is no report, and no crash."""
    with pytest.raises(EnvironmentProblem):
        tsm.request(bytes(64), tmp_path / "tsm")


def test_host_facts_come_from_the_files_given(tmp_path):
    """CPU, memory, Secure Boot and the guest kind are read under any root."""
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/cpuinfo").write_text("model name\t: EPYC 9654\n")
    (tmp_path / "proc/meminfo").write_text("MemTotal:  2000000 kB\n")
    variable = tmp_path / "sys/firmware/efi/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c"
    variable.parent.mkdir(parents=True)
    variable.write_bytes(b"\6\0\0\0\1")
    (tmp_path / "dev").mkdir()
    (tmp_path / "dev/sev-guest").touch()
    assert host.cpu_model(tmp_path) == "EPYC 9654"
    assert host.memory_mb(tmp_path) == 2048
    rows = {row.name: row for row in host.requirements(tmp_path)}
    assert rows["Secure Boot"].measured == "on"
    assert rows["confidential guest"].measured == "SEV-SNP"
    assert not rows["TPM 2.0"].holds


def test_gpu_with_confidential_computing_off_is_listed_against_itself(monkeypatch):
    """A driver without confidential mode gives hints that lower, and no evidence."""

    class Driver:
        def confidential_state(self):
            """Off."""
            return False, False

        def gpus(self):
            """One device."""
            return [nvml.Gpu(0, "H200", "GPU-1", 141_000)]

        def close(self):
            """Nothing is open."""

    monkeypatch.setattr(nvml, "Nvml", Driver)
    challenge = challenges.issue(world.NOW, nonce=b"\1" * 32)[0]
    evidence, absent, _ = node.check(challenge, Sources(tpm="/nonexistent", bench_s=0))
    assert evidence.host["gpus"][0]["cc"] is False
    assert "off" in absent["gpu"]
    assert set(absent) >= {"cpu", "tpm", "gpu", "bench"}
