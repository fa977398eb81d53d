"""What a person should know of a run though it is no error: said in the log, and on the node that is executing."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterable
from typing import Any, NamedTuple

from comfy_execution.progress import get_progress_state
from comfy_execution.utils import get_executing_context


class Place(NamedTuple):
    """Which node is executing, in which prompt; of a node that is given a list, for which of its entries."""

    prompt: str
    node: str
    entry: int | None


class _Said:
    """What was said in the prompt that is executing: node -> texts."""

    def __init__(self) -> None:
        self.prompt: str | None = None
        self.texts: dict[str, list[str]] = {}
        self.log: list[str] = []  # what was only for the log
        self.shown: set[str] = set()  # nodes that have a text on them


_said = _Said()


def place() -> Place | None:
    """Where this is called from; None where no prompt is executing (scripts, tests)."""
    context = get_executing_context()
    return None if context is None else Place(context.prompt_id, context.node_id, context.list_index)


def server() -> Any | None:
    """The host's, which scripts and tests have not."""
    host = sys.modules.get("server")  # imported by a host that serves a page, long before it loads packs
    return getattr(getattr(host, "PromptServer", None), "instance", None)


def say(text: str, level: int = logging.WARNING, on_the_node: bool = False) -> None:
    """Once for each node and prompt, however often the node samples. What is below a warning is for the log alone,
    unless it is asked for on the node."""
    shown = on_the_node or level >= logging.WARNING
    here = place()
    if here is not None:
        node = get_progress_state().dynprompt.get_display_node_id(here.node)  # the page knows no other
        if _said.prompt != here.prompt:
            _said.prompt, _said.texts, _said.log = here.prompt, {}, []
        texts = _said.texts.setdefault(node, []) if shown else _said.log
        if text in texts:
            return
        texts.append(text)
    logging.log(level, f"Prompt-to-Prompt: {text}")
    if here is not None and shown:
        show(node, "\n".join(texts))


def show(node: str, text: str) -> None:
    """Put a text on a node, where it stays until a graph is queued in which the node will run again, see ``clear``."""
    page = server()
    if page is not None:
        page.send_progress_text(text, node)
        page.send_sync("p2p_notice", {"node": node, "text": text})  # for web/notices.js, which keeps it there
        _said.shown.add(node)


def with_texts() -> set[str]:
    """The nodes that have a text on them."""
    return set(_said.shown)


def clear(nodes: Iterable[str]) -> None:
    """Take the texts off nodes. The page keeps a text until it gets another one, and takes none that is empty."""
    for node in nodes:
        show(node, " ")
        _said.shown.discard(node)
