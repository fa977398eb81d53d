"""P2P Local Blend Mask: outside of its mask every edit is the source, exactly; inside, what it was without it."""

from __future__ import annotations

import itertools
import logging

import pytest
import torch
from sampling import CFG, DEFAULTS, NO_WINDOW, PHRASE, SOURCE, SWAP, Sampling, latent, relative_error
from small_models import sd15

FLOAT32 = 1e-4  # the same sum in another order, through all steps
STEPS = 4
BLEND = {
    "words": "",
    "exclude_words": "",
    "threshold": 0.6,
    "start": 0.2,
    "spread": False,
    "grow": 0,
    "feather": 0.0,
    "map_resolution": "auto",
}
CAT = {"words": "cat, dog", "map_resolution": "8"}


@pytest.fixture(scope="module")
def sampling(run_node):
    return Sampling(run_node, *sd15())


@pytest.fixture(scope="module")
def swap(sampling):
    """(conditioning, pair, model with Replace) of one edit."""
    conditioning, pair = sampling.pair(SWAP)
    return conditioning, pair, sampling.edit(pair)


@pytest.fixture(scope="module")
def swap_and_phrase(sampling):
    """(conditioning, pair, model with Replace and Refine) of two edits."""
    conditioning, pair = sampling.pair(SWAP, PHRASE)
    model = sampling.edit(pair, edit=1, **DEFAULTS)
    return conditioning, pair, sampling.edit(pair, "P2PAttentionRefine", model, edit=2, **DEFAULTS)


def blend(sampling, pair, model, **inputs):
    """(model, masks)"""
    return sampling.run_node("P2PLocalBlendMask", model=model, pair=pair, **{**BLEND, **inputs})


def sample(sampling, model, conditioning, image=None, **settings):
    return sampling.ksampler(model, conditioning, image or latent(1, 8, 8), **{"steps": STEPS, **settings})


def masks_of(masks, samples):
    """(B, E, H, W) in latent pixels."""
    return masks.take(samples).masks


