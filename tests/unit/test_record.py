"""The letter box between a run and the nodes after the sampler, and what these show."""

from __future__ import annotations

import copy
import re

import pytest
import torch
import torch.nn.functional as F

from p2p_attention.maps import MapRequest, MapRun, WordPositions
from p2p_attention.record import AttentionMaps, BlendMasks, Record, gather, record_attention
from p2p_attention.sheet import contact_sheet
from p2p_attention.show import STYLES, TIMES, map_rows, show_masks

EMPTY = "record of a finished run, got none.*Connect that node's model"
OTHER = "latent of the recorded run.*Connect the output of the sampler"


def show_maps(*what, **how):
    """The sheet, as P2P Attention Maps makes it, and the maps on it."""
    rows, masks = map_rows(*what, **how)
    return contact_sheet(rows), masks


def noise(*shape, seed=1):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def uniform(*shape, seed=1):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


# ---- the letter box


def test_empty_until_a_run_has_ended():
    record, latent = Record(), noise(2, 4, 8, 8)
    with pytest.raises(ValueError, match=EMPTY):
        record.take(latent)
    content = BlendMasks(torch.ones(1, 1, 8, 8))
    record.put(content, latent)
    assert record.take(latent) is content and record.take(latent) is content
    record.clear()
    with pytest.raises(ValueError, match=EMPTY):
        record.take(latent)


def test_the_latent_is_the_key():
    record, latent = Record(), noise(2, 4, 8, 8)
    content = BlendMasks(torch.ones(1, 1, 8, 8))
    record.put(content, latent)
    for same in (latent.half(), latent.bfloat16(), latent.double(), latent + 1e-3):
        assert record.take(same) is content
    swapped = latent.flip(0)
    for other in (noise(2, 4, 8, 8, seed=2), latent[:1], latent[..., :4], 0 * latent, swapped, 1.2 * latent):
        with pytest.raises(ValueError, match=OTHER):
            record.take(other)
    again = BlendMasks(torch.zeros(1, 1, 8, 8))
    record.put(again, swapped)
    assert record.take(swapped) is again
    with pytest.raises(ValueError, match=OTHER):
        record.take(latent)


@pytest.mark.parametrize("rows", [2, 3, 8])
def test_every_row_has_to_be_that_of_the_run(rows):
    """Another run with the same source may differ in one edit alone, and by little."""
    record, latent = Record(), noise(rows, 4, 8, 8)
    record.put("content", latent)
    for row in range(rows):
        for size, same in ((0.02, True), (0.06, False), (float("nan"), False)):
            other = latent.clone()
            other[row] *= 1.0 + size
            if same:
                assert record.take(other) == "content"
                continue
            with pytest.raises(ValueError, match=OTHER):
                record.take(other)


def test_latents_with_frames_are_a_key():
    record, latent = Record(), noise(2, 4, 3, 8, 8)
    record.put("content", latent)
    assert record.take(latent.half()) == "content"
    for other in (latent[:, :, :1], latent.flatten(2, 3), latent.flip(2)):
        with pytest.raises(ValueError, match=OTHER):
            record.take(other)


def test_a_run_that_went_wrong_is_itself():
    record, broken = Record(), noise(2, 4, 8, 8)
    broken[1] = float("nan")
    record.put("content", broken)
    assert record.take(broken.clone()) == "content"
    with pytest.raises(ValueError, match=OTHER):
        record.take(noise(2, 4, 8, 8))


def test_the_key_is_a_copy():
    """A node that changes its latent in place does not change the key."""
    record, latent = Record(), noise(1, 4, 8, 8).half()
    record.put("content", latent)
    kept = latent.clone()
    latent.zero_()
    assert record.take(kept) == "content"


def test_copies_are_the_same_box(toy):
    recorder = record_attention(toy.pair("a cat", "a dog"))
    assert copy.deepcopy({"p2p": (recorder,)})["p2p"][0] is recorder
    assert copy.deepcopy(recorder.record) is recorder.record


# ---- what is asked for


