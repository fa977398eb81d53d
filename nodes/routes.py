"""What the pack answers to the page."""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable

from aiohttp import web


def add_route(method: str, path: str, answer: Callable[[web.Request], Awaitable[web.StreamResponse]]) -> None:
    """Once, however often the pack is loaded; not at all where no server runs (scripts, tests)."""
    host = sys.modules.get("server")  # imported by a host that serves a page, long before it loads packs
    server = getattr(getattr(host, "PromptServer", None), "instance", None)
    if server is not None and not any(getattr(route, "path", None) == path for route in server.routes):
        server.routes.route(method, path)(answer)
