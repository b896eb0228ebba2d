"""`stannary market add|ls|use|rm`: the markets this buyer knows, and which one commands use."""

from __future__ import annotations

import re
import sys

import click

from stannary.cli.command import command
from stannary.cli.output import Output, plain
from stannary.errors import AuthError, ConflictError, MarketUnreachable, UsageError
from stannary.files import Secret
from stannary.sdk import brokers, local, trustfile
from stannary.sdk import profile as profiles
from stannary.sdk.client import Client
from stannary.sdk.profile import Profile, Settings
from stannary.verify import trust
from stannary.verify.trust import TrustedMarket
from stannary.wire import routes
from stannary.wire.connection import Connection
from stannary.wire.market import MarketInfo

DEFAULT_NAME = "default"


@command
@click.argument("url")
@click.option("--key", required=True, help="The market's verifier key, from its operator.")
@click.option("--witness", "witnesses", multiple=True, metavar="KEY", help="A witness's verifier key.")
@click.option("--tls-pin", default="", help="SHA-256 of the market's certificate, hex.")
@click.option("--name", "wanted", default="", help="Name of the profile (default: `default`, or the market's name).")
def add(out: Output, url: str, key: str, witnesses: tuple[str, ...], tls_pin: str, wanted: str) -> None:
    """Use a market, by the line its operator prints with `stannary market card`. The API token is read from stdin.

    The market is asked before anything is written: it must have this key and certificate and know the token.
    Key and witnesses are pinned for `stannary verify`, and the market becomes the default.
    """
    pinned = trust.pin(key, witnesses)
    name = _profile_name(wanted, pinned)
    trustfile.load().with_market(pinned)  # raises where another key is pinned under this name
    token = _token(out)
    info = _asked(url, key, tls_pin)
    pinned = trust.pin(key, _witnesses(info, witnesses))
    known = Profile(name, url.rstrip("/"), key, pinned.witnesses, tls_pin.lower())
    if token is not None:
        with Client.open(Settings(known, token, profiles.token_path(name), {})) as client:
            next(client.jobs(1), None)
    trustfile.pin(pinned)
    profiles.store(known, token, make_default=True)
    value = {"profile": name, "url": known.url, "market": pinned.name, "witnesses": list(pinned.witnesses)}
    out.result(value, f"profile {name}: {pinned.name} at {known.url}, now the default")
    if token is None:
        out.say("No API token was given: receipts can be verified, jobs cannot be run. Add it with the same command.")


@command
def ls(out: Output) -> None:
    """List the markets this buyer knows; `*` marks the one commands use. Nothing is asked over the network."""
    config = profiles.load(profiles.config_path())
    used = config.default or profiles.LOCAL
    names = [*config.profiles, *([profiles.LOCAL] if profiles.LOCAL not in config.profiles else [])]
    found = []
    for name in names:
        market = config.profiles.get(name) or Profile(name)
        settings = Settings(market, None, profiles.token_path(name), {})  # the token is not read: none hides this list
        directory = local.of_profile(market)
        found.append(
            {
                "profile": name,
                "default": name == used,
                "url": market.url or None,
                "market": market.vkey.partition("+")[0] or None,
                "has_token": settings.token_file.is_file(),
                "open_jobs": len(brokers.open_jobs(settings)),
                "dir": str(directory) if directory is not None else None,
            }
        )
    rows = [
        (
            f"{'*' if item['default'] else ' '} {item['profile']}",
            plain(str(item["market"] or "-")),
            plain(str(item["url"] or "not started yet")),
            "yes" if item["has_token"] else "no",
            str(item["open_jobs"]),
        )
        for item in found
    ]
    out.table(("  PROFILE", "MARKET", "ADDRESS", "TOKEN", "OPEN"), rows, {"default": used, "markets": found})


@command
@click.argument("name")
def use(out: Output, name: str) -> None:
    """Make NAME the market that commands use; `local` is the private one on this machine."""
    profiles.use(name)
    out.result({"default": name}, f"commands use {name}")


