"""What a user can get wrong, and what the pack answers: wanted, got, how to mend. All before sampling starts."""

from __future__ import annotations

import pytest
import torch
from sampling import DEFAULTS, PHRASE, SOURCE, SWAP, Sampling, latent
from small_models import UNET, sd15, sdxl

BLEND = {
    "words": "",
    "exclude_words": "",
    "threshold": 0.3,
    "start": 0.2,
    "spread": True,
    "grow": 1,
    "feather": 0.0,
    "map_resolution": "auto",
}


@pytest.fixture(scope="module")
def sampling(run_node):
    return Sampling(run_node, *sd15())


@pytest.mark.parametrize(
    "source, target, says",
    [
        ("", SWAP, "source"),
        ("  \n", SWAP, "source"),
        (SOURCE, SWAP + "\n---\n", "edit 2"),
        (SOURCE, "\n---\n", "edit 1"),
        (SOURCE, "\n---\n" + SWAP, "edit 1"),
        (SOURCE, "()", "edit 1"),
    ],
)
def test_empty_prompts(sampling, source, target, says):
    with pytest.raises(ValueError, match=rf"(?s)at least one word for the {says}, got .*one prompt each"):
        sampling.run_node("P2PPromptPair", clip=sampling.clip, source=source, target=target)


@pytest.mark.parametrize(
    "node, inputs",
    [
        ("P2PAttentionReplace", DEFAULTS),
        ("P2PAttentionRefine", DEFAULTS),
        ("P2PReweightToken", {"words": "cat", "scale": 2.0, "start": 0.0, "end": 1.0}),
        ("P2PLocalBlendMask", BLEND),
        ("P2PLocalBlendMask", {**BLEND, "mask": torch.ones(1, 8, 8)}),
    ],
)
def test_source_alone_has_nothing_to_edit(sampling, node, inputs):
    """An empty target is a plain prompt, for P2P Record Attention."""
    conditioning, pair = sampling.run_node("P2PPromptPair", clip=sampling.clip, source=SOURCE, target=" \n")
    assert conditioning[0][0].shape[0] == pair.rows == 1
    with pytest.raises(ValueError, match="with an edited prompt, got the source alone.*target of P2P Prompt Pair"):
        sampling.run_node(node, model=sampling.model, pair=pair, **inputs)


def test_no_clip(run_node):
    with pytest.raises(ValueError, match="Wanted a CLIP, got none.*Load CLIP"):
        run_node("P2PPromptPair", clip=None, source=SOURCE, target=SWAP)


def test_text_encoder_of_another_model(run_node):
    class Clip:
        def tokenize(self, text, **_):
            return {"l": [], "llama": []}

    with pytest.raises(ValueError, match="parts l, llama.*SD 1.x, SD 2.x, SDXL.*Flux.*Cosmos"):
        run_node("P2PPromptPair", clip=Clip(), source=SOURCE, target=SWAP)


@pytest.mark.parametrize("word", ["lion", "do", "dogs", "dog#2", "cat"])
def test_word_not_in_the_prompt_lists_the_words(sampling, word):
    _, pair = sampling.pair(SWAP)
    with pytest.raises(ValueError, match=rf"got '{word}'.*a, dog, on, a, red, chair"):
        sampling.edit(pair, "P2PReweightToken", words=word, scale=2.0, start=0.0, end=1.0)
    with pytest.raises(ValueError, match=rf"got '{word}'.*a, dog, on, a, red, chair"):
        sampling.edit(pair, word_windows=f"{word}: 0.4", **DEFAULTS)


@pytest.mark.parametrize(
    "windows", [{"cross_start": 0.9}, {"self_start": 0.5}, {"cross_end": 1.2}, {"cross_end": float("nan")}]
)
def test_bad_windows(sampling, windows):
    _, pair = sampling.pair(SWAP)
    with pytest.raises(ValueError, match="0 <= start <= end <= 1.*got start"):
        sampling.edit(pair, **{**DEFAULTS, **windows})


@pytest.mark.parametrize("line", ["dog", "dog 0.4", "dog: x", "dog: 0.2-", ": 0.4"])
def test_bad_word_windows(sampling, line):
    _, pair = sampling.pair(SWAP)
    with pytest.raises(ValueError, match="Wanted lines 'word: end'"):
        sampling.edit(pair, word_windows=line, **DEFAULTS)


def test_bad_window_names_its_line(sampling):
    _, pair = sampling.pair(SWAP)
    with pytest.raises(ValueError, match="In the line 'dog: 0.6-0.2': .*start 0.6 and end 0.2"):
        sampling.edit(pair, word_windows="dog: 0.6-0.2", **DEFAULTS)


def test_window_on_a_word_that_is_never_injected(sampling):
    _, pair = sampling.pair(PHRASE)
    with pytest.raises(ValueError, match="'small' is new.*no effect"):
        sampling.edit(pair, "P2PAttentionRefine", word_windows="small: 0.4", **DEFAULTS)


def test_no_such_edit(sampling):
    _, pair = sampling.pair(SWAP)
    with pytest.raises(ValueError, match="edit 0 .all. or 1 to 1.*got 2"):
        sampling.edit(pair, edit=2, **DEFAULTS)


