"""Beside nodes that expect more of the host than it promises: with each, the source row is the stock result of it."""

from __future__ import annotations

import logging

import pytest
import torch
from inverting import picture
from sampling import DEFAULTS, NO_WINDOW, PHRASE, SOURCE, STEPS, SWAP, Sampling, latent, relative_error
from small_models import control_net, sd15
from stand_ins import Couple, context_options, keyframed, negative_weights, scheduling_encoder
from test_composition import chained, image_prompt, unet_lora

FLOAT32 = 1e-3  # the same sum in another order, through all steps; an edit that differs is off by far more
SIZE = (16, 12)


@pytest.fixture(scope="module")
def sampling(run_node):
    return Sampling(run_node, *sd15())


@pytest.fixture(scope="module")
def three(sampling):
    """A swap, a phrase, and the source again: (conditioning, pair)."""
    return sampling.pair(SWAP, PHRASE, SOURCE)


def empty(batch=1):
    return latent(batch, *SIZE)


def check(got, wanted, rounding=1e-5):
    """Rows of ``three`` with their edits, beside the stock result of the other node."""
    assert relative_error(got[::4], wanted[::4]) <= rounding, "the source row is the other node's own result"
    assert relative_error(got[1::4], wanted[1::4]) > 1e-2
    assert relative_error(got[2::4], wanted[2::4]) > 1e-2
    assert relative_error(got[3::4], got[::4]) < FLOAT32, "an edit of nothing is the source"


# ---- the pair's conditioning as a negative


def zeroed(sampling, conditioning):
    return sampling.run_node("ConditioningZeroOut", conditioning=conditioning)[0]


def zeroed_for_a_while(sampling, conditioning):
    """As templates have it: the zeroed one at first, an empty text after it."""
    first, rest = (
        sampling.run_node("ConditioningSetTimestepRange", conditioning=each, start=start, end=end)[0]
        for each, start, end in (
            (zeroed(sampling, conditioning), 0.1, 1.0),
            (sampling.encode(""), 0.0, 0.1),
        )
    )
    return first + rest


@pytest.mark.parametrize("negative", [zeroed, zeroed_for_a_while])
@pytest.mark.parametrize("targets", [(SWAP, PHRASE), (SWAP, PHRASE + ", very detailed" * 30)], ids=["short", "long"])
def test_the_pair_zeroed_is_any_text_zeroed(sampling, targets, negative):
    conditioning, pair = sampling.pair(*targets)
    model = chained_two(sampling, pair)
    wanted = sampling.ksampler(model, conditioning, empty(), negative=negative(sampling, sampling.encode(SOURCE)))
    got = sampling.ksampler(model, conditioning, empty(), negative=negative(sampling, conditioning))
    assert torch.equal(got, wanted)


def chained_two(sampling, pair):
    return sampling.edit(pair, "P2PAttentionRefine", sampling.edit(pair, edit=1, **DEFAULTS), edit=2, **DEFAULTS)


def test_the_pair_zeroed_on_both_sides_is_no_pair(sampling, three, caplog):
    conditioning, pair = three
    both = zeroed(sampling, conditioning)
    wanted = sampling.ksampler(sampling.model, zeroed(sampling, sampling.encode()), empty(), negative=both)
    assert torch.equal(sampling.ksampler(sampling.edit(pair), both, empty(), negative=both), wanted)


def test_the_pair_as_its_own_negative(sampling, three):
    conditioning, pair = three
    with pytest.raises(ValueError, match="pair's conditioning on the sampler's positive alone, got it on negative"):
        sampling.ksampler(sampling.edit(pair), conditioning, empty(), negative=conditioning)
    with pytest.raises(ValueError, match="positive alone, got it on negative"):
        sampling.ksampler(sampling.edit(pair), sampling.encode(), empty(), negative=conditioning)


def test_a_pair_of_negative_prompts(sampling, three):
    """A pair of its own on the negative: each row has a negative of its own."""
    conditioning, pair = three
    negative, _ = sampling.pair("ugly", "dark", "blurry", source="blurry")
    got = sampling.ksampler(sampling.edit(pair, **NO_WINDOW), conditioning, empty(), negative=negative)
    wanted = sampling.stock_rows(conditioning, 4, empty(), negative=negative)
    assert torch.equal(got, wanted)


