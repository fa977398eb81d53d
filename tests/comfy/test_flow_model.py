"""The flow demo model inside a real ComfyUI, untrained: the host's classes, its texts, and what training computes."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

LONGEST = (
    "a picture of an umbrella in orange with stripes and a mushroom in purple with dots on the grass at night in the "
    "fog as a drawing"
)


def flow_options(folder, begin_with):
    return SimpleNamespace(
        out=folder, weights=folder / "flow.safetensors", scenes=0, seed=0, steps=1, minutes=1.0, batch=32,
        begin_with=begin_with,
    )  # fmt: skip


def flow_file(folder, begin_with):
    from tools.training import flow as training

    folder.mkdir(exist_ok=True)
    options = flow_options(folder, begin_with)
    training.export(options)
    return options.weights


@pytest.fixture(scope="module")
def flow(host, tmp_path_factory):
    """(model, clip, vae) of a file that the training's export wrote, before its first step."""
    torch.manual_seed(0)
    weights = flow_file(tmp_path_factory.mktemp("flow"), None)
    assert weights.stat().st_size <= 14_000_000
    model, clip, vae = host.module("demo.flow").load_flow_model(weights)
    generator = torch.Generator().manual_seed(1)
    for parameter in model.model.diffusion_model.parameters():  # training begins with blocks that do nothing
        parameter.data += 0.05 * torch.randn(parameter.shape, generator=generator)
    return model, clip, vae


def test_is_made_of_the_hosts_classes(flow):
    import comfy.ldm.flux.model
    import comfy.model_base
    import comfy.model_patcher
    import comfy.model_sampling
    import comfy.sd
    import comfy.sd1_clip

    model, clip, vae = flow
    assert type(model) is comfy.model_patcher.ModelPatcher
    assert isinstance(model.model, comfy.model_base.Flux)
    assert type(model.model.diffusion_model) is comfy.ldm.flux.model.Flux
    assert isinstance(model.get_model_object("model_sampling"), comfy.model_sampling.CONST)
    assert type(clip) is comfy.sd.CLIP and isinstance(clip.tokenizer, comfy.sd1_clip.SD1Tokenizer)
    assert type(vae) is comfy.sd.VAE


@pytest.mark.parametrize("prompt, length, words", [("", 28, 0), ("a (house:1.3) in blue", 28, 4), (LONGEST, 28, 27)])
def test_texts_have_the_length_of_training(run_node, flow, prompt, length, words):
    context = run_node("CLIPTextEncode", clip=flow[1], text=prompt)[0][0][0]
    filled = context[0].abs().sum(-1) > 0
    assert filled.tolist() == [True] * (1 + words) + [False] * (length - 1 - words)


def test_longer_texts_are_longer(run_node, flow):
    lengths = [run_node("CLIPTextEncode", clip=flow[1], text="a " * n)[0][0][0].shape[1] for n in (27, 40, 100)]
    assert lengths == [28, 41, 154]


def test_every_word_is_found_where_it_stands(run_node, flow):
    _, pair = run_node("P2PPromptPair", clip=flow[1], source=LONGEST, target="a cat")
    assert [word.positions for word in pair.source.words] == [(i,) for i in range(1, 28)]
    assert pair.source.length == 28 and pair.padded


def test_training_computes_what_the_host_computes(host, flow):
    """Its forward, by operations that have gradients; with amounts, image queries see the text's values times them."""
    from tools.training import flow as training

    module = flow[0].model.diffusion_model
    generator = torch.Generator().manual_seed(5)
    x, context = (torch.randn(*shape, generator=generator) for shape in ((2, 4, 16, 16), (2, 28, 128)))
    t, amounts = torch.tensor([0.2, 0.9]), torch.ones(2, 28)
    rotation = training.rotations(module, 8, 8)
    wanted = module(x.clone(), t, context.clone())
    got = training.predict(module, x, t, context, amounts, rotation)
    assert (got - wanted).norm() < 1e-6 * wanted.norm()

    amounts[:, 3] = -0.5
    faded = module(x.clone(), t, context.clone(), transformer_options={"optimized_attention_override": faders(amounts)})
    got = training.predict(module, x, t, context, amounts, rotation)
    assert (got - faded).norm() < 1e-6 * wanted.norm()
    assert (faded - wanted).norm() > 1e-3 * wanted.norm()


