"""Transformers beside what other nodes and the host do with a model: caches, ControlNets, LoRA, precision, memory."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
import transformer_runs
from sampling import relative_error
from small_transformers import SMALL
from stand_ins import pack_weights
from transformer_runs import LONGER, NEVER, OTHER, SWAP, edits_of, explicit

pytestmark = pytest.mark.usefixtures("one_thread")

SIZE = {"height": 16, "width": 16}
TOKENS = 64


@pytest.fixture
def run(host, run_node):
    return lambda name: transformer_runs.Run(name, host, run_node)


# ---- block patches


def caching(model, skips):
    """Stands in for a first-block cache: where ``skips(sigma)``, blocks behind the first add what they added before."""
    kept: dict = {}

    def patch_of(block):
        def patch(args, extra):
            options = args["transformer_options"]
            key = block, args["img"].shape, tuple(options["cond_or_uncond"])
            if skips(float(options["sigmas"][0])):
                return {name: None if added is None else args[name] + added for name, added in kept[key].items()}
            out = extra["original_block"](args)
            kept[key] = {name: None if made is None else made - args[name] for name, made in out.items()}
            return out

        return patch

    patched = model.clone()
    for kind, number in (("double_block", 1), ("single_block", 0)):
        patched.set_model_patch_replace(patch_of((kind, number)), "dit", kind, number)
    return patched


def every_second_step():
    """A sigma -> whether to leave blocks out: in the second, fourth ... of those that are met."""
    met: list[float] = []

    def skips(sigma):
        if sigma not in met:
            met.append(sigma)
        return met.index(sigma) % 2 == 1

    return skips


@pytest.mark.parametrize("name", ["flux", "sd3", "qwen_image", "wan"])
def test_a_cache_of_blocks_goes_on_caching(name, run):
    """Edits are those of the blocks that are computed; what is kept is each row's own."""
    run = run(name)
    conditioning, pair = run.pair(SWAP, OTHER)

    def cached(model):
        return caching(model, every_second_step())

    stock = run.sample(cached(run.model), conditioning, rows=3, **SIZE)
    assert relative_error(stock, run.sample(run.model, conditioning, rows=3, **SIZE)) > 1e-3, "it does something"
    assert torch.equal(run.sample(run.edit(pair, model=cached(run.model), **NEVER), conditioning, **SIZE), stock)
    got = run.sample(run.edit(pair, model=cached(run.model)), conditioning, **SIZE)
    assert torch.equal(got, run.sample(cached(run.edit(pair)), conditioning, **SIZE)), "in whatever order"
    assert torch.equal(got[:1], stock[:1])
    oracle = explicit(run, edits_of(run, pair), pair.length, images=TOKENS)
    assert relative_error(got, run.sample(cached(oracle), conditioning, rows=3, **SIZE)) < 2e-4


def test_a_block_left_out_from_the_beginning_is_found_out(run):
    run = run("qwen_image")
    conditioning, pair = run.pair(SWAP)
    model = run.edit(pair)
    model.set_model_patch_replace(
        lambda args, extra: {"img": args["img"], "txt": args["txt"]}, "dit", "double_block", 1
    )
    with pytest.raises(ValueError, match="in all its 2 blocks, but only that of 1 came by.*leaves blocks out"):
        run.sample(model, conditioning, **SIZE)


# ---- ControlNets


class AddsTheHint(torch.nn.Module):
    """Stands in for a ControlNet's network: what is added to the picture's tokens is made of hint and latent."""

    dtype = torch.float32

    def __init__(self, width):
        super().__init__()
        generator = torch.Generator().manual_seed(2)
        self.weight = torch.nn.Parameter(torch.randn(3 + 16, width, generator=generator))

    def forward(self, x, hint, **_):
        latents = x[:, :, 0] if x.ndim == 5 else x
        hint = hint.expand(len(x), -1, -1, -1)
        size = latents.shape[-2] // 2, latents.shape[-1] // 2
        seen = [torch.nn.functional.adaptive_avg_pool2d(each, size) for each in (latents, hint)]
        tokens = torch.cat(seen, dim=1).flatten(2).mT @ self.weight
        return {"input": [tokens], "output": [tokens]}


