"""Odd JSON to every route that takes a body, by parties with valid tokens: an answer below 500, whatever it holds."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import httpx2
from tests.integration.market import world as worlds
from tests.integration.market.fake_buyer import train_spec

from stannary.formats import jobspec
from stannary.wire import routes

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
            under = [value for name, value in vars(routes).items() if name.startswith("LEASE_") and "{lease}" in value]
            targets = [(routes.lease(path, lease_id), as_node) for path in under if path != routes.LEASE_RELEASE]
            targets += [(path, as_node) for path in (routes.JOIN, routes.SESSION_CHALLENGE, routes.SESSIONS)]
            targets += [(path, as_node) for path in (routes.HEARTBEAT, routes.LEASE_NEXT)]
            targets += [
                (path, ada.headers) for path in (routes.QUOTES, routes.JOBS, routes.job(routes.JOB_BEACON, job))
            ]
            targets += [(path, as_admin) for path in (routes.ADMIN_API_TOKENS, routes.ADMIN_JOIN_TOKENS)]
            spec = jobspec.to_canonical(train_spec())
            quotes = [json.dumps({"spec": {**spec, name: odd}}).encode() for name in spec for odd in ODD_SPEC_VALUES]
            broken = []
            async with httpx2.AsyncClient(base_url=world.url, transport=world.transport, timeout=60.0) as client:
                cases = [(path, headers, body) for path, headers in targets for body in BODIES]
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
