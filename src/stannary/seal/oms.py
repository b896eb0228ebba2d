"""OpenSSF model-signing bundles, so that a model opened from an artifact can be checked without us.

The bundle is a sigstore bundle v0.3 with a DSSE envelope around an in-toto Statement whose predicate
lists every file with its SHA-256, the one hash that tool's command line checks. It is made when the model
is sealed, travels in the sealed manifest, and is checked by
`model_signing verify key --public_key KEY --signature PATH.sig PATH`.

Rules: the key is P-256 (that tool takes no Ed25519). Files of a git checkout are left out, as that tool
leaves them out by itself; the artifact covers them all the same.
"""

from __future__ import annotations

import base64
import hashlib

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from stannary.formats import canonical, dsse, statement
from stannary.formats.canonical import Json
from stannary.formats.digest import PREFIX, Digest, raw

BUNDLE_TYPE = "application/vnd.dev.sigstore.bundle.v0.3+json"
PREDICATE_TYPE = "https://model_signing/signature/v1.0"
ALGORITHM = "sha256"
WHOLE = "."  # how that tool names the only file of a model that is one file
IGNORED = (".git", ".gitattributes", ".github", ".gitignore")


def sign(name: str, digests: dict[str, Digest], key: ec.EllipticCurvePrivateKey) -> str:
    """Return the bundle of a model `name` with files `digests` (by path)."""
    listed = {path: value for path, value in digests.items() if path.split("/")[0] not in IGNORED}
    resources: list[Json] = [
        {"name": path, "algorithm": ALGORITHM, "digest": listed[path][len(PREFIX) :]} for path in sorted(listed)
    ]
    root = hashlib.sha256(b"".join(raw(listed[path]) for path in sorted(listed))).hexdigest()
    payload = canonical.encode(
        {
            "_type": statement.STATEMENT_V1,
            "subject": [{"name": name, "digest": {"sha256": root}}],
            "predicateType": PREDICATE_TYPE,
            "predicate": {
                "serialization": {
                    "method": "files",
                    "hash_type": ALGORITHM,
                    "allow_symlinks": False,
                    "ignore_paths": list(IGNORED),
                },
                "resources": resources,
            },
        }
    )
    signature = key.sign(dsse.pae(dsse.STATEMENT_TYPE, payload), ec.ECDSA(SHA256()))
    bundle: dict[str, Json] = {
        "mediaType": BUNDLE_TYPE,
        "verificationMaterial": {"publicKey": {"hint": key_hint(key.public_key())}, "tlogEntries": []},
        "dsseEnvelope": {
            "payload": base64.b64encode(payload).decode("ascii"),
            "payloadType": dsse.STATEMENT_TYPE,
            "signatures": [{"sig": base64.b64encode(signature).decode("ascii"), "keyid": ""}],
        },
    }
    return canonical.encode(bundle).decode("utf-8")


def public_pem(key: ec.EllipticCurvePublicKey) -> bytes:
    """Return the public key as that tool reads it."""
    return key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def key_hint(key: ec.EllipticCurvePublicKey) -> str:
    """Return the key id of the bundle: SHA-256 of the PEM."""
    return hashlib.sha256(public_pem(key)).hexdigest()