@pytest.mark.parametrize("name, width", [("flux", 64), ("sd3", 128), ("qwen_image", 32)])
def test_a_control_net(name, width, run, caplog):
    """One hint for all, and one for each picture, which all its rows share."""
    import comfy.controlnet

    run = run(name)
    conditioning, pair = run.pair(SWAP, OTHER)
    hints = torch.rand(2, 128, 128, 3, generator=torch.Generator().manual_seed(3))
    network = comfy.controlnet.ControlNet(AddsTheHint(width), load_device=torch.device("cpu"))

    def applied(positive, image):
        negative = run.plain("blurry")
        return run.run_node(
            "ControlNetApplyAdvanced", positive=positive, negative=negative, control_net=network, image=image,
            strength=0.5, start_percent=0.0, end_percent=1.0,
        )  # fmt: skip

    def sample(model, image, rows=1):
        positive, negative = applied(conditioning, image)
        return run.sample(model, positive, seeds=2, negative=negative, rows=rows, **SIZE)

    for image in (hints[:1], hints):
        stock = sample(run.model, image if len(image) == 1 else image.repeat_interleave(3, 0), rows=3)
        assert torch.equal(sample(run.edit(pair, **NEVER), image), stock)
        got = sample(run.edit(pair), image)
        assert torch.equal(got[::3], stock[::3]) and relative_error(got[1::3], stock[1::3]) > 1e-2
    plain = run.sample(run.model, conditioning, seeds=2, negative=run.plain("blurry"), rows=3, **SIZE)
    assert relative_error(stock, plain) > 1e-2, "the hint shows"
    assert "ControlNet" not in caplog.text
    if name == "qwen_image":  # it sees the texts, which are filled up
        longer, other = run.pair(LONGER)
        positive, negative = applied(longer, hints[:1])
        run.sample(run.edit(other), positive, negative=negative, **SIZE)
        assert "ControlNet sees texts that are filled up to one length" in caplog.text


# ---- weights and memory


def with_lora(model):
    """A LoRA of random weights for a projection before attention."""
    import comfy.sd

    name = "diffusion_model.double_blocks.0.img_attn.qkv"
    generator = torch.Generator().manual_seed(4)
    rows, columns = model.model.diffusion_model.double_blocks[0].img_attn.qkv.weight.shape
    lora = {
        f"{name}.lora_up.weight": torch.randn(rows, 4, generator=generator) * 0.3,
        f"{name}.lora_down.weight": torch.randn(4, columns, generator=generator) * 0.3,
    }
    return comfy.sd.load_lora_for_models(model, None, lora, 1.0, 0.0)[0]


def test_a_lora_and_weights_that_stay_off_the_device(run, monkeypatch):
    """--lowvram: weights are fetched layer by layer, and the LoRA applied as they come."""
    import comfy.model_management as management

    run = run("flux")
    conditioning, pair = run.pair(SWAP)
    model = with_lora(run.model)
    stock = run.sample(model, conditioning, rows=2, **SIZE)
    assert relative_error(stock, run.sample(run.model, conditioning, rows=2, **SIZE)) > 1e-2, "the LoRA shows"
    wanted = run.sample(run.edit(pair, model=model), conditioning, **SIZE)
    assert torch.equal(wanted[:1], stock[:1]) and relative_error(wanted[1:], stock[1:]) > 1e-2
    management.unload_all_models()
    monkeypatch.setattr(management, "is_device_cpu", lambda device: False)
    monkeypatch.setattr(management, "vram_state", management.VRAMState.NO_VRAM)
    got = run.sample(run.edit(pair, model=model), conditioning, **SIZE)
    assert model.model.model_lowvram
    management.unload_all_models()
    monkeypatch.undo()
    assert relative_error(got, wanted) < 1e-4


@pytest.mark.parametrize("name", ["flux", "qwen_image"])
def test_weights_in_eight_bits(name, run):
    """The edit is as far from that in float32 as the stock result is."""
    import comfy.model_patcher

    run = run(name)
    conditioning, pair = run.pair(SWAP)
    exact = run.model.model
    config = type(exact.model_config)({**exact.model_config.unet_config})
    config.set_inference_dtype(torch.float8_e4m3fn, torch.float32)
    low = type(exact)(config, model_type=exact.model_type)
    state = exact.diffusion_model.state_dict()
    low.diffusion_model.load_state_dict({name: value.to(torch.float8_e4m3fn) for name, value in state.items()})
    low = comfy.model_patcher.ModelPatcher(low, torch.device("cpu"), torch.device("cpu"))
    stock = run.sample(low, conditioning, rows=2, **SIZE)
    got = run.sample(run.edit(pair, model=low), conditioning, **SIZE)
    assert torch.equal(got[:1], stock[:1]) and relative_error(got[1:], stock[1:]) > 1e-2
    assert torch.equal(run.sample(run.edit(pair, model=low, **NEVER), conditioning, **SIZE), stock)
    precision = relative_error(stock, run.sample(run.model, conditioning, rows=2, **SIZE))
    assert 0 < relative_error(got, run.sample(run.edit(pair), conditioning, **SIZE)) < 3 * precision


