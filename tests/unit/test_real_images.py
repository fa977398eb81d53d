"""The cases of the bench of real images: every kind of edit, each what it says, the same every time."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.append(str(Path(__file__).resolve().parents[1] / "bench"))
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
