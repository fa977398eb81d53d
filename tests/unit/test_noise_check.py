"""Noise of their own in the rows of a picture is noticed, however it was drawn; noise that they share never is."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from p2p_attention.noise_check import CALLS, NoiseCheck

SEEDS, ROWS, SHAPE = 2, 3, (4, 6, 5)
SIGMAS = (14.0, 7.0, 3.0, 1.0, 0.3, 0.0)


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def shared(x):
    return torch.randn(len(x) // ROWS, *x.shape[1:]).repeat_interleave(ROWS, 0)


OWN = {
    "numpy": lambda x: torch.from_numpy(np.random.default_rng(1).standard_normal(x.shape, np.float32)),
    "row by row": lambda x: torch.stack([torch.randn_like(row) for row in x]),
    "all at once": lambda x: torch.randn(x.numel()).view_as(x),
    "coloured": lambda x: torch.nn.functional.avg_pool2d(torch.randn_like(x), 3, 1, 1) * 3,
    "of one edit": lambda x: torch.cat([shared(x)[:-1], torch.randn_like(x[-1:])]),
}


class Watched:
    """A toy model, whose prompts pull the rows apart; what the check says of its calls."""

    def __init__(self, rows=ROWS):
        self.check, self.found = NoiseCheck(rows), []

    def __call__(self, x, sigma):
        self.found.append(self.check.own_noise(x))
        prompts = torch.arange(len(x)).view(-1, *[1] * (x.ndim - 1)) % ROWS * 0.5
        denoised = torch.tanh(x.flip(-1) / (1 + sigma) + prompts) + 0.1 * prompts * x.roll(1, -2)
        self.check.answered(denoised)
        return denoised


def ancestral(model, x, noise, eta=1.0, sigmas=SIGMAS):
    for sigma, following in zip(sigmas[:-1], sigmas[1:], strict=True):
        up = eta * min(following, (following**2 * (sigma**2 - following**2) / sigma**2) ** 0.5)
        down = (following**2 - up**2) ** 0.5
        denoised = model(x, sigma)
        x = denoised + (x - denoised) * down / sigma + noise(x) * up


def second_order(model, x, noise):
    """Calls the model between its steps, without noise; mixes two answers."""
    for sigma, following in zip(SIGMAS[:-2], SIGMAS[1:-1], strict=True):
        first = model(x, sigma)
        middle = first + (x - first) * following / sigma
        second = model(middle, following)
        x = (first + second) / 2 + (x - (first + second) / 2) * following / sigma * 0.6 + noise(x) * following * 0.8


def multistep(model, x, noise):
    last = 0.0
    for sigma, following in zip(SIGMAS[:-1], SIGMAS[1:], strict=True):
        denoised = model(x, sigma)
        x = 0.4 * x + 1.5 * denoised - 0.5 * last + following * noise(x)
        last = denoised


SAMPLERS = {"ancestral": ancestral, "second order": second_order, "multistep": multistep}


def start(shape=SHAPE):
    return shared(torch.zeros(SEEDS * ROWS, *shape)) * SIGMAS[0]


@pytest.mark.parametrize("sampler", SAMPLERS.values(), ids=SAMPLERS)
@pytest.mark.parametrize("shape", [SHAPE, (4, 3, 6, 5)], ids=["pictures", "frames"])
@pytest.mark.parametrize("noise", [shared, torch.zeros_like])
def test_shared_noise_is_never_told(sampler, shape, noise):
    model = Watched()
    sampler(model, start(shape), noise)
    assert len(model.found) >= len(SIGMAS) - 1 and not any(model.found)


@pytest.mark.parametrize("sampler", SAMPLERS.values(), ids=SAMPLERS)
@pytest.mark.parametrize("noise", OWN.values(), ids=OWN)
def test_noise_of_their_own_is_told_once(sampler, noise):
    model = Watched()
    sampler(model, start(), noise)
    assert model.found.count(True) == 1
    assert model.found.index(True) <= 2, "at the first call that it has come to"


def test_little_noise_is_told_too():
    model = Watched()
    ancestral(model, start(), OWN["numpy"], eta=0.3)
    assert any(model.found)


@pytest.mark.parametrize("eta", [1.0, 0.5])
@pytest.mark.parametrize("noise, told", [(shared, False), (OWN["row by row"], True)])
def test_a_second_pass_begins_with_rows_that_differ(noise, told, eta):
    """By more than what little noise it draws."""
    model = Watched()
    x = torch.randn(SEEDS * ROWS, *SHAPE)
    ancestral(model, x + start() * 0.2, noise, eta, SIGMAS[3:])
    assert any(model.found) is told and not model.found[0]


def test_half_precision_is_no_noise():
    class Half(Watched):
        def __call__(self, x, sigma):
            return super().__call__(x.half(), sigma).half()

    model = Half()
    ancestral(model, start().half(), lambda x: shared(x).half())
    assert not any(model.found)


def test_equal_rows_stay_equal():
    """The same prompt twice: all differences are rounding."""
    check = NoiseCheck(2)
    for step in range(4):
        x = torch.randn(1, *SHAPE).repeat(2, 1, 1, 1)
        x[1] += 1e-6 * torch.randn(SHAPE)
        assert not check.own_noise(x), step
        check.answered(x * 0.5)


def test_later_calls_are_not_looked_at():
    check = NoiseCheck(2)
    x = torch.randn(1, *SHAPE).repeat(2, 1, 1, 1)
    for _ in range(CALLS):
        assert not check.own_noise(x)
        check.answered(x)
    assert not check.own_noise(torch.randn(2, *SHAPE))


def test_enlarged_latents_are_another_beginning():
    check = NoiseCheck(2)
    check.own_noise(torch.randn(2, *SHAPE))
    check.answered(torch.randn(2, *SHAPE))
    assert not check.own_noise(torch.randn(2, 4, 12, 10))
    check.answered(torch.randn(2, 4, 12, 10))
    assert check.own_noise(torch.randn(2, 4, 12, 10))


def test_nothing_is_said_of_what_is_no_number():
    check = NoiseCheck(2)
    for _ in range(3):
        assert not check.own_noise(torch.full((2, *SHAPE), float("nan")))
        check.answered(torch.full((2, *SHAPE), float("nan")))
