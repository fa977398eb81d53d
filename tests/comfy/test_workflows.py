"""Every saved workflow, run node by node in the host on small models: of the kinds SD 1.5 and SDXL, and newer ones."""

from __future__ import annotations

import json

import pytest
import torch
from real_host import PACK
from sampling import relative_error
from small_encoders import available, encoder
from small_models import UNET, randomise, sd15, sdxl
from small_transformers import small, there_is
from test_families_with_texts import TEXTS

from tools.workflow_api import api_form, prompt_pair, uses_demo_model, without_p2p

SAVED = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in (PACK / "workflows").glob("*.json")}
FIGURES = ["word_swap", "softer_constraint", "new_phrase", "global_edit", "reweight", "local_blend", "real_image"]
MODELS = {"sd15": sd15, "sdxl": sdxl}
# Templates of newer models -> the model that stands in for what their loaders load.
NEWER = {
    "edits_flux1": "flux_dev",
    "edits_qwen_image": "qwen_image",
    "edits_z_image": "z_image",
    "edits_sd35": "sd35_medium",
    "edits_anima": "anima",
}
SHOWING = ("P2PShowBlendMask", "P2PAttentionMaps")
RUNS = [
    (name, family)
    for family in MODELS
    for name in sorted(SAVED)
    if uses_demo_model(api_form(name)) or name.endswith(family)
]
RUNS += list(NEWER.items())


@pytest.fixture(scope="module")
def models(host):
    return {family: make() for family, make in MODELS.items()}


@pytest.fixture
def run(host, run_node, models, tmp_path, monkeypatch):
    """``run(prompt, family)`` is a function node id -> its outputs. Files are stood in for, and sizes are small."""
    import folder_paths

    monkeypatch.setattr(folder_paths, "temp_directory", str(tmp_path))  # for the previews
    save_lora(tmp_path / "add_detail.safetensors")
    monkeypatch.setitem(folder_paths.folder_names_and_paths, "loras", ([str(tmp_path)], {".safetensors"}))
    monkeypatch.setattr(folder_paths, "filename_list_cache", {})

    def start(prompt, family):
        results = {}
        if family not in models:
            models[family] = newer(family)
        model, clip = models[family]
        stand_ins = {
            "P2PLoadDemoModel": lambda **_: (model, clip, None),
            "CheckpointLoaderSimple": lambda **_: (model, clip, None),
            "UNETLoader": lambda **_: (model,),
            "CLIPLoader": lambda **_: (clip,),
            "DualCLIPLoader": lambda **_: (clip,),
            "ControlNetLoader": lambda **_: (small_control_net(),),
            "LoadImage": lambda **_: (torch.rand(1, 48, 64, 3, generator=torch.manual_seed(2)), None),
            "VAEEncode": lambda **_: ({"samples": torch.randn(1, 4, 8, 8, generator=torch.manual_seed(1))},),
        }

        def outputs(node_id):
            if node_id not in results:
                kind, inputs = prompt[node_id]["class_type"], dict(prompt[node_id]["inputs"])
                if kind in SHOWING:  # these models have no VAE: masks and maps are shown without the pictures
                    inputs.pop("images", None)
                values = {k: outputs(v[0])[v[1]] if isinstance(v, list) else v for k, v in inputs.items()}
                if kind in ("KSampler", "P2PDDIMInvert", "P2PEdit", "P2PGrid"):
                    values["steps"] = 3
                if kind == "P2PGrid":
                    values["vae"] = AsItIs()
                if kind in ("EmptyLatentImage", "EmptySD3LatentImage", "ImageScale"):
                    values["width"] = values["height"] = 64
                results[node_id] = stand_ins[kind](**values) if kind in stand_ins else run_node(kind, **values)
            return results[node_id]

        return outputs

    return start


class AsItIs:
    """Stands in for a VAE: a latent's first channels as colours."""

    def decode(self, samples):
        colours = torch.nn.functional.interpolate(
            samples.flatten(2)[:, :3].unflatten(2, samples.shape[-2:]), scale_factor=8
        )
        return colours.movedim(1, -1).sigmoid()


def newer(name):
    """(model, clip) of the kind that a template of a newer model loads."""
    kind, changes, _ = TEXTS[name]
    if not there_is(name) or kind not in available():
        pytest.skip("newer hosts have it")
    return small(name, **changes), encoder(kind)


def save_lora(path):
    """A LoRA of random weights for the value projection of one cross-attention, in SD 1.5's names."""
    from safetensors.torch import save_file

    generator, name = torch.manual_seed(3), "lora_unet_input_blocks_1_1_transformer_blocks_0_attn2_to_v"
    save_file(
        {
            f"{name}.lora_up.weight": torch.randn(32, 4, generator=generator),
            f"{name}.lora_down.weight": torch.randn(4, 32, generator=generator),
        },
        path,
    )


def small_control_net():
    import comfy.cldm.cldm
    import comfy.controlnet

    shape = {name: value for name, value in UNET.items() if name not in ("out_channels", "transformer_depth_output")}
    network = comfy.cldm.cldm.ControlNet(hint_channels=3, context_dim=32, num_heads=8, **shape)
    randomise(network, seed=4)
    return comfy.controlnet.ControlNet(network, load_device=torch.device("cpu"))


