"""What the rows of a batch are called: each picture has one for the source, then one for each edit.

Throughout the library a ``row`` of a picture is 0 for the source and n for the n-th edit, and a ``target`` is a place
in ``PromptPair.targets``, 0 for the first edit; a batch holds B pictures of R rows each.
"""

from __future__ import annotations


def row_name(row: int) -> str:
    """Args: row: of a picture, 0 the source, n the n-th edit."""
    return "source" if row == 0 else f"edit {row}"
