"""Edited pictures through masks: the source outside, byte for byte, the edit inside, no seam between."""

from __future__ import annotations

import pytest
import torch

from p2p_attention.composite import composite

SIZE = 64


@pytest.fixture(scope="module")
def pair(toy):
    return toy.pair("a cat on a mat", "a dog on a mat")


def disc(radius, x=32.0, y=32.0):
    """(h, w), 1 inside."""
    rows, columns = torch.meshgrid(torch.arange(SIZE), torch.arange(SIZE), indexing="ij")
    return (((rows - y) ** 2 + (columns - x) ** 2) < radius**2).float()


def scene(radius=12, drift=0.02, seed=0):
    """(source, edit) (h, w, 3): a slope with a disc of another colour, and all else a little different."""
    generator = torch.Generator().manual_seed(seed)
    slope = torch.linspace(0.2, 0.6, SIZE).expand(SIZE, SIZE)
    source = torch.stack([slope, slope.T, 1 - slope], -1)
    edit = source + drift * torch.randn(source.shape, generator=generator)
    inside = disc(radius)[..., None]
    edit = edit * (1 - inside) + torch.tensor([0.9, 0.1, 0.1]) * inside
    return source, edit.clamp(0, 1)


def saved(pictures):
    return (255 * pictures).clamp(0, 255).to(torch.uint8)


def squares(*edges):
    """A mask of whole cells of 8 pixels, (1, h, w)."""
    mask = torch.zeros(1, SIZE, SIZE)
    top, bottom, left, right = edges
    mask[:, top:bottom, left:right] = 1
    return mask


@pytest.mark.parametrize("follow", [True, False])
@pytest.mark.parametrize("feather", [0.0, 2.0, 6.0])
def test_outside_every_saved_byte_is_the_sources(pair, follow, feather):
    source, edit = scene()
    images, alpha = composite(torch.stack([source, edit]), pair, squares(16, 48, 16, 48), None, follow, feather)
    assert torch.equal(images[0], source)
    outside = alpha[0] == 0
    assert outside.float().mean() > 0.4
    assert torch.equal(saved(images[1])[outside], saved(source)[outside])
    inside = alpha[0] == 1
    assert inside.float().mean() > 0.04
    torch.testing.assert_close(images[1][inside], edit[inside], atol=1e-6, rtol=0)


def test_it_follows_what_has_changed(pair):
    """The mask of cells has four times the disc's area; what is taken is the disc."""
    source, edit = scene()
    true = disc(12) > 0
    _, alpha = composite(torch.stack([source, edit]), pair, squares(8, 56, 8, 56), None, True, 0.0)
    found = alpha[0] > 0.5
    assert (found & true).sum() / (found | true).sum() > 0.9
    assert (squares(8, 56, 8, 56)[0].bool() & true).sum() / squares(8, 56, 8, 56).sum() < 0.25


def test_what_lies_outside_of_the_mask_is_not_taken(pair):
    source, edit = scene()
    edit[:10, :10] = 1.0
    images, alpha = composite(torch.stack([source, edit]), pair, squares(16, 48, 16, 48))
    assert not alpha[0, :10, :10].any() and torch.equal(images[1, :10, :10], source[:10, :10])


def test_there_is_no_seam(pair):
    """Where the edit meets the source, steps between neighbours are not above those of the two pictures."""
    source, edit = scene(drift=0.0)
    images, _ = composite(torch.stack([source, edit + 0.02]), pair, squares(8, 56, 8, 56))
    steps = (images[1][:, 1:] - images[1][:, :-1]).abs().amax()
    own = max((each[:, 1:] - each[:, :-1]).abs().amax() for each in (source, edit))
    assert steps <= own + 1e-6


def test_equal_pictures_stay_equal(pair):
    source, _ = scene()
    images, _ = composite(torch.stack([source, source]), pair, squares(16, 48, 16, 48))
    torch.testing.assert_close(images[1], source)


def test_an_empty_mask_takes_nothing_and_a_whole_one_everything(pair):
    source, edit = scene()
    both = torch.stack([source, edit])
    images, _ = composite(both, pair, torch.zeros(1, SIZE, SIZE))
    assert torch.equal(images[1], source)
    images, alpha = composite(both, pair, torch.ones(SIZE, SIZE), None, False)
    assert torch.equal(alpha, torch.ones(1, SIZE, SIZE))
    torch.testing.assert_close(images[1], edit)