def kinds_of(prompt):
    return {node["class_type"] for node in prompt.values()}


def only(prompt, kind):
    (node_id,) = (node_id for node_id, node in prompt.items() if node["class_type"] == kind)
    return node_id


def test_a_workflow_of_a_newer_model_is_run():
    of_a_model = {name for name in SAVED if name.startswith("edits_") and not uses_demo_model(api_form(name))}
    assert of_a_model == set(NEWER)


@pytest.mark.parametrize("name", [name for name in SAVED if not uses_demo_model(api_form(name))])
def test_a_loader_names_the_files_that_its_template_loads(name):
    """As the host's own templates do, so that the page can offer them. LoRA and ControlNet are a person's own."""
    own = ("LoraLoader", "ControlNetLoader")
    loaders = [node for node in SAVED[name]["nodes"] if "Loader" in node["type"] and node["type"] not in own]
    assert loaders
    for node in loaders:
        wanted = {value for value in node["widgets_values"] if value.endswith(".safetensors")}
        models = node["properties"]["models"]
        assert {model["name"] for model in models} == wanted
        assert all(model["url"].startswith("https://") and model["url"].endswith(model["name"]) for model in models)


@pytest.mark.daily("sd15", *NEWER.values(), *(f"{name}-sdxl" for name in SAVED if name.endswith("sdxl")))
@pytest.mark.parametrize("name, family", RUNS, ids=["-".join(run) for run in RUNS])
def test_a_workflow_runs_on_another_model(run, name, family):
    prompt = api_form(name)
    outputs = run(prompt, family)
    if "P2PGrid" in kinds_of(prompt):
        sheet, images = outputs(only(prompt, "P2PGrid"))
        assert sheet.shape[0] == 1 and images.shape == (2 * (1 + 5), 64, 64, 3)
        assert all(not torch.allclose(images[0], each) for each in images[2:])
        return
    batches = [node["inputs"]["batch_size"] for node in prompt.values() if node["class_type"] == "EmptyLatentImage"]
    seeds = batches[0] if batches else 1
    sampler = prompt[only(prompt, "VAEDecode")]["inputs"]["samples"][0]  # the last of several
    rows, edits = outputs(sampler)[0]["samples"], len(prompt_pair(prompt)[1])
    assert len(rows) == seeds * (1 + edits)
    assert all(not torch.allclose(rows[0], row) for row in rows[1:])
    for node_id, node in prompt.items():
        if node["class_type"] == "P2PShowBlendMask":
            mask, image = outputs(node_id)
            assert mask.shape == image.shape[:3] == (seeds * edits, 64, 64)
        if node["class_type"] == "P2PAttentionMaps":
            sheet, masks = outputs(node_id)
            assert sheet.shape[0] == 1 and sheet.shape[-1] == 3
            assert masks.shape[1:] == (64, 64) and masks.min() >= 0 and masks.max() <= 1


def test_the_source_beside_lora_and_control_net_is_that_of_the_stock_nodes(run):
    prompt = api_form("lora_controlnet_sd15")
    sampler = only(prompt, "KSampler")
    edited = run(prompt, "sd15")(sampler)[0]["samples"]
    source, _, pair = prompt_pair(prompt)
    (stock,) = without_p2p({**prompt, pair: {**prompt[pair], "inputs": {**prompt[pair]["inputs"], "target": source}}})
    stock_picture = run(stock, "sd15")(sampler)[0]["samples"]
    assert relative_error(edited[:1], stock_picture) < 1e-5  # single precision, the rows of a batch summed otherwise
    for kind, strength in (("LoraLoader", "strength_model"), ("ControlNetApplyAdvanced", "strength")):
        stock[only(stock, kind)]["inputs"][strength] = 0.0
        assert not torch.allclose(run(stock, "sd15")(sampler)[0]["samples"], stock_picture, atol=1e-2), kind


@pytest.mark.parametrize("family, loads, side", [("sd15", "v1-5", 512), ("sdxl", "sd_xl", 1024)])
@pytest.mark.parametrize("figure", FIGURES)
def test_a_figure_for_a_checkpoint_is_the_same_graph(figure, family, loads, side):
    """Only the loader differs, the prompts, and the picture's size and origin."""
    ours, theirs = kinds_and_links(SAVED[figure]), kinds_and_links(SAVED[f"{figure}_{family}"])
    assert theirs == ours
    nodes = {node["type"]: node["widgets_values"] for node in SAVED[f"{figure}_{family}"]["nodes"]}
    assert nodes["CheckpointLoaderSimple"][0].startswith(loads)
    assert nodes.get("EmptyLatentImage", nodes.get("ImageScale", [])[1:])[:2] == [side, side]


def kinds_and_links(workflow):
    """The graph without places and values. Both loaders count as one, and so do both pictures to edit."""
    same = {"CheckpointLoaderSimple": "P2PLoadDemoModel", "ImageScale": "P2PDemoPicture"}
    kinds = {node["id"]: same.get(node["type"], node["type"]) for node in workflow["nodes"]}
    links = [(kinds[origin], out, kinds[target], into) for _, origin, out, target, into, _ in workflow["links"]]
    links = [link for link in links if link[0] != "LoadImage"]
    return sorted(kind for kind in kinds.values() if kind != "LoadImage"), sorted(links)
