"""Beside everybody else's nodes: with each of them the source row is the stock result of that node without us.

The host's own nodes are the test objects. Where a public pack's hook is meant, a small stand-in uses it as they do.
"""

from __future__ import annotations

import pytest
import torch
from sampling import DEFAULTS, NO_WINDOW, PHRASE, SOURCE, SWAP, Sampling, latent, relative_error
from small_models import ONE_STAGE, UNET, control_net, randomise, sd15, sdxl
from stand_ins import pack_weights

FLOAT32 = 1e-3  # the same sum in another order, through all steps; an edit that differs is off by far more
ALWAYS = {"cross_start": 0.0, "cross_end": 1.0, "self_start": 0.0, "self_end": 1.0}
SIZE = (12, 10)


@pytest.fixture(scope="module")
def sampling(run_node):
    return Sampling(run_node, *sd15())


@pytest.fixture(scope="module")
def three(sampling):
    """A swap, a phrase, and the source again: (conditioning, pair)."""
    return sampling.pair(SWAP, PHRASE, SOURCE)


def chained(sampling, pair, model):
    """Replace on the swap, Refine on the phrase, the source's own maps on its copy, a fader on a word of two."""
    for edit, (node, inputs) in enumerate(
        [("P2PAttentionReplace", DEFAULTS), ("P2PAttentionRefine", DEFAULTS), ("P2PAttentionReplace", ALWAYS)], 1
    ):
        model = sampling.edit(pair, node, model, **inputs, edit=edit)
    fader = {"words": "red", "scale": 2.0, "start": 0.0, "end": 1.0}
    for edit in (1, 2):
        model = sampling.edit(pair, "P2PReweightToken", model, **fader, edit=edit)
    return model


# ---- other patches of the model


def freeu(sampling, model, version):
    node = "FreeU_V2" if version == 2 else "FreeU"
    return sampling.run_node(node, model=model, b1=1.3, b2=1.4, s1=0.9, s2=0.2)[0]


def lora(key_of_layer, layers):
    """A LoRA of rank 2, in the form of published files. ``key_of_layer``: name in the file -> of the weight."""
    generator, weights = torch.Generator().manual_seed(5), {}
    for key, name in key_of_layer.items():
        rows, columns = layers[name].shape
        weights[f"{key}.lora_up.weight"] = 0.3 * torch.randn(rows, 2, generator=generator)
        weights[f"{key}.lora_down.weight"] = 0.3 * torch.randn(2, columns, generator=generator)
    return weights


def unet_lora(model):
    import comfy.utils

    ends = ("to_q.weight", "to_k.weight", "to_v.weight", "to_out.0.weight")
    names = comfy.utils.unet_to_diffusers(model.model.model_config.unet_config)
    chosen = {diffusers: ours for diffusers, ours in names.items() if diffusers.endswith(ends)}
    keys = {f"lora_unet_{each.removesuffix('.weight').replace('.', '_')}": ours for each, ours in chosen.items()}
    return lora(keys, dict(model.model.diffusion_model.named_parameters()))


def with_lora(sampling, model):
    import comfy.sd

    return comfy.sd.load_lora_for_models(model, None, unet_lora(model), 1.0, 0.0)[0]


def image_prompt(sampling, model):
    """As IPAdapter does it: more keys and values for each chunk of rows, in attn2_replace."""
    from comfy.ldm.modules.attention import optimized_attention

    patched, generator = model.clone(), torch.Generator().manual_seed(8)
    seen = {width: torch.randn(2, 4, width, generator=generator) for width in (32, 64)}  # uncond, cond

    def attend(q, k, v, options):
        chunks, heads = options["cond_or_uncond"], options["n_heads"]
        per_chunk = q.shape[0] // len(chunks)
        tokens = torch.cat([seen[q.shape[-1]][[1 - kind]].repeat(per_chunk, 1, 1) for kind in chunks])
        return optimized_attention(q, k, v, heads) + optimized_attention(q, tokens, tokens, heads)

    for block, numbers in (("input", range(12)), ("middle", range(1)), ("output", range(12))):
        for number in numbers:
            patched.set_model_attn2_replace(attend, block, number)
    return patched


