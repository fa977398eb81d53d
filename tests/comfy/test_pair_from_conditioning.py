"""P2P Pair From Conditioning: what other nodes encoded becomes the rows of one conditioning, each as it was."""

from __future__ import annotations

import pytest
import torch
from sampling import DEFAULTS, NO_WINDOW, SOURCE, SWAP, Sampling, latent, relative_error
from small_models import UNET, control_net, refiner, sd15, sdxl

FLOAT32 = 1e-3  # the same sum in another order, through all steps; an edit that differs is off by far more
FOX = "a fox on a red chair"
STYLE = "an oil painting"
SIZES = {"width": 512, "height": 768, "crop_w": 16, "crop_h": 0, "target_width": 1024, "target_height": 640}


@pytest.fixture(scope="module")
def sampling(run_node):
    return Sampling(run_node, *sd15())


@pytest.fixture(scope="module")
def xl(run_node):
    return Sampling(run_node, *sdxl())


@pytest.fixture(scope="module")
def pair_up(sampling):
    """(source conditioning, target conditioning or None) -> (conditioning, pair)."""

    def make(source_conditioning, target_conditioning=None, source=SOURCE, target=SWAP, of=sampling):
        inputs = {"clip": of.clip, "source_conditioning": source_conditioning, "source": source, "target": target}
        if target_conditioning is not None:
            inputs["target_conditioning"] = target_conditioning
        return of.run_node("P2PPairFromConditioning", **inputs)

    return make


def with_values(conditioning, **values):
    return [[context, {**extras, **values}] for context, extras in conditioning]


def concat(sampling, to, behind):
    return sampling.run_node("ConditioningConcat", conditioning_to=to, conditioning_from=behind)[0]


def in_range(sampling, conditioning, start, end):
    return sampling.run_node("ConditioningSetTimestepRange", conditioning=conditioning, start=start, end=end)[0]


def check_rows_are_the_stock_runs(sampling, conditioning, pair, stock, **settings):
    """Without an edit in force, every row is the stock sampler's picture of the conditioning that was given for it."""
    settings = {"steps": 3, **settings}
    rows = sampling.ksampler(sampling.edit(pair, **NO_WINDOW), conditioning, **settings)
    assert len(rows) == len(stock)
    for row, alone in zip(rows, stock, strict=True):
        assert relative_error(row, sampling.ksampler(sampling.model, alone, **settings)[0]) < FLOAT32
    assert all(relative_error(row, rows[0]) > 1e-2 for row in rows[1:])


def check_the_edit_works(sampling, conditioning, pair):
    """The source row is that of a run without edits, the other one is not."""
    got, plain = sampling.ksampler(sampling.edit(pair), conditioning), sampling.stock_rows(conditioning, 2)
    assert torch.equal(got[0], plain[0])
    assert relative_error(got[1], plain[1]) > 1e-2


# ---- the same as P2P Prompt Pair, where that can be compared


@pytest.mark.parametrize("targets", [[SWAP], [SWAP, FOX + ", very detailed" * 30], []], ids=["one", "two", "none"])
@pytest.mark.parametrize("family", ["sd15", "sdxl"])
def test_of_clip_text_encode_it_is_the_prompt_pair(sampling, xl, pair_up, family, targets):
    of = {"sd15": sampling, "sdxl": xl}[family]
    wanted, wanted_pair = of.pair(*targets)
    combined = [entry for text in targets for entry in of.encode(text)]
    got, pair = pair_up(of.encode(SOURCE), combined or None, target="\n---\n".join(targets), of=of)
    assert pair == wanted_pair
    ((context, extras),), ((wanted_context, wanted_extras),) = got, wanted
    assert torch.equal(context, wanted_context)
    assert extras.keys() == wanted_extras.keys()
    assert torch.equal(extras["pooled_output"], wanted_extras["pooled_output"])


def test_of_clip_text_encode_the_pictures_are_the_prompt_pairs(sampling, pair_up):
    wanted, wanted_pair = sampling.pair(SWAP)
    got, pair = pair_up(sampling.encode(SOURCE), sampling.encode(SWAP))
    settings = {"word_windows": "dog: 0.6", **DEFAULTS}
    assert torch.equal(
        sampling.ksampler(sampling.edit(pair, **settings), got, latent(2)),
        sampling.ksampler(sampling.edit(wanted_pair, **settings), wanted, latent(2)),
    )


# ---- what only this node can pair


