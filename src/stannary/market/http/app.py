"""The ASGI application: routes joined, errors at the edge."""

from __future__ import annotations

from fastapi import FastAPI
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp

from stannary.errors import StannaryError
from stannary.market.engine.loop import Engines
from stannary.market.exchange import Exchange
from stannary.market.http import edge, routes_admin, routes_buyer, routes_disputes, routes_log, routes_node
from stannary.wire import routes


def build(exchange: Exchange, engines: Engines) -> ASGIApp:
    """Return the application of one market."""
    app = FastAPI(title="stannary market", docs_url=None, redoc_url=None, openapi_url=None)
    app.include_router(routes_log.router(exchange))
    app.include_router(routes_buyer.router(exchange, engines))
    app.include_router(routes_disputes.router(exchange))
    app.include_router(routes_node.router(exchange, engines))
    app.include_router(routes_admin.router(exchange))
    app.add_exception_handler(StannaryError, edge.refused)
    app.add_exception_handler(HTTPException, edge.unrouted)
    app.add_exception_handler(Exception, edge.broken)
    return edge.Edge(app, {("POST", routes.JOBS): routes_buyer.submitting(exchange, engines)}, exchange.rates)
