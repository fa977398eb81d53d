"""Edits after the projections, in small random transformers of the host's own classes, through its own sampler."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
import torch
import transformer_runs
from memory import Census
from sampling import relative_error
from small_transformers import SMALL, latent, there_is
from transformer_runs import (
    CROSS,
    LONGER,
    NEGATIVE,
    NEVER,
    OTHER,
    SHORTER,
    SOURCE,
    STEPS,
    SWAP,
    THIRD,
    edits_of,
    explicit,
)

JOINT = tuple(name for name in SMALL if name not in CROSS)
FAMILIES = [name for name in (*JOINT, *CROSS)]
PLACED = [
    name for name in JOINT if name not in ("lumina2", "z_image", "flux2")
]  # the text's length does not move the picture

pytestmark = pytest.mark.usefixtures("one_thread")


class Run(transformer_runs.Run):
    def __init__(self, name, host, run_node):
        if not there_is(name):
            pytest.skip("newer hosts have it")
        super().__init__(name, host, run_node)


@pytest.fixture(scope="module", params=FAMILIES)
def run(request, host, run_node):
    return Run(request.param, host, run_node)


def test_nothing_to_do_changes_no_bit(run):
    conditioning, pair = run.pair(SWAP, OTHER)
    got = run.sample(run.edit(pair, **NEVER), conditioning, seeds=2)
    assert torch.equal(got, run.sample(run.model, conditioning, seeds=2, rows=3))


@pytest.mark.daily("4.0", "flux-1.0")
@pytest.mark.parametrize("cfg", [1.0, 4.0])
def test_edits_equal_explicit_maps(run, cfg):
    """Two seeds, three edits; the source row is the stock run's, to the bit."""
    conditioning, pair = run.pair(SWAP, OTHER, THIRD)
    got = run.sample(run.edit(pair), conditioning, seeds=2, cfg=cfg)
    wanted = run.sample(explicit(run, edits_of(run, pair), pair.length), conditioning, seeds=2, rows=4, cfg=cfg)
    assert relative_error(got, wanted) < 2e-4
    stock = run.sample(run.model, conditioning, seeds=2, rows=4, cfg=cfg)
    assert torch.equal(got[::4], stock[::4])
    assert all(relative_error(got[row::4], stock[row::4]) > 1e-2 for row in (1, 2, 3)), "an edit that shows"


def test_two_terms_and_faders_equal_explicit_maps(run):
    """Refine takes shared words only, beside a fader; cond and uncond come separately."""
    conditioning, pair = run.pair(SWAP, THIRD)
    model = run.edit(pair, "P2PAttentionRefine")
    model = run.edit(pair, "P2PReweightToken", model=model, words="chair, box", scale=-1.5, start=0.0, end=1.0)
    negative = run.plain("blurry")
    got = run.sample(model, conditioning, negative=negative)
    edits = edits_of(run, pair, kinds=("shared",), gains=[("chair", -1.5), ("box", -1.5)])
    wanted = run.sample(explicit(run, edits, pair.length), conditioning, rows=3, negative=negative)
    assert relative_error(got, wanted) < 2e-4
    assert torch.equal(got[:1], run.sample(run.model, conditioning, rows=3, negative=negative)[:1])


# ---- prompts of unequal length


@pytest.mark.daily("targets0")
@pytest.mark.parametrize("targets", [(LONGER, SHORTER), (SHORTER, "a dog")])
def test_rows_of_unequal_length_are_their_own_runs(run, targets):
    """Filling is not attended to, and the picture's place is that of the row's own text."""
    conditioning, pair = run.pair(*targets)
    got = run.sample(run.edit(pair, **NEVER), conditioning, seeds=2, height=16, width=16)
    for row, text in enumerate((SOURCE, *targets)):
        alone = run.sample(run.model, run.plain(text), seeds=2, height=16, width=16)
        assert relative_error(got[row::3], alone) < 2e-4
    if len({prompt.length for prompt in (pair.source, *pair.targets)}) > 1 and not SMALL[run.name].made:
        stock = run.sample(run.model, conditioning, seeds=2, rows=3, height=16, width=16)
        assert relative_error(got, stock) > 1e-2, "they would not be, by themselves"


