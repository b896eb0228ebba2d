"""Odd JSON to every route that takes a body, by parties with valid tokens: an answer below 500, whatever it holds."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import httpx2
from fastapi.routing import APIRoute
from tests.integration.market import world as worlds
from tests.integration.market.fake_buyer import train_spec

from stannary.formats import jobspec
from stannary.market.http import routes_admin, routes_buyer, routes_log, routes_node
from stannary.wire import routes

Headers = dict[str, str]

BODIES: list[bytes] = [
    b"", b"null", b"[]", b"{", b"\xff\xfe", b'{"a":1,"a":2}', b"NaN", b"1e400", b"[" * 100_000, b'{"x":' * 100_000,
    b'"\\ud800"', b'{"\\u0000":"\\u0000"}', b"9" * 5000, b'{"wait_s":NaN,"have":[]}', b'{"wait_s":1e400,"have":[]}',
    b'{"wait_s":-1,"have":["\\u0000"]}', b'{"state":"idle","leases":["' + b"x" * 65 + b'"],"version":"\\u0000"}',
    b'{"state":"idle","leases":[],"version":"\\u202e\\u0000"}', b'{"node":"n-0123456789ab\\n"}',
    b'{"node":"n-\\uff10123456789ab"}', b'{"step":true,"steps":1,"phase":"compute"}',
    b'{"step":9007199254740993,"steps":1,"phase":"x"}', b'{"step":1,"steps":1,"phase":"x","loss":"\\u0663"}',
    b'{"reason":"x","message":"\\u0000\\u001b","log_tail":"\\u202e"}',
    b'{"first_seq":9007199254740991,"lines":[{"at":"0001-01-01T00:00:00Z","stream":"x","text":"\\u0000"}]}',
    b'{"first_seq":0,"lines":[{"at":"2026-02-30T00:00:00Z","stream":"x","text":""}]}',
    b'{"first_seq":0,"lines":[{"at":"2026-06-30T23:59:60Z","stream":"x","text":""}]}',
    b'{"name":"\\u0000","deposit_usd_micros":1}', b'{"name":"x","deposit_usd_micros":9007199254740991}',
    b'{"name":"x.escrow\\n","deposit_usd_micros":1}', b'{"operator":"x","bond_usd_micros":9007199254740991}',
    b'{"operator":"\\u0430lice","bond_usd_micros":1}', b'{"operator":"x","bond_usd_micros":1,"ttl_s":0,"uses":-1}',
]  # fmt: skip
# whatever comes is not read
BODILESS = {
    routes.LEASE_RELEASE, routes.JOB_CANCEL, routes.ADMIN_NODE_REVOKE, routes.ADMIN_API_TOKEN_REVOKE, routes.POWER_NEXT,
}  # fmt: skip
ODD_SPEC_VALUES: list[Any] = [-1, 2**53, 10**400, 1.5, True, None, "\0", "\u202e", [], {}, "x" * 100_000]


def test_no_body_breaks_the_market(tmp_path: Path) -> None:
    """Ill-formed, ill-typed, endless and misspelt bodies are refused in words; the market serves on."""

    async def scenario() -> None:
        async with worlds.inside(tmp_path, witness=False) as world:
            nodes = [await world.node(operator, run=False) for operator in ("north", "south", "east")]
            ada = await world.buyer()
            job = (await ada.submit(train_spec())).id
            lease = await nodes[0].next_lease()
            lease_id = lease.lease_id if lease is not None else "w-000000000000000000000000"
            as_node = {"Authorization": f"Bearer {nodes[0].token}"}
            as_admin = {"Authorization": f"Bearer {world.admin_token}"}
            targets = {**_of_nodes(lease_id, as_node), **_of_buyers(job, ada.headers), **_of_operators(as_admin)}
            spec = jobspec.to_canonical(train_spec())
            quotes = [json.dumps({"spec": {**spec, name: odd}}).encode() for name in spec for odd in ODD_SPEC_VALUES]
            broken = []
            async with httpx2.AsyncClient(base_url=world.url, transport=world.transport, timeout=60.0) as client:
                cases = [(path, headers, body) for path, headers in targets.items() for body in BODIES]
                cases += [(routes.QUOTES, ada.headers, body) for body in quotes]
                for path, headers, body in cases:
                    answer = await client.post(path, content=body, headers=headers)
                    if answer.status_code >= 500:
                        broken.append((path, body[:80], answer.status_code))
                for path, headers in ((routes.OFFERS, ada.headers), (routes.job(routes.JOB_LOGS, job), ada.headers)):
                    assert (await client.get(path, headers=headers)).status_code == 200
                    assert (await client.get(routes.ADMIN_LEDGER, headers=as_admin)).status_code == 200
            assert broken == []

    asyncio.run(scenario())


def _of_nodes(lease: str, headers: Headers) -> dict[str, Headers]:
    under = [value for name, value in vars(routes).items() if name.startswith("LEASE_") and "{lease}" in value]
    paths = [routes.lease(path, lease) for path in under if path not in BODILESS]
    paths += [routes.JOIN, routes.SESSION_CHALLENGE, routes.SESSIONS, routes.HEARTBEAT, routes.LEASE_NEXT, routes.POWER]
    return dict.fromkeys(paths, headers)


def _of_buyers(job: str, headers: Headers) -> dict[str, Headers]:
    return dict.fromkeys((routes.QUOTES, routes.JOBS, routes.job(routes.JOB_BEACON, job)), headers)


def _of_operators(headers: Headers) -> dict[str, Headers]:
    paths = (routes.ADMIN_API_TOKENS, routes.ADMIN_JOIN_TOKENS, routes.ADMIN_NODE_DRAIN, routes.ADMIN_BACKUP)
    return dict.fromkeys(paths, headers)


def test_every_route_with_a_body_refuses_doubled_members(tmp_path: Path) -> None:
    """Whatever a route expects, a member named twice is a 400 that says so: no two readers may take different ones."""

    async def scenario() -> None:
        async with worlds.inside(tmp_path, witness=False) as world:
            made, ada = await world.node("north", run=False), await world.buyer()
            as_node, as_admin = ({"Authorization": f"Bearer {word}"} for word in (made.token, world.admin_token))
            exchange, engines = world.inside
            lease, job = "{lease}", "{job}"  # as the templates have them: a body is read before what it is about
            targets = {**_of_nodes(lease, as_node), **_of_buyers(job, ada.headers), **_of_operators(as_admin)}
            made_of = [routes_buyer.router(exchange, engines), routes_node.router(exchange, engines)]
            made_of += [routes_admin.router(exchange), routes_log.router(exchange)]
            given = [route for router in made_of for route in router.routes if isinstance(route, APIRoute)]
            offered = {route.path for route in given if "POST" in route.methods}
            assert offered | {routes.JOBS} == set(targets) | BODILESS  # no route is left out
            async with httpx2.AsyncClient(base_url=world.url, transport=world.transport, timeout=60.0) as client:
                for path, headers in targets.items():
                    answer = await client.post(path, content=b'{"a":1,"a":1}', headers=headers)
                    assert answer.status_code == 400, path
                    assert "duplicate JSON member: 'a'" in answer.json()["error"]["why"], path

    asyncio.run(scenario())
