"""Wire messages: strict, bounded, and errors survive the way to JSON and back."""

from __future__ import annotations

import hypothesis.strategies as st
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given

from stannary import errors
from stannary.formats import dsse, instants
from stannary.wire import admin, buyer, join_token, limits, message, node, routes
from stannary.wire import errors as wire_errors


def test_envelope_survives() -> None:
    """An envelope sent in a body is opened to the same bytes, and its signature still holds."""
    key = Ed25519PrivateKey.generate()
    envelope = dsse.sign(b"{}", key)
    body = node.ReadingSubmit.of(envelope).to_bytes()
    opened = message.read(node.ReadingSubmit, body).envelope.open()
    assert opened == envelope
    assert dsse.verify(opened, dsse.public_bytes(key)) == b"{}"


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b'{"state":"idle","leases":[],"version":"1","extra":1}',
        b'{"state":"asleep","leases":[],"version":"1"}',
        b'{"state":"idle","leases":"x","version":"1"}',
        b'{"state":"idle","leases":[1],"version":"1"}',
        b'{"state":"idle","leases":[],"version":1}',
        b'{"state":"idle","version":"1"}',
    ],
)
def test_heartbeat_refuses(body: bytes) -> None:
    """Unknown, missing and ill-typed members are one FormatError that names the place."""
    with pytest.raises(errors.FormatError):
        message.read(node.Heartbeat, body)


@pytest.mark.parametrize(
    ("cls", "body"),
    [
        (node.Heartbeat, b'{"state":"idle","leases":[],"version":"1","state":"idle"}'),
        (node.Heartbeat, b'{"state":"idle","leases":[],"version":"1","st\\u0061te":"busy"}'),
        (buyer.QuoteRequest, b'{"spec":{"name":"a","deep":[{"x":1,"y":2,"x":1}]}}'),
    ],
)
def test_a_doubled_member_is_refused(cls: type[message.Message], body: bytes) -> None:
    """A member named twice is refused at any depth, also with one value or in another spelling."""
    with pytest.raises(errors.FormatError) as refused:
        message.read(cls, body)
    assert "duplicate JSON member" in refused.value.why


@given(st.binary(max_size=400))
def test_any_bytes(body: bytes) -> None:
    """Whatever the bytes, reading a body raises our errors only."""
    for cls in (node.NextLease, buyer.Submit, admin.JoinTokenRequest):
        try:
            message.read(cls, body)
        except errors.FormatError:
            continue


def test_oversize_body_is_refused_before_parsing() -> None:
    """A body over the limit is LimitExceeded, not a parse."""
    with pytest.raises(errors.LimitExceeded):
        message.read(node.NextLease, b" " * (limits.MAX_BODY_BYTES + 1))


def test_deep_nesting_is_a_format_error() -> None:
    """A body nested ten thousand deep is refused without recursion."""
    with pytest.raises(errors.FormatError):
        message.read(buyer.QuoteRequest, b'{"spec":' + b'{"a":' * 10_000 + b"1" + b"}" * 10_001)


def test_error_round_trip() -> None:
    """An error keeps class, code, reason, hint and detail over HTTP."""
    sent = errors.ConflictError("lease moved on", why="epoch 1, now 2", hint="drop it", detail=wire_errors.STALE_EPOCH)
    got = wire_errors.from_body(409, wire_errors.to_body(sent, "req-1").to_bytes())
    assert type(got) is errors.ConflictError
    assert (got.what, got.why, got.hint, got.detail) == (sent.what, sent.why, sent.hint, sent.detail)


def test_foreign_error_body() -> None:
    """A proxy's page becomes a ServiceError with the status."""
    assert "502" in wire_errors.from_body(502, b"<html>").why


def test_full_disk_status() -> None:
    """A full disk answers 507, any other lack 500."""
    assert wire_errors.status_of(errors.EnvironmentProblem("full", detail=wire_errors.DISK_FULL)) == 507
    assert wire_errors.status_of(errors.EnvironmentProblem("port taken")) == 500


def test_join_token_round_trip() -> None:
    """A join token survives copying and names its digest by the whole word."""
    token = join_token.JoinToken(url="http://127.0.0.1:1", vkey="m+00000000+AA==", tls="", secret="s" * 32)
    assert join_token.parse(token.spell()) == token
    assert join_token.token_digest(token.spell()).startswith("sha256:")


@given(st.text(max_size=80))
def test_join_token_refuses(text: str) -> None:
    """Any other word is a FormatError."""
    for word in (text, join_token.PREFIX + text):
        with pytest.raises(errors.FormatError):
            join_token.parse(word)


def test_times() -> None:
    """Times round down to seconds, and only one spelling is read."""
    assert instants.parse(instants.spell(1_700_000_000.9)) == 1_700_000_000
    for text in ("2026-01-01T00:00:00+00:00", "2026-13-01T00:00:00Z", "2026-01-01 00:00:00Z", ""):
        with pytest.raises(errors.FormatError):
            instants.parse(text)


def test_routes_fill() -> None:
    """Client paths match the templates the server registers."""
    assert routes.job(routes.JOB_LOGS, "j-0") == "/v1/jobs/j-0/logs"
    assert routes.lease(routes.LEASE_FAIL, "abc") == "/v1/leases/abc/fail"
    assert routes.blob("sha256:00") == "/v1/blobs/sha256:00"


def test_session_message_binds_the_market() -> None:
    """The signed challenge names the market, so one market cannot replay it to another."""
    assert node.session_message("a+1+x", "n") != node.session_message("b+1+x", "n")
