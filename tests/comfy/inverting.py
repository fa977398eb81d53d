"""Shared steps of the tests of inversion: a model that has a way back, and a picture."""

from __future__ import annotations

import torch
from sampling import Sampling
from small_models import FAMILIES, sd15


def small(run_node, family="sd15"):
    """A small model whose way back is unique: random weights are no denoiser, but with small outputs nearly one.

    More heads make smoother maps, so that what iterations enlarge of rounding stays small.
    """
    model, clip = sd15(heads=8) if family == "sd15" else FAMILIES[family]()
    model.model.diffusion_model.out[-1].weight.data *= 0.05 if family == "sdxl" else 0.1
    return Sampling(run_node, model, clip)


def picture(batch=1, height=8, width=6, seed=3):
    """What VAE Encode may give: latents of SD 1.5 spread about 5."""
    return {"samples": 5.0 * torch.randn(batch, 4, height, width, generator=torch.Generator().manual_seed(seed))}


def rms(got, wanted):
    """Root mean square of the difference, relative to what is wanted."""
    return float((got - wanted).norm() / wanted.norm())