def test_every_word_or_the_named_ones(toy):
    pair = toy.pair("a mirror", "a big mirror")
    every = record_attention(pair).request
    assert every.words == (
        (WordPositions("a", (1,)), WordPositions("mirror", (2, 3))),
        (WordPositions("a", (1,)), WordPositions("big", (2,)), WordPositions("mirror", (3, 4))),
    )
    assert (every.attention, every.resolution, every.branch, every.parts) == ("cross", "auto", "own", 3)
    some = record_attention(pair, "big, Mirror", "cross", "16", "injected").request
    assert some.words == (
        (WordPositions("Mirror", (2, 3)),),
        (WordPositions("big", (2,)), WordPositions("Mirror", (3, 4))),
    )
    assert (some.resolution, some.branch) == ("16", "injected")
    alone = record_attention(toy.pair("a cat"))
    assert alone.pair.rows == 1 and len(alone.request.words) == 1
    with pytest.raises(ValueError, match="'lion', which is in none"):
        record_attention(pair, "lion")


# ---- what a run leaves


def filled(request, steps=3, conditionings=("pair",), grid=(4, 4), seeds=1, only_steps=None):
    run = MapRun(request, steps)
    rows = seeds * request.pair.rows
    length = grid[0] * grid[1] if request.attention == "self" else request.pair.length
    for conditioning in conditionings:
        for step in only_steps or range(steps):
            probs = noise(rows, grid[0] * grid[1], length, seed=step).softmax(dim=-1)
            run.add(conditioning, step, probs, grid, grid, None)
    return run


def test_half_precision_parts_and_seeds(toy):
    request = record_attention(toy.pair("a cat", "a big dog")).request
    run = filled(request, steps=5, seeds=2)
    content = gather(run, {}, (8, 8))
    assert content.maps.dtype == torch.float16 and content.maps.shape == (3, 2, 2, 3, 4, 4)
    assert sum(content.shares) == pytest.approx(1) and content.shares == pytest.approx((2 / 5, 2 / 5, 1 / 5))
    for part in range(3):
        assert torch.equal(content.maps[part].flatten(0, 1), run.mean(part)["pair"].half())


def test_the_pair_in_an_area_and_everywhere(toy):
    """The maps of an area are set into the picture; the finer grid is the whole picture's, in either order."""
    request = record_attention(toy.pair("a cat", "a dog")).request
    for order in (("part", "whole"), ("whole", "part")):
        run = MapRun(request, 1)
        probs = {
            "whole": noise(2, 16, 16, seed=1).softmax(dim=-1),
            "part": noise(2, 4, 16, seed=2).softmax(dim=-1),
        }
        grids = {"whole": (4, 4), "part": (2, 2)}
        for key in order:
            run.add(key, 0, probs[key], grids[key], grids[key], None)
        got = gather(run, {"whole": None, "part": (4, 4, 4, 2)}, (8, 8)).maps[0, 0].float()
        whole, part = (run.mean()[key] for key in ("whole", "part"))
        placed = F.pad(F.interpolate(part, (4, 4), mode="bilinear"), (2, 2, 4, 0))
        wanted = (whole + F.avg_pool2d(placed, 2)) / 2
        assert torch.allclose(got, wanted, atol=1e-3)


@pytest.mark.parametrize("order", [("fine", "coarse"), ("coarse", "fine")])
def test_conditionings_of_different_grids(toy, order):
    """Without areas: a sampler enlarged the latents before one of them began. The finer grid is kept."""
    request = record_attention(toy.pair("a cat", "a dog")).request
    run, grids = MapRun(request, 1), {"fine": (4, 4), "coarse": (2, 2)}
    for key in order:
        h, w = grids[key]
        run.add(key, 0, noise(2, h * w, 16, seed=h).softmax(dim=-1), (h, w), (h, w), None)
    got = gather(run, {}, (8, 8)).maps[0, 0].float()
    fine, coarse = (run.mean()[key] for key in ("fine", "coarse"))
    wanted = (fine + F.interpolate(coarse, (4, 4), mode="bilinear")) / 2
    assert torch.allclose(got, wanted, atol=1e-3)


def test_self_attention_of_different_grids(toy):
    """Its columns are places of a grid of its own: as many of another shape are others."""
    request = record_attention(toy.pair("a cat", "a dog"), attention="self").request
    run = filled(request, 1, ("whole",), grid=(2, 4))
    alone = gather(run, {}, (8, 8)).maps
    for key, grid in (("turned", (4, 2)), ("coarse", (2, 2))):
        n = grid[0] * grid[1]
        run.add(key, 0, noise(2, n, n).softmax(dim=-1), grid, grid, None)
    assert torch.equal(gather(run, {}, (8, 8)).maps, alone)


