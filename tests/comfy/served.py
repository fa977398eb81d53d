"""A real web server with routes of the pack in it, as the host's has them."""

from __future__ import annotations

import asyncio
import sys
from types import SimpleNamespace

from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer


def served(monkeypatch, add_routes, count):
    """``talk_to(conversation)``: what ``await conversation(client)`` gives; ``count`` routes are there, once each."""
    table = web.RouteTableDef()
    add_routes()
    assert len(table) == 0, "there is no server yet"
    server = SimpleNamespace(PromptServer=SimpleNamespace(instance=SimpleNamespace(routes=table)))
    monkeypatch.setitem(sys.modules, "server", server)
    add_routes()
    add_routes()  # a second load of the pack adds nothing
    assert len(table) == count

    async def start(conversation):
        application = web.Application()
        application.add_routes(table)
        async with TestClient(TestServer(application)) as client:
            return await conversation(client)

    return lambda conversation: asyncio.run(start(conversation))
