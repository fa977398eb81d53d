"""Where the prompts of unequal length stand among the text tokens of one call, and what keeps each its own run.

In a joint softmax, a row that is filled up to a longer one's length is another row than its own, shorter run: its
filling is attended to, and in some models the picture's position follows the text's. So filling that the row's own
run would not have is shut off (-inf on its keys), and where positions count from the picture, texts end together:
rotary positions count differences only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class TextPlaces:
    """The text tokens of one call. A prompt stands in a block, which is what its own run would have.

    Args:
        length: T, of all text tokens.
        before: tokens of the model's own in front (registers).
        at_end: whether blocks end together, at the end of the text; else they begin together.
        multiple: a block's length is a multiple of it.
        least: of a block.
        prompt_last: whether the prompt ends its block; else it begins it.
    """

    length: int
    before: int = 0
    at_end: bool = False
    multiple: int = 1
    least: int = 0
    prompt_last: bool = False

    def block(self, positions: int) -> range:
        """The tokens of a prompt of that many positions, with the filling of its own run."""
        size = max(self.least, -(-positions // self.multiple) * self.multiple)
        start = self.length - size if self.at_end else self.before
        assert self.before <= start and start + size <= self.length, f"{positions} positions in {self}"
        return range(start, start + size)

    def prompt(self, positions: int) -> range:
        """The tokens of the prompt itself."""
        block = self.block(positions)
        start = block.stop - positions if self.prompt_last else block.start
        return range(start, start + positions)

    def padding(self, positions: int) -> torch.Tensor | None:
        """bool (T,), true where a prompt's own run has no token; None where it has all of them."""
        block = self.block(positions)
        if len(block) == self.length - self.before:
            return None
        padding = torch.ones(self.length, dtype=torch.bool)
        padding[: self.before] = False
        padding[block.start : block.stop] = False
        return padding


def arrange(context: torch.Tensor, starts: Sequence[int], prompts: Sequence[range], length: int) -> torch.Tensor:
    """Bring each row's prompt to its place; the rest is zero.

    Args:
        context: (N, L, D).
        starts: of each row, where in it the prompt begins.
        prompts: of each row, where it is to stand.
        length: L', of the result.

    Returns:
        (N, L', D), a new tensor.
    """
    arranged = context.new_zeros(context.shape[0], length, context.shape[2])
    for row, (start, place) in enumerate(zip(starts, prompts, strict=True)):
        arranged[row, place.start : place.stop] = context[row, start : start + len(place)]
    return arranged