def test_self_attention_in_an_area_and_everywhere(toy):
    request = record_attention(toy.pair("a cat", "a dog"), attention="self").request
    run = filled(request, 1, ("whole",))
    alone = gather(run, {}, (8, 8)).maps
    run.add("part", 0, noise(2, 4, 4).softmax(dim=-1), (2, 2), (2, 2), None)
    assert torch.equal(gather(run, {"whole": None, "part": (4, 4, 4, 2)}, (8, 8)).maps, alone)


def test_a_conditioning_of_some_steps_only(toy):
    request = record_attention(toy.pair("a cat", "a dog")).request
    content = gather(filled(request, 6, only_steps=(0, 1, 2)), {}, (8, 8))
    assert content.shares == pytest.approx((2 / 3, 1 / 3, 0)) and not content.maps[2].any()


def test_a_run_without_maps_keeps_its_picture(toy, caplog):
    """The node that shows the maps says why there are none; so does the log."""
    recorder, latent = record_attention(toy.pair("a cat", "a dog")), noise(2, 4, 8, 8)
    why = "got none: another node takes the layers.*Set map_resolution"
    with pytest.raises(ValueError, match=why):
        gather(MapRun(recorder.request, 6), {}, (8, 8))
    recorder.finish(MapRun(recorder.request, 6), {}, (8, 8), latent)
    assert re.search(why, caplog.text)
    with pytest.raises(ValueError, match=why):
        recorder.record.take(latent)
    recorder.finish(filled(recorder.request), {}, (8, 8), latent)  # the next run does
    assert recorder.record.take(latent).maps.shape == (3, 1, 2, 2, 4, 4)
    recorder.record.fail("Wanted another one.")
    recorder.record.clear()
    with pytest.raises(ValueError, match=EMPTY):
        recorder.record.take(latent)


# ---- masks to look at


def test_masks_are_shown_seed_by_seed_edit_by_edit():
    record, latent = Record(), noise(6, 4, 4, 4)
    masks = (uniform(2, 2, 4, 4) > 0.5).float()
    record.put(BlendMasks(masks), latent)
    images = uniform(6, 12, 16, 4)  # with alpha, and not 8 times the latent
    mask, picture = show_masks(record, latent, images)
    assert mask.shape == (4, 12, 16) and picture.shape == (4, 12, 16, 3)
    for i, (seed, edit) in enumerate(((0, 0), (0, 1), (1, 0), (1, 1))):
        wanted = masks[seed, edit].repeat_interleave(3, 0).repeat_interleave(4, 1)
        assert torch.equal(mask[i], wanted)
        edited = images[3 * seed + 1 + edit, ..., :3]
        assert torch.equal(picture[i][wanted == 1], edited[wanted == 1])
        assert torch.allclose(picture[i][wanted == 0], 0.25 * edited[wanted == 0])
    grey = show_masks(record, latent)
    assert grey[0].shape == (4, 32, 32) and torch.equal(grey[1], grey[0][..., None].expand(4, 32, 32, 3))
    with pytest.raises(ValueError, match="Wanted the 6 pictures of this latent.*got 4.*VAE Decode"):
        show_masks(record, latent, images[:4])
    with pytest.raises(ValueError, match=OTHER):
        show_masks(record, noise(6, 4, 4, 4, seed=9), images)


# ---- maps to look at


@pytest.fixture
def looked_at(toy):
    """(record, latent, maps): two seeds, a source of two words and an edit of three, three parts of unequal weight."""
    request = record_attention(toy.pair("a cat", "a big dog")).request
    maps = uniform(3, 2, 2, 3, 4, 4).half()
    maps[:, :, 0, 2] = 0.0
    record, latent = Record(), noise(4, 4, 4, 4)
    record.put(AttentionMaps(request, maps, (0.5, 0.3, 0.2)), latent)
    return record, latent, maps.float()


def stretched(map, size):
    map = (map - map.min()) / (map.max() - map.min())
    return F.interpolate(map[None, None], size, mode="bilinear", align_corners=False)[0, 0]


@pytest.mark.parametrize("style", STYLES)
def test_maps_are_shown_row_by_row(looked_at, style):
    record, latent, maps = looked_at
    images = uniform(4, 24, 32, 3)
    sheet, shown = show_maps(record, latent, images, style=style, seed_number=2)
    whole = 0.5 * maps[0, 1] + 0.3 * maps[1, 1] + 0.2 * maps[2, 1]
    wanted = [stretched(whole[row, word], (24, 32)) for row, words in ((0, 2), (1, 3)) for word in range(words)]
    assert torch.allclose(shown, torch.stack(wanted), atol=1e-5)
    assert sheet.shape[0] == 1 and sheet.shape[-1] == 3 and 0 <= sheet.min() and sheet.max() <= 1
    _, parts = show_maps(record, latent, images, style, TIMES[1], 2)
    wanted = [
        stretched(maps[part, 1, row, word], (24, 32))
        for row, words in ((0, 2), (1, 3))
        for part in range(3)
        for word in range(words)
    ]
    assert torch.allclose(parts, torch.stack(wanted), atol=1e-5)


