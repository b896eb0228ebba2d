"""`stannary config`: what is configured, and where each value came from."""

from __future__ import annotations

import click

from stannary.cli import session
from stannary.cli.command import command
from stannary.cli.lazy import LazyGroup
from stannary.cli.output import Output
from stannary.sdk import profile, trustfile


@click.group(cls=LazyGroup)
def config() -> None:
    """Show the configuration."""


@command
@click.option("--origin", is_flag=True, help="Say where each value came from.")
def show(out: Output, origin: bool) -> None:
    """Show the values in use. Tokens are never shown."""
    settings = session.settings()
    used = settings.profile
    values = {
        "profile": used.name,
        "url": used.url or "(none)",
        "token": "***" if settings.token else "(none)",
        "vkey": used.vkey or "(none)",
        "witness_vkeys": ", ".join(used.witness_vkeys) or "(none)",
        "tls_pin": used.tls_pin or "(none)",
    }
    lines: list[str] = []
    for name, value in values.items():
        lines.append(f"{name:<15}{value}")
        lines += [f"{'':<15}({settings.origins[name]})"] if origin else []
    files_used = {"config": str(profile.config_path()), "trust": str(trustfile.path())}
    out.result({"values": values, "origins": dict(settings.origins), "files": files_used}, lines)


config.add_command(show)