@pytest.mark.parametrize("text_l", ["the same", "another", "longer"])
def test_sdxl_sizes(xl, pair_up, text_l):
    long = "very detailed, " * 30

    def encode(text):
        clip_l = {"the same": text, "another": STYLE, "longer": long}[text_l]
        return xl.run_node("CLIPTextEncodeSDXL", clip=xl.clip, text_g=text, text_l=clip_l, **SIZES)[0]

    source, target = encode(SOURCE), encode(SWAP)
    end = " BREAK" if text_l == "longer" else ""  # the encoder adds an empty part to text_g
    conditioning, pair = pair_up(source, target, SOURCE + end, SWAP + end, of=xl)
    assert {key: conditioning[0][1][key] for key in SIZES} == SIZES
    assert pair.length == (154 if text_l == "longer" else 77)
    check_rows_are_the_stock_runs(xl, conditioning, pair, [source, target])
    check_the_edit_works(xl, conditioning, pair)


def test_sdxl_refiner(run_node, pair_up):
    small = Sampling(run_node, *refiner())

    def encode(text):
        inputs = {"ascore": 7.0, "width": 512, "height": 640, "text": text, "clip": small.clip}
        return run_node("CLIPTextEncodeSDXLRefiner", **inputs)[0]

    source, target = encode(SOURCE), encode(SWAP)
    conditioning, pair = pair_up(source, target, of=small)
    assert conditioning[0][1]["aesthetic_score"] == 7.0
    check_rows_are_the_stock_runs(small, conditioning, pair, [source, target])
    check_the_edit_works(small, conditioning, pair)


def test_clip_skip_and_average(sampling, run_node, pair_up):
    (skipped,) = run_node("CLIPSetLastLayer", clip=sampling.clip, stop_at_clip_layer=-2)

    def encode(text):
        (plain,) = run_node("CLIPTextEncode", clip=skipped, text=text)
        (style,) = run_node("CLIPTextEncode", clip=skipped, text=STYLE)
        inputs = {"conditioning_to": plain, "conditioning_from": style, "conditioning_to_strength": 0.7}
        return run_node("ConditioningAverage", **inputs)[0]

    source, target = encode(SOURCE), encode(SWAP)
    conditioning, pair = pair_up(source, target)
    check_rows_are_the_stock_runs(sampling, conditioning, pair, [source, target])
    check_the_edit_works(sampling, conditioning, pair)


def test_weights_by_another_encoder(sampling, pair_up):
    """The texts are read for their words; what an encoder made of them is taken as it is."""
    scaled = [sampling.encode(SOURCE), with_values(sampling.encode(SWAP))]
    for conditioning in scaled:
        conditioning[0][0] = conditioning[0][0] * 1.2
    conditioning, pair = pair_up(*scaled, target="a (dog:1.3) on a red chair")
    assert [word.text for word in pair.targets[0].words] == SWAP.split()
    check_rows_are_the_stock_runs(sampling, conditioning, pair, scaled)


def test_joined_encodings(sampling, pair_up):
    """Conditioning (Concat), which P2P Prompt Pair's conditioning does not stand: BREAK says where it joined."""
    style = sampling.encode(STYLE)
    source, target = (concat(sampling, sampling.encode(text), style) for text in (SOURCE, SWAP))
    conditioning, pair = pair_up(source, target, f"{SOURCE} BREAK {STYLE}", f"{SWAP}\nBREAK\n{STYLE}")
    assert pair.length == 154
    assert [word.positions for word in pair.targets[0].words[-3:]] == [(78,), (79,), (80,)]
    check_rows_are_the_stock_runs(sampling, conditioning, pair, [source, target])
    every_map = {"cross_start": 0.0, "cross_end": 1.0, "self_start": 0.0, "self_end": 0.0}
    again, same = pair_up(source, source, f"{SOURCE} BREAK {STYLE}", f"{SOURCE} BREAK {STYLE}")
    rows = sampling.ksampler(sampling.edit(same, **every_map), again)
    assert relative_error(rows[1], rows[0]) < FLOAT32


def test_several_edits_are_combined_in_order(sampling, pair_up):
    encodings = [sampling.encode(text) for text in (SOURCE, SWAP, FOX)]
    (combined,) = sampling.run_node("ConditioningCombine", conditioning_1=encodings[1], conditioning_2=encodings[2])
    conditioning, pair = pair_up(encodings[0], combined, target=f"{SWAP}\n---\n{FOX}")
    assert pair.rows == 3 and len(conditioning) == 1
    check_rows_are_the_stock_runs(sampling, conditioning, pair, encodings)


