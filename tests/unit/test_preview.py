"""Live previews: the rows of the first picture side by side, and the run's own latents at the end."""

from __future__ import annotations

import pytest
import torch

from p2p_attention.preview import SideBySidePreview


@pytest.mark.parametrize("size", [(4, 5, 6), (4, 3, 5, 6)], ids=["pictures", "frames"])
def test_one_wide_row_and_at_the_end_all(size):
    shown = []
    preview = SideBySidePreview(lambda *what: shown.append(what), rows=3)
    preview.finish()
    assert not shown, "no step, nothing to finish"
    for step in range(2):
        denoised, x = torch.randn(6, *size), torch.randn(6, *size)
        preview(step, denoised, x, 2)
        at, wide, x_shown, steps = shown[-1]
        assert (at, steps) == (step, 2) and x_shown is x
        assert wide.shape == (1, *size[:-1], 18)
        for row in range(3):
            assert torch.equal(wide[0, ..., 6 * row : 6 * row + 6], denoised[row])
    preview.finish()
    assert len(shown) == 3 and shown[-1][1] is denoised