def test_no_words_to_reweight(sampling):
    _, pair = sampling.pair(SWAP)
    with pytest.raises(ValueError, match="at least one word to re-weight"):
        sampling.edit(pair, "P2PReweightToken", words=" , ", scale=2.0, start=0.0, end=1.0)


def test_pair_from_another_encoder(sampling, run_node):
    other = Sampling(run_node, *sdxl())
    _, pair = other.pair(SWAP)
    with pytest.raises(ValueError, match="width 32 for this model.*got width 64.*CLIP of this checkpoint"):
        sampling.edit(pair)


def test_model_that_is_no_unet(sampling):
    import comfy.model_base
    import comfy.model_patcher
    import comfy.supported_models

    config = comfy.supported_models.Flux({"image_model": "flux", "disable_unet_model_creation": True})
    model = comfy.model_base.BaseModel(config, model_type=comfy.model_base.ModelType.FLUX)
    model.diffusion_model = torch.nn.Linear(1, 1)
    patcher = comfy.model_patcher.ModelPatcher(model, torch.device("cpu"), torch.device("cpu"))
    _, pair = sampling.pair(SWAP)
    with pytest.raises(ValueError, match="can be edited, got the model kind BaseModel.*SD 1.x, SD 2.x, SDXL"):
        sampling.edit(pair, model=patcher)


def test_unet_without_cross_attention(sampling):
    import comfy.model_base
    import comfy.model_patcher
    import comfy.supported_models

    none = {"transformer_depth": [0, 0, 0], "transformer_depth_output": [0] * 6, "transformer_depth_middle": -1}
    config = comfy.supported_models.SD15({**UNET, **none, "context_dim": 32})
    model = comfy.model_base.BaseModel(config, model_type=comfy.model_base.ModelType.EPS)
    patcher = comfy.model_patcher.ModelPatcher(model, torch.device("cpu"), torch.device("cpu"))
    _, pair = sampling.pair(SWAP)
    with pytest.raises(ValueError, match="Wanted a UNet with cross-attention"):
        sampling.edit(pair, model=patcher)


# ---- found when the run starts


class Sampled(AssertionError):
    pass


@pytest.fixture
def refuses(sampling, monkeypatch):
    """Run the sampler, which must answer with the given words before the model is called once."""
    from comfy.model_base import BaseModel

    def never(*_, **__):
        raise Sampled

    def check(says, model, positive, **settings):
        monkeypatch.setattr(BaseModel, "apply_model", never)
        with pytest.raises(ValueError, match=says):
            sampling.ksampler(model, positive, **settings)

    return check


def test_pair_of_another_prompt_on_the_positive(sampling, refuses):
    _, pair = sampling.pair(SWAP)
    other, _ = sampling.pair(PHRASE)
    refuses("Wanted the conditioning of the pair", sampling.edit(pair), other)


def test_pairs_with_unequal_numbers_of_edits(sampling, refuses):
    one, one_pair = sampling.pair(SWAP)
    two, two_pair = sampling.pair(SWAP, PHRASE)
    refuses(r"equally many edits.*\[2, 3\]", sampling.edit(two_pair, model=sampling.edit(one_pair)), one + two)


def test_conditioning_changed_on_the_way(sampling, run_node, refuses):
    conditioning, pair = sampling.pair(SWAP)
    (longer,) = run_node("ConditioningConcat", conditioning_to=conditioning, conditioning_from=conditioning)
    refuses(r"as it left the node.*\[2, 77, 32\], got \[2, 154, 32\]", sampling.edit(pair), longer)
    one_pooled = [
        [conditioning[0][0], {**conditioning[0][1], "pooled_output": conditioning[0][1]["pooled_output"][:1]}]
    ]
    refuses("Wanted 2 pooled rows.*got 1", sampling.edit(pair), one_pooled)


@pytest.mark.parametrize("dim", [0, 2, 3])
def test_context_windows(sampling, run_node, refuses, dim):
    conditioning, pair = sampling.pair(SWAP)
    (windowed,) = run_node(
        "ContextWindowsManual", model=sampling.edit(pair), context_length=1, context_overlap=0,
        context_schedule="standard_static", context_stride=1, closed_loop=False, fuse_method="pyramid", dim=dim,
    )  # fmt: skip
    refuses("Context windows over the batch.*Remove", windowed, conditioning)


def test_another_node_expands_the_batch_in_attention(sampling):
    """A pack that adds rows inside the UNet before our patch runs; found there, since it cannot be seen earlier."""
    conditioning, pair = sampling.pair(SWAP)

    def more_chunks(executor, x, timesteps, context, y, control, transformer_options, **kwargs):
        x, timesteps, context = (torch.cat([each, each]) for each in (x, timesteps, context))
        return executor(x, timesteps, context, y, control, transformer_options, **kwargs).chunk(2)[0]

    model = sampling.edit(pair)
    model.add_wrapper_with_key("diffusion_model", "another pack", more_chunks)
    with pytest.raises(ValueError, match="in attention, got 8: another node"):
        sampling.ksampler(model, conditioning, latent(1, 8, 8))
