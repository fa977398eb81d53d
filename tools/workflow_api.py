"""Saved workflows as the executor wants them, and graphs made of them.

ComfyUI saves a workflow in the page's form (nodes with places, widget values by position, a list of links) and runs
the *API form*: ``{node id: {"class_type", "inputs": {name: value or [node id, output]}}}``. The page converts one into
the other when Queue is pressed. workflows/api/NAME.json is what it makes of workflows/NAME.json, written by
``python dev.py workflow-api``; tests/browser/test_page.py holds them together. Standard library only.
"""

import copy
import json
import re
from pathlib import Path

WORKFLOWS = Path(__file__).resolve().parents[1] / "workflows"
PAIRS = ("P2PPromptPair", "P2PPairFromConditioning", "P2PEdit", "P2PGrid")
# By kind of node, where it is not the model; see ``passed_on``.
PASSED_ON = {
    "P2PNullTextOptimize": "negative",
    "P2PPairFromConditioning": "target_conditioning",
    "P2PComposite": "images",
    "P2PCompare": "images",
}


def passed_on(node):
    """The input that a node's first output is made of."""
    return PASSED_ON.get(node["class_type"], "model")


def names():
    """The names of all saved workflows, sorted."""
    return sorted(path.stem for path in WORKFLOWS.glob("*.json"))


def api_form(name):
    """The API form of a saved workflow.

    Raises:
        FileNotFoundError: it was not written yet.
    """
    path = WORKFLOWS / "api" / f"{name}.json"
    if not path.is_file():
        raise FileNotFoundError(f"wanted {path}, got no file. Write it with: python dev.py workflow-api")
    return json.loads(path.read_text(encoding="utf-8"))


def uses_demo_model(prompt):
    """Does an API-form prompt take its model from this pack, so that it runs without a checkpoint?"""
    return any(node["class_type"] == "P2PLoadDemoModel" for node in prompt.values())


def edits(text):
    """The single prompts of P2PPromptPair's ``target``, which stand between lines ``---``; none where it is empty."""
    if not text.strip():
        return []
    return [part.strip() for part in re.split(r"(?m)^\s*---\s*$", text)]


def prompt_pair(prompt):
    """(source, [targets], node id) of the one prompt pair of an API-form prompt."""
    pairs = [(key, node) for key, node in prompt.items() if node["class_type"] in PAIRS]
    if len(pairs) != 1:
        raise ValueError(f"wanted a workflow with one {' or '.join(PAIRS)}, got {len(pairs)}.")
    key, pair = pairs[0]
    source, target = (_text(prompt, pair["inputs"][name]) for name in ("source", "target"))
    return source.strip(), edits(target), key


def _text(prompt, value):
    """A text, written on the node or linked from a String node."""
    return prompt[value[0]]["inputs"]["value"] if _is_link(value) else value


def saved_pictures(prompt, shown):
    """What a run saved, seed by seed, the source first, then its edits.

    Args:
        prompt: API form; one Save Image for all, or one behind each of P2P Compare's outputs, ``source`` and ``edits``.
        shown: node id -> its images, as the server lists them.
    """
    saved = {
        node["inputs"]["images"][1]: shown[key]
        for key, node in prompt.items()
        if node["class_type"] == "SaveImage" and key in shown
    }
    sources, edits = saved.get(0, []), saved.get(1, [])
    each = len(edits) // max(1, len(sources))
    return [image for seed, source in enumerate(sources) for image in (source, *edits[seed * each : (seed + 1) * each])]


def without_p2p(prompt):
    """For each edit, the stock graph that draws its target prompt: what one gets without Prompt-to-Prompt.

    The pair becomes a CLIPTextEncode of that target, or the conditioning that it was made from; links skip our nodes,
    and nodes that only make sense with them go: what saved the source saves the picture. Seeds, sampler and everything
    else stay.

    Returns:
        One API-form prompt per edit, in the order of the edits.
    """
    _, targets, pair = prompt_pair(prompt)
    return [_with_stock_nodes(prompt, pair, target) for target in targets]


def without_blend(prompt):
    """The same graph with its edits, but without P2PLocalBlendMask and what its masks are for."""
    by_masks = ("P2PLocalBlendMask", "P2PComposite")
    return _without(prompt, {key for key, node in prompt.items() if node["class_type"] in by_masks})


def _with_stock_nodes(prompt, pair, text):
    ours = {
        key
        for key, node in prompt.items()
        if node["class_type"].startswith("P2P") and _is_link(node["inputs"].get(passed_on(node)))
    }
    kind, inputs = prompt[pair]["class_type"], prompt[pair]["inputs"]
    if kind == "P2PPairFromConditioning":
        return _without(prompt, {*ours, pair}, [pair, 1])

    def encode(text):
        return {"class_type": "CLIPTextEncode", "inputs": {"clip": inputs["clip"], "text": text}}

    if kind == "P2PEdit":
        texts = {"positive": encode(text), "negative": encode(inputs["negative"])}
        texts = {f"{pair} {name}": node for name, node in texts.items()}
        stands_for = {(pair, output): [key, 0] for output, key in enumerate(texts, 1)}
        relinked = {key: copy.deepcopy(node) for key, node in prompt.items()}
        for node in relinked.values():
            for name, value in node["inputs"].items():
                if _is_link(value):
                    node["inputs"][name] = stands_for.get(tuple(value), value)
        return _without({**relinked, **texts}, ours, [pair, 3], [pair, 4])
    return _without({**prompt, pair: encode(text)}, ours, [pair, 1])


def _without(prompt, unwanted, *lost):
    """A copy without the ``unwanted`` nodes on the model and without what needs their other outputs, or ``lost``."""

    def skip(value):
        while _is_link(value) and value[0] in unwanted and value[1] == 0:
            node = prompt[value[0]]
            value = node["inputs"][passed_on(node)]
        return value

    kept = {key: copy.deepcopy(node) for key, node in prompt.items() if key not in unwanted}
    for node in kept.values():
        node["inputs"] = {name: skip(value) for name, value in node["inputs"].items()}

    def is_fed(node):
        return all(value[0] in kept and value not in lost for value in node["inputs"].values() if _is_link(value))

    while not all(map(is_fed, kept.values())):
        kept = {key: node for key, node in kept.items() if is_fed(node)}
    return kept


def _is_link(value):
    return isinstance(value, list) and len(value) == 2 and isinstance(value[0], str) and isinstance(value[1], int)
