"""POST /p2p/alignment: the words of two prompts and how they are aligned, for the page to draw on the nodes.

The JSON asked with: ``source`` and ``target``, the texts of a node that makes a pair; ``node``, its id in the run (in a
subgraph with the subgraph's before it, ``5:12``); ``breaks``, true where ``BREAK`` separates parts; ``alignment``, the
node's text of that name.

The answer: what ``comparison.compare`` gives and ``tokenizer``, with ``connected`` true where it is that of the CLIP
with which the node ran last; else it is ComfyUI's own for CLIP, whose vocabulary all CLIP encoders share. Bad input is
answered with ``{"error": ...}`` and status 400.
"""

from __future__ import annotations

import asyncio
from typing import Any
from weakref import WeakValueDictionary

from aiohttp import web

from ..p2p_attention.comparison import compare
from ..p2p_attention.host.encode import likeness_for, prompt_reader
from .routes import add_route

PATH = "/p2p/alignment"

_clips: WeakValueDictionary[str, Any] = WeakValueDictionary()  # by node id; whoever else holds a CLIP decides its life


def remember_clip(node: str | None, clip: Any) -> None:
    """The page's words are from now on those that this CLIP reads."""
    if node is not None:
        _clips[str(node)] = clip


def add_alignment_route() -> None:
    add_route("POST", PATH, _answer)


async def _answer(request: web.Request) -> web.Response:
    try:
        asked = await request.json()
        texts = [asked["source"], asked["target"], asked.get("alignment", "")] if isinstance(asked, dict) else []
    except (ValueError, KeyError):
        texts = []
    if not texts or not all(isinstance(text, str) for text in texts):
        return _refusal('Wanted JSON with two texts, {"source": "a cat", "target": "a dog"}, got something else.')
    clip = _clips.get(str(asked.get("node")))
    try:
        # In a thread, because tokenising and aligning long prompts takes a while and the server has others to answer.
        tokenizer, found = await asyncio.to_thread(_compare, clip, asked.get("breaks") is True, *texts)
    except ValueError as error:
        return _refusal(str(error))
    except Exception as error:  # half-typed text makes the host's tokenizer fail: "embedding:" without a name
        return _refusal(f"The text encoder cannot read this ({type(error).__name__}: {error}).")
    return web.json_response({"tokenizer": {"name": tokenizer, "connected": clip is not None}, **found})


def _compare(clip: Any, breaks: bool, source: str, target: str, alignment: str) -> tuple[str, dict[str, Any]]:
    name, read = prompt_reader(clip, breaks)
    return name, compare(read, source, target, alignment, likeness_for(clip))


def _refusal(message: str) -> web.Response:
    return web.json_response({"error": message}, status=400)
