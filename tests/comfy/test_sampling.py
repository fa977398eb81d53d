"""Around the edits: what must stay the stock sampler's, whichever sampler, batch or conditioning is used."""

from __future__ import annotations

import pytest
import torch
from sampling import (
    CFG,
    DEFAULTS,
    NO_WINDOW,
    PHRASE,
    SOURCE,
    STEPS,
    SWAP,
    Sampling,
    host_prepares_masks,
    latent,
    relative_error,
)
from small_models import sd15

FLOAT32 = 1e-3  # the same sum in another order, through all steps; an edit that differs is off by far more


@pytest.fixture(scope="module")
def sampling(run_node):
    return Sampling(run_node, *sd15())


def test_pair_rows_are_the_stock_encoding(sampling):
    """Unequal lengths: the short row is the stock conditioning, repeated."""
    long = SWAP + ", very detailed" * 30
    conditioning, pair = sampling.pair(SWAP, long)
    (context, extras), (long_context, _) = conditioning[0], sampling.encode(long)[0]
    assert long_context.shape[1] == 154 == pair.length
    for row, text in enumerate([SOURCE, SWAP]):
        (stock, stock_extras) = sampling.encode(text)[0]
        assert torch.equal(context[row], stock[0].repeat(2, 1))
        assert torch.equal(extras["pooled_output"][row], stock_extras["pooled_output"][0])
    assert torch.equal(context[2], long_context[0])


def test_no_edit_attached_is_the_stock_image(sampling):
    conditioning, _ = sampling.pair(SWAP)
    assert torch.equal(
        sampling.ksampler(sampling.model, conditioning), sampling.ksampler(sampling.model, sampling.encode(SOURCE))
    )


@pytest.mark.parametrize("node", ["P2PAttentionReplace", "P2PAttentionRefine", "P2PReweightToken"])
def test_empty_windows_change_nothing(sampling, node):
    conditioning, pair = sampling.pair(PHRASE, SWAP)
    inputs = {"words": "chair", "scale": 3.0, "start": 0.3, "end": 0.3} if node == "P2PReweightToken" else NO_WINDOW
    got = sampling.ksampler(sampling.edit(pair, node, **inputs), conditioning, latent(2))
    assert torch.equal(got, sampling.stock_rows(conditioning, 3, latent(2)))


def test_scale_one_on_the_source_itself_is_the_source(sampling):
    conditioning, pair = sampling.pair(SOURCE)
    source, edited = sampling.ksampler(
        sampling.edit(pair, "P2PReweightToken", words="cat", scale=1.0, start=0.0, end=1.0), conditioning
    )
    assert relative_error(edited, source) < FLOAT32


def test_order_of_the_nodes_does_not_matter(sampling):
    conditioning, pair = sampling.pair(SWAP)
    fader = {"words": "dog", "scale": 2.0, "start": 0.0, "end": 1.0}
    before = sampling.edit(pair, model=sampling.edit(pair, "P2PReweightToken", **fader))
    after = sampling.edit(pair, "P2PReweightToken", model=sampling.edit(pair), **fader)
    assert torch.equal(sampling.ksampler(before, conditioning), sampling.ksampler(after, conditioning))


# ---- routing: an edit touches its own pair's chunks, however the host batches them


@pytest.fixture
def short_memory(monkeypatch):
    """Call it, and the host runs each conditioning in a call of its own."""
    from comfy.model_base import BaseModel

    return lambda: monkeypatch.setattr(BaseModel, "memory_required", lambda *_, **__: 1e30)


def test_conditionings_in_separate_calls(sampling, short_memory):
    conditioning, pair = sampling.pair(SWAP)
    together = sampling.ksampler(sampling.edit(pair), conditioning)
    short_memory()
    assert relative_error(sampling.ksampler(sampling.edit(pair), conditioning), together) < FLOAT32


def test_negative_is_not_edited(sampling):
    """With the prompt pair on both sides of a guidance of 0 the image is the negative's, which has no edit."""
    conditioning, pair = sampling.pair(SWAP)
    plain = sampling.encode(SWAP)
    got = sampling.ksampler(sampling.edit(pair), conditioning, negative=plain, cfg=0.0)
    assert torch.equal(got, sampling.stock_rows(conditioning, 2, negative=plain, cfg=0.0))


def test_guidance_one_runs_the_positive_alone(sampling):
    conditioning, pair = sampling.pair(SWAP)
    got = sampling.ksampler(sampling.edit(pair), conditioning, cfg=1.0)
    unedited = sampling.stock_rows(conditioning, 2, cfg=1.0)
    assert torch.equal(got[0], unedited[0])
    assert relative_error(got[1], unedited[1]) > 1e-2


def test_beside_another_conditioning(sampling, run_node):
    """Combined with an unrelated conditioning of strength near zero, the edit stays what it is, in any order."""
    conditioning, pair = sampling.pair(SWAP)
    alone = sampling.ksampler(sampling.edit(pair), conditioning)
    faint = [[sampling.encode("a tree")[0][0], {**sampling.encode("a tree")[0][1], "strength": 1e-7}]]
    for combined in (conditioning + faint, faint + conditioning):
        assert relative_error(sampling.ksampler(sampling.edit(pair), combined), alone) < FLOAT32


