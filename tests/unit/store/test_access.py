"""Tokens, challenges, sessions: hashed, single use, worthless after their time."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from tests.unit.store import world

from stannary.errors import AuthError, ConflictError, NotFound, StannaryError
from stannary.formats.ids import LeaseType
from stannary.jobs.course.state import Grant
from stannary.jobs.states import LeaseState
from stannary.store import accounts, blobs, leases, nodes
from stannary.store.accounts import JoinGrant, NewJoinToken
from stannary.store.database import Store


def do(store: Store, step: object) -> object:
    """Return the outcome of a write, its error included."""
    future = store.write(step)  # type: ignore[arg-type]  # a function of a connection
    error = future.exception(30)
    return error if isinstance(error, StannaryError) else future.result(30)


def test_api_tokens_name_their_buyer_until_revoked(furnished: Store) -> None:
    """A known token gives its buyer, an unknown or revoked one nothing."""
    do(furnished, lambda c: accounts.add_api_token(c, "secret", "buyer", at_ms=0))
    assert do(furnished, lambda c: accounts.buyer_of(c, "secret")) == "buyer"
    assert isinstance(do(furnished, lambda c: accounts.buyer_of(c, "Secret")), AuthError)
    do(furnished, lambda c: accounts.note_uses(c, {accounts.token_hash("secret"): 7, "unknown": 8}))
    (listed,) = do(furnished, lambda c: accounts.newest_api_tokens(c, "buyer", limit=10))  # type: ignore[misc]  # rows
    assert (listed.buyer, listed.last_used_at_ms, listed.revoked_at_ms) == ("buyer", 7, None)
    assert do(furnished, lambda c: accounts.newest_api_tokens(c, "another", limit=10)) == []
    assert do(furnished, lambda c: accounts.revoke_api_token(c, listed.id, at_ms=9)).revoked_at_ms == 9  # type: ignore[attr-defined]  # a row
    assert isinstance(do(furnished, lambda c: accounts.revoke_api_token(c, listed.id, at_ms=9)), ConflictError)
    assert isinstance(do(furnished, lambda c: accounts.revoke_api_token(c, "0" * 16, at_ms=9)), NotFound)
    assert isinstance(do(furnished, lambda c: accounts.buyer_of(c, "secret")), AuthError)


def test_a_join_token_is_used_as_often_as_it_says(store: Store) -> None:
    """Uses run out, and so does time."""
    do(store, lambda c: accounts.add_join_token(c, NewJoinToken("t", "ann", 5, 2, 0, 100)))
    assert do(store, lambda c: accounts.use_join_token(c, "t", now_ms=99)) == JoinGrant("ann", 5)
    assert isinstance(do(store, lambda c: accounts.use_join_token(c, "t", now_ms=100)), AuthError)
    assert do(store, lambda c: accounts.use_join_token(c, "t", now_ms=50)) == JoinGrant("ann", 5)
    assert isinstance(do(store, lambda c: accounts.use_join_token(c, "t", now_ms=50)), AuthError)
    do(store, lambda c: accounts.add_join_token(c, NewJoinToken("u", "ann", 5, 1, 0, 100)))
    assert do(store, lambda c: accounts.forget_join_tokens(c, now_ms=99)) == 1  # used up
    assert do(store, lambda c: accounts.forget_join_tokens(c, now_ms=100)) == 1  # expired


def test_a_challenge_is_answered_once(furnished: Store) -> None:
    """A replayed nonce opens nothing, and is forgotten when it has expired by itself."""
    spend = nodes.spend_challenge
    assert do(furnished, lambda c: spend(c, "a", "n-1", now_ms=1, expires_at_ms=60_000)) is None
    assert isinstance(do(furnished, lambda c: spend(c, "a", "n-1", now_ms=2, expires_at_ms=60_000)), AuthError)
    assert do(furnished, lambda c: spend(c, "b", "n-1", now_ms=2, expires_at_ms=60_001)) is None
    assert do(furnished, lambda c: nodes.forget_expired(c, now_ms=60_000)) == 1


def test_a_node_has_so_many_sessions(furnished: Store) -> None:
    """A node that opens sessions without end keeps its newest ones only."""
    for number in range(2 * nodes.MAX_SESSIONS):
        now_ms = number
        do(furnished, lambda c, n=now_ms: nodes.add_session(c, f"s{n}", "n-1", now_ms=n, expires_at_ms=1000))
    assert isinstance(do(furnished, lambda c: nodes.node_of(c, "s0", now_ms=100)), AuthError)
    newest = f"s{2 * nodes.MAX_SESSIONS - 1}"
    assert do(furnished, lambda c: nodes.node_of(c, newest, now_ms=100)) == "n-1"
    assert do(furnished, lambda c: nodes.forget_expired(c, now_ms=1000)) == nodes.MAX_SESSIONS


def test_a_revoked_node_loses_its_sessions(furnished: Store) -> None:
    """Sessions end with their time or with their node, and a revoked node does not come back."""
    do(furnished, lambda c: nodes.add_session(c, "s", "n-1", now_ms=0, expires_at_ms=10))
    assert do(furnished, lambda c: nodes.node_of(c, "s", now_ms=9)) == "n-1"
    assert isinstance(do(furnished, lambda c: nodes.node_of(c, "s", now_ms=10)), AuthError)
    do(furnished, lambda c: nodes.revoke(c, "n-1", "refuted", at_ms=5))
    assert isinstance(do(furnished, lambda c: nodes.node_of(c, "s", now_ms=6)), AuthError)
    again = nodes.add_session
    assert isinstance(do(furnished, lambda c: again(c, "t", "n-1", now_ms=6, expires_at_ms=9)), AuthError)
    assert isinstance(do(furnished, lambda c: nodes.add(c, world.node("n-1", "ann"))), ConflictError)


def test_what_a_lease_names_is_read_while_it_is_held(furnished: Store) -> None:
    """The inputs of one lease end with it, though another of the same job is held; the manifest ends with the last."""
    of_question = {"role": "prover", "blobs": [{"name": "theta", "digest": "weights", "size_bytes": 1}]}
    of_work = {"blobs": [{"name": "theta", "digest": "newer weights", "size_bytes": 1}]}
    question = Grant("q", LeaseType.QUESTION, world.TASK, "n-1", 10_000, body=of_question)  # type: ignore[arg-type]  # JSON

    def may(node: str) -> list[str]:
        asked = ("weights", "newer weights", "manifest")
        return [name for name in asked if do(furnished, lambda c, n=name: blobs.may_node_have(c, n, node))]

    do(furnished, lambda c: blobs.add(c, "manifest", 1, blobs.reader(world.JOB, "n-1"), at_ms=0))
    assert may("n-1") == []
    do(furnished, lambda c: leases.grant(c, replace(world.work("w", "n-1"), body=of_work), world.cause()))  # type: ignore[arg-type]  # JSON
    do(furnished, lambda c: leases.grant(c, question, world.cause()))
    assert may("n-1") == ["weights", "newer weights", "manifest"]
    assert may("n-2") == []
    do(furnished, lambda c: leases.end(c, "q", LeaseState.COMPLETED, world.cause()))
    assert may("n-1") == ["newer weights", "manifest"]
    do(furnished, lambda c: leases.end(c, "w", LeaseState.RELEASED, world.cause()))
    assert may("n-1") == []


def test_one_machine_has_one_operator(furnished: Store) -> None:
    """A node that joins again under another operator is refused: it could audit itself."""
    assert isinstance(do(furnished, lambda c: nodes.add(c, world.node("n-1", "bob"))), ConflictError)
    assert do(furnished, lambda c: nodes.add(c, world.node("n-1", "ann"))) is None


def test_no_secret_lies_in_the_file(tmp_path: Path) -> None:
    """A copy of the database contains none of the tokens it judges."""
    with Store.open(tmp_path / "market.db") as store:
        do(store, world.furnish)
        do(store, lambda c: accounts.add_api_token(c, "api-secret", "buyer", at_ms=0))
        do(store, lambda c: accounts.add_join_token(c, NewJoinToken("join-secret", "ann", 5, 1, 0, 9)))
        do(store, lambda c: nodes.spend_challenge(c, "nonce-secret", "n-1", now_ms=0, expires_at_ms=9))
        do(store, lambda c: nodes.add_session(c, "session-secret", "n-1", now_ms=0, expires_at_ms=9))
    content = b"".join(path.read_bytes() for path in tmp_path.glob("market.db*"))
    assert b"n-1" in content
    assert b"-secret" not in content


def test_one_operator_is_not_two_by_letter_case(store: Store) -> None:
    """`Ann` beside `ann` would be two operators who may audit one another: the token is refused."""
    do(store, lambda c: accounts.add_join_token(c, NewJoinToken("t", "ann", 5, 2, 0, 100)))
    refused = do(store, lambda c: accounts.add_join_token(c, NewJoinToken("u", "Ann", 5, 2, 0, 100)))
    assert isinstance(refused, ConflictError)
    assert "ann" in refused.hint
    assert not isinstance(
        do(store, lambda c: accounts.add_join_token(c, NewJoinToken("v", "ann", 5, 2, 0, 100))), Exception
    )
