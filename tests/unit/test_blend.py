"""Local blend: which words make a mask, what becomes of their maps, and what the mask does to latents."""

from __future__ import annotations

import copy
import functools
import logging
import math
import re

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from p2p_attention import blend as blending
from p2p_attention.blend import MASKS_FROM, BlendRun, Region
from p2p_attention.changed import soften, widened
from p2p_attention.maps import MapRun, spread

local_blend = functools.partial(blending.local_blend, spread=False)  # its maps as they are; see the last tests


def named(blend):
    """Per edit: (included, excluded) as sets of (row, label, positions)."""

    def look_up(columns):
        words = blend.request.words
        return {(row, words[row][column].label, words[row][column].positions) for row, column in columns}

    return [region and (look_up(region.included), look_up(region.excluded)) for region in blend.regions]


# ---- words


@pytest.mark.parametrize(
    "source, target, words",
    [
        ("a cat on grass", "a dog on grass", {(0, "cat", (2,)), (1, "dog", (2,))}),
        ("a cat on grass", "a big cat on grass", {(1, "big", (2,))}),
        ("a big cat on grass", "a cat on grass", {(0, "big", (2,))}),
        ("a cat", "a cat in the hat", {(1, "hat", (5,))}),
        ("a cat", "the cat", {(0, "a", (1,)), (1, "the", (1,))}),  # all there is
        ("a mirror", "a cat", {(0, "mirror", (2, 3)), (1, "cat", (2,))}),
        ("a cat, a cat", "a cat, a dog", {(0, "cat", (5,)), (1, "dog", (5,))}),
    ],
)
def test_no_words_are_the_differing_ones(toy, source, target, words):
    assert named(local_blend(toy.pair(source, target))) == [(words, set())]


def test_named_words_are_looked_for_on_both_sides(toy):
    pair = toy.pair("a cat on a mirror", "a dog on a mirror", "a cat on a big mirror")
    blend = local_blend(pair, words="mirror\na#2", exclude_words="cat, big")
    mirror, second = {(0, "mirror", (5, 6)), (0, "a#2", (4,))}, {(1, "mirror", (5, 6)), (1, "a#2", (4,))}
    assert named(blend) == [
        (mirror | second, {(0, "cat", (2,))}),
        (mirror | {(2, "mirror", (6, 7)), (2, "a#2", (4,))}, {(0, "cat", (2,)), (2, "cat", (2,)), (2, "big", (5,))}),
    ]
    assert blend.edits == (0, 1)
    assert len(blend.request.words[0]) == 3, "one column for a word, however often it is used"


def test_one_edit(toy):
    pair = toy.pair("a cat", "a dog", "a lion")
    blend = local_blend(pair, edit=2)
    assert named(blend) == [None, ({(0, "cat", (2,)), (2, "lion", (2, 3))}, set())] and blend.edits == (1,)
    with pytest.raises(ValueError, match="got 'dog', which is in none.*source: a, cat; edit 2: a, lion"):
        local_blend(pair, words="dog", edit=2)
    with pytest.raises(ValueError, match="of the source or of edit 2, got 'dog', of which none is there.*a, lion"):
        local_blend(pair, words="dog")


def test_given_masks_need_no_maps(toy):
    pair = toy.pair("a cat", "a dog", "a cat")  # the second does not differ
    blend = local_blend(pair, mask=torch.full((8, 8), 2.0))
    assert blend.request is None and blend.regions == (Region((), ()),) * 2
    assert blend.mask.shape == (1, 8, 8) and blend.mask.max() == 1.0, "within 0 and 1"
    assert local_blend(pair, "cat", mask=torch.ones(1, 8, 8), mode="union").request is not None


def test_a_given_mask_is_copied(toy):
    mask = torch.ones(1, 4, 4)
    blend = local_blend(toy.pair("a cat", "a dog"), mask=mask)
    mask.zero_()
    assert blend.mask.all()


