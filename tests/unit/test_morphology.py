"""Pieces of masks that hang together, held against a walk from pixel to pixel."""

from __future__ import annotations

import itertools

import pytest
import torch

from p2p_attention.morphology import GROWN_AT_ONCE, grown_within


def walked(seeds, allowed):
    """(H, W), by a list of pixels that are still to be looked around from."""
    reached, todo = set(), [tuple(place) for place in seeds.nonzero().tolist()]
    open_places = {tuple(place) for place in allowed.nonzero().tolist()}
    while todo:
        y, x = todo.pop()
        reached.add((y, x))
        around = {(y + dy, x + dx) for dy, dx in itertools.product((-1, 0, 1), repeat=2)}
        todo += (around & open_places) - reached
    found = torch.zeros_like(allowed)
    for place in reached:
        found[place] = True
    return found


@pytest.mark.parametrize("seed", range(4))
def test_it_is_what_can_be_walked_to(seed):
    generator = torch.Generator().manual_seed(seed)
    allowed = torch.rand(3, 40, 55, generator=generator) < 0.45
    seeds = allowed & (torch.rand(3, 40, 55, generator=generator) < 0.01)
    expected = torch.stack([walked(*each) for each in zip(seeds, allowed, strict=True)])
    assert expected.any() and not torch.equal(expected, allowed)
    assert torch.equal(grown_within(seeds, allowed), expected)


def test_a_long_way_is_gone_to_its_end():
    allowed = torch.zeros(1, 3, 10 * GROWN_AT_ONCE, dtype=torch.bool)
    allowed[:, 1] = True
    seeds = torch.zeros_like(allowed)
    seeds[:, 1, 0] = True
    assert torch.equal(grown_within(seeds, allowed), allowed)


def test_without_a_seed_there_is_nothing():
    assert not grown_within(torch.zeros(1, 5, 5, dtype=torch.bool), torch.ones(1, 5, 5, dtype=torch.bool)).any()