def test_sheets_show_what_is_connected(looked_at):
    record, latent, _ = looked_at
    images = uniform(4, 32, 32, 3)
    bare, over, heat, other = (
        show_maps(record, latent, *each)[0]
        for each in ((), (images,), (images, "heat map"), (images, "overlay", TIMES[0], 2))
    )
    assert over.shape == heat.shape == other.shape and bare.shape != over.shape, "a tile more, for the picture"
    assert not torch.equal(over, heat) and not torch.equal(over, other)
    repainted = images.clone()
    repainted[:2] = 0.0  # the first seed's
    assert torch.equal(show_maps(record, latent, repainted, seed_number=2)[0], other)
    assert not torch.equal(show_maps(record, latent, repainted)[0], over)
    assert show_maps(record, latent)[1].shape == (5, 32, 32)
    assert show_maps(record, latent, None, "overlay", TIMES[1])[1].shape == (15, 32, 32)
    with pytest.raises(ValueError, match="1 to 2, got seed_number 3"):
        show_maps(record, latent, seed_number=3)
    with pytest.raises(ValueError, match="1 to 2, got seed_number 0"):
        show_maps(record, latent, seed_number=0)
    with pytest.raises(ValueError, match="Wanted the 4 pictures.*got 2"):
        show_maps(record, latent, images[:2])
    with pytest.raises(ValueError, match=OTHER):
        show_maps(record, latent[:2])


def test_an_even_map_is_cold(toy):
    request = record_attention(toy.pair("a cat"), "cat").request
    record, latent = Record(), noise(1, 4, 4, 4)
    record.put(AttentionMaps(request, torch.full((1, 1, 1, 1, 4, 4), 0.3).half(), (1.0,)), latent)
    assert not show_maps(record, latent, time=TIMES[1])[1].any()


def test_main_components_of_self_attention(toy):
    """Two halves that look at themselves, and a little at a stripe: the halves come first, the stripe second."""
    request = MapRequest(toy.pair("a cat"), ((),), "self")
    halves = torch.arange(16).view(4, 4) // 8  # of each place
    stripe = (torch.arange(16) % 4 == 0).float()
    looks = (halves.flatten()[:, None] == halves.flatten()[None]).float()  # (Q, K)
    looks = looks + 0.3 * noise(16, 1) * stripe
    record, latent = Record(), noise(1, 4, 4, 4)
    record.put(AttentionMaps(request, looks.T.reshape(1, 1, 1, 16, 4, 4), (1.0,)), latent)
    _, shown = show_maps(record, latent, components=2)
    assert shown.shape == (2, 32, 32)
    corners = shown[:, ::8, ::8][:, [1, 1, 3, 3], [1, 3, 1, 3]]
    assert (corners[0, :2] - corners[0, 2:]).abs().min() > 0.8, "up against down"
    stripes = F.interpolate(shown[1][None, None], (4, 4), mode="area")[0, 0]
    assert stripes[:, 0].min() > stripes[:, 1:].max()
    assert show_maps(record, latent, components=64)[1].shape[0] == 16, "as many as there are"


@pytest.mark.parametrize("sign", [1, -1])
def test_a_components_peak_is_hot(toy, monkeypatch, sign):
    """One place that some look at more and some less: it is the hot one, whatever sign the component comes with."""
    svd = torch.linalg.svd

    def either(*args, **options):
        left, strength, patterns = svd(*args, **options)
        return sign * left, strength, sign * patterns

    monkeypatch.setattr(torch.linalg, "svd", either)
    request = MapRequest(toy.pair("a cat"), ((),), "self")
    looks = torch.full((16, 16), 0.5)
    looks[:, 5] += 0.3 * noise(16)
    record, latent = Record(), noise(1, 4, 4, 4)
    record.put(AttentionMaps(request, looks.T.reshape(1, 1, 1, 16, 4, 4), (1.0,)), latent)
    (shown,) = show_maps(record, latent, components=1)[1]
    assert F.avg_pool2d(shown[None], 8).argmax() == 5
