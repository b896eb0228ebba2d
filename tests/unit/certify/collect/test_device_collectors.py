"""GPU and switch collectors against compiled drivers: a C compiler's structures, and lies in each of them."""

from __future__ import annotations

import ctypes
import os
import re
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import Encoding
from tests.unit.certify import world
from tests.unit.certify.drivers.compiled import Driver, build, needs_compiler

from stannary.certify import anchor
from stannary.certify.collect import devices, nscq, nvml
from stannary.certify.evidence import nvidia, spdm
from stannary.certify.evidence.basis import Basis
from stannary.certify.evidence.collateral import Collateral
from stannary.certify.evidence.verifier import examine
from stannary.certify.pki import certificates
from stannary.certify.rules import Rules
from stannary.errors import EnvironmentProblem, ServiceError

pytestmark = needs_compiler
BOUND = b"\x55" * 48
VECTORS = Path(os.environ.get("STANNARY_VECTORS", "")) / "nvidia"
needs_vectors = pytest.mark.skipif(
    "STANNARY_VECTORS" not in os.environ, reason="STANNARY_VECTORS names no folder of recorded evidence"
)


@pytest.fixture(scope="module")
def libraries(tmp_path_factory):
    """Both drivers, compiled once."""
    folder = tmp_path_factory.mktemp("drivers")
    return {name: build(name, folder) for name in ("nvml", "nscq")}


@pytest.fixture(scope="module")
def vendor():
    """A device vendor with two GPUs and two switches."""
    made = world.Nvidia()
    return made, [made.device(), made.device()], [made.device("LS10 A01 FMC"), made.device("LS10 A01 FMC")]


def _answers(vendor, issued):
    def answer(device, nonce):
        if nonce is None:
            chain = (issued[device], vendor.issuer, vendor.root)
            return b"".join(item.built.public_bytes(Encoding.PEM) for item in chain), None
        return vendor.report(issued[device], nonce), None

    return answer


@pytest.fixture
def gpus(libraries, vendor):
    """The management library, honest until told otherwise."""
    driver = Driver(libraries["nvml"])
    driver.set(count=2, feature=1, devtools=0, multi=0, result=0, silent=0, open_sessions=0,
               settings_result=0, state_result=0, memory_result=0)  # fmt: skip
    driver.answer(_answers(vendor[0], vendor[1]))
    return driver


@pytest.fixture
def switches(libraries, vendor):
    """The switch library, honest until told otherwise."""
    driver = Driver(libraries["nscq"])
    driver.set(session_code=0, code=0, callback_code=0, silent=0, count=2, calls=1, no_session=0, mode=3,
               bad_label=0, open_sessions=0, input_code=0)  # fmt: skip
    driver.answer(_answers(vendor[0], vendor[2]))
    return driver


def _nvml(driver, **limits):
    return lambda: nvml.Nvml(driver.path, **limits)


def _nscq(driver, **limits):
    return lambda: nscq.Nscq((driver.path,), **limits)


@pytest.mark.parametrize("kind", ["gpu", "nvswitch"])
def test_each_device_gives_a_report_that_appraises(kind, gpus, switches, vendor):
    """Both devices' parts carry their own identity, chain and keyed nonce, and pass under their vendor's root only."""
    found = devices.gpus(BOUND, _nvml(gpus)) if kind == "gpu" else devices.switches(BOUND, _nscq(switches))
    assert found.absent == {}
    issued = vendor[1] if kind == "gpu" else vendor[2]
    assert set(found.parts) == {f"{kind}/{item.certificate.serial:x}" for item in issued}
    for name, part in found.parts.items():
        bound = anchor.device_nonce(BOUND, name.partition("/")[2])
        for rules, refused in ((Rules(roots=vendor[0].roots), False), (Rules(), True)):
            appraisal = examine(
                nvidia.DeviceVerifier(), part.evidence, Basis(bound=bound, collateral=part.collateral(), now=world.NOW,
                rules=rules),
            )  # fmt: skip
            assert appraisal.outcome.startswith("refuse:chain-invalid") is refused
        assert appraisal.claims["switch"] is (kind == "nvswitch")
    assert (gpus if kind == "gpu" else switches).get("open_sessions") == 0


def test_gpus_are_described(gpus):
    """Names, identifiers and memory come through the C structures."""
    session = nvml.Nvml(gpus.path)
    assert session.gpus() == [
        nvml.Gpu(0, "NVIDIA H200", "GPU-0", 141_000),
        nvml.Gpu(1, "NVIDIA H100 80GB HBM3", "GPU-1", 141_000),
    ]
    gpus.set(memory_result=3)
    assert [gpu.memory_mb for gpu in session.gpus()] == [0, 0]
    session.close()


