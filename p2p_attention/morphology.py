"""Pieces of masks: what hangs together."""

from __future__ import annotations

import torch
import torch.nn.functional as F

GROWN_AT_ONCE = 16  # pixels, before it is asked whether there are more: for the answer the host waits


def grown_within(pieces: torch.Tensor, allowed: torch.Tensor) -> torch.Tensor:
    """bool (B, H, W): of what is allowed, that which hangs together with the pieces, corners too.

    Args:
        pieces, allowed: bool (B, H, W); pieces outside of what is allowed only lead into it.
    """
    before = None
    while before is None or not torch.equal(before, pieces):
        before = pieces
        for _ in range(GROWN_AT_ONCE):
            pieces = F.max_pool2d(pieces.float()[:, None], 3, 1, 1)[:, 0].bool() & allowed
    return pieces
