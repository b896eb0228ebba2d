"""CCEL: a TD's event log against the runtime registers of its quote."""

from __future__ import annotations

import zlib

from stannary.certify.evidence.event_log import MAX_LOG_BYTES, EventLog, parse_log
from stannary.certify.evidence.quote import Quote, TdBody
from stannary.certify.outcomes import Examination, Step
from stannary.certify.remedies import Code
from stannary.errors import FormatError, LimitExceeded

RTMR_BYTES = 48
RUNTIME_RTMR = 3
_GZIP = b"\x1f\x8b"


def parse_ccel(data: bytes) -> EventLog:
    """Read a CCEL data area, gzip-compressed or plain."""
    return parse_log(inflate(data) if data.startswith(_GZIP) else data)


def inflate(data: bytes) -> bytes:
    """Decompress one gzip member, bounded: a bomb of 10 MiB ends here."""
    engine = zlib.decompressobj(wbits=31)
    try:
        plain = engine.decompress(data, MAX_LOG_BYTES)
    except zlib.error as err:
        raise FormatError("event log is not gzip", why=str(err)) from err
    if engine.unconsumed_tail:
        raise LimitExceeded("event log too large", why=f"more than {MAX_LOG_BYTES:,} bytes when decompressed")
    if not engine.eof or engine.unused_data:
        raise FormatError("event log is not one whole gzip member")
    return plain


def check_replay(exam: Examination, log: EventLog, parsed: Quote) -> None:
    """Compare the replay with RTMR0-3; registers the log never touches must still be zero.

    But for RTMR3: firmware leaves it to the running system, which extends it without writing to firmware's log.
    Nothing is known of it then, and the table says so.
    """
    body = parsed.body
    if not isinstance(body, TdBody):
        exam.refuse("replay", Step.PARSE, Code.UNSUPPORTED, observed="the quote is an enclave's: it has no RTMRs")
        return
    if "sha384" not in log.banks:
        exam.refuse("replay", Step.REPLAY, Code.REPLAY_MISMATCH, observed="the log has no SHA-384 bank")
        return
    replayed = log.replay("sha384")
    replayed.pop(0, None)  # MRTD is measured by the TDX module, not extended from the log
    for index, quoted in enumerate(body.rtmrs):
        if index == RUNTIME_RTMR and index + 1 not in replayed and any(quoted):
            exam.waive(
                f"rtmr{index}", f"extended by the running system without a log: nothing shows by what ({quoted.hex()})"
            )
            continue
        value = replayed.pop(index + 1, bytes(RTMR_BYTES))
        exam.require(
            f"rtmr{index}",
            value == quoted,
            Step.REPLAY,
            Code.REPLAY_MISMATCH,
            observed=f"log gives {value.hex()}",
            expected=quoted.hex(),
        )
    if replayed:
        exam.refuse("registers", Step.REPLAY, Code.REPLAY_MISMATCH, observed=f"log extends {sorted(replayed)}")
    exam.claims["rtmr"] = [quoted.hex() for quoted in body.rtmrs]
    exam.claims["num_events"] = len(log.events)
