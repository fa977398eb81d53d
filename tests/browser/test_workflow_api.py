"""Saved workflow -> API form, and the graph without our nodes; test_page.py compares with the page itself."""

import copy

import pytest
from workflow_api import edits, prompt_pair, to_api, without_blend, without_p2p

INFO = {
    "Load": {"display_name": "Load It", "input": {"required": {"name": [["a.safetensors", "b.safetensors"]]}}},
    "Encode": {
        "input": {"required": {"text": ["STRING", {"multiline": True}], "clip": ["CLIP"]}},
        "input_order": {"required": ["text", "clip"]},
    },
    "Sample": {
        "input": {
            "required": {
                "model": ["MODEL"],
                "seed": ["INT", {"control_after_generate": True}],
                "steps": ["INT", {}],
                "sampler": ["COMBO", {"options": ["euler"]}],
                "positive": ["CONDITIONING"],
            },
            "optional": {"strength": ["FLOAT", {"default": 1.0}], "note": ["STRING", {"forceInput": True}]},
        },
    },
    "Patch": {"input": {"required": {"clip": ["CLIP"], "model": ["MODEL"], "scale": ["FLOAT", {}]}}},
}


def socket(name, kind, link=None, **more):
    return {"name": name, "type": kind, "link": link, **more}


def node(number, kind, inputs=(), outputs=(), values=None, **more):
    return {
        "id": number,
        "type": kind,
        "inputs": list(inputs),
        "mode": 0,
        "order": number,
        "outputs": [{"name": name, "type": name} for name in outputs],
        "widgets_values": values,
        **more,
    }


@pytest.fixture
def workflow():
    return {
        "version": 0.4,
        "nodes": [
            node(1, "Load", outputs=("MODEL", "CLIP"), values=["a.safetensors"]),
            node(2, "Encode", [socket("clip", "CLIP", 2)], ["CONDITIONING"], ["a cat"]),
            node(3, "Patch", [socket("clip", "CLIP", 5), socket("model", "MODEL", 1)], ["MODEL"], [0.5]),
            node(
                4,
                "Sample",
                [socket("model", "MODEL", 3), socket("positive", "CONDITIONING", 4)],
                values=[7, "randomize", 20, "euler", 0.9],
                title="Draw",
            ),
            node(5, "Note", values=["hello"]),
        ],
        "links": [
            [1, 1, 0, 3, 1, "MODEL"],
            [2, 1, 1, 2, 0, "CLIP"],
            [3, 3, 0, 4, 0, "MODEL"],
            [4, 2, 0, 4, 1, "CONDITIONING"],
            [5, 1, 1, 3, 0, "CLIP"],
        ],
    }


def by_id(workflow, number):
    return next(node for node in workflow["nodes"] if node["id"] == number)


def test_nodes_links_and_widgets(workflow):
    assert to_api(workflow, INFO) == {
        "1": {"class_type": "Load", "inputs": {"name": "a.safetensors"}, "_meta": {"title": "Load It"}},
        "2": {"class_type": "Encode", "inputs": {"text": "a cat", "clip": ["1", 1]}, "_meta": {"title": "Encode"}},
        "3": {
            "class_type": "Patch",
            "inputs": {"clip": ["1", 1], "model": ["1", 0], "scale": 0.5},
            "_meta": {"title": "Patch"},
        },
        "4": {
            "class_type": "Sample",
            "_meta": {"title": "Draw"},
            "inputs": {
                "model": ["3", 0],
                "seed": 7,
                "steps": 20,
                "sampler": "euler",
                "positive": ["2", 0],
                "strength": 0.9,
            },
        },
    }


def test_links_as_objects_say_the_same(workflow):
    other = copy.deepcopy(workflow)
    names = ("id", "origin_id", "origin_slot", "target_id", "target_slot", "type")
    other.update(version=1, links=[dict(zip(names, link)) for link in workflow["links"]])
    assert to_api(other, INFO) == to_api(workflow, INFO)


def test_a_bypassed_node_passes_on_the_input_of_the_same_type(workflow):
    by_id(workflow, 3)["mode"] = 4
    prompt = to_api(workflow, INFO)
    assert "3" not in prompt
    assert prompt["4"]["inputs"]["model"] == ["1", 0]


def test_a_muted_node_and_the_links_from_it_go(workflow):
    by_id(workflow, 2)["mode"] = 2
    prompt = to_api(workflow, INFO)
    assert "2" not in prompt
    assert "positive" not in prompt["4"]["inputs"]


def test_a_reroute_is_a_piece_of_link(workflow):
    workflow["nodes"].append(node(6, "Reroute", [socket("", "*", 3)], ["MODEL"]))
    workflow["links"] += [[6, 6, 0, 4, 0, "MODEL"]]
    by_id(workflow, 4)["inputs"][0]["link"] = 6
    assert to_api(workflow, INFO)["4"]["inputs"]["model"] == ["3", 0]