@pytest.mark.parametrize(
    ("values", "state"),
    [
        ({"feature": 1}, (True, False)),
        ({"feature": 0}, (False, False)),
        ({"feature": 1, "devtools": 1}, (True, True)),
        ({"feature": 0, "multi": 1}, (True, False)),  # protected PCIe
        ({"feature": 0, "multi": 0, "devtools": 1}, (False, True)),
        ({"settings_result": 3, "feature": 1, "devtools": 1}, (True, True)),  # older driver: the other call
        ({"settings_result": 3, "state_result": 3}, (False, False)),
    ],
)
def test_confidential_mode_is_read_from_settings_or_state(gpus, values, state):
    """Feature bit, DevTools and the multi-GPU mode; a driver that knows neither call has no such mode."""
    gpus.set(**values)
    session = nvml.Nvml(gpus.path)
    assert session.confidential_state() == state
    session.close()


def test_driver_without_the_newer_call_is_asked_the_older_one(vendor, tmp_path):
    """A library that lacks the symbol altogether still tells its state."""
    driver = Driver(build("nvml", tmp_path, "-DWITHOUT_SETTINGS"))
    driver.set(feature=1, devtools=0)
    session = nvml.Nvml(driver.path)
    assert session.confidential_state() == (True, False)
    session.close()


@pytest.mark.parametrize("code", [1, 4, 15, 999])
def test_mode_that_cannot_be_read_is_an_error_and_not_off(gpus, code):
    """A failing driver is said; silence about confidential mode is not `off`."""
    gpus.set(settings_result=code)
    found = devices.gpus(BOUND, _nvml(gpus))
    assert f"returned {code}" in str(found.absent["gpu"])
    assert not found.parts
    assert gpus.get("open_sessions") == 0


def test_mode_off_gives_hints_and_asks_for_no_report(gpus):
    """With confidential computing off, devices are listed against themselves."""
    gpus.set(feature=0)
    gpus.answer(lambda *_: pytest.fail("asked"))
    found = devices.gpus(BOUND, _nvml(gpus))
    assert [item["cc"] for item in found.hints] == [False, False]
    assert not found.parts
    assert "off" in str(found.absent["gpu"])


SIZES = [0, -1, 0x7FFFFFFF]


@pytest.mark.parametrize("size", [*SIZES, 0x2001])
@pytest.mark.parametrize("kind", ["gpu", "nvswitch"])
def test_report_sizes_beyond_the_field_are_refused(kind, size, gpus, switches, vendor):
    """A driver that claims another size than its field holds gets no byte read from beyond it."""
    driver, issued = (gpus, vendor[1]) if kind == "gpu" else (switches, vendor[2])
    honest = _answers(vendor[0], issued)
    driver.answer(lambda device, nonce: (honest(device, nonce)[0], None if nonce is None or device else size))
    found = devices.gpus(BOUND, _nvml(driver)) if kind == "gpu" else devices.switches(BOUND, _nscq(driver))
    assert "impossible size" in str(found.absent[f"{kind} 0"])
    assert len(found.parts) == 1, "the other device is not punished"


@pytest.mark.parametrize("size", [*SIZES, 0x1401])
@pytest.mark.parametrize("kind", ["gpu", "nvswitch"])
def test_chain_sizes_beyond_the_field_are_refused(kind, size, gpus, switches, vendor):
    """The same for certificate chains."""
    driver, issued = (gpus, vendor[1]) if kind == "gpu" else (switches, vendor[2])
    honest = _answers(vendor[0], issued)
    driver.answer(lambda device, nonce: (honest(device, nonce)[0], size if nonce is None and not device else None))
    found = devices.gpus(BOUND, _nvml(driver)) if kind == "gpu" else devices.switches(BOUND, _nscq(driver))
    assert "impossible size" in str(found.absent[f"{kind} 0"])
    assert len(found.parts) == 1


@pytest.mark.parametrize("kind", ["gpu", "nvswitch"])
def test_report_over_another_nonce_is_refused(kind, gpus, switches, vendor):
    """A device that replays a report is noticed on the machine, both devices alike."""
    driver, issued = (gpus, vendor[1]) if kind == "gpu" else (switches, vendor[2])
    honest = _answers(vendor[0], issued)
    driver.answer(lambda device, nonce: honest(device, None if nonce is None else b"\x01" * 32))
    found = devices.gpus(BOUND, _nvml(driver)) if kind == "gpu" else devices.switches(BOUND, _nscq(driver))
    assert not found.parts
    assert {str(found.absent[f"{kind} {index}"]) for index in (0, 1)} == {"the device signed another nonce"}


