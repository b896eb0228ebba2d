"""`python -m stannary.market serve --dir D`: prints one JSON line when ready, logs to D/market.log."""

from __future__ import annotations

import argparse
import logging
import sys
from dataclasses import fields, replace
from pathlib import Path

from stannary import files
from stannary.errors import StannaryError
from stannary.market.settings import Profile, Settings, Timing

LOG_FILE = "market.log"


def main(arguments: list[str] | None = None) -> int:
    """Parse the command line and serve."""
    options = _parser().parse_args(arguments)
    try:
        # here, not above: --help must not import a server
        from stannary.market import identity, server

        directory = options.dir.resolve()
        settings = Settings(
            directory=directory,
            name=identity.name_of(directory, options.name),
            host=options.host,
            port=options.port,
            profile=options.profile,
            witness=not options.no_witness,
            timing=_timing(options.timing),
        )
        files.make_private_dir(settings.directory)
        logging.basicConfig(
            filename=settings.directory / LOG_FILE,
            level=logging.INFO,
            format="%(asctime)s %(levelname)s %(name)s %(message)s",
        )
        server.run(settings)
    except StannaryError as err:
        sys.stderr.write(err.diagnostics() + "\n")
        return err.exit_code
    except KeyboardInterrupt:
        return 0
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m stannary.market", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    serve = commands.add_parser("serve", help="run a market until SIGTERM")
    serve.add_argument("--dir", type=Path, required=True, help="database, log, blobs and keys live here")
    serve.add_argument("--host", default="127.0.0.1", help="any other than loopback is served by TLS")
    serve.add_argument("--port", type=int, default=0, help="0: that of the last start, any free one the first time")
    serve.add_argument("--name", default="", help="the market's name and the log's origin (default: one of its own)")
    serve.add_argument("--profile", type=_profile, default=Profile.LOCAL, help="who may join; only `local` so far")
    serve.add_argument("--no-witness", action="store_true", help="start no witness process beside the market")
    serve.add_argument(
        "--timing", action="append", default=[], metavar="NAME=SECONDS", help="a deadline of market/settings.py"
    )
    return parser


def _profile(text: str) -> Profile:
    if text != Profile.LOCAL:
        # No node of this release shows more than software evidence, and these profiles list none of those.
        raise argparse.ArgumentTypeError(f"{text!r}: only local is offered; others come with hardware certification")
    return Profile.LOCAL


def _timing(given: list[str]) -> Timing:
    known = {item.name for item in fields(Timing)}
    values: dict[str, float] = {}
    for text in given:
        name, _, number = text.partition("=")
        try:
            values[name] = float(number)
        except ValueError:
            raise SystemExit(f"--timing {text}: not NAME=SECONDS") from None
        if name not in known:
            raise SystemExit(f"--timing {name}: known are {', '.join(sorted(known))}")
    return replace(Timing(), **values)


if __name__ == "__main__":
    sys.exit(main())