def test_mistakes(toy):
    pair = toy.pair("a cat", "a dog", "a cat")
    with pytest.raises(ValueError, match="Wanted prompts that differ.*edit 2.*a, cat.*Name the words"):
        local_blend(pair)
    with pytest.raises(ValueError, match="got both"):
        local_blend(pair, exclude_words="cat", mask=torch.ones(4, 4))
    with pytest.raises(ValueError, match="one mask, or one for each of the 2 edited prompts, got 3"):
        local_blend(pair, mask=torch.ones(3, 4, 4))
    for mode in ("intersect", "union"):
        with pytest.raises(ValueError, match=f"Wanted a mask for mask_mode {mode}, got none. Connect one"):
            local_blend(pair, "cat", mode=mode)
    with pytest.raises(ValueError, match="mask_mode to be one of"):
        local_blend(pair, "cat", mode="subtract")
    with pytest.raises(ValueError, match="got the source alone"):
        local_blend(toy.pair("a cat"))
    with pytest.raises(ValueError, match="1 to 2.*got 3"):
        local_blend(pair, edit=3)


def test_the_hosts_copies_are_the_blend_itself(toy):
    blend = local_blend(toy.pair("a cat", "a dog"))
    assert copy.deepcopy({"works": (blend,)})["works"][0] is blend
    assert copy.deepcopy(blend.record) is blend.record


# ---- masks


SIZE = (6, 6)


def spot(y, x, size=SIZE, peak=1.0):
    """A map with one warm place."""
    map = torch.zeros(size)
    map[y, x] = peak
    return map


NO_WORDS = torch.zeros(0, *SIZE)


def run_of(blend, rows, seeds=1, size=SIZE, steps=4, area=None, conditionings=("pair",)):
    """A blend's run whose maps are given: ``rows[row]`` the maps (K, h, w) of that prompt's words in the request."""
    maps = MapRun(blend.request, steps)
    count = blend.request.pair.source.length
    grid = tuple(rows[0].shape[-2:])
    probs = torch.zeros(seeds, len(rows), grid[0] * grid[1], count)
    for row, (words, each) in enumerate(zip(blend.request.words, rows, strict=True)):
        for word, map in zip(words, each, strict=False):
            probs[:, row, :, word.positions[0]] = map.flatten()
    for conditioning in conditionings:
        maps.add(conditioning, 0, probs.flatten(0, 1), grid, grid, None)
    run = BlendRun(blend, [maps], seeds, size, steps)
    run.update({each: area for each in conditionings}, torch.device("cpu"))
    return run


def left(run):
    """(B, E, H, W), what a run leaves in the record."""
    latents = torch.zeros(len(run.mask), 4, *run.mask.shape[-2:])
    run.finish(latents)
    return run.blend.record.take(latents).masks


def mask_of(blend, *rows, **options):
    """(E, H, W) of the first seed."""
    return left(run_of(blend, [torch.stack(row) if row else NO_WORDS for row in rows], **options))[0]


@pytest.fixture
def swap(toy):
    return toy.pair("a cat", "a dog")


def points(*places):
    return sum(spot(y, x) for y, x in places).clamp(max=1.0)


def test_the_union_of_both_sides(swap):
    blend = local_blend(swap, threshold=0.5, grow=0)
    (mask,) = mask_of(blend, [spot(0, 1)], [spot(4, 4)])
    assert torch.equal(mask, points((0, 1), (4, 4)))


def test_each_map_is_stretched_by_itself(swap):
    """A faint word counts as much as a strong one, and a constant part not at all."""
    (mask,) = mask_of(local_blend(swap, threshold=0.5, grow=0), [spot(0, 1)], [0.2 + spot(4, 4, peak=1e-3)])
    assert torch.equal(mask, points((0, 1), (4, 4)))


