"""Proximal guidance: small differences between the predictions are noise, which guidance should not blow up.

Han et al., *ProxEdit: Improving Tuning-Free Real Image Editing with Proximal Guidance* (WACV 2024): classifier-free
guidance adds w (cond - uncond); the difference is replaced by its proximal map, which sets its smaller values to zero.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch

from .checks import require_one_of
from .prompt import PromptPair

THRESHOLDS = ("soft", "hard")


@dataclass(frozen=True)
class Proximal:
    """Thresholding of the edited rows' guidance.

    Args:
        pair: the prompts.
        quantile: share of a row's values that count as small, 0 to 1.
        kind: "hard" keeps the others as they are (the paper's l0), "soft" brings them down by the threshold (l1).
    """

    pair: PromptPair
    quantile: float
    kind: Literal["soft", "hard"]

    def __post_init__(self) -> None:
        if not 0.0 <= self.quantile <= 1.0:
            raise ValueError(f"Wanted threshold between 0 and 1, got {self.quantile:g}. ProxEdit uses 0.7.")
        require_one_of("kind", self.kind, THRESHOLDS)

    def __deepcopy__(self, memo: dict) -> Proximal:
        return self  # frozen; the host deep-copies what a model carries whenever a node clones it


def proximal(guidance: Proximal, cond: torch.Tensor, uncond: torch.Tensor) -> torch.Tensor:
    """The conditional prediction with which guidance is proximal: (B R, C, [F,] H, W); source rows stay as they are."""
    if guidance.quantile == 0.0:
        return cond  # nothing counts as small; soft would still take off the least value
    difference = cond - uncond
    size = difference.abs()
    of_rows = (-1, *[1] * (cond.ndim - 1))
    threshold = torch.quantile(size.flatten(1).float(), guidance.quantile, dim=1).to(size).view(of_rows)
    if guidance.kind == "hard":
        kept = torch.where(size >= threshold, difference, torch.zeros_like(difference))
    else:
        kept = difference.sign() * (size - threshold).clamp(min=0.0)
    edited = torch.arange(len(cond), device=cond.device) % guidance.pair.rows != 0
    return torch.where(edited.view(of_rows), uncond + kept, cond)
