"""Null-text optimisation with a toy model whose best negative is known."""

from __future__ import annotations

import pytest
import torch

from p2p_attention.invert import constant_variance, variance_of_diffusion
from p2p_attention.null_text import GOOD_ENOUGH, LEARNING_RATE, MORE_EACH_STEP, optimise_null_text

SIGMAS = (8.0, 3.0, 1.0, 0.0)
STEPS = len(SIGMAS) - 1
CFG = 4.0


class Denoiser:
    """eps is the mean of the context's tokens, spread over the picture. Notes (sigma, with gradients) of each call."""

    def __init__(self):
        self.calls = []

    def __call__(self, x, sigma, context):
        assert context.ndim == 3 and len(context) in (1, len(x))
        self.calls.append((sigma, torch.is_grad_enabled() and context.requires_grad))
        return x - sigma * context.mean(dim=1).view(-1, 4, *[1] * (x.ndim - 2))


def problem(batch=1, far=0.3):
    """positive, negative and the trajectory on which the positive alone leads: there the best negative is it."""
    generator = torch.Generator().manual_seed(0)
    positive = torch.randn(batch, 5, 4, generator=generator)
    negative = positive.mean(dim=1, keepdim=True) + far * torch.randn(batch, 1, 4, generator=generator)
    x = [torch.randn(batch, 4, 3, 3, generator=generator)]
    for sigma, following in zip(SIGMAS[:-1], SIGMAS[1:], strict=True):
        x.append(x[-1] + (following - sigma) * positive.mean(dim=1)[:, :, None, None])
    return positive, negative, torch.stack(x)


def optimise(
    positive, negative, trajectory, inner_steps=10, denoise=None, progress=lambda *_: None, cfg=CFG, **options
):
    with torch.enable_grad():
        denoise = denoise or Denoiser()
        return optimise_null_text(
            lambda x, sigma: denoise(x, sigma, positive),
            denoise,
            negative,
            trajectory,
            SIGMAS,
            cfg,
            inner_steps,
            progress,
            **options,
        )


def end(contexts, positive, trajectory, cfg=CFG):
    x, denoise = trajectory[0], Denoiser()
    for context, sigma, following in zip(contexts, SIGMAS[:-1], SIGMAS[1:], strict=True):
        negative = denoise(x, sigma, context)
        guided = negative + cfg * (denoise(x, sigma, positive) - negative)
        x = guided + (x - guided) * following / sigma
    return x


def test_it_leads_back_to_the_picture():
    positive, negative, trajectory = problem()
    plain = (end([negative] * STEPS, positive, trajectory) - trajectory[-1]).norm()
    errors = []
    for inner_steps in (1, 10, 100):
        contexts = optimise(positive, negative, trajectory, inner_steps)
        errors.append((end(contexts, positive, trajectory) - trajectory[-1]).norm())
    assert plain > errors[0] > errors[1] > errors[2]
    assert errors[2] < plain / 20


def test_the_loss_falls_within_a_step():
    positive, negative, trajectory = problem()
    losses = []

    def progress(step, denoised, x):
        assert not denoised.requires_grad and not x.requires_grad
        if step == 0:
            losses.append(float((x - trajectory[1]).square().mean()))

    optimise(positive, negative, trajectory, progress=progress)
    assert len(losses) == 11
    assert losses == sorted(losses, reverse=True)


def test_a_good_negative_is_left_after_one_look():
    """Early stopping: the guided step is right already."""
    positive, _, trajectory = problem()
    negative = positive.mean(dim=1, keepdim=True)
    denoise = Denoiser()
    contexts = optimise(positive, negative, trajectory, denoise=denoise)
    assert all(torch.equal(context, negative) for context in contexts)
    assert [sigma for sigma, _ in denoise.calls] == [8.0] * 3 + [3.0] * 3 + [1.0] * 3


@pytest.mark.parametrize("worse", [False, True])
def test_the_stop_is_the_authors(worse):
    """1e-5 + 2e-5 i in the variance-preserving scale."""
    positive, _, trajectory = problem()
    negative = positive.mean(dim=1, keepdim=True)
    trajectory = trajectory.clone()
    for step in range(1, STEPS + 1):  # off by just less or more than is good enough, from where the run is
        bound = (GOOD_ENOUGH + (step - 1) * MORE_EACH_STEP) * (1 + SIGMAS[step] ** 2)
        trajectory[step] += (1.05 if worse else 0.95) * bound**0.5
    denoise = Denoiser()
    optimise(positive, negative, trajectory, inner_steps=1, denoise=denoise)
    changed = [sigma for sigma, differentiated in denoise.calls if differentiated]
    assert changed == list(SIGMAS[:-1])
    contexts = optimise(positive, negative, trajectory, inner_steps=1)
    assert torch.equal(contexts[0], negative) is not worse