@pytest.mark.parametrize("even", [torch.zeros(SIZE), torch.full(SIZE, 0.3), 0.3 + 1e-7 * torch.rand(SIZE)])
def test_a_flat_map_marks_nothing(toy, even):
    """A word that is nowhere more than elsewhere has no place: neither to edit nor to leave out."""
    pair = toy.pair("a cat on grass", "a dog on grass")
    places = spot(0, 1)
    (mask,) = mask_of(local_blend(pair, "cat, dog", threshold=0.5), [places], [even])
    assert torch.equal(mask, places)
    (mask,) = mask_of(local_blend(pair, "cat, dog", threshold=0.1), [even], [even])
    assert not mask.any()
    blend = local_blend(pair, "cat, dog", exclude_words="grass", threshold=0.5)
    (mask,) = mask_of(blend, [places, even], [places, even])
    assert torch.equal(mask, places)
    (mask,) = mask_of(local_blend(pair, "cat, dog", threshold=0.0), [even], [even])
    assert mask.all(), "0 is everywhere, for every map"


def test_threshold_is_in(swap):
    map = torch.tensor([[0.0, 0.25], [0.5, 1.0]])
    for threshold, count in ((0.0, 4), (0.25, 3), (0.26, 2), (0.5, 2), (1.0, 1)):
        (mask,) = mask_of(local_blend(swap, threshold=threshold, grow=0), [map], [map], size=(2, 2))
        assert mask.sum() == count, threshold


def test_excluded_words_are_cut_out(toy):
    pair = toy.pair("a cat on grass", "a dog on grass")
    blend = local_blend(pair, words="cat, dog", exclude_words="grass", threshold=0.5, grow=0)
    both = points((0, 0), (1, 1))
    (mask,) = mask_of(blend, [both, spot(1, 1)], [both, spot(0, 3)])
    assert torch.equal(mask, spot(0, 0))


def test_grow_is_in_tokens(swap):
    (mask,) = mask_of(local_blend(swap, threshold=0.5, grow=1), [spot(2, 3)], [spot(2, 3)])
    wanted = torch.zeros(SIZE)
    wanted[1:4, 2:5] = 1.0
    assert torch.equal(mask, wanted)
    coarse = spot(0, 0, (3, 3))
    (mask,) = mask_of(local_blend(swap, threshold=0.5, grow=1), [coarse], [coarse])
    wanted = torch.zeros(SIZE)
    wanted[:4, :4] = 1.0
    assert torch.equal(mask, wanted), "of a coarser map, more of the picture"


def test_an_area_is_put_in_its_place(swap):
    map = spot(0, 0, (2, 2))
    (mask,) = mask_of(local_blend(swap, threshold=0.5, grow=0), [map], [map], area=(2, 2, 3, 1))
    assert torch.equal(mask, spot(3, 1))


def test_several_conditionings_of_the_pair(swap):
    run = mask_of(local_blend(swap, threshold=0.5, grow=0), [spot(2, 2)], [spot(3, 3)], conditionings=("one", "two"))
    assert torch.equal(run[0], points((2, 2), (3, 3)))


def test_edits_that_are_not_blended(toy):
    pair = toy.pair("a cat", "a dog", "a lion")
    masks = mask_of(local_blend(pair, edit=2, threshold=0.5, grow=0), [spot(0, 0)], [], [spot(1, 1)])
    assert masks[0].all() and torch.equal(masks[1], points((0, 0), (1, 1)))


@pytest.mark.parametrize(
    "mode, wanted",
    [("intersect", spot(0, 0) * 0.5), ("union", (spot(0, 0) + 0.5 * spot(1, 1) + spot(2, 2)).clamp(max=1))],
)
def test_given_mask_beside_the_words(swap, mode, wanted):
    mask = 0.5 * points((0, 0), (1, 1))
    blend = local_blend(swap, "cat, dog", threshold=0.5, grow=0, mask=mask, mode=mode)
    (got,) = mask_of(blend, [spot(0, 0)], [spot(2, 2)])
    assert torch.equal(got, wanted)


def run_with(pair, masks, seeds, size=SIZE, **options):
    run = BlendRun(local_blend(pair, mask=masks, **options), (), seeds, size, 4)
    run.update({}, torch.device("cpu"))
    return run


def given_masks(*arguments, **options):
    return left(run_with(*arguments, **options))