@pytest.fixture(scope="module")
def control(sampling):
    return control_net({**UNET, "num_heads": 8, "context_dim": 32})


@pytest.mark.parametrize("node", ["ControlNetApplyAdvanced", "ControlNetApply"])
def test_control_net_before_is_control_net_behind(sampling, run_node, pair_up, control, node):
    hint = torch.rand(1, 96, 48, 3, generator=torch.manual_seed(5))
    negative = sampling.encode()

    def controlled(positive):
        if node == "ControlNetApply":  # applies to the negative by itself
            inputs = {"conditioning": positive, "control_net": control, "image": hint, "strength": 0.8}
            return run_node(node, **inputs)[0], negative
        return run_node(
            node, positive=positive, negative=negative, control_net=control, image=hint, strength=0.8,
            start_percent=0.0, end_percent=0.7,
        )  # fmt: skip

    source, under = controlled(sampling.encode(SOURCE))
    target, _ = controlled(sampling.encode(SWAP))
    before, pair = pair_up(source, target)
    plain, same_pair = pair_up(sampling.encode(SOURCE), sampling.encode(SWAP))
    behind, under_behind = controlled(plain)
    assert pair == same_pair
    model = sampling.edit(pair)
    got = sampling.ksampler(model, before, negative=under)
    assert torch.equal(got, sampling.ksampler(model, behind, negative=under_behind))
    assert relative_error(got, sampling.ksampler(model, plain)) > 1e-2, "the ControlNet does something"
    assert relative_error(got[0], sampling.ksampler(sampling.model, source, negative=under)[0]) < FLOAT32


def test_hints_for_each_row(sampling, run_node, pair_up, control):
    """Source and edit may follow hints of their own: a batch of them, applied behind the node."""
    hints = torch.rand(2, 96, 48, 3, generator=torch.manual_seed(5))

    def controlled(positive, image):
        return run_node(
            "ControlNetApplyAdvanced", positive=positive, negative=sampling.encode(), control_net=control, image=image,
            strength=0.8, start_percent=0.0, end_percent=1.0,
        )  # fmt: skip

    plain, pair = pair_up(sampling.encode(SOURCE), sampling.encode(SWAP))
    conditioning, negative = controlled(plain, hints)
    rows = sampling.ksampler(sampling.edit(pair, **NO_WINDOW), conditioning, negative=negative)
    for row, text, hint in zip(rows, (SOURCE, SWAP), hints.split(1), strict=True):
        alone, under = controlled(sampling.encode(text), hint)
        assert relative_error(row, sampling.ksampler(sampling.model, alone, negative=under)[0]) < FLOAT32


def test_time_ranges(sampling, pair_up):
    """The pair for the first part of the run, another prompt for the rest."""
    ranged = [in_range(sampling, sampling.encode(text), 0.0, 0.5) for text in (SOURCE, SWAP)]
    conditioning, pair = pair_up(*ranged)
    rest = in_range(sampling, sampling.encode(STYLE), 0.5, 1.0)
    check_rows_are_the_stock_runs(sampling, conditioning + rest, pair, [each + rest for each in ranged])
    check_the_edit_works(sampling, conditioning + rest, pair)


def test_parts_that_both_sides_share_are_left_alone(sampling, run_node, pair_up):
    style = with_values(sampling.encode(STYLE), strength=0.5)
    source, target = (sampling.encode(text) + style for text in (SOURCE, SWAP))
    conditioning, pair = pair_up(source, target)
    assert [len(context) for context, _ in conditioning] == [2, 1]
    check_rows_are_the_stock_runs(sampling, conditioning, pair, [source, target])
    behind, same_pair = pair_up(sampling.encode(SOURCE), sampling.encode(SWAP))
    model = sampling.edit(pair)
    assert torch.equal(sampling.ksampler(model, conditioning), sampling.ksampler(model, behind + style))
    assert pair == same_pair


def test_one_text_in_several_parts(sampling, run_node, pair_up):
    """Two areas with the same words: both parts are the pair's."""

    def halves(text):
        return [
            entry
            for x in (0, 16)
            for entry in run_node(
                "ConditioningSetArea", conditioning=sampling.encode(text), width=32, height=96, x=x, y=0, strength=1.0
            )[0]
        ]  # fmt: skip

    source, target = halves(SOURCE), halves(SWAP)
    conditioning, pair = pair_up(source, target)
    assert [len(context) for context, _ in conditioning] == [2, 2]
    check_rows_are_the_stock_runs(sampling, conditioning, pair, [source, target])
    check_the_edit_works(sampling, conditioning, pair)


