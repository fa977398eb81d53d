"""A photograph's way back as a node of its own in the graph that executes: the host keeps it while the edit changes."""

from __future__ import annotations

from typing import Any, NamedTuple

from comfy_execution.graph_utils import GraphBuilder, is_link

from .graph import gives_lists
from .one_edit import (
    GUIDANCE,
    REFINE_ITERATIONS,
    SOURCE_ROW,
    WAY_BACK,
    OneEdit,
    Photograph,
    edit_by_prompt,
    guidance_back,
    guidance_step,
    way_back_step,
)

LINKED = ("model", "clip", "latent_image")


class Made(NamedTuple):
    """What P2P Edit hands to the host.

    Args:
        outputs: its outputs, or, where there is a graph, what they are of it.
        did: see ``OneEdit``.
        graph: nodes for the host to execute in this one's place.
    """

    outputs: tuple[Any, ...]
    did: list[tuple[str, dict[str, Any]]]
    graph: dict[str, Any] | None


def edit_and_keep_the_way_back(
    prompt: Any | None, node: str | None, model: Any, clip: Any, asked: dict[str, Any], photograph: Photograph | None
) -> Made:
    """``edit_by_prompt``; the way back of a photograph by a node of its own, where that can be.

    Args:
        prompt, node: the host's DynamicPrompt that executes, and the id of a P2P Edit in it; None outside of a run.
        model, clip: the host's.
        asked: the other inputs of ``edit_by_prompt``, by name; the node has them, too.
        photograph: to be edited in place of a picture that the model makes.
    """
    apart = photograph and _behind_its_way_back(prompt, node, model, asked, photograph)
    edit = edit_by_prompt(model, clip, **asked, photograph=None if apart else photograph)
    if apart and photograph:
        graph, outputs = apart
        # A way back that the model brings gives place to the photograph's.
        did = [
            *guidance_step(guidance_back(model)),
            way_back_step(photograph.settings),
            *(step for step in edit.did if step[0] != WAY_BACK),
        ]
        return Made(outputs, did, graph)
    return Made(edit.outputs, edit.did, None)


def _behind_its_way_back(
    prompt: Any | None, node: str | None, model: Any, asked: dict[str, Any], photograph: Photograph
) -> tuple[dict[str, Any], tuple[Any, ...]] | None:
    """The source's text, its guidance if the model takes one, P2P DDIM Invert, and P2P Edit on what that gives; and
    which outputs are ours.

    None where all has to be done at once: outside of a run, or behind a node that gives a list, whose entries the nodes
    of this graph could not tell apart.
    """
    if prompt is None or node is None:
        return None
    whole = {each: prompt.get_node(each) for each in prompt.all_node_ids()}
    links = {name: whole[node]["inputs"].get(name) for name in LINKED}
    if not all(is_link(link) for link in links.values()) or gives_lists(whole, node):
        return None
    steps, scheduler, denoise = photograph.settings
    graph = GraphBuilder()
    text = graph.node("CLIPTextEncode", clip=links["clip"], text=asked["source"])
    if guidance := guidance_back(model):
        text = graph.node(GUIDANCE, conditioning=text.out(0), **guidance)
    way_back = graph.node(
        "P2PDDIMInvert",
        model=links["model"],
        conditioning=text.out(0),
        latent_image=links["latent_image"],
        steps=steps,
        scheduler=scheduler,
        denoise=denoise,
        refine_iterations=REFINE_ITERATIONS,
        source_row=SOURCE_ROW,
    )
    edit = graph.node("P2PEdit", model=way_back.out(0), clip=links["clip"], **asked)
    return graph.finalize(), tuple(edit.out(number) for number in range(len(OneEdit._fields) - 1))