def test_a_photograph_takes_the_sources_place(pair):
    source, edit = scene()
    photograph = (source * 0.97)[None]
    images, alpha = composite(torch.stack([source, edit]), pair, squares(16, 48, 16, 48), photograph)
    assert torch.equal(images[0], photograph[0])
    assert torch.equal(images[1][alpha[0] == 0], photograph[0][alpha[0] == 0])


def test_what_the_autoencoder_does_to_a_photograph_is_no_change(pair):
    source, edit = scene(drift=0.0)
    photograph = (source + 0.3 * disc(6, 14, 14)[..., None]).clamp(0, 1)  # a thing that its latent does not hold
    both, mask = torch.stack([source, edit]), squares(8, 56, 8, 56)
    images, alpha = composite(both, pair, mask, photograph[None])
    _, own = composite(both, pair, mask)
    assert torch.equal(alpha, own)
    assert torch.equal(images[1][disc(6, 14, 14) > 0], photograph[disc(6, 14, 14) > 0])


def test_where_a_thing_changes_less_it_belongs_to_it(pair):
    """Half of the disc changes by 0.4 of what the other does; around it there is a drift."""
    source = torch.full((SIZE, SIZE, 3), 0.5)
    left = (torch.arange(SIZE) < SIZE // 2)[None, :, None]
    change = 0.4 * torch.where(left, 0.4, 1.0) * disc(12)[..., None]
    edit = source + change + 0.01 * torch.randn(source.shape, generator=torch.Generator().manual_seed(0))
    _, alpha = composite(torch.stack([source, edit]), pair, squares(8, 56, 8, 56), None, True, 0.0)
    found, true = alpha[0] > 0.5, disc(12) > 0
    assert (found & true).sum() / (found | true).sum() > 0.9


def test_of_a_thing_that_is_taken_away_no_line_is_left(toy):
    """A line that hardly changes, around a thing that does: it goes along, unless something comes in its place."""
    ground = torch.full((SIZE, SIZE, 3), 0.8)
    source = torch.where((disc(14) > 0)[..., None], torch.full((3,), 0.65), ground)
    source = torch.where((disc(12) > 0)[..., None], torch.tensor([0.1, 0.2, 0.6]), source)
    left = []
    for target in ("a cat", "a cat on a rug"):
        pair = toy.pair("a cat on a mat", target)
        images, _ = composite(torch.stack([source, ground]), pair, squares(8, 56, 8, 56))
        left.append(float((images[1] - ground).abs().max()))
    assert left[0] < 0.01 < 0.05 < left[1]


def test_masks_belong_to_edits_and_seeds(toy):
    pair = toy.pair("a cat on a mat", "a dog on a mat", "a cat on a red mat")
    source, edit = scene()
    images = torch.stack([source, edit, edit] * 2)
    left, right = squares(16, 48, 16, 32), squares(16, 48, 32, 48)
    for masks in (torch.cat([left, right]), torch.cat([left, right, left, right])):
        _, alpha = composite(images, pair, masks, None, False, 0.0)
        assert torch.equal(alpha, torch.cat([left, right] * 2))
    _, alpha = composite(images, pair, left[:, ::8, ::8], None, False, 0.0)
    assert alpha.shape == (4, SIZE, SIZE) and torch.equal(alpha[0], alpha[3])


@pytest.mark.parametrize(
    "change, message",
    [
        ({"images": torch.zeros(3, SIZE, SIZE, 3)}, "Wanted 2 pictures for each seed"),
        ({"masks": torch.zeros(2, SIZE, SIZE)}, "Wanted one mask, one for each of the 1 edited prompts"),
        ({"masks": torch.full((1, SIZE, SIZE), float("nan"))}, "Wanted one mask"),
        ({"masks": torch.zeros(SIZE)}, "Wanted one mask"),
        (
            {"source": torch.zeros(1, 32, 64, 3)},
            "Wanted as source the pictures that were edited, 1 of 64 x 64 pixels, got 1",
        ),
        ({"source": torch.zeros(3, SIZE, SIZE, 3)}, "Wanted as source"),
        ({"feather": -1.0}, "Wanted feather from 0 to 256, got -1"),
    ],
)
def test_what_does_not_fit_is_refused(pair, change, message):
    inputs = {"images": torch.stack(scene()), "pair": pair, "masks": torch.ones(1, SIZE, SIZE)}
    with pytest.raises(ValueError, match=message):
        composite(**{**inputs, **change})
