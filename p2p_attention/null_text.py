"""Null-text optimisation: a negative for every step, with which guidance stays on the way back to a picture.

Mokady et al., *Null-text Inversion for Editing Real Images using Guided Diffusion Models* (CVPR 2023), Algorithm 1.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch

from .invert import Variance, variance_of_diffusion

CFG, INNER_STEPS = (1.0, 100.0), (1, 100)  # least and most
LEARNING_RATE = 1e-2  # falls by a hundredth of itself with every step (the authors' code)
GOOD_ENOUGH, MORE_EACH_STEP = 1e-5, 2e-5  # squared error at which a step's optimisation ends (the authors' code)


def optimise_null_text(
    conditional: Callable[[torch.Tensor, float], torch.Tensor],
    unconditional: Callable[[torch.Tensor, float, torch.Tensor], torch.Tensor],
    negative: torch.Tensor,
    trajectory: torch.Tensor,
    sigmas: Sequence[float],
    cfg: float,
    inner_steps: int,
    progress: Callable[[int, torch.Tensor, torch.Tensor], None],
    variance: Variance = variance_of_diffusion,
) -> list[torch.Tensor]:
    """The negative context of each step. A picture's does not depend on the others of its batch.

    Args:
        conditional: (x (B, C, [F,] H, W), sigma) -> denoised latents of the source prompt.
        unconditional: (x, sigma, context (B, L, D)) -> denoised latents, differentiable in the context.
        negative: (B, L, D) to begin with, of the empty prompt in the paper.
        trajectory: (S + 1, B, C, [F,] H, W), see ``Inversion``.
        sigmas: S + 1, falling.
        cfg: guidance w of the run to come.
        inner_steps: most optimisation steps per sampling step; the paper takes 10.
        progress: called after each of them with the sampling step, denoised latents and x.
        variance: noise level -> how large x is there; errors are measured where it is 1, as the paper's are.

    Returns:
        S contexts (B, L, D).
    """
    contexts = []
    x, context = trajectory[0], negative
    for step, (sigma, following) in enumerate(zip(sigmas[:-1], sigmas[1:], strict=True)):
        with torch.no_grad():
            wanted = conditional(x, sigma)

        def stepped(unwanted: torch.Tensor, x=x, sigma=sigma, following=following, wanted=wanted):
            guided = unwanted + cfg * (wanted - unwanted)
            return guided, guided + (x - guided) * following / sigma

        context = context.detach().clone().requires_grad_(True)
        optimiser = torch.optim.Adam([context], lr=LEARNING_RATE * max(1.0 - step / 100.0, 0.0))
        good = torch.zeros(len(x), dtype=torch.bool, device=x.device)
        for _ in range(inner_steps):
            guided, reached = stepped(unconditional(x, sigma, context))
            errors = (reached - trajectory[step + 1]).square().flatten(1).mean(dim=1) / variance(following)
            progress(step, guided.detach(), reached.detach())
            good |= errors.detach() < GOOD_ENOUGH + step * MORE_EACH_STEP
            if good.all():
                break
            left_alone = context.detach().clone()
            optimiser.zero_grad()
            errors.sum().backward()
            optimiser.step()
            with torch.no_grad():  # Adam's momentum moves on where nothing is left to gain
                context.copy_(torch.where(good[:, None, None], left_alone, context))
        with torch.no_grad():
            context = context.detach()
            guided, x = stepped(unconditional(x, sigma, context))
            progress(step, guided, x)
        contexts.append(context)
    return contexts


def spans_of_steps(sigmas: Sequence[float]) -> tuple[list[float], list[float]]:
    """For each step, from and down to which noise level its negative counts: the middles between the levels."""
    middles = [math.sqrt(high * low) for high, low in zip(sigmas[:-2], sigmas[1:-1], strict=True)]
    return [math.inf, *middles], [*middles, 0.0]
