"""Azure composites collected from a vTPM that a test plays: whole, and with every part lying once."""

from __future__ import annotations

import base64
import json
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from types import SimpleNamespace

import pytest
from tests.integration.tpm.paravisor import Paravisor, td_quote
from tests.integration.tpm.software_tpm import needs_swtpm
from tests.unit.certify import world

from stannary.certify import anchor
from stannary.certify.collect import azure, metadata
from stannary.certify.evidence import azure as evidence
from stannary.certify.evidence.azure import AzureVerifier
from stannary.certify.evidence.basis import Basis
from stannary.certify.evidence.verifier import examine
from stannary.certify.rules import Rules
from stannary.errors import EnvironmentProblem, FormatError, ServiceError, StannaryError

pytestmark = needs_swtpm
BOUND = b"\x33" * 48


@pytest.fixture
def snp(client):
    """A machine on AMD hardware of a test vendor."""
    return Paravisor(client)


@pytest.fixture
def tdx(client):
    """A machine on Intel hardware of nobody."""
    return Paravisor(client, is_tdx=True)


def _appraise(part, rules):
    collateral = part.collateral()
    return examine(
        AzureVerifier(part.kind), part.evidence, Basis(bound=BOUND, collateral=collateral, now=world.NOW, rules=rules)
    )


def test_composite_is_fresh_and_fits_together(snp):
    """Report, quote and chip certificate are one machine's, and the hardware report carries the anchor too."""
    part = azure.collect(snp.client, BOUND, snp.metadata, snp.wait)
    assert part.kind == "azure-snp"
    appraisal = _appraise(part, Rules(roots=snp.amd.roots))
    assert not [item for item in appraisal.findings if item.severity == "refuse"]
    assert appraisal.claims["hardware_report_fresh"] is True
    parsed = evidence.parse_composite(part.evidence, is_tdx=False)
    assert parsed.attest.selections == (("sha256", tuple(range(24))),)


def test_it_never_passes_as_azure(snp):
    """Under AMD's own roots the same composite is refused: a software TPM and a made-up chip are no machine."""
    part = azure.collect(snp.client, BOUND, snp.metadata, snp.wait)
    assert _appraise(part, Rules()).outcome == "refuse:chain-invalid"


def test_report_that_is_never_renewed_is_taken_as_it_is(snp):
    """Where the paravisor ignores the guest's bytes its report of the boot is sent; freshness is the quote's."""
    waited: list[float] = []
    part = azure.collect(snp.client, BOUND, snp.metadata, waited.append)
    assert len(waited) == azure.FRESH_REPORT_TRIES
    appraisal = _appraise(part, Rules(roots=snp.amd.roots))
    assert appraisal.claims["hardware_report_fresh"] is False
    assert not [item for item in appraisal.findings if item.severity == "refuse"]


def test_guest_bytes_that_cannot_be_written_cost_nothing(snp, monkeypatch):
    """A vTPM that refuses the write is not waited for."""
    snp.undefine(azure.USER_DATA_INDEX)
    monkeypatch.setattr(snp.client, "nv_write", lambda *_: False)
    part = azure.collect(snp.client, BOUND, snp.metadata, pytest.fail)
    assert part.kind == "azure-snp"


def test_machine_without_a_report_is_not_azure(snp):
    """A plain machine's TPM holds no such index: the collector says so and asks nobody else."""
    snp.undefine(azure.REPORT_INDEX)
    with pytest.raises(EnvironmentProblem, match="not an Azure"):
        azure.collect(snp.client, BOUND, pytest.fail, pytest.fail)


def test_key_that_the_report_does_not_name_is_refused(snp):
    """Another key at the handle, or none, is noticed before anything is sent."""
    with snp.client.endorsement_key() as other:
        snp.publish(anchor.report_data(BOUND), public=other.public)
    with pytest.raises(ServiceError, match="not the one its report names"):
        azure.collect(snp.client, BOUND, snp.metadata, pytest.fail)
    snp.publish(anchor.report_data(BOUND))
    snp.evict()
    with pytest.raises(ServiceError, match="not the one its report names"):
        azure.collect(snp.client, BOUND, snp.metadata, pytest.fail)


@pytest.mark.parametrize("size", [1, 31, 32, 1216, 1300])
def test_report_cut_short_is_malformed(snp, size):
    """A report that ends early is our error wherever it ends."""
    raw = snp.client.nv_read(azure.REPORT_INDEX)
    snp.undefine(azure.REPORT_INDEX)
    assert snp.client.nv_write(azure.REPORT_INDEX, raw[:size])
    with pytest.raises(FormatError):
        azure.collect(snp.client, BOUND, snp.metadata, pytest.fail)


