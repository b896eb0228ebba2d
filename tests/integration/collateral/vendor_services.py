"""Vendors' services on loopback: KDS, PCS, manifests and an OCSP responder, each bent as a test likes."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType

from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import ocsp as ocsp_format
from tests.unit.certify import manifest_world, world

from stannary.certify import anchor as anchors
from stannary.certify.challenge import Challenge
from stannary.certify.collateral.plan import Service
from stannary.certify.envelope import Evidence, Part
from stannary.certify.evidence.tcb import pem
from stannary.certify.pki.certificates import Anchors
from stannary.certify.rules import Roots, SnpTcb

LEVEL = SnpTcb(1, 2, 3, 4, 5)
KEY_HASH = b"\x09" * 32
BOARD = ("G520", "0280", "895")
GOLDEN = {index: bytes([index + 1]) * 48 for index in range(4)}


@dataclass
class Reply:
    """What a service answers."""

    body: bytes = b""
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    announced: int | None = None  # a Content-Length that is not the body's


class Services:
    """One loopback server that plays every service; `bend` replaces answers by a part of their path."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.asked: list[str] = []
        self.bend: dict[str, Callable[[int], Reply | None]] = {}
        self._counts: dict[str, int] = {}
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def answer(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                reply = outer.reply(self.path, body)
                self.send_response(reply.status)
                for name, value in reply.headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(reply.body) if reply.announced is None else reply.announced))
                self.end_headers()
                self.wfile.write(reply.body)
                self.close_connection = reply.announced is not None

            do_GET = do_POST = answer  # noqa: N815  names http.server looks for

            def log_message(self, *_: object) -> None:
                """Say nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    @property
    def bases(self) -> dict[Service, str]:
        """Every service at this server."""
        return dict.fromkeys(Service, self.url)

    def __enter__(self) -> Services:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, err: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def reply(self, path: str, body: bytes) -> Reply:
        """Answer one request."""
        name = f"/ocsp/{ocsp_format.load_der_ocsp_request(body).serial_number:x}" if body else path
        self.asked.append(name)
        for part, bent in self.bend.items():
            if part in name:
                self._counts[part] = self._counts.get(part, 0) + 1
                reply = bent(self._counts[part])
                if reply is not None:
                    return reply
        return self.machine.reply(name)


class Machine:
    """A confidential guest with one GPU that carries nothing but its reports and the GPU's chain."""

    def __init__(self) -> None:
        self.amd, self.nvidia, self.signer = world.Amd(), world.Nvidia(), manifest_world.Signer()
        self.vek = self.amd.vcek(LEVEL)
        self.card = world.issue("GH100 A01 GSP BROM", self.nvidia.issuer, ca=True)
        self.alias = world.issue(
            "GH100 A01 GSP FMC LF", self.card, extensions={"2.23.133.5.4.1": b"\x30\x32\x04\x30" + b"\x77" * 48}
        )
        driver, vbios = self.signer.manifest("580.95.05", GOLDEN), self.signer.manifest("96.00.74.00.20", GOLDEN)
        self.manifests = {
            "NV_GPU_DRIVER_GH100_580.95.05": driver,
            "NV_GPU_VBIOS_G520_0280_895_9600740020": vbios,
        }
        self.ocsp_at = world.NOW - world.timedelta(hours=1)
        self.issuers = {
            item.certificate.serial: (item, issuer)
            for item, issuer in (
                (self.card, self.nvidia.issuer),
                (self.nvidia.issuer, self.nvidia.root),
                (self.signer.leaf, self.signer.authority),
                (self.signer.authority, self.signer.root),
            )
        }

    @property
    def roots(self) -> Roots:
        """These vendors in place of the real ones."""
        device = Anchors(certificates=(self.nvidia.root.certificate,))
        return Roots(amd=self.amd.roots.amd, nvidia_device=device, nvidia_rim=self.signer.anchors)

    def evidence(self, challenge: Challenge) -> Evidence:
        """The answer to a challenge."""
        bound = anchors.anchor(challenge.nonce_bytes, KEY_HASH)
        report = self.amd.report(self.vek, report_data=anchors.report_data(bound))
        ueid = f"{self.alias.certificate.serial:x}"
        signed = self.nvidia.report(self.alias, anchors.device_nonce(bound, ueid), board=BOARD)
        chain = (self.alias, self.card, self.nvidia.issuer, self.nvidia.root)
        gpu = Part("nvgpu", signed, certificates=(pem(item.certificate for item in chain).encode(),))
        return Evidence(challenge.id, challenge.nonce_bytes, KEY_HASH, {"cpu": Part("snp", report), f"gpu/{ueid}": gpu})

    def reply(self, path: str) -> Reply:
        """What an honest vendor answers."""
        hwid = bytes(range(8)).hex()
        if path == f"/vcek/v1/Turin/{hwid}?fmcSPL=05&blSPL=01&teeSPL=02&snpSPL=03&ucodeSPL=04":
            return Reply(self.vek.certificate.raw)
        if path == "/vcek/v1/Turin/cert_chain":
            return Reply(pem((self.amd.ask.certificate, self.amd.ark.certificate)).encode())
        if path == "/vcek/v1/Turin/crl":
            return Reply(world.crl(self.amd.ark))
        if path.startswith("/v1/rim/") and path.removeprefix("/v1/rim/") in self.manifests:
            name = path.removeprefix("/v1/rim/")
            text = base64.b64encode(self.manifests[name]).decode()
            return Reply(json.dumps({"id": name, "rim": text, "request_id": "1", "sha256": ""}).encode())
        if path.startswith("/ocsp/"):
            return Reply(self.ocsp(int(path.removeprefix("/ocsp/"), 16)))
        return Reply(b"{}", status=404)

    def ocsp(self, serial: int, **changes: object) -> bytes:
        """An answer about one certificate."""
        subject, issuer = self.issuers[serial]
        return world.ocsp(subject, issuer, **{"at": self.ocsp_at, "names": "sha384", **changes})


def pem_of(issued: world.Issued) -> bytes:
    """A certificate as PEM."""
    return issued.built.public_bytes(Encoding.PEM)
