"""Pixels that an edit changed, found in a mask that is too wide for them."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from p2p_attention import segmentation
from p2p_attention.segmentation import GuidedFilter, changed_pixels, largest, log_likelihood, mean

SIZE = 96


def noise(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def disc(radius, x=SIZE / 2, y=SIZE / 2):
    """(h, w), 1 inside."""
    rows, columns = torch.meshgrid(torch.arange(SIZE), torch.arange(SIZE), indexing="ij")
    return (((rows - y) ** 2 + (columns - x) ** 2) < radius**2).float()


def textured(seed=1):
    """(h, w, 3): blotches of many colours and grain, as a photograph has."""
    blotches = F.interpolate(noise(1, 3, 9, 9, seed=seed), (SIZE, SIZE), mode="bicubic")[0].movedim(0, -1)
    return (0.5 + 0.12 * blotches + 0.03 * noise(SIZE, SIZE, 3, seed=seed + 1)).clamp(0, 1)


def drifted(picture, by=0.02):
    """As a blend leaves the background: a little different, in cells of the latent."""
    cells = F.interpolate(noise(1, 3, SIZE // 8, SIZE // 8, seed=5), (SIZE, SIZE), mode="bilinear")[0].movedim(0, -1)
    return (picture + by * cells).clamp(0, 1)


def overlap(alpha, true):
    found, true = alpha > 0.5, true > 0.5
    return float((found & true).sum() / (found | true).sum())


@pytest.mark.parametrize(
    "made, least",
    [
        pytest.param(lambda s: s.flip(-1) * 0.6 + 0.3, 0.9, id="another colour"),
        pytest.param(lambda s: textured(seed=11), 0.9, id="another texture"),
        pytest.param(lambda s: s + 0.25 * (torch.arange(SIZE) // 4 % 2)[None, :, None], 0.65, id="stripes"),
    ],
)
def test_a_thing_is_found_in_a_mask_of_twice_its_width(made, least):
    source, true = textured(), disc(16)
    edit = drifted(torch.where(true[..., None] > 0, made(source), source))
    mask = largest(true, 16)
    assert overlap(mask, true) < 0.35
    assert overlap(changed_pixels(mask, source, edit), true) > least


def test_a_thin_line_is_not_lost():
    source = textured()
    true = disc(24) - disc(22)
    edit = drifted(torch.where(true[..., None] > 0, torch.tensor([0.0, 1.0, 0.0]), source))
    alpha = changed_pixels(largest(true, 8), source, edit)
    assert (alpha[true > 0] > 0.5).float().mean() > 0.95
    assert (alpha[disc(16) > 0] > 0.5).float().mean() < 0.3  # what the line goes around is the source's


def test_a_hole_in_a_thing_is_filled():
    """A part of it that looks as it did: what was there before would show through."""
    source, true = textured(), disc(18)
    edit = drifted(torch.where((true - disc(5))[..., None] > 0, 1 - source, source))
    alpha = changed_pixels(largest(true, 8), source, edit)
    assert (alpha[disc(5) > 0] > 0.5).all()


def test_where_the_turns_lose_what_has_changed_it_is_what_has_changed(monkeypatch):
    source, true = textured(), disc(16)
    edit = torch.where(true[..., None] > 0, 1 - source, source)
    monkeypatch.setattr(segmentation, "log_likelihood", lambda points, fitted: points[:, 0])  # says nothing
    alpha = changed_pixels(largest(true, 8), source, edit)
    assert overlap(alpha, true) > 0.8


def test_nothing_is_taken_a_window_away_from_the_mask():
    source = textured()
    edit = 1 - source
    mask = disc(12)
    alpha = changed_pixels(mask, source, edit)
    assert alpha.any() and not alpha[largest(mask, SIZE // segmentation.SHORTER) == 0].any()


@pytest.mark.parametrize("mask", [disc(0), disc(20), disc(SIZE)], ids=["none", "disc", "all"])
def test_equal_pictures_say_nothing_of_a_mask(mask):
    source = textured()
    assert torch.equal(changed_pixels(mask, source, source), mask)


def test_where_all_of_the_picture_may_change_it_is_all_taken():
    """Another light changes the sky more than the ground; no sun of the day is left at night."""
    source, sky = textured(), disc(16)[..., None]
    night = (source * (0.9 - 0.7 * sky)).clamp(0, 1)
    whole = torch.ones(SIZE, SIZE)
    assert torch.equal(changed_pixels(whole, source, night), whole)


def test_it_is_the_same_at_every_call():
    source, true = textured(), disc(16)
    edit = drifted(torch.where(true[..., None] > 0, 1 - source, source))
    first, second = (changed_pixels(largest(true, 8), source, edit) for _ in range(2))
    assert torch.equal(first, second)


def test_a_mixture_of_one_cluster_is_a_gaussian(monkeypatch):
    monkeypatch.setattr(segmentation, "GAUSSIANS", 1)
    fitted, points = noise(500, 6) * torch.arange(1, 7), noise(40, 6, seed=3)
    covariance = fitted.T.cov(correction=0) + segmentation.NOISE * torch.eye(6)
    exact = torch.distributions.MultivariateNormal(fitted.mean(0), covariance).log_prob(points)
    ours = log_likelihood(points, fitted)
    torch.testing.assert_close(ours - ours[0], exact - exact[0], atol=1e-3, rtol=1e-4)


def test_a_mixture_explains_its_own_clusters():
    fitted = torch.cat([0.02 * noise(200, 6) + 0.2, 0.02 * noise(200, 6, seed=1) + 0.8])
    likely = log_likelihood(torch.tensor([[0.2] * 6, [0.8] * 6, [0.5] * 6]), fitted)
    assert likely[2] < likely[:2].min() - 10


@pytest.mark.parametrize("radius", [1, 4, 7])
def test_windows_are_those_of_plain_pooling(radius):
    picture = noise(3, 40, 33)
    padded = F.pad(picture[None], (radius,) * 4, mode="replicate")
    torch.testing.assert_close(mean(picture, radius), F.avg_pool2d(padded, 2 * radius + 1, 1)[0])
    assert torch.equal(largest(picture[0], radius), F.max_pool2d(picture[:1], 2 * radius + 1, 1, radius)[0])


def test_the_guided_filter_keeps_an_edge_that_its_guide_has():
    step = (torch.arange(SIZE) >= SIZE // 2).float().expand(SIZE, SIZE)
    noisy = step + 0.3 * noise(SIZE, SIZE)
    smooth = GuidedFilter(step[None], 6)(noisy)
    assert (smooth - step).square().mean() < 0.1 * (noisy - step).square().mean()
    assert (smooth[:, SIZE // 2] - smooth[:, SIZE // 2 - 1]).min() > 0.7


@pytest.mark.parametrize(
    "outlines, thing", [(False, (0.9, 0.6, 0.1)), (True, (0.9, 0.6, 0.1)), (True, (0.2, 0.3, 0.6))]
)
def test_the_outline_of_a_photographs_thing_goes_with_it(outlines, thing):
    """The run's source is what the autoencoder left of the photograph; the thing is taken away."""
    side = 160
    rows, columns = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    away = ((rows - side / 2) ** 2 + (columns - side / 2) ** 2).sqrt()
    ground = torch.tensor([0.9, 0.7, 0.5])
    photograph = torch.where((away < 32)[..., None], torch.tensor(thing), ground)
    photograph = torch.where(((away >= 32) & (away < 33.5))[..., None], ground * 0.6, photograph)
    source = mean(photograph.movedim(-1, 0), 1).movedim(0, -1)
    edit = ground.expand(side, side, 3)
    alpha = changed_pixels((away < 50).float(), source, edit, outlines)
    left = mean(alpha, 1)[..., None] * (edit - photograph) + photograph  # with the border of P2P Composite
    assert (left - edit).abs().max() < 0.01
