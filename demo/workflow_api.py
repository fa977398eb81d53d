"""Saved workflows as the executor wants them.

ComfyUI saves a workflow in the page's form (nodes with places, widget values by position, a list of links) and runs
the *API form*: ``{node id: {"class_type", "inputs": {name: value or [node id, output]}}}``. The page converts one
into the other when Queue is pressed; :func:`to_api` does the same without a page. Standard library only.
"""

import copy
import re

MUTED, BYPASSED = 2, 4
NOTES = ("Note", "MarkdownNote")
PAIRS = ("P2PPromptPair", "P2PPairFromConditioning")
# The input that a node's first output is made of, if not its model.
PASSED_ON = {"P2PNullTextOptimize": "negative", "P2PPairFromConditioning": "target_conditioning"}
WIDGET_TYPES = ("INT", "FLOAT", "STRING", "BOOLEAN", "COMBO")


def to_api(workflow, object_info):
    """The API form of a saved workflow, equal to what the page's own ``graphToPrompt`` gives.

    Not done: subgraphs, and what the page does inside texts (``{a|b}`` choices, ``%date%`` in file names).

    Args:
        workflow: the parsed JSON of a saved workflow, version 0.4 (links are lists) or 1 (links are objects).
        object_info: what the server answers to GET /object_info.

    Raises:
        ValueError: a node's type is not in ``object_info``, or its saved values do not fit its widgets.
    """
    nodes = {node["id"]: node for node in workflow["nodes"]}
    links = {}
    for link in workflow["links"]:
        if isinstance(link, dict):
            link = [link["id"], link["origin_id"], link["origin_slot"], link["target_id"], link["target_slot"]]
        links[link[0]] = (link[1], link[2])

    missing = sorted(
        {
            f"{node['type']} (node {node['id']})"
            for node in nodes.values()
            if node["type"] not in object_info and not _is_virtual(node)
        }
    )
    if missing:
        raise ValueError(
            f"wanted node types that this ComfyUI has, got {', '.join(missing)}. Install the pack they "
            "come from, or take them out of the workflow."
        )

    def resolve(link_id):
        """What feeds a link: ("link", [id, output]), ("value", of a primitive node), or None."""
        while link_id in links:
            origin_id, slot = links[link_id]
            node = nodes[origin_id]
            if node.get("mode", 0) == MUTED:
                return None
            if node["type"] == "PrimitiveNode":
                return "value", node["widgets_values"][0]
            if node["type"] == "Reroute":
                link_id = node["inputs"][0].get("link")
            elif node.get("mode", 0) == BYPASSED:
                link_id = _bypass(node, slot)
            else:
                return "link", [str(origin_id), slot]
        return None

    prompt = {}
    for node in sorted(nodes.values(), key=lambda node: node.get("order", 0)):
        if _is_virtual(node) or node.get("mode", 0) in (MUTED, BYPASSED):
            continue
        info = object_info[node["type"]]
        inputs = _widget_values(node, info)
        for socket in node.get("inputs", ()):
            kind, value = resolve(socket.get("link")) or (None, None)
            if kind:
                inputs[socket["name"]] = value
        title = node.get("title") or info.get("display_name") or node["type"]
        prompt[str(node["id"])] = {"inputs": inputs, "class_type": node["type"], "_meta": {"title": title}}
    return prompt


def uses_demo_model(workflow):
    """Does a saved workflow take its model from this pack, so that it runs without a checkpoint?"""
    return any(node["type"] == "P2PLoadDemoModel" for node in workflow["nodes"])


def _is_virtual(node):
    return node["type"] in NOTES or node["type"] in ("Reroute", "PrimitiveNode")


def _bypass(node, slot):
    """The input link that a bypassed node passes on to its output ``slot``: same place first, then same type."""
    wanted, inputs = node["outputs"][slot]["type"], node.get("inputs", ())
    for socket in [*inputs[slot : slot + 1], *inputs]:
        if wanted in (socket["type"], "*") or socket["type"] == "*":
            return socket.get("link")
    return None


def _widget_values(node, info):
    """Input name -> saved value. The page saves one value per widget, in the order of the node's definition."""
    values, named = list(node.get("widgets_values") or ()), {}
    for section in ("required", "optional"):
        specs = info["input"].get(section, {})
        for name in info.get("input_order", {}).get(section, specs):
            kind, options = specs[name][0], (specs[name][1:] or [{}])[0]
            is_combo = isinstance(kind, list) or kind == "COMBO"
            if not (is_combo or kind in WIDGET_TYPES) or options.get("forceInput"):
                continue
            if not values:
                if section == "optional" and "default" in options:  # saved before this input existed
                    named[name] = options["default"]
                    continue
                raise ValueError(
                    f"{node['type']} (node {node['id']}): wanted a saved value for its widget {name!r}, "
                    f"got only {node.get('widgets_values')}. Open the workflow in ComfyUI and save it "
                    "again."
                )
            value = values.pop(0)
            named[name] = {"__value__": value} if isinstance(value, list) else value  # a list would mean a link
            is_seed = kind == "INT" and name in ("seed", "noise_seed")
            if options.get("control_after_generate", is_seed) and values:
                values.pop(0)  # fixed, increment, randomize: a widget of the page alone
                if is_combo and values:
                    values.pop(0)  # and its filter
            if options.get("image_upload") and values:
                values.pop(0)  # the upload button
    return named


# ----------------------------------------------------------------------------------------- the same, without our nodes


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


def without_p2p(prompt):
    """For each edit, the stock graph that draws its target prompt: what one gets without Prompt-to-Prompt.

    The pair becomes a CLIPTextEncode of that target, or the conditioning that it was made from; MODEL links skip our
    nodes, and nodes that only make sense with them go. Seeds, sampler and everything else stay.

    Returns:
        One API-form prompt per edit, in the order of the edits.
    """
    _, targets, pair = prompt_pair(prompt)
    return [_with_stock_nodes(prompt, pair, target) for target in targets]


def without_blend(prompt):
    """The same graph with its edits, but without P2PLocalBlendMask and what hangs on its masks."""
    return _without(prompt, {key for key, node in prompt.items() if node["class_type"] == "P2PLocalBlendMask"})


def _with_stock_nodes(prompt, pair, text):
    ours = {
        key
        for key, node in prompt.items()
        if node["class_type"].startswith("P2P") and _is_link(node["inputs"].get("model"))
    }
    if prompt[pair]["class_type"] == "P2PPairFromConditioning":
        return _without(prompt, {*ours, pair}, [pair, 1])
    encode = {"class_type": "CLIPTextEncode", "inputs": {"clip": prompt[pair]["inputs"]["clip"], "text": text}}
    return _without({**prompt, pair: encode}, ours, [pair, 1])


def _without(prompt, unwanted, *lost):
    """A copy without the ``unwanted`` nodes on the model and without what needs their other outputs, or ``lost``."""

    def skip(value):
        while _is_link(value) and value[0] in unwanted and value[1] == 0:
            node = prompt[value[0]]
            value = node["inputs"][PASSED_ON.get(node["class_type"], "model")]
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
