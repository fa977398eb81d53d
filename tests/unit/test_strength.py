"""One number in place of two windows."""

from __future__ import annotations

import pytest

from p2p_attention.strength import windows_of

TABLE = ((0.0, 1.0, 1.0), (0.5, 0.8, 0.4), (1.0, 0.0, 0.0))


@pytest.mark.parametrize(
    "strength, ends",
    [(0.0, (1.0, 1.0)), (0.25, (0.9, 0.7)), (0.5, (0.8, 0.4)), (0.75, (0.4, 0.2)), (1.0, (0.0, 0.0))],
)
def test_a_strength_is_two_windows(strength, ends):
    windows = windows_of(strength, TABLE)
    assert [window.start for window in windows] == [0.0, 0.0]
    assert [window.end for window in windows] == pytest.approx(ends)


@pytest.mark.parametrize("strength", [-0.01, 1.01, float("nan")])
def test_others_are_refused(strength):
    with pytest.raises(ValueError, match="Wanted strength from 0 to 1"):
        windows_of(strength, TABLE)
