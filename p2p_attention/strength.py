"""One number for how much an edit may change, in place of the ends of its two windows."""

from __future__ import annotations

from itertools import pairwise

from .checks import require_between
from .edit import Window

Strengths = tuple[tuple[float, float, float], ...]  # (strength, end of the cross window, end of the self window)
STRENGTH = (0.0, 1.0)  # least and most


def windows_of(strength: float, table: Strengths) -> tuple[Window, Window]:
    """The cross and the self window of a strength, between the table's rows on a straight line.

    Args:
        strength: 0 keeps what can be kept, 1 takes nothing of the source over.
        table: a family's, from strength 0 to 1, rising.

    Raises:
        ValueError: the strength is not between 0 and 1.
    """
    require_between("strength", strength, STRENGTH)
    for (low, *before), (high, *after) in pairwise(table):
        if strength <= high:
            part = (strength - low) / (high - low)
            ends = (round(one + part * (other - one), 4) for one, other in zip(before, after, strict=True))
            cross, self_attention = (Window(0.0, end) for end in ends)
            return cross, self_attention
    raise AssertionError(f"a table of strengths that ends before 1: {table}")
