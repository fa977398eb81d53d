"""Where an edit has changed the picture: what words and change say together, and which pieces of it count."""

from __future__ import annotations

import pytest
import torch

from p2p_attention.changed import CLEAR, EVERYWHERE, change, clear_pieces, evidence, has_a_place, soften, widened

SIZE = (16, 16)  # cells of a latent pixel


def box(top, left, bottom, right, value=1.0, size=SIZE):
    map = torch.zeros(size)
    map[top:bottom, left:right] = value
    return map


def cross(mask):
    """A mask with the cells above, below, left and right of it."""
    grown = mask.clone()
    grown[1:] |= mask[:-1]
    grown[:-1] |= mask[1:]
    grown[:, 1:] |= mask[:, :-1]
    grown[:, :-1] |= mask[:, 1:]
    return grown


def found(words, changes, flat=()):
    flat = torch.tensor([i in flat for i in range(len(words))]).view(1, -1, 1, 1)
    return evidence(torch.stack(words)[None], flat, changes[None])[0]


# ---- change


def test_change_is_the_distance_over_channels_of_each_edit_to_its_own_source():
    z = torch.randn(6, 4, 3, 5, generator=torch.Generator().manual_seed(1))
    changes = change(z, 3)
    assert changes.shape == (2, 2, 3, 5)
    for seed in range(2):
        for edit in range(2):
            wanted = (z[3 * seed + 1 + edit] - z[3 * seed]).square().sum(0).sqrt()
            assert torch.allclose(changes[seed, edit], wanted, atol=1e-6)


def test_change_of_frames_is_their_mean():
    z = torch.randn(4, 3, 2, 5, 6, generator=torch.Generator().manual_seed(1))
    frames = [change(z[:, :, frame], 2) for frame in range(2)]
    assert torch.allclose(change(z, 2), (frames[0] + frames[1]) / 2, atol=1e-6)


def test_change_of_half_precision_and_of_what_is_no_number():
    z = torch.full((2, 4, 2, 2), 200.0, dtype=torch.float16)
    z[0] = -200.0  # its square is beyond half precision
    z[1, 0, 0, 0] = torch.nan
    changes = change(z, 2)[0, 0]
    assert changes.dtype == torch.float32 and changes[0, 0] == 0 and changes[1, 1] == 800.0


# ---- evidence


def test_evidence_is_the_mean_of_the_words_times_the_root_of_the_change():
    words, changes = [torch.rand(SIZE), 3 + 2 * torch.rand(SIZE)], 5 * torch.rand(SIZE)
    stretch = lambda x: (x - x.min()) / (x.max() - x.min())
    blurred = soften(stretch(changes)[None, None], 1.4)[0, 0]
    wanted = stretch((stretch(words[0]) + stretch(words[1])) / 2 * stretch(blurred).sqrt())
    assert torch.allclose(found(words, changes), wanted, atol=1e-5)


def test_what_looks_alike_but_does_not_change_counts_less():
    """A word marks two things, of which one changes."""
    both, changes = box(2, 2, 6, 6) + box(9, 9, 13, 13), box(1, 1, 7, 7)
    got = found([both], changes)
    assert got[3:5, 3:5].min() > 0.9 and not got[9:13, 9:13].any()


def test_what_changes_beside_the_words_does_not_count():
    got = found([box(2, 2, 6, 6)], torch.ones(SIZE) + box(2, 2, 6, 6))
    assert not got[8:].any()


@pytest.mark.parametrize("changes", [torch.zeros(SIZE), torch.full(SIZE, 0.3)])
def test_a_change_that_is_the_same_everywhere_says_nothing(changes):
    word = torch.rand(SIZE)
    assert torch.equal(found([word], changes), found([word], torch.zeros(SIZE)))
    assert found([word], changes).flatten().argmax() == word.flatten().argmax()


def test_flat_words_are_left_out():
    word, changes = torch.rand(SIZE), torch.rand(SIZE)
    assert torch.equal(found([word, torch.full(SIZE, 0.2)], changes, flat={1}), found([word], changes))
    assert not found([torch.full(SIZE, 0.2)], changes, flat={0}).any(), "no word says anything"


def test_pictures_are_looked_at_one_by_one():
    words, flat = torch.rand(2, 1, *SIZE), torch.zeros(2, 1, 1, 1, dtype=torch.bool)
    changes = torch.rand(2, *SIZE) * torch.tensor([1.0, 100.0]).view(2, 1, 1)
    both = evidence(words, flat, changes)
    for picture in range(2):
        alone = evidence(words[picture : picture + 1], flat[:1], changes[picture : picture + 1])
        assert torch.allclose(both[picture], alone[0], atol=1e-6)


# ---- a place, or everywhere


def everywhere(words, changes, flat=()):
    flat = torch.tensor([i in flat for i in range(len(words))]).view(1, -1, 1, 1)
    return not has_a_place(torch.stack(words)[None], flat, changes[None])


