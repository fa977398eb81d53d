"""What the pack answers to the page."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from aiohttp import web

from ..p2p_attention.host.notices import server


def add_route(method: str, path: str, answer: Callable[[web.Request], Awaitable[web.StreamResponse]]) -> None:
    """Once, however often the pack is loaded; not at all where no server runs (scripts, tests)."""
    page = server()
    if page is not None and not any(getattr(route, "path", None) == path for route in page.routes):
        page.routes.route(method, path)(answer)
