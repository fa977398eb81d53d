"""Proximal guidance: which differences are left out, by how much the others shrink."""

from __future__ import annotations

import copy

import pytest
import torch

from p2p_attention.guidance import THRESHOLDS, Proximal, proximal


@pytest.fixture(scope="module")
def pair(toy):
    return toy.pair("a cat", "a dog", "a big cat")


@pytest.fixture
def predictions():
    """cond, uncond of two seeds with three rows."""
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(6, 4, 5, 7, generator=generator) for _ in range(2)]


@pytest.mark.parametrize("quantile", [0.2, 0.7, 1.0])
@pytest.mark.parametrize("kind", THRESHOLDS)
def test_formula(pair, predictions, kind, quantile):
    """ProxEdit's equation, value by value, with a threshold for each row."""
    cond, uncond = predictions
    cond = uncond + (cond - uncond) * torch.arange(1.0, 7.0).view(-1, 1, 1, 1)  # rows of very different size
    got = proximal(Proximal(pair, quantile, kind), cond, uncond)
    for row in range(6):
        if row in (0, 3):
            assert torch.equal(got[row], cond[row]), "source rows keep their guidance"
            continue
        difference = cond[row] - uncond[row]
        threshold = torch.quantile(difference.abs().flatten(), quantile)
        kept = []
        for value in difference.flatten().tolist():
            small = abs(value) < threshold
            shrunk = value if kind == "hard" else value - float(threshold) * (1 if value > 0 else -1)
            kept.append(0.0 if small else shrunk)
        wanted = uncond[row] + torch.tensor(kept).view_as(difference)
        torch.testing.assert_close(got[row], wanted, rtol=1e-5, atol=1e-6)
        untouched = (got[row] == uncond[row]).float().mean()
        assert untouched == pytest.approx(quantile, abs=0.02)


@pytest.mark.parametrize("kind", THRESHOLDS)
def test_a_quantile_of_zero_changes_nothing(pair, predictions, kind):
    assert torch.equal(proximal(Proximal(pair, 0.0, kind), *predictions), predictions[0])


@pytest.mark.parametrize("kind", THRESHOLDS)
def test_latents_with_frames(pair, predictions, kind):
    """(B R, C, F, H, W): a row's threshold is that of all its frames."""
    guidance, five = Proximal(pair, 0.7, kind), (6, 4, 5, 1, 7)
    for frames in (five, (6, 4, 1, 5, 7), (6, 2, 2, 5, 7)):
        got = proximal(guidance, *(each.view(frames) for each in predictions))
        assert torch.equal(got, proximal(guidance, *predictions).view(frames))


def test_rows_of_half_precision_stay_so(pair, predictions):
    cond, uncond = (each.half() for each in predictions)
    assert proximal(Proximal(pair, 0.7, "soft"), cond, uncond).dtype == torch.float16


def test_its_arguments_are_left_alone(pair, predictions):
    before = [each.clone() for each in predictions]
    proximal(Proximal(pair, 0.7, "soft"), *predictions)
    assert all(torch.equal(*each) for each in zip(predictions, before, strict=True))


@pytest.mark.parametrize("quantile", [-0.1, 1.1, float("nan")])
def test_no_such_quantile(pair, quantile):
    with pytest.raises(ValueError, match="between 0 and 1, got .*ProxEdit uses 0.7"):
        Proximal(pair, quantile, "soft")


def test_it_is_not_copied(pair):
    guidance = Proximal(pair, 0.7, "soft")
    assert copy.deepcopy((guidance,))[0] is guidance
