"""Appraisal times per kind, of a whole node, of TPM quotes a second, and of a new denial over 50,000.

Peers on the same vectors: dcap-qvl alone, and tinfoil's verifier, which comes from the package index into .bench/.
Vectors come from STANNARY_VECTORS or ../shared/vectors; without them only made evidence is timed.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import venv
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from tests.unit.certify import world  # noqa: E402

from stannary.certify.evidence import rim  # noqa: E402
from stannary.certify.evidence.basis import Basis  # noqa: E402
from stannary.certify.evidence.collateral import Collateral  # noqa: E402
from stannary.certify.evidence.nvidia import DeviceVerifier  # noqa: E402
from stannary.certify.evidence.snp import SnpVerifier  # noqa: E402
from stannary.certify.evidence.tpm import TpmVerifier  # noqa: E402
from stannary.certify.evidence.verifier import examine  # noqa: E402
from stannary.certify.folder import Indexed  # noqa: E402
from stannary.certify.pki import certificates, revocation  # noqa: E402
from stannary.certify.rules import Roots, Rules  # noqa: E402
from stannary.certify.vectors import cases, runner  # noqa: E402
from stannary.formats import canonical, record  # noqa: E402

VECTORS = Path(os.environ.get("STANNARY_VECTORS", ROOT.parent / "shared" / "vectors"))
REPEATS = 15
NUM_APPRAISALS = 50_000
ENVIRONMENT = ROOT / ".bench" / "tinfoil"
TINFOIL = "tinfoil==0.14.0"


_TINFOIL = """
import statistics, sys, time
from pathlib import Path
from cryptography import x509
from tinfoil.attestation.abi_sev import Report
from tinfoil.attestation.verify_sev import CertificateChain, verify_attestation
folder, times = Path(sys.argv[1]) / "snp", []
files = {name: (folder / name).read_bytes() for name in
         ("genoa_live_v5_report.bin", "genoa_live_vcek.der", "amd_ask_ark_genoa.pem")}
for _ in range(int(sys.argv[2])):
    start = time.process_time()
    # from_report() refuses this CPU model; the chain is handed over instead.
    ask, ark = x509.load_pem_x509_certificates(files["amd_ask_ark_genoa.pem"])
    chain = CertificateChain(ark, ask, x509.load_der_x509_certificate(files["genoa_live_vcek.der"]))
    assert chain.verify_chain() and verify_attestation(chain, Report(files["genoa_live_v5_report.bin"]))
    times.append((time.process_time() - start) * 1000)