@pytest.mark.parametrize("kind", ["gpu", "nvswitch"])
def test_one_identity_behind_two_devices_is_refused(kind, gpus, switches, vendor):
    """A driver that lists one device twice sells it once."""
    driver, issued = (gpus, vendor[1]) if kind == "gpu" else (switches, vendor[2])
    honest = _answers(vendor[0], issued)
    driver.answer(lambda _, nonce: honest(0, nonce))
    found = devices.gpus(BOUND, _nvml(driver)) if kind == "gpu" else devices.switches(BOUND, _nscq(driver))
    assert len(found.parts) == 1
    assert "one identity" in str(found.absent[f"{kind} 1"])


@pytest.mark.parametrize("data", [b"", b"\x11", b"\x11\xe0" + bytes(400), b"\xff" * 0x2000])
@pytest.mark.parametrize("kind", ["gpu", "nvswitch"])
def test_reports_that_do_not_parse_are_refused(kind, data, gpus, switches, vendor):
    """Whatever a device calls a report, the collector ends in our error."""
    driver, issued = (gpus, vendor[1]) if kind == "gpu" else (switches, vendor[2])
    honest = _answers(vendor[0], issued)
    driver.answer(lambda device, nonce: honest(device, nonce) if nonce is None else (data, None))
    found = devices.gpus(BOUND, _nvml(driver)) if kind == "gpu" else devices.switches(BOUND, _nscq(driver))
    assert not found.parts
    assert len(found.absent) == 2


def test_count_beyond_any_machine_is_refused(gpus):
    """A driver that lists four thousand million devices is not walked."""
    gpus.set(count=-1)
    assert "too many" in str(devices.gpus(BOUND, _nvml(gpus)).absent["gpu"])


def test_switches_beyond_any_machine_are_refused(switches):
    """So with switches."""
    switches.set(count=10_000)
    assert "33 listed" in str(devices.switches(BOUND, _nscq(switches)).absent["nvswitch"])


def test_labels_that_are_no_names_are_refused(switches):
    """A label becomes part of a path, so only plain ones are used."""
    switches.set(bad_label=1)
    assert "impossible switches" in str(devices.switches(BOUND, _nscq(switches)).absent["nvswitch"])


@pytest.mark.parametrize("calls", [0, 2])
def test_no_or_two_answers_for_one_switch_are_refused(switches, calls):
    """One path has one answer: neither none nor a choice of two."""
    switches.set(calls=calls)
    found = devices.switches(BOUND, _nscq(switches))
    assert not found.parts
    assert all("answers for one" in reason for reason in map(str, found.absent.values()))


@pytest.mark.parametrize("values", [{"code": -7}, {"callback_code": -8}, {"input_code": -5}])
def test_refusals_of_the_switch_library_are_told(switches, values):
    """An error code of the call, of the callback or of the input reaches the operator with the next step."""
    switches.set(**values)
    found = devices.switches(BOUND, _nscq(switches))
    assert not found.parts
    assert found.absent
    assert all("refused a request" in reason for reason in map(str, found.absent.values()))


def test_library_of_another_version_is_told(switches):
    """Warning 1 and no switch is the sign of a library that is not the driver's."""
    switches.set(session_code=1, count=0)
    with pytest.raises(EnvironmentProblem, match="version") as caught:
        nscq.Nscq((switches.path,)).switches()
    assert "libnvidia-nscq" in caught.value.hint
    switches.set(session_code=1, count=2)
    assert len(devices.switches(BOUND, _nscq(switches)).parts) == 2, "a warning alone stops nothing"


@pytest.mark.parametrize("values", [{"session_code": -6}, {"no_session": 1}])
def test_session_that_is_not_given_is_told(switches, values):
    """Without a session nothing is asked."""
    switches.set(**values)
    assert "refused" in str(devices.switches(BOUND, _nscq(switches)).absent["nvswitch"])


@pytest.mark.parametrize(("mode", "told"), [(0, 0), (3, 3), (-1, -1)])
def test_trusted_link_mode_is_a_hint(switches, mode, told):
    """What the library says of a switch's mode travels as a hint."""
    switches.set(mode=mode)
    found = devices.switches(BOUND, _nscq(switches))
    assert found.hints == [{"uuid": f"SWX-0{number}", "trusted_link_mode": told} for number in (1, 2)]


