"""The renderer of the demo model: captions, layouts, pictures, masks, counterfactuals, faders. No torch, no host."""

import itertools

import numpy as np
import pytest

from demo import scenes
from demo.scenes import Description, Scene, Thing

SEEDS = range(60)


def house(**changes):
    """A scene with a house on the first spot of a fixed layout."""
    layout = scenes.sample_scene(3).layout
    return Scene(Description(**{"things": (Thing("house", "blue"),), "place": "grass", **changes}), layout, (0,))


def difference(one, other):
    """Mean absolute difference per pixel, (H, W) in [0, 1]."""
    return np.abs(one.astype(float) - other.astype(float)).mean(-1) / 255


def test_vocabulary_is_as_promised():
    assert len(scenes.SHAPES) >= 12
    assert len(scenes.COLOURS) == 10
    assert set(scenes.TEXTURES) == {"stripes", "dots"}
    assert len(scenes.PLACES) >= 5
    assert set(scenes.LIGHTS) == {"night", "sunset"}


@pytest.mark.parametrize("prefix, light_first", list(itertools.product((False, True), repeat=2)))
def test_parse_caption_is_the_inverse_of_caption(prefix, light_first):
    for seed in SEEDS:
        scene = scenes.sample_scene(seed)
        assert scenes.parse_caption(scenes.caption(scene, prefix, light_first)) == scene.description


def test_parse_caption_takes_commas_and_capitals():
    assert scenes.parse_caption("A house in blue with stripes, and an umbrella, on the snow at night.") == Description(
        (Thing("house", "blue", "stripes"), Thing("umbrella")), "snow", "night"
    )


@pytest.mark.parametrize(
    "text, blamed",
    [
        ("", "''"),
        ("a dragon", "a dragon"),
        ("a house in mauve", "in mauve"),
        ("a blue house", "a blue house"),
        ("a house and", "''"),
        ("a house and a star and a cat", "and a cat"),
        ("a house at night at sunset", "at sunset"),
        ("a house on the roof", "on the roof"),
        ("a houseboat", "a houseboat"),
    ],
)
def test_an_unknown_caption_says_what_is_understood(text, blamed):
    with pytest.raises(ValueError) as error:
        scenes.parse_caption(text)
    assert blamed in str(error.value)
    for words in (scenes.SHAPES, scenes.COLOURS, scenes.TEXTURES, scenes.PLACES.values(), scenes.LIGHTS.values()):
        assert all(word in str(error.value) for word in words)


def test_the_same_seed_gives_the_same_picture():
    for seed in (0, 7):
        one, other = scenes.sample_scene(seed), scenes.sample_scene(seed)
        assert one == other
        assert np.array_equal(scenes.render(one), scenes.render(other))
    assert scenes.sample_scene(0) != scenes.sample_scene(1)


@pytest.mark.parametrize("size", [64, 128, 200])
def test_render_and_masks_have_the_asked_size(size):
    scene = scenes.sample_scene(1)
    picture, masks = scenes.render(scene, size), scenes.object_masks(scene, size)
    assert picture.shape == (size, size, 3) and picture.dtype == np.uint8
    assert masks.shape == (len(scene.description.things), size, size)
    assert masks.min() >= 0 and masks.max() <= 1


def test_masks_are_where_the_things_are():
    for seed in SEEDS[:20]:
        scene = scenes.sample_scene(seed)
        masks = scenes.object_masks(scene)
        assert masks.sum(0).max() <= 1 + 1e-6  # things hide each other, they do not overlap
        for mask, stand in zip(masks, scene.stands):
            spot = scene.layout.spots[stand]
            rows, columns = np.nonzero(mask > 0.5)
            assert abs(columns.mean() / 128 - spot.x) < 0.25 * spot.size
            assert spot.y - 1.1 * spot.size < rows.min() / 128 and rows.max() / 128 < spot.y + 0.05