def test_the_first_step_of_adam_moves_by_the_learning_rate():
    positive, negative, trajectory = problem()
    contexts = optimise(positive, negative, trajectory, inner_steps=1)
    for step, (before, after) in enumerate(zip([negative, *contexts[:-1]], contexts, strict=True)):
        rate = LEARNING_RATE * (1 - step / 100)
        torch.testing.assert_close((after - before).abs(), torch.full_like(after, rate), rtol=1e-2, atol=1e-6)


def test_each_step_begins_with_the_last_ones_negative_and_its_own_point():
    positive, negative, trajectory = problem()
    reached = {}
    contexts = optimise(positive, negative, trajectory, progress=lambda step, _, x: reached.update({step: x}))
    torch.testing.assert_close(reached[STEPS - 1], end(contexts, positive, trajectory))


def test_two_pictures_are_optimised_apart():
    positive, negative, trajectory = problem(batch=2)
    both = optimise(positive, negative, trajectory, inner_steps=5)
    for image in range(2):
        mine = slice(image, image + 1)
        alone = optimise(positive[mine], negative[mine], trajectory[:, mine], inner_steps=5)
        for context, single in zip(both, alone, strict=True):
            assert context.shape == (2, 1, 4)
            torch.testing.assert_close(context[mine], single)


@pytest.mark.parametrize("inner_steps", [3, 30])
def test_a_picture_that_is_good_waits_as_it_is_for_its_neighbours(inner_steps):
    """Also while Adam has momentum to go on with: to the bit what it gets alone."""
    positive, negative, trajectory = problem(batch=3)
    negative[0] = positive[0].mean(dim=0, keepdim=True)  # good from the beginning
    negative[1] = positive[1].mean(dim=0, keepdim=True) + 2e-3  # after some steps
    batch = optimise(positive, negative, trajectory, inner_steps)
    for image in range(3):
        mine = slice(image, image + 1)
        alone = optimise(positive[mine], negative[mine], trajectory[:, mine], inner_steps)
        for context, single in zip(batch, alone, strict=True):
            assert torch.equal(context[mine], single), image


def test_latents_with_frames():
    """(B, C, F, H, W), as a picture of as many rows."""
    positive, negative, trajectory = problem(batch=2)
    flat = optimise(positive, negative, trajectory, inner_steps=3)
    frames = optimise(positive, negative, trajectory.unflatten(3, (3, 1)), inner_steps=3)
    for wanted, got in zip(flat, frames, strict=True):
        torch.testing.assert_close(got, wanted)


def test_errors_are_measured_where_x_is_of_variance_one():
    """The flow models' levels leave x as large as it is, so the same error counts for more at a high level."""
    positive, _, trajectory = problem()
    negative = positive.mean(dim=1, keepdim=True)
    trajectory = trajectory.clone()
    trajectory[1] += 2 * GOOD_ENOUGH**0.5  # at sigma 3: too far for a flow model, near enough where variance is 10
    first = {}
    for variance in (variance_of_diffusion, constant_variance):
        contexts = optimise(positive, negative, trajectory, inner_steps=1, variance=variance)
        first[variance] = torch.equal(contexts[0], negative)
    assert first == {variance_of_diffusion: True, constant_variance: False}


def test_only_the_inner_steps_build_graphs():
    positive, negative, trajectory = problem()
    denoise = Denoiser()
    contexts = optimise(positive, negative, trajectory, inner_steps=2, denoise=denoise)
    assert [differentiated for _, differentiated in denoise.calls] == [False, True, True, False] * STEPS
    assert not any(context.requires_grad for context in contexts)
    assert negative.grad is None and not negative.requires_grad


def test_guidance_one_has_nothing_to_optimise():
    positive, negative, trajectory = problem()
    contexts = optimise(positive, negative, trajectory, cfg=1.0)
    assert all(torch.equal(context, negative) for context in contexts)
