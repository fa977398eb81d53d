"""Where prompts of unequal length stand in a call, and which of its tokens their own runs would not have."""

from __future__ import annotations

import pytest
import torch

from p2p_attention.text_places import TextPlaces, arrange

BEGIN = TextPlaces(10)
REGISTERS = TextPlaces(10, before=2)
END = TextPlaces(10, at_end=True)
MULTIPLES = TextPlaces(12, at_end=True, multiple=4)
AT_LEAST = TextPlaces(12, at_end=True, least=8, prompt_last=True)


@pytest.mark.parametrize(
    ("places", "positions", "prompt", "shut_off"),
    [
        (BEGIN, 10, range(10), range(0)),
        (BEGIN, 7, range(7), range(7, 10)),
        (REGISTERS, 8, range(2, 10), range(0)),
        (REGISTERS, 5, range(2, 7), range(7, 10)),
        (END, 10, range(10), range(0)),
        (END, 7, range(3, 10), range(3)),
        (MULTIPLES, 12, range(12), range(0)),
        (MULTIPLES, 9, range(9), range(0)),  # 3 of its own run's filling follow
        (MULTIPLES, 8, range(4, 12), range(4)),
        (MULTIPLES, 5, range(4, 9), range(4)),
        (AT_LEAST, 12, range(12), range(0)),
        (AT_LEAST, 9, range(3, 12), range(3)),
        (AT_LEAST, 5, range(7, 12), range(4)),  # 3 of filling before it
    ],
)
def test_places(places, positions, prompt, shut_off):
    assert places.prompt(positions) == prompt
    padding = places.padding(positions)
    if not shut_off:
        assert padding is None
    else:
        assert padding.nonzero().flatten().tolist() == list(shut_off)


@pytest.mark.parametrize("places", [BEGIN, REGISTERS, END, MULTIPLES, AT_LEAST])
def test_a_prompt_that_has_no_room_is_our_own_error(places):
    with pytest.raises(AssertionError, match="13 positions"):
        places.prompt(13)


def test_rows_are_brought_to_their_places():
    context = torch.arange(1.0, 13.0).reshape(2, 6, 1)
    arranged = arrange(context, [0, 2], [range(1, 7), range(4, 7)], 7)
    assert arranged[..., 0].tolist() == [[0, 1, 2, 3, 4, 5, 6], [0, 0, 0, 0, 9, 10, 11]]
    assert context[0, 0] == 1.0
