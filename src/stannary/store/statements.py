"""Many rows in few steps, for the hot paths.

sqlite3 lets go of the interpreter lock for each step of a statement. executemany takes one step a
row, and at each the writer has to win the lock back from the threads that serve requests; an INSERT
of 128 rows is one step. That, and rows as plain tuples, is the difference between 3,000 durable
submits a second and the figure of bench/durable_submits.py.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.dialects import sqlite
from sqlalchemy.engine import Connection

ROWS_A_STEP = (128, 32, 8, 1)  # few sizes, so that every statement stays prepared; 128 rows of 20 columns < 32,766


@dataclass(frozen=True, slots=True)
class Insert:
    """An INSERT of rows given as tuples. Make one with `insert`."""

    head: str
    row: str
    tail: str

    def __call__(self, connection: Connection, rows: Sequence[tuple[object, ...]]) -> int:
        """Insert `rows`; return how many were new."""
        num_new = done = 0
        for size in ROWS_A_STEP:
            while len(rows) - done >= size:
                values = tuple(itertools.chain.from_iterable(rows[done : done + size]))
                text = self.head + ", ".join([self.row] * size) + self.tail
                num_new += connection.exec_driver_sql(text, values).rowcount
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
    return Insert(f"{head} VALUES ", row + bracket, tail)
