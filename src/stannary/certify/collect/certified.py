"""The certified endorsement keys of this TPM: certificates and issuers that its maker put into it, or on his site.

Rules:
1. A key is used where it is the one that its certificate names, and never in another's place.
2. One key that cannot be had (an endorsement seed that was changed, a certificate that does not parse) leaves
   the others usable; the reason is told where none is left.
3. Issuers are carried along by their names. They are public, and a verifier trusts its own roots only.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from stannary.certify import activation
from stannary.certify.collect import tpm_client
from stannary.certify.collect.endorsement import PROFILES, RSA_2048, EkProfile
from stannary.certify.evidence import tpm_structures
from stannary.certify.pki import certificates
from stannary.errors import EnvironmentProblem, FormatError, NotFound, ServiceError, StannaryError, UsageError

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence
    from contextlib import AbstractContextManager
    from pathlib import Path

    from stannary.certify.collect.sources import Sources
    from stannary.certify.collect.tpm_client import Loaded, TpmClient
    from stannary.certify.pki.certificates import Certificate

# EK Credential Profile 2.5, section 2.2.1.5.2: issuers, one series of DER over several indices.
CHAIN_INDEX, MAX_CHAIN_INDICES, MAX_CHAIN_BYTES = 0x01C00100, 0x100, 64 * 1024


@dataclass(frozen=True, slots=True)
class CertifiedKey:
    """An EK and its certificate; None where the TPM has none of any key."""

    profile: EkProfile
    certificate: Certificate | None

    def opens(self, credential: bytes) -> bool:
        """Whether a credential may be for this key."""
        return self.certificate is None or activation.is_for(credential, self.certificate.public_key())

    def names(self, public: bytes) -> bool:
        """Whether a public area is of the certified key (rule 1)."""
        if self.certificate is None:
            return self.profile.is_default(public)
        key = tpm_structures.parse_public(public).key
        return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo) == self.certificate.spki

    def loaded(self, client: TpmClient) -> AbstractContextManager[Loaded]:
        """Give the key."""
        return client.endorsement_key(self.profile, self.names)


def keys_of(client: TpmClient, sources: Sources) -> list[CertifiedKey]:
    """Return the EKs to try, in the profile's order, then those of files; one uncertified key where there is none."""
    held, problem = stored(client)
    held += [_placed(client, item) for path in sources.ek_certificates for item in bundle(path)]
    if sources.ek:
        held = [item for item in held if item.profile.name == sources.ek]
        if not held:
            raise UsageError("the TPM has no certificate of that EK", why=sources.ek, hint="leave --ek out")
    if not held and problem is not None:
        raise problem
    return held or [CertifiedKey(RSA_2048, None)]


def stored(client: TpmClient) -> tuple[list[CertifiedKey], FormatError | None]:
    """Return the EKs with a certificate in NV memory, and why one was left out (rule 2)."""
    found: list[CertifiedKey] = []
    problem: FormatError | None = None
    for profile in PROFILES:
        data = client.ek_certificate(profile)
        if not data:
            continue
        try:
            certificate = certificates.parse(data)
            certificate.public_key()
        except FormatError as err:
            problem = FormatError(
                f"EK certificate {profile.name} does not parse", why=str(err), hint="choose with --ek"
            )
            continue
        found.append(CertifiedKey(profile, certificate))
    return found, problem


def usable(client: TpmClient, held: Sequence[CertifiedKey]) -> Generator[tuple[CertifiedKey, Loaded], None, None]:
    """Give each key that can be had, loaded while the caller looks at it; raise where none can."""
    problem: StannaryError | None = None
    num_given = 0
    for item in held:
        try:
            with item.loaded(client) as key:
                num_given += 1
                yield item, key
        except (EnvironmentProblem, ServiceError) as err:
            if isinstance(err, ServiceError) and err.detail != tpm_client.REFUSED:
                raise  # silence is no refusal
            problem = problem or err
    if not num_given and problem is not None:
        raise problem


def issuers(client: TpmClient) -> tuple[Certificate, ...]:
    """Return the issuers that the maker put into NV memory, as far as they parse."""
    data = b""
    for index in range(CHAIN_INDEX, CHAIN_INDEX + MAX_CHAIN_INDICES):
        piece = client.nv_read(index)
        if not piece or len(data) + len(piece) > MAX_CHAIN_BYTES:
            break
        data += piece
    found: list[Certificate] = []
    while data[:2] == b"\x30\x82" and len(found) < certificates.MAX_CERTIFICATES:
        size = 4 + int.from_bytes(data[2:4], "big")
        try:
            found.append(certificates.parse(data[:size]))
        except FormatError:
            break  # rule 3: a verifier may hold what is missing here
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


def bundle(path: Path) -> tuple[Certificate, ...]:
    """Read certificates from a file."""
    try:
        return certificates.load_bundle(path.read_bytes())
    except OSError as err:
        raise NotFound("EK certificate or issuer cannot be read", why=f"{path}: {err.strerror}") from err


def _placed(client: TpmClient, certificate: Certificate) -> CertifiedKey:
    """Find the key that a certificate from a file names: firmware TPMs get theirs from their maker's site."""
    with contextlib.closing(usable(client, [CertifiedKey(profile, certificate) for profile in PROFILES])) as found:
        for item, _ in found:
            return item
    raise EnvironmentProblem("the EK certificate is of another TPM", hint="fetch that of this machine's own TPM")
