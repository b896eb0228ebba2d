"""`python -m stannary.broker`: run the buyer's broker for one market.

The API token comes from a 0600 file or from STANNARY_TOKEN, never from the command line, where other
accounts read it. Who starts it for a profile, and finds it again, is sdk/brokers.py.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from pathlib import Path

from stannary import buyer, files
from stannary.broker.daemon import Broker, Settings
from stannary.broker.reveal import PinnedKeys
from stannary.errors import AuthError, StannaryError


def main(arguments: list[str] | None = None) -> int:
    """Run until SIGTERM or SIGINT; return the exit code."""
    options = _parser().parse_args(arguments)
    try:
        settings = Settings(
            directory=options.dir or buyer.root(),
            url=options.url,
            token=_token(options.token_file),
            anchors=PinnedKeys(options.market_key, tuple(options.witness_key)),
            tls_fingerprint=options.tls_pin,
            idle_exit_s=options.idle_exit,
            account=options.account,
            home=options.home,
        )
        broker = Broker(settings)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: broker.stop())
        broker.run()
    except StannaryError as err:
        sys.stderr.write(err.diagnostics() + "\n")
        return err.exit_code
    return 0


def _token(path: Path | None) -> files.Secret:
    if path is not None:
        return files.Secret(files.read_secret(path).decode("ascii").strip())
    if not os.environ.get("STANNARY_TOKEN"):
        raise AuthError("the broker has no API token", why="neither --token-file nor STANNARY_TOKEN is given")
    return files.Secret(os.environ["STANNARY_TOKEN"])


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m stannary.broker", description=__doc__)
    parser.add_argument("--url", required=True, help="the market's address")
    parser.add_argument("--market-key", required=True, help="the market's verifier key, as pinned")
    parser.add_argument("--witness-key", action="append", default=[], help="a witness's verifier key (repeatable)")
    parser.add_argument("--token-file", type=Path, help="file with the API token, mode 600 (default: STANNARY_TOKEN)")
    parser.add_argument("--tls-pin", default="", help="SHA-256 of the market's certificate, hex")
    parser.add_argument("--dir", type=Path, help="the buyer's directory")
    parser.add_argument("--idle-exit", type=float, default=0.0, help="end after so many seconds without a job")
    parser.add_argument("--account", default="", help="serve the jobs of this profile only")
    parser.add_argument("--home", type=Path, help="where who starts brokers keeps its lock and record")
    return parser


if __name__ == "__main__":
    sys.exit(main())
