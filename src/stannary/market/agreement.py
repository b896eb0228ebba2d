"""Whether log, database and witness are of one moment, checked before anything is done with them.

Rules:
- Every leaf of the log is in the database: statements are kept before they are logged. A leaf that is missing means
  an older database under a newer log; to go on would settle again what was settled, and give money back.
- Every index the database has noted is that leaf's in the log. One beyond the log means an older log: what it told
  people is gone.
- The witness has cosigned no more than the log holds. One that has, has seen what was put back: it would cosign
  nothing ever after, and the market would hang without a word. (A witness that does not answer is waited for later.)
- The witness is the one that cosigned before: buyers have pinned its key, and a new one vouches for nothing of old.
- Nothing is mended here: who holds the newer half can put it back, and nobody else knows what was in it.
"""

from __future__ import annotations

from sqlalchemy.engine import Connection

from stannary.errors import EnvironmentProblem, ServiceError
from stannary.formats import digest, note
from stannary.formats.digest import Digest
from stannary.store import envelopes
from stannary.tlog.log import Log
from stannary.tlog.witness_client import REFUSED

HINT = "put back the log and the database as they lay together, or a whole backup: stannary market restore"


def check(connection: Connection, log: Log) -> None:
    """Compare all leaves.

    Raises:
        EnvironmentProblem: log and database are not of one moment.
    """
    size, num_found = log.size, 0  # what a kill left signed is published meanwhile: it is beyond this size
    for leaf, index in envelopes.all_leaves(connection):
        logged = log.index_of(digest.raw(Digest(leaf)))
        if index is not None and logged != index:
            where = "is not in the log" if logged is None else f"is at {logged}"
            raise EnvironmentProblem(
                "the market's log is older than its database, or another's",
                why=f"the statement the database knows at log index {index} {where}; the log holds {log.size:,}",
                hint=HINT,
            )
        num_found += logged is not None and logged < size
    if num_found != size:
        raise EnvironmentProblem(
            "the market's database is older than its log",
            why=f"it holds {num_found:,} of the log's {size:,} statements",
            hint=HINT,
        )


def check_witnesses(log: Log, own_vkey: str | None) -> None:
    """Ask the witnesses about the log's newest checkpoint; `own_vkey` is the key of the one beside the market.

    Raises:
        EnvironmentProblem: it is another witness, or one has cosigned another history, or a longer one.
    """
    unchecked = note.unchecked_signatures(log.checkpoint(), [log.key, own_vkey]) if own_vkey is not None else ()
    if own_vkey is not None and note.parse_vkey(own_vkey).name in unchecked:
        raise EnvironmentProblem(
            "the market's witness has another key than the one its buyers pinned",
            why="the log's newest checkpoint is cosigned by a key that the folder `witness` does not hold",
            hint="put the folder `witness` back as it was, or a whole backup: stannary market restore --from FOLDER",
        )
    try:
        log.confirm()
    except ServiceError as err:
        if err.detail == REFUSED:
            why = f"a witness refuses the log's newest checkpoint, {err.why}"
            raise EnvironmentProblem(
                "the market's log is older than its witness, or another's", why=why, hint=HINT
            ) from err
