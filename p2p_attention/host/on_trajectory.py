"""A run on an inversion's trajectory: whether the sampler can follow it, and where it begins."""

from __future__ import annotations

import inspect
from types import SimpleNamespace
from typing import Any

import comfy.k_diffusion.sampling as k_diffusion
import torch

from ..conditionings import PAIR_KEY
from ..invert import Inversion, InversionRun
from ..prompt import PromptPair

OWN_WAY = {"dpm_fast_function", "dpm_adaptive_function", "sample_lcm_upscale"}  # do not keep to the schedule, or size


def inversion_run(
    inversion: Inversion | None,
    guider: Any,
    sampler: Any,
    sigmas: torch.Tensor,
    shape: torch.Size,
    pairs: dict[Any, PromptPair],
) -> InversionRun | None:
    """The inversion's part of a run, after checking that the run can follow its trajectory."""
    if inversion is None:
        return None
    if inversion.image.shape != shape:
        raise ValueError(
            f"Wanted a latent of the inverted picture's shape {list(inversion.image.shape)}, got {list(shape)}. "
            "Connect the latent that went into P2P DDIM Invert to the sampler, too."
        )
    pinned = inversion.source_row != "free"
    if pinned and not any(PAIR_KEY in cond for cond in guider.conds.get("positive", ())):
        raise ValueError(
            f"source_row {inversion.source_row} holds the source row of a prompt pair; the sampler's conditioning "
            "comes from none. Connect P2P Prompt Pair's conditioning to positive, or set source_row to free."
        )
    function = getattr(sampler, "sampler_function", None)
    follows = function is k_diffusion.sample_euler
    parameters = inspect.signature(function).parameters if function is not None else {}
    own_way = "noise_sampler" in parameters or getattr(function, "__name__", "") in OWN_WAY
    if own_way or not (follows or pinned):
        name = getattr(function, "__name__", type(sampler).__name__)
        raise ValueError(
            f"Wanted a sampler that follows the inversion, got {name}, "
            + ("which draws noise or chooses steps of its own" if own_way else "of higher order")
            + ". Set sampler_name to euler or ddim"
            + ("." if own_way else ", or source_row to pin.")
        )
    rows = next(iter(pairs.values())).rows if pairs else 1
    return InversionRun(inversion, sigmas.tolist(), rows, guider.model_patcher.load_device)


def noise_to_start(
    start: torch.Tensor, latent: torch.Tensor, sigmas: torch.Tensor, sampler: Any, model: Any
) -> torch.Tensor:
    """The noise with which the host's scaling begins at ``start`` (B, C, H, W), given the latent image."""
    sampling = model.get_model_object("model_sampling")
    most = sampler.max_denoise(SimpleNamespace(inner_model=SimpleNamespace(model_sampling=sampling)), sigmas)
    image = model.model.process_latent_in(latent).cpu()

    def scaled(noise, image):
        return sampling.noise_scaling(sigmas[:1].cpu(), noise, image, most)

    of_noise = scaled(torch.ones(1, 1, 1, 1), torch.zeros(1, 1, 1, 1))
    return ((start.cpu() - scaled(torch.zeros_like(image), image)) / of_noise).to(latent)
