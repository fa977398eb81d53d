"""Which step a model call belongs to: by its noise level, and by counting where levels come more than once."""

from __future__ import annotations

import pytest

from p2p_attention.steps import StepCounter, extrapolation

FALLING = [14.6, 8.0, 3.0, 1.0, 0.0]


def test_falling_levels_name_their_step_in_any_order():
    steps = StepCounter(FALLING)
    assert [steps.of(sigma) for sigma in (14.6, 8.1, 8.0, 3.5, 1.0, 0.2, 14.6, 100.0)] == [0, 0, 1, 1, 3, 3, 0, 0]


LISTS = {
    "falling": FALLING,
    "first twice": [14.6, 14.6, 8.0, 3.0, 0.0],
    "first three times": [14.6, 14.6, 14.6, 3.0, 0.0],
    "in the middle": [14.6, 8.0, 8.0, 3.0, 0.0],
    "last twice": [14.6, 8.0, 3.0, 3.0, 0.0],
    "restart": [14.6, 8.0, 3.0, 8.0, 3.0, 0.0],
    "restart twice": [14.6, 3.0, 8.0, 3.0, 8.0, 3.0, 0.0],
    "zero more than once": [14.6, 3.0, 0.0, 0.0],
    "nearly the same": [14.6, 14.5999, 3.0, 0.0],
}


@pytest.mark.parametrize("levels", LISTS)
def test_one_call_for_each_step(levels):
    steps, found = StepCounter(LISTS[levels]), []
    for step, sigma in enumerate(LISTS[levels][:-1]):
        found.append(steps.of(sigma))
        assert steps.of(sigma) == found[-1], "asking again changes nothing"
        steps.finish(step)
    assert found == list(range(len(LISTS[levels]) - 1))


@pytest.mark.parametrize("levels", LISTS)
def test_a_second_call_at_the_end_of_each_step(levels):
    """It belongs to the step that begins there, as with levels that fall."""
    steps, sigmas = StepCounter(LISTS[levels]), LISTS[levels]
    for step, (sigma, end) in enumerate(zip(sigmas[:-1], sigmas[1:], strict=True)):
        assert steps.of(sigma) == step
        steps.finish(step)
        if end:
            assert steps.of(end) == step + 1


@pytest.mark.parametrize("levels", LISTS)
def test_a_sampler_that_says_nothing(levels):
    """Steps that repeat the one before are taken for it; the others are right."""
    steps, sigmas = StepCounter(LISTS[levels]), LISTS[levels]
    for step, sigma in enumerate(sigmas[:-1]):
        found = steps.of(sigma)
        assert found == step or sigmas[found] == pytest.approx(sigma, rel=1e-4)


def test_calls_between_the_levels():
    steps = StepCounter(LISTS["restart"])
    for step, calls in enumerate([(14.6, 10.0), (8.0, 5.0), (3.0, 6.0), (8.0, 4.0), (3.0, 1.0)]):
        assert [steps.of(sigma) for sigma in calls] == [step, step]
        steps.finish(step)


# ---- how far a sampler goes on beyond what it has seen


def test_extrapolation_is_the_length_of_a_step_in_those_of_the_one_before_halved():
    assert [extrapolation([8.0, 4.0, 2.0, 0.5, 0.0], step) for step in range(4)] == [0.0, 0.5, 1.0, 0.0]
    assert extrapolation([8.0, 4.0, 4.0, 2.0], 1) == extrapolation([8.0, 4.0, 4.0, 2.0], 2) == 0.0, "no step at all"
    assert extrapolation([8.0, 4.0, 6.0, 2.0], 2) == 0.0, "noise was added"