# ---- noise levels that come more than once


FIRST_TWICE = [14.6, 14.6, 8.0, 3.0, 0.0]
LISTS = {
    "first twice": FIRST_TWICE,
    "first three times": [14.6, 14.6, 14.6, 3.0, 0.0],
    "in the middle": [14.6, 8.0, 8.0, 3.0, 0.0],
    "restart": [14.6, 8.0, 3.0, 8.0, 3.0, 0.0],
}


def steps_with_open_window(sampling, sigmas, start, end, sampler="euler"):
    """The steps, as the sampler counts them, in which an edit was in force."""
    import comfy.k_diffusion.sampling
    import comfy.samplers

    seen, step = set(), [0]
    conditioning, pair = sampling.pair(SWAP)
    model = sampling.edit(pair, cross_start=start, cross_end=end, self_start=0.0, self_end=0.0)

    def look(q, k, v, options):
        if torch.equal(k[0], k[1]):  # the edited row looks where the source does
            seen.add(step[0])
        return torch.nn.functional.scaled_dot_product_attention(q, k, v)

    patched = model.clone()
    for block, numbers in (("input", range(12)), ("middle", range(1)), ("output", range(12))):
        for number in numbers:
            patched.set_model_attn2_replace(look, block, number)

    def counted(inner, x, sigmas, extra_args=None, callback=None, disable=None, **options):
        def called(state):
            if callback is not None:
                callback(state)
            step[0] = state["i"] + 1

        return getattr(comfy.k_diffusion.sampling, f"sample_{sampler}")(
            inner, x, sigmas, extra_args=extra_args, callback=called, disable=disable, **options
        )

    sampling.run_node(
        "SamplerCustom", model=patched, add_noise=True, noise_seed=7, cfg=1.0, positive=conditioning,
        negative=sampling.encode(), sampler=comfy.samplers.KSAMPLER(counted), sigmas=torch.tensor(sigmas),
        latent_image=empty(),
    )  # fmt: skip
    return seen


@pytest.mark.parametrize("levels", LISTS)
def test_a_window_counts_steps_and_not_noise_levels(sampling, levels):
    """The oracle is the sampler's own count."""
    sigmas = LISTS[levels]
    steps = len(sigmas) - 1
    for step in range(steps):
        assert steps_with_open_window(sampling, sigmas, step / steps, (step + 1) / steps) == {step}


@pytest.mark.parametrize("sampler", ["heun", "dpmpp_2m", "dpm_2", "euler_ancestral"])
def test_a_window_on_a_repeated_first_level_opens_with_every_sampler(sampling, sampler):
    sigmas = [14.6, 14.5999, 8.0, 3.0, 0.0] if sampler.startswith("dpm") else FIRST_TWICE
    assert 0 in steps_with_open_window(sampling, sigmas, 0.0, 0.25, sampler)


# ---- attention couple


