"""What the rows of a batch are called: each picture has one for the source, then one for each edit."""

from __future__ import annotations


def row_name(row: int) -> str:
    """Args: row: of a picture, 0 the source, n the n-th edit."""
    return "source" if row == 0 else f"edit {row}"