@pytest.fixture(scope="module")
def lora(sampling):
    """Hooks that change the UNet and the text encoder, more so in the second half of the run."""
    import comfy.hooks

    generator = torch.Generator().manual_seed(9)

    def changed(state, pick):
        return {key: value + 0.3 * torch.randn(value.shape, generator=generator) * value.std()
                for key, value in state.items() if pick in key and value.ndim == 2}  # fmt: skip

    group = comfy.hooks.create_hook_model_as_lora(
        changed(sampling.model.model.state_dict(), "attn2.to_q"),
        changed(sampling.clip.cond_stage_model.state_dict(), "fc1"), 1.0, 1.0,
    )  # fmt: skip
    frames = comfy.hooks.HookKeyframeGroup()
    frames.add(comfy.hooks.HookKeyframe(strength=0.3, start_percent=0.0))
    frames.add(comfy.hooks.HookKeyframe(strength=1.0, start_percent=0.5))
    group.set_keyframes_on_hooks(frames)
    return group


@pytest.mark.parametrize("schedule_clip", [False, True])
def test_hooks_and_a_scheduled_text_encoder(sampling, run_node, pair_up, lora, schedule_clip):
    (clip,) = run_node("SetClipHooks", clip=sampling.clip, apply_to_conds=True, schedule_clip=schedule_clip, hooks=lora)
    source, target = (run_node("CLIPTextEncode", clip=clip, text=text)[0] for text in (SOURCE, SWAP))
    assert len(source) == (2 if schedule_clip else 1)
    conditioning, pair = pair_up(source, target)
    assert [len(context) for context, _ in conditioning] == [2] * len(source)
    check_rows_are_the_stock_runs(sampling, conditioning, pair, [source, target])
    check_the_edit_works(sampling, conditioning, pair)


def test_hooks_set_on_each_side(sampling, run_node, pair_up, lora):
    """Each node makes a group of hooks of its own; they are the same hooks."""
    source, target = (
        run_node("ConditioningSetProperties", cond_NEW=sampling.encode(text), strength=1.0, set_cond_area="default",
                 hooks=lora)[0]
        for text in (SOURCE, SWAP)
    )  # fmt: skip
    conditioning, pair = pair_up(source, target)
    check_rows_are_the_stock_runs(sampling, conditioning, pair, [source, target])


def test_the_inputs_are_left_as_they_were(sampling, pair_up):
    source, target = sampling.encode(SOURCE), sampling.encode(SWAP) + sampling.encode(FOX)
    before = [(context.clone(), set(extras)) for context, extras in source + target]
    pair_up(source, target, target=f"{SWAP}\n---\n{FOX}")
    for (context, extras), (old, keys) in zip(source + target, before, strict=True):
        assert torch.equal(context, old) and set(extras) == keys


# ---- what cannot be paired


def refused(pair_up, says, *conditionings, **texts):
    with pytest.raises(ValueError, match=f"(?s){says}"):
        pair_up(*conditionings, **texts)


def test_texts_that_do_not_fit(sampling, pair_up):
    source, target = sampling.encode(SOURCE), sampling.encode(SWAP)
    long = SWAP + ", very detailed" * 30
    refused(
        pair_up, "Wanted 154 positions for the edit 1.*'a dog on.*got 77.*Write the text that was encoded, and no more",
        source, target, target=long,
    )  # fmt: skip
    refused(
        pair_up, "Wanted 77 positions for the source.*got 154.*whole text.*BREAK",
        concat(sampling, source, target), target,
    )  # fmt: skip
    refused(pair_up, "at least one word for the source, got ''", source, target, source="")
    refused(pair_up, "at least one word for the edit 2", source, target, target=SWAP + "\n---\n")


def test_numbers_of_parts(sampling, pair_up):
    source, target = sampling.encode(SOURCE), sampling.encode(SWAP)
    refused(pair_up, r"1 parts \(1 edited texts, 1 parts in.*got 2.*'---'.*Combine", source, target + target)
    refused(
        pair_up, r"4 parts \(2 edited texts, 2 parts in.*got 2", source * 2, target * 2, target=f"{SWAP}\n---\n{FOX}"
    )
    refused(pair_up, r"1 parts.*got 0.*leave both", source)
    refused(pair_up, r"0 parts.*got 1.*leave both", source, target, target=" ")
    refused(pair_up, "got an empty one", [], target)


