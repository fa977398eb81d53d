"""Every family of models that can be edited, what else its UNet is shown, and the kinds that are refused."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from sampling import DEFAULTS, NO_WINDOW, PHRASE, SWAP, Sampling, drawn_once_for, latent, of_rows, relative_error
from small_models import FAMILIES, OTHERS, other
from small_transformers import SMALL, small, there_is
from test_edits import check_against_explicit_softmax

pytestmark = pytest.mark.usefixtures("one_thread")

FAMILY_NAMES = list(FAMILIES)
SEEDS = 2


@pytest.fixture(scope="module")
def families(run_node):
    made = {}
    return lambda name: made.setdefault(name, FAMILIES[name]())


@pytest.fixture(scope="module")
def sampling(run_node, families):
    return Sampling(run_node, *families("sd15"))


# ---- what a UNet is shown beside the text


def with_values(conditioning, **values):
    return [[context, {**extras, **values}] for context, extras in conditioning]


def pictures(height, width, channels=4, seed=3):
    """Another one for each seed."""
    return torch.randn(SEEDS, channels, height, width, generator=torch.Generator().manual_seed(seed))


def shown_to(name, height=20, width=12):
    """(conditioning, rows of each seed) -> the conditioning with what the family's UNet looks at."""
    masks = (pictures(8 * height, 8 * width, 1, seed=5) > 0.3).float()

    def shown(conditioning, rows):
        if name == "inpaint":
            values = {"concat_latent_image": pictures(height, width), "concat_mask": masks}
            return with_values(conditioning, **of_rows(values, rows))
        if name == "instruct_pix2pix":
            return with_values(conditioning, **of_rows({"concat_latent_image": pictures(height, width)}, rows))
        if name == "unclip":
            picture = SimpleNamespace(image_embeds=pictures(4, 4)[0, :1].flatten()[None])
            seen = [{"clip_vision_output": picture, "strength": 1.0, "noise_augmentation": 0.1}]
            return with_values(conditioning, unclip_conditioning=seen)
        return conditioning

    return shown


@pytest.mark.daily("sdxl", "inpaint")
@pytest.mark.parametrize("name", FAMILY_NAMES[1:])
def test_edit_equals_explicit_softmax(run_node, families, name):
    check_against_explicit_softmax(run_node, families(name), "three edits", shown=shown_to(name))


@pytest.mark.parametrize("name", FAMILY_NAMES)
def test_without_an_edit_it_is_the_stock_run(run_node, families, name):
    sampling, shown = Sampling(run_node, *families(name)), shown_to(name, 8, 8)
    conditioning, pair = sampling.pair(SWAP, PHRASE)
    negative, image = sampling.encode(), latent(SEEDS, 8, 8)
    got = sampling.ksampler(
        sampling.edit(pair, **NO_WINDOW), shown(conditioning, 1), image, shown(negative, 1), steps=3
    )
    with drawn_once_for(SEEDS, 3):
        stock = sampling.ksampler(
            sampling.model, shown(conditioning, 3), of_rows(image, 3), shown(negative, 3), steps=3
        )
    assert torch.equal(got, stock)
    beside = shown(negative, 1)[0][1].keys() - negative[0][1].keys()
    if beside:
        blind = sampling.ksampler(sampling.model, conditioning, of_rows(image, 3), negative, steps=3)
        assert relative_error(blind, stock) > 1e-2, "what the UNet is shown shows"


class PooledPixels:
    """In place of a VAE: a latent pixel is the mean of its 8 x 8 pixels."""

    downscale_ratio = 8

    def spacial_compression_encode(self):
        return self.downscale_ratio

    def encode(self, pixels):
        latents = torch.nn.functional.avg_pool2d(pixels.movedim(-1, 1), 8)
        return torch.cat([latents, latents[:, :1]], dim=1) * 4 - 2