@command
@click.argument("name")
@click.option("--yes", is_flag=True, help="Also while its jobs are open: nobody answers for them then.")
def rm(out: Output, name: str, yes: bool) -> None:
    """Forget the market NAME and its token. Its keys stay pinned, so that its receipts still verify."""
    known = profiles.load(profiles.config_path()).profiles.get(name)
    num_open = len(brokers.open_jobs(profiles.resolve(name, {}))) if known is not None else 0
    if num_open and not yes:
        raise ConflictError(
            f"jobs are open at {name}",
            why=f"{num_open} jobs need the broker of this profile until they end",
            hint=f"stannary --profile {name} ls, or add --yes",
        )
    removed = profiles.remove(name)
    brokers.stop(brokers.home(name))
    directory = local.of_profile(removed)
    value = {"removed": name, "default": profiles.load(profiles.config_path()).default or profiles.LOCAL}
    out.result(value, f"removed {name}; commands use {value['default']}")
    if directory is not None and directory.is_dir():
        out.say(f"its market's data stays in {directory}")
    market = removed.vkey.partition("+")[0]
    if market:
        out.say(f"its keys stay pinned; to distrust its receipts: stannary trust rm {market}")


def _profile_name(wanted: str, pinned: TrustedMarket) -> str:
    """Return a name that takes no other market's place."""
    if wanted == profiles.LOCAL:
        raise UsageError("not a profile name", why="local is the private market of this machine", hint="--name NAME")
    known = profiles.load(profiles.config_path()).profiles
    if wanted:
        if wanted in known and known[wanted].vkey != pinned.vkey:
            raise ConflictError(
                f"the profile {wanted} is another market's",
                why=f"{known[wanted].url}, {known[wanted].vkey:.60}",
                hint=f"choose another --name, or: stannary market rm {wanted}",
            )
        return wanted
    if DEFAULT_NAME not in known or known[DEFAULT_NAME].vkey == pinned.vkey:
        return DEFAULT_NAME
    base = re.sub(r"[^A-Za-z0-9._-]", "-", pinned.name)[:50].lstrip("._-") or "market"
    names = [base, *(f"{base}-{number}" for number in range(2, 1000))]
    return next(name for name in names if name not in known or known[name].vkey == pinned.vkey)


def _token(out: Output) -> Secret | None:
    """Read the API token: a hidden prompt on a terminal, else the first line of standard input."""
    if sys.stdin is None:
        return None
    if sys.stdin.isatty() and out.is_terminal:
        word = str(click.prompt("API token of your account, from the market's operator", hide_input=True, err=True))
    else:
        word = sys.stdin.readline(4096)
    return Secret(word.strip()) if word.strip() else None


def _asked(url: str, key: str, tls_pin: str) -> MarketInfo:
    """Return what the market says of itself, once it has shown the certificate and the key it was named by."""
    if tls_pin and re.fullmatch(r"[0-9a-fA-F]{64}", tls_pin) is None:
        raise UsageError(
            "not a certificate's SHA-256", why=f"{tls_pin!r:.80}, expected 64 hex digits", hint="--tls-pin"
        )
    try:
        with Connection(url, tls_fingerprint=tls_pin.lower(), vkey=key) as link:
            info = link.get(routes.MARKET, MarketInfo)
    except (MarketUnreachable, AuthError) as err:
        err.hint = "compare with the line that `stannary market card` prints, and see that the market runs"
        raise
    if info.vkey != key:
        raise AuthError(
            "this is not the market of the key",
            why=f"{url} says its key is {plain(info.vkey):.100}, given is {key:.100}",
            hint="ask its operator for the line that `stannary market card` prints",
        )
    return info


def _witnesses(info: MarketInfo, given: tuple[str, ...]) -> tuple[str, ...]:
    """Return the witnesses to pin: those given, which must cosign this market's log, else those it names.

    A pin of a witness only ever asks for more: what the market itself names adds nothing it could abuse.
    """
    foreign = [item for item in given if item not in info.witness_vkeys]
    if foreign:
        raise UsageError(
            "this witness does not cosign the market's log",
            why=f"{foreign[0]:.100}; it names {', '.join(plain(item) for item in info.witness_vkeys) or 'none'}"[:400],
            hint="ask its operator for the line that `stannary market card` prints",
        )
    return given or tuple(info.witness_vkeys)