def test_edits_of_unequal_length_equal_explicit_maps(run):
    conditioning, pair = run.pair(LONGER, SHORTER)
    if run.name not in (*PLACED, *CROSS):
        pytest.skip("the oracle's rows have their texts at the beginning")
    got = run.sample(run.edit(pair), conditioning)
    lengths = [prompt.length for prompt in (pair.source, *pair.targets)]
    filled = None if SMALL[run.name].made else lengths  # the model's own filling is attended to
    oracle = explicit(run, edits_of(run, pair), pair.length, filled)
    assert relative_error(got, run.sample(oracle, conditioning, rows=3)) < 2e-4
    alone = run.sample(run.model, run.plain(SOURCE))
    assert relative_error(got[:1], alone) < 2e-4


# ---- word maps


def words_seen(run, positions, seen):
    """A stock model that notes how much its image tokens attend to the text, (B R, Q, T) of each call with text."""
    _, texts = run.text_tokens(positions)

    def override(func, q, k, v, heads, *args, **kwargs):
        queries, keys = (
            each if kwargs.get("skip_reshape") else each.unflatten(-1, (heads, -1)).transpose(1, 2) for each in (q, k)
        )
        maps = (queries.double() @ keys.double().mT / queries.shape[-1] ** 0.5).softmax(-1).mean(1)
        if maps.shape[2] == maps.shape[1] >= texts + 60 or maps.shape[1:] == (60, texts):
            first = {"z_image": texts, "hidream": 0}.get(run.name, maps.shape[1] - 60)
            text = slice(60, None) if run.name == "hidream" else slice(texts)
            seen.append(maps[:, first : first + 60, text])
        return func(q, k, v, heads, *args, **kwargs)

    model = run.model.clone()
    model.model_options["transformer_options"]["optimized_attention_override"] = override
    return model