def test_two_pairs_each_with_its_own_edit(sampling, run_node):
    """Two pairs on one sampler: the combination of each alone is what both together give at one step."""
    first, first_pair = sampling.pair(SWAP)
    second, second_pair = sampling.pair("a tree by the sea", source="a house by the sea")
    model = sampling.edit(second_pair, model=sampling.edit(first_pair))
    settings = {"steps": 1, "cfg": 1.0, "sampler_name": "euler", "scheduler": "sgm_uniform"}
    both = sampling.ksampler(model, first + second, **settings)
    each = [sampling.ksampler(sampling.edit(p), c, **settings) for c, p in ((first, first_pair), (second, second_pair))]
    assert relative_error(both, sum(each) / 2) < FLOAT32


def test_in_an_area_and_under_a_mask(sampling, run_node):
    conditioning, pair = sampling.pair(SWAP)
    mask = torch.zeros(1, 96, 48)
    mask[:, :48] = 1.0
    (area,) = run_node("ConditioningSetArea", conditioning=conditioning, width=48, height=48, x=0, y=0, strength=1.0)
    (masked,) = run_node(
        "ConditioningSetMask", conditioning=conditioning, mask=mask, strength=1.0, set_cond_area="default"
    )
    for placed in (area, masked):
        combined = placed + sampling.encode("a tree")
        got, stock = sampling.ksampler(sampling.edit(pair), combined), sampling.stock_rows(combined, 2)
        assert torch.equal(got[0], stock[0])
        assert relative_error(got[1], stock[1]) > 1e-2


def test_longer_negative_tiles_the_pair(sampling, short_memory):
    conditioning, pair = sampling.pair(PHRASE)
    negative = sampling.encode("blurry, " * 60)
    assert negative[0][0].shape[1] > 77
    model = sampling.edit(pair, "P2PAttentionRefine")
    tiled = sampling.ksampler(model, conditioning, negative=negative)
    short_memory()
    assert relative_error(sampling.ksampler(model, conditioning, negative=negative), tiled) < FLOAT32


def test_source_longer_than_target(sampling):
    """A source of two chunks and an edit of one: the rows are tiled to one length, the edit still holds the layout."""
    long = SOURCE + ", very detailed" * 30
    conditioning, pair = sampling.pair(long, SOURCE, source=long)
    model = sampling.edit(pair, cross_start=0.0, cross_end=1.0, self_start=0.0, self_end=0.0)
    source, same, short = sampling.ksampler(model, conditioning)
    assert relative_error(same, source) < FLOAT32, "the same prompt with all maps injected is the source"
    assert relative_error(short, source) > 1e-2


def test_weighted_prompts_align(sampling):
    conditioning, pair = sampling.pair("a (dog:1.3) on a (red chair:0.8)", source="a (cat:1.3) on a red chair")
    source, edited = sampling.ksampler(sampling.edit(pair, word_windows="dog: 0.6", **DEFAULTS), conditioning)
    assert relative_error(edited, source) > 1e-2


# ---- samplers


def test_custom_samplers_give_what_ksampler_gives(sampling, run_node):
    conditioning, pair = sampling.pair(SWAP)
    negative, model = sampling.encode(), sampling.edit(pair)
    wanted = sampling.ksampler(model, conditioning, sampler_name="euler_ancestral")
    (sampler,) = run_node("KSamplerSelect", sampler_name="euler_ancestral")
    (sigmas,) = run_node("BasicScheduler", model=model, scheduler="normal", steps=STEPS, denoise=1.0)

    advanced = run_node(
        "KSamplerAdvanced",
        model=model,
        add_noise="enable",
        noise_seed=7,
        steps=STEPS,
        cfg=CFG,
        sampler_name="euler_ancestral",
        scheduler="normal",
        positive=conditioning,
        negative=negative,
        latent_image=latent(),
        start_at_step=0,
        end_at_step=1000,
        return_with_leftover_noise="disable",
    )[0]["samples"]
    custom, denoised = run_node(
        "SamplerCustom",
        model=model,
        add_noise=True,
        noise_seed=7,
        cfg=CFG,
        positive=conditioning,
        negative=negative,
        sampler=sampler,
        sigmas=sigmas,
        latent_image=latent(),
    )
    (guider,) = run_node("CFGGuider", model=model, positive=conditioning, negative=negative, cfg=CFG)
    (noise,) = run_node("RandomNoise", noise_seed=7)
    guided, _ = run_node(
        "SamplerCustomAdvanced", noise=noise, guider=guider, sampler=sampler, sigmas=sigmas, latent_image=latent()
    )
    for got in (advanced, custom["samples"], guided["samples"]):
        assert torch.equal(got, wanted)
    assert denoised["samples"].shape == wanted.shape, "the denoised output is the batch, not the preview"
    assert "noise_sampler" not in sampler.extra_options, "the graph's sampler object is left as it was"