@pytest.mark.parametrize("answer", [b"", b"{}", b"[]", b"<html>", b'{"vcekCert":1,"certificateChain":"x"}'])
def test_metadata_of_another_shape_is_our_error(snp, answer):
    """Whatever the metadata service answers in place of certificates, the collector names it."""
    with pytest.raises(FormatError):
        azure.collect(snp.client, BOUND, lambda *_: answer, snp.wait)


def _quoting(report_data: bytes, asked: list[bytes]):
    def answer(path: str, body: bytes = b"") -> bytes:
        assert path == "/acc/tdquote"
        report = json.loads(body)["report"]
        asked.append(base64.urlsafe_b64decode(report + "=" * (-len(report) % 4)))
        return json.dumps({"quote": base64.urlsafe_b64encode(td_quote(report_data)).rstrip(b"=").decode()}).encode()

    return answer


def test_td_report_is_quoted_by_the_host(tdx):
    """On Intel hardware the whole TD report goes to the host's quoting enclave, and its quote comes along."""
    hardware = tdx.publish(anchor.report_data(BOUND))
    asked: list[bytes] = []
    part = azure.collect(tdx.client, BOUND, _quoting(hardware[128:192], asked), pytest.fail)
    assert asked == [hardware[:1024]]
    assert part.kind == "azure-tdx"
    appraisal = _appraise(part, Rules())
    bound = {row.id: row.state for row in appraisal.checks}
    assert bound["runtime-claims"] == bound["td-report"] == bound["nonce"] == "checked"
    assert appraisal.outcome.startswith("refuse:")  # nobody signed that quote


def test_quote_of_another_report_is_refused(tdx):
    """A host that quotes another TD's report is noticed on the machine."""
    with pytest.raises(ServiceError, match="another TD report"):
        azure.collect(tdx.client, BOUND, _quoting(b"\x01" * 64, []), tdx.wait)


@pytest.mark.parametrize("quote", ["", "!!", "AAAA", 7])
def test_quotes_of_another_shape_are_malformed(tdx, quote):
    """No quote, no base64, no structure: our error each time."""
    with pytest.raises(FormatError):
        azure.collect(tdx.client, BOUND, lambda *_: json.dumps({"quote": quote}).encode(), tdx.wait)


@pytest.fixture
def service():
    """An instance metadata service on loopback; tests set what it answers."""
    told = SimpleNamespace(status=200, body=b"{}", seen=[], hold=None)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            """Answer."""
            size = int(self.headers.get("Content-Length", 0))
            told.seen.append((self.command, self.path, self.headers.get("Metadata"), self.rfile.read(size)))
            self.send_response(told.status)
            self.send_header("Location", "http://127.0.0.1:1/elsewhere")
            self.end_headers()
            if told.hold is not None:
                told.hold.wait(20)
            self.wfile.write(told.body)

        def do_POST(self):
            """Answer likewise."""
            self.do_GET()

        def log_message(self, *_):
            """Say nothing."""

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    told.address = f"127.0.0.1:{server.server_port}"
    yield told
    server.shutdown()
    server.server_close()
    thread.join()


def test_metadata_service_is_asked_as_documented(service, monkeypatch):
    """Requests carry the Metadata header, bodies are posted, and no proxy is used."""
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    ask = metadata.MetadataService(service.address)
    assert ask("/metadata/THIM/amd/certification") == b"{}"
    assert ask("/acc/tdquote", b'{"report":"x"}') == b"{}"
    assert [item[:3] for item in service.seen] == [
        ("GET", "/metadata/THIM/amd/certification", "true"),
        ("POST", "/acc/tdquote", "true"),
    ]
    assert service.seen[1][3] == b'{"report":"x"}'


@pytest.mark.parametrize(("status", "body"), [(404, b"{}"), (302, b"{}"), (500, b""), (200, bytes(256 * 1024 + 1))])
def test_metadata_service_that_refuses_is_our_error(service, status, body):
    """Errors, redirects and floods end in our error; a redirect is never followed."""
    service.status, service.body = status, body
    with pytest.raises(ServiceError):
        metadata.MetadataService(service.address)("/x")
    assert len(service.seen) == 1


def test_metadata_service_that_never_answers_costs_its_limit(service):
    """Silence after the headers ends at the limit."""
    service.hold = threading.Event()
    with pytest.raises(ServiceError, match="did not answer"):
        metadata.MetadataService(service.address, limit_s=0.1)("/x")
    service.hold.set()


def test_metadata_service_that_is_not_there_is_our_error():
    """Off the cloud nothing listens: our error, at once."""
    with pytest.raises(StannaryError):
        metadata.MetadataService("127.0.0.1:1")("/x")
