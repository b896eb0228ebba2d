"""What an appraisal of evidence needs from vendors, and where each vendor gives it.

The verifiers name their collateral (`collateral_keys`); here each name becomes a `Need` with the request
that answers it. Some needs show only once another is met: the signers of a reference manifest have OCSP
answers of their own. The same needs then say which stored items belong to a part of the evidence.

Rules:
1. What goes into a URL comes from evidence that nobody has checked yet (`names.py`).
2. What cannot be asked for says why, and what to do instead. What the evidence carries and never goes
   stale (an endorsement certificate, a manifest) is not asked for again.
3. Nothing is trusted: items are collateral like carried ones, and the verifiers judge them.

Sources: AMD 57230 (KDS), Intel PCS API v4, RFC 6960 appendix A. Pure; `client.py` does the asking.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import pairwise
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from stannary.certify.collateral.names import (
    driver_rim_id,
    ocsp_request,
    product,
    responder,
    vbios_rim_id,
    vcek_path,
)
from stannary.certify.evidence import rim, snp_report
from stannary.certify.evidence.nvidia import is_alias
from stannary.certify.evidence.quote import fmspc
from stannary.certify.layers import Unread
from stannary.certify.pki import certificates
from stannary.certify.rules import AMD_ROOTS, Generation
from stannary.errors import FormatError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from stannary.certify.collateral.items import Item
    from stannary.certify.envelope import Part
    from stannary.certify.evidence.quote import Quote
    from stannary.certify.evidence.snp_report import SnpReport
    from stannary.certify.layers import Layer
    from stannary.certify.pki.certificates import Certificate


class Service(StrEnum):
    """Who answers; each has one base address that a site may replace by its mirror."""

    AMD = "amd"
    INTEL = "intel"
    INTEL_ROOT = "intel-root"
    RIM = "nvidia-rim"
    OCSP = "ocsp"


BASES: dict[Service, str] = {
    Service.AMD: "https://kdsintf.amd.com",
    Service.INTEL: "https://api.trustedservices.intel.com",
    Service.INTEL_ROOT: "https://certificates.trustedservices.intel.com",
    Service.RIM: "https://rim.attestation.nvidia.com",
    Service.OCSP: "https://ocsp.ndis.nvidia.com",
}
INTEL_ROOT_CRL = "IntelSGXRootCA.der"


@dataclass(frozen=True, slots=True)
class Request:
    """One HTTP request: `path` is below the service's base, `address` a whole URL read from a certificate."""

    service: Service
    path: str
    address: str = ""
    body: bytes = b""
    mirror_path: str = ""  # where a mirror has it, if elsewhere
    chain_header: str = ""  # where Intel's answers carry their signer's chain

    def url(self, bases: Mapping[Service, str]) -> str:
        """Return the URL to ask; a base that was replaced wins over what a certificate names."""
        replaced = bases.get(self.service, "")
        if self.address and not replaced:
            return self.address
        path = self.mirror_path if replaced and self.mirror_path else self.path
        return f"{(replaced or BASES[self.service]).rstrip('/')}/{path}"


@dataclass(frozen=True, slots=True)
class Need:
    """One artifact a part of the evidence needs; `subject` and `issuer` where it is an OCSP answer.

    Without requests, `reason` says why and `hint` what to do; `is_carried` says that the evidence brings it.
    """

    kind: str
    name: str
    requests: tuple[Request, ...] = ()
    reason: str = ""
    hint: str = ""
    is_carried: bool = False
    certificates: tuple[Certificate, ...] = field(default=(), repr=False)

    @property
    def key(self) -> tuple[str, str]:
        """What items are found by."""
        return self.kind, self.name


def needs(layers: Iterable[Layer | Unread], items: Mapping[tuple[str, str], Item]) -> tuple[Need, ...]:
    """Return what the layers of the evidence need, each artifact once; one that does not read is told as such."""
    found: dict[tuple[str, str], Need] = {}
    for layer in layers:
        for need in layer_needs(layer, items):
            found.setdefault(need.key, need)
    return tuple(found.values())


def layer_needs(layer: Layer | Unread, items: Mapping[tuple[str, str], Item]) -> tuple[Need, ...]:
    """Return what one layer needs, given what is there already."""
    if isinstance(layer, Unread):
        return (_unread(layer.part, layer.problem),)
    look = _Look(layer.part, layer.parsed, certificates.order(layer.carried.certificates), items)
    try:
        keys = layer.verifier.collateral_keys(layer.parsed)
        return tuple(need for key in keys for need in _NEEDS[key.kind](key.name, look))
    except FormatError as err:
        return (_unread(layer.part, err),)