def test_encodings_that_are_not_of_one_text(sampling, xl, pair_up):
    source, target = sampling.encode(SOURCE), sampling.encode(SWAP)
    made, _ = sampling.pair(SWAP)
    refused(pair_up, "one text for the source, got a prompt pair's", made, target)
    two_rows = [[target[0][0].repeat(2, 1, 1), target[0][1]]]
    refused(pair_up, r"one row for the edit 1, \[1, positions, width\], got \[2, 77, 32\]", source, two_rows)
    refused(pair_up, r"one row for the source.*got NoneType", [[None, {}]], target)
    refused(pair_up, "width of the source's encoding, 32, for the edit 1, got 64", source, xl.encode(SWAP))
    two_pooled = with_values(target, pooled_output=target[0][1]["pooled_output"].repeat(2, 1))
    refused(pair_up, "one row in the pooled_output of the edit 1, got 2", source, two_pooled)


def test_the_same_tensors_for_different_texts(sampling, run_node, pair_up):
    source = sampling.encode(SOURCE)
    refused(pair_up, "'a dog on a red chair' for edit 1, got the same tensors.*target_conditioning", source, source)
    refused(
        pair_up, "'a fox on a red chair' for edit 2, got the same tensors",
        source, sampling.encode(SWAP) + source, target=f"{SWAP}\n---\n{FOX}",
    )  # fmt: skip


def test_parts_that_say_different_things(sampling, pair_up):
    """Both parts differ from source to edit, but the texts are only of one of them."""
    source = sampling.encode(SOURCE) + sampling.encode("a tree")
    refused(
        pair_up,
        "all say the same texts.*two that say different.*pair of each",
        source,
        sampling.encode(SWAP) + sampling.encode("a lamp"),
    )


@pytest.mark.parametrize(
    "key, ours, theirs, says",
    [
        ("width", 512, 640, "512 and 640"),
        ("strength", 0.5, None, "0.5 and none"),
        ("start_percent", 0.0, 0.25, "0.0 and 0.25"),
        ("area", (8, 8, 0, 0), (8, 8, 0, 4), "and"),
        ("mask", torch.ones(1, 8, 8), torch.zeros(1, 8, 8), r"a tensor \[1, 8, 8\] and a tensor \[1, 8, 8\]"),
        ("concat_latent_image", torch.ones(1, 4, 8, 8), None, "and none"),
        ("unclip_conditioning", [{"strength": 1.0}], [{"strength": 0.5}], "another list"),
        ("gligen", ("position", "m", [(torch.ones(1, 2), 8)]), ("position", "m", [(torch.zeros(1, 2), 8)]), "and"),
        ("pooled_output", torch.ones(1, 32), None, "and none"),
        ("pooled_output", torch.ones(1, 32), torch.ones(1, 48), r"\[1, 32\] and a tensor \[1, 48\]"),
        ("attention_mask", torch.ones(1, 77), torch.zeros(1, 77), "a tensor"),
        ("model_conds", object(), object(), "another object"),
    ],
)
def test_what_rows_share_has_to_be_alike(sampling, pair_up, key, ours, theirs, says):
    source, target = (
        with_values(sampling.encode(SOURCE), **{key: ours}),
        with_values(sampling.encode(SWAP), **{key: theirs}),
    )
    refused(
        pair_up, f"the same {key} for source and edit 1.*got .*{says}.*Set both alike, or set it behind", source, target
    )
    if key != "pooled_output":
        conditioning, _ = pair_up(source, with_values(target, **{key: ours}))
        assert conditioning[0][1][key] is ours


def test_control_nets_that_differ(sampling, run_node, pair_up, control):
    def controlled(text, strength, seed):
        hint = torch.rand(1, 64, 64, 3, generator=torch.manual_seed(seed))
        inputs = {"conditioning": sampling.encode(text), "control_net": control, "image": hint, "strength": strength}
        return run_node("ControlNetApply", **inputs)[0]

    for other in ((0.5, 1), (0.8, 2)):
        refused(pair_up, "the same control.*got another ControlNet and another ControlNet.*behind P2P Pair",
                controlled(SOURCE, 0.8, 1), controlled(SWAP, *other))  # fmt: skip
    pair_up(controlled(SOURCE, 0.8, 1), controlled(SWAP, 0.8, 1))