def test_a_linked_widget_takes_the_link_and_keeps_its_place(workflow):
    by_id(workflow, 4)["inputs"].append(socket("steps", "INT", 7, widget={"name": "steps"}))
    workflow["nodes"].append(node(6, "PrimitiveNode", outputs=["INT"], values=[33, "fixed"]))
    workflow["links"].append([7, 6, 0, 4, 2, "INT"])
    inputs = to_api(workflow, INFO)["4"]["inputs"]
    assert (inputs["steps"], inputs["sampler"], inputs["strength"]) == (33, "euler", 0.9)


def test_an_optional_widget_that_the_file_does_not_know_has_its_default(workflow):
    by_id(workflow, 4)["widgets_values"].pop()
    assert to_api(workflow, INFO)["4"]["inputs"]["strength"] == 1.0


def test_a_missing_node_is_named(workflow):
    by_id(workflow, 3)["type"] = "Elsewhere"
    with pytest.raises(ValueError, match=r"got Elsewhere \(node 3\)"):
        to_api(workflow, INFO)


def test_too_few_values_are_named(workflow):
    by_id(workflow, 4)["widgets_values"] = [7, "fixed"]
    with pytest.raises(ValueError, match=r"Sample \(node 4\).*'steps'"):
        to_api(workflow, INFO)


# ----------------------------------------------------------------------------------------- the same, without our nodes


@pytest.fixture
def prompt():
    def made(kind, **inputs):
        return {"class_type": kind, "inputs": inputs}

    return {
        "1": made("P2PLoadDemoModel"),
        "2": made("P2PPromptPair", clip=["1", 1], source="a cat", target="a dog\n---\na fox at night"),
        "3": made("P2PAttentionReplace", model=["1", 0], pair=["2", 1], cross_end=0.8),
        "4": made("P2PReweightToken", model=["3", 0], pair=["2", 1], words="dog", scale=2.0),
        "5": made("CLIPTextEncode", clip=["1", 1], text=""),
        "6": made("KSampler", model=["4", 0], positive=["2", 0], negative=["5", 0], seed=3),
        "7": made("VAEDecode", samples=["6", 0], vae=["1", 2]),
        "8": made("SaveImage", images=["7", 0]),
        "9": made("P2PShowMaps", pair=["2", 1]),
        "10": made("SaveImage", images=["9", 0]),
    }


def test_without_p2p(prompt):
    kept = copy.deepcopy(prompt)
    dog, fox = without_p2p(prompt)
    assert prompt == kept
    assert dog["2"] == {"class_type": "CLIPTextEncode", "inputs": {"clip": ["1", 1], "text": "a dog"}}
    assert fox["2"]["inputs"]["text"] == "a fox at night"
    assert dog["6"]["inputs"] == {"model": ["1", 0], "positive": ["2", 0], "negative": ["5", 0], "seed": 3}
    assert set(dog) == set(fox) == {"1", "2", "5", "6", "7", "8"}


def test_a_pair_of_conditionings(prompt):
    """Its texts may come from String nodes; without our nodes the target's conditioning goes to the sampler."""
    prompt["11"] = {"class_type": "CLIPTextEncode", "inputs": {"clip": ["1", 1], "text": ["12", 0]}}
    prompt["12"] = {"class_type": "PrimitiveStringMultiline", "inputs": {"value": "a dog"}}
    prompt["2"] = {
        "class_type": "P2PPairFromConditioning",
        "inputs": {
            "clip": ["1", 1],
            "source_conditioning": ["5", 0],
            "target_conditioning": ["11", 0],
            "source": "a cat",
            "target": ["12", 0],
        },
    }
    assert prompt_pair(prompt) == ("a cat", ["a dog"], "2")
    (dog,) = without_p2p(prompt)
    assert dog["6"]["inputs"] == {"model": ["1", 0], "positive": ["11", 0], "negative": ["5", 0], "seed": 3}
    assert set(dog) == {"1", "5", "6", "7", "8", "11", "12"}


def test_without_blend(prompt):
    prompt["11"] = {"class_type": "P2PLocalBlendMask", "inputs": {"model": ["4", 0], "pair": ["2", 1]}}
    prompt["12"] = {"class_type": "P2PShowBlendMask", "inputs": {"masks": ["11", 1], "latent": ["6", 0]}}
    prompt["6"]["inputs"]["model"] = ["11", 0]
    kept = copy.deepcopy(prompt)
    plain = without_blend(prompt)
    assert prompt == kept
    assert set(prompt) - set(plain) == {"11", "12"}
    assert plain["6"]["inputs"]["model"] == ["4", 0]


def test_one_pair_is_wanted(prompt):
    assert prompt_pair(prompt) == ("a cat", ["a dog", "a fox at night"], "2")
    prompt["11"] = prompt["2"]
    with pytest.raises(ValueError, match="got 2"):
        prompt_pair(prompt)


@pytest.mark.parametrize(
    "text, parts",
    [
        ("a dog", ["a dog"]),
        ("a dog\n---\na fox", ["a dog", "a fox"]),
        ("a dog \r\n --- \r\n a fox", ["a dog", "a fox"]),
        ("a well---known dog", ["a well---known dog"]),
        (" \n", []),
    ],
)
def test_edits(text, parts):
    assert edits(text) == parts