def half_plane(height=8, width=8, rows=None):
    """A mask in latent pixels: the upper rows."""
    mask = torch.zeros(1, height, width)
    mask[:, : rows or height // 2] = 1.0
    return mask


def check_outside(samples, masks, edits=1):
    """Where a mask is 0 the edited row is the source row; somewhere else it is not."""
    rows = samples.unflatten(0, (-1, 1 + edits))
    for seed, edit in itertools.product(range(len(rows)), range(edits)):
        outside = (masks[seed, edit] == 0).expand_as(rows[seed, 0])
        assert outside.any() and not outside.all(), "the mask leaves out something, and not all"
        assert torch.equal(rows[seed, 1 + edit][outside], rows[seed, 0][outside])
        assert not torch.equal(rows[seed, 1 + edit], rows[seed, 0])


# ---- inside and outside (every sampler: test_samplers.py)


@pytest.mark.parametrize("sampler", ["euler", "dpmpp_sde", "uni_pc", "dpm_fast"])
def test_inside_of_everything_nothing_changes(sampling, swap, sampler):
    conditioning, pair, edited = swap
    without = sample(sampling, edited, conditioning, sampler_name=sampler)
    for inputs in (
        {"mask": torch.ones(1, 64, 64)},
        {"threshold": 0.0},
        {"threshold": 0.0, "feather": 3.0, "grow": 2},
        {"mask": torch.ones(1, 8, 8), "mask_mode": "union", "words": "cat"},
    ):
        model, masks = blend(sampling, pair, edited, **inputs)
        samples = sample(sampling, model, conditioning, sampler_name=sampler)
        assert torch.equal(samples, without)
        assert (masks_of(masks, samples) == 1).all()


def test_inside_of_nothing_the_edit_is_the_source(sampling, swap):
    conditioning, pair, edited = swap
    model, _ = blend(sampling, pair, edited, mask=torch.zeros(1, 8, 8), start=0.0)
    source, edit = sample(sampling, model, conditioning)
    assert torch.equal(source, edit)


# ---- the paper's algorithm


@pytest.mark.parametrize("start", [0.0, 0.5, 1.0])
def test_euler_is_the_papers_own_procedure(sampling, run_node, swap, start):
    """After each step: z* <- z[0] + mask (z* - z[0]), Hertz et al. 2023, Algorithm 1 with a fixed mask."""
    import comfy.samplers

    conditioning, pair, edited = swap
    mask = half_plane()
    (sigmas,) = run_node("BasicScheduler", model=edited, scheduler="normal", steps=STEPS, denoise=1.0)

    def euler(model, x, sigmas, extra_args=None, callback=None, disable=None):
        for i in range(len(sigmas) - 1):
            denoised = model(x, sigmas[i] * x.new_ones(len(x)), **extra_args)
            x = x + (x - denoised) / sigmas[i] * (sigmas[i + 1] - sigmas[i])
            if (i + 0.5) / STEPS >= start or i == STEPS - 1:
                x = torch.stack([x[0], x[0] + mask[0] * (x[1] - x[0])])
        return x

    def custom(model, sampler):
        return run_node(
            "SamplerCustom", model=model, add_noise=True, noise_seed=7, cfg=CFG, positive=conditioning,
            negative=sampling.encode(), sampler=sampler, sigmas=sigmas, latent_image=latent(1, 8, 8),
        )[0]["samples"]  # fmt: skip

    wanted = custom(edited, comfy.samplers.KSAMPLER(euler))
    got = custom(blend(sampling, pair, edited, mask=mask, start=start)[0], comfy.samplers.ksampler("euler"))
    assert torch.equal(got[0], wanted[0])
    assert torch.equal(wanted[0][:, 4:], wanted[1][:, 4:])
    assert relative_error(got[1], wanted[1]) < 1e-6
    others = [blend(sampling, pair, edited, mask=mask, start=other)[0] for other in (0.0, 0.5, 1.0) if other != start]
    for model in others:
        other = custom(model, comfy.samplers.ksampler("euler"))
        assert relative_error(other[1], wanted[1]) > 5e-6, "the start shows"


def test_before_start_nothing_is_blended(sampling, swap):
    """The denoised previews are those of the run without, up to the step that start names."""
    import comfy.sample

    conditioning, pair, edited = swap
    noise = comfy.sample.prepare_noise(latent(1, 8, 8)["samples"], 7)

    def previews(model):
        seen = {}
        comfy.sample.sample(
            model, noise, STEPS, CFG, "euler", "normal", conditioning, sampling.encode(), 0 * noise, disable_pbar=True,
            seed=7, callback=lambda step, denoised, x, steps: seen.setdefault(step, denoised.clone()),
        )  # fmt: skip
        return [seen[step] for step in range(STEPS)]

    without = previews(edited)
    for start, first in ((0.0, 0), (0.3, 1), (0.5, 2), (1.0, 3)):
        seen = previews(blend(sampling, pair, edited, mask=half_plane(), start=start)[0])
        for step in range(STEPS):
            source, edit = seen[step].chunk(2, dim=-1)  # side by side
            assert torch.equal(source[..., 4:, :], edit[..., 4:, :]) == (step >= first), (start, step)
            if step < first:
                assert torch.equal(seen[step], without[step])


@pytest.mark.parametrize("sampler", ["dpm_fast", "uni_pc"])
def test_start_at_the_end_still_blends(sampling, swap, sampler):
    """Also where the sampler never calls the model at the last noise level."""
    conditioning, pair, edited = swap
    for inputs in ({"mask": half_plane()}, CAT):
        model, masks = blend(sampling, pair, edited, start=1.0, **inputs)
        samples = sample(sampling, model, conditioning, sampler_name=sampler, steps=3)
        check_outside(samples, masks_of(masks, samples))


# ---- the mask from words


def mask_of(sampling, pair, edited, conditioning, image=None, **inputs):
    model, masks = blend(sampling, pair, edited, **inputs)
    samples = sample(sampling, model, conditioning, image, steps=2)
    return masks_of(masks, samples)


def maps_of(sampling, pair, edited, conditioning, words, image=None, **inputs):
    """(B, R, K, h, w): what P2P Record Attention keeps of the same run."""
    model, kept = sampling.run_node(
        "P2PRecordAttention", model=edited, pair=pair, words=words, attention="cross", map_resolution="auto", **inputs
    )
    content = kept.take(sample(sampling, model, conditioning, image, steps=2))
    return content.maps.float().mean(dim=0)


def inside(maps, threshold):
    """The paper's mask of one map: what reaches the threshold between its least and its most."""
    low, high = maps.amin((-2, -1), keepdim=True), maps.amax((-2, -1), keepdim=True)
    return (maps - low) / (high - low) >= threshold


def agree(got, wanted):
    """Equal but for places on the threshold itself: maps were kept in half precision, and end with another step."""
    return (got.bool() == wanted).float().mean() > 0.95


def test_the_mask_is_where_the_words_look(sampling, swap):
    """Source and edit together, at the layers' own resolution (here that of the latent)."""
    conditioning, pair, edited = swap
    image = latent(2, 12, 10)
    late = {"start": 1.0}  # so that the maps are those of the run without
    maps = maps_of(sampling, pair, edited, conditioning, "cat, dog, chair, a", image)
    cat, dog = maps[:, 0, 0], maps[:, 1, 0]
    chair, article = maps[:, :, 1].unbind(1), maps[:, :, 2].unbind(1)
    for words, wanted in {
        "cat": inside(cat, 0.6),
        "dog": inside(dog, 0.6),
        "cat, dog": inside(cat, 0.6) | inside(dog, 0.6),
        "": inside(cat, 0.6) | inside(dog, 0.6),
        "chair": inside(chair[0], 0.6) | inside(chair[1], 0.6),
        "a": inside(article[0], 0.6) | inside(article[1], 0.6),
    }.items():
        got = mask_of(sampling, pair, edited, conditioning, image, words=words, **late)
        assert got.shape == (2, 1, 12, 10) and agree(got[:, 0], wanted), words
    got = mask_of(sampling, pair, edited, conditioning, image, words="cat, dog", exclude_words="chair", **late)
    wanted = (inside(cat, 0.6) | inside(dog, 0.6)) & ~(inside(chair[0], 0.6) | inside(chair[1], 0.6))
    assert agree(got[:, 0], wanted)
    pictures = [inside(each, 0.6) for each in (cat, dog, chair[0], article[0])]
    assert all((a != b).float().mean() > 0.1 for a, b in itertools.combinations(pictures, 2)), "words can be told apart"


def test_injected_maps_make_another_mask(sampling, swap):
    conditioning, pair, edited = swap
    own, injected, source = (
        mask_of(sampling, pair, edited, conditioning, words=words, maps=maps, start=1.0)
        for words, maps in (("dog", "own"), ("dog", "injected"), ("cat", "own"))
    )
    assert not torch.equal(own, injected)
    everything = sampling.edit(pair, **{**DEFAULTS, "cross_end": 1.0})
    injected = mask_of(sampling, pair, everything, conditioning, words="dog", maps="injected", start=1.0)
    assert torch.equal(injected, source), "all of dog's maps are the cat's"


def test_words_of_several_pieces_and_occurrences(sampling):
    conditioning, pair = sampling.pair("a dog and a zyxwvut, a red chair", source="a cat and a zyxwvut, a small chair")
    edited, late = sampling.edit(pair), {"start": 1.0}
    maps = maps_of(sampling, pair, edited, conditioning, "zyxwvut, a#2, a, red")
    for column, word in enumerate(("zyxwvut", "a#2", "a")):
        wanted = inside(maps[:, 0, column], 0.6) | inside(maps[:, 1, column], 0.6)
        assert agree(mask_of(sampling, pair, edited, conditioning, words=word, **late)[:, 0], wanted), word
    empty = mask_of(sampling, pair, edited, conditioning, **late)
    named = mask_of(sampling, pair, edited, conditioning, words="dog, red, cat, small", **late)
    assert torch.equal(empty, named), "no words: those in which the prompts differ"


def test_new_articles_and_connectives_say_nothing(sampling):
    conditioning, pair = sampling.pair("a cat with the hat on a red chair")
    edited = sampling.edit(pair, "P2PAttentionRefine", **DEFAULTS)
    empty, hat, all_new = (
        mask_of(sampling, pair, edited, conditioning, words=words) for words in ("", "hat", "with, the, hat")
    )
    assert torch.equal(empty, hat) and not torch.equal(empty, all_new)
    conditioning, pair = sampling.pair("the cat on the red chair")
    edited = sampling.edit(pair)
    got = mask_of(sampling, pair, edited, conditioning)
    wanted = mask_of(sampling, pair, edited, conditioning, words="the#1, the#2, a#1, a#2")
    assert torch.equal(got, wanted), "articles, where they are all there is"


def test_threshold_grow_and_feather(sampling, swap):
    conditioning, pair, edited = swap
    image, late = latent(1, 16, 12), {"start": 1.0, "words": "cat"}

    def mask(**inputs):
        return mask_of(sampling, pair, edited, conditioning, image, **{**late, **inputs})[0, 0]

    thresholds = [mask(threshold=t) for t in (0.0, 0.3, 0.6, 0.9, 1.0)]
    for larger, smaller in itertools.pairwise(thresholds):
        assert (smaller <= larger).all() and smaller.sum() < larger.sum()
    assert thresholds[0].all() and thresholds[-1].sum() == 1, "everything; the largest alone"

    point = mask(threshold=1.0)
    y, x = (int(i) for i in point.nonzero()[0])
    grown = mask(threshold=1.0, grow=2)
    wanted = torch.zeros_like(point)
    wanted[max(y - 2, 0) : y + 3, max(x - 2, 0) : x + 3] = 1.0
    assert torch.equal(grown, wanted), "two tokens further, here of a pixel each"

    soft = mask(threshold=1.0, feather=3.0)
    reach = torch.zeros_like(point)
    reach[max(y - 3, 0) : y + 4, max(x - 3, 0) : x + 4] = 1.0
    assert torch.equal((soft > 0).float(), reach), "it reaches three pixels"
    assert soft.max() < 1 and soft.argmax() == point.argmax()


def test_soft_border_blends_in_between(sampling, swap):
    conditioning, pair, edited = swap
    model, masks = blend(sampling, pair, edited, feather=2.0, threshold=0.8, words="cat")
    samples = sample(sampling, model, conditioning, latent(1, 20, 12))
    mask = masks_of(masks, samples)
    check_outside(samples, mask)
    assert ((mask > 0) & (mask < 1)).any()


def test_coarser_maps_make_coarser_masks(sampling, swap):
    conditioning, pair, edited = swap
    image = latent(1, 16, 16)
    fine, coarse = (
        mask_of(sampling, pair, edited, conditioning, image, words="cat", map_resolution=each) for each in ("16", "8")
    )
    assert not torch.equal(fine, coarse)


def test_in_an_area(sampling, run_node, swap):
    """The words look only where their conditioning is; the mask is there too."""
    conditioning, pair, edited = swap
    (area,) = run_node("ConditioningSetArea", conditioning=conditioning, width=96, height=64, x=0, y=64, strength=1.0)
    model, masks = blend(sampling, pair, edited, threshold=0.5)
    samples = sample(sampling, model, area + sampling.encode("a tree"), latent(1, 16, 12))
    mask = masks_of(masks, samples)
    assert not mask[..., :8, :].any() and mask[..., 8:, :].any()
    check_outside(samples, mask)


def test_a_pair_that_begins_later(sampling, run_node, swap):
    """Another prompt goes first: there is nothing to blend before the pair's own steps."""
    conditioning, pair, edited = swap
    (first,) = run_node("ConditioningSetTimestepRange", conditioning=sampling.encode("a tree"), start=0.0, end=0.5)
    (later,) = run_node("ConditioningSetTimestepRange", conditioning=conditioning, start=0.5, end=1.0)
    model, masks = blend(sampling, pair, edited, start=0.0)
    samples = sample(sampling, model, first + later)
    check_outside(samples, masks_of(masks, samples))


# ---- given masks


def test_given_masks(sampling, swap):
    conditioning, pair, edited = swap
    upper, late = half_plane(12, 10), {"start": 1.0}

    def mask(image=None, **inputs):
        return mask_of(sampling, pair, edited, conditioning, image or latent(1, 12, 10), **late, **inputs)

    words = mask(words="cat")[0, 0]
    assert torch.equal(mask(mask=upper)[0, 0], upper[0])
    assert torch.equal(mask(mask=upper, mask_mode="intersect", words="cat")[0, 0], upper[0] * words)
    assert torch.equal(mask(mask=upper, mask_mode="union", words="cat")[0, 0], torch.maximum(upper[0], words))
    pixels = mask(mask=half_plane(96, 80))[0, 0]
    assert torch.equal(pixels.round(), upper[0]), "of the picture's size"
    assert torch.equal(mask(mask=upper[0] * 0.5)[0, 0], upper[0] * 0.5), "soft"
    two = mask(latent(2, 12, 10), mask=torch.cat([upper, 1 - upper]))
    assert torch.equal(two[:, 0], torch.cat([upper, 1 - upper])), "one for each seed"


def test_masks_for_each_edit_and_seed(sampling):
    conditioning, pair = sampling.pair(SWAP, PHRASE)
    edited = sampling.edit(pair)
    upper = half_plane()
    left = upper.mT
    late = {"start": 1.0}

    def mask(**inputs):
        return mask_of(sampling, pair, edited, conditioning, latent(2, 8, 8), **late, **inputs)

    each = mask(mask=torch.cat([upper, left]))
    assert torch.equal(each, torch.cat([upper, left]).expand(2, 2, 8, 8))
    four = torch.cat([upper, left, 1 - upper, 1 - left])
    assert torch.equal(mask(mask=four), four.unflatten(0, (2, 2)))
    assert torch.equal(mask(mask=upper), upper.expand(2, 2, 8, 8))


# ---- several edits


def test_each_edit_has_its_own_mask(sampling):
    conditioning, pair = sampling.pair(SWAP, PHRASE)
    model, masks = blend(sampling, pair, sampling.edit(pair), words="dog, small")
    samples = sample(sampling, model, conditioning, latent(2, 8, 8))
    mask = masks_of(masks, samples)
    check_outside(samples, mask, edits=2)
    assert not torch.equal(mask[:, 0], mask[:, 1])


def test_one_edit_leaves_the_others(sampling):
    conditioning, pair = sampling.pair(SWAP, PHRASE, SOURCE)
    edited = sampling.edit(pair)
    without = sample(sampling, edited, conditioning, latent(2, 8, 8))
    model, masks = blend(sampling, pair, edited, edit=2)
    got = sample(sampling, model, conditioning, latent(2, 8, 8))
    for row in (0, 1, 3):
        assert torch.equal(got[row::4], without[row::4])
    assert not torch.equal(got[2::4], without[2::4])
    mask = masks_of(masks, got)
    assert (mask[:, [0, 2]] == 1).all() and not mask[:, 1].all()


def test_two_blends_on_different_edits(sampling):
    conditioning, pair = sampling.pair(SWAP, PHRASE)
    edited = sampling.edit(pair)
    first, first_masks = blend(sampling, pair, edited, edit=1, threshold=0.5)
    model, second_masks = blend(sampling, pair, first, edit=2, mask=half_plane())
    samples = sample(sampling, model, conditioning)
    mask = torch.cat([masks_of(first_masks, samples)[:, :1], masks_of(second_masks, samples)[:, 1:]], dim=1)
    check_outside(samples, mask, edits=2)
    alone = sample(sampling, first, conditioning)
    assert torch.equal(samples[1], alone[1])
    for again in ({"edit": 1}, {"edit": 2, "mask": half_plane()}, {}):
        with pytest.raises(ValueError, match="Wanted one P2P Local Blend Mask for an edit, got two for edit"):
            blend(sampling, pair, model, **again)


def test_order_of_the_nodes_does_not_matter(sampling):
    conditioning, pair = sampling.pair(SWAP, PHRASE)
    nodes = [
        lambda model: sampling.edit(pair, model=model, edit=1, **DEFAULTS),
        lambda model: sampling.edit(pair, "P2PAttentionRefine", model, edit=2, **DEFAULTS),
        lambda model: sampling.edit(pair, "P2PReweightToken", model, words="red", scale=2.0, start=0.0, end=1.0),
        lambda model: blend(sampling, pair, model)[0],
    ]
    results = []
    for order in ((0, 1, 2, 3), (3, 0, 1, 2), (2, 3, 1, 0), (1, 2, 0, 3)):
        model = sampling.model
        for i in order:
            model = nodes[i](model)
        results.append(sample(sampling, model, conditioning))
    assert all(torch.equal(each, results[0]) for each in results[1:])
    assert not torch.equal(results[0][1], results[0][2])


def test_without_any_edit(sampling):
    """Two prompts and a mask: the source everywhere but inside."""
    conditioning, pair = sampling.pair(SWAP)
    model, masks = blend(sampling, pair, sampling.model)
    samples = sample(sampling, model, conditioning)
    check_outside(samples, masks_of(masks, samples))
    unedited = sample(sampling, sampling.edit(pair, **NO_WINDOW), conditioning)
    assert torch.equal(samples[0], unedited[0]) and not torch.equal(samples[1], unedited[1])


# ---- other ways to sample


def test_with_inpainting(sampling, swap):
    """Outside of the noise mask the picture, inside it but outside of the blend the source."""
    conditioning, pair, edited = swap
    torch.manual_seed(3)
    image = {"samples": torch.randn(1, 4, 8, 8), "noise_mask": torch.zeros(1, 64, 64)}
    image["noise_mask"][..., :32] = 1.0  # left half
    model, masks = blend(sampling, pair, edited, mask=half_plane())
    for sampler in ("euler", "ddim", "dpmpp_2m"):
        source, edit = sample(sampling, model, conditioning, dict(image), sampler_name=sampler)
        for row in (source, edit):
            assert relative_error(row[..., 5:], image["samples"][0, ..., 5:]) < FLOAT32
        assert torch.equal(edit[:, 4:], source[:, 4:])
        assert relative_error(source[..., :3], image["samples"][0, ..., :3]) > 1e-2
        assert relative_error(edit[:, :4, :3], source[:, :4, :3]) > 1e-3


def test_image_to_image(sampling, swap):
    conditioning, pair, edited = swap
    torch.manual_seed(3)
    image = {"samples": torch.randn(2, 4, 8, 8)}
    model, masks = blend(sampling, pair, edited, start=0.5)
    samples = sample(sampling, model, conditioning, image, denoise=0.6)
    check_outside(samples, masks_of(masks, samples))


def test_guidance_one(sampling, swap):
    conditioning, pair, edited = swap
    model, masks = blend(sampling, pair, edited)
    samples = sample(sampling, model, conditioning, cfg=1.0)
    check_outside(samples, masks_of(masks, samples))


def test_conditionings_in_separate_calls(sampling, swap, monkeypatch):
    from comfy.model_base import BaseModel

    conditioning, pair, edited = swap
    model, masks = blend(sampling, pair, edited)
    together = sample(sampling, model, conditioning)
    mask = masks_of(masks, together)
    monkeypatch.setattr(BaseModel, "memory_required", lambda *_, **__: 1e30)
    samples = sample(sampling, model, conditioning)
    check_outside(samples, masks_of(masks, samples))
    assert relative_error(samples, together) < 1e-3 and torch.equal(masks_of(masks, samples), mask)


def test_two_pairs_combined(sampling):
    """Each blend takes its own pair's maps; the rows are held by both."""
    first, first_pair = sampling.pair(SWAP)
    second, second_pair = sampling.pair("a house by the sea", source="a tree by the sea")
    edited = sampling.edit(second_pair, model=sampling.edit(first_pair))
    model, one = blend(sampling, first_pair, edited)
    samples = sample(sampling, model, first + second)
    check_outside(samples, masks_of(one, samples))
    model, two = blend(sampling, second_pair, model, mask=half_plane())
    samples = sample(sampling, model, first + second)
    check_outside(samples, torch.minimum(masks_of(one, samples), masks_of(two, samples)))


def test_a_run_that_stops_in_the_middle(sampling, run_node, swap):
    """KSampler (Advanced) with leftover noise: held where it stands."""
    conditioning, pair, edited = swap
    model, masks = blend(sampling, pair, edited, start=0.0)
    samples = run_node(
        "KSamplerAdvanced", model=model, add_noise="enable", noise_seed=7, steps=STEPS, cfg=CFG, sampler_name="euler",
        scheduler="normal", positive=conditioning, negative=sampling.encode(), latent_image=latent(1, 8, 8),
        start_at_step=0, end_at_step=2, return_with_leftover_noise="enable",
    )[0]["samples"]  # fmt: skip
    check_outside(samples, masks_of(masks, samples))


# ---- the masks afterwards


def test_shown_masks(sampling):
    conditioning, pair = sampling.pair(SWAP, PHRASE)
    model, masks = blend(sampling, pair, sampling.edit(pair), edit=2)
    samples = sample(sampling, model, conditioning, latent(2, 8, 8))
    images = torch.rand(6, 64, 64, 3, generator=torch.Generator().manual_seed(1))
    show = lambda images: sampling.run_node(  # noqa: E731
        "P2PShowBlendMask", masks=masks, latent={"samples": samples}, images=images
    )
    mask, picture = show(images)
    kept = masks_of(masks, samples)
    wanted = kept.flatten(0, 1).repeat_interleave(8, 1).repeat_interleave(8, 2)  # seed by seed, edit by edit
    assert torch.equal(mask, wanted) and mask.shape == (4, 64, 64)
    assert (mask[0::2] == 1).all(), "an edit that is not blended"
    edited = images[[1, 2, 4, 5]]
    assert torch.equal(picture[mask == 1], edited[mask == 1])
    assert torch.allclose(picture[mask == 0], edited[mask == 0] * 0.25)
    alone, grey = show(None)
    assert torch.equal(alone, mask) and torch.equal(grey, mask[..., None].expand(-1, -1, -1, 3))
    with pytest.raises(ValueError, match="Wanted the 6 pictures.*got 3"):
        show(images[:3])
    rows = samples.unflatten(0, (2, 3))
    outside = (mask[1, ::8, ::8] == 0).expand(4, 8, 8)
    assert outside.any() and torch.equal(rows[0, 2][outside], rows[0, 0][outside]), "the mask that was used"
    with pytest.raises(ValueError, match="latent of the recorded run"):
        masks.take(sample(sampling, model, conditioning, latent(2, 8, 8), seed=8)[:3])


@pytest.mark.parametrize(
    "inputs, says",
    [
        ({"mask": torch.zeros(1, 8, 8)}, ["mask of edit 1 of image 1 is empty, so the edit is the source"]),
        ({"mask": half_plane()}, []),
        ({"grow": 8}, ["mask of edit 1 of image 1 covers all, so nothing is held back. Raise the threshold"]),
        ({"threshold": 0.0}, []),  # asked for
        ({"mask": torch.ones(1, 8, 8)}, []),  # asked for
    ],
)
def test_what_the_log_says_of_masks(sampling, swap, caplog, inputs, says):
    conditioning, pair, edited = swap
    with caplog.at_level(logging.WARNING):
        sample(sampling, blend(sampling, pair, edited, **inputs)[0], conditioning, steps=1)
    said = [record.message for record in caplog.records if "the blend's mask" in record.message]
    assert len(said) == len(says)
    assert all(wanted in got for wanted, got in zip(says, said, strict=True))


# ---- mistakes


def test_words_that_are_in_no_prompt(sampling, swap):
    _, pair, edited = swap
    for inputs in ({"words": "cat, lion"}, {"exclude_words": "lion"}, {"words": "cat#2", "exclude_words": "lion"}):
        with pytest.raises(ValueError, match="(?s)which is in none.*source: a, cat, on.*edit 1: a, dog, on"):
            blend(sampling, pair, edited, **inputs)


def test_words_of_another_edit(sampling):
    _, pair = sampling.pair(SWAP, PHRASE)
    with pytest.raises(ValueError, match="Wanted words of the source or of edit 2, got 'dog'.*a, cat, on, a, small"):
        blend(sampling, pair, sampling.model, words="dog")
    blend(sampling, pair, sampling.model, words="dog", edit=1)


def test_prompts_that_do_not_differ(sampling):
    _, pair = sampling.pair(SOURCE)
    with pytest.raises(ValueError, match="Wanted prompts that differ, or words to blend by.*Name the words"):
        blend(sampling, pair, sampling.model)
    blend(sampling, pair, sampling.model, words="cat")
    blend(sampling, pair, sampling.model, mask=half_plane())


def test_words_beside_a_mask_that_replaces_them(sampling, swap):
    _, pair, edited = swap
    for inputs in ({"words": "cat"}, {"exclude_words": "cat"}):
        with pytest.raises(ValueError, match="words or a mask that replaces theirs, got both.*intersect or union"):
            blend(sampling, pair, edited, mask=half_plane(), **inputs)


def test_no_such_edit(sampling, swap):
    _, pair, edited = swap
    with pytest.raises(ValueError, match="edit 0 .all. or 1 to 1.*got 2"):
        blend(sampling, pair, edited, edit=2)


@pytest.fixture
def refuses(sampling, monkeypatch):
    """Run the sampler, which must answer with the given words before the model is called once."""
    from comfy.model_base import BaseModel

    def never(*_, **__):
        raise AssertionError("sampled")

    def check(says, model, positive, image):
        monkeypatch.setattr(BaseModel, "apply_model", never)
        with pytest.raises(ValueError, match=says):
            sample(sampling, model, positive, image)

    return check


def test_wrong_number_of_masks(sampling, refuses):
    conditioning, pair = sampling.pair(SWAP, PHRASE)
    with pytest.raises(ValueError, match="one mask, or one for each of the 2 edited prompts, got 3"):
        blend(sampling, pair, sampling.model, mask=torch.ones(3, 8, 8))
    model, _ = blend(sampling, pair, sampling.edit(pair), mask=torch.ones(4, 8, 8))
    refuses(r"1 mask, 2 \(one for each.*or 6 \(.*3 images as well\), got 4", model, conditioning, latent(3, 8, 8))


def test_resolution_that_the_model_has_not(sampling, swap, refuses):
    conditioning, pair, edited = swap
    model, _ = blend(sampling, pair, edited, map_resolution="32")
    refuses("about 32 x 32 tokens, got layers of 8 x 8, 4 x 4, 2 x 2.*auto", model, conditioning, latent(1, 8, 8))


def test_pair_that_is_not_on_the_sampler(sampling, swap, refuses):
    conditioning, pair, edited = swap
    _, other = sampling.pair(PHRASE)
    model, _ = blend(sampling, other, sampling.model)
    refuses("Wanted the conditioning of the pair", model, conditioning, latent(1, 8, 8))


# ---- spread


def test_spread_uses_the_runs_own_self_attention(sampling, swap, host, monkeypatch):
    """What fills the words' maps are the self-attention maps that a recorder keeps of the same run."""
    module, seen = host.module("p2p_attention.blend"), []
    original = module.spread
    monkeypatch.setattr(
        module, "spread", lambda maps, together: seen.append((maps, together)) or original(maps, together)
    )
    conditioning, pair, model = swap
    model, masks = blend(sampling, pair, model, spread=True)
    recorded = {}
    for attention in ("cross", "self"):
        model, recorded[attention] = sampling.run_node(
            "P2PRecordAttention", model=model, pair=pair, words="cat, dog", attention=attention, map_resolution="auto"
        )
    samples = sample(sampling, model, conditioning)
    check_outside(samples, masks_of(masks, samples))
    for used, attention in zip(seen[-1], ("cross", "self"), strict=True):
        kept = recorded[attention].take(samples)
        mean = (kept.maps[:, 0].float() * torch.tensor(kept.shares).view(-1, 1, 1, 1, 1)).sum(0)
        assert torch.allclose(used, mean, rtol=1e-3, atol=1e-4)


def test_spread_in_two_images_and_separate_calls(sampling, swap_and_phrase, monkeypatch):
    from comfy.model_base import BaseModel

    conditioning, pair, model = swap_and_phrase
    model, masks = blend(sampling, pair, model, spread=True, threshold=0.5)
    together = sample(sampling, model, conditioning, latent(2, 8, 8))
    check_outside(together, masks_of(masks, together), edits=2)
    monkeypatch.setattr(BaseModel, "memory_required", lambda *_, **__: 1e30)
    apart = sample(sampling, model, conditioning, latent(2, 8, 8))
    assert relative_error(apart, together) < FLOAT32


# ---- words and change

CHANGE = {"mask_from": "words and change", "threshold": 0.3, "words": ""}


@pytest.mark.parametrize("sampler", ["euler", "dpmpp_sde", "uni_pc", "dpm_fast"])
def test_masks_from_words_and_change(sampling, sampler):
    """Two seeds and three edits: outside of each one's own mask it is the source, and the masks are shown."""
    conditioning, pair = sampling.pair(SWAP, PHRASE, "a lion on a blue chair")
    model, masks = blend(sampling, pair, sampling.edit(pair), **CHANGE)
    samples = sample(sampling, model, conditioning, latent(2, 16, 16), sampler_name=sampler)
    mask = masks_of(masks, samples)
    assert mask.shape == (2, 3, 16, 16)
    check_outside(samples, mask, edits=3)
    different = itertools.combinations(mask.flatten(0, 1), 2)
    assert not any(torch.equal(one, other) for one, other in different)
    shown, _ = sampling.run_node("P2PShowBlendMask", masks=masks, latent={"samples": samples})
    assert torch.equal(shown[:, ::8, ::8], mask.flatten(0, 1))


def test_words_alone_are_the_default_and_do_not_look_at_predictions(sampling, swap, host, monkeypatch):
    """A workflow that was saved without the input gives the very same latents."""
    conditioning, pair, edited = swap
    changes = sample(sampling, blend(sampling, pair, edited, **CHANGE)[0], conditioning)
    named = sample(sampling, blend(sampling, pair, edited, mask_from="words", threshold=0.3)[0], conditioning)
    monkeypatch.setattr(host.module("p2p_attention.blend").BlendRun, "see", lambda *_: None)
    saved = sample(sampling, blend(sampling, pair, edited, threshold=0.3)[0], conditioning)
    assert torch.equal(saved, named) and not torch.equal(saved, changes)


def test_changes_of_a_run_are_not_seen_by_the_next(sampling, swap):
    conditioning, pair, edited = swap
    model, masks = blend(sampling, pair, edited, **CHANGE)
    first = sample(sampling, model, conditioning)
    mask = masks_of(masks, first)
    other = sample(sampling, model, conditioning, seed=8)
    assert not torch.equal(masks_of(masks, other), mask)
    again = sample(sampling, model, conditioning)
    assert torch.equal(again, first) and torch.equal(masks_of(masks, again), mask)


def test_changes_are_those_before_any_blend(sampling, swap_and_phrase, host, monkeypatch):
    """Each of two blends sees what the model predicts, whichever is applied first."""
    module, seen = host.module("p2p_attention.blend"), []
    monkeypatch.setattr(module.BlendRun, "see", lambda self, denoised: seen.append((self.blend, denoised.clone())))
    conditioning, pair, model = swap_and_phrase
    for edit in (1, 2):
        model, _ = blend(sampling, pair, model, edit=edit, start=0.0, **CHANGE)
    sample(sampling, model, conditioning)
    assert len(seen) == 2 * STEPS
    for (one, first), (other, second) in zip(seen[::2], seen[1::2], strict=True):
        assert one is not other and torch.equal(first, second)


def test_words_and_change_in_separate_calls(sampling, swap, monkeypatch):
    from comfy.model_base import BaseModel

    conditioning, pair, edited = swap
    model, masks = blend(sampling, pair, edited, **CHANGE)
    together = sample(sampling, model, conditioning)
    mask = masks_of(masks, together)
    monkeypatch.setattr(BaseModel, "memory_required", lambda *_, **__: 1e30)
    samples = sample(sampling, model, conditioning)
    check_outside(samples, masks_of(masks, samples))
    assert relative_error(samples, together) < 1e-3 and torch.equal(masks_of(masks, samples), mask)