def test_everywhere_is_where_words_look_at_much_of_the_picture_and_much_of_it_changes():
    thing, all_of_it = box(4, 4, 10, 10), torch.ones(SIZE)
    gradient = torch.linspace(0, 1, SIZE[1]).expand(SIZE)
    assert everywhere([gradient], all_of_it) and everywhere([gradient], 100 * all_of_it)
    assert not everywhere([thing], thing), "a thing"
    assert not everywhere([thing], all_of_it), "words of a place, though much changes beside it"
    assert not everywhere([gradient], box(4, 4, 6, 6)), "little changes"
    for nothing in (torch.zeros(SIZE), 1e-4 * thing):
        assert everywhere([thing], nothing), "nothing has changed yet, beyond rounding"
    assert everywhere([thing], thing, flat={0}), "no word says anything"
    assert everywhere([gradient, 1 - gradient, torch.full(SIZE, 0.2)], all_of_it, flat={2})


def test_how_much_is_much():
    """The mean of where the words look, times the root of the mean change, each of its most."""
    looked_at = torch.zeros(64, 64)
    looked_at[:16] = 1.0  # a quarter
    mean = (EVERYWHERE / 0.25) ** 2
    for factor, wanted in ((0.99, False), (1.01, True)):
        changes = torch.ones(64, 64)
        changes[:, 32:] = 2 * factor * mean - 1
        assert everywhere([looked_at], changes) == wanted
        assert everywhere([3 + 5 * looked_at], 7 * changes) == wanted


def test_each_picture_is_of_a_place_or_everywhere_by_itself():
    words = torch.stack([box(4, 4, 10, 10), torch.linspace(0, 1, SIZE[1]).expand(SIZE)])[:, None]
    changes = torch.stack([box(4, 4, 10, 10), torch.ones(SIZE)])
    assert has_a_place(words, torch.zeros(2, 1, 1, 1, dtype=torch.bool), changes).tolist() == [True, False]


# ---- pieces


def test_pieces_without_a_clear_place_are_no_part_of_it():
    thing, alike = box(2, 2, 5, 5, 0.5), box(9, 9, 12, 12, CLEAR - 0.05)
    thing[3, 3] = 1.0
    got = clear_pieces((thing + alike)[None], 0.3, 1.0)[0]
    assert torch.equal(got, thing > 0)
    alike[10, 10] = CLEAR
    assert torch.equal(clear_pieces((thing + alike)[None], 0.3, 1.0)[0], thing + alike > 0)


def test_a_piece_goes_on_over_corners_and_as_far_as_it_reaches_the_threshold():
    line = torch.eye(16) * 0.4
    line[0, 0] = 1.0
    line[12, 12] = 0.1
    got = clear_pieces(line[None], 0.3, 1.0)[0]
    assert torch.equal(got, torch.diag(torch.arange(16) < 12)), "what is behind the gap does not belong to it"


def test_a_piece_is_widened_by_a_cell_where_half_the_threshold_is_reached():
    core, around = box(5, 5, 8, 8), box(3, 3, 10, 10, 0.2)
    found = torch.maximum(core, around)
    assert torch.equal(clear_pieces(found[None], 0.3, 1.0)[0], cross(core > 0))
    assert torch.equal(clear_pieces(found[None], 0.5, 1.0)[0], core > 0), "there it is below the half"


def test_a_cell_is_a_sixteenth_of_the_side():
    large = torch.full((64, 96), 0.2)
    large[20:30, 40:50] = 1.0
    got = clear_pieces(large[None], 0.3, 1.0)[0]
    assert got[16, 45] and not got[15, 45] and got[25, 36] and not got[25, 35]


def test_maps_of_larger_cells_are_wide_already():
    core, around = box(5, 5, 8, 8), box(3, 3, 10, 10, 0.2)
    found = torch.maximum(core, around)[None]
    assert torch.equal(clear_pieces(found, 0.3, 2.0)[0], core > 0)
    assert torch.equal(clear_pieces(found, 0.3, 1.0)[0], cross(core > 0))


def test_a_piece_that_winds_through_the_picture_is_whole():
    winding = torch.zeros(40, 40)
    winding[::4] = 0.5
    winding[1::8, -1] = winding[2::8, -1] = winding[3::8, -1] = 0.5
    winding[5::8, 0] = winding[6::8, 0] = winding[7::8, 0] = 0.5
    winding[0, 0] = 1.0
    assert torch.equal(clear_pieces(winding[None], 0.3, 3.0)[0], winding > 0)


def test_a_place_is_widened_by_cells_of_the_picture_or_of_the_maps():
    thing = box(5, 5, 8, 8) > 0
    assert torch.equal(widened(thing[None], 0, 2.0)[0], thing)
    assert torch.equal(widened(thing[None], 1, 0.5)[0], cross(thing))
    assert torch.equal(widened(thing[None], 2, 1.0)[0], cross(cross(thing)))
    assert torch.equal(widened(thing[None], 1, 2.0)[0], cross(cross(thing))), "of the maps, where those are larger"
    large = torch.zeros(1, 64, 96, dtype=torch.bool)
    large[0, 20:30, 40:50] = True
    wide = widened(large, 1, 2.0)[0]
    assert wide[16, 45] and not wide[15, 45] and wide[25, 36] and not wide[25, 35]


def test_a_threshold_above_what_is_clear():
    map = box(2, 2, 4, 4, 0.9)
    map[2, 2] = 1.0
    assert clear_pieces(map[None], 1.0, 1.0)[0].sum() == 3, "the largest alone, and what is beside it"
    assert not clear_pieces(torch.zeros(1, *SIZE), 0.3, 1.0).any()
