"""Live previews of a run whose rows are a source and its edits."""

from __future__ import annotations

from collections.abc import Callable

import torch


class SideBySidePreview:
    """Live previews that show source and edits of the first seed side by side.

    The host's previewer shows row 0 of (B R, C, [F,] H, W), so it is given one wide row. It also keeps the last latents
    it saw as a result (SamplerCustom's denoised output), so at the end it is given the real ones.
    """

    def __init__(self, callback: Callable, rows: int):
        self._callback = callback
        self._rows = rows
        self._last: tuple | None = None

    def __call__(self, step: int, denoised: torch.Tensor, x: torch.Tensor, total_steps: int) -> None:
        self._last = (step, denoised, x, total_steps)
        self._callback(step, torch.cat(denoised[: self._rows].split(1), dim=-1), x, total_steps)

    def finish(self) -> None:
        if self._last is not None:
            self._callback(*self._last)