print(statistics.median(times))
"""


def cpu_ms(work: Callable[[], Any], *, cold: bool, repeats: int = REPEATS) -> float:
    """Median CPU milliseconds, with or without validated chains remembered."""
    times = []
    work()
    for _ in range(repeats):
        if cold:
            certificates.forget_validated()
            revocation.forget_validated()
            rim.parse_manifest.cache_clear()
        start = time.process_time()
        work()
        times.append((time.process_time() - start) * 1000)
    return statistics.median(times)


def kinds() -> None:
    """One line a kind."""
    wanted = ["snp-genoa-v5-live", "tdx-v4-uptodate", "sgx-sw-hardening", "tdx-ccel-replay",
              "gpu-sdk_hopperAttestationReport", "gpu-sdk_switchAttestationReport", "rim-NV_GPU_DRIVER_GH100_550",
              "nitro-prod", "az-snp-genuine", "tpm-swtpm-valid", "ear-rust-sample"]  # fmt: skip
    known = {item.members["id"]: item for item in cases.load(VECTORS)}
    print(f"{'kind':<40}{'cold ms':>9}{'cached ms':>11}   (CPU, median of {REPEATS}, files read included)")
    for name in wanted:
        case = known[name]
        cold = cpu_ms(lambda case=case: runner.run_case(case), cold=True)
        warm = cpu_ms(lambda case=case: runner.run_case(case), cold=False)
        print(f"{name:<40}{cold:>9.2f}{warm:>11.2f}")


def peers() -> None:
    """The same evidence in other verifiers."""
    try:
        import dcap_qvl

        folder = VECTORS / "tdx"
        quote = (folder / "dcapqvl_tdx_quote").read_bytes()
        collateral = dcap_qvl.QuoteCollateralV3.from_json((folder / "dcapqvl_tdx_quote_collateral.json").read_text())
        spent = cpu_ms(lambda: dcap_qvl.verify(quote, collateral, 1_750_414_563), cold=False)
        print(f"{'peer dcap-qvl alone, same TDX quote':<40}{spent:>9.2f}")
    except ImportError:
        print("peer dcap-qvl: not installed")
    tinfoil()


def tinfoil() -> None:
    """The same SNP report in tinfoil's verifier, in an environment of its own; the row says so if there is none."""
    name = "peer tinfoil, same SNP report"
    try:
        command = [str(_tinfoil_python()), "-W", "ignore", "-c", _TINFOIL, str(VECTORS), str(REPEATS)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    except (subprocess.CalledProcessError, OSError) as err:
        said = getattr(err, "stderr", "") or str(err)
        print(f"{name:<40} not run: {TINFOIL} cannot be had here ({said.strip().splitlines()[-1][:100]})")
        return
    print(f"{name:<40}{float(done.stdout.split()[-1]):>9.2f}   ({TINFOIL})")


def _tinfoil_python() -> Path:
    """Return the peer's interpreter, made on first use."""
    python, marker = ENVIRONMENT / "bin" / "python", ENVIRONMENT / "installed"
    if not marker.exists() or marker.read_text() != TINFOIL:
        venv.create(ENVIRONMENT, with_pip=True, clear=True)
        install = [str(python), "-m", "pip", "install", "-q", "--disable-pip-version-check", TINFOIL]
        subprocess.run(install, check=True, capture_output=True, text=True)
        marker.write_text(TINFOIL)
    return python


def node() -> None:
    """An SNP guest with 8 GPUs and 4 switches: thirteen distinct devices, made here."""
    work = _made_node()
    print(f"\nSNP + 8 GPUs + 4 switches: cold {cpu_ms(work, cold=True) / 1000:.3f} s (target 0.15), "
          f"chains cached {cpu_ms(work, cold=False) / 1000:.3f} s (target 0.05)")  # fmt: skip


def _made_node() -> Callable[[], None]:
    amd, nvidia = world.Amd(), world.Nvidia()
    vek = amd.vcek(world.SnpTcb(1, 2, 3, 4, 5))
    report, nonce = amd.report(vek), b"\x01" * 32
    rules = Rules(roots=Roots(amd=amd.roots.amd, nvidia_device=nvidia.roots.nvidia_device))
    chips = Collateral(certificates=(vek.certificate, amd.ask.certificate, amd.ark.certificate))
    devices = [nvidia.device() for _ in range(12)]
    parts = [(nvidia.report(item, nonce), Collateral(certificates=nvidia.chain(item))) for item in devices]

    def work() -> None:
        assert examine(SnpVerifier(), report, Basis(bound=None, collateral=chips, now=world.NOW, rules=rules)).valid
        for blob, carried in parts:
            assert examine(
                DeviceVerifier(), blob, Basis(bound=nonce, collateral=carried, now=world.NOW, rules=rules)
            ).valid

    return work


def tpm_rate() -> None:
    """TPM appraisals a second on one core: quote, registers, key, log."""
    key = world.TpmKey()
    log = world.event_log([(index % 8, 8, bytes([index])) for index in range(40)])
    from stannary.certify.evidence import event_log

    pcrs = {index: bytes(32) for index in range(16)}
    pcrs.update(event_log.parse_log(log).replay("sha256"))
    attest, signature = key.quote(b"x" * 48, pcrs)
    members = {"attest": attest.hex(), "signature": signature.hex(), "ak_public": key.public.hex(),
               "pcrs": {str(index): value.hex() for index, value in pcrs.items()}}  # fmt: skip
    for title, extra in (("quote", {}), ("quote + 40-event log", {"event_log": log.hex()})):
        blob, rules, verifier = json.dumps({**members, **extra}).encode(), Rules(), TpmVerifier()

        def work(blob: bytes = blob, rules: Rules = rules, verifier: TpmVerifier = verifier) -> None:
            assert examine(
                verifier, blob, Basis(bound=b"x" * 48, collateral=Collateral(), now=world.NOW, rules=rules)
            ).valid

        work()
        start, runs = time.process_time(), 0
        while time.process_time() - start < 1.0:
            work()
            runs += 1
        print(f"TPM appraisals, {title}: {runs:,} a second and core (target 1,000)")


def denial() -> None:
    """A new denial over 50,000 kept appraisals."""
    from stannary.certify.folder import Folder
    from stannary.certify.reappraise import exposed

    with tempfile.TemporaryDirectory() as name:
        with (Path(name) / "index.jsonl").open("wb") as stream:
            for index in range(NUM_APPRAISALS):
                generation = "milan" if index % 50 == 0 else "genoa"
                facts = (generation, f"snp:{index:0128x}", "measurement:" + "11" * 48)
                entry = Indexed(f"sha256:{index:064x}", "{}", "2026-11-22T00:00:00Z", "ni:///sha-384;x", "T2", True,
                              f"{index:064x}", facts)  # fmt: skip
                stream.write(canonical.encode(record.to_json(entry)) + b"\n")
        start = time.process_time()
        found = sum(1 for _ in exposed(Folder(Path(name)).entries(), frozenset({"milan"})))
        print(f"reappraise --deny milan: {found:,} exposed of {NUM_APPRAISALS:,} in "
              f"{time.process_time() - start:.1f} CPU-s")  # fmt: skip


def main() -> None:
    """Print every figure."""
    if (VECTORS / "manifest.json").is_file():
        kinds()
        peers()
    else:
        print(f"no vectors in {VECTORS}: set STANNARY_VECTORS; kinds and peers not run")
    node()
    tpm_rate()
    denial()


if __name__ == "__main__":
    main()