def source_and_stock(sampling, conditioning, pair, positive, image, negative, **settings):
    """Source rows of an edit and of a stock run of as many rows; each of (rows) -> conditioning or LATENT."""
    rows, settings = pair.rows, {"steps": 3, **settings}
    edited = sampling.ksampler(sampling.edit(pair, **DEFAULTS), positive(1), image(1), negative(1), **settings)
    with drawn_once_for(SEEDS, rows):
        stock = sampling.ksampler(sampling.model, positive(rows), image(rows), negative(rows), **settings)
    assert relative_error(edited[1::rows], stock[1::rows]) > 1e-3, "the edit does something"
    return edited[::rows], stock[::rows]


@pytest.mark.parametrize("name", ["inpaint", "instruct_pix2pix"])
def test_another_picture_for_each_seed(run_node, families, name):
    """Through the host's own nodes."""
    sampling = Sampling(run_node, *families(name))
    conditioning, pair = sampling.pair(SWAP)
    pixels = torch.rand(SEEDS, 64, 64, 3, generator=torch.Generator().manual_seed(4))
    masks = torch.zeros(SEEDS, 64, 64)
    masks[0, :32], masks[1, :, :32] = 1.0, 1.0

    def node(rows):
        given = {"positive": conditioning, "negative": sampling.encode(), "vae": PooledPixels()}
        given |= of_rows({"pixels": pixels}, rows)
        if name == "inpaint":
            given |= {"noise_mask": True, **of_rows({"mask": masks}, rows)}
            return run_node("InpaintModelConditioning", **given)
        return run_node("InstructPixToPixConditioning", **given)

    got, stock = source_and_stock(
        sampling, conditioning, pair, lambda rows: node(rows)[0], lambda rows: node(rows)[2], lambda rows: node(rows)[1]
    )
    assert torch.equal(got, stock)
    assert relative_error(got[0], got[1]) > 0.1


@pytest.mark.parametrize("masks", ["one", "for each seed", "without a channel", "more than seeds"])
def test_inpainting_models_and_the_noise_mask(run_node, families, masks):
    """VAE Encode (for Inpainting) shows the model the latent itself."""
    sampling = Sampling(run_node, *families("inpaint"))
    conditioning, pair = sampling.pair(SWAP)
    pixels = torch.rand(SEEDS, 64, 64, 3, generator=torch.Generator().manual_seed(4))
    mask = torch.zeros(3, 64, 64)
    mask[0, :32], mask[1, :, :32], mask[2, 32:] = 1.0, 1.0, 1.0
    some = mask[: 1 if masks == "one" else SEEDS]
    (image,) = run_node("VAEEncodeForInpaint", pixels=pixels, vae=PooledPixels(), mask=some, grow_mask_by=0)
    if masks in ("without a channel", "more than seeds"):
        image["noise_mask"] = some if masks == "without a channel" else mask

    def images(rows):
        if rows == 1:
            return image
        return of_rows({"samples": image["samples"], "noise_mask": some.expand(SEEDS, 64, 64)}, rows)

    negative = sampling.encode()
    got, stock = source_and_stock(sampling, conditioning, pair, lambda _: conditioning, images, lambda _: negative)
    assert torch.equal(got, stock)


def test_a_negative_for_each_seed(run_node, sampling):
    conditioning, pair = sampling.pair(SWAP, PHRASE)  # three rows: two would be as many as pictures
    each = torch.cat([sampling.encode(text)[0][0] for text in ("blurry", "a tree by the sea")])

    def negative(rows):
        return [[each.repeat_interleave(rows, 0), {}]]

    got, stock = source_and_stock(
        sampling, conditioning, pair, lambda _: conditioning, lambda rows: of_rows(latent(SEEDS, 8, 8), rows), negative
    )
    assert torch.equal(got, stock)


