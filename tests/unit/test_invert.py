"""The way back to a picture: fixed points, their budget, and a run's source row on the trajectory."""

from __future__ import annotations

import copy

import pytest
import torch

from p2p_attention.invert import (
    HISTORY,
    LONGEST,
    Inversion,
    InversionRun,
    _FixedPoint,
    constant_variance,
    invert,
    variance_of_diffusion,
)

SIGMAS = (10.0, 4.0, 1.5, 0.5, 0.0)
STEPS = len(SIGMAS) - 1
CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


# ---- Anderson acceleration


def contraction(size, factor, images=1):
    """x -> M x + b with the spectral radius ``factor``, and its fixed point (images, size)."""
    basis, _ = torch.linalg.qr(torch.randn(size, size, dtype=torch.float64))
    matrix = basis @ torch.diag(torch.linspace(-factor, factor, size, dtype=torch.float64)) @ basis.T
    offset = torch.randn(images, size, dtype=torch.float64)
    return lambda x: x @ matrix.T + offset, torch.linalg.solve(torch.eye(size) - matrix, offset.T).T


def iterate(function, start, count, accelerated):
    solver, x = _FixedPoint(), start
    for _ in range(count):
        mapped = function(x)
        x = solver.next(x, mapped) if accelerated else mapped
    return x


@pytest.mark.parametrize("size", [6, 200])
def test_a_slow_contraction_converges_much_faster(size):
    function, solution = contraction(size, 0.9)
    start = torch.zeros_like(solution)
    plain, fast = (iterate(function, start, 25, each) for each in (False, True))
    error, fast_error = ((each - solution).norm() / solution.norm() for each in (plain, fast))
    assert 1e-2 < error < 0.2, "0.9^25 = 0.07"
    assert fast_error < error / 100


def test_as_many_unknowns_as_it_remembers_are_found_at_once():
    """A linear map of n unknowns is solved after n + 1 values (Walker and Ni 2011)."""
    function, solution = contraction(HISTORY, 0.9)
    x = iterate(function, torch.zeros_like(solution), HISTORY + 2, accelerated=True)
    assert (x - solution).norm() < 1e-6 * solution.norm()


def test_small_parts_of_an_error_are_found_as_well():
    """Four unknowns whose errors differ ten-thousandfold: as many mixtures tell them apart."""
    factors = torch.tensor([0.9, 0.5, -0.4, -0.8], dtype=torch.float64)
    sizes = torch.tensor([1.0, 1e-1, 1e-2, 1e-4], dtype=torch.float64)

    def function(x):
        return factors * x + (1 - factors) * sizes

    x = iterate(function, torch.zeros(1, 4, dtype=torch.float64), HISTORY + 2, accelerated=True)
    assert ((x - sizes).abs() < 1e-3 * sizes).all()


def test_even_an_expanding_map_of_few_unknowns_is_solved():
    function, solution = contraction(3, 1.5)
    x = iterate(function, torch.zeros_like(solution), 7, accelerated=True)
    assert (x - solution).norm() < 1e-6 * solution.norm()


def test_each_image_of_a_batch_is_solved_on_its_own():
    function, solution = contraction(50, 0.9, images=3)
    start = torch.zeros_like(solution)
    together = iterate(function, start, 10, accelerated=True)
    mine = torch.randn_like(start[1:2])  # its neighbours start elsewhere

    def row(x):
        return function(x.expand(3, -1))[1:2]

    alone = iterate(row, start[1:2], 10, accelerated=True)
    torch.testing.assert_close(together[1:2], alone)
    elsewhere = iterate(function, torch.cat([mine, start[1:2], mine]), 10, accelerated=True)
    torch.testing.assert_close(elsewhere[1:2], alone)


def test_the_first_iterate_is_plain_and_a_solved_point_stays():
    solver, x = _FixedPoint(), torch.randn(2, 4, 3, 3)
    assert torch.equal(solver.next(x, x + 1), x + 1)
    for _ in range(HISTORY + 2):  # nothing changes any more: no division by zero
        x = solver.next(x, x)
        assert x.isfinite().all() and x.shape == (2, 4, 3, 3) and x.dtype == torch.float32


# ---- the inversion


class Denoiser:
    """A toy model: eps is a bounded, smooth function of x. Counts its calls by noise level."""

    def __init__(self, strength=0.3):
        self.calls = []
        self.inputs = []
        self.strength = strength

    def __call__(self, x, sigma):
        self.calls.append(sigma)
        self.inputs.append(x)
        return x - sigma * self.strength * torch.tanh(x.flip(-1) + 0.3)


