"""What every HTTP body has in common: a frozen, strict pydantic model and the types of its members.

Rules:
1. Unknown members are refused, types are exact (`"1"` is no integer), every string and number is bounded, and every
   list a client sends; a list in an answer ends where the answer does. What is also signed has its bound from
   formats/bounds.py: one name, one bound (tests/unit/wire/test_bounds.py names what only shares a name).
2. Bodies are read with `read` from the bytes received, after the size limit; what does not fit, or names a
   member twice, is one FormatError naming the member, whatever the bytes are.
3. Signed things travel as DSSE envelopes inside bodies (`EnvelopeBody`); the bytes that were signed
   are kept and never re-serialised. Fractions are decimal strings.
"""

from __future__ import annotations

from typing import Annotated, Any, TypeVar, cast

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from stannary.errors import FormatError, LimitExceeded
from stannary.formats import bounds, canonical, dsse
from stannary.formats.canonical import Json
from stannary.wire import limits

M = TypeVar("M", bound="Message")

MAX_LANE_PREFIX = len("l99999/")  # before an output's name where several lanes have outputs


def _day(text: str) -> str:
    """Refuse a day no calendar has."""
    if not bounds.TIME.fits(text):
        raise ValueError(f"expected {bounds.TIME.expected}")
    return text


Word = Annotated[str, StringConstraints(pattern=bounds.WORD.anchored)]
Name = Annotated[str, StringConstraints(min_length=1, max_length=200)]
Shown = Annotated[str, StringConstraints(min_length=1, max_length=bounds.MAX_SHOWN_CHARS)]  # by `bounds.shown`
OperatorText = Annotated[str, StringConstraints(pattern=bounds.OPERATOR.anchored)]
NodeName = Annotated[str, StringConstraints(pattern=f"^(?:{bounds.NAME.pattern})?$")]  # its operator's, for people
AccountText = Annotated[str, StringConstraints(pattern=bounds.ACCOUNT.anchored)]
PathText = Annotated[str, StringConstraints(min_length=1, max_length=bounds.PATH_CHARS)]
OutputText = Annotated[str, StringConstraints(min_length=1, max_length=bounds.PATH_CHARS + MAX_LANE_PREFIX)]
Text = Annotated[str, StringConstraints(max_length=4096)]
LongText = Annotated[str, StringConstraints(max_length=limits.MAX_LOG_TAIL_CHARS)]
Said = Annotated[Text, AfterValidator(bounds.printable)]  # by a stranger, in his own words: kept, made harmless
LongSaid = Annotated[LongText, AfterValidator(bounds.printable)]
Decimal = Annotated[str, StringConstraints(pattern=bounds.DECIMAL.anchored)]
Hex32 = Annotated[str, StringConstraints(pattern=bounds.HEX32.anchored)]
Base64Signature = Annotated[str, StringConstraints(min_length=88, max_length=88)]
DigestText = Annotated[str, StringConstraints(pattern=bounds.DIGEST.anchored)]
NodeText = Annotated[str, StringConstraints(pattern=bounds.NODE.anchored)]
JobText = Annotated[str, StringConstraints(pattern=bounds.JOB.anchored)]
EndedText = Annotated[str, StringConstraints(pattern=bounds.ENDED.anchored)]
TaskText = Annotated[str, StringConstraints(pattern=bounds.TASK.anchored)]
AuditText = Annotated[str, StringConstraints(pattern=bounds.AUDIT.anchored)]
LeaseText = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]{1,64}$")]
Instant = Annotated[str, StringConstraints(pattern=bounds.INSTANT.anchored), AfterValidator(_day)]
UsdMicros = Annotated[int, Field(ge=-bounds.MAX_INTEGER, le=bounds.MAX_INTEGER)]
Money = Annotated[int, Field(ge=bounds.MONEY.low, le=bounds.MONEY.high)]  # of one movement
Count = Annotated[int, Field(ge=bounds.COUNT.low, le=bounds.COUNT.high)]
Seconds = Annotated[float, Field(ge=0, le=86_400)]
WaitS = Annotated[float, Field(ge=0, le=limits.MAX_WAIT_S)]
Ask = Annotated[int, Field(ge=bounds.ASK.low, le=bounds.ASK.high)]
Cpus = Annotated[int, Field(ge=bounds.CPUS.low, le=bounds.CPUS.high)]
MemoryBytes = Annotated[int, Field(ge=bounds.MEMORY_BYTES.low, le=bounds.MEMORY_BYTES.high)]
Epoch = Annotated[int, Field(ge=bounds.EPOCH.low, le=bounds.EPOCH.high)]


class Message(BaseModel):
    """A body of the protocol."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, ser_json_inf_nan="constants")

    def to_bytes(self) -> bytes:
        """Return the JSON bytes of this body, absent members left out."""
        return self.model_dump_json(exclude_none=True).encode("utf-8")

    def to_json(self) -> dict[str, Any]:
        """Return the body as JSON members, absent ones left out (for `json=` of an HTTP client)."""
        return self.model_dump(mode="json", exclude_none=True)


class SignatureBody(Message):
    """One signature of an envelope."""

    keyid: Name
    sig: Base64Signature


class EnvelopeBody(Message):
    """A DSSE envelope in a body."""

    payload: Annotated[str, StringConstraints(max_length=limits.MAX_ENVELOPE_BODY_BYTES)]
    payloadType: Name  # noqa: N815  DSSE's own spelling
    signatures: Annotated[list[SignatureBody], Field(min_length=1, max_length=dsse.MAX_SIGNATURES)]

    @classmethod
    def of(cls, envelope: dsse.Envelope) -> EnvelopeBody:
        """Wrap an envelope for sending."""
        return cls.model_validate(envelope.to_json())

    def open(self) -> dsse.Envelope:
        """Return the envelope; its signature is not yet checked.

        Raises:
            FormatError: base64 that is not canonical, a signature of the wrong length.
        """
        return dsse.parse(cast("Json", self.model_dump(mode="json")))


class Signed(Message):
    """A body that is one signed statement (commitment, contribution, answer, reveal, reading, job)."""

    envelope: EnvelopeBody

    @classmethod
    def of(cls, envelope: dsse.Envelope) -> Signed:
        """Wrap an envelope for sending."""
        return cls(envelope=EnvelopeBody.of(envelope))


def read(cls: type[M], body: bytes, *, max_bytes: int = limits.MAX_BODY_BYTES) -> M:
    """Read a body of `cls` from the bytes received.

    Raises:
        LimitExceeded: more than `max_bytes`.
        FormatError: not JSON, or members that are unknown, missing, doubled, ill-typed or out of bounds.
    """
    if len(body) > max_bytes:
        raise LimitExceeded(f"{cls.__name__} is too large", why=f"{len(body):,} bytes, limit {max_bytes:,}")
    try:
        canonical.check_members(body)
    except FormatError as err:
        raise FormatError(f"the message is not a {cls.__name__}", why=f"{err.what}: {err.why}"[:500]) from err
    try:
        return cls.model_validate_json(body)
    except ValidationError as err:
        first = err.errors(include_url=False, include_input=False, include_context=False)[0]
        place = ".".join(str(part) for part in first["loc"])
        raise FormatError(
            f"the message is not a {cls.__name__}", why=f"{place or 'body'}: {first['msg']}"[:500], detail=place[:200]
        ) from err
