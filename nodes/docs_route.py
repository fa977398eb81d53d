"""GET /p2p/docs/PAGE: a page of the documentation as HTML, so that help pages in ComfyUI can link to one another.

PAGE is ``README``, or the name of a file of web/docs without its end. ``?language=ko`` gives its translation, if there
is one. Where the host has no Markdown renderer (markdown-it-py comes with transformers), pages come as written.
"""

from __future__ import annotations

import re
from functools import cache
from html import escape
from importlib import import_module
from pathlib import Path

from aiohttp import web

from .routes import add_route

PATH = "/p2p/docs/{page}"
IMAGES = "/p2p/docs/images/{picture}"
ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "web" / "docs"
LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(<?([^)>\s]+)>?\)")
STYLE = (
    "body{max-width:52rem;margin:2rem auto;padding:0 1rem;font:16px/1.55 system-ui,sans-serif;color:#222;"
    "background:#fff}img{max-width:100%}table{border-collapse:collapse;margin:1rem 0}td,th{border:1px solid #bbb;"
    "padding:.3rem .6rem;text-align:left;vertical-align:top}code,pre{background:#f0f0f0;border-radius:4px;"
    "padding:.1em .3em}a{color:#0b57a4}@media(prefers-color-scheme:dark){body{color:#ddd;background:#1d1d1d}"
    "code,pre{background:#333}a{color:#8ab8ff}td,th{border-color:#555}}"
)


def add_docs_route() -> None:
    add_route("GET", IMAGES, _picture)
    add_route("GET", PATH, _page)


async def _page(request: web.Request) -> web.StreamResponse:
    name, language = request.match_info["page"], request.query.get("language", "")
    english = pages().get(name)
    if english is None:
        raise web.HTTPNotFound(text=f"There is no page {name!r}. There are: {', '.join(sorted(pages()))}.")
    translated = {path.stem: path for path in DOCS.glob(f"{name}/*.md")}.get(language, english)
    text = within(translated.read_text(encoding="utf-8"), english.parent, language)
    html = as_html(text)
    if html is None:
        return web.Response(text=text, content_type="text/plain", charset="utf-8")
    title = escape(text.splitlines()[0].lstrip("# "))
    head = f"<meta charset=utf-8><meta name=viewport content='width=device-width'><title>{title}</title>"
    page = f"<!doctype html><html lang='{escape(language) or 'en'}'><head>{head}<style>{STYLE}</style></head>"
    return web.Response(text=f"{page}<body>{html}</body></html>", content_type="text/html", charset="utf-8")


async def _picture(request: web.Request) -> web.StreamResponse:
    found = {path.name: path for path in (DOCS / "images").iterdir()}.get(request.match_info["picture"])
    if found is None:
        raise web.HTTPNotFound
    return web.FileResponse(found)


@cache
def pages() -> dict[str, Path]:
    return {"README": ROOT / "README.md", **{path.stem: path for path in DOCS.glob("*.md")}}


def within(text: str, folder: Path, language: str = "") -> str:
    """A page whose links lead to pages and pictures of this route; what is not among them is named, but no link."""
    ours = {path: name for name, path in pages().items()}
    query = f"?language={language}" if language.isalpha() else ""

    def led(link: re.Match[str]) -> str:
        picture, said, target = link.groups()
        file, _, heading = target.partition("#")
        if target.startswith(("http:", "https:")) or not file:
            return link[0]
        at = (folder / file).resolve()
        if at.parent == DOCS / "images":
            return f"{picture}[{said}](images/{at.name})"
        if at not in ours:
            return said
        return f"[{said}]({ours[at]}{query}{'#' if heading else ''}{heading})"

    return LINK.sub(led, text)


def as_html(text: str) -> str | None:
    """None where the host has nothing to render Markdown with."""
    try:
        markdown_it = import_module("markdown_it")
    except ImportError:
        return None
    rendered = markdown_it.MarkdownIt("commonmark", {"html": False}).enable("table").render(text)
    return re.sub(r"<(h\d)>(.*?)</\1>", _with_anchor, rendered)


def _with_anchor(heading: re.Match[str]) -> str:
    tag, said = heading.groups()
    anchor = re.sub(r"[^\w\- ]", "", re.sub(r"<[^>]+>", "", said).lower()).replace(" ", "-")
    return f'<{tag} id="{anchor}">{said}</{tag}>'
