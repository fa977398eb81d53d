"""A batch that holds source and edits already: how many pictures, and which noise."""

from __future__ import annotations

import pytest
import torch

from p2p_attention.second_pass import count_pictures, noise_for_rows


@pytest.mark.parametrize("batch, rows, pictures", [(2, 2, 1), (6, 3, 2), (4, 1, 4)])
def test_pictures(batch, rows, pictures):
    assert count_pictures(batch, rows) == pictures


@pytest.mark.parametrize("batch, rows", [(1, 2), (5, 3)])
def test_parts_of_pictures_are_refused(batch, rows):
    with pytest.raises(ValueError, match=f"{rows} for each picture, for P2P Second Pass, got {batch}"):
        count_pictures(batch, rows)


def test_the_rows_of_a_picture_share_the_noise_that_a_batch_of_the_pictures_gets():
    noise = torch.arange(6.0).view(6, 1, 1, 1)
    assert noise_for_rows(noise, 2, 3).flatten().tolist() == [0, 0, 0, 1, 1, 1]
    assert noise_for_rows(noise[..., None], 2, 3).shape == (6, 1, 1, 1, 1), "frames, too"
    assert noise_for_rows(noise, 6, 1).flatten().tolist() == [0, 1, 2, 3, 4, 5]
