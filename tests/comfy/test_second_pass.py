"""A second sampler behind the first: its latents are the rows already, and are edited as they are."""

from __future__ import annotations

import pytest
import torch
from inverting import picture
from sampling import CFG, NO_WINDOW, PHRASE, SOURCE, STEPS, SWAP, Sampling, latent, relative_error
from small_models import sd15, sdxl

FLOAT32 = 1e-3  # the same sum in another order, through all steps; an edit that differs is off by far more
SEEDS, ROWS = 2, 3
WHOLE = {"cross_start": 0.0, "cross_end": 1.0, "self_start": 0.0, "self_end": 1.0}
AGAIN = {"seed": 11, "denoise": 0.6}


@pytest.fixture(scope="module")
def sampling(run_node):
    return Sampling(run_node, *sd15())


@pytest.fixture(scope="module")
def made(sampling):
    """(conditioning, pair, what a first sampler made of two pictures)."""
    conditioning, pair = sampling.pair(SWAP, PHRASE)
    return conditioning, pair, {"samples": sampling.ksampler(sampling.edit(pair), conditioning, latent(SEEDS))}


def second(sampling, pair, model=None):
    return sampling.run_node("P2PSecondPass", model=model or sampling.model, pair=pair)[0]


def sources(latents):
    return {name: each[::ROWS] for name, each in latents.items()}


def test_the_batch_stays_as_large_as_it_is(sampling, made):
    conditioning, pair, latents = made
    model = second(sampling, pair, sampling.edit(pair))
    assert len(sampling.ksampler(model, conditioning, latents, **AGAIN)) == SEEDS * ROWS
    others = {"samples": latents["samples"].flip(0, 2, 3)}  # as many, but not what the first sampler made
    without = sampling.ksampler(sampling.edit(pair), conditioning, others, **AGAIN)
    assert len(without) == SEEDS * ROWS * ROWS, "which is what the node is for"


@pytest.mark.parametrize("sampler", ["euler", "euler_ancestral", "dpmpp_sde", "dpmpp_2m"])
def test_the_source_goes_on_as_it_would_alone(sampling, made, sampler):
    """With the noise that the stock run gives to a batch of the sources."""
    conditioning, pair, latents = made
    settings = {**AGAIN, "sampler_name": sampler}
    got = sampling.ksampler(second(sampling, pair, sampling.edit(pair)), conditioning, latents, **settings)
    alone = sampling.ksampler(sampling.model, sampling.encode(SOURCE), sources(latents), **settings)
    assert relative_error(got[::ROWS], alone) < FLOAT32


def test_alike_rows_stay_alike(sampling):
    """Rows that say the same and look the same get the same noise."""
    conditioning, pair = sampling.pair(SOURCE, SOURCE)
    latents = {"samples": picture(SEEDS)["samples"].repeat_interleave(ROWS, 0)}
    for sampler in ("euler", "euler_ancestral"):
        got = sampling.ksampler(second(sampling, pair), conditioning, latents, **AGAIN, sampler_name=sampler)
        for row in range(1, ROWS):
            assert relative_error(got[row::ROWS], got[::ROWS]) < FLOAT32
        assert relative_error(got[ROWS], got[0]) > 1e-1, "each picture has its own"


def test_edits_go_on(sampling, made):
    conditioning, pair, latents = made
    plain = sampling.ksampler(second(sampling, pair), conditioning, latents, **AGAIN)
    got = sampling.ksampler(second(sampling, pair, sampling.edit(pair)), conditioning, latents, **AGAIN)
    assert torch.equal(
        sampling.ksampler(second(sampling, pair, sampling.edit(pair, **NO_WINDOW)), conditioning, latents, **AGAIN),
        plain,
    )
    for row in (1, 2):
        assert relative_error(got[row::ROWS], plain[row::ROWS]) > FLOAT32


def steps(sampling, model, conditioning, image, start, end, noise):
    return sampling.run_node(
        "KSamplerAdvanced", model=model, add_noise=noise, noise_seed=7, steps=STEPS, cfg=CFG, sampler_name="euler",
        scheduler="normal", positive=conditioning, negative=sampling.encode(), latent_image=image, start_at_step=start,
        end_at_step=end, return_with_leftover_noise="enable",
    )[0]  # fmt: skip