def attention_couple(sampling, model):
    """As packs for regional prompts do it: the positive's rows again for another prompt, half of the picture each."""
    patched, other = model.clone(), sampling.encode("a tree")[0][0]

    def expand(n, context, value, options):
        chunks = options["cond_or_uncond"]
        rows = [each.chunk(len(chunks)) for each in (n, context, value)]
        out = []
        for kind, hidden, keys, values in zip(chunks, *rows, strict=True):
            out.append((hidden, keys, values))
            if kind == 0:
                region = other.repeat(len(hidden), keys.shape[1] // other.shape[1], 1).to(keys)
                out.append((hidden, region, region))
        return tuple(map(torch.cat, zip(*out, strict=True)))

    def merge(output, options):
        chunks = options["cond_or_uncond"]
        parts, out = iter(output.chunk(len(chunks) + chunks.count(0))), []
        for kind in chunks:
            part = next(parts)
            if kind == 0:
                left = (torch.arange(part.shape[1]) < part.shape[1] // 2).view(1, -1, 1)
                part = torch.where(left, part, next(parts))
            out.append(part)
        return torch.cat(out)

    patched.set_model_attn2_patch(expand)
    patched.set_model_attn2_output_patch(merge)
    return patched


def damped_output(sampling, model):
    """An output patch alone, which is no linear function of a row."""
    patched = model.clone()
    patched.set_model_attn2_output_patch(lambda output, options: torch.tanh(output))
    return patched


def dynamic_thresholding(sampling, model):
    """As packs for high guidance do it: the guided result is brought back to the range of the conditional one."""
    patched = model.clone()

    def guide(args):
        guided = args["uncond"] + args["cond_scale"] * (args["cond"] - args["uncond"])
        wanted, got = (each.flatten(1).std(dim=1).view(-1, 1, 1, 1) for each in (args["cond"], guided))
        return guided * wanted / got

    patched.set_model_sampler_cfg_function(guide)
    return patched


def merged(sampling, model):
    other, _ = sd15()
    randomise(other.model.diffusion_model, seed=9)
    return sampling.run_node("ModelMergeSimple", model1=model, model2=other, ratio=0.7)[0]


def node(name, **inputs):
    return lambda sampling, model: sampling.run_node(name, model=model, **inputs)[0]


PATCHES = {
    "LoRA": with_lora,
    "image prompt (attn2_replace)": image_prompt,
    "attention couple (attn2_patch)": attention_couple,
    "attn2_output_patch": damped_output,
    "self-attention guidance": node("SelfAttentionGuidance", scale=0.7, blur_sigma=2.0),
    "perturbed attention": node("PerturbedAttentionGuidance", scale=2.0),
    "FreeU": lambda sampling, model: freeu(sampling, model, 1),
    "FreeU v2": lambda sampling, model: freeu(sampling, model, 2),
    "HyperTile": node("HyperTile", tile_size=32, swap_size=2, max_depth=1, scale_depth=False),
    "ToMe": node("TomePatchModel", ratio=0.4),
    "deep shrink": node(
        "PatchModelAddDownscale", block_number=2, downscale_factor=2.0, start_percent=0.0, end_percent=0.4,
        downscale_after_skip=True, downscale_method="bicubic", upscale_method="bicubic",
    ),
    "RescaleCFG": node("RescaleCFG", multiplier=0.7),
    "dynamic thresholding (cfg_function)": dynamic_thresholding,
    "tangential damping": node("TCFG"),
    "FreSca": node("FreSca", scale_low=1.0, scale_high=1.5, freq_cutoff=4),
    "adaptive projected guidance": node("APG", eta=1.0, norm_threshold=5.0, momentum=0.0),
    "attention multiply": node("UNetCrossAttentionMultiply", q=1.2, k=0.8, v=1.1, out=0.9),
    "epsilon scaling": node("Epsilon Scaling", scaling_factor=1.05),
    "model merging": merged,
    "rescaled noise levels": node("ModelSamplingDiscrete", sampling="v_prediction", zsnr=True),
}  # fmt: skip


def sampled(sampling, model, conditioning, **settings):
    torch.manual_seed(1)  # HyperTile and ToMe draw from the global generator
    return sampling.ksampler(model, conditioning, latent(1, *SIZE), **settings)


def stock(sampling, model, conditioning, rows=4, **settings):
    torch.manual_seed(1)
    return sampling.stock_rows(conditioning, rows, latent(1, *SIZE), model=model, **settings)


@pytest.fixture(scope="module")
def plain(sampling, three):
    """The rows of ``three`` by the stock sampler, without any other node."""
    return stock(sampling, sampling.model, three[0])


def check(got, wanted, rounding=1e-5, close=FLOAT32):
    """Rows of ``three`` with their edits, beside the stock result of the other node."""
    assert relative_error(got[::4], wanted[::4]) <= rounding, "the source row is the other node's own result"
    assert relative_error(got[1::4], wanted[1::4]) > 1e-2
    assert relative_error(got[2::4], wanted[2::4]) > 1e-2
    assert relative_error(got[3::4], got[::4]) < close, "an edit of nothing is the source"


@pytest.mark.daily(
    "self",
    "LoRA",
    "attention couple (attn2_patch)",
    "attn2_output_patch",
    "image prompt (attn2_replace)",
    "ToMe",
    "FreeU v2",
    "RescaleCFG",
    "dynamic thresholding (cfg_function)",
    "HyperTile",
)
@pytest.mark.parametrize("name", PATCHES)
def test_other_patches_in_both_orders(sampling, three, plain, name):
    conditioning, pair = three
    other = PATCHES[name]
    wanted = stock(sampling, other(sampling, sampling.model), conditioning)
    assert relative_error(wanted, plain) > 1e-2, "the other node does something"

    idle = sampling.edit(pair, model=other(sampling, sampling.model), **NO_WINDOW)
    assert torch.equal(sampled(sampling, idle, conditioning), wanted)

    after = sampled(sampling, chained(sampling, pair, other(sampling, sampling.model)), conditioning)
    before = sampled(sampling, other(sampling, chained(sampling, pair, sampling.model)), conditioning)
    assert torch.equal(before, after), "the order in the graph does not matter"
    check(after, wanted)


# ---- what changes the conditioning on its way to the sampler


def with_hooks(sampling, conditioning):
    """A LoRA on the positive alone, whose strength changes in the middle of the run."""
    import comfy.hooks

    hooks = comfy.hooks.create_hook_lora(unet_lora(sampling.model), 1.0, 0.0)
    frames = None
    for strength, start in ((1.0, 0.0), (0.3, 0.5)):
        (frames,) = sampling.run_node(
            "CreateHookKeyframe", strength_mult=strength, start_percent=start, prev_hook_kf=frames
        )
    (hooks,) = sampling.run_node("SetHookKeyframes", hooks=hooks, hook_kf=frames)
    return sampling.run_node(
        "ConditioningSetProperties", cond_NEW=conditioning, strength=1.0, set_cond_area="default", hooks=hooks
    )[0]


@pytest.fixture(scope="module")
def control(sampling):
    return control_net(sampling.model.model.model_config.unet_config)


def hints(count, seed=7):
    height, width = SIZE
    return torch.rand(count, height * 8, width * 8, 3, generator=torch.Generator().manual_seed(seed))


def controlled(sampling, control, image, positive, negative=None, strength=1.0, node="ControlNetApplyAdvanced"):
    if node == "ControlNetApply":
        return sampling.run_node(node, conditioning=positive, control_net=control, image=image, strength=strength)[
            0
        ], negative
    return sampling.run_node(
        node, positive=positive, negative=negative, control_net=control, image=image, strength=strength,
        start_percent=0.0, end_percent=0.8,
    )  # fmt: skip


def with_text_box(sampling, conditioning):
    """GLIGEN, a word in a box."""
    import comfy.gligen
    import comfy.model_patcher

    fusers = []
    for module in sampling.model.model.diffusion_model.modules():
        if type(module).__name__ == "BasicTransformerBlock":
            width = module.attn1.to_q.in_features
            fusers.append(comfy.gligen.GatedSelfAttentionDense(width, 32, 4, width // 4))
    gligen = comfy.gligen.Gligen(fusers, comfy.gligen.PositionNet(32, 32), 32)
    randomise(gligen, seed=4)
    box = comfy.model_patcher.ModelPatcher(gligen, torch.device("cpu"), torch.device("cpu"))
    return sampling.run_node(
        "GLIGENTextBoxApply", conditioning_to=conditioning, clip=sampling.clip, gligen_textbox_model=box, text="tree",
        width=48, height=64, x=8, y=16,
    )[0]  # fmt: skip


def mask():
    mask = torch.zeros(1, SIZE[0] * 8, SIZE[1] * 8)
    mask[:, 32:96, 16:80] = 1.0
    return mask


def part_of_the_steps(sampling, conditioning):
    """The pair first, then another prompt."""
    first, last = (
        sampling.run_node("ConditioningSetTimestepRange", conditioning=each, start=start, end=end)[0]
        for each, start, end in ((conditioning, 0.0, 0.4), (sampling.encode("a tree"), 0.4, 1.0))
    )
    return sampling.run_node("ConditioningCombine", conditioning_1=first, conditioning_2=last)[0]


def averaged(sampling, conditioning):
    return sampling.run_node(
        "ConditioningAverage", conditioning_to=conditioning, conditioning_from=sampling.encode("a tree"),
        conditioning_to_strength=0.7,
    )[0]  # fmt: skip


CONDITIONINGS = {
    "LoRA by hooks, scheduled": with_hooks,
    "GLIGEN": with_text_box,
    "combined": lambda sampling, conditioning: conditioning + sampling.encode("a tree"),
    "averaged": averaged,
    "part of the steps": part_of_the_steps,
    "area": lambda sampling, conditioning: (
        sampling.run_node(
            "ConditioningSetArea", conditioning=conditioning, width=64, height=80, x=16, y=16, strength=1.0
        )[0]
        + sampling.encode("a tree")
    ),
    "mask": lambda sampling, conditioning: (
        sampling.run_node(
            "ConditioningSetMask", conditioning=conditioning, mask=mask(), strength=1.0, set_cond_area="default"
        )[0]
        + sampling.encode("a tree")
    ),
    "strength": lambda sampling, conditioning: (
        sampling.run_node("ConditioningSetAreaStrength", conditioning=conditioning, strength=0.5)[0]
        + sampling.encode("a tree")
    ),
}


@pytest.mark.parametrize("name", CONDITIONINGS)
def test_conditioning_nodes(sampling, three, plain, name):
    conditioning, pair = three
    changed = CONDITIONINGS[name](sampling, conditioning)
    wanted = stock(sampling, sampling.model, changed)
    assert relative_error(wanted, plain) > FLOAT32, "the other node does something"
    assert torch.equal(sampled(sampling, sampling.edit(pair, **NO_WINDOW), changed), wanted)
    check(sampled(sampling, chained(sampling, pair, sampling.model), changed), wanted)


@pytest.mark.parametrize("images", [1, 4])
@pytest.mark.parametrize("node", ["ControlNetApply", "ControlNetApplyAdvanced"])
def test_control_net(sampling, three, plain, control, node, images):
    """A hint for all rows, or one for each; on both sides (advanced), or on the positive alone."""
    conditioning, pair = three
    negative = sampling.encode()
    positive, negative = controlled(sampling, control, hints(images), conditioning, negative, node=node)
    wanted = stock(sampling, sampling.model, positive, negative=negative)
    assert relative_error(wanted, plain) > 1e-2
    idle = sampling.edit(pair, **NO_WINDOW)
    assert torch.equal(sampled(sampling, idle, positive, negative=negative), wanted)
    got = sampled(sampling, chained(sampling, pair, sampling.model), positive, negative=negative)
    if images == 1:
        check(got, wanted)
    else:  # the copy of the source has a hint of its own
        assert relative_error(got[0], wanted[0]) < 1e-5
        assert relative_error(got[3], got[0]) > FLOAT32


def test_a_control_hint_for_each_image_is_all_its_rows(sampling, three, control):
    """Three images of four rows, with three hints: each image is what it is alone, with its own hint."""
    conditioning, pair = three
    model, images, image = chained(sampling, pair, sampling.model), hints(3), latent(3, *SIZE)
    image["batch_index"] = [0, 1, 2]
    first, negative = controlled(sampling, control, images, conditioning, sampling.encode())
    both, negative = controlled(sampling, control, hints(1, 9), first, negative)
    together = sampling.ksampler(model, both, image, negative=negative)
    for seed in range(3):
        alone, negative = controlled(sampling, control, images[seed : seed + 1], conditioning, sampling.encode())
        alone, negative = controlled(sampling, control, hints(1, 9), alone, negative)
        one = {"samples": image["samples"][:1], "batch_index": [seed]}
        wanted = sampling.ksampler(model, alone, one, negative=negative)
        assert relative_error(together[4 * seed : 4 * seed + 4], wanted) < FLOAT32
    assert control.cond_hint_original is None, "the graph's own is left as it was"


def test_as_many_hints_as_images_and_as_rows_may_mean_either(sampling, control):
    """Two images of two rows with two hints: refused; four hints are one for each row of each image."""
    conditioning, pair = sampling.pair(SWAP)
    model, image = sampling.edit(pair), {**latent(2, *SIZE), "batch_index": [0, 1]}
    negative = sampling.encode()
    both, under = controlled(sampling, control, hints(2), conditioning, negative)
    with pytest.raises(ValueError, match="2 hints of a ControlNet for 2 pictures of 2 rows .*Connect 4 of them"):
        sampling.ksampler(model, both, image, negative=under)
    of_each_row = hints(2).repeat_interleave(2, dim=0)
    four, under = controlled(sampling, control, of_each_row, conditioning, negative)
    together = sampling.ksampler(model, four, image, negative=under)
    for seed in range(2):
        alone, under = controlled(sampling, control, hints(2)[seed : seed + 1], conditioning, negative)
        one = {"samples": image["samples"][:1], "batch_index": [seed]}
        wanted = sampling.ksampler(model, alone, one, negative=under)
        assert relative_error(together[2 * seed : 2 * seed + 2], wanted) < FLOAT32
    alike, under = controlled(sampling, control, hints(1).repeat(2, 1, 1, 1), conditioning, negative)
    same, under_same = controlled(sampling, control, hints(1), conditioning, negative)
    got = sampling.ksampler(model, alike, image, negative=under)
    assert relative_error(got, sampling.ksampler(model, same, image, negative=under_same)) < FLOAT32


def test_as_many_masks_or_negatives_as_images_and_as_rows_may_mean_either(sampling):
    conditioning, pair = sampling.pair(SWAP)
    model, image = sampling.edit(pair), latent(2, *SIZE)
    masks = torch.rand(2, SIZE[0] * 8, SIZE[1] * 8, generator=torch.Generator().manual_seed(3))
    (masked,) = sampling.run_node(
        "ConditioningSetMask", conditioning=conditioning, mask=masks, strength=1.0, set_cond_area="default"
    )
    with pytest.raises(ValueError, match="2 masks for 2 pictures of 2 rows"):
        sampling.ksampler(model, masked, image)
    two = [[torch.cat([sampling.encode(text)[0][0] for text in ("blurry", "a tree")]), sampling.encode()[0][1]]]
    with pytest.raises(ValueError, match="2 negatives for 2 pictures of 2 rows"):
        sampling.ksampler(model, conditioning, image, negative=two)


def test_a_mask_for_each_image_is_all_its_rows(sampling, three, run_node):
    conditioning, pair = three
    model, image = chained(sampling, pair, sampling.model), latent(2, *SIZE)
    masks = torch.cat([mask(), 1.0 - mask()])

    def masked(some):
        (positive,) = run_node(
            "ConditioningSetMask", conditioning=conditioning, mask=some, strength=1.0, set_cond_area="default"
        )
        return positive + sampling.encode("a tree")

    together = sampling.ksampler(model, masked(masks), image)
    for seed in range(2):
        one = {"samples": image["samples"][:1], "batch_index": [seed]}
        wanted = sampling.ksampler(model, masked(masks[seed : seed + 1]), one)
        assert relative_error(together[4 * seed : 4 * seed + 4], wanted) < FLOAT32


# ---- text encoders


def clip_with_lora(sampling, clip, folder):
    import comfy.sd

    layers = dict(clip.cond_stage_model.clip_l.transformer.named_parameters())
    names = [f"text_model.encoder.layers.{i}.self_attn.{part}_proj" for i in range(3) for part in "qv"]
    keys = {f"lora_te_{name.replace('.', '_')}": f"{name}.weight" for name in names}
    return comfy.sd.load_lora_for_models(None, clip, lora(keys, layers), 0.0, 1.0)[1]


def clip_with_hooks(sampling, clip, folder):
    """A LoRA for the second half of the steps: one conditioning for each half."""
    import comfy.hooks

    layers = dict(clip.cond_stage_model.clip_l.transformer.named_parameters())
    name = "text_model.encoder.layers.1.self_attn.v_proj"
    weights = lora({f"lora_te_{name.replace('.', '_')}": f"{name}.weight"}, layers)
    hooks = comfy.hooks.create_hook_lora(weights, 0.0, 1.0)
    (frames,) = sampling.run_node("CreateHookKeyframe", strength_mult=0.0, start_percent=0.0)
    (frames,) = sampling.run_node("CreateHookKeyframe", strength_mult=1.0, start_percent=0.5, prev_hook_kf=frames)
    (hooks,) = sampling.run_node("SetHookKeyframes", hooks=hooks, hook_kf=frames)
    return sampling.run_node("SetClipHooks", clip=clip, schedule_clip=True, apply_to_conds=True, hooks=hooks)[0]


def clip_with_embedding(sampling, clip, folder):
    """Textual inversion: ``embedding:glow`` stands for two vectors."""
    from safetensors.torch import save_file

    vectors = torch.randn(2, 32, generator=torch.Generator().manual_seed(3))
    save_file({"emb_params": vectors}, folder / "glow.safetensors")
    clip = clip.clone()
    clip.tokenizer.clip_l.embedding_directory = [str(folder)]
    clip.tokenizer.clip_l.embedding_size = 32
    return clip


def clip_skip(sampling, clip, folder):
    return sampling.run_node("CLIPSetLastLayer", clip=clip, stop_at_clip_layer=-2)[0]


CLIPS = {
    "LoRA": clip_with_lora,
    "CLIP skip": clip_skip,
    "LoRA by hooks, scheduled": clip_with_hooks,
    "textual inversion": clip_with_embedding,
}  # fmt: skip


@pytest.mark.parametrize("name", CLIPS)
def test_changed_text_encoders(run_node, tmp_path, name):
    """Each row is what CLIP Text Encode gives, entry by entry, and its edits work."""
    model, clip = sd15()
    clip = CLIPS[name](Sampling(run_node, model, clip), clip, tmp_path)
    changed = Sampling(run_node, model, clip)
    swap = "a embedding:glow dog on a (red:1.3) chair" if name == "textual inversion" else SWAP
    conditioning, pair = changed.pair(swap, SOURCE)
    for row, text in enumerate([SOURCE, swap, SOURCE]):
        entries = changed.encode(text)
        assert len(entries) == len(conditioning) == (2 if "scheduled" in name else 1)
        for (context, extras), (alone, alone_extras) in zip(conditioning, entries, strict=True):
            assert torch.equal(context[row], alone[0])
            assert torch.equal(extras["pooled_output"][row], alone_extras["pooled_output"][0])
    if name == "textual inversion":
        a, glow, dog, *_ = pair.targets[0].words
        assert (a.text, dog.text, len(glow.positions)) == ("a", "dog", 2)
    wanted = changed.stock_rows(conditioning, 3, latent(1, *SIZE))
    got = sampled(changed, changed.edit(pair, "P2PAttentionReplace", **ALWAYS), conditioning)
    assert relative_error(got[0], wanted[0]) < 1e-5
    assert relative_error(got[1], wanted[1]) > 1e-2
    assert relative_error(got[2], got[0]) < FLOAT32


# ---- weights and memory


def in_precision(weights, computed):
    """The small SD 1.5 with its weights in one type, computing in another (None: the same)."""
    import comfy.model_base
    import comfy.model_patcher
    import comfy.supported_models

    exact, clip = sd15()
    config = comfy.supported_models.SD15({**UNET, "context_dim": 32})
    config.set_inference_dtype(weights, computed)
    model = comfy.model_base.BaseModel(config, model_type=comfy.model_base.ModelType.EPS)
    state = exact.model.diffusion_model.state_dict()
    model.diffusion_model.load_state_dict({name: value.to(weights) for name, value in state.items()})
    assert {each.dtype for each in model.diffusion_model.parameters()} == {weights}
    return comfy.model_patcher.ModelPatcher(model, torch.device("cpu"), torch.device("cpu")), clip


@pytest.mark.parametrize(
    "weights, computed",
    [
        (torch.float16, None),
        (torch.bfloat16, None),
        (torch.float8_e4m3fn, torch.float32),
        (torch.float8_e4m3fn, torch.bfloat16),
    ],
)
def test_weights_of_lower_precision(run_node, sampling, three, plain, weights, computed):
    """The edit is as far from that in float32 as the stock result is."""
    model, clip = in_precision(weights, computed)
    low = Sampling(run_node, model, clip)
    conditioning, pair = three
    wanted = stock(low, model, conditioning)
    assert torch.equal(sampled(low, low.edit(pair, **NO_WINDOW), conditioning), wanted)
    got = sampled(low, chained(low, pair, model), conditioning)
    check(got, wanted)
    exact = sampled(sampling, chained(sampling, pair, sampling.model), conditioning)
    precision = relative_error(wanted, plain)
    assert 0 < precision < 1
    assert relative_error(got[1:3], exact[1:3]) < 3 * precision


@pytest.mark.parametrize("family", [sd15, sdxl])
def test_packed_weights(run_node, family):
    """As of GGUF files: to the bit what the same weights do unpacked."""
    packed, plain = (Sampling(run_node, *family()) for _ in range(2))
    assert pack_weights(packed.model.model.diffusion_model, plain.model.model.diffusion_model) > 10
    conditioning, pair = plain.pair(SWAP, PHRASE, SOURCE)
    wanted = sampled(plain, chained(plain, pair, plain.model), conditioning)
    got = sampled(packed, chained(packed, pair, packed.model), conditioning)
    assert torch.equal(got, wanted) and relative_error(got[1:3], got[:1]) > 1e-2
    assert torch.equal(got[:1], stock(packed, packed.model, conditioning)[:1])


@pytest.mark.parametrize("other", [None, "LoRA", "image prompt (attn2_replace)"])
@pytest.mark.parametrize("state", ["LOW_VRAM", "NO_VRAM"])
def test_weights_that_stay_off_the_device(sampling, three, state, other, monkeypatch):
    """--lowvram, --novram: some or all weights are fetched layer by layer, and LoRAs applied as they come."""
    import comfy.model_management as management

    conditioning, pair = three
    model = sampling.model if other is None else PATCHES[other](sampling, sampling.model)
    wanted = sampled(sampling, chained(sampling, pair, model), conditioning)
    management.unload_all_models()
    size = model.model_size()
    monkeypatch.setattr(management, "is_device_cpu", lambda device: False)
    monkeypatch.setattr(management, "vram_state", management.VRAMState[state])
    monkeypatch.setattr(management, "minimum_inference_memory", lambda: 0)
    free = management.get_free_memory
    monkeypatch.setattr(management, "get_free_memory", lambda device=None, *both: free(device, *both) if both else size)
    monkeypatch.setattr(management, "MIN_WEIGHT_MEMORY_RATIO", 0.5)
    got = sampled(sampling, chained(sampling, pair, model), conditioning)
    loaded = model.loaded_size() / size
    assert model.model.model_lowvram and (loaded == 0 if state == "NO_VRAM" else 0.2 < loaded < 0.8)
    management.unload_all_models()
    monkeypatch.undo()
    assert relative_error(got, wanted) < FLOAT32
    assert torch.equal(sampled(sampling, chained(sampling, pair, model), conditioning), wanted)


def test_compiled_models(run_node):
    """torch.compile, with a back-end that runs what it is given: tracing is what could go wrong."""
    from comfy_api.torch_helpers import set_torch_compile_wrapper

    compiled_for = []
    for depth in (1, 3):
        unet = {**ONE_STAGE, "transformer_depth": [depth], "transformer_depth_output": [depth, 0]}
        small = Sampling(run_node, *sd15(**unet, transformer_depth_middle=-1))
        conditioning, pair = small.pair(SWAP, PHRASE, SOURCE)
        graphs = []

        def backend(graph, inputs, graphs=graphs):
            graphs.append(graph)
            return graph.forward

        wanted = sampled(small, chained(small, pair, small.model), conditioning)
        compiled = small.model.clone()
        set_torch_compile_wrapper(model=compiled, backend=backend)
        torch._dynamo.reset()
        edited = chained(small, pair, compiled)
        assert relative_error(sampled(small, edited, conditioning), wanted) < FLOAT32
        compiled_for.append(len(graphs))
        sampled(small, edited, conditioning, seed=8)
        assert len(graphs) == compiled_for[-1], "another run has all that it needs"
        torch._dynamo.reset()
    assert compiled_for[0] == compiled_for[1] > 0, "steps and layers share what was compiled"


# ---- what cannot be combined


def test_a_node_that_expands_the_rows_and_leaves_them_so(sampling, three):
    conditioning, pair = three
    model = chained(sampling, pair, sampling.model).clone()
    model.set_model_attn2_patch(
        lambda n, context, value, options: tuple(each.repeat(2, 1, 1) for each in (n, context, value))
    )
    with pytest.raises(ValueError, match="rows from cross-attention, got .*another node expands the batch there"):
        sampled(sampling, model, conditioning)