def test_one_mask_for_all_for_each_edit_or_for_each_seed_too(toy):
    pair = toy.pair("a cat", "a dog", "a lion")
    masks = torch.rand(6, *SIZE, generator=torch.Generator().manual_seed(1))
    assert torch.equal(given_masks(pair, masks[0], 3), masks[:1].expand(3, 2, *SIZE))
    assert torch.equal(given_masks(pair, masks[:2], 3), masks[:2].expand(3, 2, *SIZE))
    assert torch.equal(given_masks(pair, masks, 3), masks.unflatten(0, (3, 2)))
    assert torch.equal(given_masks(pair, masks[:, None], 3), masks.unflatten(0, (3, 2))), "(M, 1, h, w)"
    only = given_masks(pair, masks[0], 3, edit=1)
    assert torch.equal(only[:, 0], masks[:1].expand(3, *SIZE)) and (only[:, 1] == 1).all()
    with pytest.raises(ValueError, match=r"1 mask, 2 \(.*or 6 \(.*3 images.*got 4"):
        given_masks(pair, masks[:4], 3)


def test_given_masks_are_brought_to_the_latents_size(swap):
    mask = torch.zeros(1, 48, 48)
    mask[:, :24] = 1.0
    got = given_masks(swap, mask, 1)[0, 0]
    assert (got[:2] == 1).all() and (got[4:] == 0).all() and got.shape == SIZE


def test_what_is_finer_than_a_latent_pixel_counts_by_its_share(swap):
    """A given mask of lines, every fourth one: a quarter inside, wherever a line falls."""
    for first in range(4):
        mask = torch.zeros(1, 48, 48)
        mask[..., first::4] = 1.0
        got = given_masks(swap, mask, 1)[0, 0]
        assert torch.allclose(got[:, 1:-1], torch.tensor(0.25), atol=0.02), first


# ---- soft borders