def test_a_conditioning_mask_for_each_seed(run_node, sampling):
    conditioning, pair = sampling.pair(SWAP, PHRASE)  # three rows: two would be as many as pictures
    masks = torch.zeros(SEEDS, 64, 64)
    masks[0, :32], masks[1, :, :32] = 1.0, 1.0

    def positive(rows):
        (placed,) = run_node(
            "ConditioningSetMask", conditioning=conditioning, mask=masks.repeat_interleave(rows, 0), strength=1.0,
            set_cond_area="default",
        )  # fmt: skip
        return placed + sampling.encode("a tree")

    negative = sampling.encode()
    got, stock = source_and_stock(
        sampling, conditioning, pair, positive, lambda rows: of_rows(latent(SEEDS, 8, 8), rows), lambda _: negative
    )
    assert torch.equal(got, stock)


# ---- other noise levels, other predictions


PREDICTIONS = {
    "LCM": ("ModelSamplingDiscrete", {"sampling": "lcm", "zsnr": False}),
    "zero terminal SNR": ("ModelSamplingDiscrete", {"sampling": "v_prediction", "zsnr": True}),
    "x0": ("ModelSamplingDiscrete", {"sampling": "x0", "zsnr": False}),
    "EDM": ("ModelSamplingContinuousEDM", {"sampling": "edm", "sigma_max": 120.0, "sigma_min": 0.002}),
    "EDM, playground": (
        "ModelSamplingContinuousEDM",
        {"sampling": "edm_playground_v2.5", "sigma_max": 80.0, "sigma_min": 0.002},
    ),
    "EDM, v": ("ModelSamplingContinuousEDM", {"sampling": "v_prediction", "sigma_max": 500.0, "sigma_min": 0.03}),
    "continuous v": ("ModelSamplingContinuousV", {"sampling": "v_prediction", "sigma_max": 500.0, "sigma_min": 0.03}),
}


@pytest.mark.daily("x0", "EDM, v", "zero terminal SNR", "LCM")
@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_other_predictions(run_node, families, prediction):
    """The edit is the explicit softmax's, step for step: so its windows are where they should be."""
    node, inputs = PREDICTIONS[prediction]
    model, clip = families("sd15")
    (changed,) = run_node(node, model=model, **inputs)
    check_against_explicit_softmax(run_node, (changed, clip), "replace late", seeds=1, height=8, width=8)


@pytest.mark.parametrize(
    "name, lcm, settings",
    [
        ("sd15", True, {"sampler_name": "lcm", "scheduler": "sgm_uniform", "steps": 4, "cfg": 1.0}),
        ("sd15", True, {"sampler_name": "lcm", "scheduler": "sgm_uniform", "steps": 8, "cfg": 1.8}),
        ("sdxl", False, {"sampler_name": "euler_ancestral", "scheduler": "sgm_uniform", "steps": 1, "cfg": 1.0}),
        ("sdxl", False, {"sampler_name": "dpmpp_sde", "scheduler": "sgm_uniform", "steps": 4, "cfg": 1.0}),
    ],
    ids=lambda value: None if not isinstance(value, dict) else f"{value['steps']} steps",
)
def test_few_steps(run_node, families, name, lcm, settings):
    """As distilled models are run: a step or a few, often without guidance."""
    model, clip = families(name)
    if lcm:
        (model,) = run_node("ModelSamplingDiscrete", model=model, sampling="lcm", zsnr=False)
    sampling = Sampling(run_node, model, clip)
    conditioning, pair = sampling.pair(SWAP)
    negative = sampling.encode()
    images = lambda rows: of_rows(latent(SEEDS, 8, 8), rows)
    got, stock = source_and_stock(
        sampling, conditioning, pair, lambda _: conditioning, images, lambda _: negative, **settings
    )
    assert torch.equal(got, stock)


# ---- what cannot be edited says so