def masks():
    left = torch.zeros(SIZE)
    left[:, : SIZE[1] // 2] = 1.0
    return torch.stack([1.0 - left, left])


@pytest.mark.parametrize("length", [1, 40], ids=["one chunk", "two chunks"])
@pytest.mark.parametrize("same", [True, False], ids=["keys are values", "keys and values"])
def test_attention_couple(sampling, three, same, length):
    """Those that demand untouched keys and values, and those that do not; a region may be longer than the pair."""
    conditioning, pair = three
    couple = Couple([sampling.encode("a tree, " * length)], masks(), same)
    wanted = sampling.stock_rows(conditioning, 4, empty(), model=couple.on(sampling.model))
    assert relative_error(wanted, sampling.stock_rows(conditioning, 4, empty())) > 1e-2
    idle = sampling.edit(pair, model=couple.on(sampling.model), **NO_WINDOW)
    assert torch.equal(sampling.ksampler(idle, conditioning, empty()), wanted)
    after = sampling.ksampler(chained(sampling, pair, couple.on(sampling.model)), conditioning, empty())
    before = sampling.ksampler(couple.on(chained(sampling, pair, sampling.model)), conditioning, empty())
    assert torch.equal(before, after)
    check(after, wanted)


@pytest.mark.parametrize("same", [True, False], ids=["keys are values", "keys and values"])
def test_attention_couple_by_hooks(sampling, three, same):
    """Hooks of a conditioning bring patches that come before all those of the model."""
    conditioning, pair = three
    couple = Couple([sampling.encode("a tree")], masks(), same)
    positive = couple.on_conditioning(conditioning)
    wanted = sampling.stock_rows(positive, 4, empty())
    assert relative_error(wanted, sampling.stock_rows(conditioning, 4, empty())) > 1e-2
    check(sampling.ksampler(chained(sampling, pair, sampling.model), positive, empty()), wanted)


def test_attention_couple_of_two_regions_and_two_pictures(sampling, three):
    conditioning, pair = three
    parts = torch.cat([masks(), torch.zeros(1, *SIZE)])
    parts[2, : SIZE[0] // 2] = 1.0
    couple = Couple([sampling.encode("a tree"), sampling.encode("a lake")], parts, True)
    wanted = sampling.stock_rows(conditioning, 4, empty(2), model=couple.on(sampling.model))
    check(sampling.ksampler(chained(sampling, pair, couple.on(sampling.model)), conditioning, empty(2)), wanted)


def test_attention_couple_and_maps(sampling, run_node):
    """The maps are those of the pair's own rows."""
    conditioning, pair = sampling.pair(SWAP)
    found = []
    for couple in (None, Couple([sampling.encode("a tree")], masks(), True)):
        model = sampling.model if couple is None else couple.on(sampling.model)
        model, maps = run_node(
            "P2PRecordAttention", model=model, pair=pair, words="cat", attention="cross", map_resolution="auto",
            maps="own",
        )  # fmt: skip
        made = sampling.ksampler(model, conditioning, empty(), steps=1, denoise=0.01)
        found.append(maps.take(made).maps.float())
    assert found[0].shape == found[1].shape and torch.allclose(found[0].sum(), found[1].sum(), rtol=0.5)


def test_a_region_made_of_the_pair_itself(sampling, three):
    conditioning, pair = three
    couple = Couple([conditioning], masks(), True)
    with pytest.raises(ValueError, match="a region made of one text.*got .*prompt pair's conditioning.*CLIP Text Enc"):
        sampling.ksampler(couple.on(sampling.edit(pair)), conditioning, empty())


def test_attention_couple_beside_an_image_prompt_and_a_blend(sampling, three):
    """As far as they get along with each other: on a sampler without guidance all chunks have equally many rows."""
    conditioning, pair = three
    couple = Couple([sampling.encode("a tree")], masks(), True)

    def both(model):
        return image_prompt(sampling, couple.on(model))

    wanted = sampling.stock_rows(conditioning, 4, empty(), model=both(sampling.model), cfg=1.0)
    got = sampling.ksampler(chained(sampling, pair, both(sampling.model)), conditioning, empty(), cfg=1.0)
    check(got, wanted)


# ---- encoders of other packs


def pair_up(sampling, source, target, target_text=SWAP):
    return sampling.run_node(
        "P2PPairFromConditioning", clip=sampling.clip, source_conditioning=source, target_conditioning=target,
        source=SOURCE, target=target_text,
    )  # fmt: skip


def with_values(conditioning, **values):
    return [[context, {**extras, **values}] for context, extras in conditioning]


NOT_OF_THE_PICTURE = {
    "texts": ("prompt", SOURCE, SWAP),
    "texts of an unknown pack": ("some_pack.text", SOURCE, SWAP),
    "ids": ("node_id", 4, 7),
    "lists of texts": ("tags", ["cat"], ["dog", "red"]),
    "only on one side": ("x-promptcontrol.fill", True, None),
}


@pytest.mark.parametrize("name", NOT_OF_THE_PICTURE)
def test_extras_that_are_not_the_pictures_may_differ(sampling, name):
    key, source, target = NOT_OF_THE_PICTURE[name]
    given = [
        with_values(sampling.encode(text), **({} if value is None else {key: value}))
        for text, value in ((SOURCE, source), (SWAP, target))
    ]
    conditioning, pair = pair_up(sampling, *given)
    wanted = sampling.ksampler(sampling.edit(sampling.pair(SWAP)[1]), sampling.pair(SWAP)[0], empty())
    assert torch.equal(sampling.ksampler(sampling.edit(pair), conditioning, empty()), wanted)


def test_what_nobody_knows_is_said_and_the_sources_stays(sampling, caplog):
    """It may be for another pack's node, which only its author knows."""
    ours, theirs = object(), object()
    with caplog.at_level(logging.WARNING):
        conditioning, _ = pair_up(
            sampling, with_values(sampling.encode(SOURCE), some=ours), with_values(sampling.encode(SWAP), some=theirs)
        )
    assert conditioning[0][1]["some"] is ours
    assert "'some'" in caplog.text and "That of the source counts" in caplog.text


@pytest.mark.parametrize(
    "key, source, target",
    [
        ("strength", 1.0, 0.5),
        ("area", (8, 8, 0, 0), (8, 4, 0, 0)),
        ("mask", torch.ones(1, 8, 8), torch.zeros(1, 8, 8)),
        ("start_percent", 0.0, 0.5),
        ("width", 512, 768),
        ("guidance", 3.5, 4.0),
        ("reference_latents", [torch.ones(1, 4, 8, 8)], [torch.zeros(1, 4, 8, 8)]),
        ("concat_latent_image", torch.ones(1, 4, 8, 8), None),
        ("unclip_conditioning", [{"strength": 1.0}], [{"strength": 0.5}]),
    ],
)
def test_what_the_rows_have_to_share_still_has_to_be_alike(sampling, key, source, target):
    given = [
        with_values(sampling.encode(text), **({} if value is None else {key: value}))
        for text, value in ((SOURCE, source), (SWAP, target))
    ]
    with pytest.raises(ValueError, match=f"Wanted the same {key} for source and edit 1"):
        pair_up(sampling, *given)


def test_hook_groups_of_equal_effect(sampling):
    """An encoder that makes hooks of its own for each text, of the same LoRA."""
    weights = unet_lora(sampling.model)
    source, target = (scheduling_encoder(sampling, text, weights) for text in (SOURCE, SWAP))
    conditioning, pair = pair_up(sampling, source, target)
    for row, alone in enumerate((source, target)):
        got = sampling.ksampler(sampling.edit(pair, **NO_WINDOW), conditioning, empty(), steps=2)
        assert relative_error(got[row], sampling.ksampler(sampling.model, alone, empty(), steps=2)[0]) < FLOAT32
    other = {name: 2.0 * weight for name, weight in weights.items()}
    with pytest.raises(ValueError, match="Wanted the same hooks for source and edit 1"):
        pair_up(sampling, source, scheduling_encoder(sampling, SWAP, other))
    with pytest.raises(ValueError, match="Wanted the same hooks"):
        pair_up(sampling, source, scheduling_encoder(sampling, SWAP))


# ---- contexts of keys and values in turn


NEGATIVE_SWAP = "a dog on a red chair, (tree:-0.8)"
NEGATIVE_SOURCE = "a cat on a red chair, (tree:-0.8)"


@pytest.fixture(scope="module")
def doubled(run_node):
    model, clip = negative_weights(*sd15())
    return Sampling(run_node, model, clip)


@pytest.mark.parametrize("node", ["P2P Prompt Pair", "P2P Pair From Conditioning"])
@pytest.mark.parametrize("long", [0, 30], ids=["one chunk", "two chunks"])
def test_keys_and_values_in_turn(doubled, node, long):
    """A node for negative weights: twice as many positions as tokens, and the model's patch takes them apart."""
    targets = [NEGATIVE_SWAP, NEGATIVE_SOURCE + ", very detailed" * long, NEGATIVE_SOURCE]
    if node == "P2P Prompt Pair":
        conditioning, pair = doubled.pair(*targets, source=NEGATIVE_SOURCE)
    else:
        conditioning, pair = doubled.run_node(
            "P2PPairFromConditioning", clip=doubled.clip, source_conditioning=doubled.encode(NEGATIVE_SOURCE),
            target_conditioning=[part for text in targets for part in doubled.encode(text)], source=NEGATIVE_SOURCE,
            target="\n---\n".join(targets),
        )  # fmt: skip
    assert conditioning[0][0].shape[1] == 2 * pair.length
    plain = doubled.stock_rows(conditioning, 4, empty())
    alone = doubled.ksampler(doubled.model, doubled.encode(NEGATIVE_SOURCE), empty())
    got = doubled.ksampler(chained(doubled, pair, doubled.model), conditioning, empty())
    assert relative_error(plain[:1], alone) < FLOAT32
    check(got, plain)
    before = chained(doubled, pair, sd15()[0])
    before.set_model_attn2_patch(lambda n, context, value, options: (n, context[:, 0::2], value[:, 1::2]))
    assert torch.equal(doubled.ksampler(before, conditioning, empty()), got), "in both orders"


def test_keys_and_values_in_turn_without_the_models_half(doubled):
    conditioning, pair = doubled.pair(NEGATIVE_SWAP, source=NEGATIVE_SOURCE)
    with pytest.raises(ValueError, match="keys and values in turn.*Connect the model of the node"):
        doubled.ksampler(doubled.edit(pair, model=sd15()[0]), conditioning, empty())


def test_a_context_of_more_positions_than_its_text_is_no_such_thing(sampling):
    long = "a very long text, " * 30
    with pytest.raises(ValueError, match="Wanted 77 positions for the source.*got 154"):
        pair_up(sampling, sampling.encode(long), sampling.encode(long), SWAP)


# ---- what counts the batch


@pytest.mark.parametrize("pictures", [1, 2])
def test_context_options_before_and_after(sampling, three, pictures):
    """No more pictures than a window: no windows, wherever the node stands."""
    conditioning, pair = three
    wanted = sampling.stock_rows(conditioning, 4, empty(pictures))
    before = sampling.ksampler(chained(sampling, pair, context_options(sampling.model)), conditioning, empty(pictures))
    after = sampling.ksampler(context_options(chained(sampling, pair, sampling.model)), conditioning, empty(pictures))
    assert torch.equal(before, after)
    check(after, wanted)


@pytest.mark.parametrize("order", ["before", "after"])
def test_context_options_that_would_take_source_and_edits_apart(sampling, three, order):
    conditioning, pair = three
    if order == "before":
        model = chained(sampling, pair, context_options(sampling.model))
    else:
        model = context_options(chained(sampling, pair, sampling.model))
    with pytest.raises(ValueError, match="source and edits in one batch, got .*Remove"):
        sampling.ksampler(model, conditioning, empty(4))


@pytest.fixture(scope="module")
def control(sampling):
    return control_net(sampling.model.model.model_config.unet_config)


def controlled(sampling, control, image, positive, negative):
    return sampling.run_node(
        "ControlNetApplyAdvanced", positive=positive, negative=negative, control_net=control, image=image,
        strength=1.0, start_percent=0.0, end_percent=0.8,
    )  # fmt: skip


@pytest.mark.parametrize("images", ["one for all", "one for each picture"])
@pytest.mark.parametrize("pictures", [1, 3])
def test_keyframes_by_the_number_of_the_picture(sampling, three, control, pictures, images):
    """All rows of a picture get what the picture gets, whatever a ControlNet keeps for each of a batch."""
    conditioning, pair = three
    height, width = SIZE
    count = 1 if images == "one for all" else pictures
    image = torch.rand(count, height * 8, width * 8, 3, generator=torch.Generator().manual_seed(7))
    net = keyframed(control, [0.2, 1.0, 0.5])
    together = {
        text: controlled(sampling, net, image, given, sampling.encode())
        for text, given in (("pair", conditioning), ("source", sampling.encode(SOURCE)))
    }
    wanted = sampling.ksampler(sampling.model, together["source"][0], empty(pictures), negative=together["source"][1])
    positive, negative = together["pair"]
    got = sampling.ksampler(chained(sampling, pair, sampling.model), positive, empty(pictures), negative=negative)
    assert relative_error(got[::4], wanted) < FLOAT32
    assert relative_error(got[3::4], got[::4]) < FLOAT32
    assert relative_error(got[1::4], got[::4]) > 1e-2


# ---- silent nonsense


def said(caplog, sampling, model, positive, image=None, **settings):
    with caplog.at_level(logging.WARNING):
        made = sampling.ksampler(model, positive, image or empty(), **settings)
    return caplog.text, made


def test_an_edit_of_the_same_prompt_is_said(sampling, caplog):
    conditioning, pair = sampling.pair(SWAP, SOURCE)
    text, _ = said(caplog, sampling, sampling.edit(pair), conditioning)
    assert "edit 2" in text and "same text as the source" in text and "edit 1" not in text


def test_a_fader_of_the_same_prompt_is_what_it_is_for(sampling, caplog):
    conditioning, pair = sampling.pair(SOURCE)
    fader = sampling.edit(pair, "P2PReweightToken", words="red", scale=2.0, start=0.0, end=1.0)
    assert said(caplog, sampling, fader, conditioning)[0] == ""


def test_weights_in_the_prompt_are_an_edit(sampling, caplog):
    conditioning, pair = sampling.pair("a cat on a (red:1.5) chair")
    assert said(caplog, sampling, sampling.edit(pair), conditioning)[0] == ""


@pytest.mark.parametrize("denoise", [0.3, 0.6, 0.85])
def test_an_empty_latent_and_denoise_below_1_is_said(sampling, denoise, caplog):
    conditioning, pair = sampling.pair(SWAP)
    text, made = said(caplog, sampling, sampling.edit(pair), conditioning, steps=10, denoise=denoise)
    assert "empty latent" in text and "denoise" in text
    assert len(made) == 2


@pytest.mark.parametrize(
    "scheduler", ["normal", "karras", "exponential", "simple", "sgm_uniform", "beta", "kl_optimal"]
)
@pytest.mark.parametrize("steps", [4, 12])
def test_an_empty_latent_and_denoise_1_is_all_right(sampling, scheduler, steps, caplog):
    conditioning, pair = sampling.pair(SWAP)
    text, _ = said(
        caplog, sampling, sampling.edit(pair), conditioning, latent(1, 8, 8), scheduler=scheduler, steps=steps
    )
    assert text == ""


def test_a_picture_and_denoise_below_1_is_all_right(sampling, caplog):
    conditioning, pair = sampling.pair(SWAP)
    assert said(caplog, sampling, sampling.edit(pair), conditioning, picture(1, *SIZE), denoise=0.5)[0] == ""


def windows(cross_end, self_end=0.4):
    return {"cross_start": 0.0, "cross_end": cross_end, "self_start": 0.0, "self_end": self_end}


OVERSHOOTS = "may come out glaring"
SEEN_TO = [  # sampler, scheduler, cross_end, said; of 10 steps of normal the 9th, from 0.3 to 0.03, is far
    ("dpmpp_2m", "normal", 0.8, True), ("dpmpp_2m", "normal", 0.7, True), ("dpmpp_2m", "normal", 0.6, False),
    ("dpmpp_2m", "normal", 0.9, False), ("dpmpp_2m", "normal", 1.0, False), ("dpmpp_2m", "ddim_uniform", 0.8, True),
    ("dpmpp_2m", "karras", 0.8, False), ("dpmpp_2m", "simple", 0.8, False), ("dpmpp_2m_sde", "normal", 0.8, True),
    ("res_multistep_cfg_pp", "normal", 0.8, True), ("deis", "normal", 0.5, True), ("deis", "normal", 0.3, False),
    ("lms", "normal", 0.2, True), ("lms", "simple", 0.2, False), ("euler", "normal", 0.8, False),
    ("uni_pc", "normal", 0.8, False), ("dpmpp_2s_ancestral", "normal", 0.8, False),
]  # fmt: skip


@pytest.mark.daily(
    "dpmpp_2m-normal-0.8-True", "dpmpp_2m-normal-0.6-False", "dpmpp_2m-karras-0.8-False", "lms-normal-0.2-True"
)
@pytest.mark.parametrize("sampler, scheduler, end, wanted", SEEN_TO)
def test_a_sampler_that_overshoots_where_a_window_ends_is_said(sampling, sampler, scheduler, end, wanted, caplog):
    conditioning, pair = sampling.pair(SWAP)
    model = sampling.edit(pair, **windows(end, self_end=0.1))
    text, _ = said(
        caplog, sampling, model, conditioning, latent(1, 8, 8), sampler_name=sampler, scheduler=scheduler, steps=10
    )
    assert (OVERSHOOTS in text) == wanted
    assert not wanted or f"{sampler} goes far beyond what it has seen in step 9 of 10" in text


def inverted(sampling, model, conditioning, image):
    return sampling.run_node(
        "P2PDDIMInvert", model=model, conditioning=conditioning, latent_image=image, steps=STEPS, scheduler="normal",
        denoise=1.0, refine_iterations=0, source_row="pin",
    )[0]  # fmt: skip


def test_a_way_back_by_another_prompt_is_said(sampling, caplog):
    conditioning, pair = sampling.pair(SWAP)
    image = picture()
    model = inverted(sampling, sampling.edit(pair), sampling.encode("a lake"), image)
    text, _ = said(caplog, sampling, model, conditioning, image)
    assert "P2P DDIM Invert" in text and "another source prompt" in text


@pytest.mark.parametrize("by", ["pair", "text", "pair of another length"])
def test_a_way_back_by_the_source_prompt_is_all_right(sampling, caplog, by):
    conditioning, pair = sampling.pair(SWAP + ", very detailed" * 30 if by == "pair of another length" else SWAP)
    image = picture()
    source = conditioning if by == "pair" else sampling.encode(SOURCE)
    model = inverted(sampling, sampling.edit(pair), source, image)
    assert said(caplog, sampling, model, conditioning, image)[0] == ""


def test_other_noise_levels_between_the_same_ends_are_told_apart(sampling):
    conditioning, pair = sampling.pair(SWAP)
    image = picture()
    model = inverted(sampling, sampling.edit(pair), conditioning, image)
    with pytest.raises(ValueError, match=r"Wanted the noise levels of the inversion, .*14\.61.*got .*14\.61") as error:
        sampling.ksampler(model, conditioning, image, scheduler="karras")
    wanted, got = str(error.value).split("Set the sampler")[0].split(", got ")
    assert wanted.removeprefix("Wanted the noise levels of the inversion, ") != got.rstrip(". ")


@pytest.mark.parametrize("kind", ["sd15", "sdxl"])
def test_a_refusal_names_the_model_as_people_do(run_node, sampling, kind):
    from small_models import sdxl

    other = Sampling(run_node, *sdxl())
    model, pair = (other.model, sampling.pair(SWAP)[1]) if kind == "sdxl" else (sampling.model, other.pair(SWAP)[1])
    with pytest.raises(ValueError, match=r"for this model \((SD 1\.x|SDXL)\)"):
        sampling.edit(pair, model=model)


def test_a_pair_that_the_model_never_sees_is_said(sampling, caplog):
    """Its time range has ended before this run begins, or another pair alone is in the run's calls."""
    conditioning, pair = sampling.pair(SWAP)
    other, _ = sampling.pair(PHRASE)
    early, late = (
        sampling.run_node("ConditioningSetTimestepRange", conditioning=each, start=start, end=end)[0]
        for each, start, end in ((conditioning, 0.0, 0.0001), (other, 0.0001, 1.0))
    )
    (both,) = sampling.run_node("ConditioningCombine", conditioning_1=early, conditioning_2=late)
    image = {"samples": torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(3))}
    text, _ = said(caplog, sampling, sampling.edit(pair), both, image, denoise=0.3)
    assert "took no part in this run" in text
    caplog.clear()
    text, _ = said(caplog, sampling, sampling.edit(pair), conditioning, image)
    assert "took no part" not in text
