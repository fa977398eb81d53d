"""What the rows of a picture are called."""

from __future__ import annotations

from p2p_attention.rows import row_name


def test_the_source_comes_first_and_edits_count_from_one():
    assert [row_name(row) for row in range(3)] == ["source", "edit 1", "edit 2"]
