"""Where this machine's evidence is looked for."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from stannary.certify.collect import metadata, nitro, sev_guest, tpm_client, tsm


@dataclass(frozen=True, slots=True, kw_only=True)
class Sources:
    """Where to look; tests and unusual machines point elsewhere."""

    tpm: str = ""
    ek: str = ""  # name of the endorsement key to use; empty: the first that has a certificate
    ek_certificates: tuple[Path, ...] = ()  # from the maker's site, where the TPM holds none
    ek_chain: tuple[Path, ...] = ()  # issuers of the EK certificate, where the maker put none in the TPM
    event_log: Path = tpm_client.EVENT_LOG
    ccel: Path = Path("/sys/firmware/acpi/tables/data/CCEL")
    tsm: Path = tsm.CONFIGFS
    sev_guest: Path = sev_guest.DEVICE
    nsm: Path = nitro.DEVICE
    metadata: str = metadata.ADDRESS
    bound_key: bytes = b""  # public key to bind; made here if empty
    bench_s: float = 5.0  # 0: no power test
    bench_n: int = 0  # 0: by device
    bench_folder: Path | None = None