def _unread(part: Part, problem: FormatError) -> Need:
    return Need(part.kind, "", reason=f"the evidence does not read: {problem}", hint="collect the evidence again")


@dataclass(frozen=True, slots=True)
class _Look:
    """What a need is derived from."""

    part: Part
    parsed: Any
    carried: tuple[Certificate, ...]
    items: Mapping[tuple[str, str], Item]


def _vcek(name: str, look: _Look) -> Iterator[Need]:
    report = _snp(look.parsed)
    if _has_endorsement(look):
        yield Need("amd-vcek", name, is_carried=True)
    elif not any(report.chip_id):
        hint = "ask the operator to carry the VCEK, or to unmask the chip id"
        yield Need("amd-vcek", name, reason="the report hides its chip id (MASK_CHIP_ID)", hint=hint)
    else:
        products = _products(look)
        yield Need("amd-vcek", name, tuple(Request(Service.AMD, vcek_path(report, item)) for item in products))


def _vlek(name: str, look: _Look) -> Iterator[Need]:
    if _has_endorsement(look):
        yield Need("amd-vlek", name, is_carried=True)
        return
    reason = "AMD hands a VLEK to its cloud only"
    yield Need("amd-vlek", name, reason=reason, hint="ask the machine for its certificate table (extended report)")


def _amd_chain(_name: str, look: _Look) -> Iterator[Need]:
    family = _family(look)
    is_carried = any(item.is_ca for item in look.carried)
    for generation in _settled(look):
        name = f"{family}/{product(generation)}"
        request = Request(Service.AMD, f"{family}/v1/{product(generation)}/cert_chain")
        yield Need("amd-chain", name, () if is_carried else (request,), is_carried=is_carried)


def _amd_crl(_name: str, look: _Look) -> Iterator[Need]:
    family = _family(look)
    for generation in _settled(look):
        name = f"{family}/{product(generation)}"
        yield Need("amd-crl", name, (Request(Service.AMD, f"{family}/v1/{product(generation)}/crl"),))


def _intel_tcb(_name: str, look: _Look) -> Iterator[Need]:
    parsed = _quote(look.parsed)
    tee = "tdx" if parsed.is_tdx else "sgx"
    code = fmspc(parsed.pck_chain[0])
    path = f"{tee}/certification/v4/tcb?fmspc={code}"
    yield Need(f"intel-{tee}-tcb-info", code, (Request(Service.INTEL, path, chain_header="TCB-Info-Issuer-Chain"),))


def _intel_identity(_name: str, look: _Look) -> Iterator[Need]:
    tee = "tdx" if _quote(look.parsed).is_tdx else "sgx"
    header = "SGX-Enclave-Identity-Issuer-Chain"
    request = Request(Service.INTEL, f"{tee}/certification/v4/qe/identity", chain_header=header)
    yield Need(f"intel-{tee}-qe-identity", "", (request,))


def _intel_pck_crl(name: str, _look: _Look) -> Iterator[Need]:
    path = f"sgx/certification/v4/pckcrl?ca={name}&encoding=der"
    yield Need("intel-pck-crl", name, (Request(Service.INTEL, path, chain_header="SGX-PCK-CRL-Issuer-Chain"),))


def _intel_root_crl(name: str, _look: _Look) -> Iterator[Need]:
    request = Request(Service.INTEL_ROOT, INTEL_ROOT_CRL, mirror_path="sgx/certification/v4/rootcacrl")
    yield Need("intel-root-crl", name, (request,))


def _driver_rim(_name: str, look: _Look) -> Iterator[Need]:
    if not _is_switch(look):
        yield from _manifest("nvidia-driver-rim", driver_rim_id(look.parsed, look.carried), look)


def _vbios_rim(_name: str, look: _Look) -> Iterator[Need]:
    yield from _manifest("nvidia-vbios-rim", vbios_rim_id(look.parsed, is_switch=_is_switch(look)), look)


def _manifest(kind: str, identifier: str, look: _Look) -> Iterator[Need]:
    """A manifest, and once it is there the OCSP answers of who signed it."""
    if not identifier:
        hint = "update the driver; the report has to name driver, VBIOS and board"
        yield Need(kind, "", reason="the report does not say which manifest is its own", hint=hint)
        return
    version = identifier.rpartition("_")[2]
    carried = [data for data in look.part.rims if _is_version(data, version)]
    need = Need(kind, identifier, (Request(Service.RIM, f"v1/rim/{quote(identifier, safe='')}"),))
    yield Need(kind, identifier, is_carried=True) if carried else need
    item = look.items.get(need.key)
    for data in (*carried, *(() if item is None else (item.data,))):
        found = _read_manifest(data)
        yield from _ocsp_needs(() if found is None else found.chain)