@pytest.mark.parametrize("name", ["flux", "qwen_image", "lumina2", "wan"])
def test_packed_weights(name, run):
    """As of GGUF files: to the bit what the same weights do unpacked."""
    packed, plain = run(name), run(name)
    assert pack_weights(packed.model.model.diffusion_model, plain.model.model.diffusion_model) > 10
    conditioning, pair = plain.pair(SWAP)
    wanted = plain.sample(plain.edit(pair), conditioning, **SIZE)
    got = packed.sample(packed.edit(pair), conditioning, **SIZE)
    assert torch.equal(got, wanted) and relative_error(got[1:], got[:1]) > 1e-2
    assert torch.equal(got[:1], packed.sample(packed.model, conditioning, rows=2, **SIZE)[:1])


def test_compiled_models(run):
    """torch.compile, with a back-end that runs what it is given: tracing is what could go wrong."""
    from comfy_api.torch_helpers import set_torch_compile_wrapper

    run = run("wan")
    conditioning, pair = run.pair(SWAP)
    graphs = []

    def backend(graph, inputs):
        graphs.append(graph)
        return graph.forward

    wanted = run.sample(run.edit(pair), conditioning, cfg=1.0, **SIZE)
    compiled = run.model.clone()
    set_torch_compile_wrapper(model=compiled, backend=backend)
    torch._dynamo.reset()
    got = run.sample(run.edit(pair, model=compiled), conditioning, cfg=1.0, **SIZE)
    made = len(graphs)
    assert torch.equal(got, run.sample(run.edit(pair, model=compiled), conditioning, cfg=1.0, **SIZE))
    assert 0 < made == len(graphs), "runs share what was compiled"
    torch._dynamo.reset()
    assert relative_error(got, wanted) < 1e-4


def test_a_compiled_model_that_fills_texts_up_wants_them_equally_long(run):
    from comfy_api.torch_helpers import set_torch_compile_wrapper

    run = run("z_image")
    conditioning, pair = run.pair(LONGER)
    compiled = run.model.clone()
    set_torch_compile_wrapper(model=compiled, backend=lambda graph, inputs: graph.forward)
    with pytest.raises(ValueError, match="Wanted texts that take equally many tokens in .*Z-Image.*compile"):
        run.sample(run.edit(pair, model=compiled), conditioning, cfg=1.0, **SIZE)


# ---- pictures to begin with


def test_a_picture_that_a_video_begins_with(run, monkeypatch):
    """Wan, picture to video: it attends to the picture by itself, which is left alone."""
    monkeypatch.setitem(
        SMALL,
        "wan of i2v",
        replace(SMALL["wan"], settings={**SMALL["wan"].settings, "model_type": "i2v", "in_dim": 32}),
    )
    run = run("wan of i2v")
    conditioning, pair = run.pair(SWAP, OTHER)
    generator = torch.Generator().manual_seed(5)
    seen = SimpleNamespace(penultimate_hidden_states=torch.randn(1, 257, 1280, generator=generator))
    first = torch.randn(1, 16, 1, 16, 16, generator=generator)
    beside = {"clip_vision_output": seen, "concat_latent_image": first}
    conditioning = [[context, {**extras, **beside}] for context, extras in conditioning]
    got = run.sample(run.edit(pair), conditioning, **SIZE)
    stock = run.sample(run.model, conditioning, rows=3, **SIZE)
    wanted = run.sample(explicit(run, edits_of(run, pair), pair.length, images=TOKENS), conditioning, rows=3, **SIZE)
    assert torch.equal(got[:1], stock[:1])
    assert relative_error(got, wanted) < 2e-4
    assert relative_error(stock, run.sample(run.model, run.pair(SWAP, OTHER)[0], rows=3, **SIZE)) > 1e-2, "it is seen"
