"""Brings a database to the newest schema when it is opened.

All steps missing run in one transaction: a process killed in the middle leaves the old schema whole.
A database written by a newer release is refused, never guessed at.
"""

from __future__ import annotations

from pathlib import Path

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.util.exc import CommandError

from stannary.errors import EnvironmentProblem

SCRIPTS = Path(__file__).with_name("migrations")


def upgrade(engine: sa.Engine, *, to: str = "head") -> None:
    """Run every migration that `engine`'s database lacks, up to revision `to`.

    Raises:
        EnvironmentProblem: a newer release wrote the database.
    """
    config = Config()
    config.set_main_option("script_location", str(SCRIPTS).replace("%", "%%"))  # configparser's escape
    with engine.connect() as connection, connection.begin():
        config.attributes["connection"] = connection
        try:
            command.upgrade(config, to)
        except CommandError as error:
            raise EnvironmentProblem(
                "the market's database is from a newer stannary",
                why=str(error),
                hint="install the newer release again, or start a market in an empty directory",
            ) from error