def test_two_runs_of_some_steps_are_one_run_of_all(sampling):
    """The whole window is open in both, so nothing depends on where a run begins."""
    conditioning, pair = sampling.pair(SWAP, PHRASE)
    model = sampling.edit(pair, **WHOLE)
    first = steps(sampling, model, conditioning, latent(SEEDS), 0, 2, "enable")
    rest = steps(sampling, second(sampling, pair, model), conditioning, first, 2, STEPS, "disable")
    assert relative_error(rest["samples"], sampling.ksampler(model, conditioning, latent(SEEDS))) < FLOAT32


def test_with_a_pair_of_another_text_encoder(run_node, sampling, made):
    """As a refiner has; the two models of this test merely have latents of one shape."""
    _, _, latents = made
    other = Sampling(run_node, *sdxl())
    conditioning, pair = other.pair(SWAP, PHRASE)
    got = other.ksampler(second(other, pair, other.edit(pair)), conditioning, latents, **AGAIN)
    alone = other.ksampler(other.model, other.encode(SOURCE), sources(latents), **AGAIN)
    assert relative_error(got[::ROWS], alone) < FLOAT32


def test_a_blend_holds_the_source_of_the_second_pass(sampling, made):
    conditioning, pair, latents = made
    mask = torch.zeros(1, *latents["samples"].shape[-2:])
    mask[:, :10] = 1.0
    model, _ = sampling.run_node(
        "P2PLocalBlendMask", model=sampling.edit(pair), pair=pair, words="", exclude_words="", threshold=0.3,
        start=0.0, spread=False, grow=0, feather=0.0, map_resolution="auto", mask=mask, mask_mode="replace",
    )  # fmt: skip
    got = sampling.ksampler(second(sampling, pair, model), conditioning, latents, **AGAIN)
    for row in (1, 2):
        assert torch.equal(got[row::ROWS, :, 10:], got[::ROWS, :, 10:])
        assert relative_error(got[row::ROWS, :, :10], got[::ROWS, :, :10]) > 1e-2


@pytest.mark.parametrize("masks", [1, SEEDS, SEEDS * ROWS])
def test_noise_masks_for_all_for_each_picture_or_for_each_row(sampling, made, masks):
    conditioning, pair, latents = made
    mask = torch.zeros(masks, 1, *latents["samples"].shape[-2:])
    for number in range(masks):
        mask[number, ..., number:] = 1.0
    got = sampling.ksampler(
        second(sampling, pair, sampling.edit(pair)), conditioning, {**latents, "noise_mask": mask}, **AGAIN
    )
    of_row = mask.repeat_interleave(SEEDS * ROWS // masks, 0).expand(-1, 4, -1, -1)
    kept = (got - latents["samples"]).abs() < 1e-4
    assert torch.equal(kept | (of_row == 0), kept), "where the mask is 0, everything stays"
    assert kept[of_row == 1].float().mean() < 0.1


def test_refusals(sampling, made):
    conditioning, pair, latents = made
    model = second(sampling, pair)
    with pytest.raises(ValueError, match="Wanted the latents of source and edits, 3 for each picture, .* got 4"):
        sampling.ksampler(model, conditioning, {"samples": latents["samples"][:4]}, **AGAIN)
    other, _ = sampling.pair(SOURCE, SWAP)
    with pytest.raises(ValueError, match="Wanted the conditioning of the pair"):
        sampling.ksampler(model, other, latents, **AGAIN)
    image = picture()
    inverted, _ = sampling.run_node(
        "P2PDDIMInvert", model=model, conditioning=conditioning, latent_image=image, steps=STEPS, scheduler="normal",
        denoise=1.0, refine_iterations=0, source_row="pin",
    )  # fmt: skip
    with pytest.raises(ValueError, match="Wanted one beginning for the run, got P2P Second Pass.*P2P DDIM Invert"):
        sampling.ksampler(inverted, conditioning, latents)