def everything_that_takes_a_model(run_node, model, conditioning, pair):
    image = {"samples": torch.ones(1, 4, 8, 8)}
    return {
        "P2PAttentionReplace": {"pair": pair, **DEFAULTS},
        "P2PAttentionRefine": {"pair": pair, **DEFAULTS},
        "P2PReweightToken": {"pair": pair, "words": "dog", "scale": 2.0, "start": 0.0, "end": 1.0},
        "P2PLocalBlendMask": {
            "pair": pair, "words": "", "exclude_words": "", "threshold": 0.3, "start": 0.2, "spread": True, "grow": 0,
            "feather": 0.0, "map_resolution": "auto",
        },
        "P2PRecordAttention": {"pair": pair, "words": "", "attention": "cross", "map_resolution": "auto"},
        "P2PProximalGuidance": {"pair": pair, "threshold": 0.7, "kind": "soft"},
        "P2PSecondPass": {"pair": pair},
        "P2PDDIMInvert": {
            "conditioning": conditioning, "latent_image": image, "steps": 2, "scheduler": "normal", "denoise": 1.0,
            "refine_iterations": 0, "source_row": "pin",
        },
    }  # fmt: skip


@pytest.mark.parametrize("name", OTHERS)
def test_other_kinds_of_models_are_refused(run_node, sampling, name):
    model = other(name)
    conditioning, pair = sampling.pair(SWAP)
    for node, inputs in everything_that_takes_a_model(run_node, model, conditioning, pair).items():
        with pytest.raises(
            ValueError, match=r"Wanted an? .*(can be edited|UNet).*Supported are .*SD 1.x, SD 2.x, SDXL"
        ):
            run_node(node, model=model, **inputs)
    assert not model.model_options.get("prompt_to_prompt") and not model.wrappers


@pytest.mark.parametrize("name", SMALL)
def test_a_pair_of_another_models_text_encoder_is_refused(run_node, name):
    if not there_is(name):
        pytest.skip("newer hosts have it")
    sampling = Sampling(run_node, *FAMILIES["sd15"]())  # of the same width
    model = small(name)
    conditioning, pair = sampling.pair(SWAP)
    for node, inputs in everything_that_takes_a_model(run_node, model, conditioning, pair).items():
        if node != "P2PDDIMInvert":
            with pytest.raises(ValueError, match="Wanted a prompt pair made by the text encoder of .*Connect the CLIP"):
                run_node(node, model=model, **inputs)
    assert not model.model_options.get("prompt_to_prompt") and not model.wrappers


@pytest.mark.parametrize(
    "module, name",
    [("omnigen2", "Omnigen2Tokenizer"), ("lt", "LTXVT5Tokenizer"), ("hunyuan_image", "HunyuanImageTokenizer")],
)
def test_their_text_encoders_are_refused(run_node, module, name):
    import importlib

    import comfy.sd

    clip = comfy.sd.CLIP(no_init=True)
    clip.tokenizer_options = {}
    clip.tokenizer = getattr(importlib.import_module(f"comfy.text_encoders.{module}"), name)()
    with pytest.raises(
        ValueError, match="text encoder of a model whose attention can be edited, got one with the parts"
    ):
        run_node("P2PPromptPair", clip=clip, source="a cat", target="a dog")


def test_motion_that_another_pack_puts_into_the_unet(sampling):
    """It comes with the loaded model, so it is found when the run starts; no model call is made."""
    from comfy.patcher_extension import PatcherInjection

    class VanillaTemporalModule(torch.nn.Identity):
        pass

    conditioning, pair = sampling.pair(SWAP)
    model = sampling.edit(pair)
    unet = model.model.diffusion_model
    model.set_injections(
        "motion",
        [
            PatcherInjection(
                inject=lambda _: unet.add_module("motion", VanillaTemporalModule()),
                eject=lambda _: delattr(unet, "motion") if hasattr(unet, "motion") else None,
            )
        ],
    )
    calls = []
    model.add_wrapper_with_key("diffusion_model", "test", lambda execute, *a, **k: calls.append(1) or execute(*a, **k))
    try:
        with pytest.raises(ValueError, match="got a video model, with VanillaTemporalModule.*Remove the node"):
            sampling.ksampler(model, conditioning, latent(1, 8, 8))
        assert not calls
    finally:
        model.eject_model()
        if hasattr(unet, "motion"):
            delattr(unet, "motion")
