"""TPM evidence of this machine: endorsement, activated credential, quote, registers, event log.

A TPM may hold several certified EKs. A first challenge is answered with the first of the profile's order
that has a certificate; a challenge with a credential is answered with the EK that opens it, which the
credential's own shape tells. What the TPM answers is read back before it is sent: a device that quotes
another nonce or other registers is an error here, not a riddle for the verifier.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from stannary.certify import activation, certificates
from stannary.certify.collateral import unhex
from stannary.certify.collect import tpm_client
from stannary.certify.collect.endorsement import PROFILES, RSA_2048, EkProfile
from stannary.certify.envelope import Part
from stannary.certify.evidence import event_log, tpm_structures
from stannary.errors import EnvironmentProblem, NotFound, ServiceError, UsageError
from stannary.formats import canonical

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from stannary.certify.certificates import Certificate
    from stannary.certify.challenge import Challenge
    from stannary.certify.collect.node import Sources
    from stannary.certify.collect.tpm_client import Loaded, TpmClient
    from stannary.formats.canonical import Json

CHAIN_INDEX, MAX_CHAIN_INDICES, MAX_CHAIN_BYTES = 0x01C00100, 0x100, 64 * 1024
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


def endorsements(client: TpmClient) -> list[tuple[EkProfile, bytes]]:
    """Return every EK that has a certificate in NV memory, with it."""
    found = ((profile, client.ek_certificate(profile)) for profile in PROFILES)
    return [(profile, certificate) for profile, certificate in found if certificate]


def issuers(client: TpmClient) -> tuple[Certificate, ...]:
    """Return the issuers of EK certificates that the maker put into NV memory.

    They are one series of DER over several indices (EK Credential Profile, section 2.2.1.5.2), perhaps padded.
    """
    data = b""
    for index in range(CHAIN_INDEX, CHAIN_INDEX + MAX_CHAIN_INDICES):
        piece = client.nv_read(index)
        if not piece or len(data) + len(piece) > MAX_CHAIN_BYTES:
            break
        data += piece
    found: list[Certificate] = []
    while data[:2] == b"\x30\x82" and len(found) < certificates.MAX_CERTIFICATES:
        size = 4 + int.from_bytes(data[2:4], "big")
        found.append(certificates.parse(data[:size]))
        data = data[size:]
    return tuple(found)


def path_of(leaf: Certificate, pool: Sequence[Certificate]) -> list[Certificate]:
    """Return the issuers of a certificate by their names, root last; a verifier reads no more than a path."""
    path = [leaf]
    while len(path) <= certificates.MAX_PATH:
        issuer = next((item for item in pool if item.subject == path[-1].issuer and item not in path), None)
        if issuer is None:
            break
        path.append(issuer)
    return path[1:]


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


def strongest_bank(client: TpmClient) -> int:
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
    """Return the firmware's event log, empty where there is none: the verifier says that none was carried."""
    try:
        with path.open("rb") as stream:
            return stream.read(event_log.MAX_LOG_BYTES)
    except OSError:
        return b""


def _answer(client: TpmClient, bound: bytes, challenge: Challenge, sources: Sources) -> dict[str, Json]:
    held, bank = _choose(client, sources), strongest_bank(client)
    with _attestation_key(client) as ak:
        if challenge.credential:
            credential = unhex(challenge.credential, "credential")
            ek, certificate, secret = _activate(client, ak, held, credential)
        else:
            profile, certificate = held[0]
            secret = b""
            with client.endorsement_key(profile, _named_by(certificate)) as key:
                ek = key.public
        attest, signature, pcrs = quote(client, ak, bound, tpm_client.QUOTED_PCRS, bank)
        members: dict[str, Json] = {
            "attest": attest.hex(),
            "signature": signature.hex(),
            "ak_public": ak.public.hex(),
            "ek_public": ek.hex(),
            f"pcrs_{tpm_structures.BANKS[bank]}": {str(index): value.hex() for index, value in pcrs.items()},
        }
    if secret:
        members["activation_secret"] = secret.hex()
    if certificate:
        members["ek_certificate"] = certificate.hex()
        pool = [*issuers(client), *(item for path in sources.ek_chain for item in _bundle(path))]
        members["ek_chain"] = [item.raw.hex() for item in path_of(certificates.parse(certificate), pool)]
    return members


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


def _choose(client: TpmClient, sources: Sources) -> list[tuple[EkProfile, bytes]]:
    """Return the EKs to try; without any certificate the RSA key of the default template, uncertified."""
    held = endorsements(client)
    for path in sources.ek_certificates:
        held += [_placed(client, item) for item in _bundle(path)]
    if sources.ek:
        held = [(profile, certificate) for profile, certificate in held if profile.name == sources.ek]
        if not held:
            raise UsageError("the TPM has no certificate of that EK", why=sources.ek, hint="leave --ek out")
    return held or [(RSA_2048, b"")]


def _placed(client: TpmClient, certificate: Certificate) -> tuple[EkProfile, bytes]:
    """Find the key that a certificate from a file names: firmware TPMs get theirs from their maker's site."""
    for profile in PROFILES:
        try:
            with client.endorsement_key(profile, _named_by(certificate.raw)):
                return profile, certificate.raw
        except EnvironmentProblem:
            continue  # not this one's
        except ServiceError as err:
            if err.detail != tpm_client.REFUSED:
                raise  # a template that this TPM does not know is refused; silence is not
    raise EnvironmentProblem(
        "the EK certificate is of another TPM",
        why=f"no key of this TPM is the one of {certificate.common_name() or 'the certificate'}",
        hint="fetch the certificate of this machine's own TPM from its maker",
    )


def _activate(
    client: TpmClient, ak: Loaded, held: list[tuple[EkProfile, bytes]], credential: bytes
) -> tuple[bytes, bytes, bytes]:
    """Return (EK public area, certificate, secret) of the EK that opens the credential."""
    refusal: ServiceError | None = None
    for profile, certificate in held:
        if certificate and not activation.is_for(credential, certificates.parse(certificate).public_key()):
            continue
        with client.endorsement_key(profile, _named_by(certificate)) as ek:
            try:
                return ek.public, certificate, client.activate(ak, ek, credential)
            except ServiceError as err:
                if err.detail != tpm_client.REFUSED:
                    raise
                refusal = err  # perhaps made for another EK of the same shape
    raise refusal or EnvironmentProblem(
        "the credential is for another key",
        why="this TPM has no certified EK of its kind: " + ", ".join(profile.name for profile, _ in held),
        hint="ask for a new challenge: stannary certify challenge -o c.json",
    )


def _named_by(certificate: bytes) -> Callable[[bytes], bool] | None:
    """Return the test whether a public area is of the key that a certificate names."""
    if not certificate:
        return None
    spki = certificates.parse(certificate).spki

    def is_certified(public: bytes) -> bool:
        key = tpm_structures.parse_public(public).key
        return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo) == spki

    return is_certified


def _bundle(path: Path) -> Sequence[Certificate]:
    try:
        return certificates.load_bundle(path.read_bytes())
    except OSError as err:
        raise NotFound("EK certificate or issuer cannot be read", why=f"{path}: {err.strerror}") from err
