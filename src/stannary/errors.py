"""The one error tree.

    StannaryError                     E-GENERAL      exit 1
    ├── UsageError                    E-USAGE        exit 2    the caller asked for something that cannot be
    │   ├── SpecError                 E-SPEC         exit 2    a job spec, policy or flag that does not parse
    │   └── ConfirmationRequired      E-CONFIRM      exit 2    a prompt was needed and there is no terminal
    ├── FormatError                   E-FORMAT       exit 1    bytes that are not what they claim to be
    │   ├── LimitExceeded             E-LIMIT        exit 1    a named size, depth or count limit was passed
    │   └── UnsupportedFormat         E-UNSUPPORTED  exit 1    a version or algorithm we do not know
    ├── Refuted                       E-REFUTED      exit 3    a signature, proof or recomputation says no
    ├── BelowPolicy                   E-POLICY       exit 4    perhaps true, not enough for the policy (or unknown log)
    ├── NoCapacity                    E-CAPACITY     exit 5    no node at that trust level and price
    ├── AuthError                     E-AUTH         exit 6    unknown, expired or replayed credentials
    ├── ServiceError                  E-SERVICE      exit 1    another process did not answer as it must
    │   └── MarketUnreachable         E-MARKET-DOWN  exit 1
    ├── ConflictError                 E-CONFLICT     exit 1    idempotency key reused, stale epoch, state moved on
    ├── NotFound                      E-NOT-FOUND    exit 102
    ├── JobFailed                     E-JOB-FAILED   exit 100
    ├── JobNotFinished                E-JOB-RUNNING  exit 101
    ├── JobCancelled                  E-JOB-CANCELLED exit 103
    ├── Interrupted                   E-INTERRUPTED  exit 130  Ctrl-C; 128 + SIGINT, as shells report it
    └── EnvironmentProblem            E-ENVIRONMENT  exit 1    this machine lacks something (disk, bwrap, torch)

Every error is three lines for people: what failed, why with the observed value, the exact next
command. A *failed verification is data* (findings) wherever more than one thing can be wrong;
exceptions are for malformed input, failed I/O and process edges.

Codes are stable; `docs/errors.md` lists them. HTTP bodies carry the same fields (wire/errors.py).
"""

from __future__ import annotations

from typing import ClassVar


class StannaryError(Exception):
    """Root of all errors raised on purpose.

    Args:
        what: what failed, one line, no trailing full stop.
        why: the reason, with the observed value.
        hint: the exact next command or change, empty if there is none.
        detail: a stable word for programs that must tell cases of one code apart (`stale-epoch`),
            or the name of the member at fault; empty if there is none.
    """

    code: ClassVar[str] = "E-GENERAL"
    exit_code: ClassVar[int] = 1
    http_status: ClassVar[int] = 500

    def __init__(self, what: str, *, why: str = "", hint: str = "", detail: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.why = why
        self.hint = hint
        self.detail = detail

    def __str__(self) -> str:
        return self.what if not self.why else f"{self.what}: {self.why}"

    def diagnostics(self) -> str:
        """Return the three lines printed to people on stderr."""
        lines = [f"{self.code}  {self.what}"]
        if self.why:
            lines.append(f"  why   {self.why}")
        if self.hint:
            lines.append(f"  next  {self.hint}")
        return "\n".join(lines)


class UsageError(StannaryError):
    """The caller asked for something that cannot be."""

    code = "E-USAGE"
    exit_code = 2
    http_status = 400


class SpecError(UsageError):
    """A job spec, policy or flag that does not parse."""

    code = "E-SPEC"


class ConfirmationRequired(UsageError):
    """A prompt was needed and there is no terminal; the hint names the flag."""

    code = "E-CONFIRM"


class FormatError(StannaryError):
    """Bytes that are not what they claim to be."""

    code = "E-FORMAT"
    http_status = 400


class LimitExceeded(FormatError):
    """A named size, depth or count limit was passed."""

    code = "E-LIMIT"
    http_status = 413


class UnsupportedFormat(FormatError):
    """Well formed perhaps, but of a version or algorithm we do not know."""

    code = "E-UNSUPPORTED"


class Refuted(StannaryError):
    """A signature, proof or recomputation says no."""

    code = "E-REFUTED"
    exit_code = 3
    http_status = 422


class BelowPolicy(StannaryError):
    """True perhaps, but not enough for the policy asked for; an unknown log is this too."""

    code = "E-POLICY"
    exit_code = 4
    http_status = 403


class NoCapacity(StannaryError):
    """No node satisfies the hard masks at the price asked for."""

    code = "E-CAPACITY"
    exit_code = 5
    http_status = 409


class AuthError(StannaryError):
    """Unknown, expired or replayed credentials."""

    code = "E-AUTH"
    exit_code = 6
    http_status = 401


class ServiceError(StannaryError):
    """Another process did not answer as it must."""

    code = "E-SERVICE"
    http_status = 502


class MarketUnreachable(ServiceError):
    """The market's address gives no answer."""

    code = "E-MARKET-DOWN"


class ConflictError(StannaryError):
    """The state has moved on: idempotency key reused with another payload, stale epoch, closed window."""

    code = "E-CONFLICT"
    http_status = 409


class NotFound(StannaryError):
    """The named thing does not exist here."""

    code = "E-NOT-FOUND"
    exit_code = 102
    http_status = 404


class JobFailed(StannaryError):
    """The job ended without its result, or its program did not end well."""

    code = "E-JOB-FAILED"
    exit_code = 100


class JobNotFinished(StannaryError):
    """The job has not ended yet."""

    code = "E-JOB-RUNNING"
    exit_code = 101
    http_status = 409


class JobCancelled(StannaryError):
    """The job was cancelled."""

    code = "E-JOB-CANCELLED"
    exit_code = 103


class Interrupted(StannaryError):
    """The person at the terminal ended the command."""

    code = "E-INTERRUPTED"
    exit_code = 130


class EnvironmentProblem(StannaryError):
    """This machine lacks something: disk space, bubblewrap, torch, a port."""

    code = "E-ENVIRONMENT"


def by_code(code: str) -> type[StannaryError]:
    """Return the class with the stable `code`, StannaryError itself for an unknown one."""
    pending: list[type[StannaryError]] = [StannaryError]
    while pending:
        cls = pending.pop()
        if cls.code == code:
            return cls
        pending.extend(cls.__subclasses__())
    return StannaryError