@given(st.floats(0.1, 4.0), st.integers(0, 10), st.integers(0, 10))
def test_a_feather_reaches_as_far_as_it_says(feather, y, x):
    mask = spot(y, x, (11, 11))
    soft = soften(mask[None, None], feather)[0, 0]
    reach = -(-feather // 1)
    distance = torch.maximum((torch.arange(11)[:, None] - y).abs(), (torch.arange(11) - x).abs())
    assert not soft[distance > reach].any()
    assert 0 <= soft.min() and soft.max() <= 1 and soft.flatten().argmax() == mask.flatten().argmax()
    if feather >= 1:
        assert (soft[distance == 1] > 0).all() and (soft[distance == 1] < 1).all()


@pytest.mark.parametrize("feather", [1.0, 2.0, 3.5])
def test_a_feather_is_a_gaussian_of_half_its_width(feather):
    soft = soften(spot(10, 10, (21, 21))[None, None], feather)[0, 0, 10]
    for distance in range(int(feather) + 1):
        wanted = math.exp(-0.5 * (distance / (feather / 2)) ** 2)
        assert float(soft[10 + distance] / soft[10]) == pytest.approx(wanted, rel=1e-4)
        assert float(soft[10 - distance] / soft[10]) == pytest.approx(wanted, rel=1e-4)


def test_feathers_keep_what_is_even():
    assert torch.equal(soften(torch.ones(1, 1, 5, 5), 0.0), torch.ones(1, 1, 5, 5))
    assert torch.allclose(soften(torch.ones(1, 2, 5, 5), 3.0), torch.ones(1, 2, 5, 5))
    assert not soften(torch.zeros(1, 2, 5, 5), 3.0).any()


# ---- what it does to latents


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_apply(toy, dtype):
    pair = toy.pair("a cat", "a dog", "a lion")
    masks = torch.stack([torch.tensor([[0.0, 1.0], [0.5, 0.25]]), torch.tensor([[1.0, 0.0], [0.0, 1.0]])])
    run = BlendRun(local_blend(pair, mask=masks), (), 2, (2, 2), 4)
    run.update({}, torch.device("cpu"))
    latents = torch.randn(6, 4, 2, 2, generator=torch.Generator().manual_seed(1)).to(dtype) * 7
    before = latents.clone()
    blended, outside = run.apply(latents), run.outside_from_source(latents)
    assert torch.equal(latents, before) and blended.dtype == outside.dtype == dtype
    for seed in (0, 1):
        source = latents[3 * seed]
        for got in (blended, outside):
            assert torch.equal(got[3 * seed], source)
            for edit, mask in enumerate(masks):
                row = 3 * seed + 1 + edit
                zero, one = ((mask == value).expand(4, 2, 2) for value in (0, 1))
                assert torch.equal(got[row][zero], source[zero]), "exactly the source"
                assert torch.equal(got[row][one], latents[row][one]), "exactly the edit"
        row = 3 * seed + 1
        wanted = source.double() + 0.5 * (latents[row].double() - source.double())
        assert torch.allclose(blended[row, :, 1, 0].double(), wanted[:, 1, 0], rtol=1e-2)
        assert torch.equal(outside[row, :, 1], latents[row, :, 1]), "a soft border stays as it is"


def test_latents_with_frames(toy):
    """(B R, C, F, H, W): every frame is blended by the mask."""
    pair = toy.pair("a cat", "a dog", "a lion")
    run = BlendRun(local_blend(pair, mask=torch.rand(2, 2, 3).round(decimals=1)), (), 2, (2, 3), 4)
    run.update({}, torch.device("cpu"))
    for size in ((2, 3), (4, 6)):  # a sampler may enlarge them
        latents = torch.randn(6, 2, 3, *size)  # as many channels as pictures, as many frames as rows
        for do in (run.apply, run.outside_from_source):
            got = do(latents)
            assert got.shape == latents.shape
            for frame in range(3):
                assert torch.equal(got[:, :, frame], do(latents[:, :, frame]))
    run.finish(latents)
    assert run.blend.record.take(latents).masks.shape == (2, 2, 2, 3)


def test_masks_of_enlarged_latents_keep_their_places(swap):
    """The pixel whose middle lies in the mask is inside: no shift towards a corner."""
    run = BlendRun(local_blend(swap, mask=torch.tensor([[1.0, 0.0]]).expand(2, 2)), (), 1, (2, 2), 4)
    run.update({}, torch.device("cpu"))
    latents = torch.stack([torch.zeros(1, 3, 3), torch.ones(1, 3, 3)])
    assert torch.equal(run.apply(latents)[1, 0], torch.tensor([1.0, 0.0, 0.0]).expand(3, 3))


@pytest.mark.parametrize(
    "start, active",
    [(0.0, [True] * 4), (0.125, [True] * 4), (0.2, [False, True, True, True]), (0.5, [False, False, True, True]),
     (0.9, [False] * 3 + [True]), (1.0, [False] * 3 + [True])],
)  # fmt: skip
def test_start(swap, start, active):
    run = BlendRun(local_blend(swap, start=start, mask=torch.ones(2, 2)), (), 1, (2, 2), 4)
    assert [run.active(step) for step in range(4)] == active


def test_no_layer_gave_a_map(swap, caplog):
    blend = local_blend(swap)
    run = BlendRun(blend, [MapRun(blend.request, 4)], 1, SIZE, 4)
    latents = torch.randn(2, 4, *SIZE)
    for _ in range(3):
        run.update({}, torch.device("cpu"))
        assert torch.equal(run.apply(latents), latents), "the run goes on, and keeps its picture"
    run.finish(latents)
    why = "got none: another node takes the layers.*map_resolution"
    (said,) = warnings(caplog)  # after the first step, and once
    assert re.search(why + ".*edits show everywhere", said)
    with pytest.raises(ValueError, match=why):
        blend.record.take(latents)


# ---- what is said of masks


def warnings(caplog):
    return [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]


def unusual(run):
    """What a run says of its masks when it ends."""
    return run.finish(torch.zeros(len(run.mask), 4, *run.mask.shape[-2:]))[0]


def test_empty_and_full_masks_are_told(toy):
    pair = toy.pair("a cat", "a dog", "a lion")
    masks = torch.stack([torch.zeros(SIZE), torch.zeros(SIZE), spot(0, 0), torch.zeros(SIZE)])
    assert unusual(run_with(pair, masks, 2)) == [
        "the blend's mask of edit 1 of image 1 is empty, so the edit is the source.",
        "the blend's mask of edit 2 of image 1 is empty, so the edit is the source.",
        "the blend's mask of edit 2 of image 2 is empty, so the edit is the source.",
    ]
    upper = torch.zeros(SIZE)
    upper[:3] = 1.0
    (said,) = unusual(run_of(local_blend(pair, edit=1, threshold=0.5), [upper[None], 1 - upper[None], NO_WORDS]))
    assert said.startswith("the blend's mask of edit 1 of image 1 covers all, so nothing is held back. Raise")


def test_masks_that_were_asked_for_are_not_told(swap):
    spots = [spot(0, 0)[None], spot(1, 1)[None]]
    assert not unusual(run_of(local_blend(swap, threshold=0.0), spots))
    assert not unusual(run_with(swap, torch.ones(1, *SIZE), 1))
    assert not unusual(run_of(local_blend(swap, threshold=0.5), spots))


# ---- spread


def test_each_place_takes_the_mean_of_the_places_it_attends_to():
    maps, attends = torch.rand(2, 3, 2, 2), torch.rand(2, 4, 4).softmax(dim=-1)  # (N, Q, K): rows add up to 1
    wanted = torch.stack([torch.stack([a @ m.flatten() for m in each]) for a, each in zip(attends, maps, strict=True)])
    assert torch.allclose(spread(maps, attends.transpose(1, 2).unflatten(-1, (2, 2))), wanted.view_as(maps))


def test_a_spread_mask_is_the_whole_thing(swap):
    """The words mark one place of a thing of three; the thing's places attend to each other."""
    blend = blending.local_blend(swap, threshold=0.5, grow=0)
    assert [request.attention for request in blend.requests] == ["cross", "self"]
    thing = points((0, 1), (0, 2), (3, 4))
    attends = torch.eye(36)
    attends[thing.flatten() > 0] = thing.flatten() / thing.sum()
    words, together = (MapRun(request, 4) for request in blend.requests)
    probs = torch.zeros(2, 36, swap.source.length)
    probs[:, :, 2] = spot(0, 1).flatten()
    words.add("pair", 0, probs, SIZE, SIZE, None)
    together.add("pair", 0, attends.repeat(2, 1, 1), SIZE, SIZE, None)
    run = BlendRun(blend, [words, together], 1, SIZE, 4)
    run.update({}, torch.device("cpu"))
    assert torch.equal(left(run)[0, 0], thing)
    assert torch.equal(mask_of(local_blend(swap, threshold=0.5), [spot(0, 1)], [spot(0, 1)])[0], spot(0, 1))


def spread_of(swap, words, together, size=SIZE):
    """The mask of an edit; ``words``, ``together``: conditioning -> its maps (h, w), its self-attention (Q, K)."""
    blend = blending.local_blend(swap, threshold=0.5)
    runs = [MapRun(request, 4) for request in blend.requests]
    for key, map in words.items():
        probs = torch.zeros(2, map.numel(), swap.source.length)
        probs[:, :, 2] = map.flatten()
        runs[0].add(key, 0, probs, tuple(map.shape), tuple(map.shape), None)
    for key, (attends, grid) in together.items():
        runs[1].add(key, 0, attends.repeat(2, 1, 1), grid, grid, None)
    run = BlendRun(blend, runs, 1, size, 4)
    run.update({}, torch.device("cpu"))
    return left(run)[0, 0]


def test_what_cannot_be_spread_counts_as_it_is(swap):
    """Self-attention may be seen for some conditionings only, or for none yet."""
    everywhere = torch.full((36, 36), 1 / 36.0)
    words = {"one": spot(0, 1), "two": 9 * spot(4, 4)}
    assert torch.equal(spread_of(swap, words, {}), spot(4, 4))
    assert torch.equal(spread_of(swap, words, {"one": (everywhere, SIZE)}), spot(4, 4))
    assert torch.equal(spread_of(swap, {**words, "one": 99 * spot(0, 1)}, {"two": (everywhere, SIZE)}), spot(0, 1))


def test_words_are_spread_on_the_grid_of_self_attention(swap):
    """A sampler enlarged the latents between the first map of the words and the first of self-attention."""
    coarse = torch.tensor([[1.0, 0.0], [0.0, 0.0]])
    mask = spread_of(swap, {"pair": coarse}, {"pair": (torch.eye(16), (4, 4))}, size=(4, 4))
    assert torch.equal(mask, F.pad(torch.ones(2, 2), (0, 2, 0, 2)))


def test_a_given_mask_alone_asks_for_no_maps(swap):
    assert blending.local_blend(swap, mask=torch.ones(2, 2)).requests == ()


# ---- words and change


def with_change(swap, words, changes, **settings):
    """A blend's run whose two words look at ``words``, after predictions that part by ``changes``."""
    blend = local_blend(swap, **{"threshold": 0.3, "mask_from": "words and change", **settings})
    maps = MapRun(blend.request, 4)
    run = BlendRun(blend, [maps], 1, tuple(words.shape), 4)
    see(run, words, changes)
    return run


def see(run, words, changes):
    """One step more of it, with as many predictions as there are changes."""
    probs = torch.zeros(2, words.numel(), run.blend.pair.source.length)
    probs[:, :, 2] = words.flatten()
    run.maps[0].add("pair", 0, probs, tuple(words.shape), tuple(words.shape), None)
    for each in changes:
        run.see(torch.stack([torch.zeros(4, *each.shape), each.expand(4, *each.shape)]))
    run.update({}, torch.device("cpu"))


LARGE = (16, 16)


def square(top, left, size=LARGE):
    map = torch.zeros(size)
    map[top : top + 4, left : left + 4] = 1.0
    return map


def test_two_things_that_look_alike_are_told_apart_by_what_changes(swap):
    both = square(2, 2) + square(10, 10)
    assert torch.equal(left(with_change(swap, both, [square(2, 2)]))[0, 0], square(2, 2))
    assert torch.equal(left(with_change(swap, both, [square(10, 10)]))[0, 0], square(10, 10))
    (mask,) = mask_of(local_blend(swap, threshold=0.3), [both], [both], size=LARGE)
    assert torch.equal(mask, both), "by the words alone"


def test_grow_widens_the_place_that_was_found(swap):
    """And not the maps, by which another thing would come in."""
    both = square(2, 2) + square(2, 7)
    mask = left(with_change(swap, both, [square(2, 2)], grow=1))[0]
    assert torch.equal(mask, widened(square(2, 2)[None] > 0, 1, 1.0).float())


def test_changes_are_summed_up_over_the_run(swap):
    both = square(2, 2) + square(10, 10)
    mask = left(with_change(swap, both, [square(2, 2), square(10, 10)]))[0, 0]
    assert torch.equal(mask, both)


def test_before_any_prediction_the_words_count_alone(swap):
    both = square(2, 2) + square(10, 10)
    assert torch.equal(left(with_change(swap, both, []))[0, 0], both)


def test_changes_of_enlarged_latents_keep_their_places(swap):
    both = square(2, 2) + square(10, 10)
    enlarged = F.interpolate(square(2, 2)[None, None], (24, 24))[0, 0]
    assert torch.equal(left(with_change(swap, both, [enlarged]))[0, 0], square(2, 2))


def test_a_threshold_of_zero_is_everywhere_whatever_changes(swap):
    blend = local_blend(swap, threshold=0.0, mask_from="words and change")
    run = run_of(blend, [square(2, 2)[None]] * 2, size=LARGE)
    run.see(torch.rand(2, 4, *LARGE))
    run.update({}, torch.device("cpu"))
    assert left(run).all()


def test_excluded_words_are_cut_out_of_what_changes(toy):
    pair = toy.pair("a cat on grass", "a dog on grass")
    blend = local_blend(pair, "cat, dog", "grass", threshold=0.3, mask_from="words and change")
    thing, grass = square(2, 2), square(4, 4)
    run = run_of(blend, [torch.stack([thing, grass])] * 2, size=LARGE)
    run.see(torch.stack([torch.zeros(4, *LARGE), thing.expand(4, *LARGE)]))
    run.update({}, torch.device("cpu"))
    assert torch.equal(left(run)[0, 0], thing * (1 - grass))


def test_the_words_alone_do_not_look_at_predictions(swap):
    blend = local_blend(swap, threshold=0.3)
    assert blend.mask_from == "words"
    both = square(2, 2) + square(10, 10)
    run = run_of(blend, [both[None]] * 2, size=LARGE)
    before = run.mask.clone()
    run.see(torch.rand(2, 4, *LARGE))
    run.update({}, torch.device("cpu"))
    assert torch.equal(run.mask, before)


def test_given_masks_alone_do_not_look_at_predictions(swap):
    mask = torch.rand(1, *SIZE)
    assert torch.equal(given_masks(swap, mask, 1, mask_from="words and change")[0], mask)


# ---- words and change, or everywhere

OR_EVERYWHERE = MASKS_FROM[2]
MUCH = torch.linspace(0, 1, LARGE[1]).expand(LARGE)


def test_an_edit_of_a_place_is_held_to_it(swap):
    both = square(2, 2) + square(10, 10)
    one, other = (
        with_change(swap, both, [square(2, 2)], mask_from=each) for each in (OR_EVERYWHERE, "words and change")
    )
    assert torch.equal(left(one), left(other))


def test_an_edit_of_the_whole_picture_is_held_nowhere(swap):
    run = with_change(swap, MUCH, [torch.ones(LARGE)], mask_from=OR_EVERYWHERE)
    assert left(run).all() and not left(with_change(swap, MUCH, [torch.ones(LARGE)])).all()
    unusual, found = run.finish(torch.zeros(2, 4, *LARGE))
    assert not unusual and found == ["edit 1 of image 1 is of the whole picture, so it is held to no place in it."]


def test_what_turned_out_to_be_of_a_place_stays_so(swap):
    """At first much seems to change; and at the end, when a held edit differs in its place alone, that counts no
    more."""
    run = with_change(swap, MUCH, [torch.ones(LARGE)], mask_from=OR_EVERYWHERE)
    assert left(run).all()
    see(run, 9 * square(2, 2), [99 * square(2, 2)])
    assert torch.equal(left(run)[0], square(2, 2)[None])
    see(run, 99 * MUCH, [9999 * torch.ones(LARGE)])
    assert not left(run).all()
    assert run.finish(torch.zeros(2, 4, *LARGE)) == ([], [])


def test_before_anything_has_changed_there_is_no_place_yet(swap):
    """As where a window opens later: what is found then counts."""
    run = with_change(swap, square(2, 2), [torch.zeros(LARGE)], mask_from=OR_EVERYWHERE)
    assert left(run).all()
    for _ in range(9):
        see(run, MUCH, [torch.ones(LARGE)])
    assert left(run).all()


def test_an_edit_without_words_of_its_own_is_left_alone(toy):
    pair = toy.pair("a cat on grass", "a dog on grass", "a cat on grass")
    blend = blending.local_blend(pair, mask_from=OR_EVERYWHERE)
    assert blend.edits == (0,)
    with pytest.raises(ValueError, match="got edit 2 with the source's own words"):
        blending.local_blend(pair, mask_from="words and change")
    for alone in (toy.pair("a cat", "a cat"), toy.pair("a cat", "a cat", "a cat")):
        with pytest.raises(ValueError, match="got edit 1 with the source's own words"):
            blending.local_blend(alone, mask_from=OR_EVERYWHERE)


def test_no_such_way(swap):
    with pytest.raises(ValueError, match="mask_from to be one of"):
        local_blend(swap, mask_from="change")
