"""The graph that is executing, as the host's server holds it: node id -> ``{"class_type": ..., "inputs": ...}``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from .notices import server

Graph = Mapping[str, Mapping[str, Any]]
PAIR_NODES = ("P2PPromptPair", "P2PPairFromConditioning")
OWN = "P2P"  # begins the ids of our nodes


def upstream(prompt_id: str, node: str) -> Iterator[str]:
    """The nodes whose outputs lead to a node of a prompt that is executing; none where it is not known."""
    for graph in _executing(prompt_id):
        yield from _upstream(graph, node)


def alike_up_to(node: str, graph: Graph, other: Graph) -> bool:
    """Whether a node and all before it are the same in two graphs, so that the host does not run it again."""
    return node in graph and all(graph[each] == other.get(each) for each in (node, *_upstream(graph, node)))


def works_on_pictures(prompt_id: str, node: str) -> bool:
    """Whether an executing node is known to be given pictures, and to give pictures and no latents."""
    for graph in (each for each in _executing(prompt_id) if node in each):
        given = [type_of(graph[origin].get("class_type", ""), output) for origin, output in _links(graph, graph[node])]
        made = types_given(graph[node].get("class_type", ""))
        return "IMAGE" in given and "IMAGE" in made and "LATENT" not in made
    return False


def type_of(class_type: str, output: int) -> str | None:
    """What an output of a class of nodes gives; None where the host does not know it."""
    types = types_given(class_type)
    return types[output] if isinstance(output, int) and output < len(types) else None


def types_given(class_type: str) -> tuple[str, ...]:
    """What nodes of a class give, output by output; nothing where the host does not know the class."""
    import nodes  # the host's, which is whole only after all packs were loaded

    return tuple(getattr(nodes.NODE_CLASS_MAPPINGS.get(class_type), "RETURN_TYPES", None) or ())


def gives_lists(graph: Graph, node: str) -> bool:
    """Whether a node before this one gives a list, for whose entries the host runs those behind it one by one."""
    import nodes

    classes = (graph.get(each, {}).get("class_type", "") for each in _upstream(graph, node))
    return any(any(getattr(nodes.NODE_CLASS_MAPPINGS.get(each), "OUTPUT_IS_LIST", None) or ()) for each in classes)


def _executing(prompt_id: str) -> Iterator[Graph]:
    queue = getattr(server(), "prompt_queue", None)
    for item in list(getattr(queue, "currently_running", {}).values()):
        if item[1] == prompt_id:
            yield item[2]


def pairs_without_nodes(graph: Graph) -> list[str]:
    """Pair nodes whose conditioning goes to a sampler with a model that no P2P node has touched.

    Args:
        graph: what is to be executed.
    """

    def kind(link: tuple[str, int]) -> str | None:
        return type_of(graph[link[0]].get("class_type", ""), link[1])

    found = []
    for pair, node in graph.items():
        if node.get("class_type") not in PAIR_NODES or node.get("inputs", {}).get("target") == "":
            continue
        open_links, seen = [(pair, 0)], set()
        while open_links:
            link = open_links.pop()
            for name, taker in graph.items():
                links = list(_links(graph, taker))
                if link not in links or name in seen or taker.get("class_type", "").startswith(OWN):
                    continue
                seen.add(name)
                models = [each for each in links if kind(each) == "MODEL"]
                touched = any(_is_ours(graph, each[0]) for each in models)
                if models and not touched and pair not in found:
                    found.append(pair)
                if not models:
                    open_links += [(name, number) for number in range(8) if kind((name, number)) == "CONDITIONING"]
    return found


def _is_ours(graph: Graph, node: str) -> bool:
    """Whether a P2P node that works on models is among a node and those before it."""
    before = [node, *_upstream(graph, node)]
    ours = [each for each in before if graph[each].get("class_type", "").startswith(OWN)]
    return any("pair" in graph[each].get("inputs", {}) or "DDIMInvert" in graph[each]["class_type"] for each in ours)


def _upstream(graph: Graph, node: str) -> Iterator[str]:
    open_nodes, seen = [node], {node}
    while open_nodes:
        for origin, _ in _links(graph, graph.get(open_nodes.pop(), {})):
            if origin not in seen:
                seen.add(origin)
                open_nodes.append(origin)
                yield origin


def _links(graph: Graph, node: Mapping[str, Any]) -> Iterator[tuple[str, int]]:
    """(node, number of its output) of each input that is linked."""
    for value in node.get("inputs", {}).values():
        if isinstance(value, (list, tuple)) and len(value) == 2 and isinstance(value[0], str) and value[0] in graph:
            yield value[0], value[1]