def test_image_to_image_and_a_mask_per_seed(sampling):
    torch.manual_seed(3)
    image = {"samples": torch.randn(2, 4, 8, 8), "noise_mask": torch.zeros(2, 1, 64, 64)}
    image["noise_mask"][0, :, :32] = 1.0
    image["noise_mask"][1, :, :, :32] = 1.0
    conditioning, pair = sampling.pair(SWAP)
    for sampler in ("euler", "ddim"):
        got = sampling.ksampler(sampling.edit(pair), conditioning, image, sampler_name=sampler, denoise=0.7)
        kept = image["samples"].repeat_interleave(2, 0)
        assert relative_error(got[:2, :, 5:], kept[:2, :, 5:]) < FLOAT32
        assert relative_error(got[2:, :, :, 5:], kept[2:, :, :, 5:]) < FLOAT32
        assert relative_error(got[:2, :, :3], kept[:2, :, :3]) > 1e-2


def test_a_noise_mask_for_each_row(sampling):
    if host_prepares_masks():
        pytest.skip("this host keeps as many masks as latents: rows have their own in a second pass alone")
    image = {"samples": torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(3))}
    image["noise_mask"] = torch.zeros(4, 1, 8, 8)
    for row in range(4):
        image["noise_mask"][row, ..., 2 * row :] = 1.0
    conditioning, pair = sampling.pair(SWAP)
    got = sampling.ksampler(sampling.edit(pair), conditioning, image, denoise=0.7)
    for row, source in enumerate((0, 0, 1, 1)):
        kept, drawn = slice(0, 2 * row), slice(2 * row, None)
        assert row == 0 or relative_error(got[row, ..., kept], image["samples"][source, ..., kept]) < FLOAT32
        assert relative_error(got[row, ..., drawn], image["samples"][source, ..., drawn]) > 1e-2


@pytest.mark.parametrize("masks", [1, 2])
def test_a_mask_that_the_host_has_prepared(sampling, masks):
    """Newer hosts bring a mask into the latents' shape before anybody's wrapper around the run sees it."""
    from comfy.patcher_extension import WrappersMP
    from comfy.sampler_helpers import prepare_mask

    if host_prepares_masks():
        pytest.skip("this host does so itself, see the test of a mask per seed")

    def prepared(executor, noise, latent_image, sampler, sigmas, denoise_mask=None, *args, **kwargs):
        shapes.append(denoise_mask.shape)
        mask = prepare_mask(denoise_mask, noise.shape, noise.device)
        return executor(noise, latent_image, sampler, sigmas, mask, *args, **kwargs)

    shapes = []
    newer = sampling.model.clone()
    newer.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, "newer host", prepared)
    image = {"samples": torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(3))}
    image["noise_mask"] = torch.zeros(masks, 1, 64, 64)
    for number in range(masks):
        image["noise_mask"][number, ..., 8 * number :, :] = 1.0
    conditioning, pair = sampling.pair(SWAP)
    got, wanted = (
        sampling.ksampler(sampling.edit(pair, model=model), conditioning, image, denoise=0.7)
        for model in (newer, sampling.model)
    )
    assert shapes == [(masks, 1, 64, 64)], "the wrapper ran, before the edits' own"
    assert torch.equal(got, wanted)


def test_previews_show_source_and_edits_side_by_side(sampling):
    import comfy.sample

    conditioning, pair = sampling.pair(SWAP, PHRASE)
    shapes = []
    noise = comfy.sample.prepare_noise(latent(2, 8, 6)["samples"], 7)
    comfy.sample.sample(
        sampling.edit(pair), noise, STEPS, CFG, "euler", "normal", conditioning, sampling.encode(), 0 * noise,
        callback=lambda step, denoised, x, steps: shapes.append((step, *denoised.shape)), disable_pbar=True, seed=7,
    )  # fmt: skip
    assert shapes[:STEPS] == [(i, 1, 4, 8, 18) for i in range(STEPS)]
    assert shapes[STEPS:] == [(STEPS - 1, 6, 4, 8, 6)], "at the end, the real batch for who keeps it"


# ---- nothing stays behind


def test_the_model_is_left_as_it_was(sampling):
    conditioning, pair = sampling.pair(SWAP)
    before = sampling.ksampler(sampling.model, sampling.encode(SOURCE))
    patched = sampling.edit(pair)
    edited = sampling.ksampler(patched, conditioning)

    class Stop(Exception):
        pass

    import comfy.sample

    def interrupt(step, *_):
        if step == 2:
            raise Stop

    noise = comfy.sample.prepare_noise(latent()["samples"], 7)
    with pytest.raises(Stop):
        comfy.sample.sample(
            patched, noise, STEPS, CFG, "euler", "normal", conditioning, sampling.encode(), 0 * noise,
            callback=interrupt, disable_pbar=True, seed=7,
        )  # fmt: skip
    assert torch.equal(sampling.ksampler(sampling.model, sampling.encode(SOURCE)), before)
    assert torch.equal(sampling.ksampler(patched, conditioning), edited)
    assert sampling.model.model_options == {"transformer_options": {}}
    assert not patched.model_options["transformer_options"], "attention patches live in the run's own options"
