"""Samplers that nobody here has heard of: their noise is shared, or it is said that it is not; errors are theirs."""

from __future__ import annotations

import logging
import traceback

import numpy as np
import pytest
import torch
from sampling import CFG, STEPS, SWAP, Sampling, latent, relative_error
from small_models import sd15

ROUNDING = 1e-4
TOLD = "noise of its own for each: the sampler draws it where it cannot be shared"


@pytest.fixture(scope="module")
def sampling(run_node):
    return Sampling(run_node, *sd15())


def ancestral(next_x):
    """A sampler whose steps end in ``next_x(mean, sigma)``."""

    def sample(model, x, sigmas, extra_args=None, callback=None, disable=None):
        for sigma, following in zip(sigmas[:-1], sigmas[1:], strict=True):
            denoised = model(x, sigma * x.new_ones(len(x)), **extra_args)
            x = next_x(denoised + (x - denoised) * following * 0.6 / sigma, 0.8 * float(following))
        return x

    return sample


NOISES = {
    "around the mean": lambda mean, sigma: torch.normal(mean, sigma),
    "normal of a size": lambda mean, sigma: mean + sigma * torch.normal(0.0, 1.0, size=mean.shape),
    "exponential": lambda mean, sigma: mean + sigma * (torch.empty_like(mean).exponential_() - 1.0),
    "studentt": lambda mean, sigma: mean + sigma * torch.distributions.StudentT(9.0).sample(mean.shape),
    "coins": lambda mean, sigma: mean + sigma * (2.0 * torch.bernoulli(torch.full_like(mean, 0.5)) - 1.0),
}
OWN_NOISES = {
    "numpy": lambda mean, sigma: mean + sigma * torch.from_numpy(np.random.standard_normal(mean.shape)).float(),
    "row by row": lambda mean, sigma: torch.stack([row + sigma * torch.randn_like(row) for row in mean]),
}


def sample(sampling, model, conditioning, function, image=None, seed=7):
    import comfy.samplers

    (sigmas,) = sampling.run_node("BasicScheduler", model=sampling.model, scheduler="normal", steps=STEPS, denoise=1.0)
    torch.manual_seed(seed)
    return sampling.run_node(
        "SamplerCustom", model=model, add_noise=True, noise_seed=seed, cfg=CFG, positive=conditioning,
        negative=sampling.encode(), sampler=comfy.samplers.KSAMPLER(function), sigmas=sigmas,
        latent_image=image or latent(2),
    )[0]["samples"]  # fmt: skip


@pytest.mark.parametrize("next_x", NOISES.values(), ids=NOISES)
def test_the_source_is_the_stock_runs_whatever_is_drawn(sampling, caplog, next_x):
    conditioning, pair = sampling.pair(SWAP)
    wanted = sample(sampling, sampling.model, sampling.encode("a cat on a red chair"), ancestral(next_x))
    got = sample(sampling, sampling.edit(pair), conditioning, ancestral(next_x))
    assert relative_error(got[::2], wanted) < ROUNDING
    assert relative_error(got[1::2], wanted) < 2.0 and TOLD not in caplog.text


@pytest.mark.parametrize("next_x", OWN_NOISES.values(), ids=OWN_NOISES)
def test_what_cannot_be_shared_is_told_once(sampling, caplog, next_x):
    conditioning, pair = sampling.pair(SWAP)
    sample(sampling, sampling.edit(pair), conditioning, ancestral(next_x))
    told = [record for record in caplog.records if TOLD in record.getMessage()]
    assert len(told) == 1 and told[0].levelno == logging.WARNING and "another sampler" in told[0].getMessage()


def test_other_runs_are_told_nothing(sampling, caplog):
    """A picture's own rows, a mask, a second pass."""
    conditioning, pair = sampling.pair(SWAP)
    model = sampling.edit(pair)
    image = {"samples": torch.randn(1, 4, 8, 8), "noise_mask": torch.zeros(1, 64, 64)}
    image["noise_mask"][:, :32] = 1.0
    sampling.ksampler(model, conditioning, image, sampler_name="euler_ancestral", denoise=0.7)
    rows = sampling.ksampler(model, conditioning, sampler_name="euler_ancestral")
    (second,) = sampling.run_node("P2PSecondPass", model=model, pair=pair)
    sampling.ksampler(second, conditioning, {"samples": rows}, sampler_name="dpmpp_2s_ancestral", denoise=0.6)
    source, same = sampling.pair("a cat on a red chair")
    sampling.ksampler(sampling.edit(same), source, sampler_name="dpmpp_sde")
    assert TOLD not in caplog.text


def test_an_error_ends_in_the_line_that_made_it(sampling):
    def next_x(mean, sigma):
        return mean + torch.randn(1, 2, 3, 5)

    conditioning, pair = sampling.pair(SWAP)
    with pytest.raises(RuntimeError, match="size of tensor") as caught:
        sample(sampling, sampling.edit(pair), conditioning, ancestral(next_x))
    frames = traceback.extract_tb(caught.value.__traceback__)
    assert frames[-1].name == "next_x"
    assert not any(frame.name == "__torch_function__" for frame in frames)
