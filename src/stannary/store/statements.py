"""Statements of the hot paths, given to the driver as they are: a read of few words, an INSERT of many rows.

Rules:
- As few statements as can be. sqlite3 lets go of the interpreter lock for each step of one, and the
  writer has to win it back from the threads that serve requests: executemany takes a step a row, an
  INSERT of 128 rows takes one. That, and rows as plain tuples without the expression layer, is the
  difference between 3,000 durable submits a second and the figure of bench/durable_submits.py.
- Errors are the driver's (`sqlite3.Error`); the writer knows them beside SQLAlchemy's.
"""

from __future__ import annotations

import itertools
import sqlite3
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.dialects import sqlite
from sqlalchemy.engine import Connection

# Any number of rows in few steps; each size of each table stays prepared (engine.CACHED_STATEMENTS).
ROWS_A_STEP = (128, 64, 32, 16, 8, 4, 2, 1)  # 128 rows of 20 columns < 32,766 parameters


def run(connection: Connection, text: str, values: Sequence[object] = ()) -> sqlite3.Cursor:
    """Run one statement with `?` parameters in the running transaction of `connection`."""
    driver = connection.connection.driver_connection
    assert isinstance(driver, sqlite3.Connection)
    return driver.execute(text, values)


@dataclass(frozen=True, slots=True)
class Insert:
    """An INSERT of rows given as tuples. Make one with `insert`."""

    texts: Mapping[int, str]  # by number of rows

    def __call__(self, connection: Connection, rows: Sequence[tuple[object, ...]]) -> int:
        """Insert `rows`; return how many were new."""
        num_new = done = 0
        for size in ROWS_A_STEP:
            while len(rows) - done >= size:
                values = tuple(itertools.chain.from_iterable(rows[done : done + size]))
                num_new += run(connection, self.texts[size], values).rowcount
                done += size
        return num_new


def insert(table: sa.Table, columns: str, *, ignore_known: bool = False) -> Insert:
    """Prepare an INSERT whose rows give `columns` (names separated by spaces, in the table's order).

    Args:
        table: where to.
        columns: the others take their server default.
        ignore_known: leave a row out whose key is there already.
    """
    statement = sqlite.insert(table)
    if ignore_known:
        statement = statement.on_conflict_do_nothing()
    compiled = statement.compile(dialect=sqlite.dialect(paramstyle="qmark"), column_keys=columns.split())
    if list(compiled.positiontup or ()) != columns.split():
        raise ValueError(f"{table.name}: name the columns in table order, {compiled.positiontup}")
    head, rest = str(compiled).split(" VALUES ")
    row, bracket, tail = rest.partition(")")
    return Insert({size: f"{head} VALUES " + ", ".join([row + bracket] * size) + tail for size in ROWS_A_STEP})
