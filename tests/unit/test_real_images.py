"""The cases of the bench of real images: every kind of edit, each what it says, the same every time."""

from __future__ import annotations

import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest

sys.path.append(str(Path(__file__).resolve().parents[1] / "bench"))
import drawn  # noqa: E402
import injections  # noqa: E402
import real_images  # noqa: E402

from demo import scenes  # noqa: E402


@pytest.mark.parametrize(
    "number, kinds",
    [
        *((number, real_images.KINDS) for number in range(2 * len(real_images.KINDS))),
        *((injections.KINDS.index("removed") + 8 * number, injections.KINDS) for number in range(2)),
    ],
)
def test_a_case(number, kinds):
    case, again = (real_images.make_case(scenes, number, kinds) for _ in range(2))
    assert (case.source, case.target, case.node) == (again.source, again.target, again.node)
    assert np.array_equal(case.wanted, again.wanted)
    assert case.kind == kinds[number % len(kinds)]
    before, after = scenes.parse_caption(case.source), scenes.parse_caption(case.target)
    assert before != after and scenes.caption(after) == case.target
    longer = len(case.target.split()) > len(case.source.split())
    assert case.node == ("P2PAttentionRefine" if longer or case.kind == "removed" else "P2PAttentionReplace")
    local = case.kind in ("shape", "colour", "texture", "thing", "removed")
    assert (case.region is not None) is local
    if local:
        changed = np.abs(case.picture.astype(int) - case.wanted).max(-1) > 8
        assert case.region.any() and changed[case.region].mean() > 0.1
        assert changed[~case.region].mean() < 0.25, "but for shadows, the rest is the same picture"


def test_psnr():
    black, grey = np.zeros((4, 4, 3), np.uint8), np.full((4, 4, 3), 51, np.uint8)
    half = np.zeros((4, 4), bool)
    half[:2] = True
    assert real_images.psnr(black, grey) == pytest.approx(-20 * np.log10(51 / 255))
    grey[2:] = 0
    assert real_images.psnr(black, grey, ~half) == 100.0
    assert real_images.psnr(black, grey, half) == pytest.approx(-20 * np.log10(51 / 255))


def test_a_thing_is_found_where_it_was_drawn():
    case = next(case for case in map(partial(real_images.make_case, scenes), range(8)) if case.kind == "thing")
    stand = case.other.stands[case.changed]
    spots = list(case.other.layout.spots)
    spots[stand] = scenes.Spot(spots[stand].x, spots[stand].y - 0.1, 0.8 * spots[stand].size)
    elsewhere = replace(case.other, layout=replace(case.other.layout, spots=tuple(spots)))
    true = scenes.object_masks(elsewhere)[case.changed] > 0.5
    found = drawn.region(scenes, case, scenes.render(elsewhere))
    overlap = lambda mask: (mask & true).sum() / (mask | true).sum()
    assert overlap(case.region) < 0.7 < 0.95 < overlap(found)


def test_an_edit_of_colour_is_where_the_thing_was():
    case = next(case for case in map(partial(real_images.make_case, scenes), range(8)) if case.kind == "colour")
    assert drawn.region(scenes, case, np.zeros_like(case.picture)) is case.region
