"""The saved workflows' API forms, and graphs made of them: without our nodes, without the blend."""

import copy
import json

import pytest

from tools.workflow_api import (
    WORKFLOWS,
    api_form,
    edits,
    names,
    prompt_pair,
    saved_pictures,
    uses_demo_model,
    without_blend,
    without_p2p,
)


def test_every_workflow_has_an_api_form_and_no_other_is_there():
    assert names() == sorted(path.stem for path in (WORKFLOWS / "api").glob("*.json"))
    with pytest.raises(FileNotFoundError, match="python dev.py workflow-api"):
        api_form("none")


@pytest.mark.parametrize("name", names())
def test_an_api_form_has_the_nodes_of_its_workflow(name):
    """Quicker than the page, which holds them together to the letter: nobody forgot to write it again."""
    saved = json.loads((WORKFLOWS / f"{name}.json").read_text(encoding="utf-8"))
    kinds = {str(node["id"]): node["type"] for node in saved["nodes"] if "Note" not in node["type"]}
    assert {key: node["class_type"] for key, node in api_form(name).items()} == kinds


@pytest.mark.parametrize("name", names())
def test_a_workflow_compares_its_pictures_and_saves_source_and_edits_apart(name):
    prompt = api_form(name)
    kinds = {node["class_type"] for node in prompt.values()}
    if "P2PGrid" in kinds or not prompt_pair(prompt)[1]:  # its picture is a sheet; or there is no edit
        return
    (compare,) = (key for key, node in prompt.items() if node["class_type"] == "P2PCompare")
    pair, output = prompt[compare]["inputs"]["pair"]
    assert pair == prompt_pair(prompt)[2] and output == (3 if "P2PEdit" in kinds else 1)
    assert {(*node["inputs"]["images"], node["inputs"]["filename_prefix"]) for node in saves(prompt)} == {
        (compare, 0, f"p2p_{name}_source"),
        (compare, 1, f"p2p_{name}_edit"),
    }
    if uses_demo_model(prompt):
        assert [len(saves(each)) for each in without_p2p(prompt)] == [1] * len(prompt_pair(prompt)[1])
        assert len(saves(without_blend(prompt))) == 2


@pytest.mark.parametrize("name", ["edit", "edit_photo"])
def test_an_app_asks_for_what_the_nodes_have_and_shows_what_is_saved(name):
    """The page's apps show pictures of ``images`` alone, so not those of P2P Compare."""
    saved = json.loads((WORKFLOWS / f"{name}.json").read_text(encoding="utf-8"))
    prompt, app = api_form(name), saved["extra"]["linearData"]
    assert all(inputs in prompt[str(node)]["inputs"] for node, inputs in app["inputs"])
    assert [prompt[str(node)] for node in app["outputs"]] == saves(prompt)
    assert [node["inputs"]["images"][1] for node in saves(prompt)] == [0, 1], "the source, and the edits"


def saves(prompt):
    return [node for node in prompt.values() if node["class_type"] == "SaveImage"]


def test_pictures_are_in_the_order_of_seeds():
    def save(*images):
        return {"class_type": "SaveImage", "inputs": {"images": list(images)}}

    apart = {"1": save("7", 1), "2": save("7", 0)}
    assert saved_pictures(apart, {"1": ["b", "c", "e", "f"], "2": ["a", "d"]}) == ["a", "b", "c", "d", "e", "f"]
    together = {"1": save("7", 0), "2": {"class_type": "P2PAttentionMaps", "inputs": {}}}
    assert saved_pictures(together, {"1": ["a", "b"], "2": ["a sheet"]}) == ["a", "b"]
    assert saved_pictures(together, {"2": ["a sheet"]}) == []


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


def test_without_a_whole_edit_in_one_node(prompt):
    """Its prompts become texts, its masks and pair go with what needs them; a composite and what compares source and
    edit hand their pictures on."""

    def made(kind, **inputs):
        return {"class_type": kind, "inputs": inputs}

    prompt = {
        "1": prompt["1"],
        "2": made("P2PEdit", model=["1", 0], clip=["1", 1], source="a cat", target="a dog", negative="blurry"),
        "3": made("KSampler", model=["2", 0], positive=["2", 1], negative=["2", 2], seed=3),
        "4": made("VAEDecode", samples=["3", 0], vae=["1", 2]),
        "5": made("P2PShowBlendMask", masks=["2", 4], latent=["3", 0]),
        "6": made("P2PComposite", images=["4", 0], pair=["2", 3], masks=["5", 0]),
        "7": made("SaveImage", images=["8", 0]),
        "8": made("P2PCompare", images=["6", 0], pair=["2", 3]),
        "9": made("SaveImage", images=["8", 1]),
    }
    kept = copy.deepcopy(prompt)
    assert prompt_pair(prompt) == ("a cat", ["a dog"], "2")
    (dog,) = without_p2p(prompt)
    assert prompt == kept
    assert dog["3"]["inputs"] == {
        "model": ["1", 0],
        "positive": ["2 positive", 0],
        "negative": ["2 negative", 0],
        "seed": 3,
    }
    assert dog["2 positive"] == made("CLIPTextEncode", clip=["1", 1], text="a dog")
    assert dog["2 negative"] == made("CLIPTextEncode", clip=["1", 1], text="blurry")
    assert dog["7"]["inputs"] == {"images": ["4", 0]}
    assert set(dog) == {"1", "2 positive", "2 negative", "3", "4", "7"}


def test_without_blend(prompt):
    prompt["11"] = {"class_type": "P2PLocalBlendMask", "inputs": {"model": ["4", 0], "pair": ["2", 1]}}
    prompt["12"] = {"class_type": "P2PShowBlendMask", "inputs": {"masks": ["11", 1], "latent": ["6", 0]}}
    prompt["13"] = {"class_type": "P2PComposite", "inputs": {"images": ["7", 0], "pair": ["2", 1], "masks": ["12", 0]}}
    prompt["14"] = {"class_type": "SaveImage", "inputs": {"images": ["13", 0]}}
    prompt["6"]["inputs"]["model"] = ["11", 0]
    kept = copy.deepcopy(prompt)
    plain = without_blend(prompt)
    assert prompt == kept
    assert set(prompt) - set(plain) == {"11", "12", "13"}
    assert plain["14"]["inputs"]["images"] == ["7", 0]
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