def faders(amounts):
    def override(func, q, k, v, heads, *args, **kwargs):
        texts = amounts.shape[1]
        values = torch.cat([v[:, :, :texts] * amounts[:, None, :, None], v[:, :, texts:]], 2)
        plain, faded = (func(q, k, each, heads, *args, **kwargs) for each in (v, values))
        return torch.cat([plain[:, :texts], faded[:, texts:]], 1)

    return override


def test_training_goes_on_from_earlier_weights(host, flow, tmp_path):
    """A fresh run that begins with an exported model, and says so in its own."""
    from demo.model import read_weights
    from tools.training import flow as training

    first = flow_file(tmp_path / "first", None)
    module, text, trainer = training.new_flow(flow_options(tmp_path / "second", first))
    state, _ = read_weights(first, ("flow", "text"))
    trained = host.module("demo.flow").as_the_file_names_them(module.state_dict())
    assert all(torch.equal(value.half(), state["flow"][name].half()) for name, value in trained.items())
    table = text.get_input_embeddings().weight
    assert torch.equal(table.half(), state["text"]["tokens"].half())
    assert trainer.step == 0
    _, said = read_weights(flow_file(tmp_path / "third", first), ())
    assert said["recipe"] == "0 scenes; flow 0 steps of 32; begun with: 0 scenes; flow 0 steps of 32"


def test_without_weights_a_sentence_says_how_to_make_them(host, tmp_path):
    with pytest.raises(
        FileNotFoundError, match="wanted the demo model's weights at .* make it with `python dev.py train flow`"
    ):
        host.module("demo.flow").load_flow_model(tmp_path / "none.safetensors")


def test_what_looks_at_what_is_of_the_middle_block(host, flow):
    """Of seven blocks the word maps are of the third and fourth, and the spread of them is of the fourth."""
    layers = host.module("p2p_attention.host.families.joint").Joint().layers(flow[0])
    assert {name: set(layer.maps) for name, layer in layers.items() if layer.maps} == {
        ("double", 2): {"cross"},
        ("single", 0): {"cross", "self"},
    }


def test_edits_of_it_go_through_the_joint_family(run_node, flow):
    model, clip, _ = flow
    positive, pair = run_node("P2PPromptPair", clip=clip, source="a house in red", target="a cat in red at night")
    windows = {"cross_start": 0.0, "cross_end": 0.8, "self_start": 0.0, "self_end": 0.4}
    (edited,) = run_node("P2PAttentionReplace", model=model, pair=pair, **windows)
    rows = [
        run_node(
            "KSampler", model=each, seed=1, steps=2, cfg=4.0, sampler_name="euler", scheduler="normal",
            positive=conditioning, negative=run_node("CLIPTextEncode", clip=clip, text="")[0],
            latent_image={"samples": torch.zeros(1, 4, 16, 16)}, denoise=1.0,
        )[0]["samples"]
        for each, conditioning in ((edited, positive), (model, [[positive[0][0][:1], {}]]))
    ]  # fmt: skip
    torch.testing.assert_close(rows[0][:1], rows[1])
    assert (rows[0][1] - rows[0][0]).norm() > 1e-3 * rows[0][0].norm()


