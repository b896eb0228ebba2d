"""Log and database are of one moment, or the market does not start."""

from __future__ import annotations

from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from tests.unit.store.test_mark import crashed

from stannary.errors import EnvironmentProblem
from stannary.formats import digest
from stannary.market import agreement
from stannary.store import envelopes
from stannary.store.database import Store
from stannary.store.envelopes import Incoming
from stannary.tlog.log import Log


def add(store: Store, log: Log | None, number: int) -> None:
    """Keep a statement; log it where a log is given."""
    leaf = digest.digest(b"statement %d" % number)
    store.write(lambda c: envelopes.add(c, Incoming(leaf, "reading", b"{}", number))).result()
    if log is not None:
        index = log.append(digest.raw(leaf)).result()
        store.write(lambda c: envelopes.set_indexes(c, {leaf: index})).result()


def test_log_and_database_are_of_one_moment(tmp_path: Path) -> None:
    """An older database under a newer log, or the reverse, is refused; what a kill left between them is not."""
    key = Ed25519PrivateKey.generate()
    old, new = tmp_path / "old", tmp_path / "new"
    new.mkdir()
    log = Log.open(new / "log", "m", key)
    with Store.open(new / "market.db") as store:
        for number in range(5):
            add(store, log, number)
        crashed(new, old)
        add(store, log, 5)
        add(store, None, 6)  # kept, and not logged before the kill
        store.read(lambda c: agreement.check(c, log))
    log.close()

    def check(database: Path, directory: Path) -> None:
        with Store.open(database) as held:
            tlog = Log.open(directory / "log", "m", key)
            try:
                held.read(lambda c: agreement.check(c, tlog))
            finally:
                tlog.close()

    check(new / "market.db", new)
    check(old / "market.db", old)
    with pytest.raises(EnvironmentProblem, match="older than its log"):
        check(old / "market.db", new)
    with pytest.raises(EnvironmentProblem, match="log is older"):
        check(new / "market.db", old)
