"""The documentation as the host's server gives it to a browser."""

from __future__ import annotations

import re
import sys

import pytest
from served import served


@pytest.fixture
def route(host):
    return host.module("nodes.docs_route")


@pytest.fixture
def get(route, monkeypatch):
    """GET paths one after the other; gives (status, content type, body) of each."""
    talk_to = served(monkeypatch, route.add_docs_route, 2)

    def ask(*paths):
        async def conversation(client):
            responses = [await client.get(path) for path in paths]
            return [(each.status, each.content_type, await each.read()) for each in responses]

        return talk_to(conversation)

    return ask


def test_every_page_leads_only_to_what_is_there(route, get):
    pytest.importorskip("markdown_it")
    names = sorted(route.pages())
    assert {"README", "tutorial", "P2PEdit"} <= set(names)
    asked = dict(zip(names, get(*(f"/p2p/docs/{name}" for name in names)), strict=True))
    links = set()
    for path, (status, kind, body) in asked.items():
        html = body.decode()
        assert (status, kind) == (200, "text/html"), path
        assert "<h1" in html and "|---" not in html, path
        links |= {link for link in re.findall(r'(?:href|src)="([^"]+)"', html) if not link.startswith(("http", "#"))}
    assert all(re.match(r"(images/)?\w+(\.png)?(#|$)", link) for link in links), links
    plain = sorted({link.partition("#")[0] for link in links})
    found = zip(plain, get(*(f"/p2p/docs/{path}" for path in plain)), strict=True)
    assert [path for path, (status, _, _) in found if status != 200] == []
    for link in links:
        path, _, heading = link.partition("#")
        assert not heading or f'id="{heading}"' in asked[path][2].decode(), link


def test_a_translation_where_there_is_one(get):
    (english, korean, other) = (
        body.decode() for _, _, body in get(*(f"/p2p/docs/P2PEdit?language={code}" for code in ("en", "ko", "xx")))
    )
    assert re.search("[가-힣]", korean) and not re.search("[가-힣]", english)
    assert english.split("<body>")[1] == other.split("<body>")[1].replace("?language=xx", "?language=en")


def test_nothing_else_is_given(get):
    for path in ("/p2p/docs/nothing", "/p2p/docs/..%2Fpyproject", "/p2p/docs/images/..%2FP2PEdit.md"):
        assert get(path)[0][0] == 404, path


def test_without_a_renderer_it_comes_as_it_is_written(get, monkeypatch):
    monkeypatch.setitem(sys.modules, "markdown_it", None)
    ((status, kind, body),) = get("/p2p/docs/tutorial")
    assert (status, kind) == (200, "text/plain")
    assert body.decode().startswith("# Prompt-to-Prompt, figure by figure")