def test_an_architecture_says_what_its_blocks_inject(host, run_node, flow, monkeypatch):
    """Nothing anywhere is a run of its own; each of the ways is another one; the source stays as it is."""
    import dataclasses

    model, clip, _ = flow
    joint, kinds = (host.module(f"p2p_attention.{name}") for name in ("host.families.joint", "joint_attention"))
    positive, pair = run_node("P2PPromptPair", clip=clip, source="a house in red", target="a cat in red at night")

    def sample(injection, **windows):
        architecture = dataclasses.replace(joint.FLUX, injection=lambda module, block: injection(block))
        monkeypatch.setitem(joint.ARCHITECTURES, "flux.model.Flux", architecture)
        windows = {"cross_start": 0.0, "cross_end": 1.0, "self_start": 0.0, "self_end": 1.0, **windows}
        (edited,) = run_node("P2PAttentionReplace", model=model, pair=pair, **windows)
        return run_node(
            "KSampler", model=edited, seed=1, steps=2, cfg=1.0, sampler_name="euler", scheduler="normal",
            positive=positive, negative=run_node("CLIPTextEncode", clip=clip, text="")[0],
            latent_image={"samples": torch.zeros(1, 4, 16, 16)}, denoise=1.0,
        )[0]["samples"]  # fmt: skip

    every, none = kinds.Injection(), kinds.Injection(text=False, image=False)
    ways = [
        sample(lambda block: every),
        sample(lambda block: every if block[0] == "double" else none),
        sample(lambda block: every if block == ("single", 3) else none),
        sample(lambda block: kinds.Injection(image=False)),
        sample(lambda block: kinds.Injection(image=False, renormalise=True)),
        sample(lambda block: kinds.Injection(text=False)),
        sample(lambda block: kinds.Injection(queries=True)),
        sample(lambda block: none),
    ]
    assert torch.equal(ways[-1], sample(lambda block: every, cross_end=0.0, self_end=0.0))
    for i, one in enumerate(ways):
        torch.testing.assert_close(one[0], ways[0][0])
        assert all((one[1] - other[1]).norm() > 1e-4 * one[1].norm() for other in ways[:i])


def test_an_edit_may_name_the_way_of_injection(host, run_node, flow, monkeypatch):
    """As if the model's blocks had it, bit for bit, and each edit of a run its own; "auto" is the blocks' own."""
    import dataclasses

    model, clip, _ = flow
    joint, kinds = (host.module(f"p2p_attention.{name}") for name in ("host.families.joint", "joint_attention"))
    target = "a cat in red at night"
    windows = {"cross_start": 0.0, "cross_end": 1.0, "self_start": 0.0, "self_end": 0.5}

    def sample(ways, injection=kinds.ALL):
        architecture = dataclasses.replace(joint.FLUX, injection=lambda module, block: injection)
        monkeypatch.setitem(joint.ARCHITECTURES, "flux.model.Flux", architecture)
        targets = "\n---\n".join([target] * 3)
        positive, pair = run_node("P2PPromptPair", clip=clip, source="a house in red", target=targets)
        edited = model
        for edit, way in enumerate(ways, 1):
            (edited,) = run_node(
                "P2PAttentionReplace", model=edited, pair=pair, **windows, edit=edit, injection=way
            )  # fmt: skip
        return run_node(
            "KSampler", model=edited, seed=1, steps=2, cfg=1.0, sampler_name="euler", scheduler="normal",
            positive=positive, negative=run_node("CLIPTextEncode", clip=clip, text="")[0],
            latent_image={"samples": torch.zeros(1, 4, 16, 16)}, denoise=1.0,
        )[0]["samples"]  # fmt: skip

    named = sample(["maps", "maps, renormalised", "queries and keys"])
    layers = kinds.Injection(), kinds.Injection(renormalise=True), kinds.Injection(queries=True)
    for edit, injection in enumerate(layers, 1):
        torch.testing.assert_close(sample(["auto"] * 3, injection)[edit], named[edit])
        assert all((named[edit] - named[other]).norm() > 1e-3 * named[0].norm() for other in range(edit))


def test_a_unet_knows_one_way(run_node, demo):
    model, clip, _ = demo
    _, pair = run_node("P2PPromptPair", clip=clip, source="a house", target="a cat")
    windows = {"cross_start": 0.0, "cross_end": 1.0, "self_start": 0.0, "self_end": 0.5}
    run_node("P2PAttentionReplace", model=model, pair=pair, **windows, injection="maps")
    for way in ("maps, renormalised", "queries and keys"):
        with pytest.raises(ValueError, match="Wanted injection auto or maps for this model, got"):
            run_node("P2PAttentionRefine", model=model, pair=pair, **windows, injection=way)
    with pytest.raises(ValueError, match="Wanted injection to be one of auto, maps"):
        run_node("P2PAttentionReplace", model=model, pair=pair, **windows, injection="as ever")