def silent(*_):
    pass


def walk(denoise, x, sigmas=SIGMAS):
    """The sampler: Euler steps."""
    for sigma, following in zip(sigmas[:-1], sigmas[1:], strict=True):
        x = x + (following - sigma) * (x - denoise(x, sigma)) / sigma
    return x


def picture(batch=1):
    return torch.randn(batch, 4, 5, 6)


def test_without_iterations_it_is_the_plain_formula():
    image, denoise = picture(), Denoiser()
    trajectory, inputs = invert(denoise, image, SIGMAS, 0, silent)
    x = image
    for step, (low, high) in enumerate([(0.0, 0.5), (0.5, 1.5), (1.5, 4.0), (4.0, 10.0)]):
        at = x * ((1 + high**2) / (1 + low**2)) ** 0.5
        x = x + (high - low) * (at - Denoiser()(at, high)) / high
        torch.testing.assert_close(trajectory[STEPS - 1 - step], x)
        torch.testing.assert_close(inputs[STEPS - 1 - step], at)
    assert torch.equal(trajectory[-1], image)
    assert denoise.calls == [0.5, 1.5, 4.0, 10.0]


def test_more_iterations_lead_closer_to_the_picture():
    image, errors = picture(2), []
    for k in (0, 1, 3, 10):
        trajectory, inputs = invert(Denoiser(0.1), image, SIGMAS, k, silent)
        errors.append(float((walk(Denoiser(0.1), trajectory[0]) - image).norm() / image.norm()))
        assert trajectory.shape == (STEPS + 1, 2, 4, 5, 6) and inputs.shape == (STEPS, 2, 4, 5, 6)
    assert errors == sorted(errors, reverse=True)
    assert errors[0] > 1e-2
    assert errors[-1] < 1e-6
    torch.testing.assert_close(inputs, trajectory[:-1], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("k", [0, 1, 2, 3, 7])
@pytest.mark.parametrize("strength", [0.3, 3.0])
def test_the_budget_is_never_exceeded(k, strength):
    """Also by a model whose steps do not converge."""
    denoise = Denoiser(strength)
    invert(denoise, picture(), SIGMAS, k, silent)
    assert STEPS <= len(denoise.calls) <= STEPS * (1 + k)
    assert set(denoise.calls) == set(SIGMAS[:-1])
    if strength == 3.0 and k < 4:
        assert len(denoise.calls) == STEPS * (1 + k), "and is used where it is needed"


def test_converged_steps_stop_and_leave_their_share():
    constant = torch.randn(1, 4, 5, 6)
    calls = []

    def denoise(x, sigma):
        calls.append(sigma)
        return x - sigma * constant if sigma < 1.0 else Denoiser(3.0)(x, sigma)

    invert(denoise, picture(), SIGMAS, 5, silent)
    assert calls.count(0.5) == 2, "one call finds it, one more sees that"
    assert len(calls) <= STEPS * 6
    assert max(map(calls.count, SIGMAS[:-1])) > 6, "another step took more than its average"


def tolerant(x, sigma, hard):
    """A model without a fixed point to be found at ``hard`` noise levels, and found at once at the others."""
    return x - sigma * (torch.sin(1e3 * x) if hard(sigma) else torch.ones_like(x))


def count_calls(sigmas, k, hard):
    calls = []

    def denoise(x, sigma):
        calls.append(sigma)
        return tolerant(x, sigma, hard)

    invert(denoise, picture(), sigmas, k, silent)
    return [calls.count(sigma) for sigma in reversed(sigmas[:-1])]


LEVELS = tuple(2.0 ** (5 - i) for i in range(12)) + (0.0,)


@pytest.mark.parametrize("k", [2, 3, 4])
def test_steps_that_do_not_converge_leave_half_to_those_that_come_later(k):
    calls = count_calls(LEVELS, k, hard=lambda sigma: True)
    assert min(calls) >= 1 + (k + 1) // 2
    assert sum(calls) == 12 * (1 + k) and max(calls) > 1 + k, "and take what they may"


def test_no_step_takes_more_than_its_limit():
    """However much the others have left."""
    calls = count_calls(LEVELS, 2, hard=lambda sigma: sigma == LEVELS[0])
    assert calls == [2] * 11 + [1 + LONGEST * 2]
    assert count_calls(LEVELS, 4, hard=lambda sigma: sigma == LEVELS[2])[-3] == 1 + LONGEST * 4


@pytest.mark.parametrize("k", [1, 3, 6])
def test_a_picture_does_not_depend_on_its_neighbours(k):
    """Some converge at once, some never, each at levels of its own: budget and end are the picture's."""
    images = picture(4)
    hard = (
        lambda sigma: False,
        lambda sigma: sigma < 1,
        lambda sigma: sigma > 1,
        lambda sigma: True,
    )

    def denoise(mine):
        def of_each(x, sigma):
            return torch.cat([tolerant(row, sigma, hard[i]) for i, row in zip(mine, x.split(1), strict=True)])

        return of_each

    together = invert(denoise(range(4)), images, LEVELS, k, silent)
    for order in ([0], [1], [2], [3], [3, 1], [2, 0, 1]):
        alone = invert(denoise(order), images[order], LEVELS, k, silent)
        for both, mine in zip(together, alone, strict=True):
            assert torch.equal(both[:, order], mine), order


def test_latents_with_frames():
    """(B, C, F, H, W), as a picture of as many rows."""
    image = torch.randn(2, 4, 3, 5, 6)
    flat = invert(Denoiser(), image.flatten(2, 3), SIGMAS, 2, silent)
    frames = invert(Denoiser(), image, SIGMAS, 2, silent)
    for wanted, got in zip(flat, frames, strict=True):
        assert torch.equal(got.flatten(3, 4), wanted)
    each = run(Inversion(image, *frames, SIGMAS, (4, "normal", 1.0), "pin-aligned"))
    x = torch.randn(6, 4, 3, 5, 6)
    assert torch.equal(each.on_trajectory(x, 1, SIGMAS[1])[::3], frames[0][1])
    assert torch.equal(each.aligned(x, 1, SIGMAS[1])[::3], frames[1][1])
    assert torch.equal(each.result(each.denoised(x, 3), lambda y: y)[::3], image)


@pytest.mark.parametrize("variance", [variance_of_diffusion, constant_variance])
def test_the_first_guess_is_as_large_as_x_is_at_the_next_level(variance):
    denoise, image = Denoiser(), picture()
    invert(denoise, image, (3.0, 0.0), 0, silent, variance)
    (guess,) = denoise.inputs
    torch.testing.assert_close(guess, image * {variance_of_diffusion: 10**0.5, constant_variance: 1.0}[variance])


def test_that_of_diffusion_is_the_default():
    image = picture()
    wanted = invert(Denoiser(), image, SIGMAS, 2, silent, variance_of_diffusion)
    assert all(map(torch.equal, invert(Denoiser(), image, SIGMAS, 2, silent), wanted))
    other = invert(Denoiser(), image, SIGMAS, 2, silent, constant_variance)
    assert not torch.equal(other[1], wanted[1])


def test_progress_is_called_after_each_model_call():
    told, denoise = [], Denoiser(3.0)

    def progress(step, denoised, x):
        told.append((step, denoised.shape, x.shape))
        assert len(told) == len(denoise.calls)

    invert(denoise, picture(), SIGMAS, 2, progress)
    assert [step for step, *_ in told] == sorted(step for step, *_ in told)
    assert {step for step, *_ in told} == set(range(STEPS))
    assert {shape for _, *shapes in told for shape in shapes} == {(1, 4, 5, 6)}


def test_inputs_are_what_the_model_was_last_evaluated_on():
    denoise = Denoiser(3.0)
    _, inputs = invert(denoise, picture(), SIGMAS, 2, silent)
    last = {sigma: x for sigma, x in zip(denoise.calls, denoise.inputs, strict=True)}
    for step, sigma in enumerate(SIGMAS[:-1]):
        assert torch.equal(inputs[step], last[sigma])


def test_a_schedule_of_one_step():
    trajectory, inputs = invert(Denoiser(), picture(), (10.0, 0.0), 2, silent)
    assert len(trajectory) == 2 and len(inputs) == 1


# ---- a run on the trajectory


def inversion(source_row="pin", batch=1):
    image = picture(batch)
    trajectory, inputs = invert(Denoiser(), image, SIGMAS, 1, silent)
    return Inversion(image + 1.0, trajectory, inputs, SIGMAS, (4, "normal", 1.0), source_row)


def run(found, sigmas=SIGMAS, rows=3):
    return InversionRun(found, sigmas, rows, CPU)


def test_only_source_rows_are_put_on_the_trajectory():
    found = inversion(batch=2)
    x = torch.randn(6, 4, 5, 6)
    before = x.clone()
    for step, sigma in enumerate(SIGMAS[:-1]):
        got = run(found).on_trajectory(x, step, sigma)
        assert torch.equal(got[::3], found.trajectory[step])
        for row in (1, 2):
            assert torch.equal(got[row::3], x[row::3])
    assert torch.equal(x, before), "a sampler's own x is left alone"


def test_between_the_levels_the_source_is_between_the_points():
    found = inversion()
    got = run(found).on_trajectory(torch.zeros(3, 4, 5, 6), 1, 2.0)[:1]
    torch.testing.assert_close(got, found.trajectory[1] * 0.2 + found.trajectory[2] * 0.8)


@pytest.mark.parametrize("off", [1.0, 1 + 5e-5, 1 - 5e-5])
def test_aligned_rows_are_the_inputs_at_each_level(off):
    x, found = torch.randn(3, 4, 5, 6), inversion("pin-aligned")
    got = run(found).aligned(x, 2, SIGMAS[2] * off)
    assert torch.equal(got[:1], found.inputs[2])
    assert torch.equal(got[1:], x[1:])
    assert torch.equal(run(found).aligned(x, 2, 1.0), x), "not in between"
    for other in ("pin", "free"):
        assert torch.equal(run(inversion(other)).aligned(x, 2, SIGMAS[2]), x)


def test_denoised_source_rows_lead_to_the_next_point():
    """Euler's step with them."""
    found = inversion(batch=2)
    denoised = torch.randn(6, 4, 5, 6)
    for step, (sigma, following) in enumerate(zip(SIGMAS[:-1], SIGMAS[1:], strict=True)):
        got = run(found).denoised(denoised, step)
        x = found.trajectory[step]
        torch.testing.assert_close(
            x + (following - sigma) * (x - got[::3]) / sigma, found.trajectory[step + 1], rtol=1e-4, atol=1e-4
        )
        assert torch.equal(got[1::3], denoised[1::3])


def test_the_result_is_the_picture_or_the_point_where_it_ends():
    found, samples = inversion(), torch.randn(3, 4, 5, 6)
    got = run(found).result(samples, lambda x: 2.0 * x)
    assert torch.equal(got[:1], found.image)
    assert torch.equal(got[1:], samples[1:])
    got = run(found, SIGMAS[:3]).result(samples, lambda x: 2.0 * x)
    assert torch.equal(got[:1], 2.0 * found.trajectory[2])


def test_half_precision_runs_keep_their_precision():
    x = torch.randn(3, 4, 5, 6, dtype=torch.float16)
    each = run(inversion("pin-aligned"))
    for got in (each.on_trajectory(x, 1, SIGMAS[1]), each.aligned(x, 1, SIGMAS[1]), each.denoised(x, 1)):
        assert got.dtype == torch.float16


@pytest.mark.parametrize("first, last", [(0, 5), (2, 5), (0, 3), (1, 4)])
def test_a_part_of_the_schedule(first, last):
    found = inversion()
    part = run(found, SIGMAS[first:last])
    assert torch.equal(part.start, found.trajectory[first])
    x = torch.zeros(3, 4, 5, 6)
    assert torch.equal(part.on_trajectory(x, 1, SIGMAS[first + 1])[:1], found.trajectory[first + 1])


def test_levels_computed_anew_are_the_same():
    run(inversion(), [sigma * (1 + 3e-5) for sigma in SIGMAS])


@pytest.mark.parametrize("off", [1 + 2e-3, 1 - 2e-3])
def test_levels_nearby_are_others(off):
    """Schedules with one step more or less, or of another kind, may come as near as that."""
    with pytest.raises(ValueError, match="Wanted the noise levels"):
        run(inversion(), [sigma * off for sigma in SIGMAS])
    x, found = torch.randn(3, 4, 5, 6), inversion("pin-aligned")
    assert torch.equal(run(found).aligned(x, 2, SIGMAS[2] * off), x)
    if off < 1:
        assert not torch.equal(run(found).on_trajectory(x, 2, SIGMAS[2] * off)[:1], found.trajectory[2])


@pytest.mark.parametrize(
    "sigmas", [(10.0, 4.0, 1.5, 0.0), (10.0, 4.0, 1.6, 0.5, 0.0), (20.0, *SIGMAS), (10.0, 4.0, 0.0), (3.0, 1.0, 0.0)]
)
def test_other_levels_are_refused(sigmas):
    with pytest.raises(ValueError, match="4 steps from sigma 10, 4 to 0, got .*steps 4, scheduler normal, denoise 1,"):
        run(inversion(), sigmas)


def test_an_inversion_is_not_copied():
    found = inversion()
    assert copy.deepcopy({"key": (found,)})["key"][0] is found
    with pytest.raises(AttributeError):
        found.source_row = "free"