@functools.lru_cache(maxsize=64)  # one that does not read is not read again for each need
def _read_manifest(data: bytes) -> rim.ReferenceManifest | None:
    try:
        return rim.parse_manifest(data)
    except FormatError:
        return None  # judged at the appraisal


def _is_version(data: bytes, version: str) -> bool:
    """Ids write a driver's version as it is and a VBIOS's without its dots."""
    found = _read_manifest(data)
    return found is not None and version in {found.version, found.version.replace(".", "").upper()}


def _device_ocsp(_name: str, look: _Look) -> Iterator[Need]:
    """The device's own certificate and those above it; its alias below is its own work (nvidia.py rule 3)."""
    chain = _linked(look.carried)
    yield from _ocsp_needs(chain[1:] if chain and is_alias(chain[0]) and len(chain) > 2 else chain)


def _ocsp_needs(chain: tuple[Certificate, ...]) -> Iterator[Need]:
    for subject, issuer in pairwise(_linked(chain)):
        request = Request(Service.OCSP, "", address=responder(subject), body=ocsp_request(subject, issuer))
        yield Need("nvidia-ocsp", subject.fingerprint, (request,), certificates=(subject, issuer))


def _linked(chain: tuple[Certificate, ...]) -> tuple[Certificate, ...]:
    """Return the first certificate and its issuers above it, however they were sorted."""
    found = list(chain[:1])
    while len(found) <= certificates.MAX_PATH:
        above = [item for item in chain if item not in found and certificates.is_issued(found[-1], item)]
        if not above:
            break
        found.append(above[0])
    return tuple(found)


def _ek_chain(name: str, look: _Look) -> Iterator[Need]:
    if look.carried or len(look.parsed.ek_chain) > 1:
        yield Need("tpm-ek-chain", name, is_carried=True)
        return
    reason = "makers of TPMs publish their issuers each in another place"
    yield Need("tpm-ek-chain", name, reason=reason, hint="stannary node check --ek-issuer FILE carries them")


def _snp(parsed: Any) -> SnpReport:
    report: SnpReport = parsed.snp if hasattr(parsed, "snp") else parsed  # an Azure composite holds one inside
    return report


def _quote(parsed: Any) -> Quote:
    quoted: Quote = parsed.td_quote if hasattr(parsed, "td_quote") else parsed
    return quoted


def _is_switch(look: _Look) -> bool:
    return bool(look.carried) and look.carried[0].common_name().startswith("LS")


def _has_endorsement(look: _Look) -> bool:
    return any(not item.is_ca for item in (*look.carried, *getattr(look.parsed, "endorsement", ())))


def _family(look: _Look) -> str:
    return "vlek" if _snp(look.parsed).signing_key == snp_report.KEY_VLEK else "vcek"


def _products(look: _Look) -> tuple[Generation, ...]:
    """The generation a report's CPUID names; version 2 reports have none, and are of one of two."""
    cpuid = _snp(look.parsed).cpuid
    named = None if cpuid is None else snp_report.generation_of(cpuid)
    return (Generation.MILAN, Generation.GENOA) if named is None else (named,)


def _settled(look: _Look) -> tuple[Generation, ...]:
    """The generation whose chain and list are wanted: by CPUID, else by the endorsement once it is there."""
    products = _products(look)
    if len(products) == 1:
        return products
    known = [*look.carried, *getattr(look.parsed, "endorsement", ())]
    key = ("amd-vcek", f"{_snp(look.parsed).chip_id.hex()}/{_snp(look.parsed).reported_tcb.hex()}")
    if key in look.items:
        known.append(certificates.parse(look.items[key].data))
    for item in known:
        if item.key_pin in AMD_ROOTS:
            return (AMD_ROOTS[item.key_pin],)
        for generation in products:
            if product(generation).encode("ascii") in item.issuer + item.subject:
                return (generation,)
    return ()


_NEEDS: dict[str, Callable[[str, _Look], Iterator[Need]]] = {
    "amd-vcek": _vcek,
    "amd-vlek": _vlek,
    "amd-chain": _amd_chain,
    "amd-crl": _amd_crl,
    "intel-tdx-tcb-info": _intel_tcb,
    "intel-sgx-tcb-info": _intel_tcb,
    "intel-tdx-qe-identity": _intel_identity,
    "intel-sgx-qe-identity": _intel_identity,
    "intel-pck-crl": _intel_pck_crl,
    "intel-root-crl": _intel_root_crl,
    "nvidia-driver-rim": _driver_rim,
    "nvidia-vbios-rim": _vbios_rim,
    "nvidia-device-chain": lambda _name, _look: iter(()),  # only the device has it: `node check` carries it
    "nvidia-ocsp": _device_ocsp,
    "tpm-ek-chain": _ek_chain,
}
