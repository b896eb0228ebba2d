"""`python -m stannary.market serve --dir D`: prints one JSON line when ready, logs to D/market.log.

`backup --dir D --to B` makes a whole copy, also of a market that runs; `restore --from B --dir D` puts one back.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import TypeVar

from stannary import files
from stannary.errors import ConflictError, EnvironmentProblem, NotFound, StannaryError
from stannary.jobs.course.state import Timing
from stannary.jobs.retention import Retention
from stannary.market.settings import MarketProfile, Settings

S = TypeVar("S", Timing, Retention)

LOG_FILE = "market.log"
BACKUP_S = 3600.0  # of a large market; the blobs are linked, the database is read once


def main(arguments: list[str] | None = None) -> int:
    """Parse the command line and do what it says."""
    options = _parser().parse_args(arguments)
    if options.command == "serve":
        return _serve(options)
    try:
        _tell(
            _backup(options.dir, options.to) if options.command == "backup" else _restore(options.source, options.dir)
        )
    except StannaryError as err:
        sys.stderr.write(err.diagnostics() + "\n")
        return err.exit_code
    return 0


def _serve(options: argparse.Namespace) -> int:
    try:
        # here, not above: --help must not import a server
        from stannary.market import identity
        from stannary.market.http import server

        directory = options.dir.resolve()
        settings = Settings(
            directory=directory,
            name=identity.name_of(directory, options.name),
            host=options.host,
            port=options.port,
            advertise=options.advertise,
            profile=options.profile,
            witness=not options.no_witness,
            witnesses=tuple(options.witness),
            grade_every_s=options.grade_every,
            timing=_changed(Timing(), "--timing", options.timing),
            retention=_changed(Retention(), "--retention", options.retention),
        )
        settings.check()
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


def _backup(directory: Path, target: Path) -> dict[str, object]:
    from stannary.market import backup
    from stannary.store import engine

    directory, target = directory.resolve(), target.resolve()
    if not (directory / backup.DATABASE).exists():
        raise NotFound("no market lies here", why=f"{directory}", hint="name its directory: --dir D")
    try:
        held = engine.lock(directory / backup.DATABASE)
    except ConflictError:  # it runs: it knows best when it holds still
        return _ask(directory, target)
    with held:
        return {"backup": str(target), **asdict(backup.make_of_stopped(directory, target))}


def _ask(directory: Path, target: Path) -> dict[str, object]:
    from stannary.files import Secret
    from stannary.wire import admin, message, routes
    from stannary.wire.card import read_card
    from stannary.wire.connection import Connection

    card = read_card(directory)
    if card is None:
        raise EnvironmentProblem("the market is starting or stopping", why=f"{directory}", hint="try again in a moment")
    token = Secret(Path(card.admin_token_file).read_text(encoding="ascii").strip())
    asked = admin.BackupRequest(directory=str(target)).to_bytes()
    headers = {"Content-Type": "application/json"}
    with Connection(card.here, token=token, tls_fingerprint=card.tls_fingerprint, vkey=card.vkey) as link:
        answer = link.send("POST", routes.ADMIN_BACKUP, content=asked, headers=headers, wait_s=BACKUP_S)
    made = message.read(admin.BackupMade, answer.content)
    return {"backup": str(target), **made.model_dump()}


def _restore(source: Path, directory: Path) -> dict[str, object]:
    from stannary.market import backup

    made = backup.restore(source.resolve(), directory.resolve())
    return {"directory": str(directory.resolve()), **asdict(made)}


def _tell(made: dict[str, object]) -> None:
    sys.stdout.write(json.dumps(made) + "\n")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m stannary.market", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    serve = commands.add_parser("serve", help="run a market until SIGTERM")
    serve.add_argument("--dir", type=Path, required=True, help="database, log, blobs and keys live here")
    serve.add_argument("--host", default="127.0.0.1", help="any other than loopback is served by TLS")
    serve.add_argument(
        "--advertise", default="", help="the address others dial, where --host is 0.0.0.0, :: or behind NAT"
    )
    serve.add_argument("--port", type=int, default=0, help="0: that of the last start, any free one the first time")
    serve.add_argument("--name", default="", help="the market's name and the log's origin (default: one of its own)")
    serve.add_argument(
        "--profile", type=_profile, default=MarketProfile.LOCAL, help="who may join; only `local` so far"
    )
    serve.add_argument(
        "--witness", action="append", default=[], metavar="KEY@URL[#SHA256]",
        help="a witness somebody else runs, to be asked as well (repeatable); SHA256 pins its certificate",
    )  # fmt: skip
    serve.add_argument(
        "--grade-every",
        type=float,
        default=0.0,
        metavar="SECONDS",
        help="measure what nodes' processors do, when they join and about so often; 0: never, each counts as 1 SCU",
    )
    serve.add_argument("--no-witness", action="store_true", help="start no witness process beside the market")
    serve.add_argument(
        "--timing", action="append", default=[], metavar="NAME=SECONDS", help="a deadline of market/settings.py"
    )
    serve.add_argument(
        "--retention", action="append", default=[], metavar="NAME=SECONDS",
        help="how long a job's bytes are kept: ended_s behind its end, void_s what it made in vain; inf: for ever",
    )  # fmt: skip
    save = commands.add_parser("backup", help="copy a market whole, keys included, whether it runs or not")
    save.add_argument("--dir", type=Path, required=True, help="the market's directory")
    save.add_argument("--to", type=Path, required=True, help="a folder that is empty or not there")
    back = commands.add_parser("restore", help="put a backup into an empty directory")
    back.add_argument("--from", dest="source", type=Path, required=True, help="the backup's folder")
    back.add_argument("--dir", type=Path, required=True, help="the market's new directory")
    return parser


def _profile(text: str) -> MarketProfile:
    if text != MarketProfile.LOCAL:
        # No node of this release shows more than software evidence, and these profiles list none of those.
        raise argparse.ArgumentTypeError(f"{text!r}: only local is offered; others come with hardware certification")
    return MarketProfile.LOCAL


def _changed(default: S, option: str, given: list[str]) -> S:
    """Return figures with those changed that NAME=SECONDS words name."""
    known = {item.name for item in fields(default)}
    values: dict[str, float] = {}
    for text in given:
        name, _, number = text.partition("=")
        try:
            values[name] = float(number)
        except ValueError:
            raise SystemExit(f"{option} {text}: not NAME=SECONDS") from None
        if name not in known:
            raise SystemExit(f"{option} {name}: known are {', '.join(sorted(known))}")
    return replace(default, **values)


if __name__ == "__main__":
    sys.exit(main())
