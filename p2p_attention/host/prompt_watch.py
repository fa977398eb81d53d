"""Looks at each graph that is queued: a pair that no model is edited by is hardly meant, and no run of ours sees it."""

from __future__ import annotations

import logging
from typing import Any

from .graph import alike_up_to, pairs_without_nodes
from .notices import clear, server, show, with_texts

UNUSED = (
    "the pair's conditioning goes to a sampler whose model no P2P node has touched, so there is no edit: of each "
    "latent only one of the prompts is drawn. Put a P2P Attention node, with this pair, between the model and the "
    "sampler."
)

_told: set[str] = set()  # the pair nodes of the last graph of which it was said
_last: dict[str, Any] = {}  # that graph


def watch_prompts() -> None:
    """From now on; not at all where no server runs (scripts, tests)."""
    page = server()
    if page is not None and _look not in page.on_prompt_handlers:
        page.add_on_prompt_handler(_look)


def _look(asked: dict[str, Any]) -> dict[str, Any]:
    """The host's handler of a queued prompt, which it goes on with."""
    graph = asked.get("prompt")
    if isinstance(graph, dict) and all(isinstance(node, dict) for node in graph.values()):
        alike = {node for node in with_texts() if alike_up_to(node, graph, _last)}
        clear(with_texts() - (alike - _told))
        _last.clear()
        _last.update(graph)
        unused = pairs_without_nodes(graph)
        for pair in unused:
            if pair not in _told:
                logging.warning(f"Prompt-to-Prompt: {UNUSED}")
            show(pair, UNUSED)
        _told.clear()
        _told.update(unused)
    return asked