@pytest.mark.parametrize("kind", ["gpu", "nvswitch"])
def test_driver_that_never_answers_costs_one_limit(kind, libraries, tmp_path):
    """A call that does not return is left behind; what follows in the session fails at once."""
    name = "nvml" if kind == "gpu" else "nscq"
    driver = Driver(build(name, tmp_path))  # a library of its own: the stuck thread stays in it
    driver.set(silent=1)
    driver.answer(_answers(world.Nvidia(), [world.issue("x"), world.issue("y")]))
    if kind == "gpu":
        found = devices.gpus(BOUND, _nvml(driver, limit_s=0.2))
        assert "nothing within" in str(found.absent["gpu 0"])
        assert "earlier call" in str(found.absent["gpu 1"])
    else:
        found = devices.switches(BOUND, _nscq(driver, limit_s=0.2))
        assert "nothing within" in str(found.absent["nvswitch"])
    assert not found.parts


def test_machine_without_the_libraries_is_told(tmp_path):
    """Neither driver is there: each says what to install, if there is a device."""
    path = str(tmp_path / "no.so")
    for missing, layer in (
        (devices.gpus(BOUND, lambda: nvml.Nvml(path)), "gpu"),
        (devices.switches(BOUND, lambda: nscq.Nscq((path,))), "nvswitch"),
    ):
        assert "on this machine" in str(missing.absent[layer])


def test_library_that_lacks_the_calls_is_no_switch_library(libraries):
    """A shared object without the interface is as good as none."""
    with pytest.raises(EnvironmentProblem, match="no NVSwitch library"):
        nscq.Nscq((libraries["nvml"],))


def test_structures_have_the_documented_sizes():
    """Sizes as NVML's and NSCQ's references give them."""
    assert ctypes.sizeof(nvml.AttestationReport) == 3 * 4 + 0x20 + 0x2000 + 0x1000
    assert ctypes.sizeof(nvml.GpuCertificate) == 2 * 4 + 0x1000 + 0x1400
    assert ctypes.sizeof(nvml.SystemSettings) == 20
    assert ctypes.sizeof(nscq.AttestationReport) == 4 + 0x2000
    assert ctypes.sizeof(nscq.AttestationCertificate) == 0x1400 + 4


@needs_vectors
@pytest.mark.parametrize(
    ("kind", "report", "chain"),
    [("gpu", "sdk_hopperAttestationReport.txt", "sdk_hopperCertChain.txt"),
     ("nvswitch", "sdk_switchAttestationReport.txt", "sdk_switchCertChain.txt")],
)  # fmt: skip
def test_recorded_reports_pass_through_unchanged(kind, report, chain, gpus, switches):
    """A real device's report and chain cross the C boundary byte for byte, and still verify."""
    recorded = (VECTORS / report).read_bytes()
    raw = bytes.fromhex(re.sub(rb"\s", b"", recorded).decode()) if recorded[:2] == b"11" else recorded
    issuers = (VECTORS / chain).read_bytes()
    nonce = spdm.parse_report(raw).nonce
    driver = gpus if kind == "gpu" else switches
    driver.answer(lambda _, asked: (issuers, None) if asked is None else (raw, None))
    if kind == "gpu":
        gpu_session = nvml.Nvml(driver.path)
        gpu = gpu_session.gpus()[0]
        got, certified = gpu_session.report(gpu, nonce), gpu_session.chain(gpu)
        gpu_session.close()
    else:
        switch_session = nscq.Nscq((driver.path,))
        switch = switch_session.switches()[0]
        got, certified = switch_session.report(switch, nonce), switch_session.chain(switch)
        switch_session.close()
    assert (got, certified) == (raw, issuers)
    collateral = Collateral(certificates=certificates.load_bundle(certified))
    appraisal = examine(
        nvidia.DeviceVerifier(), got, Basis(bound=nonce, collateral=collateral, now=world.NOW, rules=Rules())
    )
    assert appraisal.valid
    assert appraisal.claims["switch"] is (kind == "nvswitch")


def test_nonce_of_another_length_is_not_asked_for(switches):
    """A switch signs 32 bytes; anything else is refused here."""
    session = nscq.Nscq((switches.path,))
    with pytest.raises(ServiceError, match="32"):
        session.report(session.switches()[0], b"x")
    session.close()