def test_recolouring_changes_the_mask_and_nothing_else():
    scene = house()
    edited = scenes.counterfactual(scene, "a house in red on the grass")
    changed = difference(scenes.render(scene), scenes.render(edited)) > 0.01
    mask = scenes.object_masks(scene)[0]
    assert not changed[mask == 0].any()
    assert changed[mask > 0.9].mean() > 0.5
    assert np.array_equal(mask, scenes.object_masks(edited)[0])


EDITS = {  # what must stay the same: (spots kept, free spot used)
    "swap an object": "a cat in blue on the grass",
    "swap the colour": "a house in red on the grass",
    "remove the colour": "a house on the grass",
    "add a texture": "a house in blue with stripes on the grass",
    "add an object": "a house in blue and a star in yellow on the grass",
    "add an object before": "a star in yellow and a house in blue on the grass",
    "change the place": "a house in blue on the sea",
    "remove the place": "a house in blue",
    "change the light": "a house in blue on the grass at night",
    "add weather": "a house in blue on the grass in the fog",
    "change the style": "a house in blue on the grass as a drawing",
}


@pytest.mark.parametrize("target", EDITS.values(), ids=EDITS)
def test_every_edit_has_a_counterfactual_with_the_same_layout(target):
    scene = house()
    edited = scenes.counterfactual(scene, target)
    assert scenes.caption(edited) == target
    assert edited.layout == scene.layout
    assert difference(scenes.render(scene), scenes.render(edited)).max() > 0.05
    spots = dict(zip((thing.shape for thing in edited.description.things), edited.stands))
    assert spots.get("house", 0) == 0 and spots.get("star", 1) == 1


def test_a_removed_object_leaves_the_other_in_place():
    layout = scenes.sample_scene(3).layout
    both = Scene(scenes.parse_caption("a house and a star on the sand"), layout, (0, 1))
    assert scenes.counterfactual(both, "a star on the sand").stands == (1,)
    assert scenes.counterfactual(both, "a house on the sand").stands == (0,)
    assert scenes.counterfactual(both, "a cat and a star on the sand").stands == (0, 1)
    assert scenes.counterfactual(both, "a star and a house on the sand").stands == (1, 0)
    assert scenes.counterfactual(both, "a cat on the sand").stands == (0,)


def test_every_word_of_a_scene_is_a_slot():
    scene = Scene(
        scenes.parse_caption("a house in blue with dots and a star on the sea at night in the fog"),
        scenes.sample_scene(0).layout,
        (0, 1),
    )
    assert scenes.slots(scene) == {
        "shape0": "house",
        "colour0": "blue",
        "texture0": "dots",
        "shape1": "star",
        "place": "sea",
        "light": "night",
        "weather": "fog",
    }


@pytest.mark.parametrize(
    "slot, without",
    [
        ("colour0", "a house with dots and a star on the sea at night as a drawing"),
        ("texture0", "a house in blue and a star on the sea at night as a drawing"),
        ("shape1", "a house in blue with dots on the sea at night as a drawing"),
        ("place", "a house in blue with dots and a star at night as a drawing"),
        ("light", "a house in blue with dots and a star on the sea as a drawing"),
        ("style", "a house in blue with dots and a star on the sea at night"),
    ],
)
def test_a_word_of_amount_zero_is_a_word_not_said(slot, without):
    full = Scene(
        scenes.parse_caption("a house in blue with dots and a star on the sea at night as a drawing"),
        scenes.sample_scene(0).layout,
        (0, 1),
    )
    faded = scenes.render(full, amounts={slot: 0})
    assert difference(faded, scenes.render(scenes.counterfactual(full, without))).max() < 0.01
    steps = [scenes.render(full, amounts={slot: c}) for c in (-0.5, 0, 0.5, 1, 1.5)]
    for one, other in itertools.pairwise(steps if slot != "shape1" else steps[1:]):
        assert difference(one, other).max() > 0.02
    assert np.array_equal(steps[3], scenes.render(full))
