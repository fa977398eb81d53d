"""One row of each picture out of the latents that a run made: the sources, or the edits of one prompt."""

from __future__ import annotations

from typing import Any

import torch

from .prompt import PromptPair


def pick(latent: dict[str, Any], pair: PromptPair, row: int) -> dict[str, Any]:
    """The latents of one row, with each picture's own mask and number.

    What a sampler gives still holds masks and numbers (``batch_index``) for the B pictures that it was given, where
    nodes that count latents look for B R of them.

    Args:
        latent: the host's LATENT, samples (B R, C, H, W).
        pair: the prompts.
        row: 0 for the source, n for the n-th edit.

    Returns:
        A LATENT of B.

    Raises:
        ValueError: there is no such row, or the latents are not whole pictures.
    """
    if not 0 <= row < pair.rows:
        raise ValueError(
            f"Wanted row 0 (the source) to {pair.rows - 1} (the pair's edited prompts in order), got {row}. Lower the "
            "number, or add a prompt after a line '---' in P2P Prompt Pair."
        )
    samples = latent["samples"]
    if len(samples) % pair.rows:
        raise ValueError(
            f"Wanted the latents of source and edits, {pair.rows} for each picture, got {len(samples)}. Connect all "
            "that the sampler made, and the pair with which it made them."
        )
    pictures = len(samples) // pair.rows
    picked = {**latent, "samples": samples[row :: pair.rows].clone()}
    mask, numbers = latent.get("noise_mask"), latent.get("batch_index")
    if mask is not None:
        picked["noise_mask"] = _of_each_picture(mask, pictures, pair.rows, row)
    if numbers is not None and len(numbers) == len(samples):
        picked["batch_index"] = list(numbers[row :: pair.rows])
    return picked


def _of_each_picture(mask: torch.Tensor, pictures: int, rows: int, row: int) -> torch.Tensor:
    """Of masks for all, for each picture, for source and edits, or for each row."""
    if len(mask) in (1, pictures):
        return mask
    if len(mask) == rows:
        return mask[row : row + 1]
    return mask[row::rows]
