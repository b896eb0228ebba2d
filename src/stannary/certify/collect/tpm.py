"""TPM evidence of this machine: endorsement, activated credential, quote, registers, event log.

A TPM may hold several certified EKs. A first challenge is answered with the first of the profile's order
that has a certificate; a challenge with a credential is answered with the EK that opens it, which the
credential's own shape tells. What the TPM answers is read back before it is sent: a device that quotes
another nonce or other registers is an error here, not a riddle for the verifier.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from stannary.certify.collect import certified, ioctl, tpm_client
from stannary.certify.envelope import Part
from stannary.certify.evidence import event_log, tpm_structures
from stannary.certify.octets import unhex
from stannary.errors import EnvironmentProblem, ServiceError
from stannary.formats import canonical

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from stannary.certify.challenge import Challenge
    from stannary.certify.collect.certified import CertifiedKey
    from stannary.certify.collect.sources import Sources
    from stannary.certify.collect.tpm_client import Loaded, TpmClient
    from stannary.formats.canonical import Json

MAX_QUOTE_TRIES = 3  # IMA or systemd may extend a register between quote and reading


def gather(bound: bytes, challenge: Challenge, sources: Sources) -> Part:
    """Answer a challenge with this machine's TPM."""
    client = tpm_client.connect(sources.tpm)
    try:
        members = _answer(client, bound, challenge, sources)
    finally:
        client.close()
    log = read_log(sources.event_log)
    if log:
        members["event_log"] = log.hex()
    return Part("tpm", canonical.encode(members))


def quote(
    client: TpmClient, key: Loaded, bound: bytes, indices: tuple[int, ...], bank: int = tpm_client.SHA256
) -> tuple[bytes, bytes, dict[int, bytes]]:
    """Return (attest, signature, registers) that belong together and carry `bound`."""
    for _ in range(MAX_QUOTE_TRIES):
        attest, signature = client.quote(key, bound, indices, bank)
        pcrs = client.read_pcrs(indices, bank)
        parsed, digest = tpm_structures.parse_attest(attest), tpm_structures.parse_signature(signature).digest
        if parsed.extra_data != bound:
            raise ServiceError("the TPM quoted another nonce", why=f"extraData {parsed.extra_data.hex()[:96]}")
        if tpm_structures.banks_digest(parsed, {tpm_structures.BANKS[bank]: pcrs}, digest) == parsed.pcr_digest:
            return attest, signature, pcrs
    raise ServiceError(
        "the TPM's registers do not stand still", why=f"{MAX_QUOTE_TRIES} quotes differ from what is read"
    )


def preferred_bank(client: TpmClient) -> int:
    """Return the bank to quote: SHA-256, in which reference boots are written, else a stronger one; never SHA-1."""
    held = client.banks()
    for bank in (tpm_client.SHA256, tpm_client.SHA384, tpm_client.SHA512):
        if bank in held:
            return bank
    raise EnvironmentProblem(
        "the TPM keeps no register bank that counts",
        why="banks " + (", ".join(f"{code:#06x}" for code in held) or "none"),
        hint="switch the SHA-256 bank on in the BIOS",
    )


def read_log(path: Path) -> bytes:
    """Return the firmware's event log, empty where it cannot be read; `log_problem` says why."""
    try:
        with path.open("rb") as stream:
            return stream.read(event_log.MAX_LOG_BYTES)
    except OSError:
        return b""


def log_problem(path: Path) -> EnvironmentProblem | None:
    """Return why the event log cannot be read; a quote without it shows registers and no software."""
    try:
        with path.open("rb") as stream:
            stream.read(1)
    except OSError as err:
        return EnvironmentProblem(
            "the event log cannot be read",
            why=f"{path}: {err.strerror}",
            hint=ioctl.hint_for(err) or "boot by UEFI with the TPM switched on",
        )
    return None


def _answer(client: TpmClient, bound: bytes, challenge: Challenge, sources: Sources) -> dict[str, Json]:
    held, bank = certified.keys_of(client, sources), preferred_bank(client)
    with _attestation_key(client) as ak:
        credential = unhex(challenge.credential, "credential") if challenge.credential else b""
        ek, ek_public, secret = _endorsed(client, ak, held, credential)
        attest, signature, pcrs = quote(client, ak, bound, tpm_client.QUOTED_PCRS, bank)
        members: dict[str, Json] = {
            "attest": attest.hex(),
            "signature": signature.hex(),
            "ak_public": ak.public.hex(),
            "ek_public": ek_public.hex(),
            f"pcrs_{tpm_structures.BANKS[bank]}": {str(index): value.hex() for index, value in pcrs.items()},
        }
    if secret:
        members["activation_secret"] = secret.hex()
    if ek.certificate is not None:
        members["ek_certificate"] = ek.certificate.raw.hex()
        pool = [*certified.issuers(client), *(item for path in sources.ek_chain for item in certified.bundle(path))]
        members["ek_chain"] = [item.raw.hex() for item in certified.path_of(ek.certificate, pool)]
    return members


def _endorsed(
    client: TpmClient, ak: Loaded, held: Sequence[CertifiedKey], credential: bytes
) -> tuple[CertifiedKey, bytes, bytes]:
    """Return (EK, its public area, secret): the EK that opens the credential, or the first where none was made."""
    fitting = [item for item in held if not credential or item.opens(credential)]
    refusal: ServiceError | None = None
    with contextlib.closing(certified.usable(client, fitting)) as candidates:
        for item, key in candidates:
            if not credential:
                return item, key.public, b""
            try:
                return item, key.public, client.activate(ak, key, credential)
            except ServiceError as err:
                if err.detail != tpm_client.REFUSED:
                    raise
                refusal = err  # perhaps made for another EK of the same shape
    raise refusal or EnvironmentProblem(
        "the credential is for another key",
        why="this TPM has no certified EK of its kind: " + ", ".join(item.profile.name for item in held),
        hint="ask for a new challenge: stannary certify challenge -o c.json",
    )


@contextlib.contextmanager
def _attestation_key(client: TpmClient) -> Iterator[Loaded]:
    """Give the P-256 key; a TPM that refuses its template has the RSA one."""
    with contextlib.ExitStack() as stack:
        try:
            key = stack.enter_context(client.attestation_key())
        except ServiceError as err:
            if err.detail != tpm_client.REFUSED:
                raise
            key = stack.enter_context(client.attestation_key(rsa=True))
        yield key
