"""TLS to a server whose certificate is pinned by its SHA-256: one certificate is trusted, and nothing else."""

from __future__ import annotations

import hashlib
import ssl

from stannary.errors import AuthError


def pinned(host: str, port: int, fingerprint: str, *, whose: str, timeout_s: float) -> ssl.SSLContext:
    """Return a context whose only trust anchor is the certificate with this SHA-256 (hex), as `host` shows it now.

    Raises:
        OSError: no answer.
        AuthError: another certificate.
    """
    pem = ssl.get_server_certificate((host, port), timeout=timeout_s)
    seen = hashlib.sha256(ssl.PEM_cert_to_DER_cert(pem)).hexdigest()
    if seen != fingerprint:
        raise AuthError(
            f"{whose} certificate is not the pinned one", why=f"sha256 {seen}, pinned {fingerprint}",
            hint=f"ask {whose} operator; somebody may be between you",
        )  # fmt: skip
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False  # the pin names one certificate; its host name adds nothing
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    context.load_verify_locations(cadata=pem)
    return context