@pytest.mark.daily("cross")
@pytest.mark.parametrize("attention", ["cross", "self"])
def test_recorded_maps_are_the_stock_models(run, attention):
    """Of the middle block of two or three; cfg 1, so that all rows of a call are ours."""
    conditioning, pair = run.pair(SWAP, THIRD)
    model, record = run.run_node(
        "P2PRecordAttention", model=run.model, pair=pair, words="", attention=attention, map_resolution="auto"
    )
    got = run.sample(model, conditioning, seeds=2, cfg=1.0)
    assert torch.equal(got, run.sample(run.model, conditioning, seeds=2, rows=3, cfg=1.0)), "looking changes nothing"
    kept = record.take(got)
    assert kept.maps.shape[-2:] == (10, 6)
    mean = (kept.maps.float() * torch.tensor(kept.shares).view(-1, *[1] * 5)).sum(0)  # (B, R, K, h, w)
    if attention == "self":
        torch.testing.assert_close(mean.sum(2), torch.ones_like(mean.sum(2)), atol=2e-3, rtol=0)
        return
    blocks = SMALL[run.name].blocks
    require_maps_of(run, pair, conditioning, mean, range(blocks // 3, max(blocks // 3 + 1, 2 * blocks // 3)))


@pytest.mark.parametrize(
    "layers, chosen", [("first third", [0]), ("middle third", [1]), ("last third", [2]), ("all", [0, 1, 2])]
)
def test_maps_of_the_layers_that_are_asked_for(host, run_node, layers, chosen):
    run = Run("flux_dev", host, run_node)
    conditioning, pair = run.pair(SWAP, THIRD)
    model, record = run.run_node(
        "P2PRecordAttention", model=run.model, pair=pair, words="", attention="cross", map_resolution="auto",
        map_layers=layers,
    )  # fmt: skip
    kept = record.take(run.sample(model, conditioning, seeds=2, cfg=1.0))
    mean = (kept.maps.float() * torch.tensor(kept.shares).view(-1, *[1] * 5)).sum(0)
    require_maps_of(run, pair, conditioning, mean, chosen)


def require_maps_of(run, pair, conditioning, mean, chosen):
    """The maps (B, R, K, h, w) are means of what the stock model's blocks of these places are seen to have."""
    seen: list[torch.Tensor] = []
    run.sample(words_seen(run, pair.length, seen), conditioning, seeds=2, rows=3, cfg=1.0)
    blocks = len(seen) // STEPS
    assert blocks == SMALL[run.name].blocks
    maps = torch.stack([seen[step * blocks + i] for step in range(STEPS) for i in chosen]).mean(0)
    before, _ = run.text_tokens(pair.length)
    for row, prompt in enumerate((pair.source, *pair.targets)):
        for k, word in enumerate(prompt.words):
            wanted = maps[row::3, :, [before + position for position in word.positions]].sum(-1)
            torch.testing.assert_close(mean[:, row, k].flatten(1), wanted.float(), atol=2e-4, rtol=2e-3)


def test_local_blend_keeps_the_source_outside_of_the_words(run):
    conditioning, pair = run.pair(SWAP)
    (model,) = run.run_node(
        "P2PLocalBlendMask", model=run.edit(pair), pair=pair, words="", exclude_words="", threshold=0.3, start=0.0,
        spread=False, grow=0, feather=0.0, map_resolution="auto",
    )[:1]  # fmt: skip
    got = run.sample(model, conditioning)
    stock = run.sample(run.model, conditioning, rows=2)
    assert torch.equal(got[:1], stock[:1])
    kept = (got[1] == got[0]).all(0)
    assert 0.02 < kept.float().mean() < 0.98


@pytest.mark.parametrize("backend", ["attention_basic", "attention_split", "attention_sub_quad", "attention_pytorch"])
@pytest.mark.parametrize("name", ["flux", "sd35_medium", "qwen_image", "wan"])
def test_every_attention_function_of_the_host(name, backend, host, run_node):
    """With rows of unequal length, whose filling is masked, and in two terms."""
    import comfy.ldm.modules.attention as attention

    run = Run(name, host, run_node)
    conditioning, pair = run.pair(LONGER, SHORTER)
    model = with_override(run.model, lambda _, *args, **kwargs: getattr(attention, backend)(*args, **kwargs))
    got = run.sample(run.edit(pair, "P2PAttentionRefine", model=model), conditioning)
    lengths = [prompt.length for prompt in (pair.source, *pair.targets)]
    oracle = explicit(run, edits_of(run, pair, kinds=("shared",)), pair.length, lengths)
    assert relative_error(got, run.sample(oracle, conditioning, rows=3)) < 2e-4


# ---- the way back


@pytest.mark.parametrize("name", ["flux", "sd3", "wan", "cosmos_predict2", "anima", "chroma"])
def test_pictures_are_inverted(name, host, run_node):
    """A flow's way back is its own straight steps; the source row of a pair has the length of its own text."""
    run = Run(name, host, run_node)
    for at, parameter in run.model.model.diffusion_model.named_parameters():
        if re.search(r"final_layer.linear|head.head", at):
            parameter.data *= 0.05  # random weights are no denoiser, but with small outputs nearly one
    image = torch.randn(latent(name)["samples"].shape, generator=torch.Generator().manual_seed(3))
    conditioning, pair = run.pair(LONGER)
    settings = {"steps": 6, "scheduler": "normal", "denoise": 1.0}

    def inverted(model, source_row):
        return run.run_node(
            "P2PDDIMInvert", model=model, conditioning=conditioning, latent_image={"samples": image},
            refine_iterations=10, source_row=source_row, **settings,
        )[0]  # fmt: skip

    def sample(model, positive, cfg):
        return run.run_node(
            "KSampler", model=model, seed=1, cfg=cfg, sampler_name="euler", positive=positive,
            negative=run.plain(NEGATIVE), latent_image={"samples": image}, **settings,
        )[0]["samples"]  # fmt: skip

    with torch.inference_mode():
        back = sample(inverted(run.model, "free"), run.plain(SOURCE), 1.0)
        edited = sample(inverted(run.edit(pair), "pin"), conditioning, 4.0)
    assert (back - image).norm() < 1e-5 * image.norm()
    assert torch.equal(edited[:1], image)
    assert (edited[1:] - image).norm() > 1e-2 * image.norm()


# ---- nothing stays behind


@pytest.mark.parametrize("name", ["flux", "z_image", "wan"])  # Cosmos' and Anima's own module keeps its last inputs
def test_however_a_run_ends(name, host, run_node):
    import comfy.model_management as management

    run = Run(name, host, run_node)
    conditioning, pair = run.pair(LONGER, SHORTER)
    size = {"height": 16, "width": 16}
    stock = run.sample(run.model, conditioning, rows=3, **size)
    model = run.run_node(
        "P2PLocalBlendMask", model=run.edit(pair), pair=pair, words="", exclude_words="", threshold=0.3, start=0.0,
        spread=True, grow=0, feather=0.0, map_resolution="auto",
    )[0]  # fmt: skip
    wanted = run.sample(model, conditioning, **size)
    records = [work.record for work in model.model_options["prompt_to_prompt"] if hasattr(work, "record")]
    census = Census()

    def interrupted(_, *args, **kwargs):
        management.interrupt_current_processing()
        management.throw_exception_if_processing_interrupted()

    def broken(_, *args, **kwargs):
        raise RuntimeError("another node's mistake")

    for override, error in (
        (None, None),
        (interrupted, management.InterruptProcessingException),
        (broken, RuntimeError),
    ):
        if override is None:
            assert torch.equal(run.sample(model, conditioning, **size), wanted)
        else:
            with pytest.raises(error):
                run.sample(with_override(model, override), conditioning, **size)
        for record in records:
            record.clear()
        assert census.new() == []
        assert torch.equal(run.sample(run.model, conditioning, rows=3, **size), stock)
    hooked = [module for module in run.model.model.diffusion_model.modules() if module._forward_hooks]
    assert not hooked


# ---- beside other nodes


SLOT = "optimized_attention_override"


def with_override(model, override):
    patched = model.clone()
    patched.model_options["transformer_options"][SLOT] = override
    return patched


def sharper(func, q, k, v, heads, *args, **kwargs):
    """Stands in for another attention of somebody else's: it is not the host's own."""
    return func(q * 1.25, k, v, heads, *args, **kwargs)


def test_the_override_of_another_node_goes_on_standing_in(run):
    """Put in before or after our node; and it is what it was, afterwards."""
    conditioning, pair = run.pair(SWAP)
    stock = run.sample(with_override(run.model, sharper), conditioning, rows=2)
    assert relative_error(stock, run.sample(run.model, conditioning, rows=2)) > 1e-2
    before, after = run.edit(pair, model=with_override(run.model, sharper)), with_override(run.edit(pair), sharper)
    got = run.sample(before, conditioning)
    assert torch.equal(got, run.sample(after, conditioning))
    assert torch.equal(got[:1], stock[:1])
    assert relative_error(got[1:], stock[1:]) > 1e-2
    assert before.model_options["transformer_options"][SLOT] is sharper
    assert SLOT not in run.model.model_options["transformer_options"]


def test_attention_that_does_not_come_by_is_found_out(run):
    """Another node hands the transformer options of its own: the first model call says so."""
    conditioning, pair = run.pair(SWAP)
    calls = []

    def around(apply_model, args):
        calls.append(1)
        options = {**args["c"]["transformer_options"]}
        options.pop(SLOT)
        return apply_model(args["input"], args["timestep"], **{**args["c"], "transformer_options": options})

    model = run.edit(pair)
    model.set_model_unet_function_wrapper(around)
    with pytest.raises(ValueError, match="Wanted to edit the attention of .*none of it came by.*Remove that node"):
        run.sample(model, conditioning)
    assert len(calls) == 1


def test_a_block_whose_attention_does_not_come_by_is_found_out(run):
    """Another node computes the last block in a way of its own."""
    conditioning, pair = run.pair(SWAP)
    attention_calls, model_calls = [], []

    def counted(func, *args, **kwargs):
        attention_calls.append(1)
        return func(*args, **kwargs)

    run.sample(with_override(run.model, counted), conditioning, cfg=1.0, rows=2)
    in_a_model_call = len(attention_calls) // STEPS

    def around(apply_model, args):
        model_calls.append(1)
        options = {**args["c"]["transformer_options"]}
        ours, met = options[SLOT], []

        def all_but_the_last(func, *args, **kwargs):
            met.append(1)
            return func(*args, **kwargs) if len(met) == in_a_model_call else ours(func, *args, **kwargs)

        options[SLOT] = all_but_the_last
        return apply_model(args["input"], args["timestep"], **{**args["c"], "transformer_options": options})

    model = run.edit(pair)
    model.set_model_unet_function_wrapper(around)
    blocks = SMALL[run.name].blocks
    with pytest.raises(ValueError, match=f"in all its {blocks} blocks, but only that of {blocks - 1} came by"):
        run.sample(model, conditioning, cfg=1.0)
    assert len(model_calls) == 1


@pytest.mark.parametrize("name, other", [("flux", "SD3"), ("sd3", "Flux"), ("wan", "CosmosT5")])
def test_a_pair_of_another_encoder_of_the_same_width_is_refused(name, other, host, run_node):
    run = Run(name, host, run_node)
    _, pair = run.pair(SWAP)
    with pytest.raises(ValueError, match="Wanted a prompt pair made by the text encoder of .*Connect the CLIP of this"):
        run.edit(replace(pair, encoder=f"{other}Tokenizer"))


@pytest.mark.parametrize("name", ["flux_dev", "qwen_image"])
def test_reference_pictures_are_part_of_the_picture(name, host, run_node):
    """Kontext, Qwen-Image-Edit: as queries and as keys, in explicit maps as well."""
    run = Run(name, host, run_node)
    conditioning, pair = run.pair(SWAP, OTHER)
    reference = latent(name, 1, 8, 12)["samples"]
    reference = torch.randn(reference.shape, generator=torch.Generator().manual_seed(4))
    conditioning = [[context, {**extras, "reference_latents": [reference]}] for context, extras in conditioning]
    got = run.sample(run.edit(pair), conditioning, seeds=2)
    stock = run.sample(run.model, conditioning, seeds=2, rows=3)
    wanted = run.sample(explicit(run, edits_of(run, pair), pair.length), conditioning, seeds=2, rows=3)
    assert torch.equal(got[::3], stock[::3])
    assert relative_error(got, wanted) < 2e-4
    model, _ = run.run_node(
        "P2PRecordAttention", model=run.model, pair=pair, words="", attention="cross", map_resolution="auto"
    )
    assert torch.equal(run.sample(model, conditioning, seeds=2), stock), "maps are those of the picture itself"


def test_hidream_wants_texts_of_one_length_and_no_picture_beside(host, run_node):
    run = Run("hidream", host, run_node)
    with pytest.raises(ValueError, match="Wanted texts of one length for HiDream.*got 12, 16 tokens for Llama"):
        run.pair("a cat and " + LONGER + " and a dog now")
    conditioning, pair = run.pair(SWAP)
    picture = latent("hidream")["samples"]
    beside = [[context, {**extras, "concat_latent_image": picture}] for context, extras in conditioning]
    with pytest.raises(ValueError, match="Wanted HiDream without reference pictures, got image_cond.*Remove"):
        run.sample(run.edit(pair), beside)


def test_areas_of_a_picture(run):
    """Each with its own pair, in calls of latents of another size."""
    first, pair = run.pair(SWAP)
    second, other = run.pair("a blue dog by the sea", source="a blue cat by the sea")
    if SMALL[run.name].frames:
        pytest.skip("latents with frames: areas have three sides")

    scale = SMALL[run.name].scale

    def placed(conditioning, x):
        area = (20 // scale, 6 // scale, 0, x // scale)
        return [[context, {**extras, "area": area, "strength": 1.0}] for context, extras in conditioning]

    conditioning = placed(first, 0) + placed(second, 6)
    got = run.sample(run.edit(other, model=run.edit(pair)), conditioning)
    stock = run.sample(run.model, conditioning, rows=2)
    assert torch.equal(got[:1], stock[:1])
    assert relative_error(got[1:], stock[1:]) > 1e-2
    assert torch.equal(run.sample(run.edit(other, model=run.edit(pair, **NEVER), **NEVER), conditioning), stock)


@pytest.mark.parametrize("name", CROSS)
def test_frames_are_edited_together(name, host, run_node):
    run = Run(name, host, run_node)
    conditioning, pair = run.pair(SWAP)
    import comfy.sample

    image = torch.zeros(1, SMALL[name].channels, 3, 20, 12)
    noise = comfy.sample.prepare_noise(image, 7)

    def sample(model, rows):
        positive, negative = run.as_made(conditioning) if rows > 1 else conditioning, run.plain(NEGATIVE)
        return comfy.sample.sample(
            model, noise.repeat_interleave(rows, 0), STEPS, 4.0, "euler", "normal", positive, negative,
            image.repeat_interleave(rows, 0), seed=7, disable_pbar=True,
        )  # fmt: skip

    got, stock = sample(run.edit(pair), 1), sample(run.model, 2)
    wanted = sample(explicit(run, edits_of(run, pair), pair.length, images=180), 2)
    assert torch.equal(got[:1], stock[:1])
    assert relative_error(got, wanted) < 2e-4
    model, _ = run.run_node(
        "P2PRecordAttention", model=run.model, pair=pair, words="", attention="cross", map_resolution="auto"
    )
    with pytest.raises(ValueError, match="Attention maps are those of one picture.*frames.*Remove P2P Local Blend"):
        sample(model, 1)
