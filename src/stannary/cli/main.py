"""The process edge: parse, run one command, turn every outcome into an exit code.

    0 ok  1 error  2 usage  3 refuted  4 below policy  5 no capacity  6 auth
    100 failed  101 not finished  102 not found  103 cancelled  130 interrupted (docs/errors.md)

STANNARY_DEBUG=1 shows tracebacks.
"""

from __future__ import annotations

import os
import sys
import traceback
from typing import Any

import click

from stannary.cli.lazy import LazyGroup
from stannary.cli.output import Output
from stannary.cli.registry import COMMANDS
from stannary.errors import AuthError, EnvironmentProblem, Interrupted, MarketUnreachable, StannaryError, UsageError

# Which extra of pyproject.toml brings a package that only some commands need.
EXTRAS = {
    **dict.fromkeys(("blake3", "obstore", "pyrage", "safetensors", "zstandard"), "seal"),
    **dict.fromkeys(("dcap_qvl", "lxml", "numpy"), "certify"),
    **dict.fromkeys(("alembic", "fastapi", "sqlalchemy", "uvicorn"), "market"),
    "torch": "train",
}


@click.group(cls=LazyGroup, table=COMMANDS, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--profile", metavar="NAME", help="Market profile to use (default: STANNARY_PROFILE, then config.toml).")
@click.version_option(package_name="stannary", message="%(prog)s %(version)s")
@click.pass_context
def cli(context: click.Context, profile: str | None) -> None:
    """Run AI jobs on machines you do not own, and get back proof.

    \b
    First job, no account:   stannary run --example hello
    Check a receipt:         stannary verify JOB.receipt.json
    """
    context.ensure_object(dict)["profile"] = profile


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and exit."""
    _fill_standard_streams()
    sys.exit(run(arguments))


def run(arguments: list[str] | None = None) -> int:
    """Run the command line and return the exit code; with --json stdout holds one document, whatever happens."""
    shared: dict[str, Any] = {"arguments": sys.argv[1:] if arguments is None else arguments}
    try:
        outcome = cli.main(args=arguments, prog_name="stannary", standalone_mode=False, obj=shared)
    except StannaryError as err:
        return _fail(shared, err)
    except click.UsageError as err:
        return _fail(shared, _usage_error(err))
    except (click.exceptions.Abort, KeyboardInterrupt):
        return _fail(shared, Interrupted("interrupted", hint="run the same command again"))
    except (BrokenPipeError, SystemExit):  # SystemExit is click's own for the help
        return 0  # `stannary logs J -f | head`: the reader has enough
    except Exception as err:  # noqa: BLE001  the process edge: a bug is reported like any failure
        return _fail(shared, _unexpected(err))
    return outcome if isinstance(outcome, int) else 0


def _fill_standard_streams() -> None:
    """Take the places of streams the caller closed (`>&-`): the next file opened must not become standard output."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest free number


def _out(shared: dict[str, Any]) -> Output:
    out = shared.get("out")
    if isinstance(out, Output):
        return out
    words = list(shared["arguments"])  # the command did not come so far as to read its options
    return Output(as_json="--json" in (words[: words.index("--")] if "--" in words else words))


def _fail(shared: dict[str, Any], err: StannaryError) -> int:
    if os.environ.get("STANNARY_DEBUG") == "1":
        traceback.print_exception(err)
    if isinstance(err, MarketUnreachable | AuthError):
        # here, not above: the help must not import what reads profiles
        from stannary.cli import session

        err.hint = session.way_back(err, shared.get("profile"))
    _out(shared).error(err)
    return err.exit_code


def _usage_error(err: click.UsageError) -> UsageError:
    path = err.ctx.command_path if err.ctx else "stannary"
    return UsageError(err.format_message().rstrip("."), why="the command line does not parse", hint=f"{path} --help")


def _not_installed(package: str) -> EnvironmentProblem:
    """A package of an extra that is not here is no bug: say which extra brings it."""
    extra = EXTRAS[package]
    return EnvironmentProblem(
        "this command needs more than the client",
        why=f"{package} is not installed",
        hint=f"pip install 'stannary[{extra}]', in a checkout: pip install '.[{extra}]'",
    )


def _unexpected(err: Exception) -> StannaryError:
    if isinstance(err, OSError):  # this machine said no: full, read-only, gone, in the way
        named = " and ".join(str(name) for name in (err.filename, err.filename2) if name is not None)
        return EnvironmentProblem(
            f"this machine refuses: {err.strerror or type(err).__name__}",
            why=named or str(err)[:300],
            hint="mend that (space, rights, the place itself), then run the same command again",
        )
    package = (err.name or "").partition(".")[0] if isinstance(err, ModuleNotFoundError) else ""
    if package in EXTRAS:
        return _not_installed(package)
    wrapped = StannaryError(
        "unexpected failure, a bug of ours",
        why=f"{type(err).__name__}: {err}"[:300],
        hint="STANNARY_DEBUG=1 shows the traceback; please report it",
    )
    wrapped.__cause__ = err
    return wrapped


if __name__ == "__main__":
    main()
