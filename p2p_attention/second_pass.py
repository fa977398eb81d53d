"""A second sampling pass: its latents are a sampler's result, source and edits already.

As in a hires fix (sample, enlarge, sample again with less noise), in sampling the rest of the steps with another model,
or with the same one.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from .prompt import PromptPair


@dataclass(frozen=True)
class Continuation:
    """The run's batch holds the rows of ``pair`` for each picture, and is not repeated for them."""

    pair: PromptPair

    def __deepcopy__(self, memo: dict) -> Continuation:
        return self  # frozen; the host deep-copies what a model carries whenever a node clones it


def count_pictures(batch: int, rows: int) -> int:
    """B, how many pictures of R rows a batch of B R holds.

    Raises:
        ValueError: it does not hold whole pictures.
    """
    if batch % rows:
        raise ValueError(
            f"Wanted the latents of source and edits, {rows} for each picture, for P2P Second Pass, got {batch}. "
            "Connect all that the first sampler made to the second one's latent_image, and a pair with as many edits."
        )
    return batch // rows


def noise_for_rows(noise: torch.Tensor, pictures: int, rows: int) -> torch.Tensor:
    """The noise that the B pictures alone would get, for all of each one's R rows: (B R, C, [F,] H, W).

    Args:
        noise: (B R, C, [F,] H, W), of which the first B are those; (B, C, H, W) where the latent says which noise each
            picture has (its ``batch_index``); or (1, C, H, W) for all.

    Raises:
        ValueError: another number.
    """
    if len(noise) not in (1, pictures, pictures * rows):
        raise ValueError(
            f"Wanted noise for {pictures} pictures, or for each of their {pictures * rows} rows, got {len(noise)}: the "
            "latent's batch_index is not that of these pictures. Put Latent Batch Seed Behavior, set to random, before "
            "the sampler."
        )
    return noise[:pictures].expand(pictures, *noise.shape[1:]).repeat_interleave(rows, dim=0)
