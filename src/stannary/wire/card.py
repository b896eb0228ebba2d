"""market.json: what a running market writes into its directory for those on the same machine.

One line of JSON, replaced whole. It holds no secret but the path of one. Who reads it must look whether the
process still runs: a market that was killed leaves its card behind.
"""

from __future__ import annotations

import json
import shlex
from dataclasses import dataclass
from pathlib import Path

from stannary.errors import EnvironmentProblem, StannaryError
from stannary.formats import canonical, record

CARD_FILE = "market.json"


@dataclass(frozen=True, slots=True)
class Card:
    """What market.json says; written when the market is ready."""

    url: str
    name: str
    vkey: str
    witness_vkeys: tuple[str, ...]
    tls_fingerprint: str
    pid: int
    admin_token_file: str
    local_url: str | None = None  # where it answers on its own machine, if others dial another address

    @property
    def here(self) -> str:
        """The address to dial from the market's own machine."""
        return self.local_url or self.url

    def add_command(self) -> str:
        """Return the line by which a buyer adds this market; it then asks for his API token."""
        words = ["stannary", "market", "add", self.url, "--key", self.vkey]
        words += [word for key in self.witness_vkeys for word in ("--witness", key)]
        words += ["--tls-pin", self.tls_fingerprint] if self.tls_fingerprint else []
        return shlex.join(words)

    def line(self) -> str:
        """Return the card as one JSON line."""
        return json.dumps(record.to_json(self))


def read_card(directory: Path) -> Card | None:
    """Return the card in a market's directory, None if there is none; it may be stale.

    Raises:
        EnvironmentProblem: it cannot be read as a card.
    """
    path = directory / CARD_FILE
    try:
        return record.from_json(Card, canonical.decode_object(path.read_bytes()))
    except FileNotFoundError:
        return None
    except StannaryError as err:
        raise EnvironmentProblem("the market's card is damaged", why=f"{path}: {err}", hint=f"rm {path}") from err
